"""A store that is open: its lock, its writer and its readers. What it keeps is told by the classes built on this."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from supervisord.adapters.store.folder import FolderLock
from supervisord.adapters.store.group import Group, Profiles
from supervisord.adapters.store.limits import NEW_JOB, Limit
from supervisord.adapters.store.prune import Pruner, Retention
from supervisord.adapters.store.readers import Lane, Readers
from supervisord.adapters.store.schema import open_store
from supervisord.adapters.store.statements import SQL
from supervisord.adapters.store.trouble import describe
from supervisord.adapters.store.writer import Writer
from supervisord.core.errors import StateFolderError, StoreUnavailableError
from supervisord.core.record import Identity
from supervisord.ports import Recovery, StoreState

_T = TypeVar("_T")

_LONGEST_FLUSH_S: Final = 30.0  # a disk that is slower than this is told as broken
_LONGEST_LAG_S: Final = 1.0  # a query waits that long for what was handed over before it, then reads what is there
_LONGEST_CLOSE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Parts:
    lock: FolderLock
    writer: Writer
    readers: Readers
    life: int  # how often the store was opened, this time included
    closing: threading.Event = field(default_factory=threading.Event)


class StoreBase:
    def __init__(
        self,
        path: Path,
        *,
        keep_bodies: bool,
        retention_s: float | None,
        now: Callable[[], float],
        answers_s: float | None = None,
        max_bytes: int | None = None,
    ) -> None:
        """`keep_bodies`: store the requests and outputs of synchronous jobs, and keep the requests of durable ones that
        have ended. `retention_s`: finished jobs, ended batches, events and incidents older than this are deleted;
        `answers_s`: so are the answers of durable jobs; None keeps them all. `max_bytes`: the oldest of what has ended
        goes when there is more than this; None: no limit. `now`: seconds since the epoch.
        """
        self._path = path
        self._keep_bodies = keep_bodies
        self._retention = Retention(retention_s, answers_s, max_bytes)
        self._now = now
        self._parts: Parts | None = None

    async def open(self) -> Recovery:
        """Open, migrate, check, recover. Synchronous jobs an earlier life left unfinished become `abandoned`, durable
        ones wait again.

        Raises StateFolderError: the folder cannot be written, another daemon uses it, or the file is damaged, of a
        newer version, or not ours. Nothing is changed then.
        """
        if self._parts is not None:
            raise StateFolderError(f"the store {self._path} is open already")
        self._parts, recovery = await asyncio.to_thread(self._open)
        return recovery

    def _open(self) -> tuple[Parts, Recovery]:
        lock = FolderLock(self._path)
        try:
            connection, recovery, life = open_store(self._path, self._now, keep_bodies=self._keep_bodies)
        except BaseException:
            lock.release()
            raise
        try:
            profiles = _profiles(connection)
            readers = Readers(self._path)
        except sqlite3.Error as error:
            connection.close()
            lock.release()
            raise StateFolderError(describe(error, self._path).words) from error
        new_group = partial(Group, profiles, life, self._keep_bodies)
        writer = Writer(connection, self._path, Pruner(self._retention, self._now), new_group)
        return Parts(lock, writer, readers, life), recovery

    def state(self) -> StoreState:
        if self._parts is None:
            return StoreState(str(self._path), size_bytes=0, pending=0, problem="the store is closed")
        writer = self._parts.writer
        trouble = writer.trouble
        return StoreState(
            path=str(self._path),
            size_bytes=writer.size_bytes,
            pending=writer.pending,
            problem="" if trouble is None else trouble.words,
            full=trouble is not None and trouble.full,
            oldest_pending_s=writer.oldest_pending_s,
        )

    async def flush(self) -> None:
        """Everything handed over before is safe from a crash and a power cut on return.

        Raises StoreFullError or StoreUnavailableError: it is not yet; what was taken is tried again until it is.
        """
        await self._writer.committed(durable=True, timeout=_LONGEST_FLUSH_S)

    async def close(self) -> None:
        """Commit what is left, within 5 s, and give the file free. A second call does nothing."""
        parts, self._parts = self._parts, None
        if parts is not None:
            await asyncio.to_thread(_close, parts)

    async def _read(self, query: Callable[[sqlite3.Connection], _T], lane: Lane = Lane.LOOK) -> _T:
        """What `query` finds, which sees everything handed over before. Raises StoreUnavailableError."""
        readers, writer = self._open_parts.readers, self._writer
        if writer.is_behind and writer.trouble is None:
            with suppress(StoreUnavailableError):
                await writer.committed(durable=False, timeout=_LONGEST_LAG_S)
        return await readers.run(query, lane)

    async def _do(
        self,
        work: Callable[[sqlite3.Connection], _T],
        *,
        size: int = 0,
        limit: Limit = NEW_JOB,
        durable: bool = True,
        bare: bool = False,
        timeout: float | None = None,
    ) -> _T:
        """What `work` returns, once it is committed. Raises StoreFullError or StoreUnavailableError: it is not."""
        longest = _LONGEST_FLUSH_S if timeout is None else timeout
        return await self._writer.do(work, size=size, limit=limit, durable=durable, bare=bare, timeout=longest)

    @property
    def _open_parts(self) -> Parts:
        if self._parts is None:
            raise StoreUnavailableError("the store is closed")
        return self._parts

    @property
    def _writer(self) -> Writer:
        return self._open_parts.writer


def _close(parts: Parts) -> None:
    parts.closing.set()
    parts.readers.close()
    parts.writer.stop(_LONGEST_CLOSE_S)
    parts.lock.release()


def _profiles(connection: sqlite3.Connection) -> Profiles:
    found = Profiles()
    for number, runtime, rung, name, why, hardware, *identity in connection.execute(SQL["profiles"]):
        found.ids[runtime, rung, name, why, hardware, Identity(*identity)] = number
    return found
