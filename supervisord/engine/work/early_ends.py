"""Durable jobs that end before they are done: cancelled, with their batch, or at their deadline."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

from supervisord.core.errors import StoreUnavailableError
from supervisord.core.job import TERMINAL, FailureReason, JobStatus
from supervisord.core.record import JobRecord, JobResult
from supervisord.core.terms import Flow
from supervisord.engine.work.backlog import flow_of
from supervisord.engine.work.ends import Ends
from supervisord.engine.work.hands import Hands, recorder
from supervisord.engine.work.run import Run
from supervisord.ports import StoredJob

SWEEP_S = 5.0  # between looks for jobs in the store that are past their deadline
SWEPT = 500  # of them at once
SETTLE_S = 5.0  # at most, until what has just ended is safe from a power cut
MOST_BARRED = 1000  # batches that were ended, and of which a read under way may still bring jobs: some milliseconds
LATE = "It was not done before its deadline."


class EarlyEnds:
    """Ends them wherever they are. `runs` are those in memory, by their ids: they see to their deadlines themselves."""

    def __init__(self, hands: Hands, ends: Ends, runs: Mapping[str, Run]) -> None:
        self._hands = hands
        self._ends = ends
        self._runs = runs
        self._barred: dict[str, list[tuple[str, Flow]]] = {}  # batches that are being ended, and what was held back

    async def cancel(self, job_id: str, detail: str) -> StoredJob | None:
        """End a job; what it was before. None: there is no such job. See `Durable.cancel`."""
        with self._ends.noted() as over:
            stored = await self._hands.store.job(job_id)
            if stored is None or stored.status in TERMINAL or stored.job.id in over:
                return stored
            run = self._runs.get(stored.job.id)
            if stored.job.terms is None:
                self._hands.dispatcher.cancel(stored.job.id)
            elif run is not None:
                run.end(JobStatus.CANCELLED, FailureReason.CANCELLED, detail)
            else:
                self._end_stored(stored, JobStatus.CANCELLED, FailureReason.CANCELLED, detail)
            return stored

    def bars(self, stored: StoredJob) -> bool:
        """Whether a job must not be begun, for its batch is being ended."""
        held = self._barred.get(batch_of(stored.job))
        if held is None:
            return False
        held.append((stored.job.id, flow_of(stored.job)))
        return True

    async def end_batch(
        self, batch: str, status: JobStatus, reason: FailureReason, detail: str, *, running: bool
    ) -> int:
        """See `Durable.end_batch`."""
        backlog = self._hands.backlog
        self._barred[batch] = []
        own = [run for run in self._runs.values() if batch_of(run.record) == batch]
        ended = [run for run in own if run.waits or running]
        for run in ended:
            run.end(status, reason, detail)
        for run in own:  # one that came to wait again meanwhile would be ended in the store, and go on in memory
            run.try_no_more(status, reason, detail)
        tasks = {run.task for run in ended if run.task is not None}
        if tasks:
            await asyncio.wait(tasks, timeout=SETTLE_S)
        try:
            words = status.value, reason.value
            counts = await self._hands.store.end_waiting(batch, status=words[0], reason=words[1], detail=detail)
        except BaseException:
            for job_id, flow in self._barred.pop(batch):
                backlog.returned(job_id, flow)
            raise
        self._barred[batch] = []
        while len(self._barred) > MOST_BARRED:
            del self._barred[next(iter(self._barred))]
        for flow, count in counts.items():
            backlog.changed(flow, -count)
        return len(ended) + sum(counts.values())

    async def run(self) -> None:
        """End jobs in the store that are past their deadline, until cancelled."""
        while True:
            with suppress(StoreUnavailableError):
                await self._sweep()
            await self._hands.clock.sleep(SWEEP_S)

    async def _sweep(self) -> None:
        """Raises StoreUnavailableError."""
        deadlines = self._hands.deadlines
        if self._hands.backlog.waiting:
            await self._end_overdue(deadlines.now)
        if self._hands.backlog.waiting and deadlines.is_clock_ahead:
            await self._end_overdue(self._hands.clock.wall())  # those that were accepted since it was set

    async def _end_overdue(self, now: float) -> None:
        with self._ends.noted() as over:
            for stored in await self._hands.store.overdue(now, SWEPT):
                job_id, left = stored.job.id, self._hands.deadlines.left(stored.job)
                if job_id not in self._runs and job_id not in over and left is not None and left <= 0:
                    self._end_stored(stored, JobStatus.FAILED, FailureReason.DEADLINE_EXCEEDED, LATE)

    def _end_stored(self, stored: StoredJob, status: JobStatus, reason: FailureReason, detail: str) -> None:
        """End a job that waits in the store, not in memory. Raises StoreUnavailableError."""
        hands, job, now = self._hands, replace(stored.job, body=None), self._hands.clock.wall()
        result = JobResult(job.id, status, now, hands.deadlines.age(job), stored.attempt, reason, detail)
        result = recorder(stored.job, stored.attempt, hands, _ignore).ended(result)
        hands.store.put_result(result)
        hands.backlog.changed(flow_of(job), -1)
        hands.backlog.left(job.id, flow_of(job))
        hands.journal.finished(job, result, None)
        self._ends.add(job, result)


def batch_of(job: JobRecord) -> str:
    return job.terms.batch if job.terms is not None else ""


def _ignore(reason: FailureReason, words: str) -> None:
    del reason, words
