"""A job: one request to run, and everything that can become of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum


class Priority(IntEnum):
    """Lower runs first."""

    HIGH = 0
    NORMAL = 1
    BATCH = 2

    @property
    def label(self) -> str:
        return self.name.lower()


class JobStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    ABANDONED = "abandoned"  # the daemon died while a synchronous client waited: never run again


TERMINAL = frozenset({JobStatus.DONE, JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.ABANDONED})


class FailureReason(StrEnum):
    """Why a job or an attempt did not succeed: the closed list that records, metrics and clients share."""

    QUEUE_FULL = "queue_full"
    QUEUE_TIMEOUT = "queue_timeout"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    CLIENT_LEFT = "client_left"
    SLOW_CLIENT = "slow_client"
    CANCELLED = "cancelled"
    DRAINING = "draining"
    BACKEND_PARKED = "backend_parked"
    BACKEND_STOPPED = "backend_stopped"
    BACKEND_UNREACHABLE = "backend_unreachable"
    BACKEND_DIED = "backend_died"
    BACKEND_HUNG = "backend_hung"
    BACKEND_OUT_OF_MEMORY = "backend_out_of_memory"
    BACKEND_PROTOCOL = "backend_protocol_error"
    BACKEND_ERROR = "backend_error"
    BACKEND_BUSY = "backend_busy"
    POISON = "poison"  # backends went down under it, and nothing else explains it
    REQUEST_REJECTED = "request_rejected"
    ENDPOINT_MISSING = "endpoint_missing"  # no backend that could serve it has what was asked for
    CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"
    STREAM_CUT = "stream_cut"
    STORE_UNAVAILABLE = "store_unavailable"
    DAEMON_DIED = "daemon_died"
    INVALID_OUTPUT = "invalid_output"  # the answer does not fit the schema that was asked for
    OUTPUT_TRUNCATED = "output_truncated"  # it ended at its limit of tokens, before it could fit
    ANSWER_TOO_LARGE = "answer_too_large"
    INTERNAL = "internal_error"


@dataclass(frozen=True, slots=True)
class Form:
    """A body that is a form instead of JSON. `model_begins`, `model_ends`: where in it the model's name stands."""

    content_type: str
    model_begins: int
    model_ends: int


@dataclass(frozen=True, slots=True)
class Submission:
    """What a validated request asks for. Nothing later looks at HTTP again.

    `body` goes to the backend as it came. `patience_s` is how long the client waits by its own word (its SDK's
    read time-out), `deadline_s` what it asked for with X-Deadline; both count from arrival, in seconds. `max_tokens` is
    the longest answer by any name that a backend may go by, negative: without an end; `choices` how many of them.
    """

    endpoint: str
    model: str
    body: bytes
    stream: bool = False
    priority: Priority = Priority.NORMAL
    client: str = ""
    max_tokens: int | None = None
    choices: int = 1
    temperature: float | None = None
    patience_s: float | None = None
    deadline_s: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    form: Form | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """One accepted submission. `arrived` is monotonic seconds, `submitted_at` seconds since the epoch.

    `durable`: it waits in the store too, and the queue gets only as many of those as it can take.
    """

    id: str
    submission: Submission
    arrived: float
    submitted_at: float
    expires: float  # monotonic: not started by then, it fails
    expiry_reason: FailureReason = FailureReason.QUEUE_TIMEOUT
    attempts: int = 0
    avoid: frozenset[str] = frozenset()  # backends that failed it, to be tried last
    route: str = ""  # the main name of what was asked for: aliases wait in one line
    tokens: int = 0  # prompt and longest answer; an upper bound where nobody counted, 0 where nobody needs to know
    durable: bool = False

    @property
    def model(self) -> str:
        """As the client asked for it."""
        return self.submission.model

    @property
    def line(self) -> str:
        """The line it waits in."""
        return self.route or self.submission.model

    @property
    def priority(self) -> Priority:
        return self.submission.priority


class JobEvent(StrEnum):
    STARTED = "started"
    REQUEUED = "requeued"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    ABANDONED = "abandoned"


_MOVES: Mapping[tuple[JobStatus, JobEvent], JobStatus] = {
    (JobStatus.QUEUED, JobEvent.STARTED): JobStatus.RUNNING,
    (JobStatus.QUEUED, JobEvent.FAILED): JobStatus.FAILED,
    (JobStatus.QUEUED, JobEvent.CANCELLED): JobStatus.CANCELLED,
    (JobStatus.QUEUED, JobEvent.ABANDONED): JobStatus.ABANDONED,
    (JobStatus.RUNNING, JobEvent.REQUEUED): JobStatus.QUEUED,
    (JobStatus.RUNNING, JobEvent.SUCCEEDED): JobStatus.DONE,
    (JobStatus.RUNNING, JobEvent.FAILED): JobStatus.FAILED,
    (JobStatus.RUNNING, JobEvent.CANCELLED): JobStatus.CANCELLED,
    (JobStatus.RUNNING, JobEvent.ABANDONED): JobStatus.ABANDONED,
}


def advance(status: JobStatus, event: JobEvent) -> JobStatus:
    """The status after `event`.

    Raises ValueError for a move that does not exist: a finished job never runs again, nor ends twice.
    """
    try:
        return _MOVES[status, event]
    except KeyError:
        raise ValueError(f"a job that is {status} cannot be {event}") from None
