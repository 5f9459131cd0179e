"""Who may talk to the TCP door at all: Host and Origin, the number of connections, and the time a head may take."""

import asyncio
import ipaddress
from functools import lru_cache
from typing import Any, cast
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler
from typing_extensions import override

from supervisord.api import errors
from supervisord.api.errors import envelope
from supervisord.core.errors import (
    ForbiddenHostError,
    ForbiddenOriginError,
    InvalidRequestError,
    SupervisorError,
    TooManyConnectionsError,
)


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
        if origin is not None and not self._is_ours(_host_of_origin(origin)):
            raise ForbiddenOriginError(f'A web page of "{origin[:100]}" may not use this address.')
        if headers.get("Sec-Fetch-Site") == "cross-site":
            raise ForbiddenOriginError("A web page of another site may not use this address.")

    def _is_ours(self, host: str) -> bool:
        return is_loopback(host) or host.lower() in self._allowed


class _GuardedHandler(RequestHandler):
    """aiohttp's connection, if there is room for it; with a limit on the time a request's head may take."""

    __slots__ = ("_guard", "_head_timer", "_refused")

    def __init__(self, server: "GuardedServer", **kwargs: Any) -> None:
        super().__init__(server, **kwargs)
        self._guard = server
        self._head_timer: asyncio.TimerHandle | None = None
        self._refused = False

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Here and not when the handler is made: several connections are accepted in one turn of the loop.
        if len(self._guard.connections) >= self._guard.limit:
            self._refused = True
            cast("asyncio.WriteTransport", transport).write(_refusal(self._guard.limit))
            transport.close()
            return
        super().connection_made(transport)

    @override
    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        super().data_received(data)
        waiting = self._awaits_head()
        if waiting and self._head_timer is None:
            self._head_timer = self._loop.call_later(self._guard.header_timeout_s, self._head_is_late)
        elif not waiting and self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    @override
    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """aiohttp's own errors in our envelope; a broken head is no fault of ours, and is not logged with its bytes."""
        if status >= 500:
            response = super().handle_error(request, status, exc, message)
            return errors.response(SupervisorError("The daemon failed; its log says how.")) if response else response
        answer = errors.response(InvalidRequestError("The request is not the HTTP that is understood here."))
        answer.force_close()
        return answer

    @override
    def log_exception(self, *args: Any, **kwargs: Any) -> None:
        """What a client sends in a broken way has been answered: it is no fault of ours to be logged."""
        if not isinstance(kwargs.get("exc_info"), (web.RequestPayloadError, HttpProcessingError)):
            super().log_exception(*args, **kwargs)

    def _awaits_head(self) -> bool:
        """Whether what has come is a part of a head: no whole one waits, and none is being answered."""
        return not self._messages and not self._request_in_progress

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._awaits_head():
            self.force_close()

    @override
    def connection_lost(self, exc: BaseException | None) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        if not self._refused:
            super().connection_lost(exc)


def _refusal(limit: int) -> bytes:
    """The answer to a connection beyond the limit."""
    body = envelope(TooManyConnectionsError(f"{limit} connections are open already: the limit (limits.connections)."))
    head = (
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body


class GuardedServer(web.Server):
    """aiohttp's server with a limit on connections and on slow heads."""

    def __init__(self, *args: Any, connections: int, header_timeout_s: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.limit = connections
        self.header_timeout_s = header_timeout_s

    @override
    def __call__(self) -> RequestHandler:
        return _GuardedHandler(self, loop=self._loop, **self._kwargs)
