"""Batches: a row each, and their lines, which are ordinary jobs."""

import sqlite3
from collections.abc import Mapping, Sequence
from functools import partial

from supervisord.adapters.store import queries
from supervisord.adapters.store.base import StoreBase
from supervisord.adapters.store.forget import delete_lines, mark_batch
from supervisord.adapters.store.limits import OF_ACCEPTED
from supervisord.adapters.store.packing import packed_batch, packed_key, unpacked_batch, unpacked_counts
from supervisord.adapters.store.plain import text
from supervisord.adapters.store.readers import Lane
from supervisord.adapters.store.rows import Row, stored_job
from supervisord.adapters.store.statements import SQL
from supervisord.adapters.store.work import put_key
from supervisord.core.record import ENDED_BATCH, BatchCounts, BatchRecord, KeyRecord
from supervisord.ports import Page, StoredJob


class Batches(StoreBase):
    async def put_batch(self, batch: BatchRecord, key: KeyRecord | None = None) -> None:
        """`key` is remembered with it. Raises ConflictError where that is taken."""
        ended = batch.id if batch.status in ENDED_BATCH else None
        told = None if key is None else packed_key(key)
        await self._do(partial(_put_batch, row=packed_batch(batch), ended=ended, key=told), limit=OF_ACCEPTED)

    async def batch(self, batch_id: str) -> BatchRecord | None:
        found = await self._read(partial(_batches, values={"id": batch_id, "limit": 1}, conditions=["id = :id"]))
        return found[0] if found else None

    async def batches(self, page: Page, door: str) -> Sequence[BatchRecord]:
        """Raises InvalidRequestError for a limit outside 1 to 1000."""
        values, conditions = queries.page(page)
        found = await self._read(
            partial(
                _batches,
                values=values | {"door": door},
                conditions=[*conditions, "door = :door"],
                direction=queries.direction(page),
            ),
            Lane.LIST,
        )
        return queries.in_order(page, found)

    async def unfinished_batches(self) -> Sequence[BatchRecord]:
        """Those that have still to go on, oldest first."""
        return await self._read(
            partial(
                _batches,
                values={"limit": -1},
                conditions=["ended_at IS NULL"],
                index="INDEXED BY batches_unfinished",
            ),
            Lane.FEED,
        )

    async def batch_counts(self, batch_id: str) -> BatchCounts:
        return await self._read(partial(_counts, batch_id=batch_id))

    async def batch_jobs(self, batch_id: str, *, after_line: int, limit: int, most_bytes: int) -> Sequence[StoredJob]:
        """Jobs of a batch by line, after `after_line`, with their answers. Raises InvalidRequestError for a limit
        outside 1 to 1000.
        """
        queries.check_limit(limit)
        values = {"batch": batch_id, "after": after_line, "limit": limit}
        return await self._read(partial(_lines, values=values, most_bytes=most_bytes))

    async def batch_of_file(self, file_id: str) -> BatchRecord | None:
        """The batch whose output or errors are read under this id."""
        return await self._read(partial(_of_file, file_id=file_id))

    async def delete_batch(self, batch_id: str) -> bool:
        """Forget a batch that has ended, and its jobs, 500 in one commit; what a crash leaves of them goes after the
        next start.
        """
        existed = await self._do(partial(mark_batch, batch_id=batch_id), limit=OF_ACCEPTED)
        while existed and await self._do(partial(delete_lines, batch_id=batch_id), limit=OF_ACCEPTED, durable=False):
            pass
        return existed


def _put_batch(connection: sqlite3.Connection, *, row: Row, ended: str | None, key: Row | None) -> None:
    """What has ended is counted once: lists of batches ask for the counts of each."""
    connection.execute(SQL["put_batch"], row)
    if key is not None:
        put_key(connection, key)
    if ended is not None:
        counts = _counted(connection, ended)
        if counts.ended and not counts.waiting and not counts.running:
            connection.execute(SQL["put_counts"], (text(counts), ended))


def _batches(
    connection: sqlite3.Connection,
    *,
    values: Mapping[str, object],
    conditions: Sequence[str],
    index: str = "",
    direction: str = "ASC",
) -> Sequence[BatchRecord]:
    sql = queries.filled("batches", index=index, conditions=" AND ".join(conditions), direction=direction)
    return [unpacked_batch(row) for row in connection.execute(sql, values)]


def _of_file(connection: sqlite3.Connection, *, file_id: str) -> BatchRecord | None:
    for column, index in (("output_file", "batches_output"), ("error_file", "batches_errors")):
        found = _batches(
            connection,
            values={"file": file_id, "limit": 1},
            conditions=[f"{column} = :file", f"{column} <> ''"],
            index=f"INDEXED BY {index}",
        )
        if found:
            return found[0]
    return None


def _counts(connection: sqlite3.Connection, *, batch_id: str) -> BatchCounts:
    kept = connection.execute(SQL["kept_counts"], (batch_id,)).fetchone()
    if kept is None or kept[0] is None:
        return _counted(connection, batch_id)
    return unpacked_counts(kept[0])


def _counted(connection: sqlite3.Connection, batch_id: str) -> BatchCounts:
    *counts, total = connection.execute(SQL["batch_counts"], (batch_id,)).fetchone()
    if not total:
        return BatchCounts()
    waiting, running, succeeded, cancelled, expired = counts
    return BatchCounts(waiting, running, succeeded, total - sum(counts), cancelled, expired)


def _lines(connection: sqlite3.Connection, *, values: Mapping[str, object], most_bytes: int) -> Sequence[StoredJob]:
    sql = queries.filled(
        "jobs",
        index="INDEXED BY jobs_lines",
        conditions="batch = :batch AND batch IS NOT NULL AND line > :after",
        order="line",
    )
    found = queries.with_bodies(connection, connection.execute(sql, values).fetchall(), "output", most_bytes)
    return [stored_job(row, bodies, ()) for row, bodies in found]
