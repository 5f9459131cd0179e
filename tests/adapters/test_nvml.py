"""The GPU sensor: unmodified pynvml over a stand-in libnvidia-ml.so.1, in a process of its own."""

import asyncio
import json
import os
import shutil
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.nvml.driver import FakeDriver, build

CHECKOUT = Path(__file__).parents[2]
READER = CHECKOUT / "tests/fakes/nvml/reader.py"
GIB = 1 << 30
LIMIT_S = 20.0  # a bound on every wait, far above what any takes
OK, ABSENT, FAILING, STALE, LOST = "ok", "absent", "failing", "stale", "lost"


class Reader:
    """A process with the sensor in it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def ask(self, command: str = "read") -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{command}\n".encode())
        async with asyncio.timeout(LIMIT_S):
            line = await self.process.stdout.readline()
        assert line, "the reader died"
        return json.loads(line)

    async def until(self, wanted: Callable[[Any], bool]) -> Any:
        """The first reading that is as wanted."""
        async with asyncio.timeout(LIMIT_S):
            while not wanted(reading := await self.ask()):
                pass
        return reading

    async def leave(self) -> float:
        """How many seconds the process takes to end after its input was closed."""
        assert self.process.stdin is not None
        began = time.monotonic()
        self.process.stdin.close()
        async with asyncio.timeout(LIMIT_S):
            assert await self.process.wait() == 0
        return time.monotonic() - began


Start = Callable[..., AbstractAsyncContextManager[Reader]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine without a PCI bus, with the real /proc."""
    folder = tmp_path / "root"
    folder.mkdir()
    (folder / "proc").symlink_to("/proc")
    return folder


@pytest.fixture
def driver(tmp_path: Path, pytestconfig: pytest.Config) -> FakeDriver:
    assert pytestconfig.cache is not None
    return FakeDriver(build(pytestconfig.cache.mkdir("fake-nvml")), tmp_path)


@pytest.fixture
def start(root: Path, driver: FakeDriver, tmp_path: Path) -> Start:
    @asynccontextmanager
    async def started(
        *, deadline: float = LIMIT_S, retry: float = 3600.0, library: bool = True
    ) -> AsyncIterator[Reader]:
        env = {**os.environ, **driver.env, "PYTHONPATH": str(CHECKOUT), "PYTHONWARNINGS": "error"}
        if not library:
            env["LD_LIBRARY_PATH"] = str(tmp_path)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, READER, str(deadline), str(retry), root),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=env,
        )
        try:
            yield (reader := Reader(process))
            if process.returncode is None:
                await reader.leave()
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    return started


def add_card(driver: FakeDriver, index: int = 0, **values: object) -> None:
    card: dict[str, object] = {"pci": f"0000:{index + 1:02x}:00"}
    card |= {"uuid": f"GPU-{index}", "name": f"Card {index}", "total": 24 * GIB, "used": 10 * GIB, "free": 13 * GIB}
    driver.gpu(index, **(card | {"reserved": GIB, "gpu": 42, "celsius": 61, "milliwatts": 123500} | values))


