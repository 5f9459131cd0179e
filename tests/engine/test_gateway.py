"""The way of a request, over real sockets to services that fail as they are told; time passes when a test says so."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from supervisord.core import life
from supervisord.core.errors import (
    BackendUnreachableError,
    DrainingError,
    JobCancelledError,
    ModelNotFoundError,
    QueueTimeoutError,
    StoreFullError,
    SupervisorError,
    TokenLimitError,
)
from supervisord.core.job import FailureReason, Submission
from supervisord.core.record import EventKind
from supervisord.core.routing import Parameters, Route, Strategy
from supervisord.core.state import Phase
from supervisord.engine.backend import Backend
from supervisord.engine.gateway import GatewayPolicy
from supervisord.engine.generation import Generation
from supervisord.engine.tries import LOG_LAG_S, TriesPolicy
from supervisord.ports import StoredJob
from supervisord.runtimes.base import BackendSpec
from tests.engine.rig import CHAT, Rig, Wire, rig
from tests.engine.rig import remote as described
from tests.fakes.raw_server import Peer, raw_server
from tests.fakes.remote import KEY, Remote, remote

Request = tuple[Wire, "asyncio.Task[None]"]


class House:
    """The engine between clients and services. Its requests are tasks that end with it."""

    def __init__(self, it: Rig, services: list[Remote]) -> None:
        self.it = it
        self.clock = it.clock
        self.services = services
        self.tasks: list[asyncio.Task[None]] = []

    def send(self, *, stream: bool = False, model: str = "m", body: bytes | None = None, **more: object) -> Request:
        """A client asks."""
        text = body or json.dumps({"model": model, "messages": [], "stream": stream}).encode()
        submission = Submission(CHAT, model, text, stream=stream, **more)  # type: ignore[arg-type]
        wire = Wire()
        serving = self.it.supervisor.gateway.serve(submission, wire, lambda job_id: None)
        task = asyncio.get_running_loop().create_task(serving)
        self.tasks.append(task)
        return wire, task

    async def ended(self, request: Request) -> Wire:
        """The answer, once it is whole; raises what the client would be told as an error."""
        wire, task = request
        await self.clock.until(task.done, "the end of the request")
        task.result()
        return wire

    async def refused(self, request: Request) -> SupervisorError:
        """The error that the client would be told; nothing was sent to it before."""
        wire, task = request
        await self.clock.until(task.done, "the end of the request")
        error = task.exception()
        assert isinstance(error, SupervisorError), error
        assert wire.status is None
        return error

    async def arrived(self, number: int = 0, requests: int = 1) -> None:
        """So many requests are at a service now."""
        await self.clock.until(lambda: self.services[number].in_flight == requests, "the request at the service")

    async def record(self, number: int = 1) -> StoredJob:
        """What the store has of a job."""
        found = await self.it.store.job(f"job{number}")
        assert found is not None
        return found


@asynccontextmanager
async def house(
    services: int = 1, *, route: Route | None = None, queue_timeout_s: float = 600.0, slots: int = 16, breaker: int = 3
) -> AsyncIterator[House]:
    """Services r0, r1 … that serve the model `m`, in this order, and are up."""
    async with stack(services) as remotes:
        names = tuple(f"r{number}" for number in range(services))
        specs: list[BackendSpec] = [
            described(name, service.url, KEY, slots=slots, breaker=breaker)
            for name, service in zip(names, remotes, strict=True)
        ]
        routes = [route or Route(("m", "alias"), names, strategy=Strategy.PRIORITY)]
        policy = GatewayPolicy(tries=TriesPolicy(queue_timeout_s=queue_timeout_s))
        async with rig(*specs, routes=routes, real=True, gateway=policy, cards=0) as it:
            for name in names:
                await ready(it, name)
            made = House(it, remotes)
            try:
                yield made
            finally:
                for task in made.tasks:
                    task.cancel()
                await asyncio.wait(made.tasks) if made.tasks else None


@asynccontextmanager
async def stack(count: int) -> AsyncIterator[list[Remote]]:
    if count == 0:
        yield []
        return
    async with remote() as service, stack(count - 1) as others:
        yield [service, *others]


async def ready(it: Rig, name: str) -> None:
    """Have a service asked over its real socket."""
    it[name].post(life.StartAsked("a test wants it"))
    await it.clock.until(lambda: it.phase(name) is Phase.READY, f"{name} ready")


def events(body: bytes) -> list[object]:
    """The data of a stream's events."""
    texts = [line[6:] for line in body.decode().split("\n") if line.startswith("data: ")]
    return [text if text == "[DONE]" else json.loads(text) for text in texts]


