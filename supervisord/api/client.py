"""The waiting client of a request: `ports.Client` over aiohttp's connection, written to without its response machinery.

aiohttp reads and parses the request; the answer goes straight to the transport. Building a StreamResponse and its
payload writer was measured as 16 % of a proxied request, and as more than half of the cost of a relayed chunk.
"""

import asyncio
from collections.abc import Sequence
from http import HTTPStatus
from wsgiref.handlers import format_date_time

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter
from typing_extensions import override

from supervisord.ports import Clock

_REASONS = {status.value: status.phrase for status in HTTPStatus}


class HttpClient:
    """One answer on one connection."""

    def __init__(self, request: web.BaseRequest, clock: Clock) -> None:
        self._request = request
        self._transport = request.transport
        self._protocol = request.protocol
        self._clock = clock
        self._head = b""
        self._chunked = False
        self.started = False
        self.keep_alive = request.keep_alive

    def start(self, status: int, headers: Sequence[tuple[str, str]], *, length: int | None) -> None:
        """See `ports.Client`. The head leaves together with the first part of the body, in one packet."""
        self.started = True
        lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Unknown')}"]
        lines += [f"{name}: {value}" for name, value in headers]
        lines.append(f"date: {_http_date(int(self._clock.wall()))}")
        if length is not None:
            lines.append(f"content-length: {length}")
        elif self._request.version >= HttpVersion11:
            self._chunked = True
            lines.append("transfer-encoding: chunked")
        else:
            self.keep_alive = False  # HTTP/1.0 knows the end of such a body by the end of the connection only
        if not self.keep_alive:
            lines.append("connection: close")
        elif self._request.version < HttpVersion11:
            lines.append("connection: keep-alive")
        self._head = "\r\n".join([*lines, "\r\n"]).encode("latin-1", "replace")

    def write(self, data: bytes) -> bool:
        """See `ports.Client`."""
        if self._transport is None or self._transport.is_closing():
            return True  # the client left: the request's task is being cancelled
        if self._chunked and data:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        if self._head:
            data, self._head = self._head + data, b""
        self._transport.write(data)
        return not self._protocol.writing_paused

    async def drained(self) -> None:
        """See `ports.Client`."""
        await self._request.writer.drain()

    def finish(self) -> None:
        """See `ports.Client`."""
        if self._transport is None or self._transport.is_closing():
            return
        end = b"0\r\n\r\n" if self._chunked else b""
        if self._head or end:
            self._transport.write(self._head + end)
            self._head = b""

    async def settle(self, patience_s: float) -> None:
        """Wait until the client has taken the answer but for a little; cut it off after `patience_s` seconds."""
        if not self._protocol.writing_paused:
            return
        try:
            async with asyncio.timeout(patience_s):
                await self.drained()
        except TimeoutError:
            self.abort()

    def abort(self) -> None:
        """See `ports.Client`."""
        self.keep_alive = False
        if self._transport is not None:
            self._transport.abort()


class Sent(web.StreamResponse):
    """Tells aiohttp that the answer has been written already, and whether the connection goes on."""

    def __init__(self, client: HttpClient) -> None:
        super().__init__()
        self._keep_alive = client.keep_alive

    @override
    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        return None

    @override
    async def write_eof(self, data: bytes = b"") -> None:
        return None


_last_date = (0, "")


def _http_date(second: int) -> str:
    """The Date header, made once a second."""
    global _last_date  # noqa: PLW0603 - a cache of one entry
    if _last_date[0] != second:
        _last_date = (second, format_date_time(second))
    return _last_date[1]
