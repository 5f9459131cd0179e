"""Batches through the whole daemon, with the official client."""

import asyncio
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types import Batch

from tests.e2e.conftest import Start
from tests.fakes.daemon import PATIENCE_S, Daemon, running, stubbed
from tests.fakes.small_disk import needs_mounts, small_disk
from tests.fakes.stub import read_log

CHAT = "/v1/chat/completions"
ENDED = {"completed", "failed", "expired", "cancelled"}

Json = dict[str, Any]


def chat(custom_id: str, **body: object) -> Json:
    message = {"role": "user", "content": f"this is {custom_id}"}
    asked = {"model": "stub", "messages": [message], "max_tokens": 4, **body}
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": asked}


def lines_of(*lines: Json) -> bytes:
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def client_of(daemon: Daemon) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=daemon.url + "/v1", api_key="none", max_retries=0)


async def begin(client: openai.AsyncOpenAI, *lines: Json, window: str = "24h") -> Batch:
    file = await client.files.create(file=("in.jsonl", lines_of(*lines)), purpose="batch")
    return await client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window=window)  # type: ignore[arg-type]


async def ended(client: openai.AsyncOpenAI, batch_id: str, within: float = PATIENCE_S) -> Batch:
    async with asyncio.timeout(within):
        while (batch := await client.batches.retrieve(batch_id)).status not in ENDED:  # noqa: ASYNC110 - as `Daemon.until`
            await asyncio.sleep(0.05)
    return batch


async def read(client: openai.AsyncOpenAI, file_id: str | None) -> list[Json]:
    if file_id is None:
        return []
    return [json.loads(line) for line in (await client.files.content(file_id)).text.splitlines()]


async def test_a_batch_from_its_file_to_its_answers(start: Start) -> None:
    async with start() as daemon, client_of(daemon) as client:
        lines = [chat("one"), chat("two", n=0), chat("three")]
        wrong = await ended(client, (await begin(client, *lines)).id)
        assert wrong.errors is not None
        assert [(e.line, e.param) for e in wrong.errors.data or []] == [(2, "body.n")]

        batch = await ended(client, (await begin(client, lines[0], lines[2])).id)
        assert batch.status == "completed"
        assert batch.request_counts is not None
        assert batch.request_counts.to_dict() == {"total": 2, "completed": 2, "failed": 0}
        one, three = await read(client, batch.output_file_id)
        assert [one["custom_id"], three["custom_id"]] == ["one", "three"]
        assert one["response"]["status_code"] == 200
        assert one["response"]["body"]["object"] == "chat.completion"
        assert batch.error_file_id is None
        jobs = [job for job in await daemon.jobs() if job["endpoint"] == CHAT]
        assert {job["id"] for job in jobs} == {one["response"]["request_id"], three["response"]["request_id"]}
        assert {job["priority"] for job in jobs} == {"batch"}
        told = [event["message"] for event in await daemon.events("batch")]
        assert any("2 of 2 lines succeeded" in words for words in told)


async def test_row_32_a_window_that_is_over_leaves_what_was_done(start: Start) -> None:
    async with start("--prefill-seconds", "1.2") as daemon, client_of(daemon) as client:
        await daemon.until_phase("ready")
        batch = await ended(client, (await begin(client, *(chat(str(n)) for n in range(9)), window="3s")).id)
        assert batch.status == "expired"
        good, bad = await read(client, batch.output_file_id), await read(client, batch.error_file_id)
        assert 1 <= len(good) < 9
        assert sorted(line["custom_id"] for line in good + bad) == [str(n) for n in range(9)]
        assert {line["error"]["code"] for line in bad} == {"batch_expired"}


async def test_cancel_ends_what_waits_and_what_runs(start: Start) -> None:
    async with start("--half-open") as daemon, client_of(daemon) as client:
        made = await begin(client, *(chat(str(n)) for n in range(3)))

        async def runs() -> bool:
            return any(job["status"] == "running" for job in await daemon.jobs())

        await daemon.until(runs, "a line to run")
        assert (await client.batches.cancel(made.id)).status == "cancelling"
        batch = await ended(client, made.id)
        assert batch.status == "cancelled"
        bad = await read(client, batch.error_file_id)
        assert [line["error"]["code"] for line in bad] == ["batch_cancelled"] * 3
        assert (await daemon.backend())["in_flight"] == 0


def answered(total: int, good: list[Json], bad: list[Json]) -> bool:
    """Whether each line c0, c1 … is there once."""
    return sorted(line["custom_id"] for line in good + bad) == sorted(f"c{n}" for n in range(total))


