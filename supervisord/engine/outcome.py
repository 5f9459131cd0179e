"""How an attempt can end."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime

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


LONGEST_RETRY_AFTER_S = 60.0  # what asks to be left alone for longer is asked again all the same


@dataclass(frozen=True, slots=True)
class Answer:
    """A backend's whole answer, not yet sent to anybody."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def retry_after_s(self, now: float) -> float | None:
        """How long it asks to be left alone, in seconds, LONGEST_RETRY_AFTER_S at most; `now` is since the epoch.

        A number of seconds, or a date (RFC 9110, 10.2.3). None: nothing, nonsense, or what has passed.
        """
        text = next((value.strip() for name, value in self.headers if name == "retry-after"), "")
        try:
            wait = float(text) if text.isdecimal() else parsedate_to_datetime(text).timestamp() - now
        except (ValueError, OverflowError):
            return None
        return min(wait, LONGEST_RETRY_AFTER_S) if wait > 0 else None


@dataclass(frozen=True, slots=True)
class AttemptOutcome:
    """How an attempt ended. `reached_client`: something of it was sent, so it cannot be run again.

    `retry_after_s`: how long a busy backend asked to be left alone, in seconds from its answer; None: it did not say.
    """

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
    retry_after_s: float | None = None
