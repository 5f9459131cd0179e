"""What is asked of the store, with its plan: every query reads an index in the order it answers in."""

import sqlite3
from collections.abc import Sequence
from typing import Final

from supervisord.adapters.store.rows import attempt_record, stored_event, stored_job
from supervisord.adapters.store.statements import SQL
from supervisord.core.errors import ConflictError, InvalidRequestError
from supervisord.core.job import JobStatus
from supervisord.core.record import AttemptRecord, FootprintRecord
from supervisord.ports import DayCounts, JobFilter, StoredEvent, StoredJob

LARGEST_PAGE: Final = 1000
_BY_ID: Final = "INDEXED BY sqlite_autoindex_jobs_1"  # the table itself, which lies in the order of its ids
_PAST_ANY_ID: Final = "\U0010ffff"


def check_limit(limit: int) -> None:
    """Raises InvalidRequestError."""
    if not 1 <= limit <= LARGEST_PAGE:
        raise InvalidRequestError(f"limit must be 1 to {LARGEST_PAGE}, not {limit}", param="limit")


def job(connection: sqlite3.Connection, job_id: str) -> StoredJob | None:
    """The job with this id or this beginning of one, with its bodies. Raises ConflictError where several begin so."""
    if not job_id or not job_id.isascii():
        return None
    sql = _filled("jobs", index=_BY_ID, conditions="id >= :first AND id < :past").replace("DESC", "ASC")
    rows = connection.execute(sql, {"first": job_id, "past": job_id + _PAST_ANY_ID, "limit": 2}).fetchall()
    if not rows:
        return None
    if len(rows) > 1 and rows[0][0] != job_id:
        raise ConflictError(f"more than one job begins with {job_id!r}: give more of its id", param="id")
    found = rows[0][0]
    bodies = dict(connection.execute(SQL["bodies"], (found,)))
    return stored_job(rows[0], bodies, _attempts(connection, [found]).get(found, ()))


def jobs(connection: sqlite3.Connection, wanted: JobFilter) -> Sequence[StoredJob]:
    """Newest first, without bodies."""
    index, conditions = _plan(wanted)
    values = {
        "status": wanted.status,
        "model": wanted.model,
        "backend": wanted.backend,
        "since": wanted.since,
        "after": wanted.after,
        "limit": wanted.limit,
    }
    sql = _filled("jobs", index=index, conditions=" AND ".join(conditions) or "TRUE")
    rows = connection.execute(sql, values).fetchall()
    attempts = _attempts(connection, [row[0] for row in rows])
    return [stored_job(row, {}, attempts.get(row[0], ())) for row in rows]


def _plan(wanted: JobFilter) -> tuple[str, list[str]]:
    conditions = []
    index = _BY_ID
    if wanted.after is not None:
        conditions.append("id < :after")
    if wanted.since is not None:
        # The ids keep their order when the clock is put back, so the oldest id is not that of the earliest time.
        oldest = "SELECT min(id) FROM jobs INDEXED BY jobs_submitted WHERE submitted_at >= :since"
        conditions.append(f"submitted_at >= :since AND id >= ({oldest})")
    if wanted.model is not None:
        index = "INDEXED BY jobs_model"
        conditions.append("model = :model")
    if wanted.backend is not None:
        index = "INDEXED BY jobs_backend"
        conditions.append("backend = :backend")
    if wanted.status is not None:
        conditions.append("status = :status")
        if wanted.status != JobStatus.DONE:
            index = "INDEXED BY jobs_not_done"
            conditions.append("status <> 'done'")
    return index, conditions


def _attempts(connection: sqlite3.Connection, job_ids: Sequence[str]) -> dict[str, list[AttemptRecord]]:
    found: dict[str, list[AttemptRecord]] = {}
    if job_ids:
        for row in connection.execute(_filled("attempts", ids=", ".join("?" * len(job_ids))), job_ids):
            found.setdefault(row[0], []).append(attempt_record(row))
    return found


def events(connection: sqlite3.Connection, after: int | None, limit: int, backend: str | None) -> Sequence[StoredEvent]:
    """After id `after`, oldest first; without it the newest `limit`, oldest first."""
    conditions = ["TRUE"]
    if after is not None:
        conditions.append("id > :after")
    if backend is not None:
        conditions.append("backend = :backend")
    sql = _filled(
        "events",
        index="NOT INDEXED" if backend is None else "INDEXED BY events_backend",
        conditions=" AND ".join(conditions),
        direction="DESC" if after is None else "ASC",
    )
    found = [stored_event(row) for row in connection.execute(sql, {"after": after, "limit": limit, "backend": backend})]
    return found[::-1] if after is None else found


def counts_since(connection: sqlite3.Connection, since: float) -> DayCounts:
    counts = dict(connection.execute(SQL["counts"], (since,)))
    return DayCounts(
        done=counts.get(JobStatus.DONE, 0),
        failed=counts.get(JobStatus.FAILED, 0) + counts.get(JobStatus.ABANDONED, 0),
    )


def footprints(connection: sqlite3.Connection) -> Sequence[FootprintRecord]:
    """All there are: one for each configuration that ever ran, so a few dozen."""
    return [FootprintRecord(*row) for row in connection.execute(SQL["footprints"])]


def _filled(name: str, **parts: str) -> str:
    sql = SQL[name]
    for part, text in parts.items():
        sql = sql.replace(f"{{{part}}}", text)
    return sql
