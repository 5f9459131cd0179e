"""What the store in memory keeps of one job, and how that changes."""

from dataclasses import dataclass, field, replace

from supervisord.core.errors import ConflictError, InvalidRequestError
from supervisord.core.job import JobStatus
from supervisord.core.record import AttemptRecord, JobRecord, JobResult
from supervisord.core.terms import Flow
from supervisord.ports import StoredJob


@dataclass(slots=True)
class Entry:
    job: JobRecord
    status: str = JobStatus.QUEUED.value
    attempt: int = 0
    failures: int = 0
    interruptions: int = 0
    backend: str | None = None
    started_at: float | None = None
    detail: str = ""
    result: JobResult | None = None
    attempts: dict[int, AttemptRecord] = field(default_factory=dict)
    stream: dict[int, bytes] = field(default_factory=dict)

    @property
    def waits(self) -> bool:
        """Whether it is durable, and waits."""
        return self.job.terms is not None and self.status == JobStatus.QUEUED

    @property
    def flow(self) -> Flow:
        return Flow(self.job.model, self.job.priority, self.job.client)

    @property
    def batch(self) -> str:
        return "" if self.job.terms is None else self.job.terms.batch

    def waited(self, now: float) -> float:
        """Seconds until its first try began; until `now` where none did."""
        until = now if self.started_at is None else self.started_at
        return max(0.0, until - self.job.submitted_at)

    def start(self, number: int, backend: str, now: float) -> None:
        if self.result is not None or number <= self.attempt:
            return
        self.status, self.attempt, self.backend, self.detail = JobStatus.RUNNING.value, number, backend, ""
        if self.started_at is None:
            self.started_at = now

    def requeue(self, number: int, detail: str, failures: int) -> None:
        if self.result is not None or number < self.attempt:
            return
        self.status, self.attempt, self.backend, self.detail = JobStatus.QUEUED.value, number, None, detail
        self.failures = failures

    def finish(self, result: JobResult, *, keep_bodies: bool) -> None:
        if self.result is not None or result.attempts < self.attempt:
            return
        if not keep_bodies:
            self.job = replace(self.job, body=None)
            if self.job.terms is None:
                result = replace(result, output=None)
        self.result, self.status, self.detail = result, result.status.value, result.detail
        self.attempt, self.backend = result.attempts, result.backend

    def stored(self) -> StoredJob:
        return StoredJob(
            job=self.job,
            status=self.status,
            result=self.result,
            attempts=tuple(self.attempts[number] for number in sorted(self.attempts)),
            attempt=self.attempt,
            failures=self.failures,
            interruptions=self.interruptions,
            started_at=self.started_at,
            backend=self.backend,
            detail=self.detail,
        )


def without_bodies(stored: StoredJob) -> StoredJob:
    result = None if stored.result is None else replace(stored.result, output=None)
    return replace(stored, job=replace(stored.job, body=None), result=result)


def check_limit(limit: int) -> None:
    if not 1 <= limit <= 1000:
        raise InvalidRequestError(f"limit must be 1 to 1000, not {limit}", param="limit")


def taken(what: str) -> ConflictError:
    return ConflictError(f"{what} is in the store already")
