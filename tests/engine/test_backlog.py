"""What is read of the store while things change: nothing is begun twice, nothing is passed over."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial

import pytest
from typing_extensions import override

from supervisord.core.errors import QueueFullError, StoreUnavailableError
from supervisord.core.job import JobStatus
from supervisord.core.record import JobRecord, JobResult
from supervisord.core.routing import Route, Routes
from supervisord.core.terms import Flow, Origin, Terms
from supervisord.engine.work import backlog_room as module
from supervisord.engine.work.backlog import Backlog, BacklogPolicy, flow_of
from supervisord.ports import StoredJob
from tests.engine.rig import CHAT, Rig, llama, rig
from tests.fakes.store import MemoryStore


class Gated(MemoryStore):
    """Shows what waits as it was when it was asked, and tells it when `gate` is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()
        self.reads = 0

    @override
    async def waiting(self, flow: Flow, *, after: str, limit: int, most_bytes: int) -> Sequence[StoredJob]:
        self.reads += 1
        found = await super().waiting(flow, after=after, limit=limit, most_bytes=most_bytes)
        await self.gate.wait()
        return found


@dataclass(slots=True)
class Reader:
    """A backlog, and what it has begun."""

    it: Rig
    store: Gated
    made: Backlog = field(init=False)
    begun: list[str] = field(default_factory=list)

    def job(self, number: int, model: str = "m", client: str = "", priority: int = 1, size: int = 2) -> JobRecord:
        body, terms = b" " * (size - 2) + b"{}", Terms(Origin.JOB)
        name = f"job{number:04}"
        return JobRecord(name, CHAT, model, priority, False, client, 0.0, None, None, body, terms)

    async def accept(self, *jobs: JobRecord) -> None:
        """They are in the store, and the backlog has been told."""
        await self.store.accept(jobs)
        for flow in {flow_of(job): None for job in jobs}:
            mine = [job.id for job in jobs if flow_of(job) == flow]
            self.made.added_many(flow, len(mine), min(mine))
        await self.it.clock.rest()

    async def end(self, *jobs: JobRecord) -> None:
        for job in jobs:
            self.store.put_result(JobResult(job.id, JobStatus.DONE, 0.0, 0.0, 1))
            self.made.changed(flow_of(job), -1)
            self.made.left(job.id, flow_of(job))
        await self.it.clock.rest()

    async def all_ended(self, *jobs: JobRecord, most: int = 100) -> None:
        """They end one by one, the first that was begun first, and each was begun once."""
        by_id = {job.id: job for job in jobs}
        while held := [name for name in self.begun if not self.store._entries[name].result]:
            assert len(held) <= most
            await self.end(by_id[held[0]])
        assert sorted(self.begun) == sorted(by_id)
        assert (self.made.waiting, self.made.held) == (0, 0)


@asynccontextmanager
async def reader(slots: int = 1, limit: int = 100, store: Gated | None = None) -> AsyncIterator[Reader]:
    policy = replace(llama("m").life, slots=slots)
    routes = [Route(("m", "alias"), ("m",)), Route(("n",), ("n",))]
    async with rig(llama("m", life=policy), llama("n"), routes=routes) as it:
        store = store or Gated()
        await store.open()
        made = Reader(it, store)

        def begin(stored: StoredJob) -> None:
            made.begun.append(stored.job.id)

        made.made = Backlog(store, it.supervisor.dispatcher, it.clock, BacklogPolicy(limit), begin=begin)
        task = asyncio.get_running_loop().create_task(made.made.run())
        try:
            yield made
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def test_a_flow_is_fed_a_few_at_a_time_and_more_as_they_leave() -> None:
    async with reader() as it:
        jobs = [it.job(number) for number in range(1, 11)]
        await it.accept(*jobs)
        assert it.begun == [job.id for job in jobs[:4]]
        await it.end(jobs[1], jobs[0])
        assert it.begun == [job.id for job in jobs[:6]]
        assert (it.made.waiting, it.made.held) == (8, 4)


async def test_more_slots_are_fed_more() -> None:
    async with reader(slots=8) as it:
        await it.accept(*[it.job(number) for number in range(1, 40)])
        assert len(it.begun) == 16