# --- served ----------------------------------------------------------------------------------------------------------


async def test_an_answer_is_handed_on_and_recorded() -> None:
    async with house() as it:
        wire = await it.ended(it.send())
        assert (wire.status, wire.finished) == (200, True)
        assert json.loads(wire.body)["choices"][0]["message"]["content"] == "r0 r1 r2 r3 "
        assert (wire.headers["x-backend"], wire.headers["x-job-id"]) == ("r0", "job1")
        stored = await it.record()
        assert stored.result is not None
        assert (stored.status, stored.result.backend, stored.result.attempts) == ("done", "r0", 1)
        assert stored.attempts[0].usage.tokens_out == 4
        assert it.it["r0"].state.served == 1
        assert it.it["r0"].latency_s is not None


async def test_usage_that_was_not_asked_for_is_recorded_and_not_shown() -> None:
    async with house() as it:
        wire = await it.ended(it.send(stream=True))
        assert it.services[0].requests[0]["stream_options"] == {"include_usage": True}
        assert events(wire.body)[-1] == "[DONE]"
        assert b"usage" not in wire.body
        assert (await it.record()).attempts[0].usage.tokens_out == 4
        asked = it.send(stream=True, body=b'{"model":"m","stream":true,"stream_options":{"include_usage":true}}')
        assert b'"usage"' in (await it.ended(asked)).body


async def test_what_a_models_parameters_say_is_sent() -> None:
    route = Route(("m",), ("r0",), parameters=Parameters(set={"temperature": "0"}, max_tokens_limit=100))
    async with house(route=route) as it:
        await it.ended(it.send())
        assert (it.services[0].requests[0]["temperature"], it.services[0].requests[0]["max_tokens"]) == (0, 100)
        body = b'{"model":"m","max_tokens":101}'
        assert isinstance(await it.refused(it.send(body=body, max_tokens=101)), TokenLimitError)
        assert await it.it.store.job("job2") is None, "what was never accepted has no record"


# --- waiting ---------------------------------------------------------------------------------------------------------


async def test_a_stream_that_waits_is_told_why_every_few_seconds_and_then_served() -> None:
    async with house(slots=1) as it:
        it.services[0].slow_s = 12.0
        first = it.send()
        await it.arrived()
        wire, task = it.send(stream=True)
        await it.clock.advance(4.9)
        assert wire.status is None
        await it.clock.advance(0.2)
        assert (wire.status, wire.headers["content-type"]) == (200, "text/event-stream")
        assert wire.headers["x-job-id"] == "job2"
        assert wire.body == b": waiting position=1 r0 is busy\n"
        await it.clock.advance(5)
        assert wire.body.count(b": waiting") == 2
        it.services[0].slow_s = 0.0
        await it.clock.advance(3)
        await it.ended(first)
        await it.ended((wire, task))
        told, _, stream = wire.body.rpartition(b": waiting position=1 r0 is busy\n")
        assert told.count(b"\n") == told.count(b":")
        assert events(stream)[-1] == "[DONE]"
        assert wire.finished
        assert (await it.record(2)).status == "done"


