"""What is asked of the store, with its plan: every query reads an index in the order it answers in."""

import sqlite3
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final, TypeVar

from supervisord.adapters.store.incidents import unpacked
from supervisord.adapters.store.rows import Row, attempt_record, stored_event, stored_job
from supervisord.adapters.store.statements import SQL
from supervisord.core.errors import ConflictError, InvalidRequestError
from supervisord.core.incident import Incident
from supervisord.core.job import JobStatus
from supervisord.core.record import AttemptRecord, FootprintRecord
from supervisord.ports import DayCounts, IncidentFilter, JobFilter, Page, StoredEvent, StoredJob

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


def job(connection: sqlite3.Connection, job_id: str, *, bodies: bool) -> StoredJob | None:
    """The job with this id or this beginning of one. Raises ConflictError where several begin so."""
    row = _row_beginning(connection, job_id, "job", filled("jobs", index=_BY_ID, conditions=_BEGINS, order="id"))
    if row is None:
        return None
    found = row[0]
    kept = dict(connection.execute(SQL["bodies"], (found,))) if bodies else {}
    return stored_job(row, kept, attempts_of(connection, [found]).get(found, ()))


def _row_beginning(connection: sqlite3.Connection, beginning: str, what: str, sql: str) -> Row | None:
    """The one row whose id is or begins so. Raises ConflictError where several do."""
    if not beginning or not beginning.isascii():
        return None
    values = {"first": beginning, "past": beginning + _PAST_ANY_ID, "limit": 2}
    rows: list[Row] = connection.execute(sql, values).fetchall()
    if not rows:
        return None
    if len(rows) > 1 and rows[0][0] != beginning:
        raise ConflictError(f"more than one {what} begins with {beginning!r}: give more of its id", param="id")
    return rows[0]


def jobs(connection: sqlite3.Connection, wanted: JobFilter) -> Sequence[StoredJob]:
    """Newest first, without bodies."""
    index, conditions = _plan(wanted)
    sql = filled("jobs", index=index, conditions=" AND ".join(conditions) or "TRUE", order="id DESC")
    return bare_jobs(connection, connection.execute(sql, asdict(wanted)).fetchall())


def bare_jobs(connection: sqlite3.Connection, rows: Sequence[Row]) -> Sequence[StoredJob]:
    """Rows of `jobs.sql` with their attempts, without bodies."""
    attempts = attempts_of(connection, [row[0] for row in rows])
    return [stored_job(row, {}, attempts.get(row[0], ())) for row in rows]


def _plan(wanted: JobFilter) -> tuple[str, list[str]]:
    index = _BY_ID
    conditions = []
    if wanted.after is not None:
        conditions.append("id < :after")
    if wanted.since is not None:
        # The ids keep their order when the clock is put back, so the oldest id is not that of the earliest time.
        oldest = "SELECT min(id) FROM jobs INDEXED BY jobs_submitted WHERE submitted_at >= :since"
        conditions.append(f"submitted_at >= :since AND id >= ({oldest})")
    given = {column for column in _COLUMNS if getattr(wanted, column) is not None}
    conditions += [f"{column} = :{column}" for column in _COLUMNS if column in given]
    for columns, its_index in _BY_COLUMNS.items():  # the last that is asked for leaves the fewest to look at
        if columns <= given:
            index = f"INDEXED BY {its_index}"
    if wanted.status is not None:
        conditions.append("status = :status")
        if wanted.status != JobStatus.DONE:
            index = "INDEXED BY jobs_not_done" if wanted.batch is None else index
            conditions.append("status <> 'done'")
    return index, conditions


_COLUMNS: Final = ("model", "backend", "client", "origin", "batch")
_BY_COLUMNS: Final = {
    frozenset({"model"}): "jobs_model",
    frozenset({"backend"}): "jobs_backend",
    frozenset({"client"}): "jobs_client",
    frozenset({"origin"}): "jobs_origin",
    frozenset({"origin", "model"}): "jobs_origin_model",
    frozenset({"origin", "client"}): "jobs_origin_client",
    frozenset({"batch"}): "jobs_lines",
}


