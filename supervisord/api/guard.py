"""Who may talk to the TCP door at all, by Host and Origin."""

import ipaddress
from functools import lru_cache
from urllib.parse import urlsplit

from supervisord.api.door.request import Request
from supervisord.core.errors import ForbiddenHostError, ForbiddenOriginError


@lru_cache(maxsize=1024)  # asked for every request, mostly of the same name
def is_loopback(host: str) -> bool:
    """Whether a host name or address literal means this machine, without asking any resolver."""
    name = host.rstrip(".").lower()
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def host_of(header: str) -> str:
    """The host in a Host header, without the port."""
    if header.startswith("["):
        return header[: header.find("]") + 1]
    return header.rpartition(":")[0] or header if header.count(":") == 1 else header


def _host_of_origin(origin: str) -> str:
    """The host in an Origin header; empty for what is none."""
    try:
        return urlsplit(origin).hostname or ""
    except ValueError:
        return ""


class Doorkeeper:
    """Checks the headers that browsers cannot forge: a page that rebinds DNS shows its own name as Host."""

    def __init__(self, allowed_hosts: frozenset[str]) -> None:
        self._allowed = frozenset(host.lower() for host in allowed_hosts)

    def admit(self, request: Request) -> Request:
        """The request as it is from here on. Raises ForbiddenHostError or ForbiddenOriginError."""
        headers = request.headers
        host, authority = headers.get("host", ""), request.authority
        if not self._is_ours(host_of(host)):
            raise _strange(f'The Host header "{host[:100]}"')
        if authority and not self._is_ours(host_of(authority)):  # then Host means nothing (RFC 9112, 3.2.2)
            raise _strange(f'"{authority[:100]}", the host in the target of the request,')
        origin = headers.get("origin")
        if origin is not None and not self._is_ours(_host_of_origin(origin)):
            raise ForbiddenOriginError(f'A web page of "{origin[:100]}" may not use this address.')
        if headers.get("sec-fetch-site") == "cross-site":
            raise ForbiddenOriginError("A web page of another site may not use this address.")
        return request

    def _is_ours(self, host: str) -> bool:
        return is_loopback(host) or (host != "" and host.lower() in self._allowed)


def _strange(what: str) -> ForbiddenHostError:
    return ForbiddenHostError(
        f"{what} does not name this machine. Use 127.0.0.1 or localhost, or add the name to allowed_hosts."
    )
