"""One batch, while the daemon and its backends are killed under it: scripts/batch_chaos.

After each death of the daemon its store is copied as the power cut left it, and opened: what is in there has been
committed. Of a line that has its result there the backends must never hear again.
"""

import argparse
import asyncio
import json
import shutil
import signal
import sqlite3
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from time import monotonic
from typing import Any

import openai
import psutil

from tests.fakes.daemon import Daemon, running, stubbed
from tests.fakes.stub import read_log

CHAT = "/v1/chat/completions"
BACKENDS = ("one", "two")
STUB = ("--prefill-seconds", "0.01")
LOOK_S = 0.02
PATIENCE_S = 120.0  # without any line ending


@dataclass(slots=True)
class Tally:
    """What came of it. `committed`: by custom id, when its result was first seen in a store; monotonic seconds."""

    lines: int
    kills: Counter[str] = field(default_factory=Counter)
    committed: dict[str, tuple[float, bytes]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    tries: int = 0  # requests that a backend has heard
    seconds: float = 0.0


async def chaos(folder: Path, *, lines: int, kills: int, seed: int) -> Tally:
    """Run a batch of so many lines to its end, through so many kills."""
    tally, dice, began = Tally(lines), Random(seed), monotonic()
    logs = [folder / f"{name}.requests" for name in BACKENDS]
    backends = {
        name: stubbed(folder, *STUB, "--request-log", str(log), slots=2)
        for name, log in zip(BACKENDS, logs, strict=True)
    }
    daemon = Daemon(folder, {"backends": backends, "models": {"m": {"backends": list(BACKENDS)}}})
    async with running(daemon):
        batch_id = await _begin(daemon, lines)
        # In the middle of its beginning as well; the others by how far it is.
        moments = [0, 0, *sorted(dice.randrange(lines) for _ in range(kills - 2))]
        for number, moment in enumerate(moments):
            if moment:
                await _until_ended(daemon, batch_id, moment)
            else:
                await asyncio.sleep(dice.random() * 0.3)
            await _kill(daemon, tally, dice, folder / f"cut-{number}")
        await _until_ended(daemon, batch_id, lines)
        await _judge(daemon, batch_id, tally)
    judge_requests([request for log in logs for request in read_log(log)], tally)
    tally.seconds = monotonic() - began
    return tally


async def _begin(daemon: Daemon, lines: int) -> str:
    text = "".join(json.dumps(_line(number)) + "\n" for number in range(lines))
    async with _client(daemon) as client:
        file = await client.files.create(file=("in.jsonl", text.encode()), purpose="batch")
        made = await client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
    return made.id


def _line(number: int) -> dict[str, Any]:
    body = {"model": "m", "max_tokens": 2, "messages": [{"role": "user", "content": f"line-{number}"}]}
    return {"custom_id": f"line-{number}", "method": "POST", "url": CHAT, "body": body}


def _client(daemon: Daemon) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=daemon.url + "/v1", api_key="none", max_retries=5)


async def _until_ended(daemon: Daemon, batch_id: str, wanted: int) -> None:
    """Returns once so many lines have ended; raises TimeoutError where nothing moves any more."""
    had, limit = -1, monotonic() + PATIENCE_S
    async with _client(daemon) as client:
        while had < wanted:
            counts = (await client.batches.retrieve(batch_id)).request_counts
            now = 0 if counts is None else counts.completed + counts.failed
            if now > had:
                had, limit = now, monotonic() + PATIENCE_S
            elif monotonic() > limit:
                raise TimeoutError(f"the batch stands still at {had} lines:\n{daemon.log()[-4000:]}")
            await asyncio.sleep(LOOK_S)


async def _kill(daemon: Daemon, tally: Tally, dice: Random, cut: Path) -> None:
    victim = dice.choice(("daemon", *BACKENDS))
    if victim == "daemon":
        await daemon.kill()
        _look_into_store(daemon, tally, cut)
        await daemon.start()
    else:
        pids = [pid for each in (await daemon.status())["backends"] if each["name"] == victim for pid in [each["pid"]]]
        for pid in filter(None, pids):
            with suppress(psutil.NoSuchProcess):
                psutil.Process(pid).send_signal(signal.SIGKILL)
    tally.kills[victim] += 1


