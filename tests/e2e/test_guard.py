"""The memory guard with everything real but the GPU: who leaves, who comes back smaller, who is left in peace."""

import asyncio
import json
from pathlib import Path

import aiohttp
import psutil
import pytest

from tests.fakes.clients import ask
from tests.fakes.daemon import Daemon, Json
from tests.fakes.fleet import CARD, GIB, cards, fleet, heavy
from tests.fakes.nvml.driver import FakeDriver

pytestmark = pytest.mark.e2e

NEARLY_ALL = CARD - 100 * 2**20  # critical: less than 256 MiB are left
# Half of its context is the only smaller size, so that a shrink shows in what it is started with.
LADDER = {"context": 8192, "ladder": [{"context": "50%"}]}
STEADY = ("--token-rate", "100", "--tokens", "1000")


@pytest.fixture
def driver(tmp_path: Path, pytestconfig: pytest.Config) -> FakeDriver:
    return cards(pytestconfig, tmp_path)


async def grows(daemon: Daemon, driver: FakeDriver, name: str, size: int = NEARLY_ALL) -> None:
    """A backend takes so much of the card in all."""
    pid = (await daemon.backend(name))["pid"]
    assert driver.claims.claim(0, size, pid), "not so much is free"


async def level(daemon: Daemon) -> str:
    return str((await daemon.status())["gpus"][0]["pressure"])


async def busy(daemon: Daemon, name: str, requests: int = 1) -> bool:
    return bool((await daemon.backend(name))["in_flight"] == requests)


async def is_ready_on(daemon: Daemon, rung: int) -> Json | None:
    big = await daemon.backend("big")
    return big if (big["phase"], big["rung"]) == ("ready", rung) else None


async def until_level(daemon: Daemon, wanted: str) -> None:
    async def reached() -> bool:
        return await level(daemon) == wanted

    await daemon.until(reached, f"the card to be {wanted}")


async def until_told(daemon: Daemon, kind: str, count: int = 1) -> list[Json]:
    async def told() -> list[Json] | None:
        events = await daemon.events(kind)
        return events if len(events) >= count else None

    found: list[Json] = await daemon.until(told, f"{count} of {kind}")
    return found


async def test_a_card_that_a_stranger_makes_tight_costs_idle_ones_their_place(
    tmp_path: Path, driver: FakeDriver, http: aiohttp.ClientSession
) -> None:
    """The one of lowest priority first, and only as many as it takes; never one that is pinned."""
    backends = {
        "pinned": heavy(tmp_path, 4, pinned=True),
        "low": heavy(tmp_path, 4, priority=-1),
        "high": heavy(tmp_path, 4, priority=1),
    }
    async with fleet(tmp_path, driver, backends) as daemon:
        for name in backends:
            assert (await ask(http, daemon, name)).status == 200
        async with driver.stranger(int(11.2 * GIB)):
            assert "short of memory" in (await daemon.until_phase("stopped", "low"))["note"]
            await until_level(daemon, "ok")
            assert [e["backend"] for e in await daemon.events("memory.evicted")] == ["low"]
            assert (await daemon.backend("high"))["phase"] == "ready", "the one was enough"
            effect = (await until_told(daemon, "memory.guard"))[0]
            assert (effect["backend"], effect["data"]["freed_bytes"]) == ("low", 4 * GIB)
        assert (await ask(http, daemon, "low")).status == 200, "the next request brings it back"


async def test_a_card_that_is_full_by_design_is_left_as_it_is(
    tmp_path: Path, driver: FakeDriver, http: aiohttp.ClientSession
) -> None:
    """It takes more than it was said to: the card is tight as soon as it is there, and no tighter later."""
    async with fleet(tmp_path, driver, {"whole": heavy(tmp_path, 23, memory={"vram": "22GiB"})}) as daemon:
        assert (await ask(http, daemon, "whole")).status == 200
        await until_level(daemon, "tight")
        looked = driver.calls("nvmlDeviceGetMemoryInfo_v2")

        async def looked_again() -> bool:
            return driver.calls("nvmlDeviceGetMemoryInfo_v2") >= looked + 4

        await daemon.until(looked_again, "two looks to agree, and some more")
        whole = await daemon.backend("whole")
        assert (whole["phase"], whole["generation"]) == ("ready", 1)
        assert (await ask(http, daemon, "whole")).status == 200


