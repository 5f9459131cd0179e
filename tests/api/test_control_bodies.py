"""Long bodies at the control door: over a real connection, with every bound."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from supervisord.api import control_bodies
from supervisord.api.control_bodies import whole_body
from supervisord.core.errors import RequestTimeoutError, RequestTooLargeError

MOST = 100_000


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[str]:
    """Says how it went."""

    async def take(request: web.Request) -> web.Response:
        try:
            return web.Response(body=await whole_body(request, MOST))
        except (RequestTooLargeError, RequestTimeoutError) as error:
            return web.Response(status=400, text=error.code)

    async with _served(tmp_path, take) as path:
        yield path


@asynccontextmanager
async def _served(folder: Path, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    app = web.Application(client_max_size=1024)
    app.router.add_post("/", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.05)
    await runner.setup()
    path = str(folder / "s")
    await web.UnixSite(runner, path).start()
    yield path
    await runner.cleanup()


async def sent(door: str, body: object) -> tuple[int, bytes]:
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(door)) as session,
        session.post("http://door/", data=body) as answer,
    ):
        return answer.status, await answer.read()


async def in_parts(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def test_a_body_up_to_its_limit_is_taken(door: str) -> None:
    assert await sent(door, b"x" * MOST) == (200, b"x" * MOST)
    assert await sent(door, in_parts(b"a", b"b" * (MOST - 1))) == (200, b"a" + b"b" * (MOST - 1))
    assert await sent(door, b"") == (200, b"")


async def test_one_that_is_longer_is_not(door: str) -> None:
    assert await sent(door, b"x" * (MOST + 1)) == (400, b"request_too_large")
    assert await sent(door, in_parts(b"x" * MOST, b"y")) == (400, b"request_too_large")


async def test_one_that_does_not_come_is_given_up(door: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_bodies, "STALL_S", 0.05)
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(door)
        peer.sendall(b"POST / HTTP/1.1\r\nhost: door\r\ncontent-length: 10\r\n\r\nabc")
        peer.setblocking(False)
        loop = asyncio.get_running_loop()
        answer = await loop.sock_recv(peer, 65536)
        while b"request_timeout" not in answer:
            answer += await loop.sock_recv(peer, 65536)


async def test_a_peer_that_takes_nothing_of_an_answer_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_bodies, "STALL_S", 0.05)
    over = asyncio.Event()

    async def give(request: web.Request) -> web.StreamResponse:
        response = await control_bodies.sent(request, web.StreamResponse(), in_parts(*[b"x" * 1_000_000] * 9))
        over.set()
        return response

    async with _served(tmp_path, give) as door:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(door)
            peer.sendall(b"POST / HTTP/1.1\r\nhost: door\r\ncontent-length: 0\r\n\r\n")
            async with asyncio.timeout(10):
                await over.wait()
            peer.setblocking(False)
            loop, came = asyncio.get_running_loop(), 0
            while part := await loop.sock_recv(peer, 1 << 20):
                came += len(part)
            assert 0 < came < 9_000_000, "and it cannot be taken for the whole"


async def test_an_answer_in_parts_is_whole(tmp_path: Path) -> None:
    async def give(request: web.Request) -> web.StreamResponse:
        return await control_bodies.sent(request, web.StreamResponse(), in_parts(b"a" * 300_000, b"b"))

    async with _served(tmp_path, give) as door:
        assert await sent(door, b"") == (200, b"a" * 300_000 + b"b")
