"""Memory of a GPU, told, given, lost and given back: each scenario on the stand-in, and on a real NVIDIA GPU.

`scripts/test -m gpu` runs those on the real one. They need one that is almost empty, and PyTorch for CUDA.
"""

import asyncio
import json
from pathlib import Path
from time import monotonic

import aiohttp
import psutil
import pytest

from tests.fakes.clients import Ask, ask, crowd, failed
from tests.fakes.daemon import Daemon, Json
from tests.fakes.fleet import GIB, RESERVE
from tests.gpu.conftest import LOAD_S, OVERHEAD, Card, held_by
from tests.gpu.hungry import EAT_ALL

pytestmark = pytest.mark.e2e

MIB = 2**20
TOLERANCE = 64 * MIB  # nvidia-smi rounds to MiB, and others may use the card between two looks
MOST = 0.6  # of a card: two of them do not fit together


async def pool_of(daemon: Daemon, card: Card) -> Json:
    return next(pool for pool in (await daemon.status())["pools"] if pool["key"] == card.uuid)


async def deaths(daemon: Daemon, cause: str = "gpu_oom") -> list[Json]:
    return [exit_ for exit_ in await daemon.events("backend.exit") if exit_["data"]["cause"] == cause]


async def admissions(daemon: Daemon, name: str) -> list[Json]:
    return [one["data"] for one in await daemon.events("placement.admitted") if one["backend"] == name]


def comm(pid: int) -> str:
    """The kernel's name of a process: 15 characters."""
    return Path(f"/proc/{pid}/comm").read_text().strip()


# --- the sensor ------------------------------------------------------------------------------------------------------


async def test_the_sensor_tells_what_the_drivers_own_tool_tells(card: Card) -> None:
    async with card.eye() as eye:
        sample = await eye.look()
        told = card.told()
    assert (sample["uuid"], sample["name"]) == (told.uuid, told.name)
    assert sample["total"] == pytest.approx(told.total, abs=TOLERANCE)
    assert sample["used"] == pytest.approx(told.used, abs=TOLERANCE)
    assert sample["free"] == pytest.approx(told.free, abs=TOLERANCE)


async def test_what_a_process_allocates_is_told_as_used(card: Card) -> None:
    async with card.eye() as eye:
        before = await eye.look()
        async with card.stranger(2 * GIB):
            after = await eye.look()
    assert 2 * GIB <= after["used"] - before["used"] <= 2 * GIB + OVERHEAD
    assert 2 * GIB <= before["free"] - after["free"] <= 2 * GIB + OVERHEAD


async def test_a_process_is_listed_with_what_it_allocated(named: Card) -> None:
    async with named.eye() as eye, named.stranger(2 * GIB) as pid:
        listed = {one["pid"]: one for one in (await eye.look())["processes"]}
        assert listed[pid]["name"] == comm(pid)
        assert 2 * GIB <= listed[pid]["used"] <= 2 * GIB + OVERHEAD


# --- out of memory ---------------------------------------------------------------------------------------------------


