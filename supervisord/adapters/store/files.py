"""Files in parts: written one by one as they come, whole once their own row says so."""

import sqlite3
from collections.abc import Collection, Sequence
from functools import partial

from supervisord.adapters.store import queries
from supervisord.adapters.store.base import StoreBase
from supervisord.adapters.store.forget import delete_parts, mark_file
from supervisord.adapters.store.limits import OF_ACCEPTED
from supervisord.adapters.store.packing import packed_file, unpacked_file
from supervisord.adapters.store.plain import text
from supervisord.adapters.store.readers import Lane
from supervisord.adapters.store.rows import Row
from supervisord.adapters.store.statements import SQL
from supervisord.core.record import FileRecord
from supervisord.ports import Page


class Files(StoreBase):
    async def put_file_part(self, file_id: str, number: int, data: bytes) -> None:
        """Part `number`, from 0; returns once it is committed, though not yet safe from a power cut."""
        values = (file_id, number, bytes(data))
        await self._do(partial(_put_part, values=values), size=len(data), durable=False)

    async def put_file(self, file: FileRecord) -> None:
        """Taken also where there is too much: its parts were, and results have to be found."""
        await self._do(partial(_put_file, row=packed_file(file)), limit=OF_ACCEPTED)

    async def file(self, file_id: str) -> FileRecord | None:
        wanted = {"id": file_id, "now": self._now(), "limit": 1}
        found = await self._read(partial(_files, values=wanted, conditions=["id = :id", "status <> 'deleted'"]))
        return found[0] if found else None

    async def files(self, page: Page, purposes: Collection[str]) -> Sequence[FileRecord]:
        """Raises InvalidRequestError for a limit outside 1 to 1000."""
        values, conditions = queries.page(page)
        conditions += ["status = 'processed'", "purpose IN (SELECT value FROM json_each(:purposes))"]
        values |= {"purposes": text(sorted(purposes)), "now": self._now()}
        query = partial(_files, values=values, conditions=conditions, direction=queries.direction(page))
        found = await self._read(query, Lane.LIST)
        return queries.in_order(page, found)

    async def file_part(self, file_id: str, number: int) -> bytes | None:
        return await self._read(partial(_part, file_id=file_id, number=number))

    async def delete_file(self, file_id: str) -> bool:
        """With its parts, 8 MiB in one commit; what a crash leaves of them goes after the next start."""
        existed = await self._do(partial(mark_file, file_id=file_id), limit=OF_ACCEPTED)
        while await self._do(partial(delete_parts, file_id=file_id), limit=OF_ACCEPTED, durable=False):
            pass
        return existed


def _put_part(connection: sqlite3.Connection, *, values: Row) -> None:
    connection.execute(SQL["put_file_part"], values)


def _put_file(connection: sqlite3.Connection, *, row: Row) -> None:
    connection.execute(SQL["put_file"], row)


def _files(
    connection: sqlite3.Connection, *, values: dict[str, object], conditions: Sequence[str], direction: str = "ASC"
) -> Sequence[FileRecord]:
    sql = queries.filled("files", conditions=" AND ".join(conditions), direction=direction)
    return [unpacked_file(row) for row in connection.execute(sql, values)]


def _part(connection: sqlite3.Connection, *, file_id: str, number: int) -> bytes | None:
    row = connection.execute(SQL["file_part"], (file_id, number)).fetchone()
    return None if row is None else row[0]
