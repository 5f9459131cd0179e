"""Sensors and first actions, with the unmodified pynvml on a stand-in driver library."""

import asyncio
from pathlib import Path

import aiohttp
import pytest

from tests.e2e.conftest import Start
from tests.fakes.daemon import Daemon
from tests.fakes.nvml.driver import FakeDriver, build

CHAT = "/v1/chat/completions"
HELLO = {"model": "stub", "messages": [{"role": "user", "content": "hello"}]}
GIB = 2**30
QUICK = {"memory": {"vram": {"leave_after": "1s"}}}


@pytest.fixture
def driver(tmp_path: Path, pytestconfig: pytest.Config) -> FakeDriver:
    assert pytestconfig.cache is not None
    made = FakeDriver(build(pytestconfig.cache.mkdir("fake-nvml")), tmp_path)
    hold(made, free=20 * GIB)
    return made


def hold(driver: FakeDriver, *, free: int) -> None:
    driver.gpu(0, name="Test GPU", uuid="GPU-0", total=24 * GIB, free=free, used=24 * GIB - free, reserved=0)


async def gpu_is(daemon: Daemon, **wanted: object) -> dict[str, object] | None:
    found = (await daemon.status())["gpus"]
    return found[0] if found and all(found[0][key] == value for key, value in wanted.items()) else None


async def test_under_critical_pressure_idle_backends_leave_and_work_waits(
    start: Start, driver: FakeDriver, http: aiohttp.ClientSession
) -> None:
    async with start(top=QUICK, environment=dict(driver.env), memory={"vram": "1GiB"}) as daemon:
        await daemon.until_phase("ready")
        assert await gpu_is(daemon, pressure="ok", vram_total_bytes=24 * GIB)
        hold(driver, free=100 * 2**20)
        backend = await daemon.until_phase("stopped", within=10)
        assert backend["want"] == "on_demand"
        assert "short of memory" in backend["note"]
        assert [e["backend"] for e in await daemon.events("memory.evicted")] == ["stub"]

        async def ask() -> int:
            async with http.post(daemon.url + CHAT, json=HELLO) as answer:
                return answer.status

        async def waits() -> bool:
            queue = (await daemon.status())["queue"]
            return queue["depth"] == 1 and "short of memory" in (queue["paused"] or "")

        async with asyncio.TaskGroup() as group:
            asking = group.create_task(ask())
            await daemon.until(waits, "the request to be held back")
            assert (await daemon.backend())["phase"] == "stopped"
            hold(driver, free=20 * GIB)
        assert asking.result() == 200
        kinds = [event["kind"] for event in await daemon.events()]
        assert kinds.index("queue.paused") < kinds.index("queue.resumed")


async def test_no_request_loads_a_model_into_a_full_card(
    start: Start, driver: FakeDriver, http: aiohttp.ClientSession
) -> None:
    """Less is free than what is to stay free: the load waits, and says for what."""
    hold(driver, free=int(1.9 * GIB))
    top = QUICK | {"queue": {"timeout": "2s"}}
    async with start(top=top, environment=dict(driver.env), autostart=False) as daemon:
        async with http.post(daemon.url + CHAT, json=HELLO) as answer:
            assert answer.status == 503
            assert "1.9 GiB free" in (await answer.json())["error"]["message"]
        assert (await daemon.backend())["pid"] is None
        hold(driver, free=20 * GIB)
        async with http.post(daemon.url + CHAT, json=HELLO) as answer:
            assert answer.status == 200


async def test_row_22_a_blocked_driver_is_stale_and_stops_nobody(
    start: Start, driver: FakeDriver, http: aiohttp.ClientSession
) -> None:
    async with start(environment=dict(driver.env)) as daemon:
        await daemon.until_phase("ready")
        driver.fail("nvmlDeviceGetMemoryInfo_v2", "block")
        stale = await daemon.until(lambda: gpu_is(daemon, state="stale"), "the GPU to be shown as stale")
        assert stale["sample_age_s"] > 1
        async with asyncio.timeout(1):
            await daemon.status()
        async with http.post(daemon.url + CHAT, json=HELLO) as answer:
            assert answer.status == 200
        assert await daemon.terminate(within=10) == 0


async def test_without_a_driver_the_machine_is_shown_as_it_is(start: Start) -> None:
    async with start() as daemon:
        status = await daemon.status()
        assert status["gpu_sensor"]["state"] in {"absent", "ok"}
        assert status["host"]["ram_total_bytes"] > 0
        assert status["host"]["pressure"] == "ok"
