"""The main job on a real llama.cpp and a real model."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import aiohttp
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.fakes.daemon import Daemon, alive, running

pytestmark = [pytest.mark.e2e, pytest.mark.engine]

LOAD_S = 60.0
FRANCE: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    backend = {
        "model": "embedded",
        "context": 2048,
        "aliases": ["gpt-4o"],
        "probe_interval": "300ms",
        "timeouts": {"probe": "500ms", "probe_hang": "3s"},
        "restart": {"backoff": {"base": "100ms", "cap": "1s"}},
    }
    async with running(Daemon(tmp_path, {"backends": {"gemma": backend}})) as started:
        await started.until_phase("ready", "gemma", within=LOAD_S)
        yield started


@pytest.fixture
async def client(daemon: Daemon) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=daemon.url + "/v1", api_key="none", max_retries=0, timeout=90) as made:
        yield made


async def test_the_official_client_gets_sensible_answers(daemon: Daemon, client: openai.AsyncOpenAI) -> None:
    """Chat, stream, completion, models; embeddings, which this model's server does not do, fail clearly."""
    plain = await client.chat.completions.create(model="gpt-4o", messages=FRANCE, temperature=0, max_tokens=24)
    assert "Paris" in (plain.choices[0].message.content or "")
    stream = await client.chat.completions.create(
        model="gemma", messages=FRANCE, temperature=0, max_tokens=24, stream=True
    )
    streamed = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
    assert streamed == plain.choices[0].message.content
    completion = await client.completions.create(model="gemma", prompt="1 2 3 4 5 6", temperature=0, max_tokens=4)
    assert "7" in completion.choices[0].text
    assert [model.id async for model in await client.models.list()] == ["gemma", "gpt-4o"]
    with pytest.raises(openai.APIStatusError) as refused:
        await client.embeddings.create(model="gemma", input="hello")
    assert "embeddings" in str(refused.value)


async def test_the_record_is_read_from_the_backend(daemon: Daemon, client: openai.AsyncOpenAI) -> None:
    raw = await client.chat.completions.with_raw_response.create(
        model="gemma", messages=FRANCE, temperature=0, max_tokens=24
    )
    usage = raw.parse().usage
    job = await daemon.control("GET", f"/v1/jobs/{raw.headers['x-job-id']}")
    assert (job["status"], job["model"], job["max_tokens"], job["temperature"]) == ("done", "gemma", 24, 0.0)
    attempt = job["attempts"][0]
    assert usage is not None
    assert (attempt["tokens_in"], attempt["tokens_out"]) == (usage.prompt_tokens, usage.completion_tokens)
    assert attempt["context_tokens"] == 2048
    assert "Q4_K" in attempt["quantization"]
    assert attempt["model"].endswith(".gguf")
    assert len(attempt["template_hash"]) == 16
    assert (attempt["runtime"], attempt["backend"], attempt["rung"]) == ("llama.cpp", "gemma", 0)
    assert attempt["tokens_per_second"] > 0
    assert 0 < attempt["ttft_s"] <= attempt["duration_s"]
    assert "GiB RAM" in attempt["hardware"]


async def test_twenty_at_once_are_answered_one_at_a_time(daemon: Daemon, client: openai.AsyncOpenAI) -> None:
    peak = 0

    async def watch() -> None:
        nonlocal peak
        while True:
            peak = max(peak, (await daemon.backend("gemma"))["in_flight"])
            await asyncio.sleep(0.02)

    async def ask(number: int) -> str:
        answer = await client.chat.completions.create(
            model="gemma", messages=[{"role": "user", "content": f"Say {number}."}], max_tokens=4
        )
        return answer.id

    async with asyncio.TaskGroup() as group:
        watching = group.create_task(watch())
        asked = [group.create_task(ask(number)) for number in range(20)]
        await asyncio.wait(asked)
        watching.cancel()
    assert len({task.result() for task in asked}) == 20
    assert peak == 1
    jobs = await daemon.jobs()
    assert [job["status"] for job in jobs] == ["done"] * 20
    spans = [(j["attempts"][0]["started_at"], j["attempts"][0]["duration_s"]) for j in jobs]
    assert spans == sorted(spans), "in the order of arrival"
    for (start, duration), (following, _) in pairwise(spans):
        assert start + duration <= following + 0.01, "one at a time"


