"""The stub as one of many on a card, and as vLLM."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from tests.fakes.nvml.driver import FakeDriver, build
from tests.fakes.stub import ROOT, StubProcess, stub_argv, stub_environment

GIB = 2**30
VLLM = ("serve", "/m/tiny", "--served-model-name", "tiny", "t2", "--max-model-len", "1024", "--max-num-seqs", "2")


@pytest.fixture
def driver(tmp_path: Path, pytestconfig: pytest.Config) -> FakeDriver:
    assert pytestconfig.cache is not None
    made = FakeDriver(build(pytestconfig.cache.mkdir("fake-nvml")), tmp_path)
    made.card(0, 24 * GIB)
    made.card(1, 8 * GIB)
    return made


@asynccontextmanager
async def stub(driver: FakeDriver, *flags: str, ready: str = "", **environment: str) -> AsyncIterator[StubProcess]:
    """A stub on the stand-in GPUs; whatever is left of it in the end is killed."""
    process = await asyncio.create_subprocess_exec(
        *stub_argv("--port", "0", *flags),
        env={**stub_environment(), **driver.env, **environment},
        stderr=asyncio.subprocess.PIPE,
    )
    made = StubProcess(process, 0)
    tree: list[psutil.Process] = []
    try:
        if ready:
            made.port = int((await made.line("bound to port")).split()[-1])
            await made.line(ready)
        tree = psutil.Process(process.pid).children(recursive=True)
        yield made
    finally:
        for one in [*tree, process]:
            try:
                one.kill()
            except (psutil.NoSuchProcess, ProcessLookupError):
                continue
        await process.communicate()


async def card(driver: FakeDriver, gpu: int = 0) -> dict[str, Any]:
    """One GPU as the daemon's own sensor sees it, through pynvml."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, ROOT / "tests/fakes/nvml/reader.py", "5", "5", "/",
        env={**stub_environment(), **driver.env}, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    told, _ = await asyncio.wait_for(process.communicate(b"read\n"), 10)
    found: dict[str, Any] = json.loads(told)["gpus"][gpu]
    return found


async def until_free(driver: FakeDriver, size: int) -> None:
    async with asyncio.timeout(5):
        while (await card(driver))["free"] != size:
            pass


async def test_memory_that_processes_take_is_seen_and_goes_with_them(driver: FakeDriver) -> None:
    async with stub(driver, "--vram", "14GiB", ready="all idle") as first:
        seen = await card(driver)
        assert (seen["used"], seen["free"]) == (14 * GIB, 10 * GIB)
        assert [(p["pid"], p["used"]) for p in seen["processes"]] == [(first.pid, 14 * GIB)]
        async with stub(driver, "--vram", "12GiB") as second:
            await second.line("cudaMalloc failed: out of memory")
            assert await second.ended() == 1
        async with stub(driver, "--vram", "7GiB", ready="all idle", CUDA_VISIBLE_DEVICES="GPU-1"):
            assert (await card(driver, 1))["used"] == 7 * GIB
        async with driver.stranger(3 * GIB) as pid:
            seen = await card(driver)
            assert {(p["pid"], p["name"]) for p in seen["processes"]} >= {(pid, "blender")}
            assert seen["free"] == 7 * GIB
    assert (await card(driver))["free"] == 24 * GIB
    assert driver.claims.peak(0) == 17 * GIB
    assert driver.claims.refused() == [12 * GIB]


async def test_memory_can_stay_taken_after_the_process_died(driver: FakeDriver) -> None:
    driver.linger()
    async with stub(driver, "--vram", "20GiB", ready="all idle") as one:
        one.process.kill()
        await one.process.wait()
        seen = await card(driver)
        assert (seen["free"], seen["processes"]) == (4 * GIB, [])
        driver.linger(0)
        await until_free(driver, 24 * GIB)


async def test_memory_can_grow_while_loading(driver: FakeDriver) -> None:
    flags = ("--vram", "20GiB", "--vram-load", "--load-seconds", "0.4")
    async with stub(driver, *flags, ready="all idle"):
        notes = (driver.claims.folder / ".notes").read_text().splitlines()
        assert [int(note.split()[-1]) for note in notes] == [n * GIB for n in range(1, 21)]


async def test_ram_is_really_taken(driver: FakeDriver) -> None:
    async with stub(driver, "--ram", "200MiB", ready="all idle") as one:
        assert psutil.Process(one.pid).memory_info().rss > 200 * 2**20