def comm(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def plug_card(root: Path, *, vendor: str = "0x10de", device_class: str = "0x030000") -> None:
    device = root / "sys/bus/pci/devices/0000:01:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text(f"{vendor}\n")
    (device / "class").write_text(f"{device_class}\n")


async def test_every_figure_comes_from_the_driver(driver: FakeDriver, start: Start) -> None:
    add_card(driver)
    before = time.monotonic()
    async with start() as reader:
        reading = await reader.ask()
    assert (reading["state"], reading["problem"], reading["driver"]) == (OK, "", "550.54.14")
    (gpu,) = reading["gpus"]
    assert before < gpu.pop("at") <= reading["now"]
    assert gpu == {
        "index": 0,
        "uuid": "GPU-0",
        "name": "Card 0",
        "state": OK,
        "total": 24 * GIB,
        "used": 10 * GIB,
        "free": 13 * GIB,
        "reserved": GIB,
        "utilization": 0.42,
        "temperature_c": 61.0,
        "power_w": 123.5,
        "processes": [],
        "problem": "",
        "address": "0000:01:00",
    }


async def test_where_a_gpu_is_on_the_bus(driver: FakeDriver, start: Start) -> None:
    """Like the kernel says it, also of a GPU behind a controller with a domain of its own; lost, it is still known."""
    add_card(driver, 0, pci="10000:c1:1f")
    add_card(driver, 1)
    add_card(driver, 2)
    driver.fail("nvmlDeviceGetPciInfo_v3", 3, gpu=2)
    async with start() as reader:
        good = await reader.ask()
        driver.lose(1)
        after = await reader.ask()
    assert [gpu["address"] for gpu in good["gpus"]] == ["10000:c1:1f", "0000:02:00", ""]
    assert (after["gpus"][1]["state"], after["gpus"][1]["address"]) == (LOST, "0000:02:00")


async def test_processes_of_both_lists_are_merged_and_named(driver: FakeDriver, start: Start) -> None:
    own, gone = os.getpid(), 4_194_999  # the second is above the highest pid there is
    add_card(driver, compute=f"{own}:{5 * GIB},{gone}:-,1:{GIB}", graphics=f"{own}:{5 * GIB},7777777:{GIB // 2}")
    async with start() as reader:
        (gpu,) = (await reader.ask())["gpus"]
    assert gpu["processes"] == [
        {"pid": own, "used": 5 * GIB, "name": comm(own), "busy": 0.0},
        {"pid": 1, "used": GIB, "name": comm(1), "busy": 0.0},
        {"pid": 7777777, "used": GIB // 2, "name": "", "busy": 0.0},
        {"pid": gone, "used": None, "name": "", "busy": 0.0},
    ]


async def test_each_process_is_told_with_how_busy_it_keeps_the_gpu(driver: FakeDriver, start: Start) -> None:
    """Of several samples of one, its busiest; what a process does that holds no memory is nobody's."""
    add_card(driver, compute=f"1:{GIB},2:{GIB}", graphics=f"3:{GIB}", busy="1:30,1:35,3:5,9:50")
    async with start() as reader:
        (gpu,) = (await reader.ask())["gpus"]
    assert [(process["pid"], process["busy"]) for process in gpu["processes"]] == [(1, 0.35), (2, 0.0), (3, 0.05)]


@pytest.mark.parametrize("code", [3, 4, 13], ids=["not supported", "no permission", "no such function"])
async def test_a_gpu_that_cannot_tell_who_keeps_it_busy_is_not_asked_again(
    driver: FakeDriver, start: Start, code: int
) -> None:
    asked = "nvmlDeviceGetProcessUtilization"
    for index in range(2):
        add_card(driver, index, compute=f"1:{GIB}", busy="1:50")
    driver.fail(asked, code, gpu=0)
    async with start() as reader:
        for looks in range(1, 4):
            first, second = (await reader.ask())["gpus"]
            assert (first["state"], first["processes"][0]["busy"]) == (OK, None)
            assert second["processes"][0]["busy"] == 0.5, "each GPU for itself"
            assert driver.calls(asked) == 1 + 2 * looks, "the second is asked twice each time, first for the size"


async def test_an_error_that_passes_is_no_reason_not_to_ask_again(driver: FakeDriver, start: Start) -> None:
    add_card(driver, compute=f"1:{GIB}", busy="1:50")
    driver.fail("nvmlDeviceGetProcessUtilization", 999)
    async with start() as reader:
        assert (await reader.ask())["gpus"][0]["processes"][0]["busy"] is None
        driver.heal("nvmlDeviceGetProcessUtilization")
        assert (await reader.ask())["gpus"][0]["processes"][0]["busy"] == 0.5


async def test_a_reloaded_driver_is_asked_again_who_keeps_a_gpu_busy(driver: FakeDriver, start: Start) -> None:
    add_card(driver, compute=f"1:{GIB}", busy="1:50")
    driver.fail("nvmlDeviceGetProcessUtilization", 3)
    async with start() as reader:
        assert (await reader.ask())["gpus"][0]["processes"][0]["busy"] is None
        driver.heal("nvmlDeviceGetProcessUtilization")
        assert (await reader.ask())["gpus"][0]["processes"][0]["busy"] is None
        driver.fail("nvmlDeviceGetCount_v2", 1)  # uninitialized
        await reader.ask()
        driver.heal("nvmlDeviceGetCount_v2")
        reading = await reader.until(lambda reading: reading["state"] == OK)
        assert reading["gpus"][0]["processes"][0]["busy"] == 0.5


async def test_a_gpu_lost_while_it_is_asked_who_keeps_it_busy_is_lost(driver: FakeDriver, start: Start) -> None:
    add_card(driver, compute=f"1:{GIB}", busy="1:50")
    driver.fail("nvmlDeviceGetProcessUtilization", 15)
    async with start() as reader:
        assert (await reader.ask())["gpus"][0]["state"] == LOST


@pytest.mark.parametrize("shares", ["1:4294967295", "1:20,2:101"])
async def test_shares_that_can_be_none_are_not_believed(driver: FakeDriver, start: Start, shares: str) -> None:
    add_card(driver, compute=f"1:{GIB},2:{GIB}", busy=shares)
    async with start() as reader:
        (gpu,) = (await reader.ask())["gpus"]
    assert [process["busy"] for process in gpu["processes"]] == [None, None]


async def test_behind_a_server_that_shares_the_gpu_nobody_is_told_apart(
    driver: FakeDriver, start: Start, tmp_path: Path
) -> None:
    """The samples may be of the MPS server, which works for its clients."""
    program = tmp_path / "nvidia-cuda-mps-server"
    shutil.copy(shutil.which("sleep") or "/bin/sleep", program)
    process = await asyncio.create_subprocess_exec(program, "600")
    try:
        add_card(driver, compute=f"1:{2 * GIB},{process.pid}:{GIB}", busy=f"{process.pid}:90")
        async with start() as reader:
            (gpu,) = (await reader.ask())["gpus"]
    finally:
        process.kill()
        await process.wait()
    assert [process["busy"] for process in gpu["processes"]] == [None, None]


@pytest.mark.parametrize("code", [13, 25, 3], ids=["no such function", "version mismatch", "not supported"])
async def test_an_old_driver_is_asked_in_the_old_way(driver: FakeDriver, start: Start, code: int) -> None:
    add_card(driver, compute=f"1:{GIB}")
    for function in ("MemoryInfo_v2", "ComputeRunningProcesses_v3", "GraphicsRunningProcesses_v3"):
        driver.fail(f"nvmlDeviceGet{function}", code)
    async with start() as reader:
        (gpu,) = (await reader.ask())["gpus"]
    assert (gpu["total"], gpu["free"], gpu["used"], gpu["reserved"]) == (24 * GIB, 13 * GIB, 11 * GIB, 0)
    assert [process["pid"] for process in gpu["processes"]] == [1]


async def test_what_a_gpu_does_not_support_is_none(driver: FakeDriver, start: Start) -> None:
    add_card(driver)
    for function in ("UtilizationRates", "Temperature", "PowerUsage"):
        driver.fail(f"nvmlDeviceGet{function}", 3)
    for version in ("v2", "v3"):
        driver.fail(f"nvmlDeviceGetComputeRunningProcesses_{version}", 3)
    async with start() as reader:
        (gpu,) = (await reader.ask())["gpus"]
    assert (gpu["state"], gpu["free"]) == (OK, 13 * GIB)
    assert (gpu["utilization"], gpu["temperature_c"], gpu["power_w"], gpu["processes"]) == (None, None, None, [])


async def test_a_gpu_that_shares_the_hosts_memory_is_not_read_as_empty(driver: FakeDriver, start: Start) -> None:
    add_card(driver)
    driver.fail("nvmlDeviceGetMemoryInfo_v2", 3)
    driver.fail("nvmlDeviceGetMemoryInfo", 3)
    async with start() as reader:
        reading = await reader.ask()
    assert reading["state"] == reading["gpus"][0]["state"] == FAILING
    assert "does not report its memory" in reading["problem"]


# --- nothing to watch ---


async def test_without_the_library_it_is_absent_and_looked_for_again(driver: FakeDriver, start: Start) -> None:
    async with start(library=False, retry=0.05) as reader:
        reading = await reader.ask()
        assert (reading["state"], reading["gpus"]) == (ABSENT, [])
        assert reading["problem"] == "no NVIDIA driver, and no NVIDIA GPU on the PCI bus"
        # An installation puts the library where the loader looks: here, the folder that was empty.
        folder = Path(driver.env["FAKE_NVML"]).parent
        (folder / "libnvidia-ml.so.1").symlink_to(Path(driver.env["LD_LIBRARY_PATH"]) / "libnvidia-ml.so.1")
        add_card(driver)
        assert len((await reader.until(lambda reading: reading["state"] == OK))["gpus"]) == 1


async def test_a_card_without_its_library_is_told_what_to_install(root: Path, start: Start) -> None:
    plug_card(root)
    async with start(library=False) as reader:
        reading = await reader.ask()
        assert reading["state"] == ABSENT
        assert "libnvidia-ml.so.1" in reading["problem"]


async def test_an_absent_driver_is_left_alone_until_the_retry(driver: FakeDriver, start: Start) -> None:
    driver.fail("nvmlInitWithFlags", 9)
    async with start() as reader:
        assert [(await reader.ask())["state"] for _ in range(5)] == [ABSENT] * 5
    assert driver.calls("nvmlInitWithFlags") == 1


@pytest.mark.parametrize(
    ("card", "state"),
    [
        ({"device_class": "0x030200"}, FAILING),
        ({"device_class": "0x040300"}, ABSENT),
        ({"vendor": "0x1002"}, ABSENT),
    ],
    ids=["an NVIDIA GPU", "its sound device only", "an AMD GPU"],
)
async def test_no_driver_is_a_fault_only_where_there_is_a_gpu(
    driver: FakeDriver, start: Start, root: Path, card: dict[str, str], state: str
) -> None:
    plug_card(root, **card)
    driver.fail("nvmlInitWithFlags", 9)
    async with start() as reader:
        reading = await reader.ask()
    assert reading["state"] == state
    assert "modprobe nvidia" in reading["problem"]


@pytest.mark.parametrize("plugged", [True, False])
async def test_a_driver_that_sees_no_gpu(driver: FakeDriver, start: Start, root: Path, plugged: bool) -> None:
    if plugged:
        plug_card(root)
        (root / "sys/bus/pci/devices/unreadable").mkdir()
    async with start(retry=0.01) as reader:
        reading = await reader.ask()
        assert reading["state"] == (FAILING if plugged else ABSENT)
        assert ("DeviceAllow=" in reading["problem"]) is plugged
        add_card(driver)
        await reader.until(lambda reading: reading["state"] == OK)


# --- errors ---


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (4, "access to /dev/nvidia*"),
        (18, "restart this daemon"),
        (999, "nvidia-smi"),
        (2000, "NVML error 2000"),  # a code from the future
    ],
)
async def test_errors_of_the_driver_are_told_with_what_to_do(
    driver: FakeDriver, start: Start, code: int, advice: str
) -> None:
    add_card(driver)
    driver.fail("nvmlInitWithFlags", code)
    async with start(retry=0.01) as reader:
        reading = await reader.ask()
        assert (reading["state"], reading["gpus"]) == (FAILING, [])
        assert advice in reading["problem"]
        driver.heal("nvmlInitWithFlags")
        assert (await reader.until(lambda reading: reading["state"] == OK))["problem"] == ""


