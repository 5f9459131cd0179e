"""The queue: admission, order, position, expiry. A plain value that is changed only by the dispatcher; no IO, no clock.

Order is by a key fixed at arrival: the time of arrival plus a handicap for the class of priority. Within a class that
is first come, first served; between classes it is aging without ever re-sorting: a batch job that has waited its
handicap longer than a high one goes first.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush

from supervisord.core.errors import QueueFullError
from supervisord.core.job import Job, Priority


@dataclass(frozen=True, slots=True)
class QueuePolicy:
    """`handicap_s`: how much longer a job of a class must have waited to go before a high one that arrives now."""

    limit: int = 1000
    handicap_s: Mapping[Priority, float] = field(
        default_factory=lambda: {Priority.HIGH: 0.0, Priority.NORMAL: 300.0, Priority.BATCH: 3600.0}
    )


Key = tuple[float, int]

FAR_ENOUGH = 64  # of a line: behind so many others a job is not the one that is late
RETRY_SHORTEST_S = 1.0
RETRY_LONGEST_S = 60.0  # both SDKs ignore a longer Retry-After (Anthropic's at 60 s, OpenAI's at 120 s)


class JobQueue:
    """Jobs that wait. Every job is in it at most once."""

    def __init__(self, policy: QueuePolicy) -> None:
        self._policy = policy
        self._order: list[Key] = []
        self._jobs: dict[Key, Job] = {}
        self._keys: dict[str, Key] = {}
        self._arrivals = 0
        self._lines: dict[str, list[Key]] = {}  # by route, each in order
        self._expiries: list[tuple[float, str]] = []  # a heap; entries of jobs long gone are dropped when met

    def __len__(self) -> int:
        return len(self._order)

    def __contains__(self, job_id: object) -> bool:
        return job_id in self._keys

    def __iter__(self) -> Iterator[Job]:
        """Jobs in the order in which they would run if every backend could take any of them."""
        return iter([self._jobs[key] for key in self._order])

    def limit_by(self, policy: QueuePolicy) -> None:
        """Another policy for jobs that arrive from now on; those that wait keep their place."""
        self._policy = policy

    @property
    def limit(self) -> int:
        return self._policy.limit

    def admit(self, job: Job, *, seconds_per_job: float | None) -> int:
        """Append a new job; its position from 1.

        Raises QueueFullError, whose Retry-After is the time in which a place becomes free at the pace of late
        (`seconds_per_job`; None: nothing is known yet).
        """
        if len(self._order) >= self._policy.limit:
            pace = seconds_per_job if seconds_per_job is not None else RETRY_SHORTEST_S
            raise QueueFullError(
                f"The queue is full: {len(self._order)} jobs wait, the limit is {self._policy.limit}. "
                "Try again later, or raise queue.limit.",
                depth=len(self._order),
                retry_after_s=min(RETRY_LONGEST_S, max(RETRY_SHORTEST_S, pace)),
            )
        self._arrivals += 1
        self._insert((job.arrived + self._policy.handicap_s[job.priority], self._arrivals), job)
        return self.position(job.id)

    def put_back(self, job: Job, key: Key) -> None:
        """Return a job whose attempt failed to the very place it had; the limit does not apply to it."""
        self._insert(key, job)

    def take(self, job_id: str) -> tuple[Job, Key]:
        """Remove a job; raises KeyError when it does not wait."""
        key = self._keys.pop(job_id)
        job = self._jobs.pop(key)
        del self._order[bisect_left(self._order, key)]
        line = self._lines[job.line]
        del line[bisect_left(line, key)]
        if not line:
            del self._lines[job.line]
        return job, key

    def first_of_each_model(self) -> list[Job]:
        """The jobs at the head of each model's line, in order: the only ones that can run next."""
        if len(self._lines) == 1:  # mostly: one model is busy
            return [self._jobs[line[0]] for line in self._lines.values()]
        return [self._jobs[key] for key in sorted(line[0] for line in self._lines.values())]

    def position(self, job_id: str) -> int:
        """From 1; raises KeyError when it does not wait."""
        return bisect_left(self._order, self._keys[job_id]) + 1

    def waiting_for(self, line: str) -> int:
        """Jobs in the line of a route."""
        return len(self._lines.get(line, ()))

    def head(self, line: str) -> tuple[Job, Key] | None:
        """The job that is next in the line of a route, and its key; None when nobody waits there."""
        keys = self._lines.get(line)
        return (self._jobs[keys[0]], keys[0]) if keys else None

    def oldest_in(self, line: str) -> float | None:
        """When the job that waits longest in a line arrived (monotonic), of the first FAR_ENOUGH in it."""
        return min((self._jobs[key].arrived for key in self._lines.get(line, ())[:FAR_ENOUGH]), default=None)

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
        """When the next job expires (monotonic); None when nothing waits."""
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

    def _insert(self, key: Key, job: Job) -> None:
        if job.id in self._keys:
            raise ValueError(f"job {job.id} waits already")
        insort(self._order, key)
        insort(self._lines.setdefault(job.line, []), key)
        self._jobs[key] = job
        self._keys[job.id] = key
        if len(self._expiries) > 2 * len(self._jobs) + 64:  # jobs that ran leave theirs behind, for days at worst
            self._expiries = sorted((waiting.expires, waiting.id) for waiting in self._jobs.values())
        else:
            heappush(self._expiries, (job.expires, job.id))
