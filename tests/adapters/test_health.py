"""The probe: every answer is one, and no answer is told as what it was, in time."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from supervisord.adapters.health import BODY_LIMIT, HttpProbe
from supervisord.core.errors import ProbeError
from tests.fakes.raw_server import Peer, raw_server
from tests.fakes.stub import stub_backend


@pytest.fixture
async def probe() -> AsyncIterator[HttpProbe]:
    probe = HttpProbe()
    yield probe
    await probe.close()


async def probed(probe: HttpProbe, answer: bytes, timeout: float = 5.0) -> tuple[int, bytes]:
    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(answer)

    async with raw_server(script) as server:
        told = await probe.get("127.0.0.1", server.port, "/health", timeout)
        assert b"GET /health HTTP/1.1" in server.peers[0].requests[0]
        return told.status, told.body


async def test_loading_then_ready(probe: HttpProbe) -> None:
    async with stub_backend("--load-seconds", "0.5", wait_ready=False) as stub:
        loading = await probe.get("127.0.0.1", stub.port, "/health", 2)
        assert (loading.status, b"Loading model" in loading.body) == (503, True)
        await stub.line("all idle")
        ready = await probe.get("127.0.0.1", stub.port, "/health", 2)
        assert (ready.status, ready.body) == (200, b'{"status":"ok"}')


async def test_every_status_is_an_answer(probe: HttpProbe) -> None:
    for status in (200, 404, 500, 503):
        answer = b"HTTP/1.1 %d X\r\nContent-Length: 2\r\n\r\nhi" % status
        assert await probed(probe, answer) == (status, b"hi")


async def test_redirect_is_not_followed_and_no_cookie_is_kept(probe: HttpProbe) -> None:
    answer = b"HTTP/1.1 302 X\r\nLocation: /other\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n"

    async def script(peer: Peer) -> None:
        while await peer.request():
            peer.send(answer)

    async with raw_server(script) as server:
        for _ in range(2):
            assert (await probe.get("localhost", server.port, "/health", 5)).status == 302
        (peer,) = server.peers  # the second one came on the kept connection
        assert len(peer.requests) == 2
        assert b"cookie" not in peer.requests[1].lower()


async def test_proxy_of_the_environment_is_ignored(probe: HttpProbe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert await probed(probe, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") == (200, b"")


async def test_refused(probe: HttpProbe) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(ProbeError, match="connection refused"):
            await probe.get("127.0.0.1", taken.getsockname()[1], "/health", 2)


async def test_unknown_host(probe: HttpProbe) -> None:
    with pytest.raises(ProbeError, match=r"GET http://no-such-host\.invalid:80/health: .+"):
        await probe.get("no-such-host.invalid", 80, "/health", 5)


async def test_hung_server(probe: HttpProbe) -> None:
    async with stub_backend("--hang-health") as stub:
        began = asyncio.get_running_loop().time()
        with pytest.raises(ProbeError, match=r"no answer in 0\.2 s"):
            await probe.get("127.0.0.1", stub.port, "/health", 0.2)
        assert asyncio.get_running_loop().time() - began < 1


async def test_slow_body_counts_into_the_timeout(probe: HttpProbe) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
        while not peer.reader.at_eof():
            peer.send(b"x")
            await asyncio.sleep(0.05)

    async with raw_server(script) as server:
        with pytest.raises(ProbeError, match=r"no answer in 0\.2 s"):
            await probe.get("127.0.0.1", server.port, "/health", 0.2)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"\x00\x01SSH-2.0\r\n\r\n", "garbage"),
        (b"HTTP/1.1 banana\r\n\r\n", "garbage"),
        (b"", "closed before a whole answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "closed before a whole answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi", "closed before a whole answer"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "whole answer|garbage"),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b"x" * (BODY_LIMIT + 1), "more than 1048576 bytes"),
    ],
)
async def test_no_usable_answer(probe: HttpProbe, answer: bytes, words: str) -> None:
    with pytest.raises(ProbeError, match=words):
        await probed(probe, answer)


async def test_reset(probe: HttpProbe) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        peer.reset()

    async with raw_server(script) as server:
        with pytest.raises(ProbeError, match="reset"):
            await probe.get("127.0.0.1", server.port, "/health", 2)


async def test_ipv6(probe: HttpProbe) -> None:
    with pytest.raises(ProbeError, match=r"refused|unreachable|assign|not supported"):
        await probe.get("::1", 1, "/health", 2)


async def test_close_twice_and_use_again() -> None:
    probe = HttpProbe()
    await probe.close()
    assert await probed(probe, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") == (200, b"")
    await probe.close()
    await probe.close()
