"""What is remembered."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from supervisord.core.incident import Incident
from supervisord.core.record import AttemptRecord, EventRecord, FootprintRecord, JobRecord, JobResult


@dataclass(frozen=True, slots=True)
class JobFilter:
    status: str | None = None
    model: str | None = None
    backend: str | None = None
    since: float | None = None  # seconds since the epoch
    after: str | None = None  # a job id: only older ones, newest first
    limit: int = 50
    origin: str | None = None  # of durable jobs
    batch: str | None = None
    client: str | None = None


@dataclass(frozen=True, slots=True)
class IncidentFilter:
    backend: str | None = None
    job: str | None = None  # one that was in flight; a full id
    kind: str | None = None
    since: float | None = None  # seconds since the epoch
    after: str | None = None  # an incident's id: only older ones
    limit: int = 50


@dataclass(frozen=True, slots=True)
class StoredJob:
    """A job with all that became of it.

    `attempt` is the number of its latest try, over or not, 0: none; it may have left no record. `backend` is where that
    one is, or was. Of a durable job: `failures` is how many of its tries count against its `max_attempts`,
    `interruptions` how often the daemon died under it, `detail` why it waits again.
    """

    job: JobRecord
    status: str
    result: JobResult | None
    attempts: tuple[AttemptRecord, ...] = ()
    attempt: int = 0
    failures: int = 0
    interruptions: int = 0
    started_at: float | None = None  # seconds since the epoch, of the first try
    backend: str | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class StoredEvent:
    id: int
    event: EventRecord


@dataclass(frozen=True, slots=True)
class StoreState:
    """How the store is. `problem` is empty while it takes writes."""

    path: str
    size_bytes: int
    pending: int  # writes handed over and not yet committed
    problem: str = ""
    full: bool = False  # the disk below it is full
    oldest_pending_s: float | None = None  # how long the oldest of them waits


@dataclass(frozen=True, slots=True)
class Recovery:
    """What opening the store found of an earlier life."""

    abandoned: int = 0  # synchronous jobs whose client died with the daemon
    requeued: int = 0  # durable jobs that were in flight then: they run again
    given_up: int = 0  # durable jobs that were in flight at too many deaths of the daemon
    jobs_total: int = 0
    notes: tuple[str, ...] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True)
class DayCounts:
    done: int
    failed: int


class JobStore(Protocol):
    """The records. One writer; `put_*` hand a write over and return at once, writes are committed in groups, in order.

    `put_*` raise StoreUnavailableError (or StoreFullError) when the writer is broken or too far behind.
    """

    async def open(self) -> Recovery:
        """Open, migrate, check, recover. Raises StateFolderError."""
        ...

    def put_job(self, job: JobRecord) -> None:
        """A job that its client waits for. One with terms is taken by `WorkStore.accept`; here it is a ValueError."""
        ...

    def put_attempt_started(self, job_id: str, number: int, backend: str, generation: int) -> None:
        """Does nothing where the job has ended, or this attempt or a later one has begun."""
        ...

    def put_attempt(self, attempt: AttemptRecord) -> None: ...

    def put_result(self, result: JobResult) -> None:
        """Final: a job that has a result keeps its first one; that of an attempt before the present changes nothing.

        Of a durable job the answer is kept whatever is configured for the others; its request is dropped then.
        """
        ...

    def put_event(self, event: EventRecord) -> None: ...

    def put_incident(self, incident: Incident) -> None:
        """An incident, or its newest state: it replaces what was stored with the same id. The oldest of too many go."""
        ...

    async def incidents(self, wanted: IncidentFilter) -> Sequence[Incident]:
        """The newest first, without their evidence: log, samples and facts."""
        ...

    async def incident(self, incident_id: str) -> Incident | None:
        """Whole, by full id or unambiguous prefix."""
        ...

    def put_footprint(self, footprint: FootprintRecord) -> None:
        """What a backend was seen to take; replaces what was known of the same configuration."""
        ...

    async def footprints(self) -> Sequence[FootprintRecord]:
        """All that are known: one for each configuration that ever ran."""
        ...

    async def flush(self) -> None:
        """Everything handed over before is durable on return."""
        ...

    async def job(self, job_id: str, *, bodies: bool = True) -> StoredJob | None:
        """By full id or unambiguous prefix. `bodies`: with its request and its answer, however long they are."""
        ...

    async def jobs(self, wanted: JobFilter) -> Sequence[StoredJob]: ...

    async def events(
        self,
        *,
        after: int | None,
        limit: int,
        backend: str | None = None,
        since: float | None = None,
        until: float | None = None,
    ) -> Sequence[StoredEvent]:
        """After id `after`, oldest first; without it the newest `limit`, oldest first.

        Only those from `since` on and before `until` where given: seconds since the epoch.
        """
        ...

    async def counts_since(self, since: float) -> DayCounts: ...

    def state(self) -> StoreState: ...

    async def close(self) -> None: ...