@pytest.mark.parametrize("victim", ["VLLM::EngineCor", "VLLM::Worker_TP"])
async def test_death_of_the_engine_ends_vllm_with_status_0(driver: FakeDriver, victim: str) -> None:
    flags = (*VLLM, "--fork-engine", "--vram", "20GiB", "--token-rate", "10", "--tokens", "50")
    async with stub(driver, *flags, ready="startup complete") as one, aiohttp.ClientSession() as http:
        tree = {p.name(): p for p in psutil.Process(one.pid).children(recursive=True)}
        seen = await card(driver)
        assert [p["pid"] for p in seen["processes"]] == [tree["VLLM::Worker_TP"].pid]
        body = {"messages": [{"role": "user", "content": "hi"}], "stream": True}
        async with http.post(f"http://127.0.0.1:{one.port}/v1/chat/completions", json=body) as answer:
            await answer.content.readany()
            tree[victim].kill()
            rest = await answer.text()
        assert '"code":500' in rest
        assert rest.endswith("data: [DONE]\n\n")
        assert await one.ended() == 0
        await until_free(driver, 24 * GIB)


async def test_death_of_vllms_leader_leaves_the_others_with_the_memory(driver: FakeDriver) -> None:
    async with stub(driver, *VLLM, "--fork-engine", "--vram", "20GiB", ready="startup complete") as one:
        leader = psutil.Process(one.pid)
        tree = leader.children(recursive=True)
        leader.kill()
        async with asyncio.timeout(5):  # not Process.wait: it waits for the pipes, too, which the others hold
            while leader.is_running() and leader.status() != psutil.STATUS_ZOMBIE:  # noqa: ASYNC110 - no event of ours
                await asyncio.sleep(0.01)
        assert (await card(driver))["free"] == 4 * GIB
        next(p for p in tree if p.name() == "VLLM::EngineCor").terminate()
        await until_free(driver, 24 * GIB)


async def test_vllm_that_finds_no_memory_says_so_and_ends(driver: FakeDriver) -> None:
    async with driver.stranger(20 * GIB), stub(driver, *VLLM, "--fork-engine", "--vram", "20GiB") as one:
        await one.line("torch.OutOfMemoryError")
        await one.line("Engine core initialization failed")
        assert await one.ended() == 1
    async with stub(driver, *VLLM, "--load-oom-above-ctx", "512") as one:
        await one.line("estimated maximum model length is 512.")
        assert await one.ended() == 1


async def test_tells_what_vllm_tells(driver: FakeDriver, tmp_path: Path) -> None:
    report = tmp_path / "tokens"
    flags = (*VLLM, "--kv-tokens", "4096", "--max-tokens-report", str(report), "--preempt-above", "1")
    async with stub(driver, *flags, ready="startup complete") as one, aiohttp.ClientSession() as http:
        at = f"http://127.0.0.1:{one.port}"

        async def post(path: str, **body: Any) -> tuple[int, str]:
            async with http.post(at + path, json=body) as answer:
                return answer.status, await answer.text()

        async with http.get(at + "/v1/models") as answer:
            cards = (await answer.json())["data"]
        assert [(c["id"], c["root"], c["max_model_len"]) for c in cards] == [
            ("tiny", "/m/tiny", 1024),
            ("t2", "/m/tiny", 1024),
        ]
        chat: dict[str, Any] = {"messages": [{"role": "user", "content": "12345678"}], "max_tokens": 5}
        counted = json.loads((await post("/tokenize", model="tiny", messages=chat["messages"]))[1])
        assert (counted["count"], counted["max_model_len"]) == (3, 1024)
        status, text = await post("/v1/chat/completions", model="t2", **chat)
        plain = json.loads(text)
        assert (status, plain["usage"]["completion_tokens"]) == (200, 5)
        assert "timings" not in plain
        _, silent = await post("/v1/chat/completions", **chat, stream=True)
        assert '"usage"' not in silent
        _, told = await post("/v1/chat/completions", **chat, stream=True, stream_options={"include_usage": True})
        assert json.loads(told.split("\n\n")[-3].removeprefix("data: "))["usage"]["prompt_tokens"] == 3
        assert (await post("/v1/chat/completions", model="nobody", **chat))[0] == 404
        long = await post("/v1/chat/completions", messages=[{"role": "user", "content": "word " * 1000}])
        assert long[0] == 400
        assert "maximum context length is 1024 tokens" in long[1]
        async with http.get(at + "/metrics") as answer:
            metrics = await answer.text()
    assert 'vllm:generation_tokens_total{engine="0",model_name="tiny"} 15.0' in metrics
    assert 'block_size="16"' in metrics
    assert 'num_gpu_blocks="256"' in metrics
    assert "vllm:num_preemptions_total" in metrics
    assert report.read_text().split() == ["8"]


async def test_vllm_is_not_there_before_it_is_ready(driver: FakeDriver) -> None:
    async with stub(driver, *VLLM, "--load-seconds", "30") as one:
        await one.line("Starting to load model")
        assert not psutil.Process(one.pid).net_connections("tcp")
        one.process.send_signal(signal.SIGTERM)
        assert await one.ended() == -signal.SIGTERM
