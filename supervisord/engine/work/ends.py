"""Durable jobs that have just ended: told as soon as that is safe from a power cut, not before."""

import asyncio
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from supervisord.core.errors import StoreUnavailableError
from supervisord.core.job import FailureReason, JobStatus
from supervisord.core.record import JobRecord, JobResult
from supervisord.engine.work.bulletin import Bulletin, News, NewsKind
from supervisord.ports import Clock, Store

STORE_PAUSE_S = 1.0  # before a store that failed is asked again, for whatever


@dataclass(frozen=True, slots=True)
class End:
    """A durable job has ended, and its result is safe from a power cut."""

    job: JobRecord  # without its body
    status: JobStatus
    reason: FailureReason | None
    attempts: int = 0


class Ends:
    """Tells `bulletin`, and whoever listens, of each end."""

    def __init__(self, store: Store, bulletin: Bulletin, clock: Clock) -> None:
        self._store = store
        self._bulletin = bulletin
        self._clock = clock
        self._listeners: list[Callable[[End], None]] = []
        self._untold: dict[str, End] = {}
        self._notes: list[set[str]] = []
        self._bell = asyncio.Event()

    def __contains__(self, job_id: object) -> bool:
        """Whether a job has ended, and that is not yet safe from a power cut."""
        return job_id in self._untold

    def listen(self, listener: Callable[[End], None]) -> None:
        """Call `listener` with every end. It must not wait, nor raise."""
        self._listeners.append(listener)

    def add(self, job: JobRecord, result: JobResult) -> None:
        """A result has been handed to the store."""
        self._untold[job.id] = End(job, result.status, result.reason, result.attempts)
        for note in self._notes:
            note.add(job.id)
        self._bell.set()

    @contextmanager
    def noted(self) -> Iterator[AbstractSet[str]]:
        """The ids of those that have ended, though a read of the store within this context may not show it yet."""
        note = set(self._untold)
        self._notes.append(note)
        try:
            yield note
        finally:
            self._notes = [each for each in self._notes if each is not note]  # two may be equal

    async def run(self) -> None:
        """Tell of ends as they become safe, until cancelled."""
        while True:
            await self._bell.wait()
            self._bell.clear()
            try:
                await self._tell()
            except StoreUnavailableError:
                self._bell.set()
                await self._clock.sleep(STORE_PAUSE_S)

    async def last(self) -> None:
        """Tell what can be told before the store is closed."""
        if self._untold:
            with suppress(StoreUnavailableError):
                await self._tell()

    async def _tell(self) -> None:
        """Raises StoreUnavailableError: nothing was told."""
        ends = list(self._untold.values())
        await self._store.flush()
        now = self._clock.wall()
        for end in ends:
            if self._untold.pop(end.job.id, None) is None:  # somebody else has told it meanwhile
                continue
            self._bulletin.tell(News(end.job.id, NewsKind.ENDED, now, end.status, end.attempts))
            for listener in self._listeners:
                listener(end)