def _look_into_store(daemon: Daemon, tally: Tally, cut: Path) -> None:
    """What a copy has that was taken of the files as they were found: the same results as before, and more."""
    state = Path(daemon.configuration["state_dir"])
    cut.mkdir()
    for file in state.glob("jobs.sqlite3*"):
        shutil.copy(file, cut)
    now = monotonic()
    with sqlite3.connect(cut / "jobs.sqlite3") as store:
        if (told := store.execute("PRAGMA integrity_check").fetchone()[0]) != "ok":
            tally.wrong.append(f"the store is not whole after a kill: {told}")
        found = store.execute(
            "SELECT json_extract(terms, '$.custom_id'), result.body FROM jobs "
            "JOIN job_bodies AS result ON result.job_id = jobs.id AND result.part = 'output' "
            "WHERE batch IS NOT NULL AND status = 'done'"
        ).fetchall()
    store.close()
    shutil.rmtree(cut)
    judge_store({name: bytes(body) for name, body in found}, now, tally)


async def _judge(daemon: Daemon, batch_id: str, tally: Tally) -> None:
    async with _client(daemon) as client:
        async with asyncio.timeout(PATIENCE_S):
            while (batch := await client.batches.retrieve(batch_id)).status != "completed":  # noqa: ASYNC110 - another process has no event of ours
                await asyncio.sleep(LOOK_S)
        for file_id, good in ((batch.output_file_id, True), (batch.error_file_id, False)):
            text = (await client.files.content(file_id)).text if file_id else ""
            lines = [json.loads(line) for line in text.splitlines()]
            if good:
                judge_output(lines, tally)
            else:
                tally.wrong += [f"{line['custom_id']} failed: {line['error'] or line['response']}" for line in lines]


# --- judgement -------------------------------------------------------------------------------------------------------


def judge_store(results: Mapping[str, bytes], now: float, tally: Tally) -> None:
    """Results that a store had when it was cut off: those of before, unchanged, and more."""
    for name, (_, body) in tally.committed.items():
        if results.get(name) != body:
            tally.wrong.append(f"the committed result of {name} is another, or gone")
    for name, body in results.items():
        tally.committed.setdefault(name, (now, body))


def judge_requests(requests: Sequence[Mapping[str, Any]], tally: Tally) -> None:
    """What the backends have heard: of no line that was committed before."""
    for request in requests:
        tally.tries += 1
        line = request["prompt"]
        if line in tally.committed and request["received"] > tally.committed[line][0]:
            tally.wrong.append(f"{line} was run again after its result was committed")


def judge_output(lines: Sequence[Mapping[str, Any]], tally: Tally) -> None:
    """The good answers: each line once, with the answer that was committed first."""
    seen = Counter(line["custom_id"] for line in lines)
    tally.wrong += [f"{name} is there {times} times" for name, times in seen.items() if times > 1]
    tally.wrong += [f"line-{n} is missing" for n in range(tally.lines) if f"line-{n}" not in seen]
    for line in lines:
        kept = tally.committed.get(line["custom_id"])
        if kept is not None and line["response"]["body"] != json.loads(kept[1]):
            tally.wrong.append(f"the answer to {line['custom_id']} is not the one that was committed first")


def main(arguments: Sequence[str]) -> int:
    """The exit status: 0, or 1 if something was wrong."""
    parser = argparse.ArgumentParser(prog="scripts/batch_chaos", description=__doc__)
    parser.add_argument("--lines", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=None, help="the same kills again, at the same lines")
    asked = parser.parse_args(arguments)
    seed = Random().randrange(10**6) if asked.seed is None else asked.seed
    with tempfile.TemporaryDirectory() as folder:
        tally = asyncio.run(chaos(Path(folder), lines=asked.lines, kills=asked.kills, seed=seed))
    for told in told_of(tally, seed):
        sys.stdout.write(told + "\n")
    return 1 if tally.wrong else 0


def told_of(tally: Tally, seed: int) -> list[str]:
    """The tally for people."""
    return [
        f"seed       {seed}",
        f"seconds    {tally.seconds:.0f}",
        f"lines      {tally.lines}, {len(tally.committed)} of them seen in stores that were cut off",
        f"kills      {', '.join(f'{times} of {name}' for name, times in sorted(tally.kills.items()))}",
        f"run again  {tally.tries - tally.lines} that were in flight",
        f"wrong      {len(tally.wrong)}",
        *(f"  - {what}" for what in tally.wrong[:20]),
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
