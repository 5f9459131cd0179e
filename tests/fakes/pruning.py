"""Having a store forget at once what it would forget by and by."""

import sqlite3

from supervisord.adapters.store import SqliteStore
from supervisord.adapters.store.limits import OF_ACCEPTED


async def prune(store: SqliteStore) -> None:
    """Until there is nothing left to do."""
    assert store._parts is not None
    writer = store._parts.writer
    pruner = writer._pruner

    def step(connection: sqlite3.Connection) -> int:
        before = connection.total_changes
        pruner._next = 0.0
        pruner.step(connection, writer.size_bytes)
        return connection.total_changes - before

    while await store._do(step, bare=True, limit=OF_ACCEPTED):
        pass