async def test_every_client_and_class_has_a_line_of_its_own_the_urgent_one_first() -> None:
    async with reader() as it:
        it.it.supervisor.dispatcher.hold("wait")
        await it.accept(*[it.job(number, priority=2) for number in range(1, 9)])
        await it.accept(it.job(20, client="b", priority=2), it.job(21, priority=0))
        it.it.supervisor.dispatcher.hold("")
        it.made.touch()
        await it.it.clock.rest()
        assert it.begun[0] == "job0021"
        assert set(it.begun) == {"job0021", "job0020", "job0001", "job0002", "job0003", "job0004"}


async def test_what_leaves_while_the_store_is_read_is_not_begun_once_more() -> None:
    async with reader() as it:
        jobs = [it.job(number) for number in range(1, 4)]
        await it.accept(*jobs[:2])
        it.store.gate.clear()
        await it.accept(jobs[2])
        it.made.returned(jobs[0].id, flow_of(jobs[0]))  # from now on it is to be read again
        await it.it.clock.rest()
        await it.end(jobs[1])
        it.store.gate.set()
        await it.it.clock.rest()
        assert sorted(it.begun) == [jobs[0].id, jobs[0].id, jobs[1].id, jobs[2].id]


async def test_what_ends_in_the_store_while_it_is_read_is_not_begun() -> None:
    async with reader() as it:
        job = it.job(1)
        it.store.gate.clear()
        await it.accept(job)
        await it.end(job)
        it.store.gate.set()
        await it.it.clock.rest()
        assert it.begun == []
        assert (it.made.waiting, it.made.flows()) == (0, [])


async def test_one_that_was_committed_behind_a_later_one_is_not_passed_over() -> None:
    async with reader() as it:
        await it.accept(it.job(5))
        await it.accept(it.job(3))
        it.store.gate.clear()
        await it.accept(it.job(9))
        await it.accept(it.job(1))
        it.store.gate.set()
        await it.it.clock.rest()
        assert it.begun == ["job0005", "job0003", "job0009", "job0001"]


async def test_one_that_comes_when_nothing_else_waits_is_begun_without_asking_the_store() -> None:
    async with reader() as it:
        job = it.job(1)
        await it.store.accept([job])
        it.made.added(StoredJob(job, "queued", None))
        assert (it.begun, it.store.reads) == ([job.id], 0)
        other = it.job(2, model="n")
        it.it.supervisor.dispatcher.hold("wait")
        await it.store.accept([other])
        it.made.added(StoredJob(other, "queued", None))
        it.it.supervisor.dispatcher.hold("")
        it.made.touch()
        await it.it.clock.rest()
        assert it.begun == [job.id, other.id]


async def test_one_that_comes_does_not_go_before_those_that_wait_already() -> None:
    async with reader() as it:
        it.store.gate.clear()
        await it.accept(it.job(1), it.job(2))
        job = it.job(3)
        await it.store.accept([job])
        it.made.added(StoredJob(job, "queued", None))
        assert it.begun == []
        it.store.gate.set()
        await it.it.clock.rest()
        assert it.begun == ["job0001", "job0002", "job0003"]


async def test_a_model_that_is_gone_keeps_its_jobs_waiting_until_it_is_back() -> None:
    async with reader() as it:
        outlook = it.it.supervisor.dispatcher.outlook
        routes, outlook.routes = outlook.routes, Routes(())
        await it.accept(it.job(1))
        assert it.begun == []
        assert "No backend serves" in it.made.flows()[0].why
        assert "No backend serves" in it.made.why_not(Flow("m", 1, ""))
        outlook.routes = routes
        it.made.touch()
        await it.it.clock.rest()
        assert it.begun == ["job0001"]


async def test_a_model_that_goes_while_its_jobs_are_read_has_no_room() -> None:
    async with reader() as it:
        outlook = it.it.supervisor.dispatcher.outlook
        jobs = [it.job(number) for number in range(1, 7)]
        await it.accept(*jobs)
        outlook.routes = Routes(())
        await it.end(*jobs[:4])
        assert len(it.begun) == 4


