"""The wall clock is set while the daemon runs: by an operator, by NTP after a long sleep, by a virtual machine."""

import shutil
from pathlib import Path

import aiohttp
import pytest

from tests.fakes.clients import CHAT, ask
from tests.fakes.daemon import Daemon, running, stubbed
from tests.fakes.shift.wall import DAY_S, Wall

HELLO = {"model": "stub", "messages": [{"role": "user", "content": "hello"}]}


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc, for the clock that can be set")
@pytest.mark.parametrize("shift", [DAY_S, -DAY_S], ids=["ahead", "back"])
async def test_row_15_a_clock_that_jumps_a_day_ends_nothing(
    tmp_path: Path, http: aiohttp.ClientSession, shift: int
) -> None:
    """What runs goes on, what waits is not expired, nothing is restarted, and no record is forgotten."""
    wall = Wall(tmp_path)
    backend = stubbed(tmp_path, "--tokens", "30", "--token-rate", "15")
    daemon = Daemon(tmp_path, {"backends": {"stub": backend}, "queue": {"timeout": "10m"}})
    async with running(daemon, **wall.env):
        ready = await daemon.until_phase("ready")
        before = (await ask(http, daemon, max_tokens=1)).headers["x-job-id"]
        async with http.post(daemon.url + CHAT, json=HELLO | {"stream": True}) as first:
            await first.content.readany()
            async with http.post(daemon.url + CHAT, json=HELLO | {"stream": True, "max_tokens": 20}) as second:
                wall.set(shift)
                assert b"[DONE]" in await second.read()
            assert b"[DONE]" in await first.read()
        told = (await ask(http, daemon, max_tokens=1)).headers["x-job-id"]
        backend = await daemon.backend()
        assert (backend["generation"], backend["phase"], backend["pid"]) == (1, "ready", ready["pid"])
        jobs = {job["id"]: job for job in await daemon.jobs()}
        assert {job["status"] for job in jobs.values()} == {"done"}
        assert before in jobs, "nothing was forgotten"
        gap = jobs[told]["submitted_at"] - jobs[before]["submitted_at"]
        assert abs(gap - shift) < 60, "its clock had really been set"
        assert all(0 <= attempt < 60 for attempt in await _durations(daemon, list(jobs)))
        assert (await daemon.status())["degraded"] == []


async def _durations(daemon: Daemon, jobs: list[str]) -> list[float]:
    found = [await daemon.control("GET", f"/v1/jobs/{job}") for job in jobs]
    return [float(attempt["duration_s"]) for job in found for attempt in job["attempts"]]
