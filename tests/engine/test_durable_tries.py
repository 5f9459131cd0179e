"""Durable jobs whose backends, answers, store or daemon fail them."""

import asyncio
import copy
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import pytest
from typing_extensions import override

from supervisord.core.errors import DrainingError
from supervisord.core.job import FailureReason, JobStatus
from supervisord.core.output_check import Fits, Truncated, Verdict, Wrong
from supervisord.core.record import AttemptRecord, EventKind, JobRecord, JobResult
from supervisord.core.state import Phase
from supervisord.core.terms import Origin, OutputCheck, Terms
from supervisord.engine.outcome import AttemptOutcome
from supervisord.engine.tries import Ended
from supervisord.engine.work import tally as durable_tally
from supervisord.engine.work.kept import GiveUp, KeptAnswer, Recorder
from supervisord.engine.work.tally import Tally
from supervisord.ports import StoredJob
from tests.engine.overnight import Night, done, ids, night
from tests.engine.rig import Rig, beside, llama, rig
from tests.fakes.records import a_job, an_attempt
from tests.fakes.store import MemoryStore
from tests.fakes.told_servers import POISON, ToldServers

KILLED = -9
DAY = 86_400.0


# --- what a backend does ---------------------------------------------------------------------------------------------


async def test_a_job_that_fails_is_tried_again_after_a_rest_and_then_done() -> None:
    async with night() as it:
        it.services[0].status = 500
        job = await it.accept()
        await it.passes_until(lambda: it.it.told(EventKind.RETRY))
        assert (await it.job(job.job_id)).status == "queued"
        assert (await it.job(job.job_id)).failures == 1
        assert it.durable.waiting == 1
        it.services[0].status = 0
        stored = await it.passes_until_ended(job.job_id)
        assert done(stored)
        assert [(attempt.number, attempt.reason) for attempt in stored.attempts] == [
            (1, FailureReason.BACKEND_ERROR),
            (2, None),
        ]
        assert stored.result is not None
        assert stored.result.attempts == 2


async def test_after_so_many_tries_it_fails_with_its_last_reason_and_the_answer_there_was() -> None:
    async with night() as it:
        it.services[0].status = 500
        job = await it.accept(terms=Terms(Origin.JOB, max_attempts=2))
        stored = await it.passes_until_ended(job.job_id)
        assert stored.result is not None
        assert (stored.status, stored.result.reason) == ("failed", FailureReason.BACKEND_ERROR)
        assert stored.result.detail.endswith("it was tried 2 times")
        assert (stored.result.http_status, b"remote says 500" in (stored.result.output or b"")) == (500, True)
        assert len(it.messages()) == 2


async def test_a_job_with_a_single_try_is_tried_once() -> None:
    async with night() as it:
        it.services[0].status = 500
        job = await it.accept(terms=Terms(Origin.JOB, max_attempts=1))
        await it.passes_until_ended(job.job_id)
        assert len(it.messages()) == 1


async def test_a_request_that_the_backend_refuses_fails_at_once_with_its_answer() -> None:
    async with night() as it:
        it.services[0].status = 400
        job = await it.accept()
        stored = await it.passes_until_ended(job.job_id)
        assert stored.result is not None
        assert (stored.status, stored.result.reason) == ("failed", FailureReason.REQUEST_REJECTED)
        assert stored.result.http_status == 400
        assert len(it.messages()) == 1


async def test_another_backend_makes_good_what_one_has_failed() -> None:
    async with night(2) as it:
        it.services[0].status = 500
        job = await it.accept()
        stored = await it.passes_until_ended(job.job_id)
        assert done(stored)
        assert [attempt.backend for attempt in stored.attempts] == ["r0", "r1"]


async def test_a_service_that_is_away_costs_a_job_none_of_its_tries() -> None:
    async with night() as it:
        await it.services[0].down()
        job = await it.accept(terms=Terms(Origin.JOB, max_attempts=1))
        await it.passes_until(lambda: it.it.told(EventKind.RETRY))
        await it.clock.advance(300)
        await it.socket()
        assert (await it.job(job.job_id)).status in {"queued", "running"}
        await it.services[0].up()
        assert done(await it.passes_until_ended(job.job_id, within_s=900))


