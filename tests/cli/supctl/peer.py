"""The other ends of supctl's socket: a daemon that gives canned answers, and one that breaks the protocol."""

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

BOUND_S = 10.0


@dataclass(frozen=True, slots=True)
class Seen:
    method: str
    path: str
    query: Mapping[str, str]
    body: Any
    headers: Mapping[str, str]
    raw: bytes  # the body as it came


class Stream:
    """A followed answer, whose lines the test sends when it likes."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lines: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.left = threading.Event()  # the client has gone

    def send(self, line: str) -> None:
        self._loop.call_soon_threadsafe(self._lines.put_nowait, line.encode() + b"\n")

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self._lines.put_nowait, None)

    async def play(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        try:
            while (line := await self._lines.get()) is not None:
                await response.write(line)
            await response.write_eof()
        finally:
            self.left.set()
        return response


@dataclass
class Peer:
    """`answers` by path, with `?follow` where it is followed: JSON, a text, bytes, a (status, JSON), or a Stream.

    A list has an answer for each time it is asked, the last of them for all later ones.
    """

    path: Path
    loop: asyncio.AbstractEventLoop
    answers: dict[str, Any] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    asked: threading.Event = field(default_factory=threading.Event)  # for the first time

    def stream(self) -> Stream:
        made: list[Stream] = []

        async def make() -> None:
            made.append(Stream(self.loop))

        asyncio.run_coroutine_threadsafe(make(), self.loop).result(BOUND_S)
        return made[0]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        sent = raw if request.content_type == "application/octet-stream" else json.loads(raw) if raw else None
        self.seen.append(Seen(request.method, request.path, dict(request.query), sent, dict(request.headers), raw))
        self.asked.set()
        path = request.raw_path.partition("?")[0]
        answer = self.answers.get(f"{path}?follow" if "follow" in request.query else path)
        if isinstance(answer, list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        if answer is None:
            missing = {"message": f"there is no {request.path}", "type": "supervisor_error", "code": "not_found"}
            return web.json_response({"error": missing}, status=404)
        if isinstance(answer, Stream):
            return await answer.play(request)
        if isinstance(answer, str):
            return web.Response(text=answer)
        if isinstance(answer, bytes):
            return web.Response(body=answer)
        status, document = answer if isinstance(answer, tuple) else (200, answer)
        return web.json_response(document, status=status)


@contextlib.contextmanager
def daemon(path: Path) -> Iterator[Peer]:
    """A real HTTP server on a Unix socket, in a thread of its own."""
    loop = asyncio.new_event_loop()
    peer = Peer(path, loop)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    runner = asyncio.run_coroutine_threadsafe(_open(peer), loop).result(BOUND_S)
    try:
        yield peer
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(BOUND_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(BOUND_S)
        loop.close()
        path.unlink(missing_ok=True)


async def _open(peer: Peer) -> web.AppRunner:
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", peer.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.05, handler_cancellation=True)
    await runner.setup()
    await web.UnixSite(runner, str(peer.path)).start()
    return runner


@contextlib.contextmanager
def broken(path: Path, reply: bytes, *, hang_up: bool = True) -> Iterator[None]:
    """A peer that reads one request, sends `reply`, and hangs up, or stays silent until the end of the test."""
    over = threading.Event()
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(BOUND_S)

        def serve() -> None:
            with contextlib.suppress(OSError), contextlib.closing(listener.accept()[0]) as client:
                client.settimeout(BOUND_S)
                client.recv(65536)
                client.sendall(reply)
                if not hang_up:
                    over.wait(BOUND_S)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            over.set()
            with contextlib.suppress(OSError), contextlib.closing(socket.socket(socket.AF_UNIX)) as knock:
                knock.connect(str(path))  # a listener nobody came to lets go
            thread.join(BOUND_S)
