"""The host's memory shared by real llama.cpp processes: three names for the same model, room for some of them."""

import asyncio
from pathlib import Path

import aiohttp
import psutil
import pytest

from tests.fakes.clients import Ask, ask, crowd, failed
from tests.fakes.daemon import Daemon, Json, running, stubbed

MIB = 2**20
LIMIT = 1000 * MIB  # two of some 384 MiB fit, three do not
LOAD_S = 60.0


def embedded(**settings: object) -> Json:
    known = {"model": "embedded", "context": 1024, "autostart": False, "max_wait": "2s", "min_residence": "300ms"}
    return {**known, "threads": 1, "restart": {"backoff": {"base": "100ms"}}, **settings}


def host(limit: int) -> Json:
    return {"host": {"limit": f"{limit // MIB}MiB", "reserve": "1GiB"}, "placement": {"linger": "100ms"}}


class Watch:
    """The most memory that all children of the daemon had resident at the same time, looked at every 20 ms."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self.peak = 0

    async def run(self) -> None:
        while True:
            self.peak = max(self.peak, sum(map(_resident, self._daemon.descendants())))
            await asyncio.sleep(0.02)


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


@pytest.mark.e2e
@pytest.mark.engine
async def test_real_models_take_turns_in_ram(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    backends = {name: embedded() for name in ("red", "green", "blue")}
    async with running(Daemon(tmp_path, {"backends": backends, "memory": host(LIMIT)})) as daemon:
        for name in backends:
            assert (await ask(http, daemon, name, max_tokens=2)).status == 200
        watch = Watch(daemon)
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(watch.run())
            order = ["red", "green", "blue", "red", "blue", "green"]
            clients = [[Ask(name, text=f"Say {n}.", more={"max_tokens": 4}) for name in order[n:]] for n in range(3)]
            seen = await crowd(http, daemon, clients)
            watching.cancel()
        assert failed(seen) == []
        generations = {b["name"]: b["generation"] for b in (await daemon.status())["backends"]}
        assert sum(generations.values()) > 3, "they took turns"
        pool = await daemon.pool("host")
        known = {one["backend"]: one["source"] for one in pool["holders"]}
        assert set(known.values()) <= {"learned", "estimated"}
        assert "learned" in known.values()
    # Guardians and the interpreters around the engine are small, and not models.
    assert watch.peak <= LIMIT + 60 * MIB


@pytest.mark.e2e
async def test_memory_that_is_really_taken_is_never_more_than_the_limit(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    backends = {
        name: stubbed(
            tmp_path, "--ram", "200MiB", "--load-seconds", "0.2", "--prefill-seconds", "0.03",
            autostart=False, memory={"ram": "260MiB"}, max_wait="1s", min_residence="200ms",
        )
        for name in ("a", "b", "c", "d")
    }  # fmt: skip
    async with running(Daemon(tmp_path, {"backends": backends, "memory": host(600 * MIB)})) as daemon:
        watch = Watch(daemon)
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(watch.run())
            seen = await crowd(http, daemon, [[Ask(name) for name in order] for order in ("abcd", "dcba", "bdac")])
            watching.cancel()
        assert failed(seen) == []
        assert sum(b["generation"] for b in (await daemon.status())["backends"]) > 4
    assert watch.peak <= 600 * MIB
