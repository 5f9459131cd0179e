"""What the store costs: per record on the caller's thread, per job on the writer's, and per query as it grows.

    python -m benchmarks.store --jobs 20000 --stored 1000000

Only ratios within one run count. The gates: put_* at most 5 us, the writer at most 40 us of CPU a job, durable jobs at
least 2 000 a second, and submit, look and list with `--stored` finished jobs within 2 x of an empty store.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from supervisord.adapters.store import SqliteStore
from supervisord.core.job import JobStatus
from supervisord.core.record import AttemptRecord, Identity, JobRecord, JobResult, Usage
from supervisord.ports import JobFilter

BURST = 2000  # jobs put without a pause: below the number of records that may wait
SMALL = 2000  # finished jobs in the store that the large one is compared with: enough for a page of each query
EPOCH = 1_700_000_000.0


def job_record(number: int, body: bytes | None) -> JobRecord:
    return JobRecord(
        id=f"job_{number:022d}",
        endpoint="/v1/chat/completions",
        model=f"model-{number % 3}",
        priority=1,
        stream=False,
        client="benchmark",
        submitted_at=EPOCH + number / 100,
        max_tokens=256,
        temperature=0.7,
        body=body,
    )


def attempt_record(number: int) -> AttemptRecord:
    return AttemptRecord(
        job_id=f"job_{number:022d}",
        number=1,
        backend=f"backend-{number % 3}",
        generation=1,
        runtime="llama.cpp",
        rung=0,
        hardware="1x RTX 4090 24 GiB",
        identity=Identity("model-a", "Q4_K_M", 8192, "0123456789abcdef", "b6000", 1),
        started_at=EPOCH + number / 100,
        queue_wait_s=0.01,
        duration_s=1.5,
        ttft_s=0.2,
        usage=Usage(100, 0, 200, 80.0),
        http_status=200,
        status=JobStatus.DONE,
        bytes_out=1200,
    )


def job_result(number: int, output: bytes | None) -> JobResult:
    return JobResult(
        job_id=f"job_{number:022d}",
        status=JobStatus.FAILED if number % 20 == 0 else JobStatus.DONE,
        finished_at=EPOCH + number / 100 + 2,
        queue_wait_s=0.01,
        attempts=1,
        backend=f"backend-{number % 3}",
        output=output,
    )


class Costs:
    """Times of one kind of call, in seconds."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def of(self, call: Callable[[], None]) -> None:
        start = time.perf_counter()
        call()
        self.times.append(time.perf_counter() - start)

    async def of_awaited(self, call: Callable[[], Awaitable[object]]) -> None:
        start = time.perf_counter()
        await call()
        self.times.append(time.perf_counter() - start)

    def microseconds(self) -> str:
        ordered = sorted(self.times)
        return f"{statistics.median(ordered) * 1e6:10.1f} {ordered[int(len(ordered) * 0.99)] * 1e6:10.1f}"


def writer_cpu() -> float:
    """Seconds of CPU the writer's thread has used."""
    for thread in threading.enumerate():
        if thread.name == "store-writer" and thread.ident is not None:
            return time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
    return 0.0


async def fill(store: SqliteStore, first: int, count: int) -> None:
    for number in range(first, first + count):
        store.put_job(job_record(number, None))
        store.put_attempt_started(f"job_{number:022d}", 1, "backend-0", 1)
        store.put_attempt(attempt_record(number))
        store.put_result(job_result(number, None))
        if number % 2000 == 0:
            await store.flush()
    await store.flush()


async def puts(store: SqliteStore, first: int, count: int, body: bytes | None) -> None:
    costs = {name: Costs() for name in ("put_job", "put_attempt_started", "put_attempt", "put_result")}
    cpu, start = writer_cpu(), time.perf_counter()
    for number in range(first, first + count):
        job, attempt, result = job_record(number, body), attempt_record(number), job_result(number, body)
        costs["put_job"].of(partial(store.put_job, job))
        costs["put_attempt_started"].of(partial(store.put_attempt_started, job.id, 1, "backend-0", 1))
        costs["put_attempt"].of(partial(store.put_attempt, attempt))
        costs["put_result"].of(partial(store.put_result, result))
        if number % BURST == 0:
            await store.counts_since(EPOCH * 2)  # a query waits for what was handed over before it
    await store.flush()
    wall, cpu = time.perf_counter() - start, writer_cpu() - cpu
    print(f"\n{'on the caller, us':28}{'p50':>10} {'p99':>10}")
    for name, cost in costs.items():
        print(f"{name:28}{cost.microseconds()}")
    print(f"{'writer, us of CPU a job':28}{cpu / count * 1e6:10.1f}")
    print(f"{'jobs/s (4 records each)':28}{count / wall:10.0f}")


