"""What a durable job has come to, as the answer to a request: a backend's own answer, or why there is none."""

from collections.abc import Mapping

from supervisord.api.anthropic_client import KEPT_BYTES, refusal
from supervisord.api.anthropic_errors import is_for, told_to
from supervisord.api.door import Request, Response
from supervisord.core.errors import (
    AnswerTooLargeError,
    AttemptFailedError,
    BackendAnsweredError,
    BackendDiedError,
    BackendHungError,
    BackendOutOfMemoryError,
    BackendParkedError,
    BackendProtocolError,
    BackendStoppedError,
    BackendUnreachableError,
    ConflictError,
    ContextLengthError,
    DaemonDiedError,
    DeadlineExceededError,
    DrainingError,
    EndpointMissingError,
    InvalidOutputError,
    InvalidRequestError,
    JobCancelledError,
    NotFoundError,
    OutputTruncatedError,
    PoisonError,
    QueueTimeoutError,
    RefusedError,
    StoreUnavailableError,
    SupervisorError,
)
from supervisord.core.job import TERMINAL, FailureReason, JobStatus
from supervisord.core.record import JobRecord, JobResult
from supervisord.engine.endings import lacking
from supervisord.ports import StoredJob

# A test holds it complete.
ERRORS: Mapping[FailureReason, type[SupervisorError]] = {
    FailureReason.QUEUE_FULL: RefusedError,
    FailureReason.QUEUE_TIMEOUT: QueueTimeoutError,
    FailureReason.DEADLINE_EXCEEDED: DeadlineExceededError,
    FailureReason.CLIENT_LEFT: JobCancelledError,
    FailureReason.SLOW_CLIENT: JobCancelledError,
    FailureReason.CANCELLED: JobCancelledError,
    FailureReason.DRAINING: DrainingError,
    FailureReason.BACKEND_PARKED: BackendParkedError,
    FailureReason.BACKEND_STOPPED: BackendStoppedError,
    FailureReason.BACKEND_UNREACHABLE: BackendUnreachableError,
    FailureReason.BACKEND_DIED: BackendDiedError,
    FailureReason.BACKEND_HUNG: BackendHungError,
    FailureReason.BACKEND_OUT_OF_MEMORY: BackendOutOfMemoryError,
    FailureReason.BACKEND_PROTOCOL: BackendProtocolError,
    FailureReason.BACKEND_ERROR: BackendAnsweredError,
    FailureReason.BACKEND_BUSY: AttemptFailedError,
    FailureReason.ENDPOINT_MISSING: EndpointMissingError,
    FailureReason.POISON: PoisonError,
    FailureReason.REQUEST_REJECTED: InvalidRequestError,
    FailureReason.CONTEXT_LENGTH_EXCEEDED: ContextLengthError,
    FailureReason.STREAM_CUT: BackendProtocolError,
    FailureReason.STORE_UNAVAILABLE: StoreUnavailableError,
    FailureReason.DAEMON_DIED: DaemonDiedError,
    FailureReason.INVALID_OUTPUT: InvalidOutputError,
    FailureReason.OUTPUT_TRUNCATED: OutputTruncatedError,
    FailureReason.ANSWER_TOO_LARGE: AnswerTooLargeError,
    FailureReason.INTERNAL: SupervisorError,
}

# The backend's answer is there, and is not what was asked for: it can be looked at, and is never given as the result.
_NOT_THE_RESULT = frozenset({FailureReason.INVALID_OUTPUT, FailureReason.OUTPUT_TRUNCATED})


def error_of(job: JobRecord, result: JobResult) -> SupervisorError:
    """Why a job has no good answer."""
    reason = result.reason or FailureReason.CANCELLED
    if reason is FailureReason.ENDPOINT_MISSING:
        return EndpointMissingError(lacking(job, result))
    return ERRORS[reason](f"The job is {result.status}: {result.detail or reason.value}")


def result_answer(stored: StoredJob, request: Request) -> Response:
    """The answer that a job has ended with, as the client of `request` reads it.

    Raises ConflictError for a job that goes on, NotFoundError where no answer is kept.
    """
    job_id, result = stored.job.id, stored.result
    if stored.status not in TERMINAL or result is None:
        raise ConflictError(
            f"Job {job_id} is {stored.status}: it has no result yet. GET /v1/jobs/{job_id}?wait=30 waits for it."
        )
    if result.status is JobStatus.DONE or _is_passed_on(result):
        if result.output is None or result.http_status is None:
            raise NotFoundError(f"The answer of job {job_id} is past its retention (store.answers).", param="id")
        if not is_for(request):
            return Response(result.http_status, result.output, (*_kind(result), *headers_of(stored)))
        headers = (*headers_of(stored), ("request-id", job_id))
        if result.http_status >= 400:
            return refusal(result.http_status, headers, result.output[:KEPT_BYTES], job_id)
        return Response(result.http_status, result.output, (*_kind(result), *headers))
    told = told_to(request, error_of(stored.job, result), job_id)
    final = [(name, value) for name, value in told.headers if name not in {"x-should-retry", "retry-after"}]
    return Response(told.status, told.body, (*final, *_final(told.status)))


def _is_passed_on(result: JobResult) -> bool:
    """Whether a backend's own words for why it failed are what its client gets."""
    if result.reason is FailureReason.ENDPOINT_MISSING:
        return result.http_status == 501  # with that it says why; its "File Not Found" would seem to be ours
    return result.http_status is not None and result.reason not in _NOT_THE_RESULT


def headers_of(stored: StoredJob) -> tuple[tuple[str, str], ...]:
    """What the head of an answer says of its job."""
    job_id, result = stored.job.id, stored.result
    told = [("x-job-id", job_id), ("x-request-id", job_id)]
    if result is not None:
        told += [("x-backend", result.backend or ""), ("x-queue-wait", f"{result.queue_wait_s:.3f}")]
        told += _final(result.http_status or 0)
    return tuple(told)


def _kind(result: JobResult) -> tuple[tuple[str, str], ...]:
    return (("content-type", result.content_type or "application/octet-stream"),)


def _final(status: int) -> tuple[tuple[str, str], ...]:
    """It has been tried as often as was agreed: the SDK's own retries would get the same answer again."""
    return (("x-should-retry", "false"),) if status >= 408 else ()
