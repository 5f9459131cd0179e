"""Writes that somebody waits for: made once or told, together where they come together, bounded."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from supervisord.adapters.store import SqliteStore, base, errands, limits, work, writer
from supervisord.core.errors import ConflictError, StoreFullError, StoreUnavailableError, SupervisorError
from supervisord.core.record import KeyRecord
from supervisord.core.terms import Flow
from supervisord.ports import JobFilter
from tests.fakes.records import a_durable_job, a_file, a_line, a_result, job_id

MEBIBYTE = 2**20


@asynccontextmanager
async def held_up(store: SqliteStore) -> AsyncIterator[None]:
    """The writer stands still within."""
    standing, go_on = threading.Event(), threading.Event()

    def stand(_: sqlite3.Connection) -> None:
        standing.set()
        assert go_on.wait(10)

    async with asyncio.TaskGroup() as group:
        group.create_task(store._do(stand, bare=True, timeout=10.0))
        assert await asyncio.to_thread(standing.wait, 10)
        try:
            yield
        finally:
            go_on.set()


async def outcome(store: SqliteStore, number: int, **more: object) -> str:
    try:
        await store.accept([a_durable_job(number, **more)])  # type: ignore[arg-type] # whatever a test says
    except SupervisorError as error:
        return type(error).__name__
    return "taken"


async def numbers(store: SqliteStore) -> list[int]:
    return [int(found.job.id.removeprefix("job-")) for found in await store.jobs(JobFilter(limit=1000))][::-1]


async def test_those_that_wait_together_share_a_sync(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    syncs = []
    real = errands.synchronous

    def synchronous(connection: sqlite3.Connection, *, full: bool) -> object:
        syncs.append(full)
        return real(connection, full=full)

    monkeypatch.setattr(errands, "synchronous", synchronous)
    async with asyncio.TaskGroup() as group, held_up(store):
        for number in range(100):
            group.create_task(store.accept([a_durable_job(number)]))
        await asyncio.sleep(0)
    assert syncs == [True]
    assert await numbers(store) == list(range(100))


async def test_one_that_is_refused_leaves_the_others_alone(store: SqliteStore) -> None:
    async with asyncio.TaskGroup() as group, held_up(store):
        asked = [group.create_task(outcome(store, number)) for number in (1, 2, 1, 3)]
        await asyncio.sleep(0)
    assert [each.result() for each in asked] == ["taken", "taken", "ConflictError", "taken"]
    assert await numbers(store) == [1, 2, 3]


async def test_a_record_that_cannot_be_held_is_told(store: SqliteStore) -> None:
    with pytest.raises(StoreUnavailableError, match="the store cannot hold this"):
        await store.put_file(a_file(1, filename=object()))
    await store.accept([a_durable_job(1)])
    assert store.state().problem == ""


async def test_words_that_sqlite_cannot_hold_are_spelt_out_and_found_again(store: SqliteStore) -> None:
    odd = replace(a_durable_job(1, client="caf\udce9", metadata={"a": "\ud800", "b": 10**30}), model="m\udcff")
    await store.accept([odd], KeyRecord("caf\udce9", "k\udcff", "d", job_id(1), 1.0))
    flow = Flow("m\udcff", 1, "caf\udce9")
    (found,) = await store.waiting(flow, after="", limit=9, most_bytes=0)
    assert (found.job.model, found.job.client) == ("m\\udcff", "caf\\udce9")
    assert found.job.terms is not None
    assert found.job.terms.metadata == {"a": "\\ud800", "b": "1" + "0" * 30}
    assert await store.known_key("caf\udce9", "k\udcff") is not None


async def test_what_a_full_disk_refused_is_not_taken_later(store: SqliteStore) -> None:
    await store.accept([a_durable_job(1)])
    assert store._parts is not None
    connection = store._parts.writer._connection
    await store._do(lambda found: found.execute("PRAGMA max_page_count = 60") and None)
    with pytest.raises(StoreFullError, match=r"the disk below .* is full"):
        await store.accept([a_durable_job(number, body=b"x" * 100_000) for number in (2, 3, 4)])
    with pytest.raises(StoreFullError):
        await store.put_file_part("file-1", 0, b"x" * 300_000)
    store.put_result(a_result(1, output=b"x"))  # what was accepted goes on
    connection.execute("PRAGMA max_page_count = 1000000")
    await store.flush()
    assert await numbers(store) == [1]
    assert await store.file_part("file-1", 0) is None
    await store.accept([a_durable_job(2)])


async def test_one_that_takes_too_long_is_told_and_withdrawn(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with held_up(store):
        monkeypatch.setattr(base, "_LONGEST_FLUSH_S", 0.02)
        with pytest.raises(StoreUnavailableError, match=r"did not confirm a write within 0\.02 s"):
            await store.accept([a_durable_job(1)])
        monkeypatch.undo()
    await store.accept([a_durable_job(2)])
    assert await numbers(store) == [2]


async def test_one_whose_caller_left_is_withdrawn(store: SqliteStore) -> None:
    async with asyncio.TaskGroup() as group, held_up(store):
        left = group.create_task(store.accept([a_durable_job(1)]))
        stays = group.create_task(outcome(store, 2))
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.sleep(0)
    assert stays.result() == "taken"
    assert await numbers(store) == [2]


async def test_a_look_sees_a_write_whose_caller_left_while_it_was_made(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes after it, and what is there when it is counted, must not depend on who still waits for it."""
    begun, go_on, real = threading.Event(), threading.Event(), work._accept

    def slow(connection: sqlite3.Connection, **told: object) -> None:
        begun.set()
        assert go_on.wait(10)
        real(connection, **told)  # type: ignore[arg-type]

    monkeypatch.setattr(work, "_accept", slow)
    async with asyncio.TaskGroup() as group:
        left = group.create_task(store.accept([a_durable_job(1)]))
        assert await asyncio.to_thread(begun.wait, 10)
        left.cancel()
        looks = [group.create_task(store.job(job_id(1))), group.create_task(store.flush())]
        await asyncio.sleep(0)
        go_on.set()
    assert looks[0].result() is not None


