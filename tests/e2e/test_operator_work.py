"""Durable work as an operator handles it: supctl and the control door of the whole daemon."""

import asyncio
import csv
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.cli.supctl.program import Ended, Supctl
from tests.e2e.conftest import Start
from tests.fakes.daemon import Daemon

CHAT = "/v1/chat/completions"
BODY = {"model": "stub", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}


class Operator:
    """Runs supctl beside the test."""

    def __init__(self, daemon: Daemon) -> None:
        self._supctl = Supctl(daemon.socket)

    async def __call__(self, *arguments: str | Path) -> Ended:
        return await asyncio.to_thread(self._supctl, *map(str, arguments))

    async def good(self, *arguments: str | Path) -> str:
        ended = await self(*arguments)
        assert ended.status == 0, ended
        return ended.out.strip()


def body(folder: Path, **changes: Any) -> Path:
    path = folder / "body.json"
    path.write_text(json.dumps({**BODY, **changes}))
    return path


def batch(folder: Path, lines: int, **changes: Any) -> Path:
    path = folder / "input.jsonl"
    asked = [
        {"custom_id": f"line-{n}", "method": "POST", "url": CHAT, "body": {**BODY, **changes}} for n in range(lines)
    ]
    path.write_text("".join(json.dumps(each) + "\n" for each in asked))
    return path


