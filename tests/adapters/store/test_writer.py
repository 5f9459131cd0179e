"""The writer: its bounds, its pace, and what it does when something cannot be written."""

# ruff: noqa: ASYNC240 - nothing else runs on the loop while a test prepares its files

import asyncio
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisord.adapters.store import SqliteStore, base, limits, transaction, trouble, writer
from supervisord.adapters.store.group import Group
from supervisord.core.errors import StoreFullError, StoreUnavailableError
from supervisord.core.record import EventKind, EventRecord
from supervisord.ports import JobFilter
from tests.fakes.records import a_footprint, a_job, a_result, an_attempt, an_event, job_id


@pytest.fixture
def held_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """The writer stands still in its next commit until the event is set."""
    go_on = threading.Event()
    real = transaction.commit

    def commit(connection: sqlite3.Connection, group: Group, *, durable: bool) -> None:
        assert go_on.wait(10)
        real(connection, group, durable=durable)

    monkeypatch.setattr(writer, "commit", commit)
    yield go_on
    go_on.set()


async def put_until_refused(store: SqliteStore, body: bytes | None = None) -> int:
    count = 0
    with pytest.raises(StoreUnavailableError, match="wait to be written") as caught:  # noqa: PT012 - any of them
        while True:
            store.put_job(a_job(count, body=body))
            count += 1
    assert not isinstance(caught.value, StoreFullError)
    return count


# --- bounds ----------------------------------------------------------------------------------------------------------


async def test_new_work_is_refused_when_the_writer_is_behind(store: SqliteStore, held_up: threading.Event) -> None:
    accepted = await put_until_refused(store)
    assert accepted == limits.MOST_RECORDS * 3 // 4
    assert store.state().pending == accepted
    with pytest.raises(StoreUnavailableError):
        store.put_event(an_event("x"))
    for number in range(limits.MOST_RECORDS - accepted):  # kept free for what was accepted
        store.put_result(a_result(number))
    with pytest.raises(StoreUnavailableError):
        store.put_result(a_result(0))
    with pytest.raises(StoreUnavailableError):
        store.put_attempt(an_attempt(0))
    with pytest.raises(StoreUnavailableError):
        store.put_attempt_started(job_id(0), 1, "left", 1)
    held_up.set()
    await store.flush()
    assert (await store.counts_since(0.0)).done == limits.MOST_RECORDS // 4
    store.put_job(a_job("next"))


async def test_bodies_that_wait_are_bounded(store: SqliteStore, held_up: threading.Event) -> None:
    mebibyte = bytes(2**20)
    assert await put_until_refused(store, mebibyte) == 48
    store.put_job(a_job("without a body"))
    for number in range(16):
        store.put_result(a_result(number, output=mebibyte))
    with pytest.raises(StoreUnavailableError, match=r"with 65 MiB of bodies wait"):
        store.put_result(a_result(16, output=mebibyte))
    store.put_result(a_result(16))
    held_up.set()
    await store.flush()


async def test_a_flush_that_takes_too_long_is_told(
    store: SqliteStore, held_up: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "_LONGEST_FLUSH_S", 0.05)
    monkeypatch.setattr(base, "_LONGEST_LAG_S", 0.05)
    store.put_job(a_job(1))
    with pytest.raises(StoreUnavailableError, match=r"did not confirm a write within 0\.05 s"):
        await store.flush()
    assert (store.state().oldest_pending_s or 0) >= 0.05
    assert await store.job(job_id(1)) is None  # a query does not wait for ever either
    held_up.set()
    assert await store.job(job_id(1)) is not None


async def test_a_cancelled_flush_harms_nobody(store: SqliteStore, held_up: threading.Event) -> None:
    store.put_job(a_job(1))
    async with asyncio.TaskGroup() as group:
        first = group.create_task(store.flush())
        second = group.create_task(store.flush())
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        held_up.set()
    assert first.cancelled()
    assert second.done()


