"""Bodies that are taken in parts: the pace, the limits, and what an upload leaves to the request behind it."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from supervisord.api.door import Body, HttpClient, Request, Response, Upload, Work, json_answer
from supervisord.api.door.body import MOST_KEPT
from supervisord.core.errors import InvalidRequestError, StoreFullError, SupervisorError
from tests.fakes.public_door import Opened, a_door, request_bytes

ONE_READ = 256 * 1024  # of both loops
Taker = Callable[[Body], Awaitable[Response]]


async def summed(body: Body) -> Response:
    """Reads all of it, as it comes."""
    total, parts, digest = 0, 0, hashlib.sha256()
    async for part in body:
        assert part
        total, parts = total + len(part), parts + 1
        digest.update(part)
    return json_answer({"bytes": total, "parts": parts, "sha256": digest.hexdigest()})


@asynccontextmanager
async def uploads(taker: Taker = summed, *, limit: int = 2**30, **limits: Any) -> AsyncIterator[Opened]:
    async def work(body: Body, client: HttpClient) -> Response:
        del client
        return await taker(body)

    def begin(request: Request, body: Body) -> Work:
        assert request.body == b""
        if "x-unwanted" in request.headers:
            raise InvalidRequestError("not this one")
        if "x-bug" in request.headers:
            raise ZeroDivisionError("a bug")
        return partial(work, body)

    async with a_door(upload=Upload(begin, limit, "limits.upload"), **limits) as door:
        yield door


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def chunked(*parts: bytes, end: bytes = b"0\r\n\r\n", extra: str = "") -> bytes:
    head = f"POST /upload HTTP/1.1\r\nhost: localhost\r\n{extra}transfer-encoding: chunked\r\n\r\n".encode()
    return head + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + end


async def test_a_body_beyond_what_is_kept_of_others_comes_whole_and_the_next_request_behind_it() -> None:
    data = bytes(range(256)) * 40_000
    async with uploads(body_bytes=1000) as door, door.caller() as caller:
        for sent in (request_bytes("POST", "/upload", data), chunked(data[:5], data[5:3_000_000], data[3_000_000:])):
            caller.send(sent + request_bytes("GET", "/next"))
            answer = (await caller.answer()).json
            assert (answer["bytes"], answer["sha256"]) == (len(data), digest(data))
            assert answer["parts"] > 1
            assert (await caller.answer()).json["path"] == "/next"
        assert door.bugs == []


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_cut_at_every_byte(framing: str) -> None:
    sent = request_bytes("POST", "/upload", b"hello world") if framing == "length" else chunked(b"hello", b" world")
    async with uploads() as door, door.caller() as caller:
        for at in range(1, len(sent)):
            caller.send(sent[:at])
            await caller.writer.drain()
            caller.send(sent[at:])
            assert (await caller.answer()).json["sha256"] == digest(b"hello world"), at
        await caller.send_bytewise(sent)
        assert (await caller.answer()).json["sha256"] == digest(b"hello world")


async def test_empty_and_whole_ones_go_the_same_way() -> None:
    async with uploads(body_bytes=10) as door, door.caller() as caller:
        assert (await caller.ask("POST", "/upload", b"")).json["bytes"] == 0
        assert (await caller.ask("POST", "/upload", b"x" * 5000)).json == {
            "bytes": 5000, "parts": 1, "sha256": digest(b"x" * 5000)
        }  # fmt: skip
        assert (await caller.ask("POST", "/p", b"x" * 11)).status == 413, "others keep their limit"


async def test_uploads_in_a_pipeline_are_answered_in_order() -> None:
    bodies = [bytes([n]) * (n * 30_000) for n in range(1, 8)]
    sent = b"".join(request_bytes("POST", "/upload", body) + request_bytes("GET", "/between") for body in bodies)
    async with uploads() as door:
        for step in (len(sent), 70_001, 997):
            async with door.caller() as caller:
                for at in range(0, len(sent), step):
                    caller.send(sent[at : at + step])
                    if step > 997:
                        await caller.writer.drain()
                for body in bodies:
                    assert (await caller.answer()).json["sha256"] == digest(body)
                    assert (await caller.answer()).json["path"] == "/between"


# --- pace ------------------------------------------------------------------------------------------------------------


async def test_who_does_not_take_holds_the_client_back_and_no_time_runs_against_it() -> None:
    go, seen = asyncio.Event(), list[Body]()

    async def slow(body: Body) -> Response:
        seen.append(body)
        async for _ in body:
            await go.wait()
            break
        return await summed(body)

    data = b"x" * 20_000_000
    async with uploads(slow, body_timeout_s=0.2) as door, door.caller() as caller:
        caller.send(request_bytes("POST", "/upload", data))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.6):
                await caller.writer.drain()
        assert seen[0].held
        assert seen[0].received <= 2 * ONE_READ + MOST_KEPT, "one part was taken, the rest waits"
        go.set()
        assert (await caller.answer()).json["bytes"] > len(data) - 2 * ONE_READ - MOST_KEPT


@pytest.mark.parametrize("taken", [False, True])
async def test_one_that_stands_still_is_told_so_also_where_it_drips(taken: bool) -> None:
    async with uploads(body_timeout_s=0.3) as door, door.caller() as caller:
        caller.send(request_bytes("POST", "/upload", b"x" * 1_000_000)[: 200_000 if taken else 150])
        async with asyncio.TaskGroup() as group:
            telling = group.create_task(caller.answer())
            while not telling.done():
                caller.send(b"x")
                await asyncio.sleep(0.05)
        answer = telling.result()
        assert (answer.status, answer.code, answer.headers["connection"]) == (408, "request_timeout", "close")
        assert "0.3 s (limits.body_timeout)" in answer.json["error"]["message"]
        assert await caller.closed() == b""


async def test_one_that_is_slow_and_goes_on_is_waited_for() -> None:
    """Longer than the limit on the whole of it, never as long without progress."""
    part = b"x" * 70_000
    async with uploads(body_timeout_s=0.5) as door, door.caller() as caller:
        caller.send(request_bytes("POST", "/upload", part * 8)[: -len(part) * 8])
        for _ in range(8):
            await asyncio.sleep(0.1)
            caller.send(part)
        assert (await caller.answer()).json["bytes"] == len(part) * 8


# --- limits and refusals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_more_than_its_limit_is_refused(framing: str, whole: bool) -> None:
    """By its length before anything of it came, in chunks when it is too much."""
    body = b"x" * 1001
    sent = request_bytes("POST", "/upload", body) if framing == "length" else chunked(body[:500], body[500:])
    async with uploads(limit=1000) as door, door.caller() as caller:
        cut = len(sent) if whole else 150 if framing == "length" else len(sent) - 3
        caller.send(sent[:cut])
        answer = await caller.answer()
        assert (answer.status, answer.code) == (413, "request_too_large")
        assert "1000 bytes (limits.upload)" in answer.json["error"]["message"]
        if not whole:
            assert await caller.closed() == b""
    assert door.bugs == []


async def test_broken_chunks_reach_who_takes_them_as_what_they_are() -> None:
    async with uploads() as door, door.caller() as caller:
        caller.send(chunked(b"hello", end=b""))
        await asyncio.sleep(0)
        caller.send(b"5\r\nhello!!!!\r\n" + request_bytes("GET", "/smuggled"))
        assert (await caller.answer()).code == "invalid_request"
        assert await caller.closed() == b""
        assert [r.path for r in door.application.requests] == []


async def test_100_continue_is_said_when_the_body_is_wanted() -> None:
    asked, want = asyncio.Event(), asyncio.Event()

    async def later(body: Body) -> Response:
        asked.set()
        await want.wait()
        return await summed(body)

    head = request_bytes("POST", "/upload", b"body", "Expect: 100-continue")[:-4]
    async with uploads(later) as door, door.caller() as caller:
        caller.send(head)
        await asked.wait()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await caller.reader.readexactly(1)
        want.set()
        assert (await caller.answer(bodiless=True)).status == 100
        caller.send(b"body")
        assert (await caller.answer()).json["bytes"] == 4


@pytest.mark.parametrize("framing", ["expect", "sent"])
async def test_refused_before_any_of_it_was_read(framing: str) -> None:
    async with uploads() as door, door.caller() as caller:
        whole = request_bytes("POST", "/upload", b"x" * 3_000_000, "x-unwanted: 1", "expect: 100-continue")
        caller.send(whole if framing == "sent" else whole[:-3_000_000])
        answer = await caller.answer()
        assert (answer.status, answer.code, answer.headers["connection"]) == (400, "invalid_request", "close")
        assert await caller.closed() == b""


@pytest.mark.parametrize("error", [StoreFullError("the disk is full"), None], ids=["raised", "answered"])
async def test_an_answer_before_the_body_is_whole_ends_the_connection(error: SupervisorError | None) -> None:
    async def hasty(body: Body) -> Response:
        async for _ in body:
            if error is not None:
                raise error
            return json_answer({"enough": True})
        raise AssertionError("there is a body")

    async with uploads(hasty) as door, door.caller() as caller:
        caller.send(request_bytes("POST", "/upload", b"x" * 3_000_000))
        answer = await caller.answer()
        assert answer.status == (200 if error is None else 507)
        assert answer.headers["connection"] == "close"
        assert await caller.closed() == b""
    assert door.bugs == []


async def test_bugs_cost_their_request_only() -> None:
    async def buggy(body: Body) -> Response:
        async for _ in body:
            raise ZeroDivisionError("a bug")
        raise AssertionError("there is a body")

    async with uploads(buggy) as door:
        for header in ("x-bug: 1", "x-other: 1"):
            async with door.caller() as caller:
                caller.send(request_bytes("POST", "/upload", b"x" * 1_000_000, header))
                assert (await caller.answer()).code == "internal_error"
                assert await caller.closed() == b""
        assert len(door.bugs) == 2


async def test_a_client_that_leaves_cancels_who_takes() -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def patient(body: Body) -> Response:
        try:
            async for _ in body:
                begun.set()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        raise AssertionError("it is never whole")

    for leave in ("reset", "close"):
        async with uploads(patient) as door, door.caller() as caller:
            begun.clear()
            cancelled.clear()
            caller.send(request_bytes("POST", "/upload", b"x" * 100_000)[:-1])
            async with asyncio.timeout(5):
                await begun.wait()
                caller.reset() if leave == "reset" else caller.writer.close()
                await cancelled.wait()


async def test_a_body_for_tests_is_one_like_any_other() -> None:
    assert [part async for part in Body.of(b"abc")] == [b"abc"]
    assert [part async for part in Body.of(b"")] == []