async def test_a_service_that_is_busy_for_a_day_and_more_will_not_do_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable_tally, "LONGEST_BUSY_S", 300.0)
    async with night() as it:
        it.services[0].status = 429
        job = await it.accept(terms=Terms(Origin.JOB, max_attempts=1))
        await it.passes_until(lambda: it.it.told(EventKind.RETRY))
        it.clock.jump_wall(DAY)  # somebody set the clock
        stored = await it.passes_until_ended(job.job_id, within_s=400)
        assert stored.result is not None
        assert (stored.status, stored.result.reason) == ("failed", FailureReason.BACKEND_BUSY)
        assert stored.result.detail.endswith("so it was for more than a day, at every try")
        assert len(stored.attempts) > 5
        assert stored.result.finished_at - DAY - stored.attempts[0].started_at >= 300


def test_one_try_that_found_it_free_begins_the_day_anew() -> None:
    busy = an_attempt(1, 1, status=JobStatus.FAILED, reason=FailureReason.BACKEND_BUSY)
    day = durable_tally.LONGEST_BUSY_S
    with_others = [
        replace(busy, started_at=0.0),
        replace(busy, started_at=day / 2, reason=FailureReason.BACKEND_ERROR),
        replace(busy, started_at=day - 1),
    ]
    for attempts, over in ((with_others, ""), (with_others[::2], "busy; so it was for more than a day, at every try")):
        assert tally(attempts, now=day + 1).is_over(ENDED) == over


def tally(attempts: list[AttemptRecord], now: float) -> Tally:
    job = replace(a_job(1), terms=Terms(Origin.JOB))
    stored = StoredJob(job, "queued", None, attempts=tuple(attempts))
    told = SimpleNamespace(failures=0, suspicion=SimpleNamespace(pardon=0), attempt=None, attempts=len(attempts))
    return Tally(stored, told, SimpleNamespace(now=now))  # type: ignore[arg-type]


ENDED = Ended(JobStatus.FAILED, FailureReason.BACKEND_BUSY, "busy", AttemptOutcome(JobStatus.FAILED))


# --- backends that go down -------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Mine:
    """Backends of ours, whose processes end as a request says."""

    it: Rig
    servers: ToldServers
    ended: dict[str, JobStatus] = field(default_factory=dict)

    async def lines(self, *words: str) -> list[JobRecord]:
        """A batch is accepted."""
        world = Night(self.it, ())
        records = [
            replace(world.line(number), body=world.asked(text).body) for number, text in enumerate(words, start=1)
        ]
        await self.it.supervisor.durable.accept_many(records)
        return records

    async def all_ended(self, records: list[JobRecord], within_s: float = 1200.0) -> list[StoredJob]:
        end = self.it.clock.monotonic() + within_s
        while any(record.id not in self.ended for record in records):
            assert self.it.clock.monotonic() < end, (self.ended, self.it.told(EventKind.RETRY)[-3:])
            await self.it.clock.advance(0.25)
        found = [await self.it.store.job(record.id) for record in records]
        return [stored for stored in found if stored is not None]


@asynccontextmanager
async def mine(slots: int) -> AsyncIterator[Mine]:
    made: list[ToldServers] = []

    def servers(clock: object, processes: object) -> ToldServers:
        made.append(ToldServers(clock, processes))  # type: ignore[arg-type]
        return made[0]

    policy = replace(llama("m").life, slots=slots)
    async with rig(llama("m", life=policy), upstream=servers, ids=ids()) as it:
        await it.up("m")
        it["m"].used(first_byte_s=0.1)
        here = Mine(it, made[0])
        it.supervisor.durable.on_ended(lambda end: here.ended.__setitem__(end.job.id, end.status))
        yield here


async def test_row_33_a_line_that_takes_its_backend_down_twice_is_poison_and_the_others_go_on() -> None:
    async with mine(slots=1) as it:
        records = await it.lines("a", POISON, "b", "c")
        stored = await it.all_ended(records)
        assert [each.status for each in stored] == ["done", "failed", "done", "done"]
        assert stored[1].result is not None
        assert stored[1].result.reason is FailureReason.POISON
        assert it.servers.seen.count(POISON) == 2


async def test_row_33_lines_that_run_beside_poison_are_done_and_suffer_once_each() -> None:
    async with mine(slots=4) as it:
        words = [f"line {number}" for number in range(1, 24)]
        words.insert(6, POISON)
        records = await it.lines(*words)
        stored = await it.all_ended(records)
        assert [each.job.terms.line for each in stored if each.job.terms and each.status != "done"] == [7]
        poisoned = stored[6].result
        assert poisoned is not None
        assert poisoned.reason is FailureReason.POISON
        assert it.servers.seen.count(POISON) <= 4
        suffered = [word for together in it.servers.together for word in together if word != POISON]
        assert len(suffered) == len(set(suffered)), "whoever went down with it once never runs beside it again"