async def test_what_fails_after_the_first_comment_is_said_in_band() -> None:
    async with house(slots=1, queue_timeout_s=7.0) as it:
        it.services[0].hangs = True
        it.send()
        await it.arrived()
        wire, task = it.send(stream=True)
        plain = it.send()
        await it.clock.advance(7.5)
        await it.ended((wire, task))
        assert wire.status == 200
        error = events(wire.body)[-1]
        assert isinstance(error, dict)
        assert (error["error"]["code"], error["error"]["type"]) == ("queue_timeout", "supervisor_error")
        assert wire.finished
        assert (await it.record(2)).result.reason is FailureReason.QUEUE_TIMEOUT  # type: ignore[union-attr]
        assert isinstance(await it.refused(plain), QueueTimeoutError), "one that does not stream gets a status"


async def test_an_error_of_a_backend_after_the_first_comment_is_an_event_too() -> None:
    async with house(slots=1) as it:
        it.services[0].slow_s = 6.0
        first = it.send()
        await it.arrived()
        wire, task = it.send(stream=True)
        await it.clock.advance(5.5)
        it.services[0].status = 400
        await it.clock.advance(1)
        await it.ended(first)
        await it.ended((wire, task))
        assert wire.status == 200
        error = events(wire.body)[-1]
        assert isinstance(error, dict)
        assert error["error"]["message"] == "remote says 400"
        assert wire.finished


async def test_the_clients_own_patience_bounds_its_wait() -> None:
    async with house(slots=1) as it:
        it.services[0].hangs = True
        it.send()
        await it.arrived()
        waiting = it.send(patience_s=3.0)
        hurried = it.send(deadline_s=1.0)
        await it.clock.advance(1.1)
        assert (await it.refused(hurried)).code == "deadline_exceeded"
        assert not waiting[1].done()
        await it.clock.advance(2)
        assert (await it.refused(waiting)).code == "queue_timeout"


# --- tried again -----------------------------------------------------------------------------------------------------


async def test_what_one_backend_fails_is_tried_on_another_and_the_first_is_blamed() -> None:
    async with house(2) as it:
        it.services[0].status = 500
        request = it.send()
        await it.clock.until(lambda: it.services[0].requests)
        await it.clock.advance(1)
        wire = await it.ended(request)
        assert (wire.status, wire.headers["x-backend"]) == (200, "r1")
        stored = await it.record()
        assert stored.result is not None
        assert (stored.status, stored.result.attempts) == ("done", 2)
        assert [a.backend for a in stored.attempts] == ["r0", "r1"]
        assert (it.it["r0"].state.failed_in_row, it.it["r1"].state.failed_in_row) == (1, 0)
        assert it.it.told(EventKind.RETRY, "r0")
        assert it.services[0].requests == it.services[1].requests, "the same request"


async def test_a_service_that_is_gone_is_found_out_by_the_request_and_gets_no_more() -> None:
    async with house(2) as it:
        await it.services[0].down()
        wire = await it.ended(it.send(stream=True))
        assert wire.headers["x-backend"] == "r1"
        assert it.it.phase("r0") is not Phase.READY
        stored = await it.record()
        assert stored.attempts[0].reason in {FailureReason.BACKEND_UNREACHABLE, FailureReason.BACKEND_DIED}


async def test_when_all_fail_the_last_of_the_backends_own_errors_is_passed_on() -> None:
    async with house(2) as it:
        it.services[0].status = it.services[1].status = 500
        request = it.send()
        await pass_while(it, request)
        wire = await it.ended(request)
        assert wire.status == 500
        assert json.loads(wire.body)["error"]["message"] == "remote says 500"
        assert wire.headers["x-should-retry"] == "false"
        assert wire.headers["x-job-id"] == "job1"
        stored = await it.record()
        assert stored.result is not None
        assert stored.status == "failed"
        assert stored.result.attempts == len(stored.attempts) == 2
        assert (it.it["r0"].state.failed_in_row, it.it["r1"].state.failed_in_row) == (1, 1)


