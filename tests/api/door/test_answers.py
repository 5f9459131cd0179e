"""Answers on their way to clients that leave, stall, or are too many; and the end of the door itself."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack

import pytest

from supervisord.api.door import Door, HttpClient, Request, Response
from supervisord.api.door.alarm import Alarm
from supervisord.api.door.connection import Connection
from supervisord.api.door.reader import RequestReader
from supervisord.api.door.server import REFUSED_AT_ONCE
from supervisord.api.sending import EVENTS, send
from supervisord.core.errors import NotFoundError, QueueFullError
from tests.fakes.garbage import no_garbage
from tests.fakes.public_door import Caller, a_door, request_bytes

WORK = request_bytes("POST", "/work", b"{}")
JSON = (("content-type", "application/json"),)
MEGABYTE = b"x" * 1024 * 1024


async def forever(*_: object) -> None:
    await asyncio.get_running_loop().create_future()


def begin_stream(client: HttpClient) -> None:
    client.start(200, (("content-type", "text/event-stream"),), length=None)
    client.write(b"data: 1\n\n")


async def streaming(request: Request, client: HttpClient) -> None:
    """An event, and another one once the test says so; then nothing more."""
    begin_stream(client)
    await forever()


# --- answers ---------------------------------------------------------------------------------------------------------


async def test_an_answer_that_takes_time() -> None:
    async def working(request: Request, client: HttpClient) -> None:
        await asyncio.sleep(0)
        client.start(201, (*JSON, ("x-job-id", "1")), length=4)
        client.write(b"an")
        client.write(b"sw")
        client.finish()

    async with a_door(working) as door, door.caller() as caller:
        for _ in range(3):
            answer = await caller.ask("POST", "/work")
            assert (answer.status, answer.headers["x-job-id"], answer.body) == (201, "1", b"answ"[:4])


async def test_an_error_that_is_returned() -> None:
    async def working(request: Request, client: HttpClient) -> Response | None:
        await asyncio.sleep(0)
        return door.application.told(QueueFullError("full", depth=7, retry_after_s=3.2))

    async with a_door(working) as door, door.caller() as caller:
        answer = await caller.ask("POST", "/work")
        told = (answer.status, answer.code, answer.headers["retry-after"], answer.headers["x-queue-depth"])
        assert told == (429, "queue_full", "3", "7")
        assert (await caller.ask()).status == 200


async def test_a_stream_is_chunked_and_in_http_1_0_ends_with_the_connection() -> None:
    async def working(request: Request, client: HttpClient) -> None:
        begin_stream(client)
        client.write(b"")
        client.write(b"data: 2\n\n")
        client.finish()

    async with a_door(working) as door, door.caller() as caller:
        answer = await caller.ask("POST", "/work")
        assert (answer.headers["transfer-encoding"], answer.body) == ("chunked", b"data: 1\n\ndata: 2\n\n")
        caller.send(b"POST /work HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\ncontent-length: 0\r\n\r\n")
        answer = await caller.answer()
        assert (answer.headers["connection"], answer.body) == ("close", b"data: 1\n\ndata: 2\n\n")
        assert "transfer-encoding" not in answer.headers


async def test_a_head_of_a_stream_is_over_with_its_headers() -> None:
    """Clients send their next request on that connection: it must not stand behind parts that nobody gets."""

    async def never() -> AsyncGenerator[bytes]:
        await asyncio.Event().wait()
        yield b""

    async def working(request: Request, client: HttpClient) -> None:
        await send(client, EVENTS, never(), stall_s=60)

    async with a_door(working) as door, door.caller() as caller:
        caller.send(b"HEAD /work HTTP/1.1\r\nhost: a\r\n\r\n")
        answer = await caller.answer(bodiless=True)
        assert (answer.status, answer.headers["content-type"]) == (200, "text/event-stream")
        assert (await caller.ask()).status == 200


@pytest.mark.parametrize("length", [0, None])
async def test_an_answer_without_a_body(length: int | None) -> None:
    async def working(request: Request, client: HttpClient) -> None:
        client.start(299, (), length=length)
        client.finish()

    async with a_door(working) as door, door.caller() as caller:
        answer = await caller.ask("POST", "/work")
        assert (answer.status, answer.body) == (299, b"")


async def test_bugs_cost_one_request_and_are_told() -> None:
    async def working(request: Request, client: HttpClient) -> None:
        await asyncio.sleep(0)
        if request.query == "begun":
            begin_stream(client)
        if request.query == "refused":
            raise NotFoundError("there is none")
        raise KeyError(request.query)

    async with a_door(working) as door:
        for path in ("/work?before", "/bug"):
            async with door.caller() as caller:
                answer = await caller.ask("POST", path)
                assert (answer.status, answer.code, answer.headers["connection"]) == (500, "internal_error", "close")
                assert await caller.closed() == b""
        async with door.caller() as caller:
            caller.send(request_bytes("POST", "/work?begun"))
            assert not (await caller.closed()).endswith(b"0\r\n\r\n"), "it cannot be taken for a whole answer"
        async with door.caller() as caller:
            assert (await caller.ask("POST", "/work?refused")).code == "not_found"
        assert door.application.told_of == ["/work", "/bug", "/work"], "an error has the shape that its client reads"
        assert door.bugs == ["KeyError('before')", "ZeroDivisionError('a bug')", "KeyError('begun')"]


# --- clients that leave ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "reset", "half"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_is_noticed_at_once(how: str, stream: bool) -> None:
    """While it waits and in mid-answer. shutdown(SHUT_WR) counts as leaving: it looks the same from here."""
    async with a_door(streaming if stream else forever) as door, door.caller() as caller:
        caller.send(WORK)
        await door.application.begun.wait()
        if stream:
            await caller.reader.readuntil(b"data: 1\n\n")
        began = time.monotonic()
        leave(caller, how)
        async with asyncio.timeout(2):
            await door.application.over.wait()
        assert time.monotonic() - began < 0.2
        assert door.application.cancelled == 1


def leave(caller: Caller, how: str) -> None:
    match how:
        case "close":
            caller.writer.close()
        case "half":
            caller.writer.write_eof()
        case _:
            caller.reset()


@pytest.mark.parametrize("how", ["close", "reset", "half"])
async def test_a_client_that_leaves_as_it_asks(how: str) -> None:
    """Perhaps before the first step of what it asked for."""
    async with a_door(forever) as door:
        for _ in range(20):
            async with door.caller() as caller:
                caller.send(WORK)
                leave(caller, how)
        await until_no_connection(door.door)
        assert door.application.cancelled <= 20
        assert door.bugs == []


async def until_no_connection(door: Door) -> None:
    async with asyncio.timeout(5):
        while door._connections or door._leaving:  # noqa: ASYNC110 - a door has no event for it while it is open
            await asyncio.sleep(0.01)


async def test_what_is_known_at_once_reaches_a_client_that_half_closes() -> None:
    async with a_door() as door, door.caller() as caller:
        caller.send(request_bytes("GET", "/a") + request_bytes("GET", "/b"))
        caller.writer.write_eof()
        assert [(await caller.answer()).json["path"] for _ in range(2)] == ["/a", "/b"]
        assert await caller.closed() == b""


@pytest.mark.parametrize("part", [b"POST / HT", WORK[:-1]])
async def test_a_request_that_is_cut_off_is_none(part: bytes) -> None:
    async with a_door() as door, door.caller() as caller:
        caller.send(part)
        caller.writer.write_eof()
        assert await caller.closed() == b""
        assert door.application.requests == []


# --- clients that do not read ----------------------------------------------------------------------------------------


async def test_back_pressure_reaches_the_writer_and_goes_away() -> None:
    written: list[int] = []

    async def working(request: Request, client: HttpClient) -> None:
        client.start(200, (), length=None)
        for number in range(24):
            written.append(number)
            if not client.write(MEGABYTE):
                await client.drained()
        client.finish()

    async with a_door(working) as door, door.caller(buffers=4096) as caller:
        caller.send(WORK)
        await door.application.begun.wait()
        await asyncio.sleep(0.1)
        assert len(written) < 16, "what the kernel takes, and little more"
        assert len((await caller.answer()).body) == 24 * len(MEGABYTE)


async def test_a_connection_that_is_over_is_freed_at_once() -> None:
    """However it ended: closed behind its answer, or left while that was made, or in the middle of a request."""

    async def working(request: Request, client: HttpClient) -> Response:
        await asyncio.sleep(60)
        return Response(200)

    async with a_door(working) as door, no_garbage(Connection, RequestReader, Alarm, HttpClient):
        async with door.caller() as caller:
            assert (await caller.ask("POST", "/", b"x" * 1000, "connection: close")).status == 200
        async with door.caller() as caller:
            caller.send(WORK)
            await door.application.begun.wait()
        async with door.caller() as caller:
            caller.send(WORK[:20])
        await until_no_connection(door.door)
        del caller


async def test_a_client_that_takes_nothing_is_cut_off_in_time() -> None:
    """The answer is whole, and the client never takes it: it may not hold its connection for ever."""

    async def working(request: Request, client: HttpClient) -> Response:
        return Response(200, MEGABYTE * 16)

    async with a_door(working, client_stall_s=0.2) as door, door.caller(buffers=4096) as caller:
        caller.send(WORK)
        began = time.monotonic()
        await until_no_connection(door.door)
        assert 0.15 < time.monotonic() - began < 3
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await caller.answer()


async def test_answers_that_nobody_takes_do_not_pile_up() -> None:
    """Pipelined requests, each answered at once: no more are answered while the client does not read."""
    body = b"x" * 60_000
    async with a_door(client_stall_s=0.3) as door:
        async with door.caller(buffers=4096) as caller:
            for number in range(400):
                caller.send(request_bytes("POST", f"/?{number}", body))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await caller.writer.drain()
            assert len(door.application.requests) < 200
            async with asyncio.timeout(10):
                for number in range(400):
                    assert (await caller.answer()).json["query"] == str(number)
        async with door.caller(buffers=4096) as caller:
            for _ in range(200):
                caller.send(request_bytes("POST", "/", body))
            await until_no_connection(door.door)


async def test_the_end_of_a_connection_has_its_limit_too() -> None:
    """`connection: close`, and a client that does not take the answer."""
    async with a_door(client_stall_s=0.2) as door, door.caller(buffers=4096) as caller:
        caller.send(request_bytes("POST", "/", b"x" * 3_000_000, "connection: close"))
        await until_no_connection(door.door)


async def test_a_slow_client_that_leaves_is_noticed_at_once_too() -> None:
    """What is still to be sent to it is not waited for."""

    async def working(request: Request, client: HttpClient) -> None:
        client.start(200, (), length=None)
        client.write(MEGABYTE * 16)
        await forever()

    async with a_door(working) as door, door.caller(buffers=4096) as caller:
        caller.send(WORK)
        await door.application.begun.wait()
        caller.writer.write_eof()
        async with asyncio.timeout(2):
            await door.application.over.wait()
        assert door.application.cancelled == 1


# --- too many --------------------------------------------------------------------------------------------------------


async def test_connections_are_bounded_and_those_beyond_are_told_so() -> None:
    async with a_door(connections=2) as door:
        async with door.caller() as first, door.caller() as second:
            assert (await first.ask()).status == 200
            assert (await second.ask()).status == 200
            async with door.caller() as third:
                third.send(request_bytes())
                answer = await third.answer()
                told = (answer.status, answer.code, answer.headers["retry-after"], answer.headers["connection"])
                assert told == (503, "too_many_connections", "1", "close")
                assert "2 connections are open already" in answer.json["error"]["message"]
                assert await third.closed() == b""
        await until_no_connection(door.door)
        async with door.caller() as fourth:
            assert (await fourth.ask()).status == 200


async def test_a_flood_beyond_the_limit_is_cut_off() -> None:
    async with a_door(connections=1) as door, door.caller() as first, AsyncExitStack() as stack:
        assert (await first.ask()).status == 200
        held = [await stack.enter_async_context(door.caller()) for _ in range(REFUSED_AT_ONCE + 20)]
        said = [await caller.closed() for caller in held]
        assert sum(b" 503 " in words for words in said) == REFUSED_AT_ONCE
        assert (await first.ask()).status == 200


# --- the end of the door ---------------------------------------------------------------------------------------------


async def test_closing_lets_answers_end_and_takes_nothing_new() -> None:
    go_on = asyncio.Event()

    async def working(request: Request, client: HttpClient) -> None:
        begin_stream(client)
        await go_on.wait()
        client.finish()

    async with a_door(working) as door, door.caller() as idle, door.caller() as busy, door.caller() as half:
        assert (await idle.ask()).status == 200
        half.send(WORK[:20])
        busy.send(WORK + WORK)
        await door.application.begun.wait()
        async with asyncio.TaskGroup() as group:
            closing = group.create_task(door.door.close(5))
            assert await idle.closed() == b""
            assert await half.closed() == b""
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", door.port)
            go_on.set()
            assert (await busy.answer()).body == b"data: 1\n\n"
            assert await busy.closed() == b"", "the second request was not begun"
            began = time.monotonic()
            await closing
        assert time.monotonic() - began < 2
        assert len([r for r in door.application.requests if r.path == "/work"]) == 1


async def test_closing_has_its_limit() -> None:
    async with a_door(streaming) as door, door.caller() as caller:
        caller.send(WORK)
        await door.application.begun.wait()
        began = time.monotonic()
        await door.door.close(0.2)
        assert 0.15 < time.monotonic() - began < 1
        assert door.application.cancelled == 1
        assert not (await caller.closed()).endswith(b"0\r\n\r\n")
