"""What SQLite's and the system's errors mean, in words, with what to do."""

import errno
import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# SQLite extends the write-ahead log page by page and its index by 32 KiB; a file system with less left than this is
# what an input/output error means.
_ROOM: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a group could not be committed. It is tried again until it can."""

    words: str
    full: bool


def describe(error: Exception, path: Path) -> Trouble:
    """The trouble behind an error of the writer on the store at `path`."""
    code = getattr(error, "sqlite_errorcode", None)
    primary = None if code is None else code & 0xFF
    if primary == sqlite3.SQLITE_FULL or (primary == sqlite3.SQLITE_IOERR and _no_room(path.parent)):
        return Trouble(f"the disk below {path} is full: free some space; what waits is written then", full=True)
    if primary in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return Trouble(f"{path} is locked by another program: let it finish, or end it", full=False)
    if primary in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        return Trouble(damaged(path, str(error)), full=False)
    return Trouble(f"{path} cannot be written ({error}): check the disk and the folder's rights", full=False)


def moved(path: Path, opened: os.stat_result) -> Trouble | None:
    """The trouble of a store whose file is no longer at `path`: what is written now, no later start will find."""
    try:
        there = path.stat()
    except OSError:
        return Trouble(f"{path} was moved or deleted while in use: put it back, or restart the daemon", full=False)
    if (there.st_dev, there.st_ino) != (opened.st_dev, opened.st_ino):
        return Trouble(f"{path} was replaced while in use: put the old one back, or restart the daemon", full=False)
    return None


def damaged(path: Path, what: str) -> str:
    """What to do about a store that cannot be read."""
    return (
        f"the store {path} is damaged ({what}). Nothing in it was changed. Restore a copy of it, or start with an "
        f"empty one: move {path.name}, {path.name}-wal and {path.name}-shm out of {path.parent} together, as "
        f"`llm-supervisord --quarantine` does. `sqlite3 {path.name} .recover` on the moved file gets back what can "
        f"still be read"
    )


def os_words(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno is not None else str(error)


def _no_room(folder: Path) -> bool:
    try:
        room = os.statvfs(folder)
    except OSError as error:
        return error.errno == errno.ENOSPC
    return room.f_bavail * room.f_frsize < _ROOM or (room.f_files > 0 and room.f_favail == 0)
