"""Faults in the middle of an answer, and before its first byte."""

import json
import os
import signal
from pathlib import Path

import aiohttp
import openai
import pytest

from tests.e2e.conftest import Start
from tests.fakes.daemon import Daemon

CHAT = "/v1/chat/completions"


def chat(**more: object) -> dict[str, object]:
    return {"model": "stub", "messages": [{"role": "user", "content": "hello"}], **more}


def events_of(body: bytes) -> list[str]:
    return [line[6:] for line in body.decode().splitlines() if line.startswith("data: ")]


async def last_job(daemon: Daemon) -> dict[str, object]:
    newest = (await daemon.jobs())[-1]
    return await daemon.control("GET", f"/v1/jobs/{newest['id']}")


async def hit(daemon: Daemon) -> tuple[list[str], int, int]:
    """Of the one incident: which jobs were in flight, how many of all were tried again, and how many were lost."""
    (incident,) = (await daemon.control("GET", "/v1/incidents"))["incidents"]
    return incident["in_flight"], incident["jobs_retried"], incident["jobs_failed"]


async def test_row_1_backend_killed_in_mid_stream(start: Start, http: aiohttp.ClientSession, tmp_path: Path) -> None:
    """The client gets an in-band error and no [DONE]; the record is failed, and keeps the partial answer."""
    flags = ("--die-mid-stream", "1", "--tokens", "10", "--once-file", str(tmp_path / "struck"))
    async with start(*flags, top={"store": {"prompts": "full"}}) as daemon:
        await daemon.until_phase("ready")
        async with http.post(daemon.url + CHAT, json=chat(stream=True)) as answer:
            assert answer.status == 200
            body = await answer.read()
            job_id = answer.headers["x-job-id"]
        events = events_of(body)
        assert "[DONE]" not in events
        error = json.loads(events[-1])["error"]
        assert error["type"] == "backend_error"
        assert error["code"] == "backend_died"
        assert len(events) > 2, "what was computed before reached the client"

        job = await daemon.control("GET", f"/v1/jobs/{job_id}")
        assert (job["status"], job["reason"], job["attempts_count"]) == ("failed", "backend_died", 1)
        assert job["attempts"][0]["bytes_out"] > 0
        output = await daemon.control("GET", f"/v1/jobs/{job_id}/output")
        assert output["output"].encode() == b"".join(f"data: {event}\n\n".encode() for event in events[:-1])

        async with http.post(daemon.url + CHAT, json=chat()) as answer:
            assert answer.status == 200, "the next request is served by the restarted backend"
        backend = await daemon.backend()
        assert (backend["generation"], backend["restarts"]) == (2, 1)
        assert backend["note"] == "generation 2; the one before: killed from outside by signal 9 (SIGKILL)"
        assert await hit(daemon) == ([job_id], 0, 1)


async def test_row_1_the_official_client_raises(start: Start, tmp_path: Path) -> None:
    async with start("--die-mid-stream", "1", "--once-file", str(tmp_path / "struck")) as daemon:
        client = openai.AsyncOpenAI(base_url=daemon.url + "/v1", api_key="none", max_retries=0)
        stream = await client.chat.completions.create(
            model="stub", messages=[{"role": "user", "content": "hello"}], stream=True
        )
        with pytest.raises(openai.APIError, match="cut off"):
            async for _ in stream:
                pass
        await client.close()


@pytest.mark.parametrize("stream", [False, True])
async def test_row_2_backend_killed_before_the_first_byte(
    start: Start, http: aiohttp.ClientSession, tmp_path: Path, stream: bool
) -> None:
    """The client sees a good answer and nothing else; the record shows two attempts."""
    async with start("--die-before-first-byte", "1", "--once-file", str(tmp_path / "struck")) as daemon:
        await daemon.until_phase("ready")
        async with http.post(daemon.url + CHAT, json=chat(stream=stream)) as answer:
            assert answer.status == 200
            body = await answer.read()
        assert b"[DONE]" in body if stream else json.loads(body)["choices"]
        job = await last_job(daemon)
        assert (job["status"], job["attempts_count"]) == ("done", 2)
        first, second = job["attempts"]
        assert (first["reason"], first["generation"]) == ("backend_died", 1)
        assert (second["status"], second["generation"]) == ("done", 2)
        assert [e["kind"] for e in await daemon.events("job.retry")] == ["job.retry"]
        assert await hit(daemon) == ([job["id"]], 1, 0)


async def test_a_backend_killed_twice_before_the_first_byte_is_told(start: Start, http: aiohttp.ClientSession) -> None:
    """One retry, not more; the client gets an error that names the backend as its origin."""
    async with start("--die-before-first-byte", "1") as daemon:
        await daemon.until_phase("ready")
        async with http.post(daemon.url + CHAT, json=chat()) as answer:
            error = (await answer.json())["error"]
            assert (answer.status, error["type"], error["code"]) == (502, "backend_error", "backend_died")
            assert answer.headers["x-should-retry"] == "false"
        assert (await last_job(daemon))["attempts_count"] == 2