async def test_when_nothing_can_be_reached_it_is_our_own_error() -> None:
    async with house(route=Route(("m",), ("r0",)), queue_timeout_s=5.0) as it:
        await it.services[0].down()
        request = it.send()
        await pass_while(it, request)
        error = await it.refused(request)
        assert isinstance(error, BackendUnreachableError | QueueTimeoutError)
        assert (await it.record()).status == "failed"


async def test_what_the_client_did_wrong_is_not_tried_again_and_blames_nobody() -> None:
    async with house(2) as it:
        it.services[0].status = 400
        for number in range(1, 5):
            wire = await it.ended(it.send())
            assert wire.status == 400
            assert "x-should-retry" not in wire.headers
            assert len((await it.record(number)).attempts) == 1
        assert it.it["r0"].state.failed_in_row == 0
        assert it.services[1].requests == []


async def test_failed_requests_open_the_breaker_and_success_closes_it() -> None:
    async with house(2, breaker=3) as it:
        it.services[0].status = 500
        while not it.it["r0"].state.on_trial:
            assert it.it["r0"].state.failed_in_row < 3
            request = it.send()
            await pass_while(it, request)
            assert (await it.ended(request)).headers["x-backend"] == "r1"
        sent = len(it.services[0].requests)
        assert sent == 3
        assert (await it.ended(it.send())).headers["x-backend"] == "r1"
        assert len(it.services[0].requests) == sent, "none while it is open"
        it.services[0].status, it.services[0].hangs = 0, True
        await pass_until(it, lambda: it.it["r0"].state.deadline is None and it.it.phase("r0") is Phase.READY)
        tried = it.send()
        await it.arrived()
        assert (await it.ended(it.send())).headers["x-backend"] == "r1", "one at a time"
        assert it.services[0].in_flight == 1
        it.it.supervisor.dispatcher.cancel("job5")
        await it.refused(tried)
        it.services[0].hangs = False
        assert (await it.ended(it.send())).headers["x-backend"] == "r0"
        assert not it.it["r0"].state.on_trial
        assert it.it["r0"].state.failed_in_row == 0


# --- clients that leave ----------------------------------------------------------------------------------------------


async def test_a_client_that_leaves_while_it_waits_is_forgotten() -> None:
    async with house(slots=1) as it:
        it.services[0].hangs = True
        it.send()
        await it.arrived()
        for stream in (False, True):
            _, task = it.send(stream=stream)
            await it.clock.rest()
            task.cancel()
            await it.clock.until(task.done)
        assert len(it.it.supervisor.dispatcher.queue) == 0
        for number in (2, 3):
            stored = await it.record(number)
            assert (stored.status, stored.attempts) == ("cancelled", ())


async def test_a_client_that_leaves_while_it_is_served_cuts_the_backend_off_and_blames_nobody() -> None:
    cut = asyncio.Event()

    async def never_answers(peer: Peer) -> None:
        while request := await peer.request():
            if request.startswith(b"GET"):
                peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
                continue
            await peer.closed_by_client()
            cut.set()
            return

    async with raw_server(never_answers) as server:
        spec = described("r0", f"http://127.0.0.1:{server.port}/v1")
        async with rig(spec, routes=[Route(("m",), ("r0",))], real=True, cards=0) as it:
            await ready(it, "r0")
            made = House(it, [])
            _, task = made.send()
            await it.clock.until(lambda: it["r0"].state.in_flight)
            await it.clock.until(lambda: any(b"POST" in r for peer in server.peers for r in peer.requests))
            task.cancel()
            await it.clock.until(cut.is_set, "the end of the connection")
            assert it["r0"].state.in_flight == 0
            assert it["r0"].state.failed_in_row == 0
            assert it.phase("r0") is Phase.READY
            stored = await made.record()
            assert (stored.status, stored.attempts[0].reason) == ("cancelled", FailureReason.CLIENT_LEFT)