def with_bodies(
    connection: sqlite3.Connection, rows: Sequence[Row], part: str, most_bytes: int
) -> Sequence[tuple[Row, dict[str, bytes]]]:
    """Rows of `jobs.sql`, each with one body: as many as have `most_bytes` of them together, but at least one."""
    found: list[tuple[Row, dict[str, bytes]]] = []
    size = 0
    for row in rows:
        kept = connection.execute(SQL[part], (row[0],)).fetchone()
        size += 0 if kept is None else len(kept[0])
        if found and size > most_bytes:
            break
        found.append((row, {} if kept is None else {part: kept[0]}))
    return found


def attempts_of(connection: sqlite3.Connection, job_ids: Sequence[str]) -> dict[str, list[AttemptRecord]]:
    """By job, in their order."""
    found: dict[str, list[AttemptRecord]] = {}
    if job_ids:
        for row in connection.execute(filled("attempts", ids=", ".join("?" * len(job_ids))), job_ids):
            found.setdefault(row[0], []).append(attempt_record(row))
    return found


def incident(connection: sqlite3.Connection, incident_id: str) -> Incident | None:
    """The incident with this id or this beginning of one, whole. Raises ConflictError where several begin so."""
    sql = filled("incidents", index=_INCIDENTS_BY_ID, conditions=_BEGINS).replace("DESC", "ASC")
    row = _row_beginning(connection, incident_id, "incident", sql)
    if row is None:
        return None
    evidence = connection.execute(SQL["incident_evidence"], (row[0],)).fetchone()
    return unpacked(row, None if evidence is None else evidence[0])


def incidents(connection: sqlite3.Connection, wanted: IncidentFilter) -> Sequence[Incident]:
    """Newest first, without their evidence."""
    index, conditions = _incidents_plan(wanted)
    sql = filled("incidents", index=index, conditions=" AND ".join(conditions) or "TRUE")
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
    sql = filled(
        "events",
        index="NOT INDEXED" if backend is None else "INDEXED BY events_backend",
        conditions=" AND ".join(conditions),
        direction="DESC" if after is None else "ASC",
    )
    found = [stored_event(row) for row in connection.execute(sql, asdict(wanted))]
    return found[::-1] if after is None else found


def counts_since(connection: sqlite3.Connection, since: float) -> DayCounts:
    counts = dict(connection.execute(SQL["counts"], {"since": since}))
    return DayCounts(
        done=counts.get(JobStatus.DONE, 0),
        failed=counts.get(JobStatus.FAILED, 0) + counts.get(JobStatus.ABANDONED, 0),
    )


def footprints(connection: sqlite3.Connection) -> Sequence[FootprintRecord]:
    """All there are: one for each configuration that ever ran, so a few dozen."""
    return [FootprintRecord(*row) for row in connection.execute(SQL["footprints"])]


def filled(name: str, **parts: str) -> str:
    """A statement with `{part}` replaced by text of this program."""
    sql = SQL[name]
    for part, text in parts.items():
        sql = sql.replace(f"{{{part}}}", text)
    return sql


# --- pages -----------------------------------------------------------------------------------------------------------

_Listed = TypeVar("_Listed")


def page(wanted: Page) -> tuple[dict[str, object], list[str]]:
    """The values and conditions of a page. Raises InvalidRequestError for a limit outside 1 to 1000."""
    check_limit(wanted.limit)
    behind, ahead = (">", "<") if wanted.oldest_first else ("<", ">")
    conditions = []
    if wanted.after is not None:
        conditions.append(f"id {behind} :after")
    if wanted.before is not None:
        conditions.append(f"id {ahead} :before")
    if wanted.client is not None:
        conditions.append("client = :client")
    return asdict(wanted), conditions


def direction(wanted: Page) -> str:
    """In which the page is read; from its end where it has to end beside an id."""
    return "ASC" if wanted.oldest_first != (wanted.before is not None) else "DESC"


def in_order(wanted: Page, found: Sequence[_Listed]) -> Sequence[_Listed]:
    """A page that was read in `direction`, in the order that was asked for."""
    return found if wanted.before is None else found[::-1]
