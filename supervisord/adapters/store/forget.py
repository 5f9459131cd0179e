"""Deleting what is large a part at a time: first it is marked, so that nobody finds it, then it goes."""

import sqlite3
from typing import Final

from supervisord.adapters.store.statements import SQL

PARTS_AT_ONCE: Final = 32  # of a file, in one commit: 8 MiB
LINES_AT_ONCE: Final = 500  # of a batch, in one commit: some 30 ms, which is what a new record may have to wait


def mark_file(connection: sqlite3.Connection, *, file_id: str) -> bool:
    """Whether there was one."""
    return connection.execute(SQL["mark_file_deleted"], (file_id,)).rowcount > 0


def delete_parts(connection: sqlite3.Connection, *, file_id: str) -> bool:
    """Some parts of a marked file, and in the end its row. Whether there may be more."""
    values = {"id": file_id, "chunk": PARTS_AT_ONCE}
    if connection.execute(SQL["delete_file_parts"], values).rowcount == PARTS_AT_ONCE:
        return True
    connection.execute(SQL["delete_file"], (file_id,))
    return False


def mark_batch(connection: sqlite3.Connection, *, batch_id: str) -> bool:
    """Whether there was one that has ended. Nobody finds it, nor its results or the key that made it, any more."""
    marked = connection.execute(SQL["mark_batch_deleted"], (batch_id,)).rowcount > 0
    if marked:
        mark_belongings(connection)
    return marked


def mark_belongings(connection: sqlite3.Connection) -> None:
    """What goes with batches that are marked, before their lines do."""
    connection.execute(SQL["mark_results_deleted"])
    connection.execute(SQL["delete_batch_keys"])


def delete_lines(connection: sqlite3.Connection, *, batch_id: str) -> bool:
    """Some lines of a marked batch, and in the end its row. Whether there may be more."""
    values = {"id": batch_id, "chunk": LINES_AT_ONCE}
    if connection.execute(SQL["delete_batch_jobs"], values).rowcount == LINES_AT_ONCE:
        return True
    connection.execute(SQL["delete_batch"], (batch_id,))
    return False
