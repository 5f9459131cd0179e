"""`JobStore` in SQLite."""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from supervisord.adapters.store import queries
from supervisord.adapters.store.folder import FolderLock
from supervisord.adapters.store.group import Group, Profiles
from supervisord.adapters.store.incidents import pack
from supervisord.adapters.store.prune import Pruner
from supervisord.adapters.store.readers import Readers
from supervisord.adapters.store.schema import open_store
from supervisord.adapters.store.statements import SQL
from supervisord.adapters.store.trouble import describe
from supervisord.adapters.store.writer import EVENT, NEW_JOB, OF_ACCEPTED, Writer
from supervisord.core.errors import StateFolderError, StoreUnavailableError
from supervisord.core.incident import Incident
from supervisord.core.record import AttemptRecord, EventRecord, FootprintRecord, Identity, JobRecord, JobResult
from supervisord.ports import DayCounts, IncidentFilter, JobFilter, Recovery, StoredEvent, StoredJob, StoreState

_T = TypeVar("_T")

_LONGEST_FLUSH_S: Final = 30.0  # a disk that is slower than this is told as broken
_LONGEST_LAG_S: Final = 1.0  # a query waits that long for what was handed over before it, then reads what is there
_LONGEST_CLOSE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class _Parts:
    lock: FolderLock
    writer: Writer
    readers: Readers


class SqliteStore:
    """The records in one SQLite file, for one daemon at a time.

    A query sees everything that was handed over before it. `flush` makes that safe from a power cut too; without it
    the last 10 ms or so are lost with the daemon, and what was committed since the last sync with the power.
    """

    def __init__(self, path: Path, *, keep_bodies: bool, retention_s: float | None, now: Callable[[], float]) -> None:
        """`keep_bodies`: store requests and outputs. `retention_s`: finished jobs, events and incidents older than
        this are deleted; None keeps them all. `now`: seconds since the epoch.
        """
        self._path = path
        self._keep_bodies = keep_bodies
        self._retention_s = retention_s
        self._now = now
        self._parts: _Parts | None = None

    async def open(self) -> Recovery:
        """Open, migrate, check, recover; jobs an earlier life left unfinished become `abandoned`.

        Raises StateFolderError: the folder cannot be written, another daemon uses it, or the file is damaged, of a
        newer version, or not ours. Nothing is changed then.
        """
        if self._parts is not None:
            raise StateFolderError(f"the store {self._path} is open already")
        self._parts, recovery = await asyncio.to_thread(self._open)
        return recovery

    def _open(self) -> tuple[_Parts, Recovery]:
        lock = FolderLock(self._path)
        try:
            connection, recovery = open_store(self._path, self._now)
        except BaseException:
            lock.release()
            raise
        try:
            profiles = _profiles(connection)
            readers = Readers(self._path)
        except sqlite3.Error as error:
            connection.close()
            lock.release()
            raise StateFolderError(describe(error, self._path).words) from error
        writer = Writer(connection, self._path, profiles, Pruner(self._retention_s, self._now))
        return _Parts(lock, writer, readers), recovery

    # --- writes: handed over, committed in groups --------------------------------------------------------------------

    def put_job(self, job: JobRecord) -> None:
        """Raises StoreFullError or StoreUnavailableError: the job is not taken."""
        body = job.body if self._keep_bodies else None
        self._writer.hand_over(NEW_JOB, 0 if body is None else len(body), Group.job, job, body)

    def put_attempt_started(self, job_id: str, number: int, backend: str, generation: int) -> None:
        """Does nothing to a job that is finished or at a later attempt."""
        self._writer.hand_over(OF_ACCEPTED, 0, Group.started, job_id, number, backend, generation, self._now())

    def put_attempt(self, attempt: AttemptRecord) -> None:
        """The first record of an attempt stays. An attempt of a finished job is recorded too."""
        self._writer.hand_over(OF_ACCEPTED, 0, Group.attempt, attempt)

    def put_result(self, result: JobResult) -> None:
        """Final: a job that has a result keeps its first one. Raises ValueError for a status that is not final."""
        output = result.output if self._keep_bodies else None
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

    async def flush(self) -> None:
        """Everything handed over before is safe from a crash and a power cut on return.

        Raises StoreFullError or StoreUnavailableError: it is not yet; what was taken is tried again until it is.
        """
        await self._writer.committed(durable=True, timeout=_LONGEST_FLUSH_S)

    # --- reads -------------------------------------------------------------------------------------------------------

    async def job(self, job_id: str) -> StoredJob | None:
        """By full id or unambiguous prefix, with its bodies. Raises ConflictError for an ambiguous one."""
        return await self._read(partial(queries.job, job_id=job_id))

    async def jobs(self, wanted: JobFilter) -> Sequence[StoredJob]:
        """Newest first; bodies are left out. Raises InvalidRequestError for a limit outside 1 to 1000."""
        queries.check_limit(wanted.limit)
        return await self._read(partial(queries.jobs, wanted=wanted))

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
        return await self._read(partial(queries.events, wanted=wanted))

    async def incident(self, incident_id: str) -> Incident | None:
        """By full id or unambiguous prefix, with its evidence. Raises ConflictError for an ambiguous one."""
        return await self._read(partial(queries.incident, incident_id=incident_id))

    async def incidents(self, wanted: IncidentFilter) -> Sequence[Incident]:
        """Newest first, without their evidence. Raises InvalidRequestError for a limit outside 1 to 1000."""
        queries.check_limit(wanted.limit)
        return await self._read(partial(queries.incidents, wanted=wanted))

    async def counts_since(self, since: float) -> DayCounts:
        """Jobs that ended since then; the abandoned count as failed, the cancelled as neither."""
        return await self._read(partial(queries.counts_since, since=since))

    async def footprints(self) -> Sequence[FootprintRecord]:
        """All that are known, in the order of their keys."""
        return await self._read(queries.footprints)

    async def _read(self, query: Callable[[sqlite3.Connection], _T]) -> _T:
        readers, writer = self._open_parts.readers, self._writer
        if writer.pending and writer.trouble is None:
            with suppress(StoreUnavailableError):
                await writer.committed(durable=False, timeout=_LONGEST_LAG_S)
        return await readers.run(query)

    def state(self) -> StoreState:
        if self._parts is None:
            return StoreState(str(self._path), size_bytes=0, pending=0, problem="the store is closed")
        writer = self._parts.writer
        trouble = writer.trouble
        return StoreState(
            path=str(self._path),
            size_bytes=writer.size_bytes,
            pending=writer.pending,
            problem="" if trouble is None else trouble.words,
            full=trouble is not None and trouble.full,
            oldest_pending_s=writer.oldest_pending_s,
        )

    async def close(self) -> None:
        """Commit what is left, within 5 s, and give the file free. A second call does nothing."""
        parts, self._parts = self._parts, None
        if parts is not None:
            await asyncio.to_thread(_close, parts)

    @property
    def _open_parts(self) -> _Parts:
        if self._parts is None:
            raise StoreUnavailableError("the store is closed")
        return self._parts

    @property
    def _writer(self) -> Writer:
        return self._open_parts.writer


def _close(parts: _Parts) -> None:
    parts.readers.close()
    parts.writer.stop(_LONGEST_CLOSE_S)
    parts.lock.release()


def _profiles(connection: sqlite3.Connection) -> Profiles:
    found = Profiles()
    for number, runtime, rung, name, why, hardware, *identity in connection.execute(SQL["profiles"]):
        found.ids[runtime, rung, name, why, hardware, Identity(*identity)] = number
    return found
