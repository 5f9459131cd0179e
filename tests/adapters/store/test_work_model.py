"""Any sequence of durable work, deaths of the daemon included, leaves SQLite and the store in memory with the same."""

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from supervisord.adapters.store import SqliteStore
from supervisord.core.errors import ConflictError
from supervisord.core.job import TERMINAL, FailureReason, JobStatus
from supervisord.core.record import BatchStatus, FileStatus, KeyRecord
from supervisord.core.terms import Flow, Origin, OutputCheck
from supervisord.ports import JobFilter, Page, Store
from tests.fakes.pruning import prune
from tests.fakes.records import a_batch, a_durable_job, a_file, a_job, a_result, an_attempt
from tests.fakes.store import MemoryStore

DURABLE = ("a", "ab", "b")
JOBS = (*DURABLE, "c")  # a client waits for the last one
BATCHES = (1, 2)
NOW = 5000.0

_IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # what is looked for has nothing to do with disks

Act = Callable[[Store], Awaitable[object]]


@dataclass(frozen=True)
class Step:
    """Something done to a store; `crash` and `close`: the daemon ends, and starts again."""

    name: str
    act: Act | None = field(default=None, compare=False)


def of(name: str, act: Callable[..., object], *arguments: st.SearchStrategy[object]) -> st.SearchStrategy[Step]:
    def built(values: tuple[object, ...]) -> Step:
        async def run(store: Store) -> object:
            found = act(store, *values)
            return await found if isinstance(found, Awaitable) else found

        return Step(f"{name}{values!r}", run)

    return st.tuples(*arguments).map(built)


jobs = st.sampled_from(JOBS)
ids = st.sampled_from(DURABLE)
numbers = st.integers(1, 3)
words = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
bodies = st.none() | st.binary(max_size=20)
deadlines = st.none() | st.sampled_from([100.0, 200.0])
clients = st.sampled_from(["x", "y"])
checks = st.none() | st.builds(OutputCheck, words, numbers)
batches = st.sampled_from(BATCHES)
lines = st.integers(1, 9)
statuses = st.sampled_from(sorted(TERMINAL))
reasons = st.sampled_from([FailureReason.DEADLINE_EXCEEDED, FailureReason.CANCELLED])
files = st.sampled_from([1, 2])

durable = st.builds(
    a_durable_job,
    ids,
    client=clients,
    body=bodies,
    origin=st.sampled_from([Origin.JOB, Origin.RESPONSE]),
    deadline_at=deadlines,
    metadata=st.dictionaries(words, words, max_size=2),
    check=checks,
)
in_batch = st.builds(
    lambda job, batch, line, deadline, body: a_durable_job(
        job, origin=Origin.BATCH, batch=f"batch-{batch}", line=line, custom_id=job, deadline_at=deadline, body=body
    ),
    ids, batches, lines, deadlines, bodies,
)  # fmt: skip
results = st.builds(
    lambda job, status, attempts, output, http_status, reason: replace(
        a_result(job, status, attempts=attempts, output=output, reason=reason), http_status=http_status
    ),
    jobs, statuses, st.integers(0, 3), bodies, st.none() | st.sampled_from([200, 500]), st.none() | reasons,
)  # fmt: skip


def key_of(made: str | int) -> KeyRecord:
    """Of a job, or of a batch by its number."""
    job, batch = (made, "") if isinstance(made, str) else ("", f"batch-{made}")
    return KeyRecord("x", "k", "d", job, 1.0, batch)


open_statuses = st.sampled_from([BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS])


steps = st.lists(
    st.one_of(
        of("accept", lambda store, job: store.accept([job]), durable | in_batch),
        of("accept two", lambda store, *two: store.accept(two), durable, in_batch),
        of("accept with key", lambda store, job: store.accept([job], key_of(job.id)), durable),
        of(
            "accept ended",
            lambda store, job, st_, r: store.accept_ended(
                [replace(job, terms=replace(job.terms, line=10))], status=st_, reason=r, detail=""
            ),
            in_batch, st.sampled_from([JobStatus.FAILED, JobStatus.CANCELLED]), reasons,
        ),
        of("start", lambda store, job, number: store.put_attempt_started(job, number, "left", 1), jobs, numbers),
        of("requeue", lambda s, j, n, d, f: s.put_requeued(j, n, d, failures=f), jobs, numbers, words, numbers),
        of("finish", lambda store, result: store.put_result(result), results),
        of("stream", lambda s, j, n, e: s.put_stream(j, n, e), jobs, numbers, st.lists(st.binary(max_size=4))),
        of("delete", lambda store, job: store.delete_job(job), jobs),
        of(
            "end",
            lambda s, b, st_, r: s.end_waiting(f"batch-{b}", status=st_, reason=r, detail=""),
            batches, st.sampled_from([JobStatus.FAILED, JobStatus.CANCELLED]), reasons,
        ),
        of("batch", lambda s, n, status: s.put_batch(a_batch(n, status)), batches, st.sampled_from(BatchStatus)),
        of("batch with key", lambda s, n, status: s.put_batch(a_batch(n, status), key_of(n)), batches, open_statuses),
        of("delete batch", lambda store, number: store.delete_batch(f"batch-{number}"), batches),
        of("part", lambda s, f, n, data: s.put_file_part(f"file-{f}", n, data), files, numbers, st.binary(max_size=4)),
        of("file", lambda s, f, status: s.put_file(a_file(f, status=status)), files, st.sampled_from(FileStatus)),
        of("delete file", lambda store, number: store.delete_file(f"file-{number}"), files),
        of("flush", lambda store: store.flush()),
        st.sampled_from([Step("look"), Step("close"), Step("crash")]),
    ),
    max_size=30,
)  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(steps, st.booleans())
def test_any_sequence_leaves_the_same_work(sequence: list[Step], keep_bodies: bool) -> None:
    with tempfile.TemporaryDirectory(dir=_IN_MEMORY) as folder:
        asyncio.run(compare(sequence, keep_bodies, Path(folder)))