async def test_a_driver_that_begins_to_fail_keeps_its_gpus_listed(driver: FakeDriver, start: Start) -> None:
    add_card(driver)
    async with start() as reader:
        good = await reader.ask()
        driver.fail("nvmlDeviceGetCount_v2", 999)
        reading = await reader.ask()
        assert reading["state"] == FAILING
        assert [(gpu["uuid"], gpu["state"], gpu["at"]) for gpu in reading["gpus"]] == [
            ("GPU-0", FAILING, good["gpus"][0]["at"])
        ]
    assert driver.calls("nvmlShutdown") == 1


async def test_one_gpu_that_fails_does_not_hide_the_others(driver: FakeDriver, start: Start) -> None:
    for index in range(3):
        add_card(driver, index)
    driver.fail("nvmlDeviceGetHandleByIndex_v2", 4, gpu=0)  # of a card this user may not use
    driver.fail("nvmlDeviceGetMemoryInfo_v2", 999, gpu=2)
    async with start() as reader:
        reading = await reader.ask()
    assert (reading["state"], reading["problem"]) == (OK, "")
    assert [gpu["state"] for gpu in reading["gpus"]] == [FAILING, OK, FAILING]
    assert reading["gpus"][0]["name"] == "GPU 0"
    assert "GPU 0" in reading["gpus"][0]["problem"]


