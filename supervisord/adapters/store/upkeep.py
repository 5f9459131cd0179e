"""Copies of the store while it is in use, and giving room back to the disk."""

import asyncio
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Final

from supervisord.adapters.store.base import StoreBase
from supervisord.adapters.store.folder import make_private_file, sync_folder
from supervisord.adapters.store.limits import OF_ACCEPTED
from supervisord.adapters.store.schema import connect
from supervisord.adapters.store.statements import SQL
from supervisord.adapters.store.trouble import describe, os_words
from supervisord.core.errors import ConflictError, StateFolderError, StoreUnavailableError
from supervisord.ports import BackupReport

_PAGES_AT_ONCE: Final = 1024  # copied between two looks at whether it is still wanted: 4 MiB, some 10 ms
_FREED_AT_ONCE: Final = 512  # pages given back in one commit: some 10 ms, which is what a new record may have to wait
_INCREMENTAL: Final = 2  # the value of auto_vacuum that lets pages be given back a few at a time
_LONGEST_VACUUM_S: Final = 3600.0


class Upkeep(StoreBase):
    _upkeep = ""  # what is under way

    async def backup(self, path: str) -> BackupReport:
        """A copy of the state as it is now, in one file that only its owner may read, while work goes on.

        It is written under another name, checked, synced and moved into place. Raises StateFolderError where that
        cannot be done or something is at `path`; ConflictError while another backup or a vacuum is under way.
        """
        target = Path(path)
        with self._alone("a backup"):
            await self._read(lambda _: None)  # with everything that was handed over before
            stop = self._open_parts.closing
            left = threading.Event()
            try:
                return await asyncio.to_thread(_back_up, self._path, target, (stop, left))
            finally:
                left.set()

    async def vacuum(self) -> int:
        """Give back to the disk what deleted rows held; bytes.

        A few pages at a time, while work goes on. Only a store that was made before version 5 of the schema is
        rewritten as a whole the first time: what is written meanwhile waits, and it needs as much room again. Raises
        ConflictError while another vacuum or a backup is under way; StoreFullError, StoreUnavailableError.
        """
        with self._alone("a vacuum"):
            before = await self._shrunk_log()
            if not await self._do(_is_incremental, durable=False, limit=OF_ACCEPTED):
                await self._do(_rewrite, bare=True, limit=OF_ACCEPTED, timeout=_LONGEST_VACUUM_S)
            while await self._do(_give_back, durable=False, limit=OF_ACCEPTED):
                pass
            return max(0, before - await self._shrunk_log())

    async def _shrunk_log(self) -> int:
        """Move the log into the file, which takes its true size then; bytes."""
        return await self._do(partial(_size_alone, path=self._path), bare=True, limit=OF_ACCEPTED)

    @contextmanager
    def _alone(self, what: str) -> Iterator[None]:
        if self._upkeep:
            raise ConflictError(f"{self._upkeep} of the store is under way: wait for its end")
        self._upkeep = what
        try:
            yield
        finally:
            self._upkeep = ""


# --- vacuum, on the writer's thread ----------------------------------------------------------------------------------


def _is_incremental(connection: sqlite3.Connection) -> bool:
    mode: int = connection.execute("PRAGMA auto_vacuum").fetchone()[0]
    return mode == _INCREMENTAL


def _rewrite(connection: sqlite3.Connection) -> None:
    connection.execute(f"PRAGMA auto_vacuum = {_INCREMENTAL}")
    connection.execute("VACUUM")


def _give_back(connection: sqlite3.Connection) -> bool:
    """Whether there is more."""
    connection.execute(f"PRAGMA incremental_vacuum({_FREED_AT_ONCE})").fetchall()  # each step frees one page
    left: int = connection.execute("PRAGMA freelist_count").fetchone()[0]
    return left > 0


def _size_alone(connection: sqlite3.Connection, *, path: Path) -> int:
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return path.stat().st_size


# --- backup, on a thread of its own ----------------------------------------------------------------------------------


def _back_up(source: Path, target: Path, stops: tuple[threading.Event, ...]) -> BackupReport:
    began = monotonic()
    draft = target.with_name(f"{target.name}.part")
    if target.exists() or draft.exists():
        raise StateFolderError(f"there is something at {target} or {draft} already: move it away, or give another name")
    try:
        make_private_file(draft)
        try:
            jobs = _copy(source, draft, stops)
            _sync(draft)
            draft.rename(target)
            sync_folder(target.parent)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StateFolderError(f"the backup {target} cannot be written ({os_words(error)})") from error
    except sqlite3.Error as error:
        raise StateFolderError(f"the backup {target} failed: {describe(error, draft).words}") from error
    return BackupReport(str(target), target.stat().st_size, jobs, monotonic() - began)


def _copy(source: Path, draft: Path, stops: tuple[threading.Event, ...]) -> int:
    """How many jobs are in the copy."""

    def look(*_: int) -> None:
        if any(stop.is_set() for stop in stops):
            raise StoreUnavailableError("the backup was given up: the store closes, or nobody waits for it any more")

    with closing(connect(source)) as reader, closing(connect(draft)) as copy:
        reader.execute("PRAGMA query_only = ON")
        # One state for all of the copy: without it, each commit meanwhile would make it begin again.
        reader.execute("BEGIN")
        reader.execute(SQL["count_jobs"]).fetchone()
        reader.backup(copy, pages=_PAGES_AT_ONCE, progress=look)
        copy.execute("PRAGMA journal_mode = DELETE")  # one file, without a log beside it
        found = copy.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            words = found.replace("\n", " ")
            raise StateFolderError(f"the copy of {source} is damaged ({words}), and was thrown away: check the disk")
        jobs: int = copy.execute(SQL["count_jobs"]).fetchone()[0]
        return jobs


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
