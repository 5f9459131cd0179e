"""What must never reach the application, and what its sender is told."""

import asyncio
import time
from contextlib import suppress

import pytest

from supervisord.api.door.reader import HEAD_LIMIT, MOST_PIPELINED
from tests.fakes.public_door import PATIENCE_S, Caller, a_door, request_bytes

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nhost: localhost\r\n\r\n"
HEAD = b"POST /p HTTP/1.1\r\nhost: localhost\r\n"

BROKEN = {
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 secret\r\n\r\n",
    "socks": b"\x05\x01\x00",
    "words": b"hello there\r\n\r\n",
    "http/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "http/0.9": b"GET /\r\n\r\n",
    "http/1.7": b"GET / HTTP/1.7\r\n\r\n",
    "connect": b"CONNECT evil.example:443 HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "target in other letters": "GET /\u00fc HTTP/1.1\r\nhost: localhost\r\n\r\n".encode(),
    "two lengths": HEAD + b"content-length: 1\r\ncontent-length: 1\r\n\r\nx",
    "two other lengths": HEAD + b"content-length: 0\r\ncontent-length: 46\r\n\r\n",
    "list of lengths": HEAD + b"content-length: 1, 1\r\n\r\nx",
    "signed length": HEAD + b"content-length: +1\r\n\r\nx",
    "negative length": HEAD + b"content-length: -1\r\n\r\nx",
    "length and chunks": HEAD + b"content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": HEAD + b"transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n",
    "gzip and chunks": HEAD + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "twice chunked": HEAD + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "identity and chunked": HEAD + b"transfer-encoding: identity\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "no chunks at all": HEAD + b"transfer-encoding: gzip\r\n\r\n",
    "blank before the colon": HEAD + b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
    "chunks in http/1.0": b"POST /p HTTP/1.0\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "folded header": HEAD + b"x: a\r\n transfer-encoding: chunked\r\n\r\n",
    "bare line feeds": b"POST /p HTTP/1.1\nhost: localhost\ncontent-length: 0\n\n",
    "nul": HEAD + b"x: a\x00b\r\n\r\n",
    "header without a name": HEAD + b": x\r\n\r\n",
    "chunk without its end": HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\nxyz0\r\n\r\n",
    "chunk size that overflows": HEAD + b"transfer-encoding: chunked\r\n\r\nffffffffffffffff1\r\nx",
    "chunk size that is none": HEAD + b"transfer-encoding: chunked\r\n\r\n-1\r\nx",
    "too many headers": HEAD + b"".join(b"x-%d: 1\r\n" % n for n in range(200)) + b"content-length: 0\r\n\r\n",
    "too long a target": b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "too long a head": HEAD + b"x: " + b"x" * HEAD_LIMIT + b"\r\ncontent-length: 0\r\n\r\n",
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN.keys())
async def test_what_is_not_understood_is_refused_and_nothing_behind_it_is_read(data: bytes) -> None:
    """In one piece and bytewise: one answer of ours, then the end; what came before it is answered first."""
    async with a_door() as door:
        for pieces in (False, True):
            async with door.caller() as caller:
                before = len(door.application.requests)
                caller.send(request_bytes("GET", "/before"))
                if pieces:
                    await caller.send_bytewise(data)
                caller.send((b"" if pieces else data) + SMUGGLED)
                assert (await caller.answer()).status == 200
                refused = await caller.answer()
                assert (refused.status, refused.code) == (400, "invalid_request")
                assert refused.headers["connection"] == "close"
                assert b"HTTP/1.1" not in await caller.closed()
                assert [r.path for r in door.application.requests[before:]] == ["/before"]
                assert b"secret" not in refused.body
        assert door.bugs == []


async def test_a_body_over_the_limit_is_refused_unread() -> None:
    """By its length at once, though nothing of it came; in chunks as soon as it is too much; also whole."""
    async with a_door(body_bytes=1000) as door:
        for body in (
            b"content-length: 1000000000\r\n\r\n",
            b"transfer-encoding: chunked\r\n\r\n" + b"190\r\n%b\r\n" % (b"x" * 400) * 3,
            b"content-length: 1001\r\n\r\n" + b"x" * 1001,
        ):
            async with door.caller() as caller:
                caller.send(HEAD + body)
                refused = await caller.answer()
                assert (refused.status, refused.code) == (413, "request_too_large")
                assert await caller.closed() == b""
        async with door.caller() as caller:
            assert (await caller.ask("POST", "/p", b"x" * 1000)).status == 200
        assert len(door.application.requests) == 1


async def test_a_client_that_is_still_sending_reads_its_refusal() -> None:
    """Closing with its bytes unread would reset the connection, and the answer with it."""
    async with a_door(body_bytes=1000) as door, door.caller() as caller:
        caller.send(HEAD + b"content-length: 30000000\r\n\r\n" + b"x" * 5_000_000)
        await asyncio.sleep(0)
        assert (await caller.answer()).code == "request_too_large"


async def test_one_that_never_stops_sending_is_cut_off() -> None:
    async with a_door(body_bytes=1000) as door, door.caller() as caller:
        caller.send(HEAD + b"content-length: 1000000000\r\n\r\n")
        assert (await caller.answer()).status == 413
        assert await _sent_until_cut(caller, b"x" * 10_000) < 5


