"""Opening: what is damaged, foreign or in use is told with what to do, and never touched. Fault 13 and its kin."""

# ruff: noqa: ASYNC221, ASYNC240 - nothing else runs on the loop while a test prepares its files

import asyncio
import errno
import fcntl
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from supervisord.adapters.store import SqliteStore, readers, schema, statements
from supervisord.core.errors import StateFolderError
from supervisord.ports import DayCounts, JobFilter, Recovery
from tests.fakes.records import a_durable_job, a_footprint, a_job, a_result, an_attempt, job_id

PAGE = 4096


def a_store(path: Path) -> SqliteStore:
    return SqliteStore(path, keep_bodies=True, retention_s=None, now=lambda: 2000.0)


async def fill(path: Path, count: int) -> None:
    store = a_store(path)
    await store.open()
    for number in range(count):
        store.put_job(a_job(number))
        store.put_result(a_result(number))
    await store.close()


async def refusal(path: Path) -> str:
    """The words of the refusal; asserts that opening changed nothing but the lock."""
    before = contents(path)
    with pytest.raises(StateFolderError) as caught:
        await a_store(path).open()
    assert contents(path) == before
    return caught.value.message


def contents(path: Path) -> dict[str, bytes]:
    """What the files of the store hold. Its index of the log (-shm) is scratch space, made anew at each start."""
    files = [file for file in path.parent.iterdir() if file.suffix not in {".lock", ".db-shm"}]
    return {file.name: file.read_bytes() for file in files if file.stat().st_size or file == path}


async def opened(path: Path) -> tuple[Recovery, int]:
    """Open, count the jobs that can be listed, close."""
    store = a_store(path)
    recovery = await store.open()
    found = await store.jobs(JobFilter(limit=1000))
    await store.close()
    return recovery, len(found)


# --- the folder ------------------------------------------------------------------------------------------------------