async def test_all_lines_together_hold_no_more_than_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_HELD", 6)
    async with reader() as it:
        jobs = [it.job(number, client=f"c{number % 5}") for number in range(1, 31)]
        await it.accept(*jobs)
        assert (len(it.begun), it.made.held) == (6, 6)
        await it.all_ended(*jobs, most=6)


async def test_bodies_together_hold_no_more_than_a_bound_but_one_always_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_HELD_BYTES", 1000)
    async with reader(slots=10) as it:
        jobs = [it.job(number, size=400) for number in range(1, 5)] + [it.job(9, size=5000)]
        await it.accept(*jobs)
        assert len(it.begun) == 3, "the third one is what makes it full"
        await it.end(*jobs[:4])
        assert it.begun[-1] == "job0009"


async def test_a_model_with_large_requests_leaves_room_for_another_and_for_what_is_urgent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MOST_HELD_BYTES", 1200)
    async with reader(slots=10) as it:
        large = [it.job(number, size=400, priority=2) for number in range(1, 9)]
        await it.accept(*large)
        assert len(it.begun) == 3
        assert it.made.why_not(Flow("m", 2, "")) == "", "those in memory say what they wait for"
        others = it.job(9, client="b", size=400, priority=2)
        await it.accept(others)
        assert (
            it.made.why_not(flow_of(others))
            == "the jobs before it take all the memory there is for requests of its class and model"
        )
        assert [view.why for view in it.made.flows()][1:] == [it.made.why_not(flow_of(others))]
        urgent, elsewhere = it.job(10, size=400, priority=0), [it.job(n, model="n", size=200) for n in range(11, 15)]
        await it.accept(urgent, elsewhere[0])
        await it.accept(*elsewhere[1:])
        assert it.begun[3:] == ["job0010", "job0011", "job0012"], "a third of it each, by then"
        aliased = it.job(20, model="alias", size=5000, priority=2)
        await it.accept(aliased)
        assert "job0020" not in it.begun, "it is the same model"
        await it.all_ended(*large, others, urgent, *elsewhere, aliased)


async def test_the_names_of_one_model_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_HELD", 1)
    async with reader() as it:
        jobs = [it.job(number, model="alias" if number < 4 else "m") for number in range(1, 7)]
        await it.accept(*jobs)
        await it.all_ended(*jobs)
        assert it.begun == ["job0001", "job0004", "job0002", "job0005", "job0003", "job0006"]


async def test_many_lines_of_one_model_leave_room_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_HELD", 6)
    async with reader() as it:
        await it.accept(*[it.job(number, client=f"c{number}") for number in range(1, 10)])
        await it.accept(*[it.job(number, model="n") for number in range(10, 15)])
        assert it.begun[6:] == ["job0010", "job0011", "job0012"]


class Stalled(Gated):
    """Its writer is at a stand: what is handed over is not to be read before it is flushed."""

    def __init__(self) -> None:
        super().__init__()
        self.pending: list[Callable[[], None]] = []

    @override
    def put_result(self, result: JobResult) -> None:
        self.pending.append(partial(super().put_result, result))

    @override
    def put_attempt_started(self, job_id: str, number: int, backend: str, generation: int) -> None:
        self.pending.append(partial(super().put_attempt_started, job_id, number, backend, generation))

    @override
    def put_requeued(self, job_id: str, number: int, detail: str, *, failures: int = 0) -> None:
        self.pending.append(partial(super().put_requeued, job_id, number, detail, failures=failures))

    @override
    async def flush(self) -> None:
        while self.pending:
            self.pending.pop(0)()


async def test_what_has_ended_is_not_begun_once_more_while_the_writer_is_at_a_stand() -> None:
    async with reader(store=Stalled()) as it:
        jobs = [it.job(number) for number in range(1, 5)]
        await it.accept(*jobs)
        await it.end(jobs[1], jobs[2])
        it.made.returned(jobs[3].id, flow_of(jobs[3]))  # what is begun from its beginning again
        await it.it.clock.rest()
        assert it.begun == [*(job.id for job in jobs), jobs[3].id]


async def test_what_has_ended_is_not_begun_once_more_by_a_line_that_is_new() -> None:
    async with reader(store=Stalled()) as it:
        job = it.job(1)
        await it.accept(job)
        await it.end(job)
        assert it.made.flows() == []
        it.made.added_many(flow_of(job), 0, job.id)  # its commit was not confirmed
        await it.it.clock.rest()
        assert it.begun == [job.id]


