"""What is written down of a job on its way: plain conversions, no decisions."""

from collections.abc import Callable

from supervisord.core.job import FailureReason, Job, JobStatus
from supervisord.core.record import AttemptRecord, JobRecord, JobResult
from supervisord.engine.outcome import AttemptOutcome
from supervisord.engine.suspicion import Suspicion
from supervisord.engine.tickets import Lease


class Course:
    """What has happened to one job so far. Owned by the call that serves it."""

    def __init__(self, job: Job, *, keep_prompt: bool, keep_client: bool) -> None:
        self.job = job
        self.record = _job_record(job, keep_prompt=keep_prompt, keep_client=keep_client)
        self.queued_at = job.arrived
        self.patience_ends = job.expires  # monotonic: as far as it may wait, over all its attempts
        self.attempts = 0  # begun, this far
        self.failures = 0  # of them, those that were more than put off
        self.suspicion = Suspicion()
        self.begun: Callable[[str], None] = _ignore  # called with the backend's name as each attempt begins
        self.waited = 0.0  # seconds in the queue, over all attempts
        self.attempt: AttemptRecord | None = None
        self.outcome: AttemptOutcome | None = None


def _ignore(backend: str) -> None:
    del backend


def _job_record(job: Job, *, keep_prompt: bool, keep_client: bool) -> JobRecord:
    submission = job.submission
    return JobRecord(
        id=job.id,
        endpoint=submission.endpoint,
        model=submission.model,
        priority=int(submission.priority),
        stream=submission.stream,
        client=submission.client if keep_client else "",
        submitted_at=job.submitted_at,
        max_tokens=submission.max_tokens,
        temperature=submission.temperature,
        body=submission.body if keep_prompt else None,
    )


def attempt_record(
    course: Course, lease: Lease, outcome: AttemptOutcome, *, started_at: float, now: float, hardware: str
) -> AttemptRecord:
    """The record of an attempt that ended at `now` (monotonic) and began at `started_at` (epoch)."""
    first, generation = outcome.first_byte, lease.generation
    return AttemptRecord(
        job_id=course.job.id,
        number=course.attempts,
        backend=lease.backend.name,
        generation=generation.number,
        runtime=lease.backend.spec.runtime.value,
        rung=generation.rung,
        hardware=hardware,
        identity=generation.identity,
        started_at=started_at,
        queue_wait_s=course.waited,
        duration_s=now - lease.granted,
        ttft_s=None if first is None else first - lease.granted,
        usage=outcome.usage,
        http_status=outcome.http_status,
        status=outcome.status,
        reason=outcome.reason,
        detail=outcome.detail,
        bytes_out=outcome.bytes_out,
        rung_name=generation.rung_name,
        rung_why=generation.rung_why,
    )


def job_result(
    course: Course, status: JobStatus, reason: FailureReason | None, detail: str, *, finished_at: float, now: float
) -> JobResult:
    """How a job ended, at `now` (monotonic) and `finished_at` (epoch)."""
    return JobResult(
        job_id=course.job.id,
        status=status,
        finished_at=finished_at,
        queue_wait_s=course.waited if course.attempt else now - course.job.arrived,
        attempts=course.attempts,
        reason=reason,
        detail=detail,
        backend=course.attempt.backend if course.attempt else None,
        output=course.outcome.output if course.outcome else None,
    )
