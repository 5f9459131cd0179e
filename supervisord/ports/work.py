"""What is kept of work that outlives its client: jobs, their order, batches, files, streams."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from supervisord.core.record import BatchCounts, BatchRecord, FileRecord, JobRecord, KeyRecord
from supervisord.core.terms import Flow
from supervisord.ports.records import JobStore, StoredJob


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list, newest first or `oldest_first`. `limit`: from 1 to 1000.

    `after`: an id, only those behind it in that order; `before`: only those ahead of it, the ones next to it.
    """

    limit: int = 20
    after: str | None = None
    before: str | None = None
    client: str | None = None
    oldest_first: bool = False


@dataclass(frozen=True, slots=True)
class BackupReport:
    path: str
    size_bytes: int
    jobs: int
    seconds: float


class WorkStore(Protocol):
    """Durable work. It is the same store as `JobStore`: same writer, same order of writes, same errors.

    Coroutines that write return once it is safe from a power cut, and raise StoreUnavailableError (or StoreFullError)
    where it was not written: then it never will be, but for one that was not confirmed in time. Plain `put_*` hand
    over and return at once. Where the caller is cancelled, what it wrote is there or not: own the call by a task.
    """

    # --- jobs ----------------------------------------------------------------------------------------------------

    async def accept(self, jobs: Sequence[JobRecord], key: KeyRecord | None = None) -> None:
        """Take durable jobs, all or none of them in one commit. `key` is remembered with the first.

        Raises ConflictError where one of the ids, or the key, is taken, or a line of a batch is a job already.
        """
        ...

    async def accept_ended(self, jobs: Sequence[JobRecord], *, status: str, reason: str, detail: str) -> None:
        """Lines of one batch that will never run: they are there, and have ended so; at most 1000, in one commit.

        All of them stand behind those that the batch has. Their requests are not kept. `status` and `reason` are
        values of JobStatus and FailureReason. It is taken also where `accept` is not, because there is too much.
        Raises ConflictError where one of them is there.
        """
        ...

    async def known_key(self, client: str, key: str) -> KeyRecord | None: ...

    async def flows(self) -> Mapping[Flow, int]:
        """How many durable jobs wait in each flow. Asked once, at start."""
        ...

    async def waiting(self, flow: Flow, *, after: str, limit: int, most_bytes: int) -> Sequence[StoredJob]:
        """The next jobs of a flow that wait, in the order of their ids, only those after id `after`; with bodies.

        As many as have `most_bytes` of bodies together, but at least one; `limit` at the most, from 1 to 1000.
        """
        ...

    async def overdue(self, now: float, limit: int) -> Sequence[StoredJob]:
        """Jobs that wait and whose deadline is before `now` (seconds since the epoch), in its order; without bodies."""
        ...

    def put_requeued(self, job_id: str, number: int, detail: str, *, failures: int = 0) -> None:
        """Attempt `number` is over, and the job waits again. Does nothing where a later one has begun, or it ended.

        `failures`: how many of its tries this far count against its `max_attempts`.
        """
        ...

    async def end_waiting(self, batch: str, *, status: str, reason: str, detail: str) -> Mapping[Flow, int]:
        """End every job of a batch that still waits; how many there were in each flow.

        `status` and `reason` are values of JobStatus and FailureReason. Many are ended a thousand at a time.
        """
        ...

    # --- streams of background responses -------------------------------------------------------------------------

    def put_stream(self, job_id: str, first: int, events: Sequence[bytes]) -> None:
        """Events of a response, the first of them with the sequence number `first`; the last of a number counts."""
        ...

    async def stream(self, job_id: str, *, after: int, limit: int) -> Sequence[tuple[int, bytes]]:
        """Events with a sequence number above `after`, in order: `limit` at the most, fewer where they are large."""
        ...

    async def delete_job(self, job_id: str) -> bool:
        """Forget a job that has ended, with its bodies and its stream; False where there is none that has."""
        ...

    # --- files ---------------------------------------------------------------------------------------------------

    async def put_file_part(self, file_id: str, number: int, data: bytes) -> None:
        """Part `number` (from 0) of a file; returns once the writer has room for more, not when it is durable.

        Parts whose file is not whole when the daemon ends are dropped at the next start.
        """
        ...

    async def put_file(self, file: FileRecord) -> None:
        """The file is whole, with all its parts; or, with the status UPLOADING, it is known from now on."""
        ...

    async def file(self, file_id: str) -> FileRecord | None:
        """Also one that is still uploaded; past its time only where a batch has still to end that reads it."""
        ...

    async def files(self, page: Page, purposes: Collection[str]) -> Sequence[FileRecord]:
        """Those that are whole, and have one of these purposes."""
        ...

    async def file_part(self, file_id: str, number: int) -> bytes | None: ...

    async def delete_file(self, file_id: str) -> bool:
        """With its parts, and those of one that never became whole; False where there is no such file."""
        ...

    # --- batches -------------------------------------------------------------------------------------------------

    async def put_batch(self, batch: BatchRecord, key: KeyRecord | None = None) -> None:
        """A batch, or its newest state. `key` is remembered in the same commit; ConflictError where it is taken."""
        ...

    async def batch(self, batch_id: str) -> BatchRecord | None: ...

    async def batches(self, page: Page, door: str) -> Sequence[BatchRecord]: ...

    async def unfinished_batches(self) -> Sequence[BatchRecord]:
        """Those that have still to go on, oldest first."""
        ...

    async def batch_counts(self, batch_id: str) -> BatchCounts: ...

    async def batch_jobs(self, batch_id: str, *, after_line: int, limit: int, most_bytes: int) -> Sequence[StoredJob]:
        """Jobs of a batch by line, only those after `after_line`; with the bodies of their answers, without attempts.

        As many as have `most_bytes` of bodies together, but at least one; `limit` at the most, from 1 to 1000.
        """
        ...

    async def batch_of_file(self, file_id: str) -> BatchRecord | None:
        """The batch whose output or errors are read under this id."""
        ...

    async def delete_batch(self, batch_id: str) -> bool:
        """Forget a batch that has ended, its jobs, and the files of its results; False where there is none that has.

        Files and batch are gone at once.
        """
        ...

    # --- upkeep --------------------------------------------------------------------------------------------------

    async def backup(self, path: str) -> BackupReport:
        """A copy of all of it in one new file, while work goes on.

        Raises StateFolderError: it cannot be written there, or something is there; ConflictError: one is under way.
        """
        ...

    async def vacuum(self) -> int:
        """Give back to the disk what deleted rows held; bytes. Raises ConflictError: one is under way."""
        ...


class Store(JobStore, WorkStore, Protocol):
    """All that is kept, in one place."""
