"""Moving a damaged store out of the way, so that an empty one can take its place."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from supervisord.adapters.store.folder import FolderLock, sync_folder
from supervisord.adapters.store.schema import SMALLEST, connect, identify
from supervisord.adapters.store.trouble import os_words
from supervisord.core.errors import StateFolderError

_FILES: Final = ("", "-wal", "-shm")  # one is worth nothing without the others


def quarantine(path: Path, stamp: str) -> Path:
    """The folder, named by `stamp`, into which the store at `path` was moved.

    Only one that is damaged is moved. Raises StateFolderError: it is sound, missing, in use, or of another program.
    """
    if not path.parent.is_dir():
        raise StateFolderError(f"there is no store at {path}: nothing was moved")
    lock = FolderLock(path)
    try:
        damage = _damage(path)
        if not damage:
            raise StateFolderError(f"the store {path} is sound: nothing was moved")
        return _move(path, path.with_name(f"{path.name}.damaged-{stamp}"))
    except OSError as error:
        raise StateFolderError(f"the store {path} could not be moved ({os_words(error)})") from error
    finally:
        lock.release()


def _damage(path: Path) -> str:
    """What is wrong with it; empty: nothing is. All of it is read, however long that takes."""
    log = path.with_name(f"{path.name}-wal")
    if not path.exists():
        if log.exists() and log.stat().st_size:
            return "only its log is left"
        raise StateFolderError(f"there is no store at {path}: nothing was moved")
    if path.stat().st_size < SMALLEST:
        return "not even its header is left"
    try:
        with closing(connect(path, "ro")) as connection:
            identify(connection, path)
            found: str = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF not in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
            raise StateFolderError(f"the store {path} cannot be read ({error}): nothing was moved") from error
        return str(error)
    return "" if found == "ok" else found


def _move(path: Path, folder: Path) -> Path:
    folder.mkdir(mode=0o700)
    for ending in _FILES:
        file = path.with_name(f"{path.name}{ending}")
        if file.exists():
            file.rename(folder / file.name)
    sync_folder(folder)
    sync_folder(path.parent)
    return folder
