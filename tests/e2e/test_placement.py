"""Who may start on a card, and what has to happen first."""

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from tests.fakes.clients import ask
from tests.fakes.daemon import Daemon, stubbed
from tests.fakes.fleet import GIB, cards, fleet, heavy
from tests.fakes.nvml.driver import FakeDriver

pytestmark = pytest.mark.e2e

LONG = ("--tokens", "1000", "--token-rate", "100")


@pytest.fixture
def driver(tmp_path: Path, pytestconfig: pytest.Config) -> FakeDriver:
    return cards(pytestconfig, tmp_path)


async def held(daemon: Daemon, name: str, *words: str) -> dict[str, Any] | None:
    """The backend once it waits for its place, and says so with all these words."""
    backend = await daemon.backend(name)
    return backend if backend["held"] and all(word in backend["held"] for word in words) else None


async def test_a_start_waits_until_the_memory_of_the_one_before_is_really_free(
    tmp_path: Path, driver: FakeDriver, http: aiohttp.ClientSession
) -> None:
    backends = {"first": heavy(tmp_path, 14), "second": heavy(tmp_path, 14)}
    async with fleet(tmp_path, driver, backends) as daemon, asyncio.TaskGroup() as group:
        assert (await ask(http, daemon, "first")).status == 200
        driver.linger()
        asking = group.create_task(ask(http, daemon, "second"))

        async def is_said() -> bool:
            pool = await daemon.pool()
            return bool(pool["unexplained_bytes"] == 14 * GIB and (await daemon.backend("second"))["held"])

        await daemon.until(is_said, "the memory of nobody to be noticed")
        second = await daemon.backend("second")
        assert second["pid"] is None, "not started into a card that is full"
        assert not asking.done()
        driver.linger(0)
        assert (await asking).status == 200
    assert driver.claims.refused() == []


async def test_row_21_a_foreign_process_is_named_and_waited_for(
    tmp_path: Path, driver: FakeDriver, http: aiohttp.ClientSession
) -> None:
    async with fleet(tmp_path, driver, {"big": heavy(tmp_path, 8)}) as daemon, asyncio.TaskGroup() as group:
        async with driver.stranger(18 * GIB) as pid:
            asking = group.create_task(ask(http, daemon, "big"))
            await daemon.until(lambda: held(daemon, "big", "blender", str(pid), "18"), "the holder to be named")
            pool = await daemon.pool()
            assert [(one["pid"], one["name"]) for one in pool["foreign"]] == [(pid, "blender")]
            assert (await daemon.backend("big"))["pid"] is None
            assert psutil.pid_exists(pid), "what is not ours is never killed"
        assert (await asking).status == 200
    assert driver.claims.refused() == []


async def test_row_21_a_foreign_process_that_came_after_the_start_does_not_end_it(
    tmp_path: Path, driver: FakeDriver, http: aiohttp.ClientSession
) -> None:
    async with fleet(tmp_path, driver, {"big": heavy(tmp_path, 8)}) as daemon:
        assert (await ask(http, daemon, "big")).status == 200
        pid = (await daemon.backend("big"))["pid"]
        async with driver.stranger(14 * GIB):
            for _ in range(5):
                assert (await ask(http, daemon, "big")).status == 200
        assert (await daemon.backend("big"))["pid"] == pid


@pytest.mark.parametrize("answer", ["block", 999])
async def test_row_22_without_figures_nothing_starts(
    tmp_path: Path, driver: FakeDriver, http: aiohttp.ClientSession, answer: str | int
) -> None:
    """What runs goes on, the doors stay quick, and what has to start waits for the sensor."""
    backends = {"here": heavy(tmp_path, 4), "waiting": heavy(tmp_path, 4)}
    async with fleet(tmp_path, driver, backends) as daemon, asyncio.TaskGroup() as group:
        assert (await ask(http, daemon, "here")).status == 200
        driver.fail("nvmlDeviceGetMemoryInfo_v2", answer)
        await daemon.until(lambda: _gpu_is(daemon, "stale" if answer == "block" else "failing"), "the sensor to fail")
        asking = group.create_task(ask(http, daemon, "waiting"))
        await daemon.until(lambda: held(daemon, "waiting"), "the start to be held")
        async with asyncio.timeout(1):
            assert (await daemon.pool())["problem"]
        assert (await ask(http, daemon, "here")).status == 200
        assert (await daemon.backend("waiting"))["pid"] is None
        driver.heal("nvmlDeviceGetMemoryInfo_v2")
        assert (await asking).status == 200


