"""What batches need of durable work, done by hand: jobs wait in the store until a test says how they end."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from supervisord.core.errors import QueueFullError, RefusedError
from supervisord.core.job import FailureReason, JobStatus
from supervisord.core.record import JobRecord, JobResult
from supervisord.engine.work.durable import End
from tests.fakes.store import MemoryStore


class Hands:
    """`accepted` has the jobs in their order; `refuse` fails the acceptance of all from then on."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._listeners: list[Callable[[End], None]] = []
        self.accepted: list[JobRecord] = []
        self.commits: list[int] = []
        self.refuse: RefusedError | None = None
        self.refuse_after: int | None = None  # commits
        self.running: set[str] = set()
        self.free = 10**6  # jobs that may still wait

    def on_ended(self, listener: Callable[[End], None]) -> None:
        self._listeners.append(listener)

    async def accept_many(self, records: Sequence[JobRecord]) -> None:
        if self.refuse is not None and len(self.commits) >= (self.refuse_after or 0):
            raise self.refuse
        if len(records) > self.free:
            raise QueueFullError("full", depth=1, retry_after_s=60)
        await self._store.accept(records)
        self.accepted += records
        self.commits.append(len(records))
        self.free -= len(records)

    async def end_batch(
        self, batch: str, status: JobStatus, reason: FailureReason, detail: str, *, running: bool = False
    ) -> int:
        ended = await self._store.end_waiting(batch, status=status.value, reason=reason.value, detail=detail)
        cut = [job for job in self.accepted if running and job.id in self.running]
        for job in cut:
            self.end(job, status, reason=reason, detail=detail)
        return sum(ended.values()) + len(cut)

    def begin(self, job: JobRecord) -> None:
        """It runs."""
        self.running.add(job.id)
        self._store.put_attempt_started(job.id, 1, "stub", 1)

    def end(
        self,
        job: JobRecord,
        status: JobStatus = JobStatus.DONE,
        *,
        output: bytes | None = None,
        http_status: int | None = None,
        reason: FailureReason | None = None,
        detail: str = "",
    ) -> None:
        """It has run, and ended so."""
        if job.id not in self.running:
            self.begin(job)
        self.running.discard(job.id)
        result = JobResult(job.id, status, 0.0, 0.0, 1, reason, detail, "stub", output, http_status, "application/json")
        self._store.put_result(result)
        for listener in self._listeners:
            listener(End(replace(job, body=None), status, reason))

    def answer(self, *jobs: JobRecord) -> None:
        """They have got a good answer."""
        for job in jobs:
            self.end(job, output=b'{"id": "x",\n "n": 1}', http_status=200)
