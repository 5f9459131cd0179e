"""Copies of a store taken at any moment, without closing it, open and go on; what was accepted is in each of them."""

import asyncio
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from supervisord.adapters.store import SqliteStore
from supervisord.ports import JobFilter
from tests.fakes.records import a_durable_job, a_result, job_id

WORKS = """
import asyncio, pathlib, sys
from supervisord.adapters.store import SqliteStore, schema
from tests.fakes.records import a_batch, a_durable_job, a_file, a_line, a_result, an_attempt, job_id

schema._CHECKPOINT_PAGES = int(sys.argv[2])

async def main():
    store = SqliteStore(pathlib.Path(sys.argv[1]), keep_bodies=False, retention_s=None, now=lambda: 1000.0)
    await store.open()
    number = 0
    while True:
        jobs = [a_durable_job(number + each, body=b"b" * (each * 977 % 9000)) for each in range(1, 4)]
        await store.accept(jobs)
        print("accepted", *range(number + 1, number + 4), flush=True)
        store.put_attempt_started(job_id(number + 1), 1, "left", 1)
        store.put_requeued(job_id(number + 1), 1, "again", failures=1)
        store.put_attempt_started(job_id(number + 1), 2, "left", 1)
        store.put_stream(job_id(number + 1), 0, [b"event"] * 3)
        store.put_attempt(an_attempt(number + 1, 2))
        store.put_result(a_result(number + 1, attempts=2, output=b"o" * (number % 7000)))
        await store.flush()
        print("finished", number + 1, flush=True)
        store.put_attempt_started(job_id(number + 2), 1, "left", 1)
        await store.put_file_part(f"file-{number}", 0, b"p" * 5000)
        if number % 30 == 0:
            print("deleting", number // 2 + 1, flush=True)
            await store.delete_job(job_id(number // 2 + 1))
            await store.delete_file(f"file-{number}")
            print("deleted", number // 2 + 1, flush=True)
        number += 3

asyncio.run(main())
"""


@dataclass
class Told:
    """What the program was told to be safe, by the numbers of the jobs."""

    accepted: set[int] = field(default_factory=set)
    finished: set[int] = field(default_factory=set)
    deleting: set[int] = field(default_factory=set)
    deleted: set[int] = field(default_factory=set)

    def read(self, text: str) -> None:
        for line in text.splitlines():
            what, *numbers = line.split()
            getattr(self, what).update(map(int, numbers))


class Program:
    """Works on a store until it is killed; it can be made to stand still for a copy."""

    def __init__(self, path: Path, checkpoint_pages: int) -> None:
        self._path = path
        command = [sys.executable, "-c", WORKS, path, str(checkpoint_pages)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self._pipe = self._process.stdout.fileno()
        self._rest = os.read(self._pipe, 2**16).decode()  # it works now
        os.set_blocking(self._pipe, False)
        self.told = Told()

    def read(self) -> None:
        try:
            text = self._rest + os.read(self._pipe, 2**20).decode()
        except BlockingIOError:
            return
        whole, _, self._rest = text.rpartition("\n")
        self.told.read(whole)

    @contextmanager
    def standing(self) -> Iterator[None]:
        assert self._process.poll() is None, "the program ended by itself"
        self._process.send_signal(signal.SIGSTOP)
        tasks = Path(f"/proc/{self._process.pid}/task")
        while any(" T " not in (task / "stat").read_text() for task in tasks.iterdir()):
            pass
        self.read()
        yield
        self._process.send_signal(signal.SIGCONT)

    def copy(self, folder: Path) -> Path:
        folder.mkdir()
        for file in self._path.parent.glob(f"{self._path.name}*"):
            if file.suffix != ".lock" and not file.name.endswith("-shm"):
                shutil.copy(file, folder)
        return folder / self._path.name

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextmanager
def working(path: Path, checkpoint_pages: int) -> Iterator[Program]:
    program = Program(path, checkpoint_pages)
    try:
        yield program
    finally:
        program.kill()


async def goes_on(path: Path) -> SqliteStore:
    """Opens a copy, works with it and asks it for its health; it stays open."""
    store = SqliteStore(path, keep_bodies=False, retention_s=None, now=lambda: 2000.0)
    await store.open()
    for stored in await store.jobs(JobFilter(limit=1000)):
        assert (stored.result is None) == (stored.status == "queued")  # nothing runs, nothing is half there
        assert stored.job.terms is not None
        if stored.result is not None:
            assert [attempt.number for attempt in stored.attempts] == [2]
            assert [event for _, event in await store.stream(stored.job.id, after=-1, limit=9)] == [b"event"] * 3
    await store.accept([a_durable_job("zz")])
    store.put_attempt_started("zz", 1, "left", 1)
    store.put_result(a_result("zz", output=b"out"))
    await store.flush()
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    connection.close()
    return store


async def test_every_copy_has_all_that_was_accepted_and_goes_on(path: Path, tmp_path: Path) -> None:
    chance = random.Random(5)
    with working(path, checkpoint_pages=200) as program:  # the log is moved into the file every few steps
        for number in range(15):
            await asyncio.sleep(chance.random() / 10)  # the moment is meant to be any
            with program.standing():
                copy = program.copy(tmp_path / str(number))
            store = await goes_on(copy)
            await has_all(store, program.told)
            await store.close()
            shutil.rmtree(copy.parent)
    assert len(program.told.finished) > 15


async def has_all(store: SqliteStore, told: Told) -> None:
    for job in sorted(told.accepted):
        found = await store.job(job_id(job))
        if found is None:
            assert job in told.deleting, job
            continue
        assert job not in told.deleted, job
        if job in told.finished:
            assert (found.status, found.job.body) == ("done", None), job


async def test_every_copy_with_a_torn_log_goes_on(path: Path, tmp_path: Path) -> None:
    """What a disk makes of a log that nobody had synced yet. What was moved into the file was synced before that, so
    here nothing is moved.
    """
    chance = random.Random(6)
    torn = 0
    with working(path, checkpoint_pages=10**6) as program:
        for number in range(12):
            await asyncio.sleep(chance.random() / 20)
            with program.standing():
                copy = program.copy(tmp_path / str(number))
            log = copy.with_name(f"{copy.name}-wal")
            size = log.stat().st_size
            torn += size > 0
            with log.open("r+b") as file:
                file.truncate(chance.randrange(size + 1))
                if number % 2:
                    file.seek(0, os.SEEK_END)
                    file.write(os.urandom(chance.randrange(20_000)))
            await (await goes_on(copy)).close()
            shutil.rmtree(copy.parent)
    assert torn > 6
