"""What is past its retention is forgotten: by age, by size, a little at a time; what has not ended never is."""

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from supervisord.adapters.store import SqliteStore
from supervisord.adapters.store.prune import Pruner, Retention
from supervisord.core.errors import StoreFullError
from supervisord.core.record import BatchCounts, BatchStatus, FileRecord, KeyRecord
from supervisord.ports import JobFilter, Page
from tests.fakes.heard import Heard
from tests.fakes.pruning import prune
from tests.fakes.records import a_batch, a_durable_job, a_file, a_job, a_line, a_result, an_attempt, an_event, job_id

NOW = 10_000.0
MEBIBYTE = 2**20


@asynccontextmanager
async def opened(path: Path, **kept: float | None) -> AsyncIterator[SqliteStore]:
    kept = {"retention_s": None, **kept}
    store = SqliteStore(path, keep_bodies=True, now=lambda: NOW, **kept)  # type: ignore[arg-type] # whatever a test says
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def rows(store: SqliteStore, table: str) -> int:
    with sqlite3.connect(store._path) as connection:
        count: int = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    connection.close()
    return count


# --- by age ----------------------------------------------------------------------------------------------------------


async def test_what_is_older_than_the_retention_is_forgotten_a_little_at_a_time(path: Path) -> None:
    store = SqliteStore(path, keep_bodies=True, retention_s=None, now=lambda: 10_000.0)
    await store.open()
    for number in range(1000):
        store.put_job(a_job(number, body=b"x"))
        store.put_attempt(an_attempt(number))
        store.put_result(a_result(number, finished_at=9000.0 + number, output=b"y"))
        store.put_event(an_event(str(number), at=9000.0 + number))
    store.put_job(a_job(5000, submitted_at=1.0))
    await store.close()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("UPDATE jobs SET status = 'queued', finished_at = NULL WHERE id = ?", (job_id(0),))
    store = SqliteStore(path, keep_bodies=True, retention_s=500.0, now=lambda: 10_000.0)
    await store.open()
    async with asyncio.timeout(10):
        while connection.execute("SELECT count(*) FROM events").fetchone()[0] > 500:
            await store.flush()
            store.put_attempt_started("keeps it busy", 1, "left", 1)
    left = [connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("jobs", "attempts")]
    assert left == [502, 501]  # and the two that were abandoned just now
    assert connection.execute("SELECT min(finished_at) FROM jobs").fetchone() == (9500.0,)
    assert connection.execute("SELECT count(*) FROM job_bodies").fetchone() == (1002,)
    store.put_event(an_event("next"))
    assert (await store.events(after=None, limit=1))[0].id == 1001
    connection.close()
    await store.close()


async def test_a_clock_that_jumps_ahead_expires_nothing(path: Path) -> None:
    now = 10_000.0
    store = SqliteStore(path, keep_bodies=True, retention_s=5000.0, now=lambda: now)
    await store.open()
    store.put_job(a_job(1))
    store.put_result(a_result(1, finished_at=9_999.0))
    assert store._parts is not None
    pruner = store._parts.writer._pruner
    now = 1e9
    for _ in range(3):
        pruner._next = 0.0
        store.put_event(an_event("tick", at=now))
        await store.flush()
    assert await store.job(job_id(1)) is not None
    await store.close()


async def test_a_deletion_that_fails_is_told_and_tried_again_later(path: Path) -> None:
    store = SqliteStore(path, keep_bodies=True, retention_s=1.0, now=lambda: 10_000.0)
    await store.open()
    assert store._parts is not None
    parts = store._parts
    async with Heard("could not be deleted, trying again later"):
        parts.writer._connection.execute("PRAGMA query_only = ON")
        parts.writer._pruner._next = 0.0
        parts.writer._inbox._bell.set()
    parts.writer._connection.execute("PRAGMA query_only = OFF")
    store.put_job(a_job(1))
    await store.flush()
    await store.close()


async def test_answers_of_durable_jobs_go_before_their_records(path: Path) -> None:
    async with opened(path, retention_s=9000.0, answers_s=500.0) as store:
        await store.accept([a_durable_job(number, body=b"in") for number in (1, 2, 3)])
        for number, finished_at in ((1, NOW - 501), (2, NOW - 499)):
            store.put_stream(job_id(number), 0, [b"event"])
            store.put_attempt(an_attempt(number))
            store.put_result(a_result(number, finished_at=finished_at, output=b"out"))
        store.put_job(a_job(4, body=b"in"))
        store.put_result(a_result(4, finished_at=NOW - 501, output=b"out"))
        await prune(store)
        kept = {}
        for number in (1, 2, 3, 4):
            found = await store.job(job_id(number))
            assert found is not None
            streamed = await store.stream(job_id(number), after=-1, limit=9)
            kept[number] = (found.job.body, found.result and found.result.output, len(streamed), len(found.attempts))
        assert kept == {
            1: (b"in", None, 0, 1),
            2: (b"in", b"out", 1, 1),
            3: (b"in", None, 0, 0),
            4: (b"in", b"out", 0, 0),  # as long as its record
        }


