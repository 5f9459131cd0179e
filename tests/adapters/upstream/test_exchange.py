"""What the holder of an exchange can do, and what it is told: pause, abort, silence, its own mistakes."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from supervisord.adapters.upstream.connection import Connection
from supervisord.adapters.upstream.exchange import RelayExchange
from supervisord.ports import UpstreamFault
from tests.fakes.garbage import no_garbage
from tests.fakes.raw_server import Peer, raw_server
from tests.fakes.receiver import Remembering, an_upstream, exchange, request_to

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
SMALL = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def test_abort_reaches_the_server_at_once_and_nothing_is_told_after() -> None:
    noticed: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(HEAD + chunk(b"one"))
        await peer.closed_by_client()
        noticed.set_result(asyncio.get_running_loop().time())

    async with raw_server(script) as server, an_upstream() as upstream:
        receiver = Remembering()
        running = await upstream.start(request_to(server.port), receiver)
        await receiver.told()
        aborted = asyncio.get_running_loop().time()
        running.abort()
        running.abort()
        assert await asyncio.wait_for(noticed, 5) - aborted < 0.1
        running.pause()
        running.resume()
        assert receiver.endings == []


async def test_a_connection_that_is_over_is_freed_at_once() -> None:
    """With the request it carried, whose body may be large: after an answer, and without one."""

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(SMALL if len(server.peers) == 1 else b"")

    async with raw_server(script) as server, an_upstream() as upstream, no_garbage(Connection, RelayExchange):
        for _ in range(2):
            receiver = await exchange(upstream, request_to(server.port))
            assert receiver.endings


async def test_late_abort_does_not_hit_the_next_request() -> None:
    async def script(peer: Peer) -> None:
        while await peer.request():
            peer.send(SMALL)

    async with raw_server(script) as server, an_upstream() as upstream:
        receiver = Remembering()
        first = await upstream.start(request_to(server.port), receiver)
        await receiver.over()
        second = Remembering()
        await upstream.start(request_to(server.port), second)
        first.abort()
        first.pause()
        assert (await second.over()).endings == ["end"]
        assert len(server.peers) == 1


@pytest.mark.parametrize("where", ["on_head", "on_data"])
async def test_abort_from_within_a_call(where: str) -> None:
    class Aborting(Remembering):
        def on_head(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
            super().on_head(status, headers)
            if where == "on_head":
                running[0].abort()

        def on_data(self, data: bytes) -> None:
            super().on_data(data)
            running[0].abort()

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(HEAD + chunk(b"one") + b"0\r\n\r\n")
        await peer.closed_by_client()
        closed.set()

    running: list[Any] = []
    closed = asyncio.Event()
    async with raw_server(script) as server, an_upstream() as upstream:
        receiver = Aborting()
        running.append(await upstream.start(request_to(server.port), receiver))
        async with asyncio.timeout(5):
            await closed.wait()
        assert receiver.endings == []
        assert len(receiver.parts) == (where == "on_data")


async def test_pause_holds_the_server_back_in_bounded_memory() -> None:
    total = 48 * 1024 * 1024

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        for _ in range(total // 65536):
            peer.send(b"x" * 65536)
            await peer.writer.drain()
            sent[0] += 65536

    class Pausing(Remembering):
        size = 0

        def on_data(self, data: bytes) -> None:
            self.size += len(data)
            running[0].pause()
            self._told.set()

    running: list[Any] = []
    sent = [0]
    async with raw_server(script) as server, an_upstream() as upstream:
        receiver = Pausing()
        running.append(await upstream.start(request_to(server.port), receiver))
        running[0].pause()
        running[0].pause()
        await asyncio.sleep(0.3)
        assert receiver.size == 0
        assert sent[0] < 16 * 1024 * 1024  # what the two socket buffers hold
        while not receiver.endings:
            running[0].resume()
            await receiver.told()
        assert (receiver.size, receiver.endings) == (total, ["end"])


async def test_paused_when_its_last_bytes_came_the_connection_reads_again_for_the_next() -> None:
    async def script(peer: Peer) -> None:
        while await peer.request():
            peer.send(SMALL)

    class PausingAtData(Remembering):
        def on_data(self, data: bytes) -> None:
            super().on_data(data)
            running[0].pause()

    running: list[Any] = []
    async with raw_server(script) as server, an_upstream() as upstream:
        receiver = PausingAtData()
        running.append(await upstream.start(request_to(server.port), receiver))
        assert (await receiver.over()).endings == ["end"]
        assert (await exchange(upstream, request_to(server.port))).endings == ["end"]
        assert len(server.peers) == 1


async def test_silence_is_a_fault_counted_from_the_last_byte() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(HEAD)
        for _ in range(4):
            await asyncio.sleep(0.1)
            peer.send(chunk(b"tick"))
        await peer.closed_by_client()
        closed.set()

    closed = asyncio.Event()
    loop = asyncio.get_running_loop()
    async with raw_server(script) as server, an_upstream() as upstream:
        began = loop.time()
        told = await exchange(upstream, request_to(server.port, idle_timeout_s=0.2))
        assert told.fault.kind == "idle"
        assert "0.2 s" in told.fault.detail
        assert told.body == b"tick" * 4
        assert 0.55 < loop.time() - began < 1.5
        async with asyncio.timeout(5):
            await closed.wait()


async def test_half_open_server_is_told_as_idle() -> None:
    """Row 24: it accepts, reads, and never answers."""

    async def script(peer: Peer) -> None:
        await peer.closed_by_client()

    async with raw_server(script) as server, an_upstream() as upstream:
        assert (await exchange(upstream, request_to(server.port, idle_timeout_s=0.1))).fault.kind == "idle"


async def test_a_shorter_limit_on_a_kept_connection_counts() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(SMALL)
        await peer.closed_by_client()

    async with raw_server(script) as server, an_upstream() as upstream:
        await exchange(upstream, request_to(server.port, idle_timeout_s=600))
        assert (await exchange(upstream, request_to(server.port, idle_timeout_s=0.1))).fault.kind == "idle"


async def test_timer_of_an_earlier_exchange_does_not_hurt() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(SMALL)
        await peer.request()
        peer.send(HEAD + chunk(b"one"))
        await asyncio.sleep(0.3)
        peer.send(b"0\r\n\r\n")
        await peer.closed_by_client()

    async with raw_server(script) as server, an_upstream() as upstream:
        await exchange(upstream, request_to(server.port, idle_timeout_s=0.1))
        told = await exchange(upstream, request_to(server.port, idle_timeout_s=5))
        assert (told.body, told.endings) == (b"one", ["end"])


async def test_timer_leaves_a_kept_connection_alone() -> None:
    async def script(peer: Peer) -> None:
        while await peer.request():
            peer.send(SMALL)

    async with raw_server(script) as server, an_upstream() as upstream:
        await exchange(upstream, request_to(server.port, idle_timeout_s=0.05))
        await asyncio.sleep(0.1)
        assert (await exchange(upstream, request_to(server.port, idle_timeout_s=0.05))).endings == ["end"]
        assert len(server.peers) == 1


async def test_paused_time_does_not_count_as_silence() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(HEAD + chunk(b"one"))
        await peer.closed_by_client()

    loop = asyncio.get_running_loop()
    async with raw_server(script) as server, an_upstream() as upstream:
        receiver = Remembering()
        running = await upstream.start(request_to(server.port, idle_timeout_s=0.2), receiver)
        await receiver.told()
        running.pause()
        await asyncio.sleep(0.5)
        assert receiver.endings == []
        resumed = loop.time()
        running.resume()
        assert (await receiver.over()).fault.kind == "idle"
        assert loop.time() - resumed > 0.15


@pytest.mark.parametrize("error", [RuntimeError("a bug"), ConnectionResetError("of the client")])
@pytest.mark.parametrize("where", ["on_head", "on_data", "on_end", "on_fault"])
async def test_receiver_that_raises_is_told_and_its_exchange_aborted(where: str, error: Exception) -> None:
    class Raising:
        def on_head(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
            self._perhaps("on_head")

        def on_data(self, data: bytes) -> None:
            self._perhaps("on_data")

        def on_end(self) -> None:
            self._perhaps("on_end")

        def on_fault(self, fault: UpstreamFault) -> None:
            self._perhaps({"internal": "internal"}.get(fault.kind, "on_fault"))

        def _perhaps(self, what: str) -> None:
            calls.append(what)
            if what == where:
                raise error

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(HEAD + chunk(b"one") + (b"zz\r\n" if where == "on_fault" else b"0\r\n\r\n"))

    calls: list[str] = []
    reported: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.set_result(context))
    async with raw_server(script) as server, an_upstream() as upstream:
        running = await upstream.start(request_to(server.port), Raising())
        context = await asyncio.wait_for(reported, 5)
        assert context["exception"] is error
        assert calls[-2:] == [where, "internal"], "nobody else would tell whoever waits"
        assert running.over
