"""Servers that hang, in every way that was seen, and servers that are only slow: found in time, or left alone."""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from tests.e2e.conftest import Start
from tests.fakes.daemon import Daemon, Json, running, stubbed, vllm_stubbed
from tests.fakes.pace import crowd, give_way
from tests.fakes.stub import ROOT

pytestmark = pytest.mark.e2e

CHAT = "/v1/chat/completions"
STUB = (sys.executable, "-m", "tests.fakes.backend", "--host", "${host}", "--port", "${port}")
LOOKS_S = 10.0  # of a diagnosis, at the most
SLACK_S = 4.0  # of a machine that is busy with tests: the probe before, the kill, the answer


def asked(words: str = "hello", **more: object) -> Json:
    return {"model": "stub", "messages": [{"role": "user", "content": words}], **more}


async def killed(daemon: Daemon) -> list[Json]:
    """The exits for a hang so far."""
    return [event for event in await daemon.events("backend.exit") if event["data"]["cause"] == "hang"]


async def doubts(daemon: Daemon) -> list[str]:
    """Each time it was looked at because it seemed to hang."""
    phases = await daemon.events("backend.phase")
    return [e["message"] for e in phases if e["data"].get("phase") == "suspect"]


async def answer_of(
    http: aiohttp.ClientSession, daemon: Daemon, body: Json, within: float = 60.0
) -> tuple[int, bytes, float]:
    """Status, body, and the seconds it took."""
    began = time.monotonic()
    async with http.post(daemon.url + CHAT, json=body, timeout=aiohttp.ClientTimeout(within)) as answer:
        return answer.status, await answer.read(), time.monotonic() - began


def times(**changes: str) -> Json:
    return {"probe": "500ms", "probe_hang": "20s", "progress": "2s", "busy": "30s", "first_token": "0s", **changes}


# --- planted hangs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "limit_s"),
    [
        (("--half-open",), 2.0),
        (("--hang-on-request", "1"), 2.0),  # /slots and /metrics do not answer either, /health does
        (("--half-open", "--spins"), 6.0),
    ],
    ids=["reads and never answers", "its engine stands still", "spins"],
)
async def test_a_hang_is_found_in_the_time_that_was_set(
    start: Start, http: aiohttp.ClientSession, tmp_path: Path, flags: tuple[str, ...], limit_s: float
) -> None:
    """It is killed and started again, and the request is answered by the next generation."""
    once = ("--once-file", str(tmp_path / "struck"))
    async with start(*flags, *once, timeouts=times(busy="6s")) as daemon:
        first = await daemon.until_phase("ready")
        status, _, took = await answer_of(http, daemon, asked())
        assert status == 200
        assert limit_s <= took <= limit_s + LOOKS_S + SLACK_S
        assert len(await killed(daemon)) == 1
        assert (await daemon.backend())["generation"] == first["generation"] + 1
        assert [a["status"] for a in (await daemon.jobs())[-1]["attempts"]] == ["failed", "done"]