async def test_a_busy_one_of_ours_finishes_and_comes_back_one_rung_smaller(
    tmp_path: Path, driver: FakeDriver, http: aiohttp.ClientSession
) -> None:
    backends = {"big": heavy(tmp_path, 8, *STEADY, timeouts={"drain": "20s"}, **LADDER)}
    async with fleet(tmp_path, driver, backends) as daemon, asyncio.TaskGroup() as group:
        assert (await ask(http, daemon, "big", max_tokens=1)).status == 200
        working = group.create_task(ask(http, daemon, "big", max_tokens=300))
        await daemon.until(lambda: busy(daemon, "big"), "the request to be in flight")
        await grows(daemon, driver, "big")
        await daemon.until_phase("draining", "big")
        waiting = group.create_task(ask(http, daemon, "big", max_tokens=1))
        assert json.loads((await working).body)["usage"]["completion_tokens"] == 300
        assert (await waiting).status == 200, "what waited is served by the smaller one"

        again = await daemon.backend("big")
        assert (again["generation"], again["rung"], again["context_tokens"]) == (2, 1, 4096)
        assert "gpu0 is short of memory" in again["rung_why"]
        assert 0 < again["climb_in_s"] <= 1800
        async with http.get(f"{daemon.url}/v1/models/big") as answer:
            meta = (await answer.json())["meta"]
        told = {key: again[key] for key in ("rung", "rung_name", "rung_why")}
        assert {key: meta[key] for key in told} == told
        last = (await daemon.jobs())[-1]["attempts"][-1]
        assert {key: last[key] for key in told} == told
        await until_level(daemon, "ok")
        effect = (await until_told(daemon, "memory.guard"))[0]
        assert (effect["backend"], effect["data"]["pool"]) == ("big", "GPU-0")
        assert effect["data"]["freed_bytes"] > 10 * GIB
        assert [job["attempts_count"] for job in await daemon.jobs()][1] == 1, "it was let finish"
        (incident,) = (await daemon.control("GET", "/v1/incidents"))["incidents"]
        assert (incident["kind"], incident["jobs_failed"]) == ("shrunk", 0)


async def test_work_that_outlasts_the_drain_is_run_again_unless_its_client_has_some_of_it(
    tmp_path: Path, driver: FakeDriver, http: aiohttp.ClientSession
) -> None:
    backends = {"big": heavy(tmp_path, 8, *STEADY, slots=2, timeouts={"drain": "500ms"}, **LADDER)}
    async with fleet(tmp_path, driver, backends) as daemon, asyncio.TaskGroup() as group:
        assert (await ask(http, daemon, "big", max_tokens=1)).status == 200
        plain = group.create_task(ask(http, daemon, "big", max_tokens=400))
        stream = group.create_task(ask(http, daemon, "big", max_tokens=400, stream=True))
        await daemon.until(lambda: busy(daemon, "big", 2), "the requests to be in flight")
        await grows(daemon, driver, "big")
        cut = await stream
        assert '"error"' in cut.body
        assert "[DONE]" not in cut.body
        assert json.loads((await plain).body)["usage"]["completion_tokens"] == 400
        ended = {
            job["stream"]: [(each["status"], each["reason"], each["rung"]) for each in job["attempts"]]
            for job in (await daemon.jobs())[1:]
        }
        assert ended[True] == [("failed", "draining", 0)]
        assert ended[False] == [("failed", "draining", 0), ("done", None, 1)]


async def test_without_a_smaller_size_it_is_parked_and_says_why(
    tmp_path: Path, driver: FakeDriver, http: aiohttp.ClientSession
) -> None:
    backends = {"big": heavy(tmp_path, 8, *STEADY, timeouts={"drain": "20s"}, autostart=True, ladder=[])}
    async with fleet(tmp_path, driver, backends) as daemon, asyncio.TaskGroup() as group:
        assert (await ask(http, daemon, "big", max_tokens=1)).status == 200
        working = group.create_task(ask(http, daemon, "big", max_tokens=300))
        await daemon.until(lambda: busy(daemon, "big"), "the request to be in flight")
        await grows(daemon, driver, "big")
        assert (await working).status == 200
        parked = await daemon.until_phase("parked", "big")
        assert "gpu0 is short of memory" in parked["note"]
        assert "no smaller footprint is left" in parked["note"]
        await until_level(daemon, "ok")
        refused = await ask(http, daemon, "big")
        assert (refused.status, "no smaller footprint is left" in refused.body) == (503, True)
        await daemon.control("POST", "/v1/backends/big/reset", {"wait_s": 10})
        assert (await ask(http, daemon, "big", max_tokens=1)).status == 200


