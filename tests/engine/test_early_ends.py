"""Jobs that end in the moment in which they are ended: once, and told once."""

import asyncio
from collections.abc import Mapping, Sequence

import pytest
from typing_extensions import override

from supervisord.core.errors import StoreUnavailableError
from supervisord.core.job import FailureReason, JobStatus
from supervisord.core.terms import Flow, Origin, Terms
from supervisord.engine.work import early_ends
from supervisord.ports import StoredJob
from tests.engine.overnight import night
from tests.engine.rig import beside
from tests.fakes.store import MemoryStore


class Late(MemoryStore):
    """Shows jobs as they were when they were asked for, and tells it when `gate` is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()

    @override
    async def job(self, job_id: str, *, bodies: bool = True) -> StoredJob | None:
        found = await super().job(job_id, bodies=bodies)
        await self.gate.wait()
        return found

    @override
    async def overdue(self, now: float, limit: int) -> Sequence[StoredJob]:
        found = await super().overdue(now, limit)
        await self.gate.wait()
        return found


async def test_a_job_that_is_done_while_it_is_being_cancelled_is_done_and_told_once() -> None:
    store = Late()
    async with night(store=store) as it:
        it.it.supervisor.pause_queue()
        job = await it.accept()
        store.gate.clear()
        async with beside(it.durable.cancel(job.job_id)) as cancelling:
            await it.clock.rest()
            it.it.supervisor.resume_queue()
            await it.clock.until(lambda: it.ends, "its end")
            store.gate.set()
            await it.clock.until(cancelling.done, "the answer")
            stored = cancelling.result()
        await it.socket()
        assert stored is not None
        assert stored.status == JobStatus.DONE
        assert [end.status for end in it.ends] == [JobStatus.DONE]
        assert it.durable.waiting == 0


async def test_a_job_that_is_cancelled_twice_at_the_same_time_is_told_once() -> None:
    async with night() as it:
        it.it.supervisor.pause_queue()
        other = await it.accept()
        job = await it.accept()
        async with beside(it.durable.cancel(job.job_id)) as one, beside(it.durable.cancel(job.job_id)) as two:
            await it.clock.until(lambda: one.done() and two.done(), "the answers")
            assert [each.result() and each.result().status for each in (one, two)] == [JobStatus.CANCELLED] * 2
        assert [end.job.id for end in it.ends] == [job.job_id]
        assert it.durable.waiting == 1, other


async def test_a_job_that_ends_at_its_deadline_while_overdue_ones_are_looked_for_is_told_once() -> None:
    store = Late()
    async with night(store=store) as it:
        it.it.supervisor.pause_queue()
        job = await it.accept(terms=Terms(Origin.JOB, deadline_at=it.clock.wall() + 3))
        store.gate.clear()
        await it.clock.advance(6)
        it.it.supervisor.resume_queue()
        await it.clock.until(lambda: it.ends, "its end")
        store.gate.set()
        await it.socket()
        await it.clock.advance(6)
        assert [(end.job.id, end.status) for end in it.ends] == [(job.job_id, JobStatus.FAILED)]


async def test_lines_that_were_held_back_go_on_where_their_batch_could_not_be_ended() -> None:
    class Failing(MemoryStore):
        @override
        async def end_waiting(self, batch: str, *, status: str, reason: str, detail: str) -> Mapping[Flow, int]:
            it.it.supervisor.resume_queue()  # its lines are read while it is being ended
            await it.socket()
            assert it.messages() == []
            raise StoreUnavailableError("the disk is full")

    async with night(store=Failing()) as it:
        it.it.supervisor.pause_queue()
        lines = await it.lines(3)
        with pytest.raises(StoreUnavailableError):
            await it.durable.end_batch("b1", JobStatus.CANCELLED, FailureReason.CANCELLED, "cancelled")
        await it.ended(*(line.id for line in lines))


async def test_of_batches_that_have_ended_only_the_last_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(early_ends, "MOST_BARRED", 2)
    async with night() as it:
        for name in ("b1", "b2", "b3"):
            await it.durable.end_batch(name, JobStatus.CANCELLED, FailureReason.CANCELLED, "cancelled")
        assert list(it.durable._early._barred) == ["b2", "b3"]