async def _gpu_is(daemon: Daemon, state: str, index: int = 0) -> bool:
    return bool((await daemon.status())["gpus"][index]["state"] == state)


async def test_row_22_a_lost_gpu_takes_only_its_own_backends_along(
    tmp_path: Path, pytestconfig: pytest.Config, http: aiohttp.ClientSession
) -> None:
    driver = cards(pytestconfig, tmp_path, 2)
    backends = {"left": heavy(tmp_path, 4, gpus=[0]), "right": heavy(tmp_path, 4, gpus=[1])}
    async with fleet(tmp_path, driver, backends) as daemon:
        assert {(await ask(http, daemon, name)).status for name in backends} == {200}
        right = await daemon.backend("right")
        driver.lose(0)
        left = await daemon.until_phase("parked", "left")
        assert "lost" in left["note"] + left["last_reason"]
        seen = await ask(http, daemon, "left")
        assert seen.status == 503
        assert "backend_parked" in seen.body
        assert (await ask(http, daemon, "right")).status == 200
        assert (await daemon.backend("right"))["pid"] == right["pid"]
        await daemon.control("POST", "/v1/backends/right/restart", {"wait_s": 10})
        assert (await ask(http, daemon, "right")).status == 200


async def test_starts_on_one_gpu_follow_each_other(tmp_path: Path, driver: FakeDriver) -> None:
    """Three that would fit together load one after the other: measuring while another one loads is no measuring."""
    load = ("--vram-load", "--load-seconds", "0.4")
    backends = {name: heavy(tmp_path, 5, *load, autostart=True) for name in ("a", "b", "c")}
    async with fleet(tmp_path, driver, backends) as daemon:
        for name in backends:
            await daemon.until_phase("ready", name)
        pids = [note.split()[2] for note in (driver.claims.folder / ".notes").read_text().splitlines()]
    assert len(set(pids)) == 3
    turns = [pid for at, pid in enumerate(pids) if at == 0 or pids[at - 1] != pid]
    assert len(turns) == 3, "each took all of its memory before the next one began"


async def test_what_an_earlier_run_took_is_expected_again(
    tmp_path: Path, driver: FakeDriver, http: aiohttp.ClientSession
) -> None:
    backends = {"big": heavy(tmp_path, 14, memory={})}
    async with fleet(tmp_path, driver, backends) as daemon:
        assert (await ask(http, daemon, "big")).status == 200
        await daemon.until(lambda: _holds(daemon, "big", 14 * GIB), "its memory to be measured")
    # The same state folder; nothing says how much it needs but what was seen.
    async with driver.stranger(12 * GIB), fleet(tmp_path, driver, backends) as daemon, asyncio.TaskGroup() as group:
        asking = group.create_task(ask(http, daemon, "big"))
        await daemon.until(lambda: held(daemon, "big", "blender"), "the start to be held")
        holder = await _holder(daemon, "big")
        assert (holder["source"], holder["expected_bytes"]) == ("learned", 14 * GIB)
        asking.cancel()
    assert driver.claims.refused() == []


async def _holder(daemon: Daemon, name: str) -> dict[str, Any]:
    return next((one for one in (await daemon.pool())["holders"] if one["backend"] == name), {"held_bytes": None})


async def _holds(daemon: Daemon, name: str, size: int) -> bool:
    return bool((await _holder(daemon, name))["held_bytes"] == size)


async def test_one_that_is_pinned_never_leaves(tmp_path: Path, driver: FakeDriver, http: aiohttp.ClientSession) -> None:
    backends = {"pinned": heavy(tmp_path, 14, pinned=True), "other": heavy(tmp_path, 14, max_wait="500ms")}
    async with fleet(tmp_path, driver, backends, queue={"timeout": "3s"}) as daemon:
        assert (await ask(http, daemon, "pinned")).status == 200
        pid = (await daemon.backend("pinned"))["pid"]
        refused = await ask(http, daemon, "other")
        assert refused.status == 503
        assert "pinned" in refused.body, "says who is in the way"
        assert (await daemon.backend("pinned"))["pid"] == pid
        assert (await ask(http, daemon, "pinned")).status == 200


