"""Every decision becomes an event: stored, kept for followers, and told to listeners (the log)."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from supervisord.core.errors import StoreUnavailableError
from supervisord.core.record import AttemptRecord, EventKind, EventRecord, JobRecord, JobResult
from supervisord.ports import Clock, JobStore

Finished = Callable[[JobRecord, JobResult, AttemptRecord | None], None]

FOLLOWER_LIMIT = 1000  # events a follower may lag behind before it loses the oldest


class Journal:
    """The single writer of events. Telling one never fails and never waits."""

    def __init__(self, store: JobStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._listeners: list[Callable[[EventRecord], None]] = []
        self._finished: list[Finished] = []
        self._followers: set[asyncio.Queue[EventRecord]] = set()
        self.recent: deque[EventRecord] = deque(maxlen=200)

    def tell(
        self,
        kind: EventKind,
        message: str,
        *,
        backend: str | None = None,
        generation: int | None = None,
        job_id: str | None = None,
        **data: object,
    ) -> None:
        """Record an event. `data` holds JSON values; keys carry their unit."""
        event = EventRecord(self._clock.wall(), kind, message, backend, generation, job_id, data)
        self.recent.append(event)
        with suppress(StoreUnavailableError):  # the store says itself that it is broken; the log still has the event
            self._store.put_event(event)
        for listener in self._listeners:
            with suppress(OSError, ValueError):  # a log that cannot be written must not stop the work it tells of
                listener(event)
        for follower in self._followers:
            if follower.full():
                follower.get_nowait()
            follower.put_nowait(event)

    def listen(self, listener: Callable[[EventRecord], None]) -> None:
        """Call `listener` with every event from now on."""
        self._listeners.append(listener)

    def on_finished(self, listener: Finished) -> None:
        """Call `listener` with every job that ends, and its last attempt."""
        self._finished.append(listener)

    def finished(self, job: JobRecord, result: JobResult, attempt: AttemptRecord | None) -> None:
        """Tell that a job has ended."""
        for listener in self._finished:
            with suppress(OSError, ValueError):
                listener(job, result, attempt)

    @contextmanager
    def follow(self) -> Iterator[asyncio.Queue[EventRecord]]:
        """An inbox that gets every event from now on, for as long as the context lasts."""
        inbox: asyncio.Queue[EventRecord] = asyncio.Queue(FOLLOWER_LIMIT)
        self._followers.add(inbox)
        try:
            yield inbox
        finally:
            self._followers.discard(inbox)
