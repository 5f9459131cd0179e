"""Reading: bounded in time and number, beside the writer, by plans that hold at any size."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import product
from pathlib import Path

import pytest

from supervisord.adapters.store import SqliteStore, queries, readers
from supervisord.adapters.store.readers import Lane
from supervisord.core.errors import StoreUnavailableError
from supervisord.core.terms import Flow
from supervisord.ports import JobFilter
from tests.fakes.records import a_durable_job, a_job, a_result, an_attempt, an_event, job_id

ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"


def endless(connection: sqlite3.Connection) -> object:
    return connection.execute(ENDLESS).fetchone()


async def test_a_query_that_takes_too_long_is_ended(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "_LONGEST_QUERY_S", 0.05)
    with pytest.raises(StoreUnavailableError, match=r"longer than 0\.05 s and was ended: ask for less"):
        await store._read(endless)
    store.put_job(a_job(1))
    assert await store.job(job_id(1)) is not None


async def test_queries_that_wait_are_bounded_in_number_and_time(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "_LONGEST_QUERY_S", 0.3)
    monkeypatch.setattr(readers, "_MOST_WAITING", 64)
    words: list[str] = []

    async def ask() -> None:
        with pytest.raises(StoreUnavailableError) as caught:
            await store._read(endless)
        words.append(caught.value.message)

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        for _ in range(70):
            group.create_task(ask())
    assert sum("64 queries" in told for told in words) == 6
    assert sum("was ended" in told for told in words) >= 2
    assert sum("busy with other queries" in told for told in words) >= 50


async def test_a_herd_is_served(store: SqliteStore) -> None:
    """All whose connections were cut ask at once, when they are back."""
    await store.accept([a_durable_job(1)])
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(store.job(job_id(1))) for _ in range(3000)]
    assert all(task.result() is not None for task in asked)


async def test_no_kind_of_query_stands_behind_another(store: SqliteStore) -> None:
    await store.accept([a_durable_job(1)])
    flow, look = Flow("qwen", 1, "editor"), partial(store.job, job_id(1))
    feed = partial(store.waiting, flow, after="", limit=1, most_bytes=1)
    for slow, others in ((Lane.LIST, (look, feed)), (Lane.LOOK, (feed,)), (Lane.FEED, (look,))):
        async with held_up(store, slow), asyncio.timeout(2):
            for other in others:
                assert await other()


@asynccontextmanager
async def held_up(store: SqliteStore, lane: Lane) -> AsyncIterator[None]:
    """All readers of a lane are busy, and more is asked of them."""
    go_on = threading.Event()
    async with asyncio.TaskGroup() as group:
        for _ in range(9):
            group.create_task(store._read(lambda _: go_on.wait(4), lane))
        await asyncio.sleep(0)
        try:
            yield
        finally:
            go_on.set()


async def test_closing_ends_the_queries_in_progress_and_those_that_wait(store: SqliteStore) -> None:
    asked = threading.Event()

    def endless_and_noticed(connection: sqlite3.Connection) -> object:
        asked.set()
        return endless(connection)

    async def ask() -> None:
        with pytest.raises(StoreUnavailableError, match="closed"):
            await store._read(endless_and_noticed)

    async with asyncio.timeout(4), asyncio.TaskGroup() as group:
        for _ in range(6):
            group.create_task(ask())
        assert await asyncio.to_thread(asked.wait, 5)
        assert store._parts is not None
        held = store._parts.readers
        await store.close()
    with pytest.raises(StoreUnavailableError, match="closed"):
        await held.run(endless)


async def test_what_cannot_be_read_is_told(store: SqliteStore) -> None:
    with pytest.raises(StoreUnavailableError, match=r"cannot be read \(no such table: photos\)"):
        await store._read(lambda connection: connection.execute("SELECT * FROM photos"))


async def test_a_reader_cannot_write(store: SqliteStore) -> None:
    with pytest.raises(StoreUnavailableError, match="readonly"):
        await store._read(lambda connection: connection.execute("DELETE FROM jobs"))


async def test_readers_beside_the_writer_see_whole_jobs(store: SqliteStore) -> None:
    """While jobs are finished one after the other, every look shows a result together with its attempt."""
    count = 400
    finished = asyncio.Event()

    async def write() -> None:
        for number in range(count):
            store.put_job(a_job(number))
            store.put_attempt(an_attempt(number))
            store.put_result(a_result(number))
            await asyncio.sleep(0)
            if number % 50 == 0:
                await store.flush()
        finished.set()

    async def look() -> int:
        looks = 0
        newest = -1
        while not finished.is_set():
            found = await store.jobs(JobFilter(limit=20))
            for job in found:
                assert (job.result is not None, len(job.attempts)) in {(True, 1), (False, 0), (False, 1)}
            if found:
                assert int(found[0].job.id[-8:]) >= newest  # never back in time
                newest = int(found[0].job.id[-8:])
            looks += 1
        return looks

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        tasks = [group.create_task(look()) for _ in range(4)]
        group.create_task(write())
    assert all(task.result() > 0 for task in tasks)
    assert (await store.counts_since(0.0)).done == count


async def test_no_listing_sorts_or_walks_more_than_it_shows(store: SqliteStore, path: Path) -> None:
    """Nothing but the newest-first walk of an index, whatever the filter: so a million jobs cost what none cost."""
    plain = [None, "x"]
    for model, backend, status, after in product(plain, plain, [None, "done", "failed"], plain):
        for since in (None, 1.0):
            wanted = JobFilter(model=model, backend=backend, status=status, after=after, since=since)
            steps = plan_of(path, wanted)
            assert not [step for step in steps if "TEMP B-TREE" in step], wanted
            narrowed = model or backend or status == "failed" or after or since
            assert [step for step in steps if step.startswith("SCAN")] == ([] if narrowed else ["SCAN jobs"]), wanted
            assert any("COVERING INDEX jobs_submitted" in step for step in steps) == (since is not None), wanted


async def test_the_lists_of_a_door_look_at_nothing_of_others(store: SqliteStore, path: Path) -> None:
    for model, client, after in product([None, "x"], [None, "x"], [None, "x"]):
        for status in (None, "done"):
            wanted = JobFilter(origin="job", model=model, client=client, after=after, status=status)
            (step, *more) = plan_of(path, wanted)
            assert not more, wanted
            by = "client=? AND " if client else "model=? AND " if model else ""
            last = " AND id<?" if after else ""
            assert f"(origin=? AND {by}".removesuffix(" AND ") + f"{last})" in step, (wanted, step)


def plan_of(path: Path, wanted: JobFilter) -> list[str]:
    asked: list[str] = []
    connection = sqlite3.connect(path)
    connection.set_trace_callback(asked.append)
    queries.jobs(connection, wanted)
    connection.set_trace_callback(None)
    plan = [str(row[3]) for row in connection.execute(f"EXPLAIN QUERY PLAN {asked[-1]}")]
    connection.close()
    return plan


async def test_large_events_of_a_stream_come_a_few_at_a_time(store: SqliteStore) -> None:
    await store.accept([a_durable_job(1)])
    event = bytes(3 * 2**20)
    store.put_stream(job_id(1), 0, [event, event, b"last"])
    assert [number for number, _ in await store.stream(job_id(1), after=-1, limit=9)] == [0]
    assert [number for number, _ in await store.stream(job_id(1), after=0, limit=9)] == [1, 2]


async def test_a_stream_beside_what_cannot_be_bound_is_saved(store: SqliteStore) -> None:
    await store.accept([a_durable_job(1)])
    store.put_event(an_event("odd \udcff"))
    store.put_stream(job_id(1), 0, [b"zero", b"one"])
    store.put_requeued(job_id(1), 1, "odd \udcff", failures=1)
    assert await store.stream(job_id(1), after=-1, limit=9) == [(0, b"zero"), (1, b"one")]
    found = await store.job(job_id(1))
    assert found is not None
    assert (found.detail, found.failures) == ("odd \\udcff", 1)