async def test_one_that_could_never_fit_is_refused_at_once(
    tmp_path: Path, driver: FakeDriver, http: aiohttp.ClientSession
) -> None:
    backends = {"small": heavy(tmp_path, 8), "giant": heavy(tmp_path, 30)}
    async with fleet(tmp_path, driver, backends) as daemon:
        assert (await ask(http, daemon, "small")).status == 200
        pid = (await daemon.backend("small"))["pid"]
        refused = await ask(http, daemon, "giant")
        assert (refused.status, refused.took < 5) == (503, True)
        assert "30" in refused.body
        assert (await daemon.backend("small"))["pid"] == pid, "nobody left for it"


async def test_idle_for_its_ttl_it_is_unloaded(tmp_path: Path, driver: FakeDriver, http: aiohttp.ClientSession) -> None:
    async with fleet(tmp_path, driver, {"one": heavy(tmp_path, 8, ttl="1s")}) as daemon:
        assert (await ask(http, daemon, "one")).status == 200
        await daemon.until_phase("stopped", "one", within=10)
        assert driver.claims.taken(0) == 0
        assert (await ask(http, daemon, "one")).status == 200
        assert (await daemon.backend("one"))["generation"] == 2


async def test_a_load_belongs_to_nobody(tmp_path: Path, driver: FakeDriver, http: aiohttp.ClientSession) -> None:
    """The client that caused it leaves meanwhile: it is loaded nevertheless."""
    async with fleet(tmp_path, driver, {"slow": heavy(tmp_path, 8, "--load-seconds", "1")}) as daemon:
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(ask(http, daemon, "slow"))
            await daemon.until_phase("loading", "slow")
            asking.cancel()
        assert (await daemon.until_phase("ready", "slow"))["generation"] == 1
        assert [job["status"] for job in await daemon.jobs()] == ["cancelled"]


async def test_a_client_that_leaves_before_there_was_room_evicts_nobody(
    tmp_path: Path, driver: FakeDriver, http: aiohttp.ClientSession
) -> None:
    backends = {"busy": heavy(tmp_path, 14, *LONG, max_wait="30s"), "other": heavy(tmp_path, 14)}
    async with fleet(tmp_path, driver, backends) as daemon, asyncio.TaskGroup() as group:
        working = group.create_task(ask(http, daemon, "busy", max_tokens=200))
        await daemon.until_phase("ready", "busy")
        pid = (await daemon.backend("busy"))["pid"]
        asking = group.create_task(ask(http, daemon, "other"))
        await daemon.until(lambda: held(daemon, "other"), "the other one to wait")
        asking.cancel()
        assert (await working).status == 200
        assert (await ask(http, daemon, "busy", max_tokens=50)).status == 200
        assert (await daemon.backend("busy"))["pid"] == pid
        assert [e["backend"] for e in await daemon.events("placement.admitted")] == ["busy"]


async def test_an_operator_loads_and_unloads(tmp_path: Path, driver: FakeDriver) -> None:
    backends = {"a": heavy(tmp_path, 14), "b": heavy(tmp_path, 14)}
    async with fleet(tmp_path, driver, backends) as daemon:
        await daemon.control("POST", "/v1/backends/a/load", {"wait_s": 10})
        await daemon.until_phase("ready", "a")
        await daemon.control("POST", "/v1/models/b/load", {"wait_s": 10})
        await daemon.until_phase("ready", "b")
        assert (await daemon.backend("a"))["phase"] == "stopped", "idle, it made room"
        await daemon.control("POST", "/v1/models/b/unload", {"wait_s": 10})
        await daemon.until_phase("stopped", "b")


async def test_where_no_gpu_is_seen_backends_start_without_it(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    """A machine without a driver: the host's memory is the only pool."""
    daemon = Daemon(tmp_path, {"backends": {"plain": stubbed(tmp_path, autostart=False)}})
    await daemon.start()
    try:
        assert (await ask(http, daemon, "plain")).status == 200
        assert [pool["key"] for pool in (await daemon.status())["pools"]] == ["host"]
    finally:
        await daemon.terminate()
