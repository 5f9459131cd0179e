"""Who may talk to the TCP door at all: Host and Origin, the number of connections, and the time a head may take."""

import asyncio
import ipaddress
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from typing_extensions import override

from supervisord.api.errors import envelope
from supervisord.core.errors import ForbiddenHostError, ForbiddenOriginError, TooManyConnectionsError


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


class Doorkeeper:
    """Checks the headers that browsers cannot forge: a page that rebinds DNS shows its own name as Host."""

    def __init__(self, allowed_hosts: frozenset[str]) -> None:
        self._allowed = frozenset(host.lower() for host in allowed_hosts)

    def check(self, request: web.BaseRequest) -> None:
        """Raises ForbiddenHostError or ForbiddenOriginError."""
        headers = request.headers
        hosts = headers.getall("Host", [])
        if len(hosts) != 1 or not self._is_ours(host_of(hosts[0])):
            shown = hosts[0][:100] if hosts else ""
            raise ForbiddenHostError(
                f'The Host header "{shown}" does not name this machine. '
                "Use 127.0.0.1 or localhost, or add the name to allowed_hosts."
            )
        origin = headers.get("Origin")
        if origin is not None and not self._is_ours(urlsplit(origin).hostname or ""):
            raise ForbiddenOriginError(f'A web page of "{origin[:100]}" may not use this address.')
        if headers.get("Sec-Fetch-Site") == "cross-site":
            raise ForbiddenOriginError("A web page of another site may not use this address.")

    def _is_ours(self, host: str) -> bool:
        return is_loopback(host) or host.lower() in self._allowed


class _Refusal(asyncio.Protocol):
    """Answers a connection beyond the limit with a reason, and closes it."""

    def __init__(self, limit: int) -> None:
        self._limit = limit

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        error = TooManyConnectionsError(f"{self._limit} connections are open already: the limit (limits.connections).")
        body = envelope(error)
        head = (
            "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        if isinstance(transport, asyncio.Transport):
            transport.write(head.encode() + body)
        transport.close()


class _TimedHandler(RequestHandler):
    """aiohttp's connection, with a limit on the time from the first byte of a request's head to its last."""

    __slots__ = ("_head_timer", "_header_timeout_s")

    def __init__(self, *args: Any, header_timeout_s: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._header_timeout_s = header_timeout_s
        self._head_timer: asyncio.TimerHandle | None = None

    @override
    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # The waiter is there, and not done, exactly while no whole head has come.
        waiting = self._waiter is not None and not self._waiter.done()
        if waiting and self._head_timer is None:
            self._head_timer = self._loop.call_later(self._header_timeout_s, self._head_is_late)
        elif not waiting and self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._waiter is not None and not self._waiter.done():
            self.force_close()

    @override
    def connection_lost(self, exc: BaseException | None) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        super().connection_lost(exc)


class GuardedServer(web.Server):
    """aiohttp's server with a limit on connections and on slow heads."""

    def __init__(self, *args: Any, connections: int, header_timeout_s: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._limit = connections
        self._header_timeout_s = header_timeout_s

    @override
    def __call__(self) -> RequestHandler:
        if len(self._connections) >= self._limit:
            # create_server, which calls this, wants no more than a protocol.
            return _Refusal(self._limit)  # type: ignore[return-value]
        return _TimedHandler(self, loop=self._loop, header_timeout_s=self._header_timeout_s, **self._kwargs)