async def test_answers_of_a_batch_are_kept_by_its_end_not_theirs(path: Path) -> None:
    async with opened(path, answers_s=500.0) as store:
        await store.put_batch(a_batch(1))
        await store.accept([a_line(number) for number in range(1, 452)])
        for number in range(1, 452):
            store.put_result(a_result(number, finished_at=1.0, output=b"out"))
        await prune(store)
        assert rows(store, "job_bodies WHERE part = 'output'") == 451
        for ended_at, kept in ((NOW - 499, 451), (NOW - 501, 0)):
            ended = a_batch(1, BatchStatus.COMPLETED, at={BatchStatus.COMPLETED: ended_at})
            await store.put_batch(ended)
            await prune(store)
            assert rows(store, "job_bodies WHERE part = 'output'") == kept
            assert await store.batch("batch-1") == replace(ended, answers_kept=kept > 0)
        assert await store.batch_counts("batch-1") == BatchCounts(succeeded=451)
        await store.put_batch(replace(ended, answers_kept=True))  # which is told by the store alone
        found = await store.batch("batch-1")
        assert found is not None
        assert not found.answers_kept


async def test_that_answers_go_is_told_before_the_first_is_gone(path: Path) -> None:
    async with opened(path, answers_s=500.0) as store:
        await store.put_batch(a_batch(1))
        await store.accept([a_line(number) for number in range(1, 301)])
        for number in range(1, 301):
            store.put_result(a_result(number, output=b"out"))
        await store.put_batch(a_batch(1, BatchStatus.COMPLETED, at={BatchStatus.COMPLETED: 1.0}))
        assert store._parts is not None
        pruner = store._parts.writer._pruner
        pruner._next = 0.0
        await store._do(lambda connection: pruner.step(connection, 0), bare=True)
        found = await store.batch("batch-1")
        assert found is not None
        assert not found.answers_kept
        assert 0 < rows(store, "job_bodies WHERE part = 'output'") < 300


async def test_lines_stay_as_long_as_their_batch(path: Path) -> None:
    async with opened(path, retention_s=500.0) as store:
        await store.put_batch(a_batch(1))
        await store.put_batch(a_batch(2, BatchStatus.COMPLETED, at={BatchStatus.COMPLETED: NOW - 499}))
        await store.put_batch(a_batch(3, BatchStatus.COMPLETED, at={BatchStatus.COMPLETED: NOW - 501}))
        for number in (1, 2, 3):
            lines = range(1000 * number, 1000 * number + 700)
            await store.accept([a_line(line, batch=f"batch-{number}") for line in lines])
            for line in lines:
                store.put_result(a_result(line, finished_at=1.0, output=b"out"))
        await prune(store)
        counts = {number: await store.batch_counts(f"batch-{number}") for number in (1, 2, 3)}
        assert counts == {1: BatchCounts(succeeded=700), 2: BatchCounts(succeeded=700), 3: BatchCounts()}
        assert await store.batch("batch-3") is None
        assert rows(store, "jobs") == 1400
        assert rows(store, "batches") == 2


async def test_files_past_their_time_go_but_not_while_a_batch_reads_them(path: Path) -> None:
    async def put(file: FileRecord) -> None:
        for number in range(40):
            await store.put_file_part(file.id, number, b"x")
        await store.put_file(file)

    async with opened(path) as store:
        for number, expires_at in ((1, NOW - 1), (2, NOW - 1), (3, NOW + 1), (4, None)):
            await put(a_file(number, expires_at=expires_at))
        await store.put_batch(a_batch(1, input_file="file-1"))
        await store.put_batch(a_batch(2, BatchStatus.COMPLETED, input_file="file-2"))
        await prune(store)
        assert await store.file_part("file-1", 39) == b"x"
        assert await store.file_part("file-2", 0) is None
        listed = [a_file(4), a_file(3, expires_at=NOW + 1), a_file(1, expires_at=NOW - 1)]
        assert await store.files(Page(), {"batch"}) == listed
        assert rows(store, "file_parts") == 120
        assert rows(store, "files") == 3


async def test_files_without_a_time_of_their_own_go_with_the_records(path: Path) -> None:
    async with opened(path, retention_s=500.0) as store:
        await store.put_file(a_file(1, created_at=NOW - 501))
        await store.put_file(a_file(2, created_at=NOW - 501))
        await store.put_file(a_file(3, created_at=NOW - 499))
        await store.put_file(a_file(4, created_at=NOW - 501, purpose="batch_output"))
        await store.put_batch(a_batch(1, input_file="file-2", output_file="file-4"))
        await prune(store)
        left = await store.files(Page(), {"batch", "batch_output"})
        assert [file.id for file in left] == ["file-4", "file-3", "file-2"]