@pytest.mark.parametrize("code", [15, 16], ids=["lost", "reset required"])
@pytest.mark.parametrize("function", ["HandleByIndex_v2", "MemoryInfo_v2", "PowerUsage"])
async def test_a_lost_gpu_is_told_and_the_others_go_on(
    driver: FakeDriver, start: Start, code: int, function: str
) -> None:
    add_card(driver, 0)
    add_card(driver, 1)
    async with start() as reader:
        good = await reader.ask()
        driver.fail(f"nvmlDeviceGet{function}", code, gpu=1)
        reading = await reader.ask()
    first, second = reading["gpus"]
    assert (reading["state"], first["state"]) == (OK, OK)
    assert first["at"] > good["gpus"][0]["at"]
    assert (second["state"], second["uuid"], second["at"]) == (LOST, "GPU-1", good["gpus"][1]["at"])
    assert second["problem"]


async def test_the_only_gpu_lost_and_back_after_a_reset(driver: FakeDriver, start: Start) -> None:
    add_card(driver)
    driver.fail("nvmlDeviceGetMemoryInfo_v2", 16)
    async with start(retry=0.05) as reader:
        assert (await reader.ask())["state"] == LOST
        await reader.until(
            lambda _: driver.calls("nvmlInitWithFlags") > 1
        )  # NVML shows a reset GPU to a new session only
        driver.heal("nvmlDeviceGetMemoryInfo_v2")
        await reader.until(lambda reading: reading["state"] == OK)