async def test_row_5_a_stopped_backend_is_noticed_and_replaced(start: Start, http: aiohttp.ClientSession) -> None:
    """SIGSTOP: no longer ready within one probe; killed at the deadline with CONT; a new one serves."""
    async with start(timeouts={"probe": "300ms", "probe_hang": "2s"}) as daemon:
        backend = await daemon.until_phase("ready")
        os.kill(backend["pid"], signal.SIGSTOP)
        await daemon.until_phase("suspect", within=2.0)
        async with http.post(daemon.url + CHAT, json=chat()) as answer:
            assert answer.status == 200
            assert (await daemon.backend())["generation"] == 2
        exits = await daemon.events("backend.exit")
        assert exits[-1]["data"]["cause"] == "hang"


@pytest.mark.parametrize("fault", ["--split-utf8", "--invalid-utf8"])
async def test_row_10_bytes_reach_the_client_verbatim(start: Start, http: aiohttp.ClientSession, fault: str) -> None:
    """Code points that are cut by writes, and invalid UTF-8: what the backend sent is what arrives."""
    async with start(fault, "--tokens", "20") as daemon:
        backend = await daemon.until_phase("ready")
        bodies = []
        for url in (f"http://127.0.0.1:{backend['port']}", daemon.url):
            async with http.post(url + CHAT, json=chat(stream=True)) as answer:
                bodies.append(await answer.read())
        direct, relayed = (contents_of(body) for body in bodies)
        assert len(direct) >= 10
        assert relayed == direct
        if fault == "--invalid-utf8":
            with pytest.raises(UnicodeDecodeError):
                b"".join(relayed).decode()


def contents_of(body: bytes) -> list[bytes]:
    """The raw bytes of each event's content: ids and times differ between two answers."""
    marker = b'"content":"'
    return [line.partition(marker)[2].partition(b'"')[0] for line in body.split(b"\n\n") if marker in line]


ODD: list[tuple[tuple[str, ...], int, str, int]] = [
    (("--status", "500"), 500, "backend_error", 2),
    (("--status", "503"), 503, "backend_busy", 2),
    (("--status", "429"), 429, "backend_busy", 2),
    (("--status", "400"), 400, "request_rejected", 1),
    (("--garbage",), 502, "backend_protocol_error", 2),
    (("--half-head",), 502, "backend_died", 2),
    (("--wrong-length", "longer"), 502, "backend_protocol_error", 2),
    (("--wrong-length", "shorter"), 502, "backend_died", 2),
    (("--reset",), 502, "backend_died", 2),
]


@pytest.mark.parametrize("odd", ODD, ids=[" ".join(row[0]) for row in ODD])
async def test_row_23_odd_answers_get_typed_reasons(
    start: Start, http: aiohttp.ClientSession, odd: tuple[tuple[str, ...], int, str, int]
) -> None:
    """Each fault has its reason; what is safe is tried once more."""
    flags, status, reason, attempts = odd
    async with start(*flags) as daemon:
        await daemon.until_phase("ready")
        async with http.post(daemon.url + CHAT, json=chat()) as answer:
            assert answer.status == status
        job = await last_job(daemon)
        assert (job["reason"], job["attempts_count"]) == (reason, attempts)


async def test_row_23_an_error_event_before_anything_else_is_retried(start: Start, http: aiohttp.ClientSession) -> None:
    """HTTP 200, an error event, and [DONE]: nothing of it is shown as an answer; a second attempt makes it good."""
    async with start("--error-event-then-done", "--times", "1") as daemon:
        await daemon.until_phase("ready")
        async with http.post(daemon.url + CHAT, json=chat(stream=True)) as answer:
            events = events_of(await answer.read())
        assert events[-1] == "[DONE]"
        assert not any("error" in json.loads(event) for event in events[:-1])
        assert [a["status"] for a in (await last_job(daemon))["attempts"]] == ["failed", "done"]


async def test_row_24_a_backend_that_never_answers_frees_its_slot(start: Start, http: aiohttp.ClientSession) -> None:
    """Half-open: the request is taken and nothing ever comes; the progress deadline ends it."""
    async with start("--half-open", timeouts={"progress": "2s"}) as daemon:
        await daemon.until_phase("ready")
        async with http.post(daemon.url + CHAT, json=chat()) as answer:
            assert answer.status == 504
            assert (await answer.json())["error"]["code"] == "backend_hung"
        assert (await daemon.backend())["in_flight"] == 0


async def test_keep_alive_comments_do_not_spend_the_retry(
    start: Start, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """llama-server pings in a long prefill, just where another attempt is worth most."""
    once = ("--once-file", str(tmp_path / "struck"))
    flags = ("--ping-every", "0.1", "--prefill-seconds", "1", "--die-before-first-byte", "1", *once)
    async with start(*flags) as daemon:
        await daemon.until_phase("ready")
        async with http.post(daemon.url + CHAT, json=chat(stream=True)) as answer:
            body = await answer.read()
        assert b"[DONE]" in body
        assert b'"error"' not in body
        assert (await last_job(daemon))["attempts_count"] == 2


async def test_a_final_failure_is_not_multiplied_by_the_sdk(start: Start, http: aiohttp.ClientSession) -> None:
    """And what the backend said, which can quote the prompt, is passed on but not kept."""
    async with start("--status", "500") as daemon:
        await daemon.until_phase("ready")
        async with http.post(daemon.url + CHAT, json=chat()) as answer:
            said = (await answer.json())["error"]["message"]
            assert answer.headers["x-should-retry"] == "false"
        job = await last_job(daemon)
        assert job["detail"].startswith("status 500")
        assert said not in json.dumps(job)
        assert said not in daemon.log()
