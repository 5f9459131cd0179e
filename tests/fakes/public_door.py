"""An open door with a small application behind it, and clients that send bytes exactly as told."""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from supervisord.adapters.clock import LoopClock
from supervisord.api import errors
from supervisord.api.door import (
    Door,
    DoorLimits,
    HttpClient,
    Request,
    Response,
    Taking,
    Upload,
    Work,
    json_answer,
)
from supervisord.core.errors import ForbiddenHostError, SupervisorError

PATIENCE_S = 5.0

Working = Callable[[Request, HttpClient], Awaitable[Response | None]]


class Shown:
    """Answers with what it was asked, at once; POST to /work is done by `working`, as long as that takes."""

    def __init__(self, working: Working | None = None, upload: Upload | None = None) -> None:
        self.upload = upload
        self.requests: list[Request] = []
        self.told_of: list[str | None] = []  # the paths of requests that errors were told to
        self.cancelled = 0
        self.begun = asyncio.Event()
        self.over = asyncio.Event()
        self._working = working

    def answer(self, request: Request) -> Response | Work:
        self.requests.append(request)
        if request.path == "/bug":
            raise ZeroDivisionError("a bug")
        if request.path == "/upload" and self.upload is not None:
            return self._upload(self.upload, request)
        if request.path != "/work" or self._working is None:
            return shown(request)
        return lambda client: self._run(request, client)

    def _upload(self, upload: Upload, request: Request) -> Response | Work:
        try:
            return upload(request)
        except SupervisorError as error:
            return self.told(error)

    async def _run(self, request: Request, client: HttpClient) -> Response | None:
        assert self._working is not None
        self.begun.set()
        try:
            return await self._working(request, client)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.over.set()

    def late(self, head: Request) -> Response | Taking | None:
        if head.path == "/forbidden":
            return self.told(ForbiddenHostError("not here"))
        return None if head.path != "/upload" or self.upload is None else Taking(self.upload, head)

    def told(self, error: SupervisorError, head: Request | None = None) -> Response:
        self.told_of.append(None if head is None else head.path)
        return errors.response(error)


def shown(request: Request) -> Response:
    told = {"method": request.method, "path": request.path, "query": request.query, "host": request.authority}
    return json_answer({**told, "headers": dict(request.headers), "body": request.body.decode("latin-1")})


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.json["error"]["code"])

    @property
    def param(self) -> str | None:
        """What of the request was wrong."""
        value: str | None = self.json["error"]["param"]
        return value


class Caller:
    """One connection to a door."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def send_bytewise(self, data: bytes) -> None:
        """Each byte in a packet of its own, as far as the loop goes."""
        for at in range(len(data)):
            self.writer.write(data[at : at + 1])
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    async def answer(self, *, bodiless: bool = False) -> Answer:
        """The next answer."""
        async with asyncio.timeout(PATIENCE_S):
            status, headers = await self._head()
            if bodiless:
                return Answer(status, headers, b"")
            if "content-length" in headers:
                return Answer(status, headers, await self.reader.readexactly(int(headers["content-length"])))
            if headers.get("transfer-encoding") == "chunked":
                return Answer(status, headers, await self._chunks())
            return Answer(status, headers, await self.reader.read())

    async def _head(self) -> tuple[int, dict[str, str]]:
        first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
        return int(first.split(" ")[1]), {n.lower(): v for n, _, v in (line.partition(": ") for line in lines)}

    async def _chunks(self) -> bytes:
        body = b""
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            body += (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readexactly(2)
        return body

    async def ask(self, method: str = "GET", path: str = "/", body: bytes = b"", *headers: str) -> Answer:
        self.send(request_bytes(method, path, body, *headers))
        return await self.answer()

    async def closed(self) -> bytes:
        """Returns once the door has closed, with what it had still sent."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""

    def reset(self) -> None:
        """Close with RST."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


def request_bytes(method: str = "GET", path: str = "/", body: bytes = b"", *headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "host: localhost", *headers]
    if body or method == "POST":
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "\r\n"]).encode() + body


@dataclass(frozen=True, slots=True)
class Opened:
    door: Door
    port: int
    application: Shown
    bugs: list[str]

    @asynccontextmanager
    async def caller(self, *, buffers: int | None = None) -> AsyncIterator[Caller]:
        """A connection; `buffers`: of the kernel, in bytes, and as little as can be on this side."""
        raw = socket.socket()
        raw.setblocking(False)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # each write leaves at once: tests cut on purpose
        if buffers is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffers)
        await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", self.port))
        reader, writer = await asyncio.open_connection(sock=raw, limit=2**16 if buffers is None else 1024)
        try:
            yield Caller(reader, writer)
        finally:
            writer.transport.abort()


@asynccontextmanager
async def a_door(
    working: Working | None = None, *, upload: Upload | None = None, **limits: Any
) -> AsyncIterator[Opened]:
    """Closed at the end; no client's work may be left then, and no bug untold."""
    loop = asyncio.get_running_loop()
    bugs: list[str] = []
    loop.set_exception_handler(lambda _loop, context: bugs.append(repr(context.get("exception"))))
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    listener.setblocking(False)
    application = Shown(working, upload)
    door = Door(application, DoorLimits(**limits), LoopClock())
    await door.open(listener, 1024)
    before = asyncio.all_tasks()
    try:
        yield Opened(door, listener.getsockname()[1], application, bugs)
    finally:
        await door.close(0.5)
    assert asyncio.all_tasks() <= before
