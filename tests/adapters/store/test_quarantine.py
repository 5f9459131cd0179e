"""A damaged store is moved out of the way; one that is not stays where it is."""

# ruff: noqa: ASYNC240 - nothing else runs on the loop while a test prepares its files

import sqlite3
import stat
from pathlib import Path

import pytest

from supervisord.adapters.store import SqliteStore, quarantine
from supervisord.core.errors import StateFolderError
from tests.fakes.records import a_job, a_result


async def fill(path: Path, jobs: int = 300) -> None:
    store = SqliteStore(path, keep_bodies=True, retention_s=None, now=lambda: 2000.0)
    await store.open()
    for number in range(jobs):
        store.put_job(a_job(number))
        store.put_result(a_result(number))
    await store.close()


def spoil(path: Path, page: int) -> None:
    with path.open("r+b") as file:
        file.seek(page * 4096)
        file.write(b"\xa5" * 4096)


@pytest.mark.parametrize("page", [0, 1, 20])
async def test_row_13_a_damaged_store_is_moved_as_it_is_and_an_empty_one_can_begin(path: Path, page: int) -> None:
    await fill(path)
    spoil(path, page)
    path.with_name("jobs.db-wal").write_bytes(b"log")
    whole = path.read_bytes()
    with pytest.raises(StateFolderError, match="--quarantine"):
        await SqliteStore(path, keep_bodies=True, retention_s=None, now=lambda: 1.0).open()
    folder = quarantine(path, "today")
    assert folder == path.parent / "jobs.db.damaged-today"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert (folder / "jobs.db").read_bytes() == whole
    assert {file.name for file in path.parent.iterdir()} == {"jobs.db.damaged-today", "jobs.db.lock"}
    await fill(path, 1)


async def test_row_13_a_log_without_its_database_is_moved_too(path: Path) -> None:
    await fill(path, 1)
    path.rename(path.with_name("jobs.db-wal"))
    folder = quarantine(path, "today")
    assert [file.name for file in folder.iterdir()] == ["jobs.db-wal"]


async def test_a_file_that_was_cut_off_is_moved(path: Path) -> None:
    await fill(path, 1)
    path.write_bytes(path.read_bytes()[:100])
    assert (quarantine(path, "today") / "jobs.db").stat().st_size == 100


async def test_a_sound_store_is_left_alone(path: Path) -> None:
    await fill(path, 1)
    with pytest.raises(StateFolderError, match="is sound: nothing was moved"):
        quarantine(path, "today")
    await fill(path, 2)


async def test_what_is_no_damaged_store_is_left_alone(path: Path) -> None:
    with pytest.raises(StateFolderError, match="there is no store at"):
        quarantine(path, "today")
    path.parent.mkdir()
    with pytest.raises(StateFolderError, match="there is no store at"):
        quarantine(path, "today")
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE photos (x)")
    connection.close()
    with pytest.raises(StateFolderError, match="of another program"):
        quarantine(path, "today")
    assert path.exists()


async def test_a_store_in_use_is_left_alone(store: SqliteStore, path: Path) -> None:
    with pytest.raises(StateFolderError, match="in use by another daemon"):
        quarantine(path, "today")
    assert path.exists()


async def test_a_place_that_is_taken_is_told(path: Path) -> None:
    await fill(path, 1)
    spoil(path, 0)
    path.with_name("jobs.db.damaged-today").mkdir()
    with pytest.raises(StateFolderError, match=r"could not be moved \(File exists\)"):
        quarantine(path, "today")
    assert path.exists()


async def test_a_file_that_cannot_be_read_now_is_left_alone(path: Path) -> None:
    await fill(path, 1)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA journal_mode = DELETE")
    other.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(StateFolderError, match=r"cannot be read .*nothing was moved"):
            quarantine(path, "today")
    finally:
        other.close()
    assert path.exists()