async def test_killed_in_mid_stream_then_served_by_the_restarted_one(
    daemon: Daemon, client: openai.AsyncOpenAI
) -> None:
    # Greedy counting goes on for as long as it may.
    stream = await client.completions.create(
        model="gemma", prompt="1, 2, 3, 4, 5, 6, 7,", temperature=0, max_tokens=800, stream=True
    )
    pid = (await daemon.backend("gemma"))["pid"]
    with pytest.raises(openai.APIError, match="cut off"):  # noqa: PT012 - the stream is read until it breaks
        received = 0
        async for _ in stream:
            received += 1
            if received == 5:
                os.kill(pid, signal.SIGKILL)
    failed = (await daemon.jobs())[-1]
    assert (failed["status"], failed["reason"]) == ("failed", "backend_died")
    answer = await client.chat.completions.create(model="gemma", messages=FRANCE, temperature=0, max_tokens=24)
    assert "Paris" in (answer.choices[0].message.content or "")
    backend = await daemon.backend("gemma")
    assert (backend["generation"], backend["restarts"]) == (2, 1)
    assert "SIGKILL" in backend["last_reason"]


async def test_killed_before_the_first_byte_is_invisible(daemon: Daemon, client: openai.AsyncOpenAI) -> None:
    pid = (await daemon.backend("gemma"))["pid"]
    os.kill(pid, signal.SIGSTOP)  # it takes the request, and cannot answer any more
    asking = asyncio.ensure_future(  # noqa: TID251 - a test may hold a task of its own
        client.chat.completions.create(model="gemma", messages=FRANCE, temperature=0, max_tokens=24)
    )

    async def in_flight() -> bool:
        return bool((await daemon.backend("gemma"))["in_flight"])

    await daemon.until(in_flight, "the request to be in flight")
    os.kill(pid, signal.SIGKILL)
    assert "Paris" in ((await asking).choices[0].message.content or "")
    job = await daemon.control("GET", f"/v1/jobs/{(await daemon.jobs())[-1]['id']}")
    assert [attempt["status"] for attempt in job["attempts"]] == ["failed", "done"]


async def test_sigstop_is_noticed(daemon: Daemon, client: openai.AsyncOpenAI) -> None:
    os.kill((await daemon.backend("gemma"))["pid"], signal.SIGSTOP)
    await daemon.until_phase("suspect", "gemma", within=2.0)
    answer = await client.chat.completions.create(model="gemma", messages=FRANCE, temperature=0, max_tokens=24)
    assert "Paris" in (answer.choices[0].message.content or "")
    assert (await daemon.events("backend.exit"))[-1]["data"]["cause"] == "hang"


async def test_daemon_killed_leaves_nothing_and_starts_clean(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, {"backends": {"gemma": {"model": "embedded", "context": 1024}}})
    await daemon.start()
    await daemon.until_phase("ready", "gemma", within=LOAD_S)
    left = await daemon.kill()
    async with asyncio.timeout(5):
        while alive(left):  # noqa: ASYNC110 - foreign processes have no event of ours
            await asyncio.sleep(0.05)
    async with running(daemon):
        await daemon.until_phase("ready", "gemma", within=LOAD_S)


CORRUPT = [(b"GGUF" + b"\0" * 64, "corrupt"), (b"", "empty"), (b"not a model at all" * 100, "text")]


@pytest.mark.parametrize("content", [c for c, _ in CORRUPT], ids=[name for _, name in CORRUPT])
async def test_row_17_corrupt_model_parks_at_once(tmp_path: Path, content: bytes, http: aiohttp.ClientSession) -> None:
    """The last lines of the log are in the reason, and in the answer."""
    model = tmp_path / "broken.gguf"
    model.write_bytes(content)
    async with running(Daemon(tmp_path, {"backends": {"broken": {"model": str(model)}}})) as daemon:
        backend = await daemon.until_phase("parked", "broken")
        assert backend["generation"] == 1
        assert any(word in backend["last_reason"].lower() for word in ("load", "magic"))
        body = {"model": "broken", "messages": [{"role": "user", "content": "hello"}]}
        async with http.post(daemon.url + "/v1/chat/completions", json=body) as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (503, "backend_parked")


async def test_row_17_a_bad_flag_parks_at_once(tmp_path: Path) -> None:
    backend = {"model": "embedded", "args": ["--no-such-flag"]}
    async with running(Daemon(tmp_path, {"backends": {"gemma": backend}})) as daemon:
        parked = await daemon.until_phase("parked", "gemma")
        assert "--no-such-flag" in parked["last_reason"]
        assert parked["generation"] == 1
