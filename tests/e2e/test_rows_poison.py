"""A job that takes its backends down."""

from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.fakes.clients import Ask, ask, crowd, failed
from tests.fakes.daemon import Daemon, running, stubbed

OOM_AT_2 = ("--abort-with-cuda-oom-on-request", "2")  # of each start: others are served well before


async def warmed(http: aiohttp.ClientSession, daemon: Daemon, *names: str) -> None:
    """Each backend has served somebody well."""
    for name in names:
        assert (await ask(http, daemon, name)).status == 200


def twins(folder: Path, *flags: str) -> dict[str, Any]:
    """Two backends of one model, "shared", the first of them first."""
    backends = {name: stubbed(folder, *flags, ladder=[{"context": "50%"}], context=4096) for name in ("a", "b")}
    return {"backends": backends, "models": {"shared": {"backends": ["a", "b"], "strategy": "priority"}}}


@pytest.mark.parametrize("stream", [False, True])
async def test_row_33_a_job_that_takes_two_backends_down_is_poison(
    tmp_path: Path, http: aiohttp.ClientSession, stream: bool
) -> None:
    """It is told so, and tried no third time; who comes after it is served."""
    async with running(Daemon(tmp_path, twins(tmp_path, *OOM_AT_2))) as daemon:
        await warmed(http, daemon, "a", "b")
        seen = await ask(http, daemon, "shared", "poison", stream=stream)
        assert (seen.status, '"code":"poison"' in seen.body) == (500, True), seen
        assert "a (generation 1) and b (generation 1)" in seen.body
        assert seen.headers["x-should-retry"] == "false"
        job = await daemon.control("GET", f"/v1/jobs/{seen.headers['x-job-id']}")
        assert (job["status"], job["reason"], job["attempts_count"]) == ("failed", "poison", 2)
        assert {attempt["reason"] for attempt in job["attempts"]} <= {"backend_died", "backend_out_of_memory"}
        assert failed(await crowd(http, daemon, [[Ask(name)] for name in ("a", "b")])) == [], "the others go on"


async def test_row_33_poison_that_strikes_in_a_stream_is_recorded_as_such(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    """Its client has been told already that its answer was cut off; the record has both backends."""
    both = twins(tmp_path, *OOM_AT_2)
    second = stubbed(tmp_path, "--hang-mid-stream", "2", timeouts={"progress": "1s"})
    both["backends"]["b"] = second
    async with running(Daemon(tmp_path, both)) as daemon:
        await warmed(http, daemon, "a", "b")
        seen = await ask(http, daemon, "shared", "poison", stream=True)
        assert (seen.status, "[DONE]" in seen.body, "cut off" in seen.body) == (200, False, True)

        async def record() -> dict[str, Any] | None:
            job = await daemon.control("GET", f"/v1/jobs/{seen.headers['x-job-id']}")
            return job if job["status"] != "running" else None

        job = await daemon.until(record, "its record")
        assert (job["status"], job["reason"]) == ("failed", "poison")
        assert [attempt["backend"] for attempt in job["attempts"]] == ["a", "b"]


async def test_row_33_one_that_was_not_alone_is_not_poison(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    """Any of them may have done it."""
    shared = twins(tmp_path, "--abort-with-cuda-oom-on-request", "3", "--prefill-seconds", "0.5", "--slots", "4")
    for backend in shared["backends"].values():
        backend["slots"] = 4
    async with running(Daemon(tmp_path, shared)) as daemon:
        await warmed(http, daemon, "a", "b")
        seen = await crowd(http, daemon, [[Ask("shared")], [Ask("shared", after=0.1)]])
        jobs = [job for job in await daemon.jobs() if job["model"] == "shared"]
        assert [job["attempts_count"] for job in jobs] == [2, 2], "both backends went down under both"
        assert {job["reason"] for job in jobs} <= {"backend_died", "backend_out_of_memory"}
        assert all('"code":"poison"' not in one.body for one in seen)


async def test_row_33_a_backend_that_is_killed_from_outside_is_nobodys_doing(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    """It might have been anybody: the job has failed twice, and that is all that is said."""
    async with running(Daemon(tmp_path, twins(tmp_path, "--die-before-first-byte", "2"))) as daemon:
        await warmed(http, daemon, "a", "b")
        seen = await ask(http, daemon, "shared")
        assert (seen.status, '"code":"backend_died"' in seen.body) == (502, True), seen
        assert (await daemon.jobs())[-1]["attempts_count"] == 2
