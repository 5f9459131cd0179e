"""Forgetting what is past its retention, a little at a time, when nothing else is to be written."""

import logging
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from time import monotonic
from typing import Final

from supervisord.adapters.store.forget import delete_lines, delete_parts, mark_batch, mark_belongings
from supervisord.adapters.store.statements import SQL
from supervisord.adapters.store.transaction import transaction

_LOG = logging.getLogger(__name__)

_CHUNK: Final = 200  # of one kind in one step: about 10 ms, which is what a new record may have to wait for it
_BETWEEN_STEPS_S: Final = 0.05
_BETWEEN_LOOKS_S: Final = 1.0  # while there is too much, and nothing that may go
_BETWEEN_ROUNDS_S: Final = 600.0

Cutoffs = Mapping[str, float]  # seconds since the epoch: records, answers, now; and the chunk


@dataclass(frozen=True, slots=True)
class Retention:
    """How long records and the answers of durable jobs are kept, in seconds, and how much of all; None: no limit."""

    records_s: float | None = None
    answers_s: float | None = None
    max_bytes: int | None = None


class Pruner:
    """Deletes jobs that have ended (with attempts and bodies), batches, answers, files, events, incidents.

    Lines of a batch stay until it has ended, however old they are.
    """

    def __init__(self, retention: Retention, now: Callable[[], float]) -> None:
        self._retention = retention
        self._now = now
        self._opened_at = now()
        self._opened = monotonic()
        self._next = self._opened
        self.full = ""  # why nothing new is taken: there is too much, and nothing that may go

    def due_in(self) -> float:
        """Seconds until the next step."""
        return max(0.0, self._next - monotonic())

    def step(self, connection: sqlite3.Connection, size_bytes: int) -> None:
        """Delete one chunk of each kind if it is time; `size_bytes`: of the store's files. Raises sqlite3.Error."""
        most = self._retention.max_bytes
        # The file keeps the room of what was deleted, so its size is no more than a first hint.
        is_over = most is not None and size_bytes > most and _used(connection) > most
        if monotonic() < self._next and not (is_over and not self.full):
            return
        self._next = monotonic() + _BETWEEN_ROUNDS_S  # also after an error
        with transaction(connection):
            more = any([step(connection, self._cutoffs()) for step in _STEPS])  # noqa: C419 - each of them
            if is_over and not more:
                more = _drop_oldest(connection)
        if more:
            self._next = monotonic() + _BETWEEN_STEPS_S
        elif is_over:
            self._next = monotonic() + _BETWEEN_LOOKS_S
        self._note(f"{(most or 0) / 2**20:.0f} MiB" if is_over and not more else "")

    def _cutoffs(self) -> Cutoffs:
        # A clock that jumps ahead must not expire anything: no more time has passed than the monotonic clock says.
        now = min(self._now(), self._opened_at + monotonic() - self._opened)
        records_s, answers_s = self._retention.records_s, self._retention.answers_s
        return {
            "now": now,
            "records": -inf if records_s is None else now - records_s,
            "answers": -inf if answers_s is None else now - answers_s,
            "chunk": _CHUNK,
        }

    def _note(self, limit: str) -> None:
        words = limit and (
            f"the store is at its limit of {limit} and holds nothing that has ended: let work end, delete files that "
            f"nobody needs, or raise store.max_size"
        )
        if words != self.full:
            _LOG.warning("%s", words or "the store is below its limit again")
        self.full = words


# --- kinds of things: each step says whether there is more of it -----------------------------------------------------


def _chunk_of(name: str) -> Callable[[sqlite3.Connection, Cutoffs], bool]:
    def step(connection: sqlite3.Connection, cutoffs: Cutoffs) -> bool:
        return connection.execute(SQL[name], cutoffs).rowcount == _CHUNK

    return step


def _answers(connection: sqlite3.Connection, cutoffs: Cutoffs) -> bool:
    """Of durable jobs that are no lines, with the streams they came by."""
    connection.execute(SQL["prune_streams"], cutoffs)
    return connection.execute(SQL["prune_answers"], cutoffs).rowcount == _CHUNK


def _batches(connection: sqlite3.Connection, cutoffs: Cutoffs) -> bool:
    """Batches with their lines; first those that were deleted and are still there."""
    if connection.execute(SQL["prune_batches"], cutoffs).rowcount:
        mark_belongings(connection)
    row = connection.execute(SQL["deleted_batch"]).fetchone()
    if row is None:
        return False
    delete_lines(connection, batch_id=row[0])
    return True


def _answers_of_batches(connection: sqlite3.Connection, cutoffs: Cutoffs) -> bool:
    """From the first line on; that the answers go is told before the first of them is gone."""
    connection.execute(SQL["prune_batch_answers"], cutoffs)
    row = connection.execute(SQL["dropping_batch"]).fetchone()
    if row is None:
        return False
    batch_id, after = row
    values = {"batch": batch_id, "after": after, "chunk": _CHUNK}
    last: int | None = connection.execute(SQL["last_of_lines"], values).fetchone()[0]
    if last is not None:
        connection.execute(SQL["drop_answers_of_lines"], {"batch": batch_id, "after": after, "last": last})
    connection.execute(SQL["mark_dropped"], {"batch": batch_id, "last": last})
    return True


def _files(connection: sqlite3.Connection, cutoffs: Cutoffs) -> bool:
    """Files past their time, or that of records, which no unfinished batch reads; then the parts of what is deleted."""
    connection.execute(SQL["prune_files"], cutoffs)
    row = connection.execute(SQL["deleted_file"]).fetchone()
    if row is None:
        return False
    delete_parts(connection, file_id=row[0])
    return True


_STEPS: Final = (
    _chunk_of("prune_jobs"),
    _chunk_of("prune_events"),
    _chunk_of("prune_incidents"),
    _answers,
    _batches,
    _answers_of_batches,
    _files,
)


# --- size ------------------------------------------------------------------------------------------------------------


def _used(connection: sqlite3.Connection) -> int:
    """Bytes of the file that hold something."""
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    used: int = (pages - free) * size
    return used


def _drop_oldest(connection: sqlite3.Connection) -> bool:
    """The oldest jobs that have ended, or the oldest batch that has. Whether there was one."""
    job_at, batch_at, batch_id = connection.execute(SQL["oldest_ended"]).fetchone()
    if job_at is None and batch_at is None:
        return False
    if batch_at is None or (job_at is not None and job_at <= batch_at):
        connection.execute(SQL["prune_jobs"], {"records": inf, "chunk": _CHUNK})
    else:
        mark_batch(connection, batch_id=batch_id)
    return True
