"""Copies of a store in use, and room given back to the disk."""

# ruff: noqa: ASYNC240 - nothing else runs on the loop while a test looks at its files

import asyncio
import os
import sqlite3
import stat
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from supervisord.adapters.store import SqliteStore, upkeep
from supervisord.adapters.store.folder import make_private_file
from supervisord.adapters.store.statements import migrations
from supervisord.core.errors import ConflictError, StateFolderError, StoreUnavailableError
from supervisord.core.record import BatchStatus
from supervisord.ports import BackupReport, JobFilter
from tests.fakes.records import a_batch, a_durable_job, a_file, a_job, a_line, a_result, job_id


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(path, keep_bodies=True, retention_s=None, now=lambda: 2000.0)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def filled(store: SqliteStore, jobs: int, body: int = 4000) -> None:
    for number in range(jobs):
        store.put_job(a_job(number, body=os.urandom(body)))
        store.put_result(a_result(number))
        if number % 500 == 499:
            await store.flush()
    await store.flush()


# --- backup ----------------------------------------------------------------------------------------------------------


async def test_a_backup_is_the_whole_store_in_one_private_file(store: SqliteStore, tmp_path: Path) -> None:
    await filled(store, 50)
    await store.accept([a_durable_job(100, body=b"in")])
    await store.put_file_part("file-1", 0, b"part")
    await store.put_file(a_file(1))
    store.put_job(a_job(101))  # handed over, and not committed yet
    target = tmp_path / "copies" / "today.db"
    target.parent.mkdir()
    report = await store.backup(str(target))
    assert (report.path, report.jobs, report.size_bytes) == (str(target), 52, target.stat().st_size)
    assert report.seconds > 0
    assert [file.name for file in target.parent.iterdir()] == ["today.db"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    async with opened(target) as copy:
        assert len(await copy.jobs(JobFilter(limit=1000))) == 52
        assert await copy.file_part("file-1", 0) == b"part"
        found, original = await copy.job(job_id(7)), await store.job(job_id(7))
        assert found == original
        waiting = await copy.job(job_id(100))
        assert waiting is not None
        assert (waiting.status, waiting.job.body) == ("queued", b"in")


async def test_a_backup_is_one_moment_of_a_store_that_is_written_to(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "_PAGES_AT_ONCE", 8)
    await filled(store, 500)
    done = asyncio.Event()
    later = 0

    async def write() -> None:
        nonlocal later
        while not done.is_set():
            await store.accept([a_line(10_000 + 2 * later, body=b"x" * 20_000), a_line(10_001 + 2 * later)])
            later += 1

    async with asyncio.TaskGroup() as group:
        writing = group.create_task(write())
        report = await store.backup(str(tmp_path / "copy.db"))
        done.set()
        await writing
    assert later > 0
    async with opened(tmp_path / "copy.db") as copy:
        lines = [found.job.id for found in await copy.jobs(JobFilter(origin="batch", limit=1000))]
        assert report.jobs == 500 + len(lines)
        assert len(lines) % 2 == 0  # of each commit all, or nothing
        assert lines == [job_id(10_000 + number) for number in reversed(range(len(lines)))]


def test_a_backup_ends_though_every_step_of_it_meets_a_new_commit(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(_filled_once(path))
    monkeypatch.setattr(upkeep, "_PAGES_AT_ONCE", 4)
    other = sqlite3.connect(path, isolation_level=None)

    class Commits(threading.Event):
        """Asked between two steps."""

        steps = 0

        def is_set(self) -> bool:
            self.steps += 1
            other.execute("UPDATE sync_marks SET count = count + 1")
            return self.steps > 1000

    asked = Commits()
    make_private_file(tmp_path / "copy.db")
    assert upkeep._copy(path, tmp_path / "copy.db", (asked,)) == 100
    assert asked.steps > 10
    other.close()


async def _filled_once(path: Path) -> None:
    async with opened(path) as store:
        await filled(store, 100)


async def test_nothing_is_written_over(store: SqliteStore, path: Path, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("mine")
    (tmp_path / "half.part").write_text("mine")
    for name in (tmp_path / "there", tmp_path / "half", path):
        with pytest.raises(StateFolderError, match="already: move it away, or give another name"):
            await store.backup(str(name))
    assert (tmp_path / "there").read_text() == (tmp_path / "half.part").read_text() == "mine"


async def test_a_place_that_cannot_be_written_is_told(store: SqliteStore, tmp_path: Path) -> None:
    with pytest.raises(StateFolderError, match=r"nowhere/copy\.db cannot be written \(No such file or directory\)"):
        await store.backup(str(tmp_path / "nowhere" / "copy.db"))
    await store.backup(str(tmp_path / "copy.db"))  # it is not taken for one that is under way


async def test_a_backup_that_fails_leaves_nothing(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(upkeep, "_copy", full)
        with pytest.raises(StateFolderError, match=r"the backup .*copy\.db failed: the disk below .* is full"):
            await store.backup(str(tmp_path / "copy.db"))
    assert {file.name for file in tmp_path.iterdir()} == {"state"}


async def test_a_copy_that_is_damaged_is_thrown_away(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(store, 100)
    real = upkeep.connect

    class Torn(sqlite3.Connection):
        """A disk that loses pages of what was written to it."""

        def execute(self, sql: str, *values: object) -> sqlite3.Cursor:
            if "quick_check" in sql:
                with Path(super().execute("PRAGMA database_list").fetchone()[2]).open("r+b") as file:
                    file.seek(3 * 4096)
                    file.write(b"\xa5" * 8 * 4096)
            return super().execute(sql, *values)  # type: ignore[arg-type]

    def connect(file: Path) -> sqlite3.Connection:
        if file.name == "copy.db.part":
            return sqlite3.connect(file, isolation_level=None, check_same_thread=False, factory=Torn)
        return real(file)

    monkeypatch.setattr(upkeep, "connect", connect)
    with pytest.raises(StateFolderError, match=r"is damaged .*and was thrown away: check the disk"):
        await store.backup(str(tmp_path / "copy.db"))
    assert {file.name for file in tmp_path.iterdir()} == {"state"}


@pytest.mark.parametrize("how", ["closed", "cancelled"])
async def test_a_backup_that_nobody_waits_for_is_given_up(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    await filled(store, 200)
    monkeypatch.setattr(upkeep, "_PAGES_AT_ONCE", 1)
    copying, go_on, ended = threading.Event(), threading.Event(), threading.Event()
    copy, back_up = upkeep._copy, upkeep._back_up

    def held_up(source: Path, draft: Path, stops: tuple[threading.Event, ...]) -> int:
        copying.set()
        assert go_on.wait(10)
        return copy(source, draft, stops)

    def watched(source: Path, target: Path, stops: tuple[threading.Event, ...]) -> BackupReport:
        try:
            return back_up(source, target, stops)
        finally:
            ended.set()

    monkeypatch.setattr(upkeep, "_copy", held_up)
    monkeypatch.setattr(upkeep, "_back_up", watched)

    async def ask() -> str:
        try:
            return (await store.backup(str(tmp_path / "copy.db"))).path
        except StoreUnavailableError as error:
            return error.message

    async with asyncio.TaskGroup() as group:
        asked = group.create_task(ask())
        await asyncio.to_thread(copying.wait, 10)
        with pytest.raises(ConflictError, match="a backup of the store is under way"):
            await store.backup(str(tmp_path / "other.db"))
        with pytest.raises(ConflictError, match="a backup of the store is under way"):
            await store.vacuum()
        if how == "closed":
            await store.close()
        else:
            asked.cancel()
            await asyncio.sleep(0)
        go_on.set()
        assert await asyncio.to_thread(ended.wait, 10)
    assert asked.cancelled() if how == "cancelled" else "given up" in asked.result()
    assert {file.name for file in tmp_path.iterdir()} == {"state"}


# --- vacuum ----------------------------------------------------------------------------------------------------------


async def fill_and_forget(store: SqliteStore, number: int) -> None:
    """A batch of 4 MB, which is deleted."""
    lines = range(1000 * number, 1000 * number + 1000)
    await store.accept([a_line(line, batch=f"batch-{number}", body=os.urandom(4000)) for line in lines])
    await store.end_waiting(f"batch-{number}", status="cancelled", reason="cancelled", detail="")
    await store.put_batch(a_batch(number, BatchStatus.CANCELLED))
    assert await store.delete_batch(f"batch-{number}")


async def test_room_goes_back_to_the_disk_while_work_goes_on(store: SqliteStore, path: Path) -> None:
    await filled(store, 100)
    await fill_and_forget(store, 1)
    async with asyncio.TaskGroup() as group:
        vacuum = group.create_task(store.vacuum())
        await store.accept([a_durable_job(number) for number in range(2000, 2100)])
        freed = await vacuum
    assert freed > 3_000_000
    assert path.stat().st_size < 2_000_000
    assert len(await store.jobs(JobFilter(limit=1000))) == 200
    assert await store.vacuum() < 200_000


async def test_a_store_of_an_older_version_is_rewritten_once(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as connection:
        for number, script in migrations()[:4]:
            connection.executescript(f"{script}\nPRAGMA user_version = {number};")
    connection.close()
    async with opened(path) as store:
        await filled(store, 100)
        for number in (1, 2):
            await fill_and_forget(store, number)
            assert await store.vacuum() > 3_000_000
            assert path.stat().st_size < 2_000_000
    async with opened(path) as store:
        assert len(await store.jobs(JobFilter(limit=1000))) == 100
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA auto_vacuum").fetchone() == (2,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
