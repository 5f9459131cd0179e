"""Requests of Anthropic's clients and of Responses on their way: how they end, and how they are told of failures."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from supervisord.core import life
from supervisord.core.errors import EndpointMissingError, SupervisorError
from supervisord.core.job import FailureReason, Submission
from supervisord.core.routing import Route, Strategy
from supervisord.core.state import Phase
from supervisord.engine.gateway import GatewayPolicy
from supervisord.ports import StoredJob
from tests.engine.rig import Rig, Wire, beside, rig
from tests.engine.rig import remote as described
from tests.fakes.raw_server import Peer, raw_server
from tests.fakes.stub_answers import Counts
from tests.fakes.stub_events import MessagesWording, ResponsesWording

MESSAGES, RESPONSES = "/v1/messages", "/v1/responses"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
JSON = b"HTTP/1.1 %d Told\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"


House = tuple[Rig, asyncio.Event]


def whole(endpoint: str) -> tuple[bytes, bytes]:
    """The events of an answer: all but the last, and the last."""
    words = (MessagesWording if endpoint == MESSAGES else ResponsesWording)(1, "m", 3)
    told = words.first() + words.token(b'"a "') + words.last(b"stop", Counts(3, 1, 0.1, 0.1), include_usage=False)
    cut = told.rstrip().rindex(b"event: ")
    return told[:cut], told[cut:]


def chunks(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)


@asynccontextmanager
async def served(*answers: bytes, closes: bool = False, later: bytes = b"") -> AsyncIterator[House]:
    """Services r0, r1 … each of which has one answer for every request; `closes`: and ends the connection then.

    `later`: comes when the client has had something of the rest.
    """
    had = asyncio.Event()

    def service(answer: bytes) -> Callable[[Peer], Coroutine[Any, Any, None]]:
        async def serve(peer: Peer) -> None:
            while request := await peer.request():
                if request.startswith(b"GET"):
                    peer.send(JSON % (200, 2, b"{}"))
                    continue
                peer.send(answer)
                if later:
                    await had.wait()
                    peer.send(later)
                if closes:
                    return

        return serve

    async with _servers([service(answer) for answer in answers]) as ports:
        names = tuple(f"r{number}" for number in range(len(ports)))
        specs = [described(name, f"http://127.0.0.1:{port}/v1") for name, port in zip(names, ports, strict=True)]
        routes = [Route(("m",), names, strategy=Strategy.PRIORITY)]
        async with rig(*specs, routes=routes, real=True, gateway=GatewayPolicy(), cards=0) as it:
            for name in names:
                it[name].post(life.StartAsked("a test wants it"))
                await it.clock.until(lambda name=name: it.phase(name) is Phase.READY, f"{name} ready")  # type: ignore[misc]
            yield it, had


@asynccontextmanager
async def _servers(services: list[Callable[[Peer], Coroutine[Any, Any, None]]]) -> AsyncIterator[list[int]]:
    if not services:
        yield []
        return
    async with raw_server(services[0]) as server, _servers(services[1:]) as others:
        yield [server.port, *others]


async def asked(house: House, endpoint: str, *, stream: bool = True) -> tuple[Wire, StoredJob, SupervisorError | None]:
    """A request to its end: the client, the record, and the error that is still to be told."""
    (it, had), wire = house, Wire()
    submission = Submission(endpoint, "m", b'{"model":"m","messages":[],"input":""}', stream=stream)
    async with beside(it.supervisor.gateway.serve(submission, wire, lambda job_id: None)) as task:
        await it.clock.until(lambda: wire.body or task.done(), "something of the answer")
        had.set()
        await it.clock.until(lambda: wire.finished or task.done(), "the end of the answer")
        await it.pass_until(task.done)  # a moment for the log of a server that failed
        error = task.exception()
    assert error is None or isinstance(error, SupervisorError)
    stored = await it.store.job("job1")
    assert stored is not None
    return wire, stored, error


@pytest.mark.parametrize("endpoint", [MESSAGES, RESPONSES])
async def test_a_stream_is_whole_with_the_last_word_of_its_format(endpoint: str) -> None:
    most, last = whole(endpoint)
    async with served(HEAD + chunks(most, last) + END) as house:
        wire, stored, _ = await asked(house, endpoint)
        assert (wire.body, wire.finished) == (most + last, True)
        assert stored.status == "done"
        used = stored.attempts[0].usage
        assert (used.tokens_in, used.tokens_out) == (3, 1)


@pytest.mark.parametrize("endpoint", [MESSAGES, RESPONSES])
@pytest.mark.parametrize("closes", [True, False])
async def test_row_1_without_it_the_client_is_told_in_its_format_that_it_was_cut_off(
    endpoint: str, closes: bool
) -> None:
    most, last = whole(endpoint)
    async with served(HEAD + chunks(most) + (b"" if closes else END), closes=closes) as house:
        wire, stored, _ = await asked(house, endpoint)
        assert wire.body.startswith(most)
        event, data = wire.body.removeprefix(most).strip().split(b"\n")
        assert event == b"event: error"
        told = json.loads(data.removeprefix(b"data: "))
        assert told["type"] == "error"
        assert "cut off" in told["error"]["message"]
        assert last not in wire.body
        assert stored.status == "failed"
        reason = FailureReason.BACKEND_DIED if closes else FailureReason.STREAM_CUT
        assert stored.attempts[0].reason is reason


async def test_an_error_within_a_stream_gets_the_shape_that_anthropics_clients_read() -> None:
    most, _ = whole(MESSAGES)
    error = b'event: error\ndata: {"code":500,"message":"Compute error.","type":"server_error"}\n\n'
    async with served(HEAD + chunks(most), later=chunks(error) + END) as house:
        wire, stored, _ = await asked(house, MESSAGES)
        told = json.loads(wire.body.removeprefix(most).splitlines()[1].removeprefix(b"data: "))
        assert told == {
            "type": "error",
            "error": {"type": "api_error", "message": "Compute error."},
            "request_id": None,
        }
        assert (stored.status, stored.attempts[0].reason) == ("failed", FailureReason.BACKEND_ERROR)


async def test_a_response_that_failed_is_no_answer() -> None:
    failed = b'event: response.failed\ndata: {"type":"response.failed","response":{"status":"failed"}}\n\n'
    most, _ = whole(RESPONSES)
    async with served(HEAD + chunks(most), later=chunks(failed) + END) as house:
        wire, stored, _ = await asked(house, RESPONSES)
        assert (wire.body, stored.status) == (most + failed, "failed")


MISSING = JSON % (404, 22, b'{"detail":"Not Found"}')


async def test_a_backend_without_the_endpoint_is_passed_over_and_not_blamed() -> None:
    most, last = whole(MESSAGES)
    async with served(MISSING, HEAD + chunks(most, last) + END) as house:
        wire, stored, _ = await asked(house, MESSAGES)
        assert wire.body == most + last
        assert [attempt.reason for attempt in stored.attempts] == [FailureReason.ENDPOINT_MISSING, None]
        it, _ = house
        assert (it.phase("r0"), it["r0"].state.failed_in_row) == (Phase.READY, 0)


async def test_where_none_has_it_the_client_is_told_which_was_asked() -> None:
    async with served(MISSING) as house:
        wire, stored, error = await asked(house, MESSAGES, stream=False)
        assert isinstance(error, EndpointMissingError)
        assert (
            error.message == 'The backend "r0" does not offer /v1/messages: it answered 404 ({"detail":"Not Found"}).'
        )
        assert (wire.status, stored.status) == (None, "failed")


async def test_a_server_that_says_what_it_lacks_is_heard() -> None:
    said = b'{"error":{"code":501,"message":"Start it with --reranking","type":"not_supported_error"}}'
    async with served(JSON % (501, len(said), said)) as house:
        wire, stored, _ = await asked(house, "/v1/rerank", stream=False)
        assert (wire.status, wire.body, wire.headers["x-backend"]) == (501, said, "r0")
        assert stored.attempts[0].reason is FailureReason.ENDPOINT_MISSING
