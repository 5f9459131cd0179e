"""The queue: admission, order, position, expiry. A plain value that is changed only by the dispatcher; no IO, no clock.

Order is by a key fixed at arrival: the time of arrival plus a handicap for the class of priority. Between classes that
is aging without ever re-sorting: once a batch job has waited its handicap longer than a high one, its class goes first.
Within a class clients take turns, and the jobs of one client go in the order in which they came.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import inf

from supervisord.core.errors import QueueFullError
from supervisord.core.job import Job, Priority
from supervisord.core.turns import Key, Turns


@dataclass(frozen=True, slots=True)
class QueuePolicy:
    """`limit`: jobs whose clients wait; durable ones do not count.

    `handicap_s`: how much longer a job of a class must have waited to go before a high one that arrives now.
    """

    limit: int = 1000
    handicap_s: Mapping[Priority, float] = field(
        default_factory=lambda: {Priority.HIGH: 0.0, Priority.NORMAL: 300.0, Priority.BATCH: 3600.0}
    )


FAR_ENOUGH = 64  # of a line: behind so many others a job is not the one that is late
RETRY_SHORTEST_S = 1.0
RETRY_LONGEST_S = 60.0  # both SDKs ignore a longer Retry-After (Anthropic's at 60 s, OpenAI's at 120 s)


class _Line:
    """The jobs that wait for one route."""

    __slots__ = ("keys", "turns")

    def __init__(self) -> None:
        self.keys: list[Key] = []  # in order
        self.turns: dict[Priority, Turns] = {}

    def add(self, job: Job, key: Key, *, again: bool) -> None:
        insort(self.keys, key)
        turns = self.turns.get(job.priority)
        if turns is None:
            turns = self.turns[job.priority] = Turns()
        turns.add(job.submission.client, key, again=again)

    def remove(self, job: Job, key: Key, *, served: bool) -> None:
        del self.keys[bisect_left(self.keys, key)]
        self.turns[job.priority].remove(job.submission.client, key, served=served)


class JobQueue:
    """Jobs that wait. Every job is in it at most once."""

    def __init__(self, policy: QueuePolicy) -> None:
        self._policy = policy
        self._order: list[Key] = []
        self._jobs: dict[Key, Job] = {}
        self._keys: dict[str, Key] = {}
        self._arrivals = 0
        self._durable = 0  # of those that wait
        self._lines: dict[str, _Line] = {}  # by route
        self._expiries: list[tuple[float, str]] = []  # a heap; entries of jobs long gone are dropped when met

    def __len__(self) -> int:
        return len(self._order)

    def __contains__(self, job_id: object) -> bool:
        return job_id in self._keys

    def __iter__(self) -> Iterator[Job]:
        """Jobs in their order, as if they were of one client each."""
        return iter([self._jobs[key] for key in self._order])

    def limit_by(self, policy: QueuePolicy) -> None:
        """Another policy for jobs that arrive from now on; those that wait keep their place."""
        self._policy = policy

    @property
    def limit(self) -> int:
        return self._policy.limit

    @property
    def depth(self) -> int:
        """Jobs that count against the limit: those whose clients wait."""
        return len(self._order) - self._durable

    def admit(self, job: Job, *, seconds_per_job: float | None) -> int:
        """Append a new job; its position from 1.

        Raises QueueFullError, whose Retry-After is the time in which a place becomes free at the pace of late
        (`seconds_per_job`; None: nothing is known yet).
        """
        depth = self.depth
        if depth >= self._policy.limit and not job.durable:
            pace = seconds_per_job if seconds_per_job is not None else RETRY_SHORTEST_S
            raise QueueFullError(
                f"The queue is full: {depth} jobs wait, the limit is {self._policy.limit}. "
                "Try again later, or raise queue.limit.",
                depth=depth,
                retry_after_s=min(RETRY_LONGEST_S, max(RETRY_SHORTEST_S, pace)),
            )
        self._arrivals += 1
        self._insert((job.arrived + self._policy.handicap_s[job.priority], self._arrivals), job, again=False)
        return self.position(job.id)

    def put_back(self, job: Job, key: Key) -> None:
        """Return a job whose attempt failed to the very place it had; the limit does not apply to it."""
        self._insert(key, job, again=True)

    def take(self, job_id: str, *, served: bool = False) -> tuple[Job, Key]:
        """Remove a job; raises KeyError when it does not wait. `served`: it runs, and that was its client's turn."""
        key = self._keys.pop(job_id)
        job = self._jobs.pop(key)
        self._durable -= job.durable
        del self._order[bisect_left(self._order, key)]
        line = self._lines[job.line]
        line.remove(job, key, served=served)
        if not line.keys:
            del self._lines[job.line]
        return job, key

    def first_of_each_model(self, barred: Callable[[Job], bool] | None = None) -> list[Job]:
        """The jobs at the head of each model's line, in order: the only ones that can run next.

        Those that are `barred` cannot: whoever stands behind them is at the head. None: nobody is.
        """
        if barred is None:
            heads = [self._first(line) for line in self._lines.values()]
        else:
            found = (self._first_but(line, barred) for line in self._lines.values())
            heads = [key for key in found if key is not None]
        if len(heads) > 1:  # mostly one model is busy
            heads.sort()
        return [self._jobs[key] for key in heads]

    def _first(self, line: _Line) -> Key:
        """Whose turn it is in the class that is due: that of the job which has waited longest for its class."""
        return line.turns[self._jobs[line.keys[0]].priority].first()

    def _first_but(self, line: _Line, barred: Callable[[Job], bool]) -> Key | None:
        """The same, of the jobs that are not barred; None: all are."""

        def is_barred(key: Key) -> bool:
            return barred(self._jobs[key])

        due = next((key for key in line.keys if not is_barred(key)), None)
        return None if due is None else line.turns[self._jobs[due].priority].first_but(is_barred)

    def position(self, job_id: str) -> int:
        """From 1, by its key alone: clients take turns. Raises KeyError when it does not wait."""
        return bisect_left(self._order, self._keys[job_id]) + 1

    def waiting_for(self, line: str) -> int:
        """Jobs in the line of a route."""
        found = self._lines.get(line)
        return 0 if found is None else len(found.keys)

    def head(self, line: str) -> tuple[Job, Key] | None:
        """The job that is next in the line of a route, and its key; None when nobody waits there."""
        found = self._lines.get(line)
        if found is None:
            return None
        key = self._first(found)
        return self._jobs[key], key

    def oldest_in(self, line: str) -> float | None:
        """When the job that waits longest in a line arrived (monotonic), of the first FAR_ENOUGH in it."""
        found = self._lines.get(line)
        return None if found is None else min(self._jobs[key].arrived for key in found.keys[:FAR_ENOUGH])

    def expired(self, now: float) -> list[Job]:
        """Jobs that have waited for too long, longest overdue first. They stay until taken."""
        found: dict[str, Job] = {}  # a job that was put back stands in the heap twice
        while (expiry := self.next_expiry()) is not None and expiry <= now:
            job_id = heappop(self._expiries)[1]
            found[job_id] = self._jobs[self._keys[job_id]]
        for job in found.values():
            heappush(self._expiries, (job.expires, job.id))
        return list(found.values())

    def next_expiry(self) -> float | None:
        """When the next job expires (monotonic); None when none does."""
        while self._expiries:
            expires, job_id = self._expiries[0]
            key = self._keys.get(job_id)
            if key is not None and self._jobs[key].expires == expires:
                return expires
            heappop(self._expiries)
        return None

    def oldest(self) -> float | None:
        """When the job that waits longest arrived (monotonic)."""
        return min((job.arrived for job in self._jobs.values()), default=None)

    def _insert(self, key: Key, job: Job, *, again: bool) -> None:
        if job.id in self._keys:
            raise ValueError(f"job {job.id} waits already")
        insort(self._order, key)
        line = self._lines.get(job.line)
        if line is None:
            line = self._lines[job.line] = _Line()
        line.add(job, key, again=again)
        self._jobs[key] = job
        self._keys[job.id] = key
        self._durable += job.durable
        if job.expires == inf:
            return
        if len(self._expiries) > 2 * len(self._jobs) + 64:  # jobs that ran leave theirs behind, for days at worst
            waiting = self._jobs.values()
            self._expiries = sorted((each.expires, each.id) for each in waiting if each.expires < inf)
        else:
            heappush(self._expiries, (job.expires, job.id))