async def test_what_waits_again_is_found_though_the_writer_is_at_a_stand() -> None:
    store = Stalled()
    async with reader(store=store) as it:
        job = it.job(1)
        await it.accept(job)
        store.put_attempt_started(job.id, 1, "m", 1)
        await store.flush()
        store.put_requeued(job.id, 1, "not now")
        it.made.returned(job.id, flow_of(job))
        await it.it.clock.rest()
        assert it.begun == [job.id, job.id]


async def test_a_store_that_cannot_be_read_is_asked_again() -> None:
    class Failing(Gated):
        fails = 2

        @override
        async def waiting(self, flow: Flow, *, after: str, limit: int, most_bytes: int) -> Sequence[StoredJob]:
            if self.fails:
                self.fails -= 1
                raise StoreUnavailableError("busy")
            return await super().waiting(flow, after=after, limit=limit, most_bytes=most_bytes)

    async with reader(store=Failing()) as it:
        await it.accept(it.job(1))
        await it.it.clock.advance(1.1)
        assert it.begun == []
        await it.it.clock.advance(1)
        assert it.begun == ["job0001"]


async def test_a_store_that_cannot_be_read_is_not_asked_more_often_the_more_happens() -> None:
    class Failing(Gated):
        asked = 0

        @override
        async def waiting(self, flow: Flow, *, after: str, limit: int, most_bytes: int) -> Sequence[StoredJob]:
            self.asked += 1
            raise StoreUnavailableError("busy")

    failing = Failing()
    async with reader(store=failing) as it:
        await it.accept(it.job(1))
        for _ in range(30):
            it.made.touch()
            await it.it.clock.advance(0.03)
        failing.asked = 0
        for _ in range(300):
            await it.it.clock.advance(0.01)
        assert failing.asked <= 4


async def test_one_that_comes_back_while_a_read_fails_is_begun_again() -> None:
    class Failing(Gated):
        fails = False

        @override
        async def waiting(self, flow: Flow, *, after: str, limit: int, most_bytes: int) -> Sequence[StoredJob]:
            if not self.fails:
                return await super().waiting(flow, after=after, limit=limit, most_bytes=most_bytes)
            self.fails = False
            it.made.returned("job0002", flow)
            raise StoreUnavailableError("busy")

    failing = Failing()
    async with reader(store=failing) as it:
        jobs = [it.job(number) for number in range(1, 7)]
        await it.accept(*jobs)
        assert it.begun == ["job0001", "job0002", "job0003", "job0004"]
        failing.fails = True
        await it.end(jobs[0])
        await it.it.clock.advance(1.1)
        await it.end(jobs[2], jobs[3])
        assert sorted(it.begun) == ["job0001", "job0002", "job0002", "job0003", "job0004", "job0005", "job0006"]


async def test_once_closed_nothing_is_begun() -> None:
    async with reader() as it:
        it.made.close("going down")
        await it.accept(it.job(1))
        it.made.added(StoredJob(it.job(2), "queued", None))
        await it.it.clock.rest()
        assert it.begun == []
        assert it.made.why_not(Flow("m", 1, "")) == "going down"


async def test_room_that_is_promised_counts() -> None:
    async with reader(limit=3) as it:
        it.made.reserve(2)
        with pytest.raises(QueueFullError, match="2 jobs wait"):
            it.made.reserve(2)
        it.made.promised -= 2
        it.made.reserve(3)


async def test_news_of_a_line_that_is_gone_changes_nothing() -> None:
    async with reader() as it:
        nobody = Flow("m", 1, "nobody")
        it.made.changed(nobody, -1)
        it.made.left("job0001", nobody)
        assert (it.made.waiting, it.made.flows()) == (0, [])


async def test_what_an_earlier_life_left_is_begun() -> None:
    async with reader() as it:
        await it.store.accept([it.job(1), it.job(2, client="b")])
        await it.made.open()
        assert it.made.waiting == 2
        it.made.touch()
        await it.it.clock.rest()
        assert it.begun == ["job0001", "job0002"]