async def test_an_allocation_that_fails_is_told_as_such_and_the_daemon_goes_on(
    card: Card, tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    backends = {"eater": card.hungry(card.share(0.3)), "other": card.hungry(2 * GIB)}
    async with card.daemon(tmp_path, backends) as daemon:
        assert (await ask(http, daemon, "eater")).status == 200
        seen = await ask(http, daemon, "eater", EAT_ALL)
        assert seen.status == 503
        error = json.loads(seen.body)["error"]
        assert error["code"] in {"backend_out_of_memory", "backend_parked"}, error
        (death,) = await deaths(daemon)
        assert (death["backend"], death["data"]["status"]) == ("eater", 1)
        log = "\n".join(death["data"]["log_tail"])
        assert "Traceback (most recent call last)" in log
        assert "OutOfMemoryError: CUDA out of memory. Tried to allocate" in log
        # Nothing is known that would make it smaller: it is left alone until somebody says otherwise.
        parked = await daemon.until_phase("parked", "eater")
        assert "out of memory" in parked["note"] + parked["last_reason"]
        assert (await ask(http, daemon, "other")).status == 200
        await daemon.control("POST", "/v1/backends/eater/reset", {"wait_s": 10})
        assert (await ask(http, daemon, "eater")).status == 200


# --- giving back -----------------------------------------------------------------------------------------------------


async def pids_of(daemon: Daemon, name: str) -> set[int]:
    """The whole tree of a backend."""
    leader = psutil.Process((await daemon.backend(name))["pid"])
    return {leader.pid, *(child.pid for child in leader.children(recursive=True))}


async def test_stopped_means_that_its_memory_is_gone(
    named: Card, tmp_path: Path, http: aiohttp.ClientSession, capsys: pytest.CaptureFixture[str]
) -> None:
    size = named.share(MOST)
    async with named.daemon(tmp_path, {"big": named.hungry(size)}) as daemon, named.eye() as eye:
        before = (await eye.look())["used"]
        assert (await ask(http, daemon, "big")).status == 200
        pids = await pids_of(daemon, "big")
        assert held_by(pids, await eye.look()) >= size - OVERHEAD
        asked_at = monotonic()
        await daemon.control("POST", "/v1/backends/big/stop", {})
        gone_after = None
        while True:
            # In this order: what is gone stays gone, so a sample taken after `stopped` was read may show nothing.
            phase = (await daemon.backend("big"))["phase"]
            sample = await eye.look()
            held = held_by(pids, sample)
            if gone_after is None and not held:
                gone_after = monotonic() - asked_at
            if phase == "stopped":
                break
            assert monotonic() - asked_at < LOAD_S, f"still {phase}, and {held} bytes are held"
        took = monotonic() - asked_at
        assert held == 0, "stopped, and it still holds memory"
        assert sample["used"] - before < OVERHEAD, "stopped, and its memory is not free"
    if not named.real:
        return
    with capsys.disabled():
        gone = "?" if gone_after is None else f"{gone_after:.3f}"
        print(  # noqa: T201 - measured to be read: what a driver takes is known from nowhere else
            f"\n{size / GIB:.1f} GiB on {named.told().name}: gone {gone} s after the stop was asked for, "
            f"`stopped` after {took:.3f} s, then {sample['used'] / GIB:.2f} GiB used on the whole card"
        )


async def test_who_needs_that_memory_starts_only_when_it_is_free(
    card: Card, tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    size = card.share(MOST)
    backends = {"first": card.hungry(size), "second": card.hungry(size)}
    async with card.daemon(tmp_path, backends) as daemon, card.eye() as eye:
        before = (await eye.look())["used"]
        assert (await ask(http, daemon, "first")).status == 200
        card.release_slowly(1.0)
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(ask(http, daemon, "second"))
            while not (await daemon.backend("second"))["pid"]:
                assert not asking.done(), asking.result()
                await asyncio.sleep(0.01)
            # What is gone stays gone, so this holds now, too. The second one may have begun to take its own.
            sample = await eye.look()
            own = held_by(await pids_of(daemon, "second"), sample)
            assert sample["used"] - own - before < OVERHEAD, "started, and the memory of the first one is not free"
        assert asking.result().status == 200
        (place,) = await admissions(daemon, "second")
        label = (await pool_of(daemon, card))["label"]
        assert place["free"][label] >= size + RESERVE, "let in by what was measured free"
        assert await deaths(daemon) == []


async def test_two_that_do_not_fit_together_take_turns(card: Card, tmp_path: Path, http: aiohttp.ClientSession) -> None:
    size = card.share(MOST)
    backends = {name: card.hungry(size) for name in ("one", "two")}
    async with card.daemon(tmp_path, backends) as daemon, card.eye() as eye:
        before = (await eye.look())["used"]
        async with eye.watching():
            clients = [[Ask("one"), Ask("two"), Ask("one")], [Ask("two"), Ask("one", after=0.1), Ask("two")]]
            seen = await crowd(http, daemon, clients)
        assert failed(seen) == []
        assert await deaths(daemon) == []
        generations = [(await daemon.backend(name))["generation"] for name in backends]
    assert min(generations) >= 1
    assert sum(generations) >= 3, "they have changed places"
    assert eye.looks > 10
    assert size - OVERHEAD <= eye.peak - before <= size + TOLERANCE, "never more than one of them at a time"


# --- somebody else's -------------------------------------------------------------------------------------------------


async def test_a_foreign_process_holds_the_start_and_is_named(
    named: Card, tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    async with named.daemon(tmp_path, {"big": named.hungry(named.share(MOST))}) as daemon:
        async with asyncio.TaskGroup() as group:
            async with named.stranger(named.share(MOST)) as pid:
                asking = group.create_task(ask(http, daemon, "big"))

                async def is_named() -> bool:
                    return f"pid {pid} " in ((await daemon.backend("big"))["held"] or "")

                await daemon.until(is_named, "the holder to be named")
                foreign = {one["pid"]: one for one in (await pool_of(daemon, named))["foreign"]}
                assert foreign[pid]["name"] == comm(pid)
                assert foreign[pid]["used_bytes"] >= named.share(MOST)
                assert (await daemon.backend("big"))["pid"] is None
                assert psutil.pid_exists(pid), "what is not ours is never killed"
                assert not asking.done()
            assert (await asking).status == 200
        assert await deaths(daemon) == []
