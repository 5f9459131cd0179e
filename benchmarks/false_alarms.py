"""Servers that are slow, on a machine that is crowded: whether one is ever taken for hung.

    python -m benchmarks.false_alarms [--minutes 60] [--nice 10] [--crowd 1] [--vllm]

The whole daemon runs two real llama.cpp engines with the bundled model: `strict`, with half a minute of patience and
none beyond for long prompts, and `plain`, with the times as they are by default. Each gets a small share of one
processor: programs that never rest load all of them, and yield to nobody. Clients ask all the while, more of them than
there are slots, with prompts of up to several thousand tokens; every other one streams. With --vllm, the real vLLM (see
scripts/vllm_env) is a third, and its worker is stopped and continued all the time.

Prints what was asked and what was seen of it. Ends with status 1 when a server was killed for a hang, or a request was
not answered. A spell in which one was suspect is no alarm: it got no new work for so long.
"""

import argparse
import asyncio
import os
import random
import signal
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import aiohttp
import psutil

from tests.fakes.daemon import Daemon, Json, running
from tests.fakes.pace import crowd, give_way, slowed
from tests.fakes.vllm import START_S, real_vllm

LOOK_S = 2.0
LAST_S = 1800.0  # for the answers that are not there yet when the time is over
CONTEXT, SLOTS, CLIENTS = 8192, 2, 3
LENGTHS = (20, 1500, 4000, 6500)  # words of a prompt, most of them one token
VLLM_LENGTHS = (20, 100, 200)  # words of up to four tokens of the tiny vocabulary
STRICT = {"progress": "30s", "first_token": "0s", "busy": "15m"}


@dataclass(frozen=True, slots=True)
class Answer:
    """One request. Seconds; `first_s` is None where no byte came; `problem` is empty where it was answered."""

    backend: str
    words: int
    first_s: float | None
    took_s: float
    problem: str = ""


@dataclass(slots=True)
class Seen:
    """What the journal and /proc told. `suspect`: by backend, when a spell began, and why."""

    alarms: list[str] = field(default_factory=list)
    exits: list[str] = field(default_factory=list)
    spells: list[tuple[str, float, str]] = field(default_factory=list)
    suspect: dict[str, tuple[float, str]] = field(default_factory=dict)
    last_id: int = 0

    def take(self, event: Json) -> None:
        self.last_id = max(self.last_id, int(event["id"]))
        data, name = event["data"], str(event.get("backend"))
        match event["kind"]:
            case "backend.exit":
                self.exits.append(event["message"])
                if data["cause"] == "hang":
                    self.alarms.append(event["message"])
            case "incident" if data["incident_kind"] == "hang":
                self.alarms.append(event["message"])
            case "backend.phase":
                self._take_phase(name, data["phase"], event)

    def _take_phase(self, name: str, phase: str, event: Json) -> None:
        if name in self.suspect:
            began, why = self.suspect.pop(name)
            self.spells.append((name, event["at"] - began, why))
        if phase == "suspect":
            self.suspect[name] = (event["at"], event["message"])


class Asking:
    """The clients of one backend: each asks again as soon as it is answered, until the time is over."""

    def __init__(self, daemon: Daemon, name: str, lengths: Sequence[int], *, until: float, seed: int) -> None:
        self._daemon = daemon
        self._name = name
        self._lengths = lengths
        self._until = until
        self._random = random.Random(f"{seed} {name}")
        self.answers: list[Answer] = []
        self.open = 0

    async def run(self, http: aiohttp.ClientSession, number: int) -> None:
        turn = number
        while monotonic() < self._until:
            turn += 1
            self.open += 1
            self.answers.append(await self._ask(http, stream=turn % 2 == 0))
            self.open -= 1

    async def _ask(self, http: aiohttp.ClientSession, *, stream: bool) -> Answer:
        words = self._random.choice(self._lengths)
        text = " ".join(self._random.choices(("river", "house", "green", "walk", "seven", "light"), k=words))
        asked = {
            "model": self._name, "messages": [{"role": "user", "content": text}], "stream": stream,
            "max_tokens": self._random.randint(16, 48), "ignore_eos": True,
        }  # fmt: skip
        began, first, body = monotonic(), None, b""
        try:
            async with http.post(f"{self._daemon.url}/v1/chat/completions", json=asked) as answer:
                async for block in answer.content.iter_any():
                    first = first or (monotonic() - began if not block.startswith(b":") else None)
                    body += block
                problem = _problem(answer.status, body, stream=stream)
        except (aiohttp.ClientError, TimeoutError) as error:
            problem = repr(error)
        return Answer(self._name, words, first, monotonic() - began, problem)


def _problem(status: int, body: bytes, *, stream: bool) -> str:
    is_whole = status == 200 and b'"error":' not in body and (not stream or b"data: [DONE]" in body)
    return "" if is_whole else f"{status} {body[-300:].decode(errors='replace')}"


# --- the machine -----------------------------------------------------------------------------------------------------


