"""The waiting client of a request: `ports.Client` on the transport itself."""

import asyncio
from collections.abc import Sequence
from http import HTTPStatus
from typing import Protocol
from wsgiref.handlers import format_date_time

from supervisord.api.door.request import Request
from supervisord.api.door.response import Response
from supervisord.ports import Clock

_REASONS = {status.value: status.phrase for status in HTTPStatus}


class Line(Protocol):
    """The connection a client is on."""

    transport: asyncio.Transport
    choked: bool  # more is buffered towards the client than it should

    async def drained(self) -> None:
        """Returns once it is choked no more, or lost."""
        ...


class HttpClient:
    """One answer on one connection."""

    __slots__ = ("_chunked", "_clock", "_head", "_http_1_1", "_line", "bodiless", "keep_alive", "started")

    def __init__(self, line: Line, request: Request, clock: Clock) -> None:
        self._line = line
        self._clock = clock
        self._http_1_1 = request.http_1_1
        self.bodiless = request.method == "HEAD"  # it gets the head only, and believes its answer over with that
        self._head = b""
        self._chunked = False
        self.started = False
        self.keep_alive = request.keep_alive

    def answer(self, response: Response) -> None:
        """Send a whole answer."""
        self.start(response.status, response.headers, length=len(response.body))
        self.write(response.body)
        self.finish()

    def start(self, status: int, headers: Sequence[tuple[str, str]], *, length: int | None) -> None:
        """See `ports.Client`. The head leaves together with the first part of the body, in one packet."""
        self.started = True
        if length is not None:
            framing = f"content-length: {length}\r\n"
        elif self._http_1_1:
            self._chunked = True
            framing = "transfer-encoding: chunked\r\n"
        else:
            self.keep_alive = False  # HTTP/1.0 knows the end of such a body by the end of the connection only
            framing = ""
        if not self.keep_alive:
            framing += "connection: close\r\n"
        elif not self._http_1_1:
            framing += "connection: keep-alive\r\n"
        fields = "".join([f"{name}: {value}\r\n" for name, value in headers])
        date = _http_date(int(self._clock.wall()))
        head = f"HTTP/1.1 {status} {_REASONS.get(status, 'Unknown')}\r\n{fields}date: {date}\r\n{framing}\r\n"
        self._head = head.encode("latin-1", "replace")

    def write(self, data: bytes) -> bool:
        """See `ports.Client`."""
        line = self._line
        if line.transport.is_closing():
            return True  # the client left: the request's task is being cancelled
        if self.bodiless:
            data = b""
        elif self._chunked and data:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        if self._head:
            data, self._head = self._head + data, b""
        line.transport.write(data)
        return not line.choked

    async def drained(self) -> None:
        """See `ports.Client`."""
        await self._line.drained()

    def finish(self) -> None:
        """See `ports.Client`."""
        transport = self._line.transport
        if transport.is_closing():
            return
        end = b"0\r\n\r\n" if self._chunked and not self.bodiless else b""
        if self._head or end:
            transport.write(self._head + end)
            self._head = b""

    def abort(self) -> None:
        """See `ports.Client`."""
        self.keep_alive = False
        self._line.transport.abort()


_last_date = (0, "")


def _http_date(second: int) -> str:
    """The Date header, made once a second."""
    global _last_date  # noqa: PLW0603 - a cache of one entry
    if _last_date[0] != second:
        _last_date = (second, format_date_time(second))
    return _last_date[1]