@pytest.mark.parametrize(
    ("error", "reason", "phase"),
    [
        (b'{"message":"boom","code":500}', FailureReason.BACKEND_ERROR, Phase.READY),
        (b'{"message":"EngineCore encountered an issue","code":500}', FailureReason.BACKEND_DIED, Phase.SUSPECT),
    ],
)
async def test_a_client_that_leaves_at_an_error_event_has_seen_the_backend_fail(
    monkeypatch: pytest.MonkeyPatch, error: bytes, reason: FailureReason, phase: Phase
) -> None:
    """SDKs raise at the event and close at once; the server may still have [DONE] to say."""
    begun = asyncio.Event()
    looks: list[Generation] = []
    look = Backend.lacks_memory
    monkeypatch.setattr(Backend, "lacks_memory", lambda self, at: looks.append(at) or look(self, at))

    async def fails(peer: Peer) -> None:
        while request := await peer.request():
            if request.startswith(b"GET"):
                peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
                continue
            events = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n', b'data: {"error":%b}\n\n' % error
            peer.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            for event in events:
                peer.send(b"%x\r\n%b\r\n" % (len(event), event))
                await begun.wait()
            await peer.closed_by_client()
            return

    async with raw_server(fails) as server:
        spec = described("r0", f"http://127.0.0.1:{server.port}/v1")
        async with rig(spec, routes=[Route(("m",), ("r0",))], real=True, cards=0) as it:
            await ready(it, "r0")
            made = House(it, [])
            wire, task = made.send(stream=True)
            await it.clock.until(lambda: wire.body)
            begun.set()
            await it.clock.until(lambda: b'"error"' in wire.body, "the error event")
            task.cancel()
            await it.clock.until(task.done)
            assert (it["r0"].state.in_flight, it["r0"].state.failed_in_row, it.phase("r0")) == (0, 1, phase)
            stored = await made.record()
            assert (stored.status, stored.attempts[0].reason) == ("failed", reason)
            await it.clock.advance(LOG_LAG_S)
            assert len(looks) == (reason is FailureReason.BACKEND_ERROR), "its log may say that it got no memory"


async def test_a_job_that_an_operator_cancels_is_told_so() -> None:
    async with house(slots=1) as it:
        it.services[0].hangs = True
        running = it.send()
        await it.arrived()
        waiting = it.send()
        await it.clock.rest()
        for number, request in ((2, waiting), (1, running)):
            assert it.it.supervisor.dispatcher.cancel(f"job{number}")
            assert isinstance(await it.refused(request), JobCancelledError)
            assert (await it.record(number)).status == "cancelled"
        assert it.it["r0"].state.failed_in_row == 0


# --- not accepted ----------------------------------------------------------------------------------------------------


async def test_what_cannot_be_accepted_is_refused_before_anything_is_sent() -> None:
    async with house() as it:
        assert isinstance(await it.refused(it.send(model="unknown")), ModelNotFoundError)
        it.it.store.fail()
        assert isinstance(await it.refused(it.send()), StoreFullError)
        it.it.store.heal()
        it.it.supervisor.tries.closed = "going down"
        assert isinstance(await it.refused(it.send()), DrainingError)
        assert it.services[0].requests == []
        assert len(it.it.supervisor.dispatcher.queue) == 0


async def test_a_store_that_breaks_later_costs_the_record_and_not_the_answer() -> None:
    async with house() as it:
        it.services[0].slow_s = 1.0
        request = it.send()
        await it.arrived()
        it.it.store.fail()
        await it.clock.advance(1)
        assert (await it.ended(request)).status == 200


async def pass_while(it: House, request: Request) -> None:
    """Let time pass until a request has ended: its attempts wait in between."""
    await pass_until(it, request[1].done)


async def pass_until(it: House, condition: Callable[[], bool]) -> None:
    """Let time pass, a little at a time, and sockets have their turn in between, until it is so."""
    for _ in range(2000):
        if condition():
            return
        await it.clock.advance(0.05)
        for _ in range(20):
            await asyncio.sleep(0)
    raise AssertionError("it did not come to pass")