async def test_every_kind_of_server_is_found_out(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    """vLLM whose engine stands still behind a server that answers /health, and a program of which nothing is known."""
    struck = {name: ("--once-file", str(tmp_path / f"{name}-struck")) for name in ("vllm", "spins", "command")}
    backends = {
        "vllm": vllm_stubbed(tmp_path, "--hang-on-request", "1", *struck["vllm"], timeouts=times()),
        "spins": vllm_stubbed(tmp_path, "--half-open", "--spins", *struck["spins"], timeouts=times(busy="5s")),
        "command": {
            "runtime": "command",
            "command": [*STUB, "--half-open", *struck["command"]],
            "env": {"PYTHONPATH": str(ROOT)},
            "probe_interval": "200ms",
            "timeouts": times(),
        },
    }
    async with running(Daemon(tmp_path, {"backends": backends})) as daemon:
        for name in backends:
            await daemon.until_phase("ready", name)
        async with asyncio.TaskGroup() as group:
            asking = {n: group.create_task(answer_of(http, daemon, asked() | {"model": n})) for n in backends}
        for name, answer in asking.items():
            status, _, took = answer.result()
            limit_s = 5.0 if name == "spins" else 2.0
            assert status == 200, name
            assert limit_s <= took <= limit_s + LOOKS_S + 2 * SLACK_S, name
        assert sorted(event["backend"] for event in await killed(daemon)) == ["command", "spins", "vllm"]


async def test_a_stream_that_stops_half_way_is_cut_with_the_reason(
    start: Start, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """Pings go on: they are no progress."""
    once = ("--once-file", str(tmp_path / "struck"))
    flags = ("--hang-mid-stream", "1", "--token-rate", "50", "--ping-every", "0.2", *once)
    async with start(*flags, timeouts=times()) as daemon:
        await daemon.until_phase("ready")
        status, body, took = await answer_of(http, daemon, asked(stream=True))
        assert status == 200
        assert b"backend_hung" in body
        assert took <= 2.0 + LOOKS_S + SLACK_S
        await daemon.until(lambda: killed(daemon), "its end")


async def test_row_5_one_that_is_stopped_is_suspect_at_once_and_killed_at_its_deadline(
    start: Start, http: aiohttp.ClientSession
) -> None:
    """In the middle of its work: SIGSTOP stops what it computes too."""
    flags = ("--prefill-seconds", "60", "--prefill-spins")
    async with start(*flags, timeouts=times(probe="300ms", probe_hang="2s")) as daemon:
        backend = await daemon.until_phase("ready")
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(answer_of(http, daemon, asked()))
            await daemon.until(lambda: _in_flight(daemon), "the request to be in flight")
            await asyncio.sleep(0.3)  # it may not have begun yet
            os.kill(backend["pid"], signal.SIGSTOP)
            for pid in [process.pid for process in daemon.descendants() if process.ppid() == backend["pid"]]:
                os.kill(pid, signal.SIGSTOP)
            await daemon.until_phase("suspect", within=2.0)
            await daemon.until(lambda: killed(daemon), "its end", within=2.0 + LOOKS_S + SLACK_S)
            asking.cancel()


async def _in_flight(daemon: Daemon) -> bool:
    return bool((await daemon.backend())["in_flight"])


async def test_idle_ones_that_would_not_answer_are_found_by_their_canaries(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    """Before somebody needs them; /health answers all the time. The next generations are asked too, and live.

    vLLM is asked for a token. llama.cpp only for its counters: somebody who knows its port has hung it here.
    """
    hangs = ("--hang-on-request", "1", "--once-file")
    patient: Json = {"timeouts": times(), "canary": {"every": "10s"}}
    backends = {
        "vllm": vllm_stubbed(tmp_path, *hangs, str(tmp_path / "vllm-struck"), **patient),
        "llama": stubbed(tmp_path, *hangs, str(tmp_path / "llama-struck"), **patient),
    }
    async with running(Daemon(tmp_path, {"backends": backends})) as daemon:
        await daemon.until_phase("ready", "vllm")
        port = (await daemon.until_phase("ready", "llama"))["port"]
        with pytest.raises(TimeoutError):
            await http.post(f"http://127.0.0.1:{port}{CHAT}", json=asked(), timeout=aiohttp.ClientTimeout(total=0.5))

        async def both_gone() -> bool:
            return {event["backend"] for event in await killed(daemon)} == {"vllm", "llama"}

        await daemon.until(both_gone, "their ends", within=10.0 + 2.0 + LOOKS_S + SLACK_S)
        told = [message for message in await doubts(daemon) if "what it was asked got no answer" in message]
        assert len(told) == 2
        for name in backends:
            backend = await daemon.until_phase("ready", name)
            assert (backend["generation"], backend["in_flight"]) == (2, 0)
        assert await daemon.jobs() == [], "nobody asked"


# --- false alarms ----------------------------------------------------------------------------------------------------


async def test_a_busy_one_is_left_alone_however_long_nothing_moves(start: Start, http: aiohttp.ClientSession) -> None:
    """Its counters stand still, no byte comes, its processor is busy; and in the end it answers."""
    flags = ("--prefill-seconds", "12", "--prefill-spins")
    async with start(*flags, timeouts=times(progress="2s", busy="60s")) as daemon:
        await daemon.until_phase("ready")
        status, _, took = await answer_of(http, daemon, asked())
        assert (status, await killed(daemon)) == (200, [])
        assert took >= 12.0
        assert (await daemon.backend())["generation"] == 1


async def test_a_command_is_known_by_the_processor_it_uses(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    """No counters to ask for: the same, of any program."""
    backend: dict[str, Any] = {
        "runtime": "command",
        "command": [*STUB, "--prefill-seconds", "8", "--prefill-spins"],
        "env": {"PYTHONPATH": str(ROOT)},
        "probe_interval": "200ms",
        "timeouts": times(progress="2s", busy="60s"),
    }
    async with running(Daemon(tmp_path, {"backends": {"stub": backend}})) as daemon:
        await daemon.until_phase("ready")
        status, _, took = await answer_of(http, daemon, asked())
        assert (status, await killed(daemon)) == (200, [])
        assert took >= 8.0


async def test_one_that_is_hardly_let_run_is_left_alone(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    """It computes on a processor that others have the right of way on: it gets next to nothing of it, and no blame."""
    processor = min(os.sched_getaffinity(0))
    backend: Json = {
        "runtime": "command",
        "command": [*STUB, "--prefill-seconds", "9", "--prefill-spins"],
        "env": {"PYTHONPATH": str(ROOT)},
        "cpus": str(processor),
        "timeouts": times(progress="3s", busy="60s", probe="10s"),
    }
    async with running(Daemon(tmp_path, {"backends": {"stub": backend}})) as daemon:
        leader = psutil.Process((await daemon.until_phase("ready"))["pid"])
        with crowd(3, [processor]):
            give_way(leader.pid, 15)
            async with asyncio.TaskGroup() as group:
                asking = group.create_task(answer_of(http, daemon, asked()))
                await asyncio.sleep(8.0)
                (spinner,) = leader.children()
                assert sum(spinner.cpu_times()[:2]) < 0.05 * 8.0, "it got more than the look before a kill asks for"
            assert asking.result()[0] == 200
        assert (await killed(daemon), (await daemon.backend())["generation"]) == ([], 1)


async def test_a_long_prompt_has_more_time_and_a_short_one_has_not(start: Start, http: aiohttp.ClientSession) -> None:
    """2000 tokens at 20 s for each 1000 are 40 s more, and a quarter of it where nothing shows that it is at work."""
    flags = ("--prefill-seconds", "7", "-c", "8192")
    patient = times(progress="2s", first_token="20s")
    async with start(*flags, timeouts=patient, restart={"max_failures": 10}) as daemon:
        await daemon.until_phase("ready")
        status, _, took = await answer_of(http, daemon, asked("word " * 1600))
        assert (status, await killed(daemon)) == (200, [])
        assert took >= 7.0
        assert await doubts(daemon) == []
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(answer_of(http, daemon, asked("short")))
            await daemon.until(lambda: doubts(daemon), "a doubt", within=2.0 + SLACK_S)
            asking.cancel()


async def test_vllm_that_moves_slowly_is_left_alone(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    """One token in 1.5 seconds: each is progress."""
    backend = vllm_stubbed(tmp_path, "--token-rate", "0.7", "--tokens", "6", timeouts=times())
    async with running(Daemon(tmp_path, {"backends": {"stub": backend}})) as daemon:
        await daemon.until_phase("ready")
        status, body, _ = await answer_of(http, daemon, asked(stream=True))
        assert (status, await killed(daemon), await doubts(daemon)) == (200, [], [])
        assert b"[DONE]" in body


async def test_a_canary_gets_out_of_the_way_of_a_request(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    """The stub takes 20 s for each request, and has one slot: the canary has it, and is cut off."""
    log = tmp_path / "requests"
    flags = ("--prefill-seconds", "4", "--prefill-spins", "--request-log", str(log))
    backend = stubbed(tmp_path, *flags, timeouts=times(progress="20s"), canary={"every": "10s", "token": True})
    async with running(Daemon(tmp_path, {"backends": {"stub": backend}})) as daemon:
        await daemon.until_phase("ready")
        port = (await daemon.backend())["port"]

        async def at_work() -> bool:
            async with http.get(f"http://127.0.0.1:{port}/slots") as answer:
                return any(slot["is_processing"] for slot in await answer.json())

        await daemon.until(at_work, "the canary", within=10.0 + SLACK_S)
        status, _, took = await answer_of(http, daemon, asked())
        assert (status, await killed(daemon)) == (200, [])
        assert took < 4.0 + 2.0, "it would have been 8 s behind the canary"
        assert len(await daemon.jobs()) == 1


@pytest.mark.engine
async def test_a_real_engine_with_long_prompts_on_a_crowded_machine_is_left_alone(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    """Its counters move once for each batch of 2048 tokens, which takes many times the shorter bound."""
    backend = {
        "model": "embedded", "context": 8192, "threads": 2, "probe_interval": "300ms", "batch": 2048,
        "timeouts": times(progress="1s", busy="5m", probe="1s", probe_hang="2s"),
    }  # fmt: skip
    with crowd(1):
        async with running(Daemon(tmp_path, {"backends": {"stub": backend}})) as daemon:
            await daemon.until_phase("ready", within=90.0)
            words = "The quick brown fox jumps over the lazy dog, and runs away from number %d. "
            longest = 0.0
            for first in (0, 1000):
                text = "".join(words % (first + number) for number in range(110))
                # How long it takes is the machine's affair, and other tests run beside this one.
                status, body, took = await answer_of(http, daemon, asked(text, max_tokens=2), within=280.0)
                assert status == 200, body
                longest = max(longest, took)
            assert longest > 5.0, "too quick to prove anything"
            assert (await killed(daemon), (await daemon.backend())["generation"]) == ([], 1)
