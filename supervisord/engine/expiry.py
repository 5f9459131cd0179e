"""Jobs that have waited in the queue for too long."""

from collections.abc import Callable, Sequence

from supervisord.core.errors import DeadlineExceededError, QueueTimeoutError, SupervisorError
from supervisord.core.job import FailureReason, Job
from supervisord.core.queue import JobQueue
from supervisord.ports import Clock, Timer


class Expiry:
    """One timer, for the next of them. `expired` gets those that are due, and takes them out of the queue."""

    def __init__(self, queue: JobQueue, clock: Clock, expired: Callable[[Sequence[Job]], None]) -> None:
        self._queue = queue
        self._clock = clock
        self._expired = expired
        self._timer: Timer | None = None
        self._due_at: float | None = None

    def arm(self) -> None:
        """The queue has changed."""
        due = self._queue.next_expiry()
        if due is None or (self._due_at is not None and self._due_at <= due):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._due_at = due
        self._timer = self._clock.call_at(due, self._due)

    def _due(self) -> None:
        self._timer = self._due_at = None
        self._expired(self._queue.expired(self._clock.monotonic()))
        self.arm()


def in_vain(job: Job, now: float, waits_for: str) -> SupervisorError:
    """What a client is told whose job has waited until `now` (monotonic)."""
    waited, because = now - job.arrived, f" ({waits_for})" if waits_for else ""
    if job.expiry_reason is FailureReason.DEADLINE_EXCEEDED:
        return DeadlineExceededError(f"The job waited {waited:.1f} s and was not started before its deadline{because}.")
    return QueueTimeoutError(f"The job waited {waited:.1f} s in the queue and was not started{because}.")