async def test_all_gpus_lost_at_the_start(driver: FakeDriver, start: Start) -> None:
    driver.fail("nvmlInitWithFlags", 15)
    async with start() as reader:
        assert (await reader.ask())["state"] == LOST


@pytest.mark.parametrize("function", ["nvmlDeviceGetCount_v2", "nvmlDeviceGetPowerUsage", "nvmlDeviceGetUUID"])
async def test_a_reloaded_driver_is_opened_again(driver: FakeDriver, start: Start, function: str) -> None:
    add_card(driver)
    driver.fail("nvmlInitWithFlags", 9)
    async with start(retry=0.01) as reader:
        await reader.ask()
        driver.heal("nvmlInitWithFlags")
        await reader.until(lambda reading: reading["state"] == OK)
        opened = driver.calls("nvmlInitWithFlags")
        driver.fail(function, 1)
        assert (await reader.ask())["state"] == FAILING  # opened again, and still so
        assert driver.calls("nvmlInitWithFlags") == opened + 1
        driver.heal(function)
        await reader.until(lambda reading: reading["state"] == OK)


async def test_answers_that_are_no_text_do_not_end_the_sensor(driver: FakeDriver, start: Start) -> None:
    add_card(driver, name="Card\udcff")  # one byte that is not UTF-8
    async with start() as reader:
        reading = await reader.ask()
        assert reading["state"] == FAILING
        assert "nonsense" in reading["problem"]
        add_card(driver)
        await reader.until(lambda reading: reading["state"] == OK)