@pytest.mark.parametrize("endless", [b";" + b"x" * 50, b"0\r\n" + b"t: x\r\n" * 9], ids=["extension", "trailers"])
async def test_chunks_without_bytes_are_bounded(endless: bytes) -> None:
    async with a_door() as door, door.caller() as caller:
        caller.send(HEAD + b"transfer-encoding: chunked\r\n\r\n" + (b"1" if endless.startswith(b";") else b""))
        await caller.send_bytewise(endless[:3])
        for _ in range(2 * HEAD_LIMIT // 50):
            caller.send(endless[3:] if endless.startswith(b"0") else endless)
            await asyncio.sleep(0)
        assert (await caller.answer()).code == "invalid_request"
        assert door.application.requests == []


async def test_an_endless_head_is_refused_as_it_comes() -> None:
    async with a_door() as door, door.caller() as caller:
        caller.send(HEAD)
        for number in range(2000):
            caller.send(b"x-%d: %b\r\n" % (number, b"y" * 40))
            await asyncio.sleep(0)
        assert "bytes of head" in (await caller.answer()).json["error"]["message"]


async def _sent_until_cut(caller: Caller, data: bytes) -> float:
    """Send without end; how many seconds that was possible."""
    began = time.monotonic()
    with suppress(ConnectionError):
        while time.monotonic() - began < PATIENCE_S and not caller.writer.is_closing():
            caller.send(data)
            await caller.writer.drain()
            await asyncio.sleep(0.01)
    return time.monotonic() - began


# --- time ------------------------------------------------------------------------------------------------------------


async def test_a_slow_head_is_cut_off_however_it_drips() -> None:
    async with a_door(header_timeout_s=0.3) as door, door.caller() as caller:
        caller.send(b"GET / HTTP/1.1\r\n")
        assert 0.25 < await _sent_until_cut(caller, b"x: y\r\n") < 3


async def test_a_slow_body_is_told_so() -> None:
    async with a_door(body_timeout_s=0.2) as door, door.caller() as caller:
        caller.send(HEAD + b"content-length: 100\r\n\r\nx")
        answer = await caller.answer()
        assert (answer.status, answer.code, answer.headers["x-should-retry"]) == (408, "request_timeout", "true")
        assert "0.2 s (limits.body_timeout)" in answer.json["error"]["message"]
        assert await caller.closed() == b""


async def test_an_idle_connection_is_closed_before_and_after_a_request_but_not_while_one_is_answered() -> None:
    async def working(*_: object) -> None:
        await asyncio.sleep(0.5)

    async with a_door(working, idle_timeout_s=0.2) as door:
        async with door.caller() as caller:
            assert await caller.closed() == b""
        async with door.caller() as caller:
            assert (await caller.ask()).status == 200
            assert await caller.closed() == b""
        async with door.caller() as caller:
            caller.send(request_bytes("POST", "/work") + request_bytes())
            assert (await caller.answer()).status == 200
        async with door.caller() as caller:
            assert await _sent_until_cut(caller, b"\r\n") < 3


async def test_the_time_for_a_body_begins_when_it_is_its_turn() -> None:
    """The client that waits for its first answer is not blamed for having sent a part of its second request."""

    async def working(*_: object) -> None:
        await asyncio.sleep(0.4)

    second = request_bytes("POST", "/p", b"body")
    async with a_door(working, body_timeout_s=0.2, header_timeout_s=0.2) as door, door.caller() as caller:
        for part in (-2, 20):
            caller.send(request_bytes("POST", "/work") + second[:part])
            await door.application.over.wait()
            door.application.over.clear()
            caller.send(second[part:])
            assert (await caller.answer()).json["body"] == "body"


# --- pipelining ------------------------------------------------------------------------------------------------------


async def test_pipelined_requests_are_answered_in_order_one_at_a_time() -> None:
    running: list[str] = []

    async def working(request, client) -> None:  # type: ignore[no-untyped-def]
        running.append(request.query)
        assert len(running) == 1
        await asyncio.sleep(0.01)
        running.remove(request.query)
        client.start(200, (("x-number", request.query),), length=0)
        client.finish()

    sent = b"".join(request_bytes("POST", f"/work?{n}", b"x" * n) + request_bytes("GET", f"/?{n}") for n in range(10))
    async with a_door(working) as door:
        for step in (len(sent), 100, 7):
            async with door.caller() as caller:
                for at in range(0, len(sent), step):
                    caller.send(sent[at : at + step])
                    await asyncio.sleep(0)
                for number in range(10):
                    assert (await caller.answer()).headers["x-number"] == str(number)
                    assert (await caller.answer()).json["query"] == str(number)
        assert door.bugs == []


async def test_a_client_that_sends_ahead_without_end_is_made_to_wait() -> None:
    done = asyncio.Event()

    async def working(*_: object) -> None:
        await done.wait()

    async with a_door(working) as door, door.caller() as caller:
        caller.send(request_bytes("POST", "/work"))
        await door.application.begun.wait()
        for number in range(400):
            caller.send(request_bytes("POST", f"/?{number}", b"x" * 50_000))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await caller.writer.drain()
        done.set()
        for number in range(400):
            assert (await caller.answer()).json["query"] == str(number)


async def test_so_many_in_one_read_that_they_are_too_many() -> None:
    async with a_door() as door, door.caller() as caller:
        caller.send(b"GET / HTTP/1.1\r\n\r\n" * (MOST_PIPELINED + 500))
        for _ in range(MOST_PIPELINED):
            assert (await caller.answer()).status == 200
        assert (await caller.answer()).status == 400
        assert await caller.closed() == b""
