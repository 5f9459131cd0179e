"""The stub's HTTP/1.1 side of one connection."""

import asyncio
import socket
import struct
from typing import Protocol, cast

from httptools import HttpParserError, HttpRequestParser


class Handler(Protocol):
    def handle(self, door: "Door", method: bytes, path: bytes, body: bytes) -> None: ...


class Work(Protocol):
    """What a connection is busy with."""

    def left(self) -> None:
        """The client closed."""
        ...

    def writable(self) -> None:
        """The client has taken what it was sent."""
        ...


class Door(asyncio.Protocol):
    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._url = b""
        self._body: list[bytes] = []
        self.on_body = self._body.append
        self._parser = HttpRequestParser(self)
        self.transport: asyncio.Transport
        self.work: Work | None = None
        self.full = False
        self.write = lambda data: None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.write = self.transport.write

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except HttpParserError:
            self.transport.close()

    def on_url(self, url: bytes) -> None:
        self._url = url

    def on_message_complete(self) -> None:
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        self._handler.handle(self, self._parser.get_method(), self._url.partition(b"?")[0], body)

    def connection_lost(self, exc: Exception | None) -> None:
        work, self.work = self.work, None
        if work is not None:
            work.left()

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False
        if self.work is not None:
            self.work.writable()

    def write_and_close(self, data: bytes) -> None:
        self.write(data)
        self.transport.close()

    def reset(self) -> None:
        """Close with RST."""
        raw = self.transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()
