"""`Store` in SQLite."""

from collections.abc import Sequence
from functools import partial

from supervisord.adapters.store import queries
from supervisord.adapters.store.batches import Batches
from supervisord.adapters.store.files import Files
from supervisord.adapters.store.group import Group
from supervisord.adapters.store.incidents import pack
from supervisord.adapters.store.limits import EVENT, NEW_JOB, OF_ACCEPTED
from supervisord.adapters.store.readers import Lane
from supervisord.adapters.store.upkeep import Upkeep
from supervisord.adapters.store.work import Work
from supervisord.core.incident import Incident
from supervisord.core.record import AttemptRecord, EventRecord, FootprintRecord, JobRecord, JobResult
from supervisord.ports import DayCounts, IncidentFilter, JobFilter, StoredEvent, StoredJob


class SqliteStore(Work, Batches, Files, Upkeep):
    """The records and all durable work in one SQLite file, for one daemon at a time.

    A query sees everything that was handed over before it. `flush` makes that safe from a power cut too; without it
    the last 10 ms or so are lost with the daemon, and what was committed since the last sync with the power.
    """

    # --- writes: handed over, committed in groups --------------------------------------------------------------------

    def put_job(self, job: JobRecord) -> None:
        """Raises StoreFullError or StoreUnavailableError: the job is not taken."""
        if job.terms is not None:
            raise ValueError("a durable job is accepted, not put")
        body = job.body if self._keep_bodies else None
        self._writer.hand_over(NEW_JOB, 0 if body is None else len(body), Group.job, job, body)

    def put_attempt_started(self, job_id: str, number: int, backend: str, generation: int) -> None:
        """Does nothing to a job that is finished or at a later attempt."""
        self._writer.hand_over(OF_ACCEPTED, 0, Group.started, job_id, number, backend, generation, self._now())

    def put_attempt(self, attempt: AttemptRecord) -> None:
        """The first record of an attempt stays. An attempt of a finished job is recorded too."""
        self._writer.hand_over(OF_ACCEPTED, 0, Group.attempt, attempt)

    def put_result(self, result: JobResult) -> None:
        """Final: a job that has a result keeps its first one, and that of an attempt before the present changes
        nothing. Raises ValueError for a status that is not final.
        """
        output = result.output
        self._writer.hand_over(OF_ACCEPTED, 0 if output is None else len(output), Group.result, result, output)

    def put_event(self, event: EventRecord) -> None:
        self._writer.hand_over(EVENT, 0, Group.event, event)

    def put_footprint(self, footprint: FootprintRecord) -> None:
        """Replaces what was known of the same key."""
        self._writer.hand_over(EVENT, 0, Group.footprint, footprint)

    def put_incident(self, incident: Incident) -> None:
        """An incident, or its newest state. Its evidence is cut to 1 MiB, and says so in its fact `cut`."""
        packed = pack(incident)
        self._writer.hand_over(EVENT, len(packed.evidence), Group.incident, incident.id, packed)

    # --- reads -------------------------------------------------------------------------------------------------------

    async def job(self, job_id: str, *, bodies: bool = True) -> StoredJob | None:
        """By full id or unambiguous prefix. Raises ConflictError for an ambiguous one."""
        return await self._read(partial(queries.job, job_id=job_id, bodies=bodies))

    async def jobs(self, wanted: JobFilter) -> Sequence[StoredJob]:
        """Newest first; bodies are left out. Raises InvalidRequestError for a limit outside 1 to 1000."""
        queries.check_limit(wanted.limit)
        return await self._read(partial(queries.jobs, wanted=wanted), Lane.LIST)

    async def events(
        self,
        *,
        after: int | None,
        limit: int,
        backend: str | None = None,
        since: float | None = None,
        until: float | None = None,
    ) -> Sequence[StoredEvent]:
        """Raises InvalidRequestError for a limit outside 1 to 1000."""
        queries.check_limit(limit)
        wanted = queries.EventsWanted(limit, after, backend, since, until)
        return await self._read(partial(queries.events, wanted=wanted), Lane.LIST)

    async def incident(self, incident_id: str) -> Incident | None:
        """By full id or unambiguous prefix, with its evidence. Raises ConflictError for an ambiguous one."""
        return await self._read(partial(queries.incident, incident_id=incident_id), Lane.LIST)

    async def incidents(self, wanted: IncidentFilter) -> Sequence[Incident]:
        """Newest first, without their evidence. Raises InvalidRequestError for a limit outside 1 to 1000."""
        queries.check_limit(wanted.limit)
        return await self._read(partial(queries.incidents, wanted=wanted), Lane.LIST)

    async def counts_since(self, since: float) -> DayCounts:
        """Jobs that ended since then; the abandoned count as failed, the cancelled as neither."""
        return await self._read(partial(queries.counts_since, since=since), Lane.LIST)

    async def footprints(self) -> Sequence[FootprintRecord]:
        """All that are known, in the order of their keys."""
        return await self._read(queries.footprints)
