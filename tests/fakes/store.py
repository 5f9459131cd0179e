"""A whole store in memory, for tests of what uses one. The contract suites hold it to the same promises as SQLite."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import Final, TypeVar

from supervisord.core.errors import (
    ConflictError,
    StateFolderError,
    StoreFullError,
    StoreUnavailableError,
)
from supervisord.core.incident import Incident
from supervisord.core.job import TERMINAL, FailureReason, JobStatus
from supervisord.core.record import AttemptRecord, EventRecord, FootprintRecord, JobRecord, JobResult
from supervisord.core.terms import MOST_INTERRUPTIONS
from supervisord.ports import DayCounts, IncidentFilter, JobFilter, Recovery, StoredEvent, StoredJob, StoreState
from tests.fakes.entries import Entry, check_limit, without_bodies
from tests.fakes.work import MemoryWork

_ABANDONED: Final = "the daemon ended without finishing this job; its client was gone, so it was not run again"
_INTERRUPTED: Final = "the daemon ended while this job was running"


class MemoryStore(MemoryWork):
    """Keeps its records over `close` and `open`, as a file would.

    `fail` makes it behave as with a full or broken disk until `heal`; `lag_s` is what `state` tells of the oldest
    pending write.
    """

    def __init__(self, *, keep_bodies: bool = True, now: Callable[[], float] = lambda: 0.0) -> None:
        super().__init__(keep_bodies=keep_bodies, now=now)
        self.lag_s: float | None = None
        self._events: list[StoredEvent] = []
        self._footprints: dict[str, FootprintRecord] = {}
        self._incidents: dict[str, Incident] = {}

    def fail(self, words: str = "the disk is full", *, full: bool = True) -> None:
        self._trouble = StoreFullError(words) if full else StoreUnavailableError(words)

    def heal(self) -> None:
        self._trouble = None

    async def open(self) -> Recovery:
        if self._is_open:
            raise StateFolderError("the store is open already")
        self._is_open = True
        self._forget_unfinished_uploads()
        found = [entry for entry in self._entries.values() if entry.result is None]
        abandoned = [entry for entry in found if entry.job.terms is None]
        for entry in abandoned:
            self._end(entry, JobStatus.ABANDONED, _ABANDONED)
        interrupted = [entry for entry in found if entry.job.terms is not None and entry.status == JobStatus.RUNNING]
        for entry in interrupted:
            entry.interruptions += 1
            if entry.interruptions <= MOST_INTERRUPTIONS:
                entry.requeue(entry.attempt, _INTERRUPTED, entry.failures)
            else:
                self._end(entry, JobStatus.FAILED, f"the daemon died {entry.interruptions} times with it in flight")
        given_up = sum(entry.result is not None for entry in interrupted)
        return Recovery(
            abandoned=len(abandoned),
            requeued=len(interrupted) - given_up,
            given_up=given_up,
            jobs_total=len(self._entries),
        )

    def _end(self, entry: Entry, status: JobStatus, detail: str) -> None:
        result = JobResult(
            job_id=entry.job.id,
            status=status,
            finished_at=self._now(),
            queue_wait_s=0.0 if entry.started_at is None else entry.waited(entry.started_at),
            attempts=entry.attempt,
            reason=FailureReason.DAEMON_DIED,
            detail=detail,
            backend=entry.backend,
        )
        entry.finish(result, keep_bodies=self._keep_bodies)

    def put_job(self, job: JobRecord) -> None:
        self._check_writable()
        if job.terms is not None:
            raise ValueError("a durable job is accepted, not put")
        kept = job if self._keep_bodies else replace(job, body=None)
        self._entries.setdefault(job.id, Entry(kept))

    def put_attempt_started(self, job_id: str, number: int, backend: str, generation: int) -> None:
        self._check_open()
        entry = self._entries.get(job_id)
        if entry is not None:
            entry.start(number, backend, self._now())

    def put_attempt(self, attempt: AttemptRecord) -> None:
        self._check_open()
        if attempt.job_id in self._entries:
            self._entries[attempt.job_id].attempts.setdefault(attempt.number, attempt)

    def put_result(self, result: JobResult) -> None:
        self._check_open()
        if result.status not in TERMINAL:
            raise ValueError(f"a result is final; {result.status} is not")
        entry = self._entries.get(result.job_id)
        if entry is not None:
            entry.finish(result, keep_bodies=self._keep_bodies)

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
        check_limit(wanted.limit)
        newest_first = sorted(self._incidents.values(), key=lambda incident: incident.id, reverse=True)
        found = [incident for incident in newest_first if _is_wanted(incident, wanted)]
        return [replace(incident, log=(), samples=(), facts={}) for incident in found[: wanted.limit]]

    async def flush(self) -> None:
        self._check_writable()

    async def job(self, job_id: str, *, bodies: bool = True) -> StoredJob | None:
        self._check_open()
        found = _beginning(self._entries, job_id, "job")
        if found is None:
            return None
        return found.stored() if bodies else without_bodies(found.stored())

    async def jobs(self, wanted: JobFilter) -> Sequence[StoredJob]:
        self._check_open()
        check_limit(wanted.limit)
        newest_first = sorted(self._entries.values(), key=lambda entry: entry.job.id, reverse=True)
        found = [entry for entry in newest_first if _matches(entry, wanted)]
        return [without_bodies(entry.stored()) for entry in found[: wanted.limit]]

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
        check_limit(limit)
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


def _matches(entry: Entry, wanted: JobFilter) -> bool:
    return (
        (wanted.status is None or entry.status == wanted.status)
        and (wanted.model is None or entry.job.model == wanted.model)
        and (wanted.backend is None or entry.backend == wanted.backend)
        and (wanted.since is None or entry.job.submitted_at >= wanted.since)
        and (wanted.after is None or entry.job.id < wanted.after)
        and (wanted.origin is None or (entry.job.terms is not None and entry.job.terms.origin == wanted.origin))
        and (wanted.batch is None or (entry.batch == wanted.batch and wanted.batch != ""))
        and (wanted.client is None or entry.job.client == wanted.client)
    )
