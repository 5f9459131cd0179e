"""How fast jobs end of late: what an estimate of how long the others have still to wait goes by."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from supervisord.core.errors import ModelNotFoundError
from supervisord.core.job import JobStatus
from supervisord.core.record import AttemptRecord, JobRecord, JobResult
from supervisord.core.routing import Routes
from supervisord.engine.journal import Journal
from supervisord.ports import Clock

WINDOW_S = 600.0  # long enough for jobs of minutes, short enough to follow a backend that has slowed down
GRAIN_S = 10.0  # ends within it are counted as one entry: at most 61 for each model, however many jobs there are
LEAST_S = 1.0  # what ends sooner than that after it began would promise too much

_RAN = frozenset({JobStatus.DONE, JobStatus.FAILED})


@dataclass(slots=True)
class _Ends:
    """Of the jobs of one model. `since`: monotonic seconds, when the first of them began."""

    since: float
    counts: deque[tuple[float, int]] = field(default_factory=deque)  # when a grain began, how many ended in it


class Pace:
    """Counts the jobs that came back from backends, by the main names of their models."""

    def __init__(self, journal: Journal, clock: Clock, routes: Callable[[], Routes]) -> None:
        self._clock = clock
        self._routes = routes
        self._models: dict[str, _Ends] = {}
        journal.on_finished(self._finished)

    def per_second(self, model: str) -> float | None:
        """How many jobs of a model end in a second, over ten minutes at most; None: none of late."""
        known = self._models.get(model)
        if known is None:
            return None
        now = self._clock.monotonic()
        _forget(known, now)
        ended = sum(count for _, count in known.counts)
        return ended / max(LEAST_S, min(WINDOW_S, now - known.since)) if ended else None

    def _finished(self, job: JobRecord, result: JobResult, attempt: AttemptRecord | None) -> None:
        if attempt is None or result.status not in _RAN:
            return
        try:
            model = self._routes().named(job.model).name
        except ModelNotFoundError:  # removed by a reload: nobody waits for it any more
            return
        now = self._clock.monotonic()
        known = self._models.setdefault(model, _Ends(now))
        _forget(known, now)
        if not known.counts:
            known.since = now - attempt.duration_s
        if known.counts and now - known.counts[-1][0] < GRAIN_S:
            begun, count = known.counts.pop()
            known.counts.append((begun, count + 1))
        else:
            known.counts.append((now, 1))


def _forget(known: _Ends, now: float) -> None:
    while known.counts and known.counts[0][0] <= now - WINDOW_S:
        known.counts.popleft()