async def test_a_close_that_hangs_is_bounded(
    store: SqliteStore, held_up: threading.Event, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(base, "_LONGEST_CLOSE_S", 0.05)
    store.put_job(a_job(1))
    assert store._parts is not None
    thread = store._parts.writer._thread
    await store.close()
    assert "did not close within 0.05 s; 1 records wait" in caplog.text
    held_up.set()
    await asyncio.to_thread(thread.join, 10)
    assert not thread.is_alive()


# --- pace ------------------------------------------------------------------------------------------------------------


async def test_what_comes_while_all_is_quiet_is_committed_at_once_and_a_stream_in_groups(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits: list[int] = []
    first, last = threading.Event(), threading.Event()
    real = transaction.commit

    def commit(connection: sqlite3.Connection, group: Group, *, durable: bool) -> None:
        real(connection, group, durable=durable)
        commits.append(group.records)
        first.set()
        if sum(commits) == handed_over:
            last.set()

    monkeypatch.setattr(writer, "commit", commit)
    handed_over = 1
    store.put_job(a_job(0))
    assert await asyncio.to_thread(first.wait, 10)  # nobody flushed, and it did not wait for company
    start = time.perf_counter()
    while time.perf_counter() < start + 0.2:
        store.put_job(a_job(handed_over))
        handed_over += 1
        await asyncio.sleep(0.0005)
    assert await asyncio.to_thread(last.wait, 10)
    assert len(commits) <= 2 + (time.perf_counter() - start) / writer._PACE_S


async def test_an_idle_writer_uses_no_cpu(store: SqliteStore) -> None:
    store.put_job(a_job(1))
    await store.flush()
    assert store._parts is not None
    thread = store._parts.writer._thread
    assert thread.ident is not None
    clock = time.pthread_getcpuclockid(thread.ident)
    await asyncio.sleep(0.05)  # the pace of the last commit, and what it leaves to do
    before = time.clock_gettime(clock)
    await asyncio.sleep(0.3)
    assert time.clock_gettime(clock) - before < 0.001


# --- records that cannot be written ----------------------------------------------------------------------------------


async def test_values_that_sqlite_cannot_hold_do_not_stop_the_others(store: SqliteStore) -> None:
    store.put_job(a_job(1, client="caf\udce9", max_tokens=10**30, body=b"in"))
    store.put_attempt(an_attempt(1, detail="\ud800 half a pair", build="b\udcff"))
    store.put_result(a_result(1, detail="also \udc80", output=b"out"))
    store.put_job(a_job(2, max_tokens=-(10**30)))
    store.put_event(an_event("odd \udcff"))
    await store.flush()
    found = await store.job(job_id(1))
    assert found is not None
    assert (found.job.client, found.job.max_tokens, found.job.body) == ("caf\\udce9", 2**63 - 1, b"in")
    assert found.attempts[0].detail == "\\ud800 half a pair"
    assert found.result is not None
    assert (found.result.detail, found.result.output) == ("also \\udc80", b"out")
    assert len(await store.jobs(JobFilter())) == 2
    assert [stored.event.message for stored in await store.events(after=None, limit=9)] == ["odd \\udcff"]


async def test_a_result_in_a_group_of_its_own_is_saved_too(store: SqliteStore) -> None:
    store.put_job(a_job(1))
    await store.flush()
    store.put_result(a_result(1, detail="\udcff", output=b"out"))
    await store.flush()
    found = await store.job(job_id(1))
    assert found is not None
    assert found.result == a_result(1, detail="\\udcff", output=b"out")


async def test_a_footprint_beside_what_cannot_be_bound_is_saved(store: SqliteStore) -> None:
    store.put_event(an_event("odd \udcff"))
    store.put_footprint(a_footprint("x", backend="odd \udcff", ram=2**70))
    await store.flush()
    assert await store.footprints() == [a_footprint("x", backend="odd \\udcff", ram=2**63 - 1)]


async def test_an_attempt_of_an_unknown_job_is_left_out_and_told(
    store: SqliteStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.put_attempt(an_attempt("nobody"))
    store.put_attempt(an_attempt(1))
    store.put_job(a_job(1))
    await store.flush()
    found = await store.job(job_id(1))
    assert found is not None
    assert len(found.attempts) == 1
    assert "the store left out attempt 1 of job nobody" in caplog.text
    assert store.state().problem == ""


async def test_evidence_that_is_no_json_is_kept_as_words(store: SqliteStore) -> None:
    store.put_event(EventRecord(at=1.0, kind=EventKind.STORE, message="x", data={"what": object, "bad": "\udcff"}))
    (stored,) = await store.events(after=None, limit=1)
    assert "object" in str(stored.event.data["unreadable"])


# --- trouble ---------------------------------------------------------------------------------------------------------


async def test_a_lock_of_another_program_is_told_and_recovered_from(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store._parts is not None
    store._parts.writer._connection.execute("PRAGMA busy_timeout = 20")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    store.put_job(a_job(1))
    with pytest.raises(StoreUnavailableError, match="locked by another program"):
        await store.flush()
    with pytest.raises(StoreUnavailableError, match="locked by another program"):
        store.put_job(a_job(2))
    assert not store.state().full
    store.put_result(a_result(1))
    other.execute("ROLLBACK")
    other.close()
    await store.flush()  # a caller who waits hurries the next try
    assert store.state().problem == ""
    found = await store.job(job_id(1))
    assert found is not None
    assert found.status == "done"


@pytest.mark.parametrize("replaced", [False, True])
async def test_a_file_that_is_moved_away_while_in_use_is_told(store: SqliteStore, path: Path, replaced: bool) -> None:
    elsewhere = path.with_name("elsewhere")
    path.rename(elsewhere)
    if replaced:
        path.touch()
    store.put_job(a_job(1))
    with pytest.raises(StoreUnavailableError, match="replaced" if replaced else "moved or deleted"):
        await store.flush()
    with pytest.raises(StoreUnavailableError, match="while in use"):
        store.put_job(a_job(2))
    path.unlink(missing_ok=True)
    elsewhere.rename(path)
    await store.flush()
    store.put_job(a_job(3))
    assert len(await store.jobs(JobFilter())) == 2


async def test_damage_met_while_running_is_told(store: SqliteStore, path: Path) -> None:
    for number in range(2000):
        store.put_job(a_job(number))
    await store.flush()
    assert store._parts is not None
    store._parts.writer._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + b"\xa5" * (len(whole) - 4096))
    with pytest.raises(StoreUnavailableError, match="is damaged"):
        await store.job(job_id(77))
    store._parts.writer._connection.execute("PRAGMA shrink_memory")
    store.put_result(a_result(5))
    with pytest.raises(StoreUnavailableError, match="is damaged"):
        await store.flush()
    path.write_bytes(whole)


async def test_a_writer_that_died_is_told(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def commit(*_: object, **__: object) -> None:
        raise MemoryError("no more")

    monkeypatch.setattr(writer, "commit", commit)
    store.put_job(a_job(1))
    with pytest.raises(StoreUnavailableError, match=r"writer ended \(MemoryError.*\): restart the daemon"):
        await store.flush()
    with pytest.raises(StoreUnavailableError, match="restart the daemon"):
        store.put_result(a_result(1))
    with pytest.raises(StoreUnavailableError, match="restart the daemon"):
        await store.flush()
    assert "restart the daemon" in store.state().problem
    await store.close()
    assert "1 records could not be written" in caplog.text


async def test_a_loop_that_ended_before_its_answer_is_no_trouble(
    store: SqliteStore, held_up: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "_LONGEST_FLUSH_S", 0.02)
    store.put_job(a_job(1))

    def another_loop() -> None:
        with pytest.raises(StoreUnavailableError):
            asyncio.run(store.flush())

    await asyncio.to_thread(another_loop)
    held_up.set()
    await asyncio.wait_for(store.job(job_id(1)), timeout=5)


def test_errors_are_told_by_their_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def of(code: int) -> trouble.Trouble:
        error = sqlite3.OperationalError("words")
        error.sqlite_errorcode = code
        return trouble.describe(error, tmp_path / "jobs.db")

    assert of(sqlite3.SQLITE_FULL).full
    assert not of(sqlite3.SQLITE_IOERR_WRITE).full
    assert "check the disk" in of(sqlite3.SQLITE_IOERR_WRITE).words
    assert "damaged" in of(sqlite3.SQLITE_NOTADB).words
    monkeypatch.setattr(trouble, "_ROOM", 2**62)  # every disk has less
    assert of(sqlite3.SQLITE_IOERR_SHMSIZE).full
    assert not trouble.describe(sqlite3.OperationalError(), tmp_path / "gone" / "jobs.db").full
    error = sqlite3.OperationalError()
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR
    assert not trouble.describe(error, tmp_path / "gone" / "jobs.db").full