def processors_of(pid: int) -> float:
    """Seconds of CPU time of a tree so far."""
    used = 0.0
    with suppress(psutil.NoSuchProcess):
        leader = psutil.Process(pid)
        for one in (leader, *leader.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                used += sum(one.cpu_times()[:2])
    return used


# --- the run ---------------------------------------------------------------------------------------------------------


def backends(chosen: argparse.Namespace) -> dict[str, Json]:
    last = str((os.cpu_count() or 1) - 1)
    llama: Json = {"model": "embedded", "context": CONTEXT, "slots": SLOTS, "threads": 1, "nice": chosen.nice}
    found = {"strict": {**llama, "cpus": last, "timeouts": STRICT}, "plain": {**llama, "cpus": last}}
    if chosen.vllm:
        there = real_vllm()
        found["vllm"] = {
            "runtime": "vllm", "binary": there.python, "model": there.model, "context": 1024, "slots": 4,
            "dtype": "bfloat16", "enforce_eager": True, "kv_cache_memory": "64MiB", "cpus": "0", "timeouts": STRICT,
        }  # fmt: skip
    return found


async def watch(daemon: Daemon, seen: Seen) -> None:
    """Follows the journal, for ever."""
    while True:
        for event in (await daemon.control("GET", f"/v1/events?limit=1000&after={seen.last_id}"))["events"]:
            seen.take(event)
        await asyncio.sleep(LOOK_S)


async def slow_down(daemon: Daemon, nice: int, slow: ExitStack) -> None:
    """Once all are ready, until `slow` is closed: a start that is as slow proves nothing here."""
    for name in daemon.configuration["backends"]:
        backend = await daemon.until_phase("ready", name, within=START_S)
        if name != "vllm":
            give_way(backend["pid"], nice)
            slow.callback(give_way, backend["pid"], 0)
            continue
        for child in psutil.Process(backend["pid"]).children(recursive=True):
            if child.cmdline()[:1] == ["VLLM::Worker"]:
                slow.enter_context(slowed(child))


async def run(chosen: argparse.Namespace, folder: Path) -> int:
    settings: Json = {"backends": backends(chosen), "queue": {"timeout": "2h"}, "shutdown": {"drain": "1s"}}
    seen = Seen()
    async with running(Daemon(folder, settings)) as daemon:
        with ExitStack() as slow:
            await slow_down(daemon, chosen.nice, slow)
            slow.enter_context(crowd(chosen.crowd))
            until = monotonic() + 60 * chosen.minutes
            asking = [
                Asking(daemon, name, VLLM_LENGTHS if name == "vllm" else LENGTHS, until=until, seed=chosen.seed)
                for name in settings["backends"]
            ]
            await ask_all(daemon, asking, seen, until=until, every_s=chosen.report, over=slow.close)
    return report(asking, seen, final=True)


async def ask_all(
    daemon: Daemon, asking: Sequence[Asking], seen: Seen, *, until: float, every_s: float, over: Callable[[], None]
) -> None:
    """Returns when all is answered, or LAST_S after the time is over, when `over` is called: the rest may be quick."""
    limits = aiohttp.ClientTimeout(total=until - monotonic() + LAST_S)
    async with aiohttp.ClientSession(timeout=limits) as http, asyncio.TaskGroup() as group:
        around = [group.create_task(watch(daemon, seen)), group.create_task(tell(daemon, asking, seen, every_s))]
        clients = [group.create_task(one.run(http, number)) for one in asking for number in range(CLIENTS)]
        await asyncio.sleep(until - monotonic())
        over()
        await asyncio.wait(clients)
        await asyncio.sleep(2 * LOOK_S)  # the journal is read to its end
        for one in around:
            one.cancel()


async def tell(daemon: Daemon, asking: Sequence[Asking], seen: Seen, every_s: float) -> None:
    """How it goes, now and then, and how much of a processor each backend had."""
    pids = {b["name"]: b["pid"] for b in (await daemon.status())["backends"]}
    used, at = {name: processors_of(pid) for name, pid in pids.items()}, monotonic()
    while True:
        await asyncio.sleep(every_s)
        report(asking, seen)
        pids = {b["name"]: b["pid"] for b in (await daemon.status())["backends"] if b["pid"]}
        now = {name: processors_of(pid) for name, pid in pids.items()}
        span, at = monotonic() - at, monotonic()
        shares = (f"{name} {(now[name] - used.get(name, 0.0)) / span:.3f}" for name in now)
        print(f"  processors: {', '.join(shares)}", flush=True)
        used = now


def report(asking: Sequence[Asking], seen: Seen, *, final: bool = False) -> int:
    """Prints the figures so far; the status to end with."""
    unanswered = [answer for one in asking for answer in one.answers if answer.problem]
    for one in asking:
        whole = [answer for answer in one.answers if not answer.problem]
        words = sum(answer.words for answer in whole)
        took = sorted(answer.took_s for answer in whole) or [0.0]
        first = max((answer.first_s or 0.0 for answer in whole), default=0.0)
        print(
            f"{one.answers[0].backend if one.answers else '-':<8}{len(whole):5} answered, {one.open} open, "
            f"{words} words; seconds: median {statistics.median(took):.0f}, longest {took[-1]:.0f}, "
            f"until the first byte {first:.0f}"
        )
    for name, length, why in seen.spells if final else ():
        print(f"  suspect: {name} for {length:.1f} s: {why}")
    longest = max((length for _, length, _ in seen.spells), default=0.0)
    print(f"  suspect spells: {len(seen.spells)}, longest {longest:.1f} s, now: {sorted(seen.suspect)}")
    for what in (*seen.alarms, *seen.exits, *(f"{a.backend}, {a.words} words: {a.problem}" for a in unanswered)):
        print(f"  WRONG: {what}")
    print(f"  false alarms: {len(seen.alarms)}, exits: {len(seen.exits)}, not answered: {len(unanswered)}", flush=True)
    return int(bool(seen.alarms or seen.exits or unanswered))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--nice", type=int, default=10, help="of the llama.cpp engines; 10 is a tenth beside one of 0")
    parser.add_argument("--crowd", type=int, default=1, help="programs that never rest, for each processor")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--vllm", action="store_true")
    parser.add_argument("--report", type=float, default=300.0, metavar="SECONDS", help="between two reports")
    chosen: Any = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the daemon is stopped then too
    with tempfile.TemporaryDirectory(prefix="false-alarms-") as folder:
        return asyncio.run(run(chosen, Path(folder)))


if __name__ == "__main__":
    sys.exit(main())
