"""Opening the database file: made whole or not at all, checked, brought up to date, recovered."""

import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Final

from supervisord.adapters.store.folder import make_private_file, sync_folder
from supervisord.adapters.store.recovery import recover
from supervisord.adapters.store.statements import migrations
from supervisord.adapters.store.trouble import damaged, describe, os_words
from supervisord.core.errors import StateFolderError
from supervisord.ports import Recovery

_BUSY_MS: Final = 5000
SMALLEST: Final = 512  # bytes: one page of the smallest size
# quick_check reads every page: about 300 MB/s from a warm cache. A larger store starts with its first part checked
# rather than late; what it misses is met, and told, where it is read.
_CHECK_S: Final = 2.0
_STEPS_BETWEEN_LOOKS: Final = 10_000  # of SQLite's virtual machine: well below a millisecond
# The log is moved into the database every 16 MiB instead of every 4: each time costs two syncs.
_CHECKPOINT_PAGES: Final = 4000
_LARGEST_IDLE_LOG: Final = 64 * 1024 * 1024
# Of each of the six connections, and filled within minutes: with 4 MiB no query or write was measurably faster, at
# 100 000 jobs. What is not in it is in the kernel's cache, which gives way under pressure; the daemon itself does not.
_CACHE_KIB: Final = 1024


def connect(path: Path, mode: str = "rw") -> sqlite3.Connection:
    """A connection in autocommit, to be used by one thread at a time. Raises sqlite3.Error."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",  # never rwc: an empty store must not appear by accident
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=_BUSY_MS / 1000,
    )
    try:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def open_store(path: Path, now: Callable[[], float], *, keep_bodies: bool) -> tuple[sqlite3.Connection, Recovery, int]:
    """Open or create the store at `path`; its folder exists and is ours alone. The number of this life of the daemon is
    the last that is returned. Raises StateFolderError.

    A file that is damaged, foreign or newer than this program is left as it is.
    """
    notes: list[str] = []
    try:
        if not path.exists():
            _create(path)
            notes.append(f"{path} was created")
        elif path.stat().st_size < SMALLEST:  # SQLite would take it for a new and empty database
            raise StateFolderError(damaged(path, "not even its header is left"))
        notes.extend(_examine(path))
        connection = connect(path)
    except OSError as error:
        raise StateFolderError(f"the store {path} cannot be opened ({os_words(error)})") from error
    except sqlite3.Error as error:
        raise _refusal(error, path) from error
    try:
        _switch_to_wal(connection, path)
        _migrate(connection)
        recovery, life = recover(connection, now(), keep_bodies=keep_bodies)
    except (sqlite3.Error, StateFolderError) as error:
        connection.close()
        if isinstance(error, StateFolderError):
            raise
        raise _refusal(error, path) from error
    return connection, replace(recovery, notes=tuple(notes)), life


def _create(path: Path) -> None:
    """Make the file under another name and move it into place, so that half a store is never taken for one."""
    log = path.with_name(f"{path.name}-wal")
    if log.exists() and log.stat().st_size > 0:
        raise StateFolderError(
            f"the store {path} is missing, but its log {log} is there and holds records: restore {path.name} beside "
            f"it, or move the log away to start with an empty store"
        )
    draft = path.with_name(f"{path.name}.new")
    for leftover in (draft, path.with_name(f"{draft.name}-journal")):
        leftover.unlink(missing_ok=True)
    make_private_file(draft)
    connection = connect(draft)
    try:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # lets room be given back a few pages at a time
        _migrate(connection)
    finally:
        connection.close()
    draft.rename(path)
    sync_folder(path.parent)


def _examine(path: Path) -> list[str]:
    """Raises StateFolderError or sqlite3.Error for a store that must not be used, and says what else is of note."""
    connection = connect(path, "ro")  # one that could write would move the log into the damaged file as it closes
    try:
        identify(connection, path)
        return _check(connection, path)
    finally:
        connection.close()


def identify(connection: sqlite3.Connection, path: Path) -> None:
    """Raises StateFolderError for a file of another program, or of a newer version of this one."""
    version = _pragma(connection, "user_version")
    newest, _ = migrations()[-1]
    if _pragma(connection, "application_id") != _APPLICATION_ID:
        raise StateFolderError(
            f"{path} is an SQLite database of another program: configure another state folder, or move the file away"
        )
    if version > newest:
        raise StateFolderError(
            f"the store {path} was written by a newer version of this program (schema {version}; this one knows "
            f"{newest}): start the newer version again, or move the file aside to start with an empty store"
        )


def _check(connection: sqlite3.Connection, path: Path) -> list[str]:
    deadline = monotonic() + _CHECK_S
    connection.set_progress_handler(lambda: monotonic() > deadline, _STEPS_BETWEEN_LOOKS)
    try:
        found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
            raise
        return [f"{path} is large: only what could be read in {_CHECK_S:g} s was checked for damage"]
    finally:
        connection.set_progress_handler(None, 0)
    if found != "ok":
        raise StateFolderError(damaged(path, found))
    return []


def _switch_to_wal(connection: sqlite3.Connection, path: Path) -> None:
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise StateFolderError(
            f"the file system below {path} cannot hold a write-ahead log (a network file system?): configure a state "
            f"folder on a local disk"
        )
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
    connection.execute(f"PRAGMA journal_size_limit = {_LARGEST_IDLE_LOG}")


def _migrate(connection: sqlite3.Connection) -> None:
    """Forward only, each migration in a transaction of its own."""
    version = _pragma(connection, "user_version")
    for number, script in migrations():
        if number <= version:
            continue
        try:
            # executescript() commits whatever is open before it runs, so the transaction is a part of the script.
            connection.executescript(f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version = {number};\nCOMMIT;")
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    value: int = connection.execute(f"PRAGMA {name}").fetchone()[0]
    return value


def _refusal(error: sqlite3.Error, path: Path) -> StateFolderError:
    return StateFolderError(describe(error, path).words)


_APPLICATION_ID: Final = 0x6C6C6D73  # set by the first migration