async def test_deaths_from_outside_cost_a_job_none_of_its_tries() -> None:
    async with mine(slots=1) as it:
        it.servers.takes_s = 10.0
        (record,) = await it.lines("a")
        for _ in range(4):  # a fifth one would park it
            await it.it.pass_until(lambda: bool(it.servers.serving()), within_s=120)
            it.servers.ends(it.servers.serving()[0].address, KILLED)
            await it.it.pass_until(lambda: it.it.phase("m") is not Phase.READY)
        (stored,) = await it.all_ended([record])
        assert stored.status == "done"
        assert len(stored.attempts) == 5
        assert stored.failures == 0


# --- answers ---------------------------------------------------------------------------------------------------------


async def test_an_answer_that_is_too_long_to_keep_fails_and_is_not_tried_again() -> None:
    async with night() as it:
        it.durable.record_with(Origin.JOB, lambda job, tried, give_up: KeptAnswer(give_up, 64))
        job = await it.accept()
        (stored,) = await it.ended(job.job_id)
        assert stored.result is not None
        assert stored.result.reason is FailureReason.ANSWER_TOO_LARGE
        assert stored.result.detail == "the answer is longer than 64 bytes"
        assert (stored.result.output, len(it.messages())) == (None, 1)


@dataclass(slots=True)
class Checker:
    """`OutputChecker` that has its verdicts ready."""

    verdicts: list[Verdict]
    asked: list[bytes] = field(default_factory=list)

    async def accepts(self, check: OutputCheck, endpoint: str, request: bytes, client: str) -> None:
        """See `ports.OutputChecker`."""

    async def checked(self, check: OutputCheck, endpoint: str, request: bytes, answer: bytes, client: str) -> Verdict:
        """See `ports.OutputChecker`."""
        self.asked.append(answer)
        return self.verdicts.pop(0)

    async def close(self) -> None:
        """See `ports.OutputChecker`."""


CHECKED = Terms(Origin.JOB, check=OutputCheck('{"type":"object"}', retries=2))


@pytest.mark.parametrize(
    ("verdicts", "status", "reason", "detail"),
    [
        ([Fits()], "done", None, ""),
        ([Wrong("no"), Wrong("no"), Fits()], "done", None, ""),
        ([Wrong("one"), Wrong("two"), Wrong("three")], "failed", FailureReason.INVALID_OUTPUT, "three"),
        ([Wrong("a broken schema", again=False)], "failed", FailureReason.INVALID_OUTPUT, "a broken schema"),
        ([Truncated("cut off")], "failed", FailureReason.OUTPUT_TRUNCATED, "cut off"),
        ([Wrong("no"), Truncated("cut off")], "failed", FailureReason.OUTPUT_TRUNCATED, "cut off"),
    ],
)
async def test_an_answer_that_does_not_fit_is_asked_for_again_then_fails_and_is_kept(
    verdicts: list[Verdict], status: str, reason: FailureReason | None, detail: str
) -> None:
    checker = Checker(list(verdicts))
    async with night(outputs=checker) as it:
        job = await it.accept(terms=CHECKED)
        stored = await it.passes_until_ended(job.job_id)
        assert stored.result is not None
        assert (stored.status, stored.result.reason, stored.result.detail) == (status, reason, detail)
        assert stored.result.output == checker.asked[-1]
        assert stored.result.attempts == len(verdicts)
        assert len(it.messages()) == len(verdicts)


async def test_answers_that_did_not_fit_count_over_the_lives_of_the_daemon() -> None:
    store = MemoryStore()
    async with night(store=store, outputs=Checker([Wrong("one"), Wrong("two"), Fits()])) as it:
        it.services[0].slow_s = 1.0
        job = await it.accept(terms=CHECKED)
        await it.passes_until(lambda: len(it.messages()) == 3)
        crashed = copy.deepcopy(store)
        crashed._is_open = False
    async with night(store=crashed, first=100, outputs=Checker([Wrong("three"), Fits()])) as again:
        (stored,) = await again.in_the_end([(await again.job(job.job_id)).job])
        assert stored.result is not None
        assert (stored.result.reason, stored.result.detail) == (FailureReason.INVALID_OUTPUT, "three")


