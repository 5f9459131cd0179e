"""The real vLLM (on the CPU) and the real llama.cpp, side by side under one daemon.

One daemon for all of it: a start of vLLM takes most of a minute on two cores. The tests run in their order, and each
leaves both backends ready, but the last.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import suppress

import openai
import psutil
import pytest
import pytest_asyncio
from openai.types.chat import ChatCompletionMessageParam

from supervisord.core.hang import DIAGNOSIS_S
from tests.fakes.daemon import Daemon, alive, running
from tests.fakes.pace import slowed
from tests.fakes.vllm import START_S, real_vllm

pytestmark = [pytest.mark.e2e, pytest.mark.engine, pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module")]

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello there"}]
CONTEXT = 1024
ON_AND_ON = {"ignore_eos": True}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def daemon(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Daemon]:
    there = real_vllm()
    # One processor is enough for it: its processes wait for each other by yielding in a loop, and on all processors
    # there are, everybody else then stands still for seconds (seen on Linux 6.18 with two).
    restart = {"backoff": {"base": "100ms", "cap": "1s"}}
    backends = {
        "tiny": {
            "runtime": "vllm", "binary": there.python, "model": there.model, "context": CONTEXT, "slots": 8,
            "dtype": "bfloat16", "enforce_eager": True, "kv_cache_memory": "64MiB", "restart": restart,
            "timeouts": {"probe": "10s", "probe_hang": "2m"}, "aliases": ["tiny-alias"], "cpus": "0",
        },
        "gemma": {"model": "embedded", "context": 2048, "restart": restart, "timeouts": {"probe": "10s"}},
    }  # fmt: skip
    models = {"shared": {"backends": ["tiny", "gemma"], "strategy": "priority", "max_tokens": {"limit": 1000}}}
    folder = tmp_path_factory.mktemp("vllm")
    async with running(Daemon(folder, {"backends": backends, "models": models})) as started:
        await started.until_phase("ready", "gemma", within=60)
        await started.until_phase("ready", "tiny", within=START_S)
        yield started


@pytest_asyncio.fixture(loop_scope="module")
async def client(daemon: Daemon) -> AsyncIterator[openai.AsyncOpenAI]:
    url = daemon.url + "/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=START_S) as made:
        yield made


def tree_of(backend: dict[str, object]) -> dict[str, psutil.Process]:
    """The processes of the real vLLM by what they are: the API server first."""
    leader = psutil.Process(int(str(backend["pid"])))
    engine = child_of(leader, "VLLM::EngineCore")
    return {"server": leader, "engine": engine, "worker": child_of(engine, "VLLM::Worker")}


def child_of(parent: psutil.Process, title: str) -> psutil.Process:
    """Among children only: what a worker forks, for a moment, has its title too."""
    (child,) = (process for process in parent.children() if process.cmdline()[:1] == [title])
    return child


async def attempts_of(daemon: Daemon, job_id: str) -> list[dict[str, object]]:
    attempts: list[dict[str, object]] = (await daemon.control("GET", f"/v1/jobs/{job_id}"))["attempts"]
    return attempts


async def test_the_official_client_switches_between_them_by_model(daemon: Daemon, client: openai.AsyncOpenAI) -> None:
    for asked, served in (("tiny", "tiny"), ("tiny-alias", "tiny"), ("gemma", "gemma"), ("shared", "tiny")):
        raw = await client.chat.completions.with_raw_response.create(
            model=asked, messages=HELLO, max_tokens=4, temperature=0
        )
        assert raw.headers["x-backend"] == served
        job = await daemon.control("GET", f"/v1/jobs/{raw.headers['x-job-id']}")
        attempt = job["attempts"][0]
        assert (job["model"], attempt["backend"]) == (asked, served)
        assert attempt["quantization"] == ("bfloat16" if served == "tiny" else "Q4_K - Medium")
        assert attempt["runtime"] == ("vllm" if served == "tiny" else "llama.cpp")
        usage = raw.parse().usage
        assert usage is not None
        assert (attempt["tokens_in"], attempt["tokens_out"]) == (usage.prompt_tokens, usage.completion_tokens)


async def test_usage_is_recorded_for_streams_that_did_not_ask_for_it(
    daemon: Daemon, client: openai.AsyncOpenAI
) -> None:
    async def streamed(**options: object) -> tuple[str, list[openai.types.chat.ChatCompletionChunk]]:
        raw = await client.chat.completions.with_raw_response.create(
            model="tiny", messages=HELLO, max_tokens=5, stream=True, extra_body={**ON_AND_ON, **options}
        )
        return raw.headers["x-job-id"], [chunk async for chunk in raw.parse()]

    job_id, chunks = await streamed()
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)
    assert (await attempts_of(daemon, job_id))[0]["tokens_out"] == 5
    job_id, chunks = await streamed(stream_options={"include_usage": True})
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 5
    assert (await attempts_of(daemon, job_id))[0]["tokens_out"] == 5


async def test_a_request_that_can_never_fit_is_refused_before_it_queues(
    daemon: Daemon, client: openai.AsyncOpenAI
) -> None:
    long: list[ChatCompletionMessageParam] = [{"role": "user", "content": "one two three four " * 400}]
    with pytest.raises(openai.BadRequestError) as refused:
        await client.chat.completions.create(model="tiny", messages=long, max_tokens=4)
    assert refused.value.code == "context_length_exceeded"
    assert str(CONTEXT) in str(refused.value)
    failed = (await daemon.jobs())[-1]
    assert (failed["reason"], failed["attempts"]) == ("context_length_exceeded", [])
    with pytest.raises(openai.BadRequestError) as limited:
        await client.chat.completions.create(model="shared", messages=HELLO, max_tokens=1001)
    assert limited.value.code == "max_tokens_above_limit"


async def ask_shared(client: openai.AsyncOpenAI, tokens: int = 24) -> str:
    """The backend that served it."""
    raw = await client.chat.completions.with_raw_response.create(
        model="shared", messages=HELLO, max_tokens=tokens, extra_body=ON_AND_ON
    )
    assert raw.parse().choices
    return str(raw.headers["x-backend"])


async def kill_under_load(daemon: Daemon, client: openai.AsyncOpenAI, who: str) -> dict[str, psutil.Process]:
    """`kill -9` of one process of vLLM while a stream and requests run there; none of the requests may be lost."""
    before = await daemon.backend("tiny")
    tree = tree_of(before)
    async with asyncio.TaskGroup() as group:
        with slowed(tree["worker"]):  # the model is tiny, and quick: all would be answered before the kill
            asked = [group.create_task(ask_shared(client, 600)) for _ in range(3)]
            stream = await client.chat.completions.create(
                model="tiny", messages=HELLO, max_tokens=900, stream=True, extra_body=ON_AND_ON
            )
            chunks = aiter(stream)
            await anext(chunks)

            async def running_there() -> bool:
                return int((await daemon.backend("tiny"))["in_flight"]) == 4

            await daemon.until(running_there, "the stream and the others to run at vLLM")
            tree[who].kill()
        with pytest.raises(openai.APIError):  # said in-band: never a clean end
            async for _ in chunks:
                pass
    assert {task.result() for task in asked} <= {"tiny", "gemma"}
    assert "gemma" in {task.result() for task in asked}

    async def gone() -> bool:
        return not alive(list(tree.values()))

    await daemon.until(gone, "every process of that vLLM to be gone", within=10)
    failed = [j for j in await daemon.jobs() if j["model"] == "tiny" and j["stream"]][-1]
    assert failed["status"] == "failed"
    return tree


async def back(daemon: Daemon, generation: int) -> None:
    async def again() -> bool:
        tiny = await daemon.backend("tiny")
        return tiny["phase"] == "ready" and tiny["generation"] > generation

    await daemon.until(again, "vLLM to be ready again", within=START_S)


async def test_llama_cpp_killed_under_load_is_served_by_vllm(daemon: Daemon, client: openai.AsyncOpenAI) -> None:
    """The other way round: the one that is asked first is vLLM, so llama.cpp is asked by its own name meanwhile."""
    pid = (await daemon.backend("gemma"))["pid"]
    async with asyncio.TaskGroup() as group:
        plain = group.create_task(
            client.chat.completions.create(model="gemma", messages=HELLO, max_tokens=60, extra_body=ON_AND_ON)
        )
        shared = [group.create_task(ask_shared(client)) for _ in range(4)]

        async def busy() -> bool:
            return int((await daemon.backend("gemma"))["in_flight"]) == 1

        await daemon.until(busy, "llama.cpp to be at work")
        with suppress(ProcessLookupError):
            os.kill(pid, 9)
    assert plain.result().choices  # tried again once llama.cpp was back
    assert {task.result() for task in shared} == {"tiny"}
    await daemon.until_phase("ready", "gemma", within=60)


async def test_the_engine_killed_under_load(daemon: Daemon, client: openai.AsyncOpenAI) -> None:
    """The leader then ends with status 0 a few seconds later, and its streams end in an error and [DONE]."""
    generation = (await daemon.backend("tiny"))["generation"]
    await kill_under_load(daemon, client, "engine")
    ended = [e for e in await daemon.events("backend.exit") if e["backend"] == "tiny"][-1]
    assert ended["data"]["cause"] in {"exited", "crash", "killed"}
    await back(daemon, generation)
    assert await ask_shared(client) == "tiny"


async def test_a_worker_killed_under_load(daemon: Daemon, client: openai.AsyncOpenAI) -> None:
    generation = (await daemon.backend("tiny"))["generation"]
    await kill_under_load(daemon, client, "worker")
    await back(daemon, generation)


async def test_an_engine_that_stands_still_under_load_is_found_out(daemon: Daemon, client: openai.AsyncOpenAI) -> None:
    """Its server answers /health and /metrics all the while."""
    before = daemon.configuration["backends"]
    times = {**before["tiny"]["timeouts"], "progress": "5s", "first_token": "0s"}
    told = await daemon.reload(backends={**before, "tiny": {**before["tiny"], "timeouts": times}})
    assert told["adjusted"] == ["tiny"], "without a restart"
    tiny = await daemon.backend("tiny")
    tree = tree_of(tiny)
    with slowed(tree["worker"]):
        stream = await client.chat.completions.create(
            model="tiny", messages=HELLO, max_tokens=900, stream=True, extra_body=ON_AND_ON
        )
        chunks = aiter(stream)
        await anext(chunks)
        tree["engine"].suspend()
        began = time.monotonic()
        with pytest.raises(openai.APIError, match="nothing moved for 5 s"):
            async for _ in chunks:
                pass
    assert time.monotonic() - began <= 5.0 + DIAGNOSIS_S + 4.0

    async def hung() -> bool:
        ended = [e for e in await daemon.events("backend.exit") if e["backend"] == "tiny"]
        return bool(ended) and ended[-1]["data"]["cause"] == "hang"

    await daemon.until(hung, "the end of every process of it")
    assert not alive(list(tree.values()))
    await daemon.reload(backends=before)
    await back(daemon, tiny["generation"])


async def test_the_api_server_killed_under_load_leaves_nothing_behind(
    daemon: Daemon, client: openai.AsyncOpenAI
) -> None:
    """Alone, vLLM's engine and worker would live on, with all their memory."""
    await kill_under_load(daemon, client, "server")
    ended = [e for e in await daemon.events("backend.exit") if e["backend"] == "tiny"][-1]
    assert ended["data"]["cause"] == "killed"
