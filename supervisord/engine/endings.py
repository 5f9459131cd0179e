"""What an ending means: to the client, to the record, and for the backend that is to blame."""

from supervisord.core.errors import (
    AttemptFailedError,
    BackendAnsweredError,
    BackendDiedError,
    BackendHungError,
    BackendOutOfMemoryError,
    BackendProtocolError,
    BackendUnreachableError,
    JobCancelledError,
    SupervisorError,
)
from supervisord.core.job import FailureReason, JobStatus
from supervisord.engine.outcome import AttemptOutcome
from supervisord.engine.records import Course

_ERRORS: dict[FailureReason, type[AttemptFailedError]] = {
    FailureReason.BACKEND_UNREACHABLE: BackendUnreachableError,
    FailureReason.BACKEND_DIED: BackendDiedError,
    FailureReason.BACKEND_HUNG: BackendHungError,
    FailureReason.BACKEND_OUT_OF_MEMORY: BackendOutOfMemoryError,
    FailureReason.BACKEND_PROTOCOL: BackendProtocolError,
    FailureReason.STREAM_CUT: BackendProtocolError,
    FailureReason.BACKEND_ERROR: BackendAnsweredError,
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
