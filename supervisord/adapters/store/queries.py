"""What is asked of the store, with its plan: every query reads an index in the order it answers in."""

import sqlite3
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

from supervisord.adapters.store.incidents import unpacked
from supervisord.adapters.store.rows import Row, attempt_record, stored_event, stored_job
from supervisord.adapters.store.statements import SQL
from supervisord.core.errors import ConflictError, InvalidRequestError
from supervisord.core.incident import Incident
from supervisord.core.job import JobStatus
from supervisord.core.record import AttemptRecord, FootprintRecord
from supervisord.ports import DayCounts, IncidentFilter, JobFilter, StoredEvent, StoredJob

LARGEST_PAGE: Final = 1000
_BY_ID: Final = "INDEXED BY sqlite_autoindex_jobs_1"  # the table itself, which lies in the order of its ids
_PAST_ANY_ID: Final = "\U0010ffff"
_BEGINS: Final = "id >= :first AND id < :past"
_INCIDENTS_BY_ID: Final = "INDEXED BY sqlite_autoindex_incidents_1"


@dataclass(frozen=True, slots=True)
class EventsWanted:
    """After id `after`; those of a backend; from `since` until before `until`, seconds since the epoch."""

    limit: int
    after: int | None = None
    backend: str | None = None
    since: float | None = None
    until: float | None = None


def check_limit(limit: int) -> None:
    """Raises InvalidRequestError."""
    if not 1 <= limit <= LARGEST_PAGE:
        raise InvalidRequestError(f"limit must be 1 to {LARGEST_PAGE}, not {limit}", param="limit")


def job(connection: sqlite3.Connection, job_id: str) -> StoredJob | None:
    """The job with this id or this beginning of one, with its bodies. Raises ConflictError where several begin so."""
    row = _row_beginning(connection, job_id, "job", _filled("jobs", index=_BY_ID, conditions=_BEGINS))
    if row is None:
        return None
    found = row[0]
    bodies = dict(connection.execute(SQL["bodies"], (found,)))
    return stored_job(row, bodies, _attempts(connection, [found]).get(found, ()))


def _row_beginning(connection: sqlite3.Connection, beginning: str, what: str, sql: str) -> Row | None:
    """The one row whose id is or begins so. Raises ConflictError where several do."""
    if not beginning or not beginning.isascii():
        return None
    values = {"first": beginning, "past": beginning + _PAST_ANY_ID, "limit": 2}
    rows: list[Row] = connection.execute(sql.replace("DESC", "ASC"), values).fetchall()
    if not rows:
        return None
    if len(rows) > 1 and rows[0][0] != beginning:
        raise ConflictError(f"more than one {what} begins with {beginning!r}: give more of its id", param="id")
    return rows[0]


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


def incident(connection: sqlite3.Connection, incident_id: str) -> Incident | None:
    """The incident with this id or this beginning of one, whole. Raises ConflictError where several begin so."""
    sql = _filled("incidents", index=_INCIDENTS_BY_ID, conditions=_BEGINS)
    row = _row_beginning(connection, incident_id, "incident", sql)
    if row is None:
        return None
    evidence = connection.execute(SQL["incident_evidence"], (row[0],)).fetchone()
    return unpacked(row, None if evidence is None else evidence[0])


def incidents(connection: sqlite3.Connection, wanted: IncidentFilter) -> Sequence[Incident]:
    """Newest first, without their evidence."""
    index, conditions = _incidents_plan(wanted)
    sql = _filled("incidents", index=index, conditions=" AND ".join(conditions) or "TRUE")
    return [unpacked(row, None) for row in connection.execute(sql, asdict(wanted))]


def _incidents_plan(wanted: IncidentFilter) -> tuple[str, list[str]]:
    conditions = []
    index = _INCIDENTS_BY_ID
    if wanted.after is not None:
        conditions.append("id < :after")
    if wanted.since is not None:
        oldest = "SELECT min(id) FROM incidents INDEXED BY incidents_at WHERE at >= :since"
        conditions.append(f"at >= :since AND id >= ({oldest})")
    if wanted.kind is not None:
        conditions.append("kind = :kind")  # no index: they are few, and the newest are wanted
    if wanted.backend is not None:
        index = "INDEXED BY incidents_backend"
        conditions.append("backend = :backend")
    if wanted.job is not None:
        index = _INCIDENTS_BY_ID
        hit = "SELECT incident_id FROM incident_jobs INDEXED BY incident_jobs_job WHERE job_id = :job"
        conditions.append(f"id IN ({hit})")
    return index, conditions


def events(connection: sqlite3.Connection, wanted: EventsWanted) -> Sequence[StoredEvent]:
    """After an id, oldest first; without it the newest, oldest first."""
    after, backend = wanted.after, wanted.backend
    conditions = ["TRUE"]
    if after is not None:
        conditions.append("id > :after")
    if backend is not None:
        conditions.append("backend = :backend")
    if wanted.since is not None:
        conditions.append("at >= :since")
    if wanted.until is not None:
        conditions.append("at < :until")
    sql = _filled(
        "events",
        index="NOT INDEXED" if backend is None else "INDEXED BY events_backend",
        conditions=" AND ".join(conditions),
        direction="DESC" if after is None else "ASC",
    )
    found = [stored_event(row) for row in connection.execute(sql, asdict(wanted))]
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
