"""`WorkStore` in memory: durable jobs, their streams, files and batches."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from supervisord.core.errors import StateFolderError, StoreUnavailableError
from supervisord.core.job import FailureReason, JobStatus
from supervisord.core.record import (
    ENDED_BATCH,
    BatchCounts,
    BatchRecord,
    FileRecord,
    FileStatus,
    JobRecord,
    JobResult,
    KeyRecord,
)
from supervisord.core.terms import Flow
from supervisord.ports import BackupReport, Page, StoredJob
from tests.fakes.entries import Entry, check_limit, taken, without_bodies


class MemoryWork:
    """The half of `MemoryStore` that is about durable work."""

    def __init__(self, *, keep_bodies: bool, now: Callable[[], float]) -> None:
        self._keep_bodies = keep_bodies
        self._now = now
        self._entries: dict[str, Entry] = {}
        self._keys: dict[tuple[str, str], KeyRecord] = {}
        self._files: dict[str, FileRecord] = {}
        self._parts: dict[str, dict[int, bytes]] = {}
        self._batches: dict[str, BatchRecord] = {}
        self._is_open = False
        self._trouble: StoreUnavailableError | None = None

    def _check_open(self) -> None:
        if not self._is_open:
            raise StoreUnavailableError("the store is closed")

    def _check_writable(self) -> None:
        self._check_open()
        if self._trouble is not None:
            raise self._trouble

    # --- jobs --------------------------------------------------------------------------------------------------------

    async def accept(self, jobs: Sequence[JobRecord], key: KeyRecord | None = None) -> None:
        self._check_writable()
        if any(job.terms is None for job in jobs):
            raise ValueError("a durable job has terms")
        ids = [job.id for job in jobs]
        if len(set(ids)) < len(ids) or any(job_id in self._entries for job_id in ids):
            raise taken("a job with one of these ids")
        lines = [_line(job) for job in jobs if _line(job)]
        if len(set(lines)) < len(lines) or not self._lines.isdisjoint(lines):
            raise taken("a job for one of these lines")
        self._take(key)
        self._entries.update((job.id, Entry(job)) for job in jobs)

    @property
    def _lines(self) -> set[tuple[str, int]]:
        return {line for entry in self._entries.values() if (line := _line(entry.job))}

    def _take(self, key: KeyRecord | None) -> None:
        if key is not None:
            if (key.client, key.key) in self._keys:
                raise taken("the idempotency key")
            self._keys[key.client, key.key] = key

    async def accept_ended(self, jobs: Sequence[JobRecord], *, status: str, reason: str, detail: str) -> None:
        await self.accept([replace(job, body=None) for job in jobs])
        for job in jobs:
            self._end_line(self._entries[job.id], status, reason, detail)

    async def known_key(self, client: str, key: str) -> KeyRecord | None:
        self._check_open()
        return self._keys.get((client, key))

    async def flows(self) -> Mapping[Flow, int]:
        self._check_open()
        return dict(Counter(entry.flow for entry in self._entries.values() if entry.waits))

    async def waiting(self, flow: Flow, *, after: str, limit: int, most_bytes: int) -> Sequence[StoredJob]:
        self._check_open()
        check_limit(limit)
        found = [e for e in self._entries.values() if e.waits and e.flow == flow and e.job.id > after]
        found.sort(key=lambda entry: entry.job.id)
        return _within((e.stored() for e in found[:limit]), most_bytes, lambda stored: stored.job.body)

    async def overdue(self, now: float, limit: int) -> Sequence[StoredJob]:
        self._check_open()
        check_limit(limit)
        late = [
            (entry.job.terms.deadline_at, entry.job.id, entry)
            for entry in self._entries.values()
            if entry.waits and entry.job.terms and (entry.job.terms.deadline_at or now) < now
        ]
        return [without_bodies(entry.stored()) for _, _, entry in sorted(late, key=lambda each: each[:2])[:limit]]

    def put_requeued(self, job_id: str, number: int, detail: str, *, failures: int = 0) -> None:
        self._check_open()
        entry = self._entries.get(job_id)
        if entry is not None and entry.job.terms is not None:
            entry.requeue(number, detail, failures)

    async def end_waiting(self, batch: str, *, status: str, reason: str, detail: str) -> Mapping[Flow, int]:
        self._check_writable()
        ended = Counter[Flow]()
        for entry in self._entries.values():
            if entry.waits and entry.batch == batch:
                ended[entry.flow] += 1
                self._end_line(entry, status, reason, detail)
        return dict(ended)

    def _end_line(self, entry: Entry, status: str, reason: str, detail: str) -> None:
        now = self._now()
        result = JobResult(
            job_id=entry.job.id,
            status=JobStatus(status),
            finished_at=now,
            queue_wait_s=entry.waited(now),
            attempts=entry.attempt,
            reason=FailureReason(reason),
            detail=detail,
        )
        entry.finish(result, keep_bodies=self._keep_bodies)

    async def delete_job(self, job_id: str) -> bool:
        self._check_writable()
        entry = self._entries.get(job_id)
        if entry is None or entry.result is None:
            return False
        del self._entries[job_id]
        self._keys = {name: key for name, key in self._keys.items() if key.job_id != job_id}
        return True

    # --- streams -----------------------------------------------------------------------------------------------------

    def put_stream(self, job_id: str, first: int, events: Sequence[bytes]) -> None:
        self._check_open()
        if job_id in self._entries:
            self._entries[job_id].stream.update(enumerate(events, first))

    async def stream(self, job_id: str, *, after: int, limit: int) -> Sequence[tuple[int, bytes]]:
        self._check_open()
        check_limit(limit)
        events = self._entries[job_id].stream if job_id in self._entries else {}
        return [(number, events[number]) for number in sorted(events) if number > after][:limit]

    # --- files -------------------------------------------------------------------------------------------------------

    async def put_file_part(self, file_id: str, number: int, data: bytes) -> None:
        self._check_writable()
        self._parts.setdefault(file_id, {})[number] = bytes(data)

    async def put_file(self, file: FileRecord) -> None:
        self._check_writable()
        self._files[file.id] = file

    async def file(self, file_id: str) -> FileRecord | None:
        self._check_open()
        found = self._files.get(file_id)
        return found if found is not None and self._is_current(found) else None

    def _is_current(self, file: FileRecord) -> bool:
        is_read = any(
            batch.input_file == file.id and batch.status not in ENDED_BATCH for batch in self._batches.values()
        )
        return is_read or file.expires_at is None or file.expires_at > self._now()

    async def files(self, page: Page, purposes: Collection[str]) -> Sequence[FileRecord]:
        self._check_open()
        return _page(
            page,
            (
                file
                for file in self._files.values()
                if file.status is FileStatus.READY
                and self._is_current(file)
                and file.purpose in purposes
                and page.client in {None, file.client}
            ),
        )

    async def file_part(self, file_id: str, number: int) -> bytes | None:
        self._check_open()
        return self._parts.get(file_id, {}).get(number)

    async def delete_file(self, file_id: str) -> bool:
        self._check_writable()
        self._parts.pop(file_id, None)
        return self._files.pop(file_id, None) is not None

    def _forget_unfinished_uploads(self) -> None:
        self._files = {name: file for name, file in self._files.items() if file.status is FileStatus.READY}
        self._parts = {name: parts for name, parts in self._parts.items() if name in self._files}

    # --- batches -----------------------------------------------------------------------------------------------------

    async def put_batch(self, batch: BatchRecord, key: KeyRecord | None = None) -> None:
        self._check_writable()
        self._take(key)
        self._batches[batch.id] = replace(
            batch, at=dict(batch.at), metadata=dict(batch.metadata), errors=tuple(batch.errors), answers_kept=True
        )

    async def batch(self, batch_id: str) -> BatchRecord | None:
        self._check_open()
        return self._batches.get(batch_id)

    async def batches(self, page: Page, door: str) -> Sequence[BatchRecord]:
        self._check_open()
        found = (b for b in self._batches.values() if b.door == door and page.client in {None, b.client})
        return _page(page, found)

    async def unfinished_batches(self) -> Sequence[BatchRecord]:
        self._check_open()
        return [self._batches[key] for key in sorted(self._batches) if self._batches[key].status not in ENDED_BATCH]

    async def batch_counts(self, batch_id: str) -> BatchCounts:
        self._check_open()
        counts = Counter(_count(entry) for entry in self._entries.values() if batch_id and entry.batch == batch_id)
        return BatchCounts(**counts)

    async def batch_jobs(self, batch_id: str, *, after_line: int, limit: int, most_bytes: int) -> Sequence[StoredJob]:
        self._check_open()
        check_limit(limit)
        lines = [
            (entry.job.terms.line, entry.stored())
            for entry in self._entries.values()
            if entry.job.terms is not None and batch_id and entry.batch == batch_id
        ]
        lines.sort(key=lambda line: line[0])
        found = [stored for number, stored in lines if number > after_line][:limit]
        bare = (replace(stored, job=replace(stored.job, body=None), attempts=()) for stored in found)
        return _within(bare, most_bytes, lambda stored: stored.result.output if stored.result else None)

    async def batch_of_file(self, file_id: str) -> BatchRecord | None:
        self._check_open()
        found = (batch for batch in self._batches.values() if file_id in {batch.output_file, batch.error_file})
        return next(found, None) if file_id else None

    async def delete_batch(self, batch_id: str) -> bool:
        self._check_writable()
        if batch_id not in self._batches or self._batches[batch_id].status not in ENDED_BATCH:
            return False
        batch = self._batches.pop(batch_id)
        for file_id in (batch.output_file, batch.error_file):
            self._files.pop(file_id, None)
        self._keys = {name: key for name, key in self._keys.items() if key.batch != batch_id}
        for job_id in [job_id for job_id, entry in self._entries.items() if entry.batch == batch_id]:
            del self._entries[job_id]
        return True

    # --- upkeep ------------------------------------------------------------------------------------------------------

    async def backup(self, path: str) -> BackupReport:
        self._check_open()
        _make(Path(path))
        return BackupReport(path, size_bytes=0, jobs=len(self._entries), seconds=0.0)

    async def vacuum(self) -> int:
        self._check_open()
        return 0


def _make(target: Path) -> None:
    if target.exists():
        raise StateFolderError(f"there is something at {target} already: give another name")
    target.touch()


_Listed = TypeVar("_Listed", FileRecord, BatchRecord)


def _page(page: Page, found: Iterable[_Listed]) -> Sequence[_Listed]:
    check_limit(page.limit)
    behind = sorted(found, key=lambda each: each.id, reverse=not page.oldest_first)
    if page.after is not None:
        behind = [each for each in behind if (each.id > page.after) == page.oldest_first and each.id != page.after]
    if page.before is None:
        return behind[: page.limit]
    ahead = [each for each in behind if (each.id < page.before) == page.oldest_first and each.id != page.before]
    return ahead[-page.limit :]


def _line(job: JobRecord) -> tuple[str, int] | None:
    return (job.terms.batch, job.terms.line) if job.terms is not None and job.terms.batch else None


def _within(
    found: Iterable[StoredJob], most_bytes: int, body: Callable[[StoredJob], bytes | None]
) -> Sequence[StoredJob]:
    taken_jobs: list[StoredJob] = []
    size = 0
    for stored in found:
        size += len(body(stored) or b"")
        if taken_jobs and size > most_bytes:
            break
        taken_jobs.append(stored)
    return taken_jobs


def _count(entry: Entry) -> str:
    """The field of BatchCounts in which a line counts."""
    if entry.result is None:
        return "waiting" if entry.status == JobStatus.QUEUED else "running"
    if entry.result.status is JobStatus.CANCELLED:
        return "cancelled"
    if entry.result.status is JobStatus.DONE:
        return "succeeded" if (entry.result.http_status or 200) < 400 else "failed"
    return "expired" if entry.result.reason is FailureReason.DEADLINE_EXCEEDED else "failed"
