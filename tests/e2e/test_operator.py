"""What an operator does to models and backends, over the control socket and with supctl itself."""

import asyncio
import sys
from pathlib import Path

import aiohttp
import pytest

from tests.fakes.daemon import ROOT, Daemon, Json, running, stubbed

pytestmark = pytest.mark.e2e

PAIR = "organization/pair"
HELLO = {"model": PAIR, "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
def daemon(tmp_path: Path) -> Daemon:
    """Two backends that serve one model in order of preference; the second is loaded on demand, the cloud is dead."""
    backends = {
        "first": stubbed(tmp_path, autostart=False, context="8k"),
        "second": stubbed(tmp_path, autostart=False),
        "cloud": {"runtime": "remote", "url": "http://127.0.0.1:9/v1"},
    }
    pair = {"backends": ["first", "second"], "last_resort": ["cloud"], "aliases": ["two"], "strategy": "priority"}
    return Daemon(tmp_path, {"backends": backends, "models": {PAIR: pair}, "routing": {"default": PAIR}})


async def supctl(daemon: Daemon, *arguments: str) -> tuple[int, str]:
    command = (sys.executable, "-m", "supervisord.cli.supctl", "--socket", str(daemon.socket), *arguments)
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(30):
        output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


async def phases(daemon: Daemon) -> dict[str, str]:
    return {each["name"]: each["phase"] for each in (await daemon.status())["backends"] if each["name"] != "cloud"}


async def test_a_model_is_loaded_and_unloaded_until_it_is_needed(daemon: Daemon, http: aiohttp.ClientSession) -> None:
    async with running(daemon):
        assert await phases(daemon) == {"first": "stopped", "second": "stopped"}
        assert await supctl(daemon, "load", "two") == (0, "first is ready\n")
        assert await phases(daemon) == {"first": "ready", "second": "stopped"}
        assert await supctl(daemon, "load", PAIR) == (0, "first is ready\n")
        assert await supctl(daemon, "load", "second") == (0, "second is ready\n")
        assert (await daemon.backend("second"))["want"] == "on_demand"
        status, said = await supctl(daemon, "unload", PAIR)
        assert (status, said.count("the next request loads it")) == (0, 2)
        assert await phases(daemon) == {"first": "stopped", "second": "stopped"}
        assert await supctl(daemon, "unload", PAIR) == (0, f"nothing of {PAIR} is loaded\n")
        async with http.post(f"{daemon.url}/v1/chat/completions", json=HELLO) as answer:
            assert (answer.status, answer.headers["x-backend"]) == (200, "first")


async def test_what_was_stopped_by_hand_is_started_by_hand(daemon: Daemon) -> None:
    async with running(daemon):
        assert (await supctl(daemon, "stop", "two"))[0] == 0
        status, said = await supctl(daemon, "load", "second")
        assert (status, said) == (1, "supctl: second was stopped by an operator. supctl start second starts it.\n")
        status, said = await supctl(daemon, "load", "two")
        assert status == 1
        assert "first is stopped: stopped by an operator" in said
        assert await supctl(daemon, "start", "two") == (0, "first is ready\n")
        assert (await daemon.backend("first"))["want"] == "up"
        generation = (await daemon.backend("first"))["generation"]
        assert (await supctl(daemon, "restart", "two")) == (0, "first is ready\n")
        assert (await daemon.backend("first"))["generation"] == generation + 1
        assert await phases(daemon) == {"first": "ready", "second": "stopped"}
        status, said = await supctl(daemon, "start", "nobody")
        assert status == 6
        assert f'There is no model "nobody"; there are: {PAIR}' in said


async def test_models_as_operators_and_clients_see_them(daemon: Daemon, http: aiohttp.ClientSession) -> None:
    async with running(daemon):
        before = await _model(daemon)
        assert (before["loaded"], before["context_tokens"], before["quantization"]) == (False, 8192, None)
        assert (before["aliases"], before["strategy"], before["default"]) == (["two"], "priority", True)
        assert [each["last_resort"] for each in before["backends"]] == [False, False, True]
        await supctl(daemon, "load", "two")
        loaded = await _model(daemon)
        assert (loaded["loaded"], loaded["quantization"]) == (True, "Q4_K - Medium")

        async def learned() -> bool:
            return (await _model(daemon))["backends"][0]["ram_source"] == "learned"

        await daemon.until(learned, "its memory to be learned")
        async with http.get(f"{daemon.url}/v1/models") as answer:
            listed = {each["id"]: each["meta"] for each in (await answer.json())["data"]}
        assert listed.keys() >= {PAIR, "two"}
        assert "unheard-of" not in listed
        meta = listed["two"]
        assert (meta["model"], meta["backend"], meta["loaded"]) == (PAIR, "first", True)
        assert meta["backends"] == ["first", "second", "cloud"]
        assert (meta["context_length"], meta["context_requested"]) == (8192, 8192)
        async with http.get(f"{daemon.url}/v1/models/unheard-of") as answer:
            told = await answer.json()
        assert (told["id"], told["meta"]["model"]) == ("unheard-of", PAIR), "the default model would serve it"


async def _model(daemon: Daemon) -> Json:
    return next(each for each in (await daemon.control("GET", "/v1/models"))["models"] if each["name"] == PAIR)


async def test_who_holds_the_memory(daemon: Daemon) -> None:
    async with running(daemon):
        await supctl(daemon, "load", "first")

        async def held() -> Json | None:
            (pool,) = (await daemon.status())["pools"]
            return pool if pool["holders"] else None

        pool = await daemon.until(held, "the memory of first to be measured")
        assert (pool["key"], pool["label"], pool["foreign"], pool["problem"]) == ("host", "host", [], "")
        assert 0 < pool["free_bytes"] < pool["total_bytes"]
        (holder,) = pool["holders"]
        assert (holder["backend"], holder["standing"]) == ("first", "resident")
        backend = await daemon.backend("first")
        assert (backend["standing"], backend["held"]) == ("resident", "")
        assert (await daemon.backend("cloud"))["standing"] is None
        assert "stays free" in (await supctl(daemon, "status"))[1]


async def test_what_nobody_understands(daemon: Daemon) -> None:
    async with running(daemon):
        for path in ("/v1/backends/first/explode", "/v1/models/two/reset"):
            refused = await daemon.control("POST", path)
            assert refused["error"]["code"] == "unknown_endpoint"
        refused = await daemon.control("POST", "/v1/backends/first/start", {"wait_s": "soon"})
        assert refused["error"]["code"] == "invalid_request"