async def test_ours_are_left_in_peace_where_a_stranger_alone_is_to_blame(
    tmp_path: Path, driver: FakeDriver, http: aiohttp.ClientSession
) -> None:
    backends = {"big": heavy(tmp_path, 8, *STEADY, **LADDER)}
    async with fleet(tmp_path, driver, backends) as daemon, asyncio.TaskGroup() as group:
        assert (await ask(http, daemon, "big", max_tokens=1)).status == 200
        working = group.create_task(ask(http, daemon, "big", max_tokens=1000))
        await daemon.until(lambda: busy(daemon, "big"), "the request to be in flight")
        async with driver.stranger(NEARLY_ALL - 8 * GIB) as pid:
            (told,) = await until_told(daemon, "memory.guard")
            assert f"blender (pid {pid}" in told["message"]
            assert psutil.pid_exists(pid)
            assert await level(daemon) == "critical"
            assert (await working).status == 200
        big = await daemon.backend("big")
        assert (big["generation"], big["rung"]) == (1, 0)
        assert await daemon.events("memory.shrunk") == []


async def test_after_service_with_room_it_tries_the_larger_size_again(
    tmp_path: Path, driver: FakeDriver, http: aiohttp.ClientSession
) -> None:
    """After `climb_after`, and not where a stranger has the room that it would take."""
    settings = {"autostart": True, "timeouts": {"drain": "20s"}, "restart": {"climb_after": "1s"}, **LADDER}
    async with fleet(tmp_path, driver, {"big": heavy(tmp_path, 8, *STEADY, **settings)}) as daemon:
        async with asyncio.TaskGroup() as group:
            assert (await ask(http, daemon, "big", max_tokens=1)).status == 200
            working = group.create_task(ask(http, daemon, "big", max_tokens=300))
            await daemon.until(lambda: busy(daemon, "big"), "the request to be in flight")
            await grows(daemon, driver, "big")
            assert (await working).status == 200
        await daemon.until(lambda: is_ready_on(daemon, 1), "it to be back smaller")
        async with driver.stranger(10 * GIB):  # it takes all of the card at its full size, as was seen
            assert (await ask(http, daemon, "big", max_tokens=1)).status == 200
            await asyncio.sleep(2.5)  # nothing is told of a climb that is not tried
            assert await daemon.events("memory.climbed") == []
        big = await daemon.until(lambda: is_ready_on(daemon, 0), "its full size")
        assert (big["generation"], big["context_tokens"], big["rung_why"]) == (3, 8192, "")
    assert driver.claims.refused() == []


async def test_a_climb_that_fails_is_taken_back_and_doubles_the_wait(
    tmp_path: Path, driver: FakeDriver, http: aiohttp.ClientSession
) -> None:
    wait = 3.0  # longer than two looks at the memory far from every limit, which is what the climb itself waits for
    settings = {"autostart": True, "restart": {"climb_after": f"{wait}s"}, **LADDER}
    backends = {"big": heavy(tmp_path, 8, "--load-oom-above-ctx", "4096", **settings)}
    async with fleet(tmp_path, driver, backends) as daemon:
        waited = []
        for climbs in (1, 2):
            await daemon.until(lambda: is_ready_on(daemon, 1), "it to be ready on the smaller size")
            assert (await ask(http, daemon, "big")).status == 200
            climb = (await until_told(daemon, "memory.climbed", climbs))[-1]
            ready = [e for e in await daemon.events("backend.phase") if e["message"] == "big is ready"][-1]
            waited.append(climb["at"] - ready["at"])
        assert wait <= waited[0] < 2 * wait <= waited[1]
