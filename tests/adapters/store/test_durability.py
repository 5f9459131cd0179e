"""What was acknowledged is there afterwards: after `kill -9`, after a power cut, after a full disk. Faults 3 and 12."""

# ruff: noqa: ASYNC221 - nothing else runs on the loop while a test prepares its disks

import asyncio
import contextlib
import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from supervisord.adapters.store import SqliteStore
from supervisord.core.errors import StateFolderError, StoreFullError
from supervisord.core.job import FailureReason, JobStatus
from supervisord.ports import JobFilter
from tests.fakes.heard import Heard
from tests.fakes.records import a_durable_job, a_job, a_result, an_attempt, an_event, job_id

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")

WRITES_UNTIL_KILLED = """
import asyncio, pathlib, sys
from supervisord.adapters.store import SqliteStore
from tests.fakes.records import a_durable_job, a_job, a_result, an_attempt, job_id

async def main():
    store = SqliteStore(pathlib.Path(sys.argv[1]), keep_bodies=True, retention_s=None, now=lambda: 1.0)
    await store.open()
    number = int(sys.argv[2])
    while True:
        store.put_job(a_job(number, body=b"b" * (number * 37 % 5000)))
        store.put_attempt_started(job_id(number), 1, "left", 3)
        if number % 3 == 0:
            await store.flush()
        store.put_attempt(an_attempt(number))
        store.put_result(a_result(number))
        if number % 2 == 0:
            await store.flush()
            print(number, flush=True)
        number += 1

asyncio.run(main())
"""


async def killed_writer(path: Path, first: int, acknowledgements: int, more_s: float) -> int:
    """Run the writing program, kill it `more_s` after so many acknowledgements; the last number it acknowledged."""
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITES_UNTIL_KILLED, path, str(first), stdout=subprocess.PIPE
    )
    assert program.stdout is not None
    last = first
    async with asyncio.timeout(30):
        for _ in range(acknowledgements):
            last = int(await program.stdout.readline())
        await asyncio.sleep(more_s)  # the moment is meant to be any
        program.kill()
        left, _ = await program.communicate()
    whole_lines = left.decode().split("\n")[:-1]
    return int(whole_lines[-1]) if whole_lines else last


async def test_what_was_flushed_survives_kill_9(tmp_path: Path) -> None:
    async with asyncio.TaskGroup() as group:
        for lane in range(5):
            group.create_task(kill_again_and_again(tmp_path / str(lane) / "jobs.db", random.Random(lane)))


async def kill_again_and_again(path: Path, chance: random.Random) -> None:
    first = 0
    for _ in range(10):
        last = await killed_writer(path, first, chance.randrange(1, 5), chance.random() / 200)
        store = SqliteStore(path, keep_bodies=True, retention_s=None, now=lambda: 1.0)
        recovery = await store.open()
        assert recovery.abandoned <= 3
        for number in range(max(first, last - 20), last + 1):
            found = await store.job(job_id(number))
            assert found is not None, (number, last)
            assert found.result == a_result(number)
            assert found.attempts == (an_attempt(number),)
            assert found.job.body == b"b" * (number * 37 % 5000)
        (newest,) = await store.jobs(JobFilter(limit=1))
        # Nothing that was handed over may be there in part: a job is finished with its attempt, or abandoned.
        assert newest.status in {"done", "abandoned"}
        if newest.status == "abandoned":
            assert newest.result is not None
            assert newest.result.reason is FailureReason.DAEMON_DIED
        await store.close()
        first = int(newest.job.id.removeprefix("job-")) + 1