async def apart(store: SqliteStore, first: int, count: int) -> None:
    """The same records of jobs that last longer than a group: nothing can be folded."""
    cpu = writer_cpu()
    for start in range(first, first + count, BURST):
        numbers = range(start, start + BURST)
        for number in numbers:
            store.put_job(job_record(number, None))
        await store.counts_since(EPOCH * 2)
        for number in numbers:
            store.put_attempt_started(f"job_{number:022d}", 1, "backend-0", 1)
        await store.counts_since(EPOCH * 2)
        for number in numbers:
            store.put_attempt(attempt_record(number))
            store.put_result(job_result(number, None))
        await store.counts_since(EPOCH * 2)
    print(f"{'the same, never folded':28}{(writer_cpu() - cpu) / count * 1e6:10.1f}")


async def durable(store: SqliteStore, first: int, count: int, callers: int) -> None:
    """Every job flushed before the next of its caller, as one that is answered 202."""
    numbers = iter(range(first, first + count))
    cost = Costs()

    async def one_by_one() -> None:
        for number in numbers:
            store.put_job(job_record(number, None))
            await cost.of_awaited(store.flush)

    start = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(one_by_one())
    wall = time.perf_counter() - start
    for number in range(first, first + count):
        store.put_result(job_result(number, None))
    await store.flush()
    print(f"\n{f'durable, {callers} callers, us':28}{cost.microseconds()}  {count / wall:10.0f} jobs/s")


async def queries(store: SqliteStore, stored: int, first: int, rounds: int) -> dict[str, float]:
    one = f"job_{stored // 2:022d}"
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "job by id": lambda: store.job(one),
        "newest 50": lambda: store.jobs(JobFilter()),
        "newest 50 failed": lambda: store.jobs(JobFilter(status="failed")),
        "50 of a model": lambda: store.jobs(JobFilter(model="model-1")),
        "50 of no model": lambda: store.jobs(JobFilter(model="none")),
        "50 of a backend": lambda: store.jobs(JobFilter(backend="backend-1")),
        "since ten seconds": lambda: store.jobs(JobFilter(since=EPOCH + stored / 100 - 10)),
        "a page in the middle": lambda: store.jobs(JobFilter(after=one)),
        "counts of ten seconds": lambda: store.counts_since(EPOCH + stored / 100 - 10),
    }
    found = {}
    print(f"\n{f'queries at {stored} jobs, us':28}{'p50':>10} {'p99':>10}")
    for name, call in calls.items():
        cost = Costs()
        for _ in range(rounds):
            await cost.of_awaited(call)
        found[name] = statistics.median(cost.times)
        print(f"{name:28}{cost.microseconds()}")
    submit = Costs()
    for number in range(first, first + rounds):
        store.put_job(job_record(number, None))
        await submit.of_awaited(store.flush)
        store.put_result(job_result(number, None))
    found["submit, durable"] = statistics.median(submit.times)
    print(f"{'submit, durable':28}{submit.microseconds()}")
    return found


async def run(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "jobs.db"
        body = b"x" * options.body if options.body else None
        store = SqliteStore(path, keep_bodies=True, retention_s=None, now=lambda: EPOCH)
        await store.open()
        await fill(store, 0, SMALL)
        small = await queries(store, SMALL, 10**12, options.rounds)
        await puts(store, 2 * 10**12, options.jobs, body)
        await apart(store, 4 * 10**12, options.jobs)
        await durable(store, 3 * 10**12, min(options.jobs, 4000), options.callers)
        await store.close()
        path.unlink()
        await store.open()
        start = time.perf_counter()
        await fill(store, 0, options.stored)
        print(f"\nstored {options.stored} jobs in {time.perf_counter() - start:.1f} s, {path.stat().st_size >> 20} MiB")
        large = await queries(store, options.stored, 10**12, options.rounds)
        await puts(store, 2 * 10**12, options.jobs, body)
        await apart(store, 4 * 10**12, options.jobs)
        start = time.perf_counter()
        await store.close()
        await store.open()
        print(f"\nclosed and opened again in {time.perf_counter() - start:.2f} s")
        await store.close()
        print(f"\n{f'{options.stored} : {SMALL} jobs':28}{'ratio':>10}")
        for name, seconds in large.items():
            print(f"{name:28}{seconds / small[name]:10.2f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=20_000, help="jobs put in the write benchmark")
    parser.add_argument("--stored", type=int, default=1_000_000, help="finished jobs in the large store")
    parser.add_argument("--body", type=int, default=0, help="bytes of each request and each output; 0: none")
    parser.add_argument("--callers", type=int, default=32, help="callers that wait for a flush at the same time")
    parser.add_argument("--rounds", type=int, default=300, help="times each query is asked")
    parser.add_argument("--folder", default=None, help="where to put the store; default: the system's temporary folder")
    asyncio.run(run(parser.parse_args()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
