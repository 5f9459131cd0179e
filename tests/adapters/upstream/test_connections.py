"""Which connection carries a request: kept ones, stale ones, forgotten ones, and those that never come about."""

import asyncio
import socket

import pytest

from supervisord.adapters.upstream import connection as connection_module
from supervisord.ports import UpstreamRequest
from supervisord.runtimes.base import Address
from tests.fakes.raw_server import Peer, raw_server, turns
from tests.fakes.receiver import Remembering, an_upstream, exchange, request_to

SMALL = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
CLOSING = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"


async def keep_answering(peer: Peer) -> None:
    while await peer.request():
        peer.send(SMALL)


async def until(condition: asyncio.Event) -> None:
    async with asyncio.timeout(5):
        await condition.wait()


async def test_request_on_the_wire() -> None:
    async with raw_server(keep_answering) as server, an_upstream() as upstream:
        headers = (("accept", "*/*"), ("x-request-id", "é7"))
        request = UpstreamRequest(Address("127.0.0.1", server.port), "POST", "/v1/x?y=1", headers, b"body", 5)
        await exchange(upstream, request)
        assert server.peers[0].requests == [
            b"POST /v1/x?y=1 HTTP/1.1\r\nhost: 127.0.0.1:%d\r\naccept: */*\r\nx-request-id: \xe97\r\n"
            b"content-length: 4\r\n\r\nbody" % server.port
        ]


@pytest.mark.parametrize(
    "change",
    [
        {"path": "/a b"},
        {"path": "/a\r\nx: y"},
        {"method": "GET /x HTTP/1.1\r\n"},
        {"headers": (("x", "1\nevil: 2"),)},
        {"headers": (("x", "1\revil: 2"),)},
        {"headers": (("x", "☃"),)},
    ],
)
async def test_request_that_would_break_out_of_its_head_is_refused(change: dict[str, str]) -> None:
    parts = {"address": Address("127.0.0.1", 1), "method": "GET", "path": "/", "headers": (), "body": b"", **change}
    async with an_upstream() as upstream:
        with pytest.raises(ValueError, match=r"line break|latin-1"):
            await upstream.start(UpstreamRequest(**parts, idle_timeout_s=1), Remembering())


async def test_kept_connection_is_reused_newest_first_without_suspending() -> None:
    async with raw_server(keep_answering) as server, an_upstream() as upstream:
        request = request_to(server.port)
        first, second = Remembering(), Remembering()
        await upstream.start(request, first)
        await upstream.start(request, second)
        await first.over()
        await second.over()
        third = Remembering()
        starting = upstream.start(request, third)
        with pytest.raises(StopIteration):
            starting.send(None)
        await third.over()
        await exchange(upstream, request)
        assert [len(peer.requests) for peer in server.peers] == [1, 3]


async def test_large_body_arrives_whole() -> None:
    body = b"0123456789abcdef" * 500_000
    async with raw_server(keep_answering) as server, an_upstream() as upstream:
        assert (await exchange(upstream, request_to(server.port, body))).endings == ["end"]
        assert server.peers[0].requests[0].endswith(b"\r\n\r\n" + body)


