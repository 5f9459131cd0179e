"""How much is given to one server at a time: slots, tokens, and less where it throws work away."""

import asyncio
import json
from pathlib import Path

import aiohttp
import pytest

from tests.fakes.clients import Ask, ask, crowd, failed
from tests.fakes.daemon import Daemon, Json, running, vllm_stubbed
from tests.fakes.stub import read_log

pytestmark = pytest.mark.e2e

PACE = ("--tokens", "300", "--token-rate", "600")


def peak(path: Path) -> int:
    return int(path.read_text().split()[-1])


def a_daemon(folder: Path, *flags: str, **settings: object) -> Daemon:
    reports = ("--max-tokens-report", str(folder / "tokens"), "--max-concurrent-report", str(folder / "requests"))
    backend = vllm_stubbed(folder, *reports, *PACE, *flags, **settings)
    return Daemon(folder, {"backends": {"tiny": backend}})


def asking(tokens: int, answer: int) -> Ask:
    """A prompt of about so many tokens at the stub, four characters each."""
    return Ask("tiny", text="abc " * tokens, more={"max_tokens": answer})


async def test_tokens_in_flight_stay_within_what_the_server_has_room_for(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    daemon = a_daemon(tmp_path, "--kv-tokens", "1600", context=1024, max_num_seqs=64)
    async with running(daemon):
        await daemon.until_phase("ready", "tiny")
        seen = await crowd(http, daemon, [[asking(100 + 10 * n, 100)] * 3 for n in range(10)])
        assert failed(seen) == []
    assert peak(tmp_path / "tokens") <= 1600
    assert peak(tmp_path / "requests") >= 4, "and what has room is used"


async def test_a_configured_budget_wins(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    daemon = a_daemon(tmp_path, context=1024, token_budget=600)
    async with running(daemon):
        await daemon.until_phase("ready", "tiny")
        assert failed(await crowd(http, daemon, [[asking(100, 100)] * 2 for _ in range(8)])) == []
    assert peak(tmp_path / "tokens") <= 600
    assert peak(tmp_path / "requests") == 2


async def test_slots_are_respected_however_many_tokens_are_free(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    async with running(a_daemon(tmp_path, context=1024, slots=3)) as daemon:
        await daemon.until_phase("ready", "tiny")
        assert failed(await crowd(http, daemon, [[asking(5, 50)]] * 12)) == []
    assert peak(tmp_path / "requests") == 3


async def test_one_that_is_too_long_for_the_budget_runs_alone(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    """It fits the context, so it has to be served some time: when nothing else is."""
    daemon = a_daemon(tmp_path, "--kv-tokens", "1024", context=1024, slots=8, token_budget=512)
    async with running(daemon):
        await daemon.until_phase("ready", "tiny")
        seen = await crowd(http, daemon, [[asking(50, 100)] * 3, [asking(500, 300)], [asking(50, 100)] * 3])
        assert failed(seen) == []


async def test_it_backs_off_where_work_is_thrown_away(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    """The server says it has room for more than it really has, and preempts: fewer are sent from then on."""
    log = tmp_path / "log"
    flags = ("--kv-tokens", "20000", "--preempt-above", "900", "--request-log", str(log))
    daemon = a_daemon(tmp_path, *flags, context=1024, slots=16)
    async with running(daemon):
        await daemon.until_phase("ready", "tiny")
        assert failed(await crowd(http, daemon, [[asking(50, 150)] * 30 for _ in range(16)])) == []
    requests = sorted(read_log(log), key=lambda line: line["start"])

    def together(part: list[Json]) -> int:
        return max(sum(o["start"] <= r["start"] < o["end"] for o in requests) for r in part)

    assert together(requests[:16]) >= 12
    assert together(requests[-100:]) <= together(requests[:16]) * 0.75


async def test_too_long_for_its_context_is_refused_before_it_waits(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    log = tmp_path / "log"
    async with running(a_daemon(tmp_path, "--request-log", str(log), context=1024, slots=1)) as daemon:
        await daemon.until_phase("ready", "tiny")
        async with asyncio.TaskGroup() as group:
            busy = group.create_task(ask(http, daemon, "tiny", max_tokens=300))
            refused = await ask(http, daemon, "tiny", "abc " * 1100)
            assert not busy.done(), "not behind the one that runs"
        assert refused.status == 400
        error = json.loads(refused.body)["error"]
        assert error["code"] == "context_length_exceeded"
        assert "1024" in error["message"]
        assert len(read_log(log)) == 1, "the server never saw it"


async def test_an_answer_longer_than_the_context_is_refused_too(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    """One that only does not fit behind its prompt is cut short by vLLM."""
    async with running(a_daemon(tmp_path, context=1024)) as daemon:
        await daemon.until_phase("ready", "tiny")
        refused = await ask(http, daemon, "tiny", max_tokens=1025)
        assert (refused.status, json.loads(refused.body)["error"]["code"]) == (400, "context_length_exceeded")
        assert (await ask(http, daemon, "tiny", "abc " * 500, max_tokens=600)).status == 200
