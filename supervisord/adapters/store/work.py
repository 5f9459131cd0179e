"""Durable jobs: accepted, found in the order in which they wait, ended; and the streams of their answers."""

import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

from supervisord.adapters.store import queries
from supervisord.adapters.store.base import StoreBase
from supervisord.adapters.store.group import Group
from supervisord.adapters.store.limits import OF_ACCEPTED
from supervisord.adapters.store.packing import packed_job, packed_key, packed_terms
from supervisord.adapters.store.plain import clean, clean_row
from supervisord.adapters.store.readers import Lane
from supervisord.adapters.store.rows import Row, stored_job
from supervisord.adapters.store.statements import SQL, ManyRows
from supervisord.core.errors import ConflictError
from supervisord.core.record import JobRecord, KeyRecord
from supervisord.core.terms import Flow
from supervisord.ports import StoredJob

_JOBS: Final = ManyRows("accept_jobs", 15)
_REQUESTS: Final = ManyRows("accept_requests", 2)

ENDED_AT_ONCE: Final = 1000  # jobs of a batch in one commit: some 30 ms, which is what a new record may have to wait
_MOST_STREAMED: Final = 4 * 1024 * 1024  # bytes of events in one answer


class Work(StoreBase):
    async def accept(self, jobs: Sequence[JobRecord], key: KeyRecord | None = None) -> None:
        """Take durable jobs, all or none of them. Raises ConflictError where one of the ids, or the key, is taken;
        ValueError for a job without terms; StoreFullError or StoreUnavailableError: none was taken.
        """
        life = self._open_parts.life
        rows = [_row(job, life) for job in jobs]
        requests = [(job.id, job.body) for job in jobs if job.body is not None]
        size = sum(len(body) for _, body in requests)
        told = None if key is None else packed_key(key)
        await self._do(partial(_accept, rows=rows, requests=requests, key=told), size=size)

    async def accept_ended(self, jobs: Sequence[JobRecord], *, status: str, reason: str, detail: str) -> None:
        """Lines of one batch, behind all it has, that will never run: they are there, and have ended, in one commit.

        Their requests are not kept. Raises ConflictError where one of them is there; StoreUnavailableError.
        """
        life = self._open_parts.life
        rows = [_row(job, life) for job in jobs]
        lines = [(job.terms.batch, job.terms.line) for job in jobs if job.terms is not None]
        (batch, first), (_, last) = min(lines), max(lines)
        ended = {**self._end_of(batch, status, reason, detail), "after": first - 1, "last": last}
        await self._do(partial(_accept_ended, rows=rows, ended=ended), limit=OF_ACCEPTED)

    def _end_of(self, batch: str, status: str, reason: str, detail: str) -> Mapping[str, object]:
        """The values of `end_waiting.sql`."""
        return {
            "batch": batch,
            "status": status,
            "reason": reason,
            "detail": clean(detail),
            "now": self._now(),
            "life": self._open_parts.life,
            "limit": ENDED_AT_ONCE,
        }

    async def known_key(self, client: str, key: str) -> KeyRecord | None:
        return await self._read(partial(_key, client=clean(client), key=clean(key)), Lane.FEED)

    async def flows(self) -> Mapping[Flow, int]:
        """How many durable jobs wait in each flow."""
        return await self._read(_flows, Lane.FEED)

    async def waiting(self, flow: Flow, *, after: str, limit: int, most_bytes: int) -> Sequence[StoredJob]:
        """The next jobs of a flow that wait, by their ids, after the id `after`; with bodies and attempts.

        Raises InvalidRequestError for a limit outside 1 to 1000.
        """
        queries.check_limit(limit)
        values = {
            "model": clean(flow.model),
            "priority": int(flow.priority),
            "client": clean(flow.client),
            "after": after,
            "limit": limit,
        }
        return await self._read(partial(_waiting, values=values, most_bytes=most_bytes), Lane.FEED)

    async def overdue(self, now: float, limit: int) -> Sequence[StoredJob]:
        """Jobs that wait and whose deadline is before `now`, in its order; without bodies.

        Raises InvalidRequestError for a limit outside 1 to 1000.
        """
        queries.check_limit(limit)
        return await self._read(partial(_overdue, now=now, limit=limit), Lane.FEED)

    def put_requeued(self, job_id: str, number: int, detail: str, *, failures: int = 0) -> None:
        """Does nothing where a later attempt has begun, or the job ended, or is not durable."""
        self._writer.hand_over(OF_ACCEPTED, 0, Group.requeued, job_id, number, detail, failures)

    async def end_waiting(self, batch: str, *, status: str, reason: str, detail: str) -> Mapping[Flow, int]:
        """End every job of a batch that waits, a thousand in one commit; how many there were in each flow."""
        values = self._end_of(batch, status, reason, detail)
        ended: Counter[Flow] = Counter()
        after: int | None = 0
        while after is not None:
            work = partial(_end_waiting, values={**values, "after": after}, keep_requests=self._keep_bodies)
            flows, after = await self._do(work, limit=OF_ACCEPTED)
            ended.update(flows)
        return dict(ended)

    async def delete_job(self, job_id: str) -> bool:
        """Forget a job that has ended, with its bodies and its stream; False where there is none that has."""
        return await self._do(partial(_delete_job, job_id=job_id), limit=OF_ACCEPTED)

    # --- streams -----------------------------------------------------------------------------------------------------

    def put_stream(self, job_id: str, first: int, events: Sequence[bytes]) -> None:
        """Events of a job's answer, from the sequence number `first` on; the last of a number counts."""
        self._writer.hand_over(OF_ACCEPTED, sum(map(len, events)), Group.stream, job_id, first, tuple(events))

    async def stream(self, job_id: str, *, after: int, limit: int) -> Sequence[tuple[int, bytes]]:
        """Events above `after`, in order, with 4 MiB together at the most, but at least one.

        Raises InvalidRequestError for a limit outside 1 to 1000.
        """
        queries.check_limit(limit)
        return await self._read(partial(_stream, job_id=job_id, after=after, limit=limit))