def lines_in(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_a_job_is_submitted_waited_for_and_read(start: Start, tmp_path: Path) -> None:
    async with start() as daemon:
        supctl = Operator(daemon)
        answer = json.loads(await supctl.good("submit", body(tmp_path), "--wait"))
        assert answer["object"] == "chat.completion"
        job = await supctl.good("submit", body(tmp_path), "--key", "once", "--meta", "run=7", "--priority", "batch")
        assert await supctl.good("submit", body(tmp_path), "--key", "once", "--meta", "run=7") == job
        assert f"job {job} done" in await supctl.good("job", "wait", job, "--timeout", "60")
        assert json.loads(await supctl.good("job", "result", job))["usage"]["completion_tokens"] == 4
        record = await supctl.good("job", "show", job)
        assert f"job {job}  done" in record
        assert "batch" in record
        told = await daemon.control("GET", f"/v1/jobs/{job}")
        assert (told["metadata"], told["origin"], told["attempts_count"]) == ({"run": "7"}, "job", 1)
        assert (await supctl("job", "cancel", job)).status == 1
        assert (await supctl("job", "wait", "nosuchjob")).status == 6


async def test_what_a_job_may_not_say_is_told_before_it_is_taken(start: Start, tmp_path: Path) -> None:
    async with start() as daemon:
        supctl = Operator(daemon)
        for changed, options, why in (
            ({"stream": True}, (), "leave"),
            ({"model": "another"}, (), "another"),
            ({}, ("--endpoint", "/v1/nothing"), "endpoint"),
            ({}, ("--validate",), "nothing to check the answer against"),
        ):
            ended = await supctl("submit", body(tmp_path, **changed), *options)
            assert ended.status == 1
            assert why in ended.err
        assert await daemon.jobs() == []


async def test_a_job_that_waits_or_runs_is_ended(start: Start, tmp_path: Path) -> None:
    async with start("--tokens", "500", "--token-rate", "20") as daemon:
        supctl = Operator(daemon)
        running = await supctl.good("submit", body(tmp_path, max_tokens=500))
        waiting = await supctl.good("submit", body(tmp_path, max_tokens=500))

        async def begun() -> bool:
            return bool((await daemon.control("GET", f"/v1/jobs/{running}"))["status"] == "running")

        await daemon.until(begun, "the first job to run")
        ended = await supctl("job", "wait", waiting, "--timeout", "0.1")
        assert (ended.status, "is queued still" in ended.err) == (5, True)
        assert await supctl.good("job", "cancel", waiting, running) == f"{waiting} cancelled\n{running} cancelled"
        ended = await supctl("job", "wait", running)
        assert (ended.status, "cancelled by an operator" in ended.out) == (1, True)


async def test_a_batch_goes_from_a_file_to_files(start: Start, tmp_path: Path) -> None:
    async with start(slots=4) as daemon:
        supctl = Operator(daemon)
        asked = batch(tmp_path, 40)
        done = await supctl(
            "batch", "submit", asked, "--wait", "-o", tmp_path / "out.jsonl", "--errors", tmp_path / "bad.jsonl",
            "--meta", "night=1",
        )  # fmt: skip
        assert done.status == 0, done
        assert "40: 40 done" in done.out
        assert "40/40  100 %" in done.err
        answered = lines_in(tmp_path / "out.jsonl")
        assert [each["custom_id"] for each in answered] == [f"line-{n}" for n in range(40)]
        assert (tmp_path / "bad.jsonl").read_bytes() == b""
        listed = json.loads(await supctl.good("batch", "list", "--json"))["batches"]
        assert [(each["status"], each["metadata"]) for each in listed] == [("completed", {"night": "1"})]
        found = listed[0]["id"]
        assert len((await supctl.good("batch", "fetch", found)).splitlines()) == 40
        assert await supctl.good("batch", "delete", found) == f"{found} deleted"
        assert (await supctl("batch", "status", found)).status == 6


async def test_a_batch_with_a_mistake_says_in_which_line(start: Start, tmp_path: Path) -> None:
    async with start() as daemon:
        supctl = Operator(daemon)
        asked = batch(tmp_path, 3)
        asked.write_text(asked.read_text().replace('"line-2"', '"line-1"'))
        done = await supctl("batch", "submit", asked, "--wait")
        assert done.status == 1
        assert "line 3: " in done.out
        assert (await supctl("batch", "submit", body(tmp_path))).err.startswith("supctl: the first line names no")


async def test_a_batch_of_messages_is_read_in_its_own_form(start: Start, http: Any) -> None:
    async with start() as daemon:
        supctl = Operator(daemon)
        asked = {"requests": [{"custom_id": "a", "params": BODY}]}
        async with http.post(f"{daemon.url}/v1/messages/batches", json=asked) as made:
            assert made.status == 200, await made.text()
            found = (await made.json())["id"]
        assert "1: 1 done" in await supctl.good("batch", "status", found, "--wait")
        [line] = (await supctl.good("batch", "fetch", found)).splitlines()
        assert json.loads(line)["result"]["type"] == "succeeded"
        assert "1 job" in await supctl.good("backup", daemon.folder / "copy.sqlite3")
        assert "given back" in await supctl.good("vacuum")


async def test_what_is_no_batch_or_too_long_for_one_is_refused(start: Start) -> None:
    async with start() as daemon:
        for document in ({"x": 1}, {"input_file_id": "file-none", "endpoint": CHAT}):
            told = await daemon.control("POST", "/v1/batches", document)
            assert told["error"]["code"] in {"invalid_request", "not_found"}
        head = b"POST /v1/files HTTP/1.1\r\nhost: x\r\ncontent-length: 300000000\r\n\r\n"
        reader, writer = await asyncio.open_unix_connection(str(daemon.socket))
        writer.write(head)
        assert b" 413 " in await reader.readline(), "it is not read to its end first"
        writer.close()


async def test_waiting_for_a_batch_outlasts_the_daemon(start: Start, tmp_path: Path) -> None:
    """The daemon is killed while somebody waits: the batch goes on when it is back, and so does the wait."""
    async with start("--tokens", "10", "--token-rate", "40") as daemon:
        supctl = Operator(daemon)
        waiting = asyncio.get_running_loop().create_task(
            supctl("batch", "submit", batch(tmp_path, 12, max_tokens=10), "--wait", "-o", tmp_path / "out.jsonl")
        )

        async def some() -> bool:
            found = (await daemon.control("GET", "/v1/batches"))["batches"]
            return bool(found) and found[0]["counts"]["ended"] > 1

        await daemon.until(some, "some lines to end")
        await daemon.kill()
        await daemon.start()
        ended = await waiting
        assert ended.status == 0, ended
        assert "the daemon went away, waiting for it" in ended.err
        assert sorted(each["custom_id"] for each in lines_in(tmp_path / "out.jsonl")) == sorted(
            f"line-{n}" for n in range(12)
        )


async def test_a_queue_that_is_paused_keeps_everything_and_says_so(start: Start, tmp_path: Path) -> None:
    async with start() as daemon:
        supctl = Operator(daemon)
        await supctl.good("submit", body(tmp_path), "--wait")
        assert await supctl.good("queue") == "0 jobs waiting, 0 running"
        assert "no other is begun" in await supctl.good("queue", "pause", "--why", "new disk")
        jobs = [await supctl.good("submit", body(tmp_path), "--priority", "high") for _ in range(3)]
        told = json.loads(await supctl.good("queue", "--json"))
        assert (told["paused"], told["waiting"]) == ("new disk", 3)
        line = told["lines"][0]
        assert (line["model"], line["priority"], line["client"], line["durable"]) == ("stub", "high", "supctl", True)
        assert line["waits_for"] == "new disk"
        assert line["oldest_s"] >= 0
        assert line["left_s"] == pytest.approx(3 / line["per_s"])
        assert "paused: new disk" in await supctl.good("queue")
        assert {job["status"] for job in (await daemon.jobs())[1:]} == {"queued"}
        assert await supctl.good("queue", "resume") == "resumed"
        assert await supctl.good("queue", "resume") == "it was not paused"
        for job in jobs:
            assert (await supctl("job", "wait", job)).status == 0


async def test_who_holds_a_connection_open_is_seen_in_the_queue(start: Start, http: Any) -> None:
    async with start() as daemon:
        await daemon.until_phase("ready")
        await daemon.control("POST", "/v1/queue/pause")
        headers = {"x-client": "editor"}
        asking = asyncio.get_running_loop().create_task(http.post(daemon.url + CHAT, json=BODY, headers=headers))

        async def waits() -> Any:
            return (await daemon.control("GET", "/v1/queue"))["lines"]

        [line] = await daemon.until(waits, "the request to wait")
        assert (line["client"], line["durable"], line["waiting"]) == ("editor", False, 1)
        assert line["waits_for"] == "paused by an operator"
        await daemon.control("POST", "/v1/queue/resume")
        async with await asking as answer:
            assert answer.status == 200


async def test_records_are_exported_in_each_form(start: Start, tmp_path: Path) -> None:
    async with start() as daemon:
        supctl = Operator(daemon)
        await supctl.good("batch", "submit", batch(tmp_path, 3), "--wait")
        await supctl.good("submit", body(tmp_path), "--wait")
        assert "written: 4 jobs" in await supctl.good("export", tmp_path / "jobs.csv")
        await supctl.good("export", tmp_path / "jobs.jsonl")
        with (tmp_path / "jobs.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        whole = lines_in(tmp_path / "jobs.jsonl")
        assert (
            [row["id"] for row in rows]
            == [job["id"] for job in whole]
            == [j["id"] for j in (await daemon.jobs())][::-1]
        )
        assert [row["custom_id"] for row in rows] == ["", "line-2", "line-1", "line-0"]
        assert {row["quantization"] for row in rows} == {whole[0]["attempts"][0]["quantization"]}
        batch_id = whole[1]["batch"]
        assert "written: 3 jobs" in await supctl.good("export", tmp_path / "three.csv", "--batch", batch_id)


async def test_a_backup_is_made_while_it_works_and_serves_as_a_store(start: Start, tmp_path: Path) -> None:
    async with start("--tokens", "200", "--token-rate", "100") as daemon:
        supctl = Operator(daemon)
        done = await supctl.good("submit", body(tmp_path))
        await supctl.good("job", "wait", done)
        going_on = await supctl.good("submit", body(tmp_path, max_tokens=200))
        assert "found whole" in await supctl.good("backup", tmp_path / "copy.sqlite3")
        with closing(sqlite3.connect(tmp_path / "copy.sqlite3")) as copy:
            assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert dict(copy.execute("SELECT id, status FROM jobs"))[going_on] in {"queued", "running"}
        assert (await supctl("backup", tmp_path / "copy.sqlite3")).err.endswith("name another file\n")
        assert list((tmp_path / "state").glob("backup*")) == []
        assert "given back" in await supctl.good("vacuum")

        await daemon.kill()  # and the disk with it
        for lost in (tmp_path / "state").glob("jobs.sqlite3*"):
            lost.unlink()
        (tmp_path / "copy.sqlite3").rename(tmp_path / "state" / "jobs.sqlite3")
        await daemon.start()
        assert json.loads(await supctl.good("job", "result", done))["object"] == "chat.completion"
        assert f"job {going_on} done" in await supctl.good("job", "wait", going_on)


# --- answers that are checked ----------------------------------------------------------------------------------------

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
FORMATTED = {"response_format": {"type": "json_schema", "json_schema": {"name": "it", "schema": SCHEMA}}}


async def test_an_answer_that_does_not_fit_is_asked_for_again_and_then_fails(start: Start, tmp_path: Path) -> None:
    """The stub answers `t0 t1 …`, which is no JSON, and ends by itself after eight of these."""
    async with start("--tokens", "8") as daemon:
        supctl = Operator(daemon)
        asked = body(tmp_path, **FORMATTED, max_tokens=None)
        ended = await supctl("submit", asked, "--validate", "--retries", "1", "--wait")
        assert ended.status == 1
        assert "invalid_output: it is not JSON" in ended.err
        assert json.loads(ended.out)["choices"][0]["message"]["content"].startswith("t0 t1"), "the answer is kept"
        [job] = await daemon.jobs()
        assert (job["status"], job["reason"], job["attempts_count"]) == ("failed", "invalid_output", 2)


async def test_one_that_was_cut_off_at_its_limit_is_told_apart_and_not_asked_for_again(
    start: Start, tmp_path: Path
) -> None:
    async with start() as daemon:
        supctl = Operator(daemon)
        ended = await supctl("submit", body(tmp_path, **FORMATTED, max_tokens=3), "--validate", "--wait")
        assert (ended.status, "output_truncated: it was cut off at its limit of tokens" in ended.err) == (1, True)
        [job] = await daemon.jobs()
        assert (job["reason"], job["attempts_count"]) == ("output_truncated", 1)
        told = " ".join(event["message"] for event in await daemon.events())
        assert "t0 t1" not in told, "an answer is nobody's business but its client's"
