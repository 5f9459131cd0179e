"""Batches over a real store: what its limits and slow commits do to them."""

import asyncio
import os
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import msgspec
import pytest

from supervisord.adapters.clock import LoopClock
from supervisord.adapters.store import SqliteStore, base, work
from supervisord.core.errors import StoreFullError, StoreUnavailableError
from supervisord.core.record import BatchCounts, BatchRecord, BatchStatus, JobRecord, KeyRecord
from supervisord.engine.batching import courses as batch_courses
from supervisord.engine.batching.batches import Batches, Wanted
from supervisord.engine.batching.files import UPLOADED
from supervisord.engine.journal import Journal
from supervisord.engine.tasks import Tasks
from tests.engine.test_batches import EMBEDDINGS, checkable, known, line
from tests.fakes.hands import Hands
from tests.fakes.pruning import prune

PATIENCE_S = 20.0


@asynccontextmanager
async def on_disk(
    kind: type[SqliteStore], path: Path, *, max_bytes: int | None = None
) -> AsyncIterator[tuple[SqliteStore, Batches, Hands]]:
    clock, ids = LoopClock(), count(1)
    store = kind(path, keep_bodies=True, retention_s=None, now=clock.wall, max_bytes=max_bytes)
    await store.open()
    hands = Hands(store)
    async with asyncio.TaskGroup() as group:
        made = Batches(
            store,
            hands,  # type: ignore[arg-type]
            Journal(store, clock),
            clock,
            new_id=lambda: f"{next(ids):06}",
            known=known,
            checkable=checkable,
        )
        tasks = Tasks(group)
        await made.open(tasks)
        loop = tasks.loop(made.run(), "batches")
        yield store, made, hands
        loop.cancel()
    await store.close()


async def begin(batches: Batches, *lines: bytes) -> BatchRecord:
    writing = batches.files.begin("me")
    for each in lines:
        await writing.write(each)
    file = await writing.finish("input.jsonl", UPLOADED)
    return (await batches.create(Wanted(file.id, EMBEDDINGS, "24h", {}, "me")))[0]


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not reached():  # noqa: ASYNC110 - the store has no event of ours
            await asyncio.sleep(0)


class Stalling(SqliteStore):
    """Its first commit of jobs is not confirmed in time, and goes on once somebody looks what came of it."""

    given_up = False
    go_on = threading.Event()

    async def accept(self, jobs: Sequence[JobRecord], key: KeyRecord | None = None) -> None:
        longest, base._LONGEST_FLUSH_S = base._LONGEST_FLUSH_S, 30.0 if self.given_up else 0.2
        try:
            await super().accept(jobs, key)
        except StoreUnavailableError:
            self.given_up = True
            raise
        finally:
            base._LONGEST_FLUSH_S = longest

    async def flush(self) -> None:
        self._look()
        await super().flush()

    async def batch_counts(self, batch_id: str) -> BatchCounts:
        found = await super().batch_counts(batch_id)
        self._look()  # too late for what was counted
        return found

    def _look(self) -> None:
        if self.given_up:
            self.go_on.set()


async def test_a_commit_that_takes_too_long_makes_no_line_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_courses, "AGAIN_S", 0.0)
    real, go_on = work._accept, Stalling.go_on

    def slow(connection: sqlite3.Connection, **told: object) -> None:
        real(connection, **told)  # type: ignore[arg-type]
        assert go_on.wait(PATIENCE_S)

    monkeypatch.setattr(work, "_accept", slow)
    async with on_disk(Stalling, tmp_path / "jobs.db") as (store, batches, _):
        batch = await begin(batches, line("a"), line("b"), line("c"))
        course = batches._courses.of(batch.id)
        assert course is not None
        await until(lambda: course.has_jobs)
        assert go_on.is_set()
        found = await store.batch_jobs(batch.id, after_line=0, limit=9, most_bytes=10**6)
        assert [stored.job.terms.custom_id for stored in found if stored.job.terms] == ["a", "b", "c"]


async def test_a_batch_ends_in_a_store_that_takes_nothing_new(tmp_path: Path) -> None:
    async with on_disk(SqliteStore, tmp_path / "jobs.db", max_bytes=1_000_000) as (store, batches, hands):
        batch = await begin(batches, *(line(str(number)) for number in range(4)))

        await until(lambda: len(hands.accepted) == 4)
        first, *rest = hands.accepted
        for job in rest:
            hands.end(job, output=msgspec.json.encode(os.urandom(200_000).hex()), http_status=200)
        await store.flush()
        await prune(store)
        with pytest.raises(StoreFullError):
            await store.put_file_part("file-x", 0, b"x")
        hands.end(first, output=b"{}", http_status=200)

        await until(lambda: batches._courses.of(batch.id) is None)  # and is soon forgotten: nothing else has ended
        told = [event.data["status"] for event in batches._courses._steps._journal.recent if "status" in event.data]
        assert told == [BatchStatus.IN_PROGRESS, BatchStatus.COMPLETED]