async def compare(sequence: list[Step], keep_bodies: bool, folder: Path) -> None:
    real, model = opening(folder / "0", keep_bodies), MemoryStore(keep_bodies=keep_bodies, now=lambda: NOW)
    for store in (real, model):
        await store.open()
        store.put_job(a_job("c", body=b"in"))
    try:
        for life, step in enumerate(sequence, start=1):
            if step.act is not None:
                assert await outcome(step.act, real) == await outcome(step.act, model), step
            elif step.name == "look":
                assert await everything(real) == await everything(model)
            else:
                real = await next_life(real, folder / str(life), keep_bodies, crash=step.name == "crash")
                await model.close()
                ours, theirs = await real.open(), await model.open()
                assert replace(ours, notes=()) == replace(theirs, notes=())
                await prune(real)  # what is left of uploads: ids of files are never used again, here they are
        assert await everything(real) == await everything(model)
    finally:
        await real.close()


def opening(folder: Path, keep_bodies: bool) -> SqliteStore:
    return SqliteStore(folder / "jobs.db", keep_bodies=keep_bodies, retention_s=None, now=lambda: NOW)


async def next_life(real: SqliteStore, folder: Path, keep_bodies: bool, *, crash: bool) -> SqliteStore:
    """The store as the next daemon finds it: closed, or as it was in the middle of its work."""
    if not crash:
        await real.close()
        return real
    await real.flush()
    shutil.copytree(real._path.parent, folder, ignore=shutil.ignore_patterns("*.lock", "*-shm"))
    await real.close()
    return opening(folder, keep_bodies)


async def outcome(act: Act, store: Store) -> object:
    try:
        return await act(store)
    except ConflictError:
        return ConflictError


async def everything(store: Store) -> list[object]:
    found: list[object] = [await store.job(job) for job in JOBS]
    found += [await store.flows(), await store.known_key("x", "k"), await store.unfinished_batches()]
    for wanted in (
        JobFilter(),
        JobFilter(origin="batch"),
        JobFilter(batch="batch-1", status="queued"),
        JobFilter(client="x", after="b"),
        JobFilter(origin="job", client="y"),
        JobFilter(status="running"),
    ):
        found.append(list(await store.jobs(wanted)))
    for flow in (Flow("qwen", 1, "x"), Flow("qwen", 1, "editor")):
        for after, limit, most in (("", 9, 10**6), ("a", 2, 10**6), ("", 9, 25)):
            found.append(list(await store.waiting(flow, after=after, limit=limit, most_bytes=most)))
    found += [list(await store.overdue(150.0, 9)), list(await store.overdue(250.0, 2))]
    found += [list(await store.stream(job, after=after, limit=3)) for job in JOBS for after in (-1, 2)]
    for number in BATCHES:
        batch = f"batch-{number}"
        found += [await store.batch(batch), await store.batch_counts(batch)]
        found += [list(await store.batch_jobs(batch, after_line=2, limit=9, most_bytes=10**6))]
    for name in ("file-1", "file-2"):
        found += [await store.file(name), await store.file_part(name, 1)]
    found += [list(await store.files(Page(), {"batch"})), list(await store.batches(Page(limit=1), "openai"))]
    found += [await store.counts_since(since) for since in (0.0, 4000.0)]
    return found


def test_the_model_can_tell(tmp_path: Path) -> None:
    """A store that forgets an attempt is found."""

    class Forgetful(SqliteStore):
        def put_requeued(self, job_id: str, number: int, detail: str, *, failures: int = 0) -> None:
            super().put_requeued(job_id, number, detail)

    async def differ() -> bool:
        real = Forgetful(tmp_path / "jobs.db", keep_bodies=True, retention_s=None, now=lambda: NOW)
        model = MemoryStore(now=lambda: NOW)
        for store in (real, model):
            await store.open()
            await store.accept([a_durable_job("a")])
            store.put_attempt_started("a", 1, "left", 1)
            store.put_attempt(an_attempt("a"))
            store.put_requeued("a", 1, "again", failures=1)
        same = await everything(real) == await everything(model)
        await real.close()
        return not same

    assert asyncio.run(differ())