@pytest.mark.parametrize("by", ["age", "size"])
async def test_the_results_and_the_key_of_a_batch_go_in_its_commit(path: Path, by: str) -> None:
    """A file of results whose batch is gone would be read as empty."""
    retention = Retention(records_s=500.0) if by == "age" else Retention(max_bytes=1)
    async with opened(path) as store:
        ended = a_batch(1, BatchStatus.COMPLETED, at={BatchStatus.COMPLETED: 1.0}, output_file="file-1", error_file="f")
        await store.put_batch(ended, KeyRecord("x", "k", "d", "", 1.0, batch="batch-1"))
        await store.accept([a_line(number) for number in range(1, 700)])
        await store.end_waiting("batch-1", status="failed", reason="cancelled", detail="")
        for name in ("file-1", "f", "file-9"):
            await store.put_file(replace(a_file(9, purpose="batch_output", created_at=NOW), id=name))
        pruner = Pruner(retention, lambda: NOW)
        await store._do(lambda connection: pruner.step(connection, 2**20), bare=True)
        assert await store.batch("batch-1") is None
        assert [await store.file(name) is None for name in ("file-1", "f", "file-9")] == [True, True, False]
        assert await store.known_key("x", "k") is None
        assert rows(store, "jobs") > 0  # which need many more commits


async def test_what_a_crash_left_of_a_deletion_goes_after_the_next_start(path: Path) -> None:
    async with opened(path) as store:
        await store.put_file(a_file(1))
        for number in range(3):
            await store.put_file_part("file-1", number, b"x")
            await store.put_file_part("file-2", number, b"an upload that was not ended")
        await store.put_batch(a_batch(1, BatchStatus.COMPLETED))
        await store.accept([a_line(number) for number in range(1, 1200)])
        await store.end_waiting("batch-1", status="failed", reason="cancelled", detail="")
        await store.flush()
        for sql in ("UPDATE files SET status = 'deleted'", "UPDATE batches SET deleted = 1"):
            await store._do(lambda connection, sql=sql: connection.execute(sql) and None)
        assert await store.batch("batch-1") is None
    async with opened(path) as store:
        await prune(store)
        assert [rows(store, table) for table in ("files", "file_parts", "batches", "jobs")] == [0, 0, 0, 0]


# --- by size ---------------------------------------------------------------------------------------------------------


async def used(store: SqliteStore) -> int:
    def pages(connection: sqlite3.Connection) -> int:
        count, free = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count"))
        return 4096 * int(count - free)

    return await store._do(pages)


async def test_the_oldest_that_ended_goes_when_there_is_too_much(path: Path) -> None:
    async with opened(path, max_bytes=4 * MEBIBYTE) as store:
        await store.accept([a_durable_job(0, body=os.urandom(10_000))])
        for number in range(1, 2001):
            store.put_job(a_job(number, body=os.urandom(5000)))
            store.put_result(a_result(number, finished_at=1000.0 + number))
            if number % 100 == 0:
                await store.flush()
        await prune(store)
        assert await used(store) <= 4 * MEBIBYTE
        left = [found.job.id for found in await store.jobs(JobFilter(limit=1000))]
        assert len(left) > 300
        assert left == [job_id(number) for number in range(2000, 2001 - len(left), -1)] + [job_id(0)]
        assert path.stat().st_size < 8 * MEBIBYTE  # noqa: ASYNC240 - what was deleted made room for what came later


async def test_batches_go_by_size_in_their_turn(path: Path) -> None:
    async with opened(path) as store:
        for batch, first in ((1, 1), (2, 1001)):
            await store.accept(
                [a_line(number, batch=f"batch-{batch}", body=b"x" * 3000) for number in range(first, first + 400)]
            )
            for number in range(first, first + 400):
                store.put_result(a_result(number, finished_at=1.0, output=b"y" * 3000))
        store.put_job(a_job(5000))
        store.put_result(a_result(5000, finished_at=3000.0))
        for number, ended_at in ((1, 2000.0), (2, 4000.0)):
            await store.put_batch(a_batch(number, BatchStatus.COMPLETED, at={BatchStatus.COMPLETED: ended_at}))
    async with opened(path, max_bytes=4 * MEBIBYTE) as store:
        await prune(store)
        assert [batch.id for batch in await store.batches(Page(), "openai")] == ["batch-2"]
        assert rows(store, "jobs") == 401  # the job that ended after the batch stays too


async def test_what_has_not_ended_stays_and_nothing_new_is_taken_beside_it(path: Path) -> None:
    async with opened(path, max_bytes=2 * MEBIBYTE) as store:
        async with Heard("the store is at its limit of 2 MiB"):
            await store.accept([a_durable_job(number, body=b"x" * 100_000) for number in range(40)])
            await prune(store)
        with pytest.raises(StoreFullError, match=r"at its limit of 2 MiB and holds nothing that has ended: .*max_size"):
            await store.accept([a_durable_job(100)])
        with pytest.raises(StoreFullError, match="at its limit"):
            await store.put_file_part("file-1", 0, b"x")
        assert store.state().problem == ""  # what was accepted goes on
        await store.put_batch(a_batch(1))
        await store.accept_ended([a_line(200)], status="cancelled", reason="cancelled", detail="")
        await store.put_file(a_file(7, purpose="batch_output"))
        store.put_attempt_started(job_id(0), 1, "left", 1)
        async with Heard("below its limit again"):
            for number in range(40):
                store.put_result(a_result(number, output=b"y"))
            await store.flush()
            await prune(store)
        await store.accept([a_durable_job(100)])
