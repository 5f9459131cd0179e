"""What a whole batch costs the daemon: its file, its validation, its jobs, its end, and the reading of its results.

    python -m benchmarks.batch --lines 50000 --bytes 400

Prints for each step the wall seconds and the daemon's processor seconds, then the growth of its memory and how long
others waited meanwhile. The backend answers nothing: what is measured is acceptance, and a cancel of all of it.
"""

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import openai
import psutil
from openai.types import Batch

from tests.fakes.daemon import Daemon, running, stubbed

CHAT = "/v1/chat/completions"
LOOK_S = 0.02
PATIENCE_S = 600.0


class Gauge:
    """Of one daemon. `waits`: seconds that others waited for an answer."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._process = psutil.Process(daemon.pid)
        self.before = self.peak = self._process.memory_info().rss
        self.waits: list[float] = []

    def processor_s(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)

    async def watch(self) -> None:
        """Look at its memory, and ask it for its health, for ever."""
        async with aiohttp.ClientSession() as http:
            while True:
                self.peak = max(self.peak, self._process.memory_info().rss)
                began = time.perf_counter()
                async with http.get(self._daemon.url + "/healthz") as answer:
                    await answer.read()
                self.waits.append(time.perf_counter() - began)
                await asyncio.sleep(LOOK_S / 4)

    @asynccontextmanager
    async def step(self, name: str) -> AsyncIterator[None]:
        began, spent = time.perf_counter(), self.processor_s()
        yield
        print(f"{name:<11}{time.perf_counter() - began:7.2f} s, {self.processor_s() - spent:6.2f} s of processor")


def line_of(number: int, size: int) -> bytes:
    """One of about so many bytes."""
    padding = "x" * max(0, size - 170)
    body = {"model": "stub", "max_tokens": 4, "messages": [{"role": "user", "content": f"line {number} {padding}"}]}
    return json.dumps({"custom_id": f"line-{number}", "method": "POST", "url": CHAT, "body": body}).encode() + b"\n"


async def status(client: openai.AsyncOpenAI, batch_id: str, *, left: str = "", reached: str = "") -> Batch:
    """The batch once it is not in status `left` any more, or in status `reached`."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            batch = await client.batches.retrieve(batch_id)
            if batch.status != left and reached in {"", batch.status}:
                return batch
            await asyncio.sleep(LOOK_S)


async def all_are_jobs(daemon: Daemon, lines: int) -> None:
    """Returns once they are in the queue, or run."""

    async def reached() -> bool:
        queue = await daemon.control("GET", "/v1/queue")
        return bool(queue["waiting"] + queue["in_flight"] >= lines)

    await daemon.until(reached, "all lines to be jobs", within=PATIENCE_S)


async def measure(folder: Path, lines: int, size: int) -> None:
    """One run."""
    daemon = Daemon(folder, {"backends": {"stub": stubbed(folder, "--half-open")}})
    text = b"".join(line_of(number, size) for number in range(lines))
    print(f"{lines} lines, {len(text) / 1e6:.0f} MB")
    async with running(daemon), openai.AsyncOpenAI(base_url=daemon.url + "/v1", api_key="none") as client:
        await daemon.until_phase("ready")
        gauge = Gauge(daemon)
        watching = asyncio.get_running_loop().create_task(gauge.watch())
        async with gauge.step("upload"):
            file = await client.files.create(file=("in.jsonl", text), purpose="batch")
        async with gauge.step("validation"):
            made = await client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
            await status(client, made.id, left="validating")
        async with gauge.step("jobs"):
            await all_are_jobs(daemon, lines)
        async with gauge.step("cancel"):
            await client.batches.cancel(made.id)
            batch = await status(client, made.id, reached="cancelled")
        async with gauge.step("results"):
            await client.files.content(batch.error_file_id or "")
        watching.cancel()
    waits = sorted(gauge.waits)
    half, most = (1e3 * waits[int((len(waits) - 1) * share)] for share in (0.5, 0.99))
    print(f"memory     {gauge.before / 1e6:.0f} MB, and {(gauge.peak - gauge.before) / 1e6:.0f} MB more at its peak")
    print(f"others     {half:.1f} ms median, {most:.1f} ms at 99 %, {1e3 * waits[-1]:.1f} ms at most")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=50_000)
    parser.add_argument("--bytes", type=int, default=400, help="of each line")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(Path(folder), asked.lines, asked.bytes))


if __name__ == "__main__":
    main()