async def test_a_missing_folder_is_made_and_nobody_else_may_look_into_it(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "jobs.db"
    store = a_store(path)
    recovery = await store.open()
    store.put_job(a_job(1))
    await store.flush()
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert modes == dict.fromkeys(("jobs.db", "jobs.db-wal", "jobs.db-shm", "jobs.db.lock"), 0o600)
    assert recovery == Recovery(notes=(f"{path} was created",))
    await store.close()
    assert {file.name for file in path.parent.iterdir()} == {"jobs.db", "jobs.db.lock"}


async def test_a_file_where_the_folder_should_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("not a folder")
    with pytest.raises(StateFolderError, match=r"state folder .*/state cannot be used \(.*\): make it a folder"):
        await a_store(tmp_path / "state" / "jobs.db").open()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
async def test_a_read_only_file_system_is_told(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=1m", "none", tmp_path], check=True)
    try:
        with pytest.raises(StateFolderError, match=r"Read-only file system\): make it a folder that uid 0 may write"):
            await a_store(tmp_path / "jobs.db").open()
    finally:
        subprocess.run(["umount", tmp_path], check=True)


async def test_what_stands_in_the_way_of_a_new_store_is_told(path: Path) -> None:
    path.with_name("jobs.db.new").mkdir(parents=True)
    with pytest.raises(StateFolderError, match=r"jobs\.db cannot be opened \(Is a directory\)"):
        await a_store(path).open()


async def test_an_open_that_fails_late_gives_the_lock_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    descriptors = [True]
    real = readers.connect

    def connect(file: Path) -> sqlite3.Connection:
        if not descriptors:
            raise sqlite3.OperationalError("unable to open database file")
        descriptors.pop()
        return real(file)

    with monkeypatch.context() as patch:
        patch.setattr(readers, "connect", connect)
        with pytest.raises(StateFolderError, match="unable to open"):
            await a_store(path).open()
    assert (await opened(path))[1] == 0


async def test_a_file_system_without_locks_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(StateFolderError, match=r"cannot be locked \(No locks available\)"):
        await a_store(path).open()


async def test_a_folder_in_place_of_the_file_is_told(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(StateFolderError, match=r"jobs\.db cannot be"):
        await a_store(path).open()


# --- one daemon at a time --------------------------------------------------------------------------------------------


async def test_a_second_daemon_is_told_who_holds_the_store(store: SqliteStore, path: Path) -> None:
    program = (
        "import asyncio, pathlib, sys\n"
        "from supervisord.adapters.store import SqliteStore\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "asyncio.run(SqliteStore(path, keep_bodies=True, retention_s=None, now=lambda: 1.0).open())\n"
    )
    second = await asyncio.create_subprocess_exec(sys.executable, "-c", program, path, stderr=subprocess.PIPE)
    _, errors = await second.communicate()
    assert second.returncode == 1
    assert f"in use by another daemon (pid {os.getpid()}): stop that one" in errors.decode()
    store.put_job(a_job(1))
    await store.flush()


async def test_the_lock_goes_with_its_holder_and_a_failed_open_gives_it_back(path: Path) -> None:
    await fill(path, 1)
    path.write_bytes(b"garbage" * 1000)
    assert "damaged" in await refusal(path)
    assert "damaged" in await refusal(path)
    path.unlink()
    await fill(path, 1)
    assert (await opened(path))[1] == 1


# --- damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0, 1, 50, 100, PAGE - 1, PAGE, 3 * PAGE + 17], ids=lambda kept: f"{kept} bytes left")
async def test_row_13_a_torn_file_is_told_and_left_alone(path: Path, kept: int) -> None:
    await fill(path, 300)
    os.truncate(path, kept)
    words = await refusal(path)
    assert f"the store {path} is damaged" in words
    assert "move jobs.db, jobs.db-wal and jobs.db-shm out of" in words


async def test_row_13_a_corrupt_page_is_told_and_left_alone(path: Path) -> None:
    await fill(path, 300)
    pages = path.stat().st_size // PAGE
    for number in range(pages):
        whole = path.read_bytes()
        with path.open("r+b") as file:
            file.seek(number * PAGE)
            file.write(b"\xa5" * PAGE)
        try:
            words = await refusal(path)
            assert "damaged" in words, number
        finally:
            path.write_bytes(whole)
    assert (await opened(path))[1] == 300


async def test_row_13_a_log_without_its_database_is_told(path: Path) -> None:
    await fill(path, 1)
    path.rename(path.with_name("jobs.db-wal"))
    assert "is missing, but its log" in await refusal(path)
    assert not path.exists()


def a_crashed_store(path: Path, groups: int) -> None:
    """A store whose daemon died with `groups` jobs in its log, one commit each, and a checkpoint before them."""
    program = (
        "import asyncio, os, pathlib, sys\n"
        "from supervisord.adapters.store import SqliteStore\n"
        "from tests.fakes.records import a_job, a_result\n"
        "async def main():\n"
        "    for numbers in (range(100), range(100, 100 + int(sys.argv[2]))):\n"
        "        path = pathlib.Path(sys.argv[1])\n"
        "        store = SqliteStore(path, keep_bodies=True, retention_s=None, now=lambda: 1.0)\n"
        "        await store.open()\n"
        "        for number in numbers:\n"
        "            store.put_job(a_job(number)); store.put_result(a_result(number))\n"
        "            await store.flush()\n"
        "        if numbers.start: os._exit(0)\n"
        "        await store.close()\n"
        "asyncio.run(main())\n"
    )
    subprocess.run([sys.executable, "-c", program, path, str(groups)], check=True, timeout=30)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.7, 0.999, 1.0])
async def test_row_13_a_torn_log_opens_on_the_last_good_state(path: Path, share: float) -> None:
    a_crashed_store(path, 20)
    log = path.with_name("jobs.db-wal")
    size = log.stat().st_size
    assert size > 0
    os.truncate(log, int(size * share))
    recovery, listed = await opened(path)
    assert recovery.jobs_total == listed
    assert recovery.abandoned == 0  # a job and its result were one commit: it is there as a whole or not at all
    assert listed == 120 if share == 1.0 else 100 <= listed < 120
    assert (listed > 100) == (share >= 0.3)


async def test_row_13_a_log_of_garbage_opens_on_the_last_good_state(path: Path) -> None:
    a_crashed_store(path, 5)
    path.with_name("jobs.db-wal").write_bytes(os.urandom(50_000))
    assert (await opened(path))[1] == 100


async def test_a_damaged_store_keeps_its_log_as_it_is(path: Path, tmp_path: Path) -> None:
    """Most pages are in the log too, which heals them; those that are not are told."""
    a_crashed_store(path, 5)
    refused = 0
    for number in range(path.stat().st_size // PAGE):
        copy = tmp_path / str(number) / path.name
        shutil.copytree(path.parent, copy.parent)
        with copy.open("r+b") as file:
            file.seek(number * PAGE)
            file.write(b"\xa5" * PAGE)
        before = contents(copy)
        try:
            listed = (await opened(copy))[1]
        except StateFolderError:
            refused += 1
            assert set(before) == {"jobs.db", "jobs.db-wal"}
            assert contents(copy) == before
        else:
            assert listed == 105
    assert refused > 0


async def test_a_large_store_is_checked_only_as_far_as_time_allows(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await fill(path, 300)
    monkeypatch.setattr(schema, "_CHECK_S", -1.0)
    monkeypatch.setattr(schema, "_STEPS_BETWEEN_LOOKS", 1)
    recovery, listed = await opened(path)
    assert "only what could be read in" in recovery.notes[0]
    assert listed == 300


# --- versions --------------------------------------------------------------------------------------------------------


async def test_a_newer_version_is_refused(path: Path) -> None:
    await fill(path, 1)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    assert "newer version of this program (schema 99; this one knows 5)" in await refusal(path)


async def test_row_13_a_foreign_database_is_refused(path: Path) -> None:
    path.parent.mkdir()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE photos (x)")
    connection.close()
    assert "database of another program" in await refusal(path)


def later_migration(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    known = statements.migrations()
    monkeypatch.setattr(schema, "migrations", lambda: [*known, (len(known) + 1, script)])


async def test_an_older_store_is_brought_up_to_date(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await fill(path, 2)
    later_migration(monkeypatch, "ALTER TABLE jobs ADD COLUMN colour TEXT;")
    assert (await opened(path))[1] == 2
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (6,)
        assert connection.execute("SELECT colour FROM jobs").fetchall() == [(None,), (None,)]
    connection.close()


async def test_a_store_of_the_first_version_gains_footprints(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as connection:
        connection.executescript(f"{statements.migrations()[0][1]}\nPRAGMA user_version = 1;")
        connection.execute(
            "INSERT INTO jobs VALUES ('job-00000001', '/v1/completions', 'm', 1, 0, '', 1000.0, NULL, NULL,"
            " 'done', 1, 'left', 1, 1000.5, 0.5, 1003.0, NULL, '')"
        )
    connection.close()
    store = a_store(path)
    assert (await store.open()).jobs_total == 1
    store.put_footprint(a_footprint("x"))
    await store.close()
    assert (await opened(path))[1] == 1
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (5,)
        assert connection.execute("SELECT vram FROM footprints").fetchall() == [(a_footprint("x").vram,)]
    connection.close()


async def test_attempts_of_an_older_store_are_read_beside_newer_ones(path: Path) -> None:
    """Which of a backend's sizes they ran at was not told in words then."""
    path.parent.mkdir()
    with sqlite3.connect(path) as connection:
        for number, script in statements.migrations()[:3]:
            connection.executescript(f"{script}\nPRAGMA user_version = {number};")
        connection.execute(
            "INSERT INTO jobs VALUES ('job-00000001', '/v1/completions', 'm', 1, 0, '', 1000.0, NULL, NULL,"
            " 'done', 1, 'left', 1, 1000.5, 0.5, 1003.0, NULL, '')"
        )
        connection.execute("INSERT INTO profiles VALUES (1, 'llama.cpp', 1, '2x RTX 3090', 'q', 'Q4', 8, 'h', 'b', 1)")
        connection.execute(
            "INSERT INTO attempts VALUES ('job-00000001', 1, 'left', 1, 1, 1000.5, 0.5, 2.0, NULL, NULL, NULL, NULL,"
            " NULL, 200, 'done', NULL, '', 9)"
        )
    connection.close()
    store = a_store(path)
    await store.open()
    store.put_attempt(an_attempt("job-00000001", 2))
    found = await store.job("job-00000001")
    await store.close()
    assert found is not None
    assert [(each.rung, each.rung_name, each.rung_why) for each in found.attempts] == [
        (1, "", ""), (1, "context x 0.5", "GPU out of memory"),
    ]  # fmt: skip


@pytest.mark.parametrize("version", [1, 2, 3, 4])
async def test_a_store_of_every_released_version_takes_durable_work(path: Path, version: int) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as connection:
        for number, script in statements.migrations()[:version]:
            connection.executescript(f"{script}\nPRAGMA user_version = {number};")
        for number, status, finished_at in ((1, "done", 1003.0), (2, "running", None), (3, "failed", 1004.0)):
            connection.execute(
                "INSERT INTO jobs VALUES (?, '/v1/completions', 'm', 1, 0, 'x', 1000.0, NULL, NULL,"
                " ?, 1, 'left', 1, 1000.5, 0.5, ?, NULL, '')",
                (job_id(number), status, finished_at),
            )
        connection.execute("INSERT INTO job_bodies VALUES (?, 'output', ?)", (job_id(1), b"out"))
    connection.close()
    store = a_store(path)
    recovery = await store.open()
    assert (recovery.abandoned, recovery.requeued, recovery.jobs_total) == (1, 0, 3)
    old = await store.job(job_id(1))
    assert old is not None
    assert old.result is not None
    assert (old.job.terms, old.result.output, old.result.content_type, old.failures) == (None, b"out", "", 0)
    assert await store.counts_since(1003.0) == DayCounts(done=1, failed=2)
    await store.accept([a_durable_job(4)])
    assert [found.job.id for found in await store.jobs(JobFilter(client="x"))] == [job_id(n) for n in (3, 2, 1)]
    assert [found.job.id for found in await store.jobs(JobFilter(status="queued"))] == [job_id(4)]
    await store.close()
    assert (await opened(path))[0].requeued == 0


async def test_a_migration_that_fails_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await fill(path, 2)
    with monkeypatch.context() as patch:
        later_migration(patch, "ALTER TABLE jobs ADD COLUMN colour TEXT; CREATE TABLE jobs (x);")
        with pytest.raises(StateFolderError, match="already exists"):
            await a_store(path).open()
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (5,)
        assert "colour" not in connection.execute("SELECT sql FROM sqlite_master WHERE name = 'jobs'").fetchone()[0]
    connection.close()
    assert (await opened(path))[1] == 2


async def test_a_first_start_that_failed_leaves_no_half_store(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        later_migration(patch, "CREATE TABLE jobs (x);")
        with pytest.raises(StateFolderError):
            await a_store(path).open()
    assert not path.exists()
    assert (await opened(path))[0].notes == (f"{path} was created",)


# --- others that use the file ----------------------------------------------------------------------------------------


async def test_a_locked_database_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await fill(path, 1)
    monkeypatch.setattr(schema, "_BUSY_MS", 50)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StateFolderError, match="locked by another program: let it finish, or end it"):
        await a_store(path).open()
    other.close()
    assert (await opened(path))[1] == 1


async def test_a_file_system_without_a_shared_log_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a network file system, where SQLite stays in its old journal mode; in memory it does the same."""
    await fill(path, 1)
    real = schema.connect

    def in_memory(file: Path, mode: str = "rw") -> sqlite3.Connection:
        copy = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        source = real(file, mode)
        source.backup(copy)
        source.close()
        return copy

    monkeypatch.setattr(schema, "connect", in_memory)
    with pytest.raises(StateFolderError, match="state folder on a local disk"):
        await a_store(path).open()
