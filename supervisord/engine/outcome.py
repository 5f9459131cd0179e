"""How an attempt can end."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from supervisord.core.job import FailureReason, JobStatus
from supervisord.core.record import Usage

# The kinds of `ports.UpstreamFault`, as reasons.
FAULTS: Mapping[str, FailureReason] = {
    "connect": FailureReason.BACKEND_UNREACHABLE,
    "reset": FailureReason.BACKEND_DIED,
    "eof": FailureReason.BACKEND_DIED,
    "protocol": FailureReason.BACKEND_PROTOCOL,
    "idle": FailureReason.BACKEND_HUNG,
}


@dataclass(frozen=True, slots=True)
class Answer:
    """A backend's whole answer, not yet sent to anybody."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


@dataclass(frozen=True, slots=True)
class AttemptOutcome:
    """How an attempt ended. `reached_client`: something of it was sent, so it cannot be run again."""

    status: JobStatus
    reason: FailureReason | None = None
    detail: str = ""
    retriable: bool = False
    reached_client: bool = False
    http_status: int | None = None
    first_byte: float | None = None  # monotonic
    usage: Usage = field(default_factory=Usage)
    bytes_out: int = 0
    answer: Answer | None = None  # the backend's own error, for the client if no other attempt does better
    output: bytes | None = None
