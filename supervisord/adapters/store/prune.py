"""Forgetting what is older than the retention, a little at a time, when nothing else is to be written."""

import sqlite3
from collections.abc import Callable
from time import monotonic
from typing import Final

from supervisord.adapters.store.statements import SQL
from supervisord.adapters.store.transaction import transaction

_CHUNK: Final = (
    200  # jobs, events or incidents in one step: about 10 ms, which is what a new record may have to wait for it
)
_BETWEEN_STEPS_S: Final = 0.05
_BETWEEN_ROUNDS_S: Final = 600.0


class Pruner:
    """Deletes finished jobs (with attempts and bodies), events, incidents older than `retention_s`; None: nothing."""

    def __init__(self, retention_s: float | None, now: Callable[[], float]) -> None:
        self._retention_s = retention_s
        self._now = now
        self._opened_at = now()
        self._opened = monotonic()
        self._next = self._opened

    def due_in(self) -> float | None:
        """Seconds until the next step; None: never."""
        return None if self._retention_s is None else max(0.0, self._next - monotonic())

    def step(self, connection: sqlite3.Connection) -> None:
        """Delete one chunk if it is time."""
        if self._retention_s is None or monotonic() < self._next:
            return
        self._next = monotonic() + _BETWEEN_ROUNDS_S  # also after an error
        # A clock that jumps ahead must not expire anything: no more time has passed than the monotonic clock says.
        now = min(self._now(), self._opened_at + monotonic() - self._opened)
        values = {"before": now - self._retention_s, "chunk": _CHUNK}
        with transaction(connection):
            full_chunk = [connection.execute(SQL[name], values).rowcount == _CHUNK for name in _STATEMENTS]
        if any(full_chunk):
            self._next = monotonic() + _BETWEEN_STEPS_S


_STATEMENTS: Final = ("prune_jobs", "prune_events", "prune_incidents")
