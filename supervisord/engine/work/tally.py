"""What stands against a durable job that has failed: whether it is tried again, and when."""

import random

from supervisord.core.job import FailureReason, JobStatus
from supervisord.core.restart import RestartPolicy, delay
from supervisord.core.terms import MOST_ATTEMPTS
from supervisord.engine.endings import EXCUSED
from supervisord.engine.records import Course
from supervisord.engine.tries import Ended
from supervisord.engine.work.deadlines import Deadlines
from supervisord.ports import StoredJob

# Between the tries of one job. Its backend has a breaker and a budget of starts of its own; this keeps jobs that failed
# together from coming back together.
REST = RestartPolicy(base_s=1.0, cap_s=60.0)

# A service that limits rates does so by the minute, the hour or the day at the longest: what is refused for longer has
# run out of what was paid for, or is not wanted at all, and waits for nothing.
LONGEST_BUSY_S = 25 * 3600.0


class Tally:
    """Of one job, over all lives of the daemon: the attempts that are in the store tell of those before."""

    def __init__(self, stored: StoredJob, course: Course, deadlines: Deadlines) -> None:
        terms = stored.job.terms
        self._most = terms.max_attempts if terms is not None else MOST_ATTEMPTS
        self._course = course
        self._deadlines = deadlines
        self._before = stored.failures
        # An answer that was whole, and did not end the job: it did not fit, or a crash took the result that it made.
        self.wrong = sum(attempt.status is JobStatus.DONE for attempt in stored.attempts)
        self._put_off = 0  # tries in a row that came to nothing without being a failure
        self._busy_since: float | None = None  # seconds since the epoch: every try since then found its backend busy
        for attempt in stored.attempts:
            self._note_busy(attempt.reason, attempt.started_at)

    @property
    def failures(self) -> int:
        """Tries that count."""
        return self._before + int(self._course.failures - self._course.suspicion.pardon)

    def failed(self, ended: Ended) -> None:
        """One more try came to nothing."""
        self._put_off = self._put_off + 1 if ended.reason in EXCUSED else 0
        self._note_busy(ended.reason, self._deadlines.now)

    def is_over(self, ended: Ended) -> str:
        """Why it is not tried again, in words; empty: it is."""
        if self.failures >= self._most:
            return f"{ended.detail}; it was tried {self._course.attempts} times"
        if self._busy_since is not None and self._deadlines.now - self._busy_since >= LONGEST_BUSY_S:
            return f"{ended.detail}; so it was for more than a day, at every try"
        return ""

    def rest_s(self, ended: Ended) -> float:
        """Seconds until the next try."""
        draw = random.random()  # noqa: S311 - jitter, not a secret
        return max(delay(self.failures + self._put_off, draw, REST), ended.outcome.retry_after_s or 0.0)

    def _note_busy(self, reason: FailureReason | None, at: float) -> None:
        if reason is not FailureReason.BACKEND_BUSY:
            self._busy_since = None
        elif self._busy_since is None:
            self._busy_since = at