async def test_what_a_validator_quotes_is_in_the_record_and_not_told_to_the_log() -> None:
    async with night(outputs=Checker([Wrong("'a secret' is not a number", again=False)])) as it:
        told: list[JobResult] = []
        it.it.supervisor.journal.on_finished(lambda job, result, attempt: told.append(result))
        job = await it.accept(terms=CHECKED)
        (stored,) = await it.ended(job.job_id)
        assert stored.result is not None
        assert "a secret" in stored.result.detail
        assert [result.detail for result in told] == [""]


async def test_a_check_that_this_daemon_cannot_make_fails_the_job() -> None:
    async with night() as it:
        job = await it.accept(terms=CHECKED)
        (stored,) = await it.ended(job.job_id)
        assert stored.result is not None
        assert stored.result.reason is FailureReason.INVALID_OUTPUT


async def test_a_recorder_of_its_own_keeps_the_answers_of_an_origin() -> None:
    made: list[tuple[int, bytes | None]] = []

    class Shouting(KeptAnswer):
        @override
        def ended(self, result: JobResult) -> JobResult:
            return replace(result, detail=f"{result.status}!")

    def make(job: JobRecord, tried: int, give_up: GiveUp) -> Recorder:
        made.append((tried, job.body))
        return Shouting(give_up)

    async with night() as it:
        it.durable.record_with(Origin.RESPONSE, make)
        it.services[0].status = 500
        job = await it.accept(terms=Terms(Origin.RESPONSE))
        await it.passes_until(lambda: it.it.told(EventKind.RETRY))
        it.services[0].status = 0
        stored = await it.passes_until_ended(job.job_id)
        assert stored.result is not None
        assert stored.result.detail == "done!"
        assert made == [(0, it.asked().body), (1, it.asked().body)]
        it.it.supervisor.pause_queue()
        waits = await it.accept(terms=Terms(Origin.RESPONSE))
        cancelled = await it.durable.cancel(waits.job_id)
        assert cancelled is not None
        assert cancelled.result is not None
        assert cancelled.result.detail == "cancelled!", "also where it never ran"


async def test_a_fault_of_our_own_ends_one_job_and_no_other() -> None:
    def broken(job: JobRecord, tried: int, give_up: GiveUp) -> Recorder:
        if tried == 0 and made:
            return KeptAnswer(give_up)
        made.append(job.id)
        raise RuntimeError("a bug")

    made: list[str] = []
    async with night() as it:
        it.durable.record_with(Origin.BATCH, broken)
        lines = await it.lines(2)
        first, second = await it.ended(*(line.id for line in lines))
        assert first.result is not None
        assert (first.status, first.result.reason) == ("failed", FailureReason.INTERNAL)
        assert "a bug" in first.result.detail
        assert done(second)


@pytest.mark.parametrize("where", ["write", "finish", "ended"])
async def test_a_fault_of_our_own_in_what_takes_the_answer_ends_that_job_and_no_other(where: str) -> None:
    """One in the answer held its slot for ever, and the daemon in its drain; one at its end took the daemon down."""

    class Broken(KeptAnswer):
        @override
        def write(self, data: bytes) -> bool:
            self._perhaps("write")
            return super().write(data)

        @override
        def finish(self) -> None:
            self._perhaps("finish")

        @override
        def ended(self, result: JobResult) -> JobResult:
            self._perhaps("ended")
            return result

        def _perhaps(self, what: str) -> None:
            if what == where:
                raise RuntimeError("a bug")

    def broken(job: JobRecord, tried: int, give_up: GiveUp) -> Recorder:
        return KeptAnswer(give_up) if job.id == lines[1].id else Broken(give_up)

    reported: list[object] = []
    async with night() as it:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context["exception"]))
        it.durable.record_with(Origin.BATCH, broken)
        lines = [it.line(number) for number in (1, 2)]
        await it.durable.accept_many(lines)
        first, second = await it.ended(*(line.id for line in lines))
        assert first.result is not None
        assert (first.status, first.result.reason, first.result.output) == ("failed", FailureReason.INTERNAL, None)
        assert "RuntimeError" in first.result.detail
        assert done(second)
        assert len(reported) == (where != "ended")


# --- the store, and the end of the daemon ----------------------------------------------------------------------------


async def test_a_result_that_the_store_cannot_take_is_offered_until_it_can() -> None:
    class Slow(MemoryStore):
        refused = 0

        @override
        def put_result(self, result: JobResult) -> None:
            if self.refused < 3:
                self.refused += 1
                self.fail("the disk is slower than the work", full=False)
                raise self._trouble or AssertionError
            self.heal()
            super().put_result(result)

    async with night(store=Slow()) as it:
        job = await it.accept()
        assert done(await it.passes_until_ended(job.job_id))
        assert len(it.messages()) == 1