@pytest.mark.parametrize("answer", [CLOSING, b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi"])
async def test_connection_that_the_server_will_close_is_not_kept(answer: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(answer)
        await peer.closed_by_client()

    async with raw_server(script) as server, an_upstream() as upstream:
        for _ in range(2):
            assert (await exchange(upstream, request_to(server.port))).endings == ["end"]
        assert len(server.peers) == 2


async def test_answered_before_the_request_was_read_is_not_kept() -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        await asyncio.sleep(0.2)  # leaves the body unread meanwhile

    async with raw_server(script) as server, an_upstream() as upstream:
        told = await exchange(upstream, request_to(server.port, b"x" * 30_000_000))
        assert (told.status, told.endings) == (413, ["end"])
        assert upstream._idle.get(("127.0.0.1", server.port, False), []) == []


async def test_no_more_are_kept_than_the_limit() -> None:
    async with raw_server(keep_answering) as server, an_upstream(idle_limit=2) as upstream:
        receivers = [Remembering() for _ in range(5)]
        for receiver in receivers:
            await upstream.start(request_to(server.port), receiver)
        for receiver in receivers:
            await receiver.over()
        assert len(upstream._idle["127.0.0.1", server.port, False]) == 2


async def test_idle_connections_are_closed_after_a_while_by_one_timer() -> None:
    closed = [asyncio.Event(), asyncio.Event()]

    async def script(peer: Peer) -> None:
        await keep_answering(peer)
        closed[peer.number - 1].set()

    async with raw_server(script) as server, an_upstream(idle_for_s=0.2) as upstream:
        receivers = [Remembering(), Remembering()]
        for receiver in receivers:
            await upstream.start(request_to(server.port), receiver)
        for receiver in receivers:
            await receiver.over()
        await asyncio.sleep(0.1)
        await exchange(upstream, request_to(server.port))  # keeps the second one young
        await until(closed[0])
        assert not closed[1].is_set()
        await until(closed[1])
        assert upstream._idle == {}
        assert upstream._sweeper is None


async def test_forget_closes_what_is_kept_and_what_was_in_flight_goes_on() -> None:
    gone, go_on = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        if peer.number == 1:
            await go_on.wait()
        peer.send(SMALL)
        await peer.closed_by_client()
        gone.set()

    async with raw_server(script) as server, an_upstream() as upstream:
        in_flight = Remembering()
        await upstream.start(request_to(server.port), in_flight)
        await exchange(upstream, request_to(server.port))
        upstream.forget(Address("127.0.0.1", server.port))
        upstream.forget(Address("127.0.0.1", server.port))
        await until(gone)
        go_on.set()
        assert (await in_flight.over()).endings == ["end"]


@pytest.mark.parametrize("with_reset", [False, True])
async def test_stale_connection_is_retried_once_on_a_fresh_one(with_reset: bool) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(SMALL)
        if peer.number == 1:
            await peer.request()  # the second request arrives on a connection about to be closed
            if with_reset:
                peer.reset()
            return
        await keep_answering(peer)

    async with raw_server(script) as server, an_upstream() as upstream:
        for _ in range(3):
            told = await exchange(upstream, request_to(server.port))
            assert (told.body, told.endings) == (b"hi", ["end"])
        assert [len(peer.requests) for peer in server.peers] == [2, 2]


async def test_stale_connection_noticed_before_use_is_not_taken() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(SMALL)

    async with raw_server(script) as server, an_upstream() as upstream:
        await exchange(upstream, request_to(server.port))
        await until(upstream.one_lost)
        assert not upstream._idle["127.0.0.1", server.port, False]
        assert (await exchange(upstream, request_to(server.port))).endings == ["end"]


async def test_connection_that_is_just_closing_is_not_taken() -> None:
    async with raw_server(keep_answering) as server, an_upstream() as upstream:
        await exchange(upstream, request_to(server.port))
        upstream._idle["127.0.0.1", server.port, False][0]._transport.abort()
        assert (await exchange(upstream, request_to(server.port))).endings == ["end"]
        assert not upstream.one_stale.is_set()


async def test_server_that_closes_without_taking_the_request_is_noticed() -> None:
    """The rest of the request can never be sent, and must not be waited for."""

    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.writer.write_eof()
        await asyncio.sleep(2)

    async with raw_server(script) as server, an_upstream() as upstream, asyncio.timeout(1):
        assert (await exchange(upstream, request_to(server.port, b"x" * 30_000_000))).fault.kind == "eof"


async def test_only_once() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        if peer.number == 1:
            peer.send(SMALL)
            await peer.request()

    async with raw_server(script) as server, an_upstream() as upstream:
        await exchange(upstream, request_to(server.port))
        told = await exchange(upstream, request_to(server.port))
        assert told.fault.kind == "eof"
        assert len(server.peers) == 2


async def test_a_fresh_connection_is_never_retried() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()

    async with raw_server(script) as server, an_upstream() as upstream:
        assert (await exchange(upstream, request_to(server.port))).fault.kind == "eof"
        assert len(server.peers) == 1


async def test_not_after_the_first_byte() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(SMALL)
        await peer.request()
        peer.send(b"H")

    async with raw_server(script) as server, an_upstream() as upstream:
        await exchange(upstream, request_to(server.port))
        assert (await exchange(upstream, request_to(server.port))).fault.kind == "eof"
        assert len(server.peers) == 1


async def test_not_when_the_server_had_worked_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kept connection that breaks long after the request was sent was not stale: the server died of something."""
    monkeypatch.setattr(connection_module, "STALE_WITHIN_S", 0.05)

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(SMALL)
        await peer.request()
        await asyncio.sleep(0.1)

    async with raw_server(script) as server, an_upstream() as upstream:
        await exchange(upstream, request_to(server.port))
        assert (await exchange(upstream, request_to(server.port))).fault.kind == "eof"
        assert len(server.peers) == 1


async def test_server_that_died_at_once_is_not_told_as_unreachable() -> None:
    """It may have taken the request before it died, so the fault is the first one, not "connect"."""
    async with an_upstream() as upstream:

        async def script(peer: Peer) -> None:
            await peer.request()
            peer.send(SMALL)
            await peer.request()
            server.listener.close()

        async with raw_server(script) as server:
            await exchange(upstream, request_to(server.port))
            told = await exchange(upstream, request_to(server.port))
        assert told.fault.kind == "eof"
        assert "connecting again" in told.fault.detail
        assert "connection refused" in told.fault.detail


async def test_abort_during_the_retry_is_silent() -> None:
    received = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(SMALL)
        await peer.request()
        received.set()

    async with raw_server(script) as server, an_upstream() as upstream:
        await exchange(upstream, request_to(server.port))
        receiver = Remembering()
        running = await upstream.start(request_to(server.port), receiver)
        await until(upstream.one_stale)
        running.pause()
        running.resume()
        running.abort()
        await asyncio.wait(upstream._retries, timeout=5)
        assert not receiver.endings


async def test_pause_during_the_retry_holds_on_the_fresh_connection() -> None:
    answered = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(SMALL)
        await peer.writer.drain()
        if peer.number == 2:
            answered.set()
        await peer.request()

    async with raw_server(script) as server, an_upstream() as upstream:
        await exchange(upstream, request_to(server.port))
        receiver = Remembering()
        running = await upstream.start(request_to(server.port), receiver)
        await until(upstream.one_stale)
        running.pause()
        running.resume()
        running.pause()
        await until(answered)
        await turns()
        assert receiver.heads == []
        running.resume()
        assert (await receiver.over()).endings == ["end"]


async def test_close_during_the_retry_ends_it_with_a_fault() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(SMALL)
        await peer.request()

    async with raw_server(script) as server, an_upstream() as upstream:
        await exchange(upstream, request_to(server.port))
        receiver = Remembering()
        await upstream.start(request_to(server.port), receiver)
        await until(upstream.one_stale)
        await upstream.close()
        assert receiver.fault.kind == "eof"
        assert not upstream._retries


async def test_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        async with an_upstream() as upstream:
            told = await exchange(upstream, request_to(taken.getsockname()[1]))
    assert told.fault.kind == "connect"
    assert "connection refused" in told.fault.detail


async def test_unknown_host() -> None:
    async with an_upstream() as upstream:
        request = UpstreamRequest(Address("no-such-host.invalid", 80), "GET", "/", (), b"", 5)
        assert (await exchange(upstream, request)).fault.kind == "connect"


async def test_connect_timeout() -> None:
    """A listener whose queue is full drops SYNs: the connection never comes about."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        fillers = [socket.socket() for _ in range(2)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address)
        request = UpstreamRequest(Address(*address), "GET", "/", (), b"", 5, connect_timeout_s=0.1)
        async with an_upstream() as upstream:
            async with asyncio.timeout(2):
                told = await exchange(upstream, request)
        for filler in fillers:
            filler.close()
    assert told.fault.kind == "connect"
    assert "within 0.1 s" in told.fault.detail


async def test_close_ends_what_is_in_flight_and_refuses_what_comes_later() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.closed_by_client()

    async with raw_server(script) as server, an_upstream() as upstream:
        receiver = Remembering()
        await upstream.start(request_to(server.port), receiver)
        await upstream.close()
        assert receiver.fault.kind == "reset"
        assert "going down" in receiver.fault.detail
        assert not upstream._open
        assert (await exchange(upstream, request_to(server.port))).fault.kind == "connect"


async def test_bytes_nobody_asked_for_close_a_kept_connection() -> None:
    closed = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(SMALL)
        await asyncio.sleep(0.01)
        peer.send(SMALL)
        await peer.closed_by_client()
        closed.set()

    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
    async with raw_server(script) as server, an_upstream() as upstream:
        await exchange(upstream, request_to(server.port))
        await until(closed)
        assert not complaints
        assert not upstream._idle.get(("127.0.0.1", server.port, False))