# --- a driver that does not answer ---


async def test_a_blocked_driver_gives_stale_and_stops_nothing(driver: FakeDriver, start: Start) -> None:
    add_card(driver, 0)
    add_card(driver, 1)
    async with start(deadline=0.3) as reader:
        driver.fail("nvmlDeviceGetPowerUsage", 15, gpu=1)
        good = await reader.until(lambda reading: [gpu["state"] for gpu in reading["gpus"]] == [OK, LOST])
        driver.fail("nvmlDeviceGetMemoryInfo_v2", "block")
        asked = driver.calls("nvmlDeviceGetMemoryInfo_v2")
        reading = await reader.ask()
        assert reading["state"] == STALE
        assert "has not answered" in reading["problem"]
        assert 0.29 < reading["took"] < 5.0
        assert reading["ticks"] > 20  # of some 300: the loop went on
        assert [gpu["state"] for gpu in reading["gpus"]] == [STALE, LOST]
        assert [gpu["at"] for gpu in reading["gpus"]] == [gpu["at"] for gpu in good["gpus"]]
        again = [await reader.ask() for _ in range(5)]
        assert {reading["state"] for reading in again} == {STALE}
        assert sum(reading["took"] for reading in again) < 0.3  # its time was up already
        assert driver.calls("nvmlDeviceGetMemoryInfo_v2") == asked + 1
        assert await reader.leave() < 2.0


async def test_a_driver_that_wakes_up_is_believed_again(driver: FakeDriver, start: Start) -> None:
    add_card(driver)
    driver.fail("nvmlInitWithFlags", "block")
    async with start(deadline=0.3) as reader:
        reading = await reader.ask()
        assert (reading["state"], reading["gpus"]) == (STALE, [])
        driver.heal("nvmlInitWithFlags")
        fresh = await reader.until(lambda reading: reading["state"] == OK)
        assert fresh["gpus"][0]["at"] > reading["now"]
        assert await reader.leave() < 2.0
    assert driver.calls("nvmlShutdown") == 1


async def test_callers_at_the_same_time_share_one_reading(driver: FakeDriver, start: Start) -> None:
    add_card(driver)
    async with start() as reader:
        readings = await reader.ask("race 10")
        assert len({json.dumps(reading) for reading in readings}) == 1
    assert driver.calls("nvmlDeviceGetCount_v2") == 1


async def test_a_closed_sensor_has_shut_nvml_down_and_is_stale(driver: FakeDriver, start: Start) -> None:
    add_card(driver)
    async with start() as reader:
        await reader.ask()
        await reader.ask("close")
        assert driver.calls("nvmlShutdown") == 1
        reading = await reader.ask()
        assert (reading["state"], reading["gpus"][0]["state"]) == (STALE, STALE)
        driver.fail("nvmlShutdown", 999)
        assert await reader.leave() < 2.0
    assert driver.calls("nvmlDeviceGetCount_v2") == 1


async def test_a_sensor_that_was_never_asked_closes(start: Start) -> None:
    async with start() as reader:
        await reader.ask("close")
        assert await reader.leave() < 2.0
