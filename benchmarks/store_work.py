"""What durable work costs in the store, and how that grows with what is stored.

    python -m benchmarks.store_work --stored 1000000 --lines 50000

Only ratios within one run count. The gates: 50 000 lines accepted within 10 s and 100 MB; to submit, claim, end and
list with `--stored` finished jobs takes at most twice as long as in an empty store.
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

from benchmarks.store import EPOCH, Costs, attempt_record, fill, job_record, job_result
from supervisord.adapters.store import SqliteStore
from supervisord.core.record import FILE_PART, BatchRecord, BatchStatus, FileRecord, JobRecord
from supervisord.core.terms import Flow, Origin, Terms
from supervisord.ports import JobFilter

CHUNK = 500  # lines accepted in one commit
DURABLE = 10**15  # numbers of durable jobs begin here


def durable_job(number: int, terms: Terms, body: bytes) -> JobRecord:
    return replace(job_record(DURABLE + number, body), terms=terms, priority=2)


def batch(number: int, status: BatchStatus) -> BatchRecord:
    return BatchRecord(f"batch_{number}", "openai", "/v1/chat/completions", "benchmark", EPOCH, EPOCH + 86400, status)


def resident() -> float:
    """MB of memory of this process."""
    with Path("/proc/self/statm").open() as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


async def timed(name: str, work: Awaitable[object], *, more: Callable[[float], str] = lambda _: "") -> float:
    before, start = resident(), time.perf_counter()
    await work
    seconds = time.perf_counter() - start
    print(f"{name:44}{seconds:9.2f} s {resident() - before:8.1f} MB  {more(seconds)}")
    return seconds


# --- one at a time, in an empty store and in a large one -------------------------------------------------------------


async def one_by_one(store: SqliteStore, numbers: Iterator[int], rounds: int) -> dict[str, float]:
    """Medians in seconds of what happens once for each durable job, and of the lists that ask for them."""
    costs = {name: Costs() for name in ("submit", "claim", "end", "list mine", "list jobs", "counts of a batch")}
    flow, body = Flow("model-0", 2, "benchmark"), b"x" * 1000
    for _ in range(rounds):
        job = replace(durable_job(next(numbers), Terms(Origin.JOB), body), model="model-0")
        await costs["submit"].of_awaited(partial(store.accept, [job]))
        await costs["claim"].of_awaited(partial(claim, store, flow))
        await costs["end"].of_awaited(partial(end, store, job))
        await costs["list mine"].of_awaited(partial(store.jobs, JobFilter(client="benchmark", limit=20)))
        await costs["list jobs"].of_awaited(partial(store.jobs, JobFilter(origin="job", limit=20)))
        await costs["counts of a batch"].of_awaited(partial(store.batch_counts, "batch_none"))
    print(f"\n{'us':28}{'p50':>10} {'p99':>10}")
    for name, cost in costs.items():
        print(f"{name:28}{cost.microseconds()}")
    return {name: statistics.median(cost.times) for name, cost in costs.items()}


async def claim(store: SqliteStore, flow: Flow) -> None:
    (found,) = await store.waiting(flow, after="", limit=8, most_bytes=2**20)
    store.put_attempt_started(found.job.id, 1, "backend-0", 1)


async def end(store: SqliteStore, job: JobRecord) -> None:
    number = int(job.id.removeprefix("job_"))
    store.put_attempt(attempt_record(number))
    store.put_result(job_result(number, b"y" * 1000))
    await store.flush()


# --- many at once ----------------------------------------------------------------------------------------------------


async def accept_lines(store: SqliteStore, first: int, lines: int, body: bytes) -> None:
    for start in range(1, lines + 1, CHUNK):
        await store.accept(
            [
                durable_job(first + line, Terms(Origin.BATCH, batch="batch_1", line=line, custom_id=f"c-{line}"), body)
                for line in range(start, min(start + CHUNK, lines + 1))
            ]
        )


async def answer_lines(store: SqliteStore, first: int, lines: int) -> None:
    for line in range(1, lines + 1):
        job_id = f"job_{DURABLE + first + line:022d}"
        store.put_attempt_started(job_id, 1, "backend-0", 1)
        store.put_result(job_result(DURABLE + first + line, b"y" * 1000))
        if line % CHUNK == 0:
            await store.flush()
    await store.flush()


async def read_lines(store: SqliteStore) -> None:
    after = 0
    while found := await store.batch_jobs("batch_1", after_line=after, limit=200, most_bytes=2**20):
        terms = found[-1].job.terms
        assert terms is not None
        after = terms.line


async def upload(store: SqliteStore, megabytes: int) -> None:
    part = os.urandom(FILE_PART)
    parts = megabytes * 10**6 // FILE_PART
    for number in range(parts):
        await store.put_file_part("file_1", number, part)
    await store.put_file(FileRecord("file_1", "x.jsonl", "batch", parts * FILE_PART, EPOCH))


async def many(store: SqliteStore, lines: int, megabytes: int) -> None:
    print(f"\n{f'{lines} lines of 1 kB, a file of {megabytes} MB':44}{'time':>11} {'memory':>11}")
    await store.put_batch(batch(1, BatchStatus.IN_PROGRESS))
    body = b"x" * 1000
    rate = lambda seconds: f"{lines / seconds:8.0f} lines/s"  # noqa: E731 - a label
    await timed("accept", accept_lines(store, 0, lines, body), more=rate)
    await timed("flows", store.flows())
    await timed("counts", store.batch_counts("batch_1"))
    await timed("answer half of them", answer_lines(store, 0, lines // 2), more=lambda s: rate(2 * s))
    await timed("end the others", store.end_waiting("batch_1", status="cancelled", reason="cancelled", detail=""))
    await timed("read all answers", read_lines(store), more=rate)
    await store.put_batch(batch(1, BatchStatus.CANCELLED))
    await timed("counts of the ended batch", store.batch_counts("batch_1"))
    await timed("upload", upload(store, megabytes), more=lambda s: f"{megabytes / s:8.0f} MB/s")
    with tempfile.TemporaryDirectory(dir=store.state().path.rpartition("/")[0]) as folder:
        size = store.state().size_bytes / 1e6
        await timed("backup", store.backup(f"{folder}/copy"), more=lambda s: f"{size / s:8.0f} MB/s")
    await timed("delete the file", store.delete_file("file_1"))
    await timed("delete the batch", store.delete_batch("batch_1"), more=rate)
    await timed("vacuum", store.vacuum())


async def run(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        store = SqliteStore(Path(folder) / "jobs.db", keep_bodies=False, retention_s=None, now=lambda: EPOCH)
        await store.open()
        numbers = count(10**9)
        await one_by_one(store, numbers, options.rounds // 4)  # warms up
        small = await one_by_one(store, numbers, options.rounds)
        await many(store, options.lines, options.megabytes)
        await timed(f"\nstore {options.stored} finished jobs", fill(store, 0, options.stored))
        await one_by_one(store, numbers, options.rounds // 4)
        large = await one_by_one(store, numbers, options.rounds)
        await many(store, options.lines, options.megabytes)
        await store.close()
        await timed("open", store.open())
        await store.close()
        print(f"\n{f'{options.stored} jobs : empty':28}{'ratio':>10}")
        for name, seconds in large.items():
            print(f"{name:28}{seconds / small[name]:10.2f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stored", type=int, default=1_000_000, help="finished jobs in the large store")
    parser.add_argument("--lines", type=int, default=50_000, help="lines of a batch")
    parser.add_argument("--megabytes", type=int, default=200, help="size of an uploaded file")
    parser.add_argument("--rounds", type=int, default=300, help="times each single thing is done")
    parser.add_argument("--folder", default=None, help="where to put the store; default: the system's temporary folder")
    asyncio.run(run(parser.parse_args()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
