"""Exact framing: what is whole, what was cut, what was never HTTP (row 23 of the faults)."""

import asyncio

import pytest

from supervisord.runtimes.base import Address
from tests.fakes.raw_server import Peer, raw_server, turns
from tests.fakes.receiver import Remembering, an_upstream, exchange, request_to

OK = b"HTTP/1.1 200 OK\r\n"
LENGTH = OK + b"Content-Type: text/plain\r\nContent-Length: 11\r\n\r\nhello world"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;ext=1\r\n world\r\n0\r\nX-Trailer: t\r\n\r\n"
UNTIL_CLOSE = OK + b"Connection: close\r\n\r\nhello world"
CONTINUED = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + LENGTH


async def answered(*parts: bytes, then_reset: bool = False, method: str = "POST") -> Remembering:
    """What a receiver is told when a server sends these bytes, each part in a read of its own, and closes."""

    async def script(peer: Peer) -> None:
        await peer.request()
        for part in parts:
            peer.send(part)
            await peer.writer.drain()
            await turns()  # the client runs on this loop too, and has read the part by then
        if then_reset:
            peer.reset()

    async with raw_server(script) as server, an_upstream() as upstream:
        return await exchange(upstream, request_to(server.port, method=method))


@pytest.mark.parametrize("answer", [LENGTH, CHUNKED, UNTIL_CLOSE, CONTINUED], ids=["length", "chunked", "eof", "100"])
async def test_whole_answer(answer: bytes) -> None:
    told = await answered(answer)
    assert (told.status, told.body, told.endings) == (200, b"hello world", ["end"])


@pytest.mark.parametrize("answer", [LENGTH, CHUNKED, UNTIL_CLOSE, CONTINUED], ids=["length", "chunked", "eof", "100"])
async def test_split_at_every_byte(answer: bytes) -> None:
    """One server and one connection each: the split must not show, wherever the network makes it."""
    at = iter(range(1, len(answer)))

    async def script(peer: Peer) -> None:
        await peer.request()
        cut = next(at)
        peer.send(answer[:cut])
        await asyncio.sleep(0.0005)
        peer.send(answer[cut:])

    async with raw_server(script) as server, an_upstream() as upstream:
        for cut in range(1, len(answer)):
            told = await exchange(upstream, request_to(server.port))
            assert (told.status, told.body, told.endings) == (200, b"hello world", ["end"]), cut
            upstream.forget(Address("127.0.0.1", server.port))


@pytest.mark.parametrize("answer", [LENGTH, CHUNKED], ids=["length", "chunked"])
async def test_cut_after_every_byte_is_never_whole(answer: bytes) -> None:
    at = iter(range(len(answer)))

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(answer[: next(at)])

    async with raw_server(script) as server, an_upstream() as upstream:
        for cut in range(len(answer)):
            told = await exchange(upstream, request_to(server.port))
            assert told.fault.kind == "eof", (cut, told.fault)
            assert b"hello world".startswith(told.body)
            assert (told.status == 200) == (b"\r\n\r\n" in answer[:cut])


async def test_many_chunks_of_one_read_are_one_call() -> None:
    chunks = b"".join(b"5\r\ndata%d\r\n" % (n % 10) for n in range(500))
    told = await answered(OK + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")
    assert told.endings == ["end"]
    assert len(told.body) == 2500
    assert len(told.parts) == 1


async def test_header_names_come_lower_case_and_repeated_ones_stay() -> None:
    told = await answered(OK + b"X-One: A\r\nX-One: B\r\nContent-Length: 0\r\n\r\n")
    assert told.heads == [(200, [(b"x-one", b"A"), (b"x-one", b"B"), (b"content-length", b"0")])]


@pytest.mark.parametrize("status", [204, 304])
async def test_answer_without_body_by_its_status(status: int) -> None:
    told = await answered(b"HTTP/1.1 %d X\r\n\r\n" % status)
    assert (told.status, told.parts, told.endings) == (status, [], ["end"])


async def test_head_request_ends_with_the_head() -> None:
    told = await answered(OK + b"Content-Length: 11\r\n\r\n", method="HEAD")
    assert (told.status, told.parts, told.endings) == (200, [], ["end"])


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"\x00\x01SSH-2.0-garbage\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 2x0 OK\r\n\r\n", "not HTTP"),
        (OK + b"bad header\r\n\r\n", "not HTTP"),
        (OK + b"Content-Length: 11\r\nContent-Length: 12\r\n\r\nhello world", "not HTTP"),
        (OK + b"Content-Length: 11\r\nTransfer-Encoding: chunked\r\n\r\n", "not HTTP"),
        (OK + b"Content-Length: -1\r\n\r\n", "not HTTP"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", "not HTTP"),
        (LENGTH + b"more", "after the end"),
        (LENGTH + LENGTH, "after the end"),
        (OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nhimore", "after the end"),
        (CHUNKED + b"more", "after the end"),
        (b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", "another protocol"),
        (OK + b"X: " + b"a" * 70_000 + b"\r\nContent-Length: 0\r\n\r\n", "70"),
        (OK + b"".join(b"X-%d: aaaaaaaa\r\n" % n for n in range(6000)) + b"\r\n", "bytes"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 4000, "of a head"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"x" * 400_000, "extensions"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX: " + b"t" * 400_000, "trailers"),
    ],
)
async def test_what_is_not_http(answer: bytes, words: str) -> None:
    told = await answered(answer)
    assert told.fault.kind == "protocol"
    assert words in told.fault.detail
    assert "127.0.0.1:" in told.fault.detail


async def test_what_came_whole_before_the_garbage_is_handed_on() -> None:
    told = await answered(OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n")
    assert (told.status, told.body, told.fault.kind) == (200, b"hello", "protocol")


async def test_large_body_behind_a_small_head_is_within_limits() -> None:
    size = 3_000_000
    told = await answered(OK + b"Content-Length: %d\r\n\r\n" % size + b"x" * size)
    assert (len(told.body), told.endings) == (size, ["end"])


async def test_only_bytes_since_the_last_of_the_body_count_against_the_limit() -> None:
    told = await answered(OK + b"Transfer-Encoding: chunked\r\n\r\n20000\r\n", b"x" * 131072, b"\r\n", b"0\r\n\r\n")
    assert (len(told.body), told.endings) == (131072, ["end"])


@pytest.mark.parametrize(
    ("sent", "words"), [(b"", "before any answer"), (LENGTH[:-3], "in its answer"), (UNTIL_CLOSE, "in its answer")]
)
async def test_reset(sent: bytes, words: str) -> None:
    told = await answered(sent, then_reset=True)
    assert told.fault.kind == "reset"
    assert words in told.fault.detail


async def test_nothing_at_all() -> None:
    told = await answered()
    assert told.fault.kind == "eof"
    assert "without an answer" in told.fault.detail
