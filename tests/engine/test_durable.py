"""Durable work: accepted for good, run once, its answer kept."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from typing_extensions import override

from supervisord.core import life
from supervisord.core.errors import (
    DrainingError,
    IdempotencyMismatchError,
    ModelNotFoundError,
    QueueFullError,
    StoreFullError,
    StoreUnavailableError,
    TokenLimitError,
)
from supervisord.core.job import FailureReason, JobStatus, Priority, Submission
from supervisord.core.record import EventKind, KeyRecord
from supervisord.core.routing import Parameters, Route, Routes
from supervisord.core.state import Want
from supervisord.core.terms import Flow, Origin, OutputCheck, Terms
from supervisord.engine.work import acceptance
from supervisord.engine.work.bulletin import NewsKind
from supervisord.ports import StoredJob
from tests.engine.overnight import Night, done, night, up
from tests.engine.rig import CHAT, Wire, beside
from tests.fakes.store import MemoryStore


async def stop(it: Night) -> None:
    """An operator stops the service."""
    it.it["r0"].post(life.StopAsked("an operator wants it", Want.DOWN))
    await it.clock.rest()


async def start(it: Night) -> None:
    """An operator starts it again."""
    await up(it.it, "r0")


async def test_a_job_is_run_and_its_whole_answer_is_kept() -> None:
    async with night() as it:
        accepted = await it.accept()
        assert not accepted.known
        (stored,) = await it.ended(accepted.job_id)
        assert done(stored) == "r0 r1 r2 r3 "
        assert stored.result is not None
        assert (stored.result.http_status, stored.result.attempts) == (200, 1)
        assert stored.result.content_type.startswith("application/json")
        assert [end.status for end in it.ends] == [JobStatus.DONE]
        assert (it.durable.waiting, it.durable.backlog.held) == (0, 0)


# --- acceptance ------------------------------------------------------------------------------------------------------


async def test_the_same_key_and_request_are_the_same_job() -> None:
    async with night() as it:
        it.services[0].hangs = True
        first, second = await asyncio.gather(it.accept(key="k"), it.accept(key="k"))  # noqa: TID251 - two clients
        assert first.job_id == second.job_id
        assert {first.known, second.known} == {False, True}
        third = await it.accept(key="k", client="another")
        assert third.job_id != first.job_id, "each client has keys of its own"
        await it.arrived(1)
        assert len(it.messages()) == 1


async def test_two_that_come_with_a_key_at_the_same_time_make_one_job() -> None:
    class Slow(MemoryStore):
        @override
        async def known_key(self, client: str, key: str) -> KeyRecord | None:
            found = await super().known_key(client, key)
            await asyncio.sleep(0)
            return found

    async with night(store=Slow()) as it:
        async with beside(it.accept(key="k")) as first, beside(it.accept(key="k")) as second:
            await it.clock.rest()
            assert first.result().job_id == second.result().job_id
        assert len(it.durable._acceptance._turns._turns) == 0, "a key that nobody uses takes no room"


async def test_a_key_is_known_after_its_job_has_ended() -> None:
    async with night() as it:
        first = await it.accept(key="k")
        await it.ended(first.job_id)
        again = await it.accept(key="k")
        assert (again.job_id, again.known) == (first.job_id, True)
        assert len(it.messages()) == 1


async def test_a_key_of_another_request_is_refused() -> None:
    async with night() as it:
        first = await it.accept("one", key="k")
        with pytest.raises(IdempotencyMismatchError, match=first.job_id):
            await it.accept("two", key="k")
        await it.ended(first.job_id)
        assert it.messages() == ["one"]


@pytest.mark.parametrize(
    "other",
    [
        Terms(Origin.JOB, max_attempts=2, metadata={"a": "b"}),
        Terms(Origin.JOB, metadata={"a": "c"}),
        Terms(Origin.JOB, metadata={"a": "b"}, check=OutputCheck("{}")),
        Terms(Origin.RESPONSE, metadata={"a": "b"}),
    ],
)
async def test_a_key_of_a_request_on_other_terms_is_refused(other: Terms) -> None:
    async with night() as it:
        terms = Terms(Origin.JOB, metadata={"a": "b"}, deadline_at=it.clock.wall() + 60)
        await it.accept(terms=terms, key="k", deadline_s=60.0)
        with pytest.raises(IdempotencyMismatchError):
            await it.accept(terms=replace(other, deadline_at=terms.deadline_at), key="k", deadline_s=60.0)
        with pytest.raises(IdempotencyMismatchError):
            await it.accept(terms=terms, key="k", deadline_s=61.0)
        await it.clock.advance(5)
        later = replace(terms, deadline_at=it.clock.wall() + 60)
        again = await it.accept(terms=later, key="k", deadline_s=60.0, priority=Priority.HIGH)
        assert again.known, "the same deadline, asked for a little later"


async def test_a_long_request_is_known_by_its_key_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptance, "HASHED_AT_ONCE", 10)
    async with night() as it:
        first = await it.accept("one", key="k")
        assert (await it.accept("one", key="k")).job_id == first.job_id
        with pytest.raises(IdempotencyMismatchError):
            await it.accept("two", key="k")


async def test_a_key_of_a_batch_makes_no_job() -> None:
    async with night() as it:
        first = await it.accept(key="k")
        known = await it.store.known_key("", "k")
        assert known is not None
        it.store._keys["", "k"] = replace(known, job_id="", batch="batch_1")
        with pytest.raises(IdempotencyMismatchError, match="batch_1"):
            await it.accept(key="k")
        await it.ended(first.job_id)


async def test_what_a_key_has_made_is_told_whatever_is_refused_by_now() -> None:
    async with night(limit=1) as it:
        it.it.supervisor.pause_queue()
        first = await it.accept(key="k", client="ada", max_tokens=20)
        supervisor = it.it.supervisor
        supervisor.permits.models = {"ada": frozenset({"another"})}
        assert (await it.accept(key="k", client="ada", max_tokens=20)).job_id == first.job_id
        supervisor.dispatcher.route_by(Routes([Route(("m",), ("r0",), parameters=Parameters(max_tokens_limit=10))]))
        assert (await it.accept(key="k", client="ada", max_tokens=20)).job_id == first.job_id
        supervisor.dispatcher.route_by(Routes(()))
        assert (await it.accept(key="k", client="ada", max_tokens=20)).job_id == first.job_id
        supervisor.tries.closed = "going down"
        assert (await it.accept(key="k", client="ada", max_tokens=20)).job_id == first.job_id
        with pytest.raises(DrainingError):
            await it.accept(key="another", client="ada", max_tokens=20)


async def test_commits_that_may_yet_come_are_looked_for_with_one_timer_for_all() -> None:
    async with night() as it:
        it.store.fail("the disk is slow", full=False)
        lines = [it.line(number) for number in range(1, 501)]
        before = timers()
        with pytest.raises(StoreUnavailableError):
            await it.durable.accept_many(lines)
        for _ in range(3):
            with pytest.raises(StoreUnavailableError):
                await it.accept(priority=Priority.BATCH)
        assert timers() - before <= 1
        it.store.heal()
        await it.clock.advance(50)
        it.store.fail("again", full=False)
        with pytest.raises(StoreUnavailableError):
            await it.accept(priority=Priority.BATCH)
        it.store.heal()
        await it.store.accept(lines[:3])  # the first commit comes after all
        await it.clock.advance(11)
        await it.ended(*(line.id for line in lines[:3]))
        await it.store.accept(lines[3:5])  # and the last of them
        await it.clock.advance(60)
        await it.ended(*(line.id for line in lines[3:5]))
        await it.clock.advance(61)
        assert it.durable._acceptance._doubts == {}


def timers() -> int:
    """How many are set."""
    return len([each for each in asyncio.get_running_loop()._scheduled if not each.cancelled()])  # type: ignore[attr-defined]


async def test_what_no_backend_could_serve_is_not_accepted() -> None:
    limited = Route(("m",), ("r0",), parameters=Parameters(max_tokens_limit=10))
    async with night(routes=[limited]) as it:
        with pytest.raises(ModelNotFoundError):
            await it.accept(model="unheard-of")
        with pytest.raises(TokenLimitError):
            await it.accept(max_tokens=11)
        assert await it.store.flows() == {}


async def test_a_full_backlog_takes_no_more_and_what_it_has_is_served() -> None:
    async with night(limit=3) as it:
        it.services[0].hangs = True
        it.it.supervisor.pause_queue()
        lines = await it.lines(2)
        last = await it.accept()
        with pytest.raises(QueueFullError, match="limit is 3") as refusal:
            await it.accept()
        assert refusal.value.depth == 3
        with pytest.raises(QueueFullError):
            await it.lines(1)
        it.services[0].hangs = False
        it.it.supervisor.resume_queue()
        await it.ended(last.job_id, *(line.id for line in lines))
        await it.accept()


async def test_a_store_that_cannot_take_it_refuses_it_for_good() -> None:
    async with night() as it:
        it.store.fail()
        with pytest.raises(StoreFullError):
            await it.accept()
        it.store.heal()
        assert await it.store.flows() == {}
        accepted = await it.accept()
        await it.ended(accepted.job_id)


async def test_a_client_that_leaves_in_the_moment_of_acceptance_leaves_its_job_behind() -> None:
    async with night() as it:
        leaving = asyncio.get_running_loop().create_task(it.accept())
        await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        await it.clock.until(lambda: it.ends, "the end of the job")
        assert len(it.messages()) == 1


@pytest.mark.parametrize("fresh", [True, False])
async def test_a_body_that_could_just_be_read_when_it_was_accepted_costs_nobody_else_anything(fresh: bool) -> None:
    """It kept its place in memory for ever, and took down each life of the daemon that read it from the store."""
    deep = Submission(CHAT, "m", b'{"model":"m","messages":' + b"[" * 5000 + b"]" * 5000 + b"}")
    async with night() as it:
        if not fresh:
            it.it.supervisor.pause_queue()
        jobs = [await it.durable.accept(deep, Terms(Origin.JOB, max_attempts=1)) for _ in range(5)]
        last = await it.accept("another")
        if not fresh:
            it.it.supervisor.resume_queue()
        ended = [await it.passes_until_ended(job.job_id) for job in jobs]
        assert [each.status for each in ended] == ["failed"] * 5
        assert done(await it.passes_until_ended(last.job_id))
        assert it.durable.backlog.held == 0


async def test_the_parameters_of_a_model_are_put_in_when_it_runs_and_not_kept() -> None:
    async with night(routes=[Route(("m",), ("r0",), parameters=Parameters(default={"seed": "7"}))]) as it:
        it.it.supervisor.pause_queue()
        accepted = await it.accept()
        assert b"seed" not in ((await it.job(accepted.job_id)).job.body or b"")
        it.it.supervisor.resume_queue()
        await it.ended(accepted.job_id)
        assert it.services[0].requests[0]["seed"] == 7


# --- order -----------------------------------------------------------------------------------------------------------


async def test_lines_of_a_batch_run_in_their_order_a_few_of_them_in_memory() -> None:
    async with night() as it:
        lines = await it.lines(30)
        most = 0
        while len(it.ends) < len(lines):
            most = max(most, it.durable.backlog.held)
            await asyncio.sleep(0)
        assert most == 4, "twice the slots, and at least four"
        assert it.messages() == [f"line {number}" for number in range(1, 31)]
        assert all(done(stored) for stored in await it.ended(*(line.id for line in lines)))


async def test_as_many_lines_run_at_once_as_there_are_slots() -> None:
    async with night(slots=3) as it:
        it.services[0].slow_s = 5.0
        await it.lines(20)
        await it.arrived(3)
        await it.socket()
        assert (it.services[0].in_flight, it.durable.backlog.held) == (3, 6)


async def test_a_client_with_a_single_job_does_not_wait_for_the_whole_batch_of_another() -> None:
    async with night() as it:
        it.services[0].slow_s = 1.0
        await it.lines(20, client="much")
        terms = Terms(Origin.JOB)
        single = await it.accept("single", terms, client="little", priority=Priority.BATCH)
        await it.passes_until_ended(single.job_id)
        assert it.messages().index("single") <= 2


async def test_what_a_client_waits_for_goes_before_lines_of_a_batch() -> None:
    async with night() as it:
        it.services[0].slow_s = 1.0
        await it.lines(20)
        await it.arrived(1)
        wire = Wire()
        async with beside(it.it.supervisor.gateway.serve(it.asked("now"), wire, lambda job_id: None)) as serving:
            while not serving.done():
                await it.clock.advance(0.1)
                await it.socket()
            serving.result()
        assert it.messages().index("now") == 1


async def test_durable_jobs_take_no_places_in_the_queue_of_those_who_wait() -> None:
    async with night() as it:
        it.services[0].hangs = True
        await it.lines(20)
        await it.arrived(1)
        queue = it.it.supervisor.dispatcher.queue
        queue.limit_by(type(queue._policy)(limit=1))
        async with beside(it.it.supervisor.gateway.serve(it.asked("one"), Wire(), lambda job_id: None)):
            await it.clock.rest()
            assert len(queue) == 4
            with pytest.raises(QueueFullError, match="1 jobs wait"):
                await it.it.supervisor.gateway.serve(it.asked("two"), Wire(), lambda job_id: None)
            await it.accept(client="another")
            await it.clock.rest()
            assert len(queue) == 5, "and they get places in it when it is full"


# --- what keeps it from running --------------------------------------------------------------------------------------


async def test_a_job_waits_for_a_backend_that_is_stopped_and_says_so() -> None:
    async with night(ready=False) as it:
        await stop(it)
        lines = await it.lines(3)
        await it.socket()
        assert (it.durable.backlog.held, it.durable.waiting) == (0, 3)
        (view,) = it.durable.flows()
        assert (view.waiting, view.held) == (3, 0)
        assert "supctl start r0" in view.why
        assert it.durable.standing(await it.job(lines[0].id)).waits_for == view.why
        await start(it)
        await it.ended(*(line.id for line in lines))


async def test_jobs_in_the_queue_go_back_to_the_store_when_their_backend_is_stopped() -> None:
    async with night() as it:
        it.services[0].hangs = True
        lines = await it.lines(3)
        await it.arrived(1)
        await it.clock.until(lambda: it.durable.backlog.held == 3)
        it.services[0].hangs = False
        await stop(it)
        await it.clock.until(lambda: it.durable.backlog.held <= 1, "the queue to be empty")
        await it.clock.advance(120)
        await it.socket()
        assert it.durable.backlog.held == 0
        assert [(await it.job(line.id)).status for line in lines] == ["queued"] * 3
        await start(it)
        await it.ended(*(line.id for line in lines))


async def test_a_paused_queue_begins_nothing_and_says_why() -> None:
    async with night() as it:
        it.it.supervisor.pause_queue("maintenance")
        it.it.supervisor.pause_queue("maintenance")
        job = await it.accept()
        await it.socket()
        assert it.messages() == []
        assert it.durable.flows()[0].why == "maintenance"
        serve = it.it.supervisor.gateway.serve
        async with (
            beside(serve(it.asked("sync"), Wire(), lambda job_id: None)),
            beside(serve(it.asked("another"), Wire(), lambda job_id: None)),
        ):
            await it.socket()
            assert it.messages() == []
            it.it.supervisor.resume_queue()
            await it.ended(job.job_id)
        assert it.it.told(EventKind.DISPATCH_PAUSED) == ["nothing is dispatched: maintenance"]
        assert len(it.it.told(EventKind.DISPATCH_RESUMED)) == 1


# --- ending it -------------------------------------------------------------------------------------------------------


async def test_a_job_that_waits_in_the_store_is_cancelled_there() -> None:
    async with night() as it:
        it.it.supervisor.pause_queue()
        job = await it.accept()
        cancelled = await it.durable.cancel(job.job_id)
        assert cancelled is not None
        assert cancelled.status == JobStatus.CANCELLED
        assert it.durable.waiting == 0
        it.it.supervisor.resume_queue()
        await it.socket()
        assert it.messages() == []
        assert [(end.job.id, end.status) for end in it.ends] == [(job.job_id, JobStatus.CANCELLED)]


async def test_a_job_that_waits_in_the_queue_and_one_that_runs_are_cancelled() -> None:
    async with night() as it:
        it.services[0].hangs = True
        lines = await it.lines(2)
        await it.arrived(1)
        await it.clock.until(lambda: it.durable.backlog.held == 2)
        for line in reversed(lines):
            cancelled = await it.durable.cancel(line.id, "the user has thought better of it")
            assert cancelled is not None
            assert cancelled.status == JobStatus.CANCELLED
            assert cancelled.result is not None
            assert cancelled.result.detail == "the user has thought better of it"
        assert (it.durable.waiting, it.durable.backlog.held) == (0, 0)


async def test_a_job_that_is_ended_in_the_moment_in_which_it_is_begun_has_ended() -> None:
    async with night() as it:
        it.it.supervisor.pause_queue()
        job = await it.accept()
        it.durable._begin(await it.job(job.job_id))
        it.durable._runs[job.job_id].end(JobStatus.CANCELLED, FailureReason.CANCELLED, "at once")
        (stored,) = await it.ended(job.job_id)
        assert (stored.status, it.durable._runs) == ("cancelled", {})


async def test_a_job_that_has_ended_is_not_cancelled_any_more() -> None:
    async with night() as it:
        job = await it.accept()
        await it.ended(job.job_id)
        stored = await it.durable.cancel(job.job_id)
        assert stored is not None
        assert stored.status == JobStatus.DONE
        assert await it.durable.cancel("no-such-job") is None


async def test_a_synchronous_job_is_cancelled_by_its_id_too() -> None:
    async with night() as it:
        it.services[0].hangs = True
        ids: list[str] = []
        async with beside(it.it.supervisor.gateway.serve(it.asked(), Wire(), ids.append)) as serving:
            await it.arrived(1)
            stored = await it.durable.cancel(ids[0])
            assert stored is not None
            assert stored.status == JobStatus.CANCELLED
            await it.clock.until(serving.done)
            assert serving.exception() is not None


async def test_a_job_that_rests_between_its_tries_is_cancelled() -> None:
    async with night() as it:
        it.services[0].status = 500
        job = await it.accept()
        await it.passes_until(lambda: it.it.told(EventKind.RETRY))
        cancelled = await it.durable.cancel(job.job_id)
        assert cancelled is not None
        assert (cancelled.status, len(it.messages())) == (JobStatus.CANCELLED, 1)


@pytest.mark.parametrize("running", [False, True])
async def test_the_lines_of_a_batch_are_ended_wherever_they_are(running: bool) -> None:
    async with night() as it:
        it.services[0].hangs = True
        lines = await it.lines(20)
        other = await it.lines(1, batch="b2", model="alias")
        await it.arrived(1)
        await it.clock.until(lambda: it.durable.backlog.held == 5)
        count = await it.durable.end_batch(
            "b1", JobStatus.CANCELLED, FailureReason.CANCELLED, "the batch was cancelled", running=running
        )
        assert count == (20 if running else 19)
        states = [(await it.job(line.id)).status for line in lines]
        assert states[1:] == ["cancelled"] * 19
        assert states[0] == ("cancelled" if running else "running")
        assert it.durable.waiting == (0 if running else 1)
        assert (await it.job(other[0].id)).status in {"queued", "running"}


async def test_whoever_waits_for_a_line_of_a_batch_that_is_ended_is_told() -> None:
    async with night() as it:
        it.it.supervisor.pause_queue()
        lines = await it.lines(3)
        async with beside(it.durable.wait(lines[2].id, 60.0)) as waiting:
            await it.clock.rest()
            await it.durable.end_batch("b1", JobStatus.FAILED, FailureReason.DEADLINE_EXCEEDED, "too late")
            await it.clock.rest()
            stored = waiting.result()
        assert stored is not None
        assert (stored.status, stored.result and stored.result.reason) == ("failed", "deadline_exceeded")


async def test_lines_that_are_read_while_their_batch_is_ended_are_not_begun() -> None:
    gate = asyncio.Event()

    class Gated(MemoryStore):
        @override
        async def waiting(self, flow: Flow, *, after: str, limit: int, most_bytes: int) -> Sequence[StoredJob]:
            found = await super().waiting(flow, after=after, limit=limit, most_bytes=most_bytes)
            await gate.wait()
            return found

    async with night(store=Gated()) as it:
        lines = await it.lines(3)
        await it.clock.rest()
        await it.durable.end_batch("b1", JobStatus.CANCELLED, FailureReason.CANCELLED, "the batch was cancelled")
        gate.set()
        await it.socket()
        assert [(await it.job(line.id)).status for line in lines] == ["cancelled"] * 3
        assert (it.messages(), it.durable.backlog.held, it.durable.flows()) == ([], 0, [])


async def test_a_line_whose_try_fails_while_its_batch_is_ended_is_not_tried_again() -> None:
    """It was ended in the store while it rested in memory, and then ran once more and was told as done."""
    gate = asyncio.Event()

    class Gated(MemoryStore):
        @override
        async def end_waiting(self, batch: str, *, status: str, reason: str, detail: str) -> Mapping[Flow, int]:
            await gate.wait()
            return await super().end_waiting(batch, status=status, reason=reason, detail=detail)

    async with night(store=Gated()) as it:
        it.services[0].hangs = True
        (line,) = await it.lines(1)
        await it.arrived(1)
        late = JobStatus.FAILED, FailureReason.DEADLINE_EXCEEDED, "too late"
        async with beside(it.durable.end_batch("b1", *late)) as ending:
            await it.clock.rest()
            it.it.supervisor.dispatcher.leases.break_off(line.id, FailureReason.BACKEND_DIED, "it died")
            await it.clock.until(lambda: it.durable.backlog.held == 0, "the end of its line")
            gate.set()
            await it.clock.until(ending.done, "the end of the batch")
        it.services[0].hangs = False
        await it.clock.advance(5)
        await it.socket()
        assert it.messages() == ["line 1"]
        stored = await it.job(line.id)
        assert (stored.status, stored.result and stored.result.reason) == ("failed", "deadline_exceeded")
        assert [end.status for end in it.ends] == [JobStatus.FAILED]
        assert it.durable.waiting == 0


async def test_a_batch_that_could_not_be_ended_goes_on() -> None:
    async with night() as it:
        it.it.supervisor.pause_queue()
        lines = await it.lines(3)
        it.store.fail()
        with pytest.raises(StoreFullError):
            await it.durable.end_batch("b1", JobStatus.CANCELLED, FailureReason.CANCELLED, "cancelled")
        it.store.heal()
        it.it.supervisor.resume_queue()
        await it.clock.advance(2)
        await it.ended(*(line.id for line in lines))


# --- deadlines -------------------------------------------------------------------------------------------------------


def by(it: Night, seconds: float) -> Terms:
    return Terms(Origin.JOB, deadline_at=it.clock.wall() + seconds)


async def test_a_job_in_the_queue_fails_at_its_deadline_and_says_what_it_waited_for() -> None:
    async with night() as it:
        it.services[0].hangs = True
        await it.accept()
        await it.arrived(1)
        late = await it.accept(terms=by(it, 30))
        stored = await it.passes_until_ended(late.job_id)
        assert stored.result is not None
        assert (stored.status, stored.result.reason) == ("failed", FailureReason.DEADLINE_EXCEEDED)
        assert stored.result.detail == "It was not done before its deadline (r0 is busy)."
        assert stored.result.finished_at - stored.job.submitted_at == pytest.approx(30, abs=0.2)


async def test_a_job_whose_deadline_is_over_is_not_begun() -> None:
    async with night() as it:
        late = await it.accept(terms=by(it, -1))
        (stored,) = await it.ended(late.job_id)
        assert stored.result is not None
        assert (stored.result.reason, it.messages()) == (FailureReason.DEADLINE_EXCEEDED, [])


async def test_a_job_that_runs_is_cut_off_at_its_deadline_and_not_tried_again() -> None:
    async with night(2) as it:
        it.services[0].hangs = True
        late = await it.accept(terms=by(it, 30))
        await it.arrived(1)
        stored = await it.passes_until_ended(late.job_id)
        assert stored.result is not None
        assert stored.result.reason is FailureReason.DEADLINE_EXCEEDED
        assert [attempt.reason for attempt in stored.attempts] == [FailureReason.DEADLINE_EXCEEDED]
        assert it.services[1].requests == []


async def test_a_job_in_the_store_fails_at_its_deadline() -> None:
    async with night() as it:
        it.it.supervisor.pause_queue()
        late = await it.accept(terms=by(it, 30))
        fine = await it.accept()
        await it.clock.advance(29)
        assert (await it.job(late.job_id)).status == "queued"
        stored = await it.passes_until_ended(late.job_id)
        assert stored.result is not None
        assert stored.result.reason is FailureReason.DEADLINE_EXCEEDED
        assert it.durable.waiting == 1
        it.it.supervisor.resume_queue()
        await it.ended(fine.job_id)


# --- waiting for it --------------------------------------------------------------------------------------------------


async def test_a_client_waits_for_the_end_of_a_job() -> None:
    async with night() as it:
        it.services[0].slow_s = 3.0
        job = await it.accept()
        async with beside(it.durable.wait(job.job_id, 60.0)) as waiting:
            await it.passes_until_ended(job.job_id)
            await it.clock.rest()
            stored = waiting.result()
        assert stored is not None
        assert done(stored)
        ended = await it.durable.wait(job.job_id, 60.0)
        assert ended == stored
        assert await it.durable.wait("no-such-job", 60.0) is None


async def test_a_client_that_has_waited_for_long_enough_is_told_how_it_is() -> None:
    async with night() as it:
        it.services[0].hangs = True
        job = await it.accept()
        await it.arrived(1)
        at_once = await it.durable.wait(job.job_id, 0)
        assert at_once is not None
        assert at_once.status == "running"
        async with beside(it.durable.wait(job.job_id, 20.0)) as waiting:
            await it.clock.advance(19)
            assert not waiting.done()
            await it.clock.advance(2)
            stored = waiting.result()
        assert stored is not None
        assert stored.status == "running"


async def test_a_result_is_told_only_once_it_is_safe() -> None:
    async with night() as it:
        it.services[0].slow_s = 1.0
        job = await it.accept()
        await it.arrived(1)
        async with beside(it.durable.wait(job.job_id, 60.0)) as waiting:
            it.store.fail()
            await it.clock.advance(1.5)
            await it.socket()
            await it.clock.advance(5)
            assert it.ends == []
            assert not waiting.done()
            it.store.heal()
            await it.clock.advance(2)
            stored = waiting.result()
        assert stored is not None
        assert done(stored)


async def test_the_news_of_a_job_are_told_in_order() -> None:
    async with night() as it:
        it.services[0].status = 500
        it.it.supervisor.pause_queue()
        job = await it.accept()
        with it.durable.bulletin.follow(job.job_id) as follower:
            it.it.supervisor.resume_queue()
            await it.passes_until(lambda: it.it.told(EventKind.RETRY))
            it.services[0].status = 0
            await it.passes_until_ended(job.job_id)
            news = [await follower.next(1.0) for _ in range(4)]
        assert [each and (each.kind, each.status, each.attempt) for each in news] == [
            (NewsKind.STARTED, JobStatus.RUNNING, 1),
            (NewsKind.REQUEUED, JobStatus.QUEUED, 1),
            (NewsKind.STARTED, JobStatus.RUNNING, 2),
            (NewsKind.ENDED, JobStatus.DONE, 2),
        ]