# --- on the writer's thread ------------------------------------------------------------------------------------------


def _row(job: JobRecord, life: int) -> Row:
    if job.terms is None:
        raise ValueError(f"job {job.id} has no terms: its client waits for it")
    return clean_row((*packed_job(job), *packed_terms(job.terms), life))


def _accept(connection: sqlite3.Connection, *, rows: Sequence[Row], requests: Sequence[Row], key: Row | None) -> None:
    try:
        _JOBS.run(connection, rows)
        _REQUESTS.run(connection, requests)
    except sqlite3.IntegrityError as error:
        raise ConflictError(f"the store has one of these jobs already ({error})") from error
    if key is not None:
        put_key(connection, key)


def put_key(connection: sqlite3.Connection, key: Row) -> None:
    """Raises ConflictError."""
    try:
        connection.execute(SQL["put_key"], key)
    except sqlite3.IntegrityError as error:
        raise ConflictError(f"this Idempotency-Key is taken already ({error})") from error


def _accept_ended(connection: sqlite3.Connection, *, rows: Sequence[Row], ended: Mapping[str, object]) -> None:
    _accept(connection, rows=rows, requests=(), key=None)
    connection.execute(SQL["end_waiting"], ended)


def _end_waiting(
    connection: sqlite3.Connection, *, values: Mapping[str, object], keep_requests: bool
) -> tuple[Counter[Flow], int | None]:
    """How many were ended, and the line after which there may be more; None: there are none."""
    last, count = connection.execute(SQL["waiting_lines"], values).fetchone()
    if not count:
        return Counter(), None
    # In few steps: each gives up the interpreter lock, and under a busy loop a thousand rows would take seconds.
    values = {**values, "last": last}
    flows = Counter({Flow(*row[:3]): row[3] for row in connection.execute(SQL["waiting_flows"], values)})
    if not keep_requests:
        connection.execute(SQL["drop_waiting_requests"], values)
    connection.execute(SQL["end_waiting"], values)
    return flows, last if count == ENDED_AT_ONCE else None


def _delete_job(connection: sqlite3.Connection, *, job_id: str) -> bool:
    return connection.execute(SQL["delete_job"], (job_id,)).rowcount > 0


# --- queries ---------------------------------------------------------------------------------------------------------


def _key(connection: sqlite3.Connection, *, client: str, key: str) -> KeyRecord | None:
    row = connection.execute(SQL["key"], (client, key)).fetchone()
    return None if row is None else KeyRecord(*row)


def _flows(connection: sqlite3.Connection) -> Mapping[Flow, int]:
    return {Flow(model, priority, client): count for model, priority, client, count in connection.execute(SQL["flows"])}


_WAITS: Final = "status = 'queued' AND origin IS NOT NULL"


def _waiting(connection: sqlite3.Connection, *, values: Mapping[str, object], most_bytes: int) -> Sequence[StoredJob]:
    sql = queries.filled(
        "jobs",
        index="INDEXED BY jobs_waiting",
        conditions=f"{_WAITS} AND model = :model AND priority = :priority AND client = :client AND id > :after",
        order="id",
    )
    found = queries.with_bodies(connection, connection.execute(sql, values).fetchall(), "request", most_bytes)
    attempts = queries.attempts_of(connection, [row[0] for row, _ in found if row[9 + 1]])
    return [stored_job(row, bodies, attempts.get(row[0], ())) for row, bodies in found]


def _overdue(connection: sqlite3.Connection, *, now: float, limit: int) -> Sequence[StoredJob]:
    sql = queries.filled(
        "jobs",
        index="INDEXED BY jobs_deadline",
        conditions=f"{_WAITS} AND deadline_at < :now AND deadline_at IS NOT NULL",
        order="deadline_at, id",
    )
    return queries.bare_jobs(connection, connection.execute(sql, {"now": now, "limit": limit}).fetchall())


def _stream(connection: sqlite3.Connection, *, job_id: str, after: int, limit: int) -> Sequence[tuple[int, bytes]]:
    events: list[tuple[int, bytes]] = []
    size = 0
    for number, event in connection.execute(SQL["stream"], (job_id, after, limit)):
        size += len(event)
        if events and size > _MOST_STREAMED:
            break
        events.append((number, event))
    return events