async def test_nothing_is_begun_while_the_store_cannot_keep_what_becomes_of_it() -> None:
    async with night() as it:
        it.it.supervisor.pause_queue()
        lines = await it.lines(3)
        it.store.fail()
        it.it.supervisor.resume_queue()
        await it.clock.advance(5)
        await it.socket()
        assert it.messages() == []
        assert "the store takes no writes" in it.durable.standing(await it.job(lines[0].id)).waits_for
        it.store.heal()
        await it.passes_until(lambda: len(it.ends) == 3)


async def test_going_down_gives_everything_back_and_the_next_life_does_it() -> None:
    store = MemoryStore()
    async with night(store=store) as it:
        it.services[0].hangs = True
        lines = await it.lines(6)
        await it.arrived(1)
        supervisor = it.it.supervisor
        supervisor.settings = replace(supervisor.settings, drain_s=1.0)
        going = asyncio.get_running_loop().create_task(supervisor.drain())
        await it.clock.rest()
        with pytest.raises(DrainingError):
            await it.accept()
        while not going.done():
            await it.clock.advance(0.1)
            await it.socket()
        going.result()
        assert [(await it.job(line.id)).status for line in lines] == ["queued"] * 6
        first = await it.job(lines[0].id)
        assert (first.attempt, first.failures) == (1, 0)
        assert [attempt.reason for attempt in first.attempts] == [FailureReason.DRAINING]
        assert it.it.told(EventKind.RETRY) == [], "this life tries nothing again"
    async with night(store=store, first=100) as again:
        stored = await again.in_the_end(lines)
        assert [each.status for each in stored] == ["done"] * 6
        assert stored[0].attempt == 2
        assert again.messages() == [f"line {number}" for number in range(1, 7)]


async def test_a_job_that_rests_is_not_begun_again_while_the_daemon_waits_for_another() -> None:
    async with night(slots=2) as it:
        it.services[0].hangs = True
        await it.accept("runs on")
        await it.arrived(1)
        it.services[0].hangs, it.services[0].status = False, 500
        rests = await it.accept("rests")
        await it.passes_until(lambda: it.it.told(EventKind.RETRY))
        async with beside(it.it.supervisor.drain()) as going:
            for _ in range(50):
                await it.clock.advance(0.1)
                await it.socket()
            assert not going.done()
            assert it.messages() == ["runs on", "rests"]
            it.it.supervisor.request_stop(at_once=True)
            await it.clock.advance(2)
            await it.clock.until(going.done, "the end of the drain")
        stored = await it.job(rests.job_id)
        assert (stored.status, stored.attempt, stored.failures) == ("queued", 1, 1)


async def test_what_a_backend_refuses_while_the_daemon_goes_down_is_refused_for_good() -> None:
    async with mine(slots=1) as it:
        it.servers.takes_s, it.servers.status = 5.0, 400
        (record,) = await it.lines("a")
        await it.it.pass_until(lambda: bool(it.servers.serving()))
        going = asyncio.get_running_loop().create_task(it.it.supervisor.drain())
        await it.it.pass_until(going.done)
        stored = await it.it.store.job(record.id)
        assert stored is not None
        assert stored.result is not None
        assert stored.result.reason is FailureReason.REQUEST_REJECTED


async def test_a_daemon_that_is_killed_costs_no_more_than_the_request_in_flight() -> None:
    store = MemoryStore()
    async with night(store=store) as it:
        it.services[0].slow_s = 1.0
        lines = await it.lines(6)
        await it.passes_until(lambda: len(it.ends) == 2)
        await it.arrived(1)
        done_before = {end.job.id for end in it.ends}
        crashed = copy.deepcopy(store)
        crashed._is_open = False
    async with night(store=crashed, first=100) as again:
        stored = await again.in_the_end(lines)
        assert all(each.status == "done" for each in stored)
        assert [each.interruptions for each in stored] == [0, 0, 1, 0, 0, 0]
        assert len(again.messages()) == 6 - len(done_before), "what was committed is not run again"


async def test_a_wait_ends_with_the_daemon() -> None:
    async with night() as it:
        it.services[0].hangs = True
        job = await it.accept()
        await it.arrived(1)
        waiting = asyncio.get_running_loop().create_task(it.durable.wait(job.job_id, 3600))
        await it.clock.rest()
        await it.durable.close()
        await it.clock.rest()
        stored = waiting.result()
        assert stored is not None
        assert stored.status == "queued"