# --- power cut -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def mounted(image: Path, folder: Path, kind: str = "ext4") -> Iterator[Path]:
    folder.mkdir()
    options = "loop,commit=300" if kind == "ext4" else image.name
    subprocess.run(["mount", "-t", kind, "-o", options, image, folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.root
@needs_root
@pytest.mark.parametrize("how", ["flushed", "accepted", "neither"])
async def test_what_was_flushed_or_accepted_survives_a_power_cut(tmp_path: Path, how: str) -> None:
    """The copy of the image holds what the file system had given to its disk, and nothing of its memory."""
    image, after = tmp_path / "disk", tmp_path / "disk-after"
    subprocess.run(["truncate", "-s", "16M", image], check=True)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    with mounted(image, tmp_path / "before") as folder:
        store = SqliteStore(folder / "state" / "jobs.db", keep_bodies=True, retention_s=None, now=lambda: 1.0)
        await store.open()
        store.put_job(a_job(0))
        await store.flush()
        for number in range(1, 40):  # many groups that nobody waits for, and the flush comes with nothing left to write
            store.put_job(a_job(number, body=b"x" * 1000))
            assert await store.job(job_id(number)) is not None
        if how == "flushed":
            await store.flush()
        elif how == "accepted":
            await store.accept([a_durable_job(40)])
        subprocess.run(["cp", "--sparse=always", image, after], check=True)
        await store.close()
    with mounted(after, tmp_path / "after") as folder:
        store = SqliteStore(folder / "state" / "jobs.db", keep_bodies=True, retention_s=None, now=lambda: 1.0)
        recovery = await store.open()
        await store.close()
    # Without a flush the records are not promised; that they are missing shows that this test can tell.
    assert recovery.jobs_total == {"flushed": 40, "accepted": 41, "neither": 1}[how]


# --- a full disk -----------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@contextlib.asynccontextmanager
async def opened(path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(path, keep_bodies=True, retention_s=None, now=lambda: 1.0)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def fill_up(store: SqliteStore) -> list[int]:
    """Put jobs until one is refused; the numbers of those that were accepted."""
    accepted: list[int] = []
    with pytest.raises(StoreFullError, match=r"the disk below .* is full: free some space"):  # noqa: PT012 - any of them
        for number in range(100_000):
            store.put_job(a_job(number, body=os.urandom(2000)))
            accepted.append(number)
            store.put_attempt_started(job_id(number), 1, "left", 3)
            await store.flush()
    return accepted


async def finish_while_full(store: SqliteStore, accepted: list[int]) -> None:
    """What was accepted goes on, and can still be told to its end."""
    state = store.state()
    assert state.full
    assert "is full" in state.problem
    for number in accepted:
        store.put_attempt(an_attempt(number))
        store.put_result(a_result(number))
    store.put_event(an_event("full"))
    with pytest.raises(StoreFullError):
        await store.flush()
    with pytest.raises(StoreFullError):
        store.put_job(a_job("refused"))
    assert store.state().pending >= 2 * len(accepted) + 1
    assert (store.state().oldest_pending_s or 0) > 0
    assert await store.job(job_id(0)) is not None  # reading goes on


async def all_there(store: SqliteStore, accepted: list[int]) -> None:
    await store.flush()
    for number in accepted:
        found = await store.job(job_id(number))
        assert found is not None
        assert (found.status, found.result, found.attempts) == ("done", a_result(number), (an_attempt(number),))
    assert await store.job("refused") is None
    assert [stored.event.message for stored in await store.events(after=None, limit=9)] == ["full"]
    store.put_job(a_job("taken"))
    await store.flush()


@pytest.mark.root
@needs_root
async def test_a_full_disk_refuses_new_work_and_loses_nothing(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 500_000)
    async with opened(small_disk / "jobs.db") as store:
        accepted = await fill_up(store)
        await finish_while_full(store, accepted)
        async with Heard("takes writes again"):  # by itself
            ballast.unlink()
        await all_there(store, accepted)
    async with opened(small_disk / "jobs.db") as store:
        assert (await store.counts_since(0.0)).done == len(accepted)


async def test_a_full_database_refuses_new_work_and_loses_nothing(path: Path) -> None:
    async with opened(path) as store:
        assert store._parts is not None
        connection = store._parts.writer._connection
        connection.execute("PRAGMA max_page_count = 60")
        accepted = await fill_up(store)
        await finish_while_full(store, accepted)
        async with Heard("takes writes again"):
            connection.execute("PRAGMA max_page_count = 1000000")
        await all_there(store, accepted)


@pytest.mark.root
@needs_root
async def test_a_start_on_a_full_disk_is_told(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    store = SqliteStore(small_disk / "jobs.db", keep_bodies=True, retention_s=None, now=lambda: 1.0)
    with pytest.raises(StateFolderError, match=r"jobs.db is full|No space left"):
        await store.open()
    ballast.unlink()
    async with opened(small_disk / "jobs.db") as store:
        assert store.state().problem == ""


@pytest.mark.root
@needs_root
async def test_closing_on_a_full_disk_leaves_the_log_to_the_next_start(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ballast = small_disk / "ballast"
    async with opened(small_disk / "jobs.db") as store:
        for number in range(50):
            store.put_job(a_job(number, body=os.urandom(4000)))
        await store.flush()
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
    assert "stays, for the next start to take in" in caplog.text
    ballast.unlink()
    async with opened(small_disk / "jobs.db") as store:
        assert len(await store.jobs(JobFilter(limit=100))) == 50


async def test_closing_while_full_says_what_is_lost(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with opened(path) as store:
        assert store._parts is not None
        store._parts.writer._connection.execute("PRAGMA max_page_count = 60")
        await fill_up(store)
        store.put_event(an_event("lost"))
    assert "records could not be written to the store" in caplog.text
    async with opened(path) as store:
        (newest,) = await store.jobs(JobFilter(limit=1, status=JobStatus.ABANDONED))
        assert newest.attempts == ()
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
