"""Who waits for news of a job: a client that polls long, or one that follows its events."""

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

from supervisord.core.errors import TooManyConnectionsError
from supervisord.core.job import JobStatus

MOST_FOLLOWERS = 10_000  # each is a connection of its own, and those have a limit of their own
KEPT_NEWS = 32  # for a follower that does not look: the oldest go, the last one says it all


class NewsKind(StrEnum):
    STARTED = "started"  # an attempt began
    REQUEUED = "requeued"  # it is over, and the job waits again
    ENDED = "ended"  # there is a result, and it is safe from a power cut


@dataclass(frozen=True, slots=True)
class News:
    """What happened to a job. `at`: seconds since the epoch. `attempt`: from 1; 0 where it was never tried."""

    job_id: str
    kind: NewsKind
    at: float
    status: JobStatus
    attempt: int = 0
    backend: str = ""
    detail: str = ""


class Follower:
    """The inbox of one that follows."""

    def __init__(self) -> None:
        self._news: deque[News] = deque(maxlen=KEPT_NEWS)
        self._bell = asyncio.Event()
        self.closed = False  # no news comes any more: the daemon goes down

    async def next(self, seconds: float) -> News | None:
        """The next news, in order; None where none came within `seconds`, or none comes any more."""
        if not self._news and not self.closed:
            self._bell.clear()
            try:
                async with asyncio.timeout(seconds):
                    await self._bell.wait()
            except TimeoutError:
                return None
        return self._news.popleft() if self._news else None

    def put(self, news: News) -> None:
        self._news.append(news)
        self._bell.set()

    def close(self) -> None:
        self.closed = True
        self._bell.set()


class Bulletin:
    """Telling never waits and never fails. Whoever follows looks at the store first: only what comes later is told."""

    def __init__(self) -> None:
        self._followers: dict[str, set[Follower]] = {}
        self._count = 0
        self.closed = False

    @contextmanager
    def follow(self, job_id: str) -> Iterator[Follower]:
        """An inbox that gets the news of a job, for as long as the context lasts. Raises TooManyConnectionsError."""
        if self._count >= MOST_FOLLOWERS:
            raise TooManyConnectionsError(
                f"{self._count} clients wait for news of jobs already: ask again later.", retry_after_s=5
            )
        follower = Follower()
        follower.closed = self.closed
        self._followers.setdefault(job_id, set()).add(follower)
        self._count += 1
        try:
            yield follower
        finally:
            self._count -= 1
            others = self._followers[job_id]
            others.discard(follower)
            if not others:
                del self._followers[job_id]

    def is_followed(self, job_id: str) -> bool:
        return job_id in self._followers

    def followed(self) -> Sequence[str]:
        """The ids of the jobs that somebody follows."""
        return tuple(self._followers)

    def tell(self, news: News) -> None:
        """Tell everybody who follows the job."""
        for follower in self._followers.get(news.job_id, ()):
            follower.put(news)

    def close(self) -> None:
        """End every wait, now and from now on."""
        self.closed = True
        for followers in self._followers.values():
            for follower in followers:
                follower.close()