async def progress(
    daemon: Daemon, client: openai.AsyncOpenAI, batch_id: str, wanted: int, within: float = PATIENCE_S
) -> None:
    """Returns once so many lines are answered."""

    async def reached() -> bool:
        counts = (await client.batches.retrieve(batch_id)).request_counts
        return counts is not None and counts.completed >= wanted

    await daemon.until(reached, f"{wanted} lines to be done", within)


async def test_row_3_a_batch_goes_on_where_a_killed_daemon_left_it(tmp_path: Path) -> None:
    """Nothing that was done is done again."""
    log, total = tmp_path / "requests.jsonl", 40
    backends = {"stub": stubbed(tmp_path, "--prefill-seconds", "0.05", "--request-log", str(log))}
    daemon = Daemon(tmp_path, {"backends": backends})
    async with running(daemon):
        async with client_of(daemon) as client:
            made = await begin(client, *(chat(f"c{n}") for n in range(total)))
            await progress(daemon, client, made.id, 10)
        await daemon.kill()
        await daemon.start()
        async with client_of(daemon) as client:
            batch = await ended(client, made.id)
            assert batch.status == "completed"
            good = await read(client, batch.output_file_id)
            assert [line["custom_id"] for line in good] == [f"c{n}" for n in range(total)]
    served = Counter(request["prompt"] for request in read_log(log))
    assert set(served) == {f"this is c{n}" for n in range(total)}
    assert sum(served.values()) <= total + 1, "only what was in flight at the kill is run again"


async def test_row_13_a_batch_goes_on_from_a_torn_log_of_the_store(tmp_path: Path) -> None:
    """What the log had last is gone with its end, and is done again: each line is answered once."""
    total = 60
    backends = {"stub": stubbed(tmp_path, "--prefill-seconds", "0.02")}
    daemon = Daemon(tmp_path, {"backends": backends})
    async with running(daemon):
        async with client_of(daemon) as client:
            made = await begin(client, *(chat(f"c{n}") for n in range(total)))
            await progress(daemon, client, made.id, 20)
        await daemon.kill()
        log = tmp_path / "state" / "jobs.sqlite3-wal"
        os.truncate(log, log.stat().st_size - 10_000)
        await daemon.start()
        async with client_of(daemon) as client:
            batch = await ended(client, made.id)
            assert batch.status == "completed"
            assert answered(total, await read(client, batch.output_file_id), [])


@pytest.mark.root
@needs_mounts
async def test_row_12_a_batch_waits_for_room_on_a_full_disk(tmp_path: Path) -> None:
    """New files and batches are refused; of the one that was accepted no line is lost."""
    total = 60
    backends = {"stub": stubbed(tmp_path, "--prefill-seconds", "0.05")}
    with small_disk(tmp_path / "small", "8m") as disk:
        daemon = Daemon(tmp_path, {"backends": backends, "state_dir": str(disk.folder / "state")})
        async with running(daemon), client_of(daemon) as client:
            made = await begin(client, *(chat(f"c{n}") for n in range(total)))
            await progress(daemon, client, made.id, 5)
            disk.fill()

            async def refused() -> bool:
                try:
                    await begin(client, chat("late"))
                except openai.InternalServerError as error:
                    return error.status_code == 507
                return False

            await daemon.until(refused, "new batches to be refused")
            disk.free()
            batch = await ended(client, made.id)
            assert batch.status == "completed"
            assert answered(total, await read(client, batch.output_file_id), [])


async def test_row_32_a_batch_larger_than_the_backlog_waits_for_room(start: Start) -> None:
    """Its lines are taken as others end; the batch itself was accepted, and none of it is refused."""
    top = {"queue": {"backlog": 600}}
    async with start(top=top, slots=4) as daemon, client_of(daemon) as client:
        first = await begin(client, *(chat(f"c{n}") for n in range(550)))
        second = await begin(client, *(chat(f"c{n}") for n in range(550)))
        for made in (first, second):
            batch = await ended(client, made.id)
            assert batch.status == "completed"
            assert answered(550, await read(client, batch.output_file_id), [])


async def test_row_33_a_line_that_is_poison_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    flags = ("--abort-on", "this is c3")
    backends = {name: stubbed(tmp_path, *flags, restart={"max_failures": 20}) for name in ("a", "b")}
    top = {"backends": backends, "models": {"stub": {"backends": ["a", "b"]}}}
    async with running(Daemon(tmp_path, top)) as daemon, client_of(daemon) as client:
        for name in backends:
            await daemon.until_phase("ready", name)
        batch = await ended(client, (await begin(client, *(chat(f"c{n}") for n in range(8)))).id)
        assert batch.status == "completed"
        good, bad = await read(client, batch.output_file_id), await read(client, batch.error_file_id)
        assert answered(8, good, bad)
        assert [(line["custom_id"], line["error"]["code"]) for line in bad] == [("c3", "poison")]
