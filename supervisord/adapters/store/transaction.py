"""One group in one transaction, durable against a power cut only where somebody waits for that."""

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from supervisord.adapters.store.group import Group, Rows
from supervisord.adapters.store.statements import SQL, ManyRows

_LOG = logging.getLogger(__name__)

_JOBS: Final = ManyRows("put_jobs", 20)
_MOVES: Final = ManyRows("move_jobs", 14)
_ENDED: Final = ManyRows("drop_requests", 1)
_STREAMS: Final = ManyRows("put_stream", 3)
_PROFILES: Final = ManyRows("put_profiles", 12)
_ATTEMPTS: Final = ManyRows("put_attempts", 18)
_EVENTS: Final = ManyRows("put_events", 7)

# A backend that fails day and night makes a hundred a day; with their evidence so many take some 50 MB.
MOST_INCIDENTS: Final = 2000

# What says that a record is at fault, not the store: a broken reference, text or a number that cannot be bound, a
# value too large.
OF_ONE_RECORD: Final = (
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    ValueError,
    OverflowError,
)


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All or nothing, and the write lock from the start. Raises sqlite3.Error."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:  # SQLite has rolled back by itself after some errors
            connection.execute("ROLLBACK")


def commit(connection: sqlite3.Connection, group: Group, *, durable: bool) -> None:
    """Write `group`. A record that SQLite cannot hold is told to the log and left out; the others are kept.

    In WAL mode a commit under synchronous=NORMAL reaches the kernel, which survives `kill -9` of the daemon; under
    FULL the log is synced after the commit (sqlite.org/pragma.html#pragma_synchronous), and with it every earlier
    commit, because the log is one file and a checkpoint syncs what it moves. So `durable` costs one sync for
    everything before it, and the other groups cost none. Raises sqlite3.OperationalError or DatabaseError where the
    disk or the file is the problem; then nothing of the group is written.
    """
    with synchronous(connection, full=durable):
        try:
            with transaction(connection):
                _write(connection, group.rows())
                _mark(connection, durable=durable)
        except OF_ONE_RECORD:
            _salvage(connection, group, durable=durable)


def _salvage(connection: sqlite3.Connection, group: Group, *, durable: bool) -> None:
    with transaction(connection):
        for name, rows in group.pieces():
            connection.execute("SAVEPOINT piece")
            try:
                _write(connection, rows)
            except OF_ONE_RECORD as error:
                connection.execute("ROLLBACK TO piece")
                _LOG.error("the store left out %s, which it cannot hold: %s", name, error)
            connection.execute("RELEASE piece")
        _mark(connection, durable=durable)


def _write(connection: sqlite3.Connection, rows: Rows) -> None:
    connection.executemany(SQL["put_request"], rows.requests)
    connection.executemany(SQL["put_output"], rows.outputs)
    _JOBS.run(connection, rows.jobs)
    _MOVES.run(connection, rows.moves)
    _ENDED.run(connection, rows.ended)
    _STREAMS.run(connection, rows.streams)
    _PROFILES.run(connection, rows.profiles)
    _ATTEMPTS.run(connection, rows.attempts)
    _EVENTS.run(connection, rows.events)
    connection.executemany(SQL["put_footprint"], rows.footprints)
    if rows.incidents:
        _write_incidents(connection, rows)


def _write_incidents(connection: sqlite3.Connection, rows: Rows) -> None:
    connection.executemany(SQL["put_incident"], rows.incidents)
    connection.executemany(SQL["put_incident_evidence"], rows.incident_evidence)
    connection.executemany(SQL["clear_incident_jobs"], [(row[0],) for row in rows.incidents])
    connection.executemany(SQL["put_incident_job"], rows.incident_jobs)
    connection.execute(SQL["trim_incidents"], {"most": MOST_INCIDENTS})


def _mark(connection: sqlite3.Connection, *, durable: bool) -> None:
    if durable:
        connection.execute(SQL["mark_sync"])


@contextmanager
def synchronous(connection: sqlite3.Connection, *, full: bool) -> Iterator[None]:
    """Every commit within is synced, if `full`."""
    if not full:
        yield
        return
    connection.execute("PRAGMA synchronous = FULL")
    try:
        yield
    finally:
        connection.execute("PRAGMA synchronous = NORMAL")