async def test_what_waits_is_bounded_by_number_and_by_size(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "NEW_JOB", small := limits.Limit(4, 2 * MEBIBYTE, in_trouble=False))
    monkeypatch.setattr(base, "NEW_JOB", small)

    async def refused(count: int, size: int) -> int:
        """How many of so many of this size are refused."""
        told = 0

        async def one() -> None:
            nonlocal told
            try:
                await store._do(lambda _: None, size=size, limit=small)
            except StoreUnavailableError as error:
                told += "wait to be written" in error.message

        async with asyncio.TaskGroup() as group, held_up(store):
            for _ in range(count):
                group.create_task(one())
            await asyncio.sleep(0)
        return told

    assert await refused(3, 0) == 0  # and the one that holds up the writer
    assert await refused(5, 0) == 2
    assert await refused(3, MEBIBYTE) == 1
    assert await refused(1, 100 * MEBIBYTE) == 0  # one alone may have any size
    assert await refused(3, MEBIBYTE) == 1  # and all of it is given back
    await store.accept([a_durable_job(1, body=bytes(3 * MEBIBYTE))])


async def test_an_errand_of_a_writer_that_dies_is_told(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def run_together(*_: object) -> bool:
        raise MemoryError("no more")

    monkeypatch.setattr(writer, "run_together", run_together)
    with pytest.raises(StoreUnavailableError, match=r"writer ended \(MemoryError.*\): restart the daemon"):
        await store.accept([a_durable_job(1)])
    with pytest.raises(StoreUnavailableError, match="restart the daemon"):
        await store.accept([a_durable_job(1)])
    assert "the store's writer ended" in caplog.text


async def test_bare_work_that_fails_is_told_and_harms_nothing_else(store: SqliteStore) -> None:
    with pytest.raises(StoreUnavailableError, match="no such table"):
        await store._do(lambda connection: connection.execute("DROP TABLE nowhere") and None, bare=True)
    assert store.state().problem == ""
    await store.accept([a_durable_job(1)])


async def test_a_key_without_its_job_is_refused(store: SqliteStore) -> None:
    with pytest.raises(ConflictError):
        await store.accept([a_durable_job(1)], KeyRecord("a", "k", "d", job_id(2), 1.0))
    assert await numbers(store) == []


async def test_a_loop_that_ended_before_its_answer_is_no_trouble(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, go_on = threading.Event(), threading.Event()

    def stand(_: sqlite3.Connection) -> None:
        started.set()
        assert go_on.wait(10)

    def another_loop() -> None:
        with pytest.raises(StoreUnavailableError, match="did not confirm"):
            asyncio.run(store._do(stand, timeout=0.5))

    await asyncio.to_thread(another_loop)
    assert started.is_set()
    go_on.set()
    await store.accept([a_durable_job(1)])


async def test_a_flush_syncs_what_was_written_without_a_sync(store: SqliteStore, path: Path) -> None:
    connection = sqlite3.connect(path)

    def syncs() -> int:
        count: int = connection.execute("SELECT count FROM sync_marks").fetchone()[0]
        return count

    await store.flush()
    before = syncs()
    await store.flush()  # there is nothing to sync
    await store.put_file_part("file-1", 0, b"x")
    assert syncs() == before
    await store.flush()
    assert syncs() == before + 1
    connection.close()


class Counting:
    """A connection that counts the steps of its statements: each gives up the interpreter lock and takes it again."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.steps = 0

    def execute(self, sql: str, values: object) -> "Rows":
        rows = self._connection.execute(sql, values).fetchall()  # type: ignore[arg-type]
        self.steps += 1 + len(rows)
        return Rows(rows)


class Rows(list[object]):
    def fetchone(self) -> object:
        return self[0]


@pytest.mark.parametrize("keep_requests", [True, False])
async def test_a_thousand_lines_end_in_a_few_steps(store: SqliteStore, keep_requests: bool) -> None:
    """Under a busy loop each step of the writer can take 5 ms, and every other write waits for them."""
    await store.accept([a_line(number, model="left" if number % 2 else "right") for number in range(1, 1001)])
    end = store._end_of("batch-1", "cancelled", "cancelled", "")

    def ended(connection: sqlite3.Connection) -> tuple[object, int]:
        counting = Counting(connection)
        found = work._end_waiting(counting, values={**end, "after": 0}, keep_requests=keep_requests)  # type: ignore[arg-type]
        return found, counting.steps

    (flows, last), steps = await store._do(ended)  # type: ignore[misc]
    assert flows == {Flow("left", 2, "editor"): 500, Flow("right", 2, "editor"): 500}
    assert last == 1000
    assert steps < 10
