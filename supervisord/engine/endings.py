"""What an ending means: to the client, to the record, and for the backend that is to blame."""

from supervisord.core.answer import error_message
from supervisord.core.errors import (
    AttemptFailedError,
    BackendAnsweredError,
    BackendDiedError,
    BackendHungError,
    BackendOutOfMemoryError,
    BackendProtocolError,
    BackendUnreachableError,
    EndpointMissingError,
    JobCancelledError,
    SupervisorError,
)
from supervisord.core.job import FailureReason, JobStatus
from supervisord.core.record import JobRecord, JobResult
from supervisord.engine.outcome import Answer, AttemptOutcome
from supervisord.engine.records import Course

_ERRORS: dict[FailureReason, type[AttemptFailedError]] = {
    FailureReason.BACKEND_UNREACHABLE: BackendUnreachableError,
    FailureReason.BACKEND_DIED: BackendDiedError,
    FailureReason.BACKEND_HUNG: BackendHungError,
    FailureReason.BACKEND_OUT_OF_MEMORY: BackendOutOfMemoryError,
    FailureReason.BACKEND_PROTOCOL: BackendProtocolError,
    FailureReason.STREAM_CUT: BackendProtocolError,
    FailureReason.BACKEND_ERROR: BackendAnsweredError,
    FailureReason.ENDPOINT_MISSING: EndpointMissingError,
}

# After these a backend is asked for its health before it gets another job.
SUSPICIOUS = frozenset(
    {
        FailureReason.BACKEND_UNREACHABLE,
        FailureReason.BACKEND_DIED,
        FailureReason.BACKEND_HUNG,
        FailureReason.STREAM_CUT,
    }
)


# What a backend is to blame for: its breaker counts these.
BLAMED = SUSPICIOUS | {
    FailureReason.BACKEND_OUT_OF_MEMORY,
    FailureReason.BACKEND_PROTOCOL,
    FailureReason.BACKEND_ERROR,
    FailureReason.BACKEND_BUSY,
}


# What does not count against the tries of a durable job: it never reached a backend, or was only put off.
EXCUSED = frozenset({FailureReason.BACKEND_UNREACHABLE, FailureReason.BACKEND_BUSY, FailureReason.DRAINING})


def as_left(outcome: AttemptOutcome | None) -> tuple[JobStatus, FailureReason | None, str]:
    """How a job ended whose client is gone: as its attempt did, if that one had come to its end."""
    if outcome is None or outcome.retriable:
        return JobStatus.CANCELLED, FailureReason.CLIENT_LEFT, "the client closed the connection"
    return outcome.status, outcome.reason, outcome.detail


def error_of(outcome: AttemptOutcome) -> SupervisorError:
    if outcome.reason in {FailureReason.CANCELLED, None}:
        return JobCancelledError("The job was cancelled by an operator.")
    error = _ERRORS.get(outcome.reason, AttemptFailedError) if outcome.reason else AttemptFailedError
    return error(f"The backend failed: {outcome.detail}")


def lacks(course: Course, answer: Answer) -> EndpointMissingError:
    """No backend for the job has its endpoint, by the answer of the last one that was tried."""
    backend = course.attempt.backend if course.attempt else "?"
    said = f" ({error_message(answer.body)})" if answer.body else ""
    return EndpointMissingError(
        f'The backend "{backend}" does not offer {course.job.submission.endpoint}: it answered {answer.status}{said}.'
    )


def lacking(job: JobRecord, result: JobResult) -> str:
    """The same of a job that nobody waited for; without the backend's words, which are kept only as configured."""
    said = f"it answered {result.http_status}" if result.http_status else (result.detail or "it said so")
    return f'The backend "{result.backend or "?"}" does not offer {job.endpoint}: {said}.'


def ending(error: SupervisorError, course: Course) -> tuple[JobStatus, FailureReason, str]:
    """The record's words for a job that ended in an error of ours."""
    if isinstance(error, JobCancelledError):
        return JobStatus.CANCELLED, FailureReason.CANCELLED, error.message
    if isinstance(error, AttemptFailedError) and course.outcome is not None and course.outcome.reason is not None:
        return JobStatus.FAILED, course.outcome.reason, course.outcome.detail
    try:
        reason = FailureReason(error.code)
    except ValueError:
        reason = FailureReason.INTERNAL
    return JobStatus.FAILED, reason, error.message
