"""`JobStore` in memory, for tests of what uses a store. The contract suite holds it to the same promises as SQLite."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import TypeVar

from supervisord.core.errors import (
    ConflictError,
    InvalidRequestError,
    StateFolderError,
    StoreFullError,
    StoreUnavailableError,
)
from supervisord.core.incident import Incident
from supervisord.core.job import TERMINAL, FailureReason, JobStatus
from supervisord.core.record import AttemptRecord, EventRecord, FootprintRecord, JobRecord, JobResult
from supervisord.ports import DayCounts, IncidentFilter, JobFilter, Recovery, StoredEvent, StoredJob, StoreState


@dataclass(slots=True)
class _Entry:
    job: JobRecord
    status: str = JobStatus.QUEUED.value
    attempt: int = 0
    backend: str | None = None
    started_at: float | None = None
    result: JobResult | None = None
    attempts: dict[int, AttemptRecord] = field(default_factory=dict)


class MemoryStore:
    """Keeps its records over `close` and `open`, as a file would.

    `fail` makes it behave as with a full or broken disk until `heal`; `lag_s` is what `state` tells of the oldest
    pending write.
    """

    def __init__(self, *, keep_bodies: bool = True, now: Callable[[], float] = lambda: 0.0) -> None:
        self.lag_s: float | None = None
        self._keep_bodies = keep_bodies
        self._now = now
        self._entries: dict[str, _Entry] = {}
        self._events: list[StoredEvent] = []
        self._footprints: dict[str, FootprintRecord] = {}
        self._incidents: dict[str, Incident] = {}
        self._is_open = False
        self._trouble: StoreUnavailableError | None = None

    def fail(self, words: str = "the disk is full", *, full: bool = True) -> None:
        self._trouble = StoreFullError(words) if full else StoreUnavailableError(words)

    def heal(self) -> None:
        self._trouble = None

    async def open(self) -> Recovery:
        if self._is_open:
            raise StateFolderError("the store is open already")
        self._is_open = True
        unfinished = [entry for entry in self._entries.values() if entry.result is None]
        for entry in unfinished:
            waited = 0.0 if entry.started_at is None else max(0.0, entry.started_at - entry.job.submitted_at)
            self._finish(
                entry,
                JobResult(
                    job_id=entry.job.id,
                    status=JobStatus.ABANDONED,
                    finished_at=self._now(),
                    queue_wait_s=waited,
                    attempts=entry.attempt,
                    reason=FailureReason.DAEMON_DIED,
                    detail="the daemon ended without finishing this job; its client was gone, so it was not run again",
                    backend=entry.backend,
                ),
            )
        return Recovery(abandoned=len(unfinished), jobs_total=len(self._entries))

    def put_job(self, job: JobRecord) -> None:
        self._check_open()
        if self._trouble is not None:
            raise self._trouble
        kept = job if self._keep_bodies else replace(job, body=None)
        self._entries.setdefault(job.id, _Entry(kept))

    def put_attempt_started(self, job_id: str, number: int, backend: str, generation: int) -> None:
        self._check_open()
        entry = self._entries.get(job_id)
        if entry is None or entry.result is not None or number <= entry.attempt:
            return
        entry.status, entry.attempt, entry.backend = JobStatus.RUNNING.value, number, backend
        if entry.started_at is None:
            entry.started_at = self._now()

    def put_attempt(self, attempt: AttemptRecord) -> None:
        self._check_open()
        if attempt.job_id in self._entries:
            self._entries[attempt.job_id].attempts.setdefault(attempt.number, attempt)

    def put_result(self, result: JobResult) -> None:
        self._check_open()
        if result.status not in TERMINAL:
            raise ValueError(f"a result is final; {result.status} is not")
        entry = self._entries.get(result.job_id)
        if entry is not None and entry.result is None:
            self._finish(entry, result if self._keep_bodies else replace(result, output=None))

    def _finish(self, entry: _Entry, result: JobResult) -> None:
        entry.result, entry.status = result, result.status.value
        entry.attempt, entry.backend = result.attempts, result.backend

    def put_event(self, event: EventRecord) -> None:
        self._check_open()
        self._events.append(StoredEvent(len(self._events) + 1, replace(event, data=dict(event.data))))

    def put_footprint(self, footprint: FootprintRecord) -> None:
        self._check_open()
        self._footprints[footprint.key] = footprint

    async def footprints(self) -> Sequence[FootprintRecord]:
        self._check_open()
        return [self._footprints[key] for key in sorted(self._footprints)]

    def put_incident(self, incident: Incident) -> None:
        self._check_open()
        facts, samples = json.loads(json.dumps([dict(incident.facts), [dict(each) for each in incident.samples]]))
        self._incidents[incident.id] = replace(incident, facts=facts, samples=tuple(samples))

    async def incident(self, incident_id: str) -> Incident | None:
        self._check_open()
        return _beginning(self._incidents, incident_id, "incident")

    async def incidents(self, wanted: IncidentFilter) -> Sequence[Incident]:
        self._check_open()
        _check_limit(wanted.limit)
        newest_first = sorted(self._incidents.values(), key=lambda incident: incident.id, reverse=True)
        found = [incident for incident in newest_first if _is_wanted(incident, wanted)]
        return [replace(incident, log=(), samples=(), facts={}) for incident in found[: wanted.limit]]

    async def flush(self) -> None:
        self._check_open()
        if self._trouble is not None:
            raise self._trouble

    async def job(self, job_id: str) -> StoredJob | None:
        self._check_open()
        found = _beginning(self._entries, job_id, "job")
        return None if found is None else _stored(found)

    async def jobs(self, wanted: JobFilter) -> Sequence[StoredJob]:
        self._check_open()
        _check_limit(wanted.limit)
        newest_first = sorted(self._entries.values(), key=lambda entry: entry.job.id, reverse=True)
        found = [entry for entry in newest_first if _matches(entry, wanted)]
        return [_without_bodies(_stored(entry)) for entry in found[: wanted.limit]]

    async def events(
        self,
        *,
        after: int | None,
        limit: int,
        backend: str | None = None,
        since: float | None = None,
        until: float | None = None,
    ) -> Sequence[StoredEvent]:
        self._check_open()
        _check_limit(limit)
        first, end = -inf if since is None else since, inf if until is None else until
        found = [
            stored
            for stored in self._events
            if (backend is None or stored.event.backend == backend) and first <= stored.event.at < end
        ]
        if after is None:
            return found[-limit:]
        return [stored for stored in found if stored.id > after][:limit]

    async def counts_since(self, since: float) -> DayCounts:
        self._check_open()
        results = [entry.result for entry in self._entries.values() if entry.result is not None]
        ended = [result.status for result in results if result.finished_at >= since]
        return DayCounts(
            done=ended.count(JobStatus.DONE),
            failed=ended.count(JobStatus.FAILED) + ended.count(JobStatus.ABANDONED),
        )

    def state(self) -> StoreState:
        problem = "" if self._is_open else "the store is closed"
        return StoreState(
            path=":memory:",
            size_bytes=0,
            pending=0 if self.lag_s is None else 1,
            problem=problem if self._trouble is None else self._trouble.message,
            full=isinstance(self._trouble, StoreFullError),
            oldest_pending_s=self.lag_s,
        )

    async def close(self) -> None:
        self._is_open = False

    def _check_open(self) -> None:
        if not self._is_open:
            raise StoreUnavailableError("the store is closed")


_Known = TypeVar("_Known")


def _beginning(known: Mapping[str, _Known], beginning: str, what: str) -> _Known | None:
    if beginning in known:
        return known[beginning]
    found = [each for key, each in known.items() if beginning and key.startswith(beginning)]
    if len(found) > 1:
        raise ConflictError(f"more than one {what} begins with {beginning!r}: give more of its id", param="id")
    return found[0] if found else None


def _is_wanted(incident: Incident, wanted: IncidentFilter) -> bool:
    return (
        (wanted.backend is None or incident.backend == wanted.backend)
        and (wanted.job is None or wanted.job in incident.in_flight)
        and (wanted.kind is None or incident.kind == wanted.kind)
        and (wanted.since is None or incident.at >= wanted.since)
        and (wanted.after is None or incident.id < wanted.after)
    )


def _check_limit(limit: int) -> None:
    if not 1 <= limit <= 1000:
        raise InvalidRequestError(f"limit must be 1 to 1000, not {limit}", param="limit")


def _matches(entry: _Entry, wanted: JobFilter) -> bool:
    return (
        (wanted.status is None or entry.status == wanted.status)
        and (wanted.model is None or entry.job.model == wanted.model)
        and (wanted.backend is None or entry.backend == wanted.backend)
        and (wanted.since is None or entry.job.submitted_at >= wanted.since)
        and (wanted.after is None or entry.job.id < wanted.after)
    )


def _stored(entry: _Entry) -> StoredJob:
    attempts = tuple(entry.attempts[number] for number in sorted(entry.attempts))
    return StoredJob(job=entry.job, status=entry.status, result=entry.result, attempts=attempts)


def _without_bodies(stored: StoredJob) -> StoredJob:
    result = None if stored.result is None else replace(stored.result, output=None)
    return replace(stored, job=replace(stored.job, body=None), result=result)
