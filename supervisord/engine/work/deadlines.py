"""How long a job has still, whatever becomes of the wall clock meanwhile."""

from supervisord.core.record import JobRecord
from supervisord.ports import Clock


class Deadlines:
    """Deadlines are kept by the wall clock, for they outlive the daemon. A clock that is set ahead lets nothing expire:
    since the daemon was started no more time has passed than the monotonic clock says.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._epoch = clock.wall() - clock.monotonic()

    @property
    def now(self) -> float:
        """Seconds since the epoch, as if nobody had set the wall clock ahead since the start."""
        return min(self._clock.wall(), self._clock.monotonic() + self._epoch)

    @property
    def is_clock_ahead(self) -> bool:
        """Whether the wall clock was set ahead, by more than a second: adjusting it bit by bit is not setting it."""
        return self._clock.wall() - self.now > 1.0

    def left(self, job: JobRecord) -> float | None:
        """Seconds until its deadline, below 0 where that is over; None: it has none."""
        if job.terms is None or job.terms.deadline_at is None:
            return None
        return job.terms.deadline_at - self._now_of(job)

    def age(self, job: JobRecord) -> float:
        """Seconds since it was accepted."""
        return max(0.0, self._now_of(job) - job.submitted_at)

    def _now_of(self, job: JobRecord) -> float:
        """One that seems to come from the future was accepted after the clock had been set: it goes by it as it is."""
        now = self.now
        return self._clock.wall() if job.submitted_at > now else now
