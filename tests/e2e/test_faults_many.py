"""What goes wrong with several processes, several clients, and machines that lack things."""

import asyncio
import os
import shutil
import signal
import socket
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from tests.fakes.clients import CHAT, Ask, ask, crowd, failed
from tests.fakes.daemon import Daemon, alive, running, stubbed, vllm_stubbed
from tests.fakes.fleet import GIB, cards, fleet
from tests.fakes.nvml.driver import FakeDriver

pytestmark = pytest.mark.e2e

NOBODY = 65534
CGROUP = Path("/sys/fs/cgroup/memory")
ENGINE = ("--fork-engine", "--vram", "16GiB", "--tokens", "100", "--token-rate", "50")


@pytest.fixture
def driver(tmp_path: Path, pytestconfig: pytest.Config) -> FakeDriver:
    return cards(pytestconfig, tmp_path)


def vllm(folder: Path, *flags: str, **settings: object) -> dict[str, Any]:
    return vllm_stubbed(folder, *ENGINE, *flags, **({"memory": {"vram": "16GiB"}, "context": 1024} | settings))


def tree_of(leader: int) -> dict[str, psutil.Process]:
    return {process.name(): process for process in psutil.Process(leader).children(recursive=True)}


async def test_row_6_the_leader_is_killed_and_its_workers_are_left(
    tmp_path: Path, driver: FakeDriver, http: aiohttp.ClientSession
) -> None:
    """They are killed, and the next start waits until their memory is free."""
    async with fleet(tmp_path, driver, {"one": vllm(tmp_path)}) as daemon:
        first = await daemon.until_phase("ready", "one")
        workers = list(tree_of(first["pid"]).values())
        assert len(workers) == 2
        driver.linger(1.5)
        psutil.Process(first["pid"]).kill()
        answer = await ask(http, daemon, "one", max_tokens=2)
        assert answer.status == 200
        assert not alive(workers)
        assert (await daemon.backend("one"))["generation"] == 2
    assert driver.claims.refused() == [], "not started into memory that was not free"


@pytest.mark.parametrize("victim", ["VLLM::EngineCor", "VLLM::Worker_TP"])
async def test_the_engine_dies_and_the_leader_ends_with_status_0(
    tmp_path: Path, driver: FakeDriver, http: aiohttp.ClientSession, victim: str
) -> None:
    """A failure, whatever the status says; what was running and had sent nothing is run again."""
    async with fleet(tmp_path, driver, {"one": vllm(tmp_path)}) as daemon, asyncio.TaskGroup() as group:
        first = await daemon.until_phase("ready", "one")
        plain = group.create_task(ask(http, daemon, "one"))
        body = {"model": "one", "messages": [{"role": "user", "content": "hello"}], "stream": True}
        async with http.post(daemon.url + CHAT, json=body) as answer:
            await answer.content.readany()
            tree_of(first["pid"])[victim].kill()
            rest = await answer.text()
        assert '"error"' in rest
        assert (await plain).status == 200
        statuses = {job["stream"]: job["status"] for job in await daemon.jobs()}
        assert statuses == {True: "failed", False: "done"}
        exits = await daemon.events("backend.exit")
        assert exits, "an exit that nobody asked for"


async def test_row_19_vllm_that_does_not_fit_comes_back_smaller(
    tmp_path: Path, driver: FakeDriver, http: aiohttp.ClientSession
) -> None:
    """Told as GPU OOM although no line says so, and restarted with the length that vLLM itself said would fit."""
    backend = vllm(tmp_path, "--load-oom-above-ctx", "768", context=2048)
    async with fleet(tmp_path, driver, {"one": backend}) as daemon:
        ready = await daemon.until_phase("ready", "one")
        assert (ready["rung"], ready["context_tokens"], ready["context_reduced"]) == (1, 768, True)
        exits = await daemon.events("backend.exit")
        assert [one["data"]["cause"] for one in exits] == ["gpu_oom"]
        assert (await ask(http, daemon, "one", max_tokens=2)).status == 200
        refused = await ask(http, daemon, "one", "abc " * 900)
        assert (refused.status, "context_length_exceeded" in refused.body) == (400, True)


async def test_row_19_an_engine_that_runs_out_of_memory_while_it_loads(
    tmp_path: Path, driver: FakeDriver, http: aiohttp.ClientSession
) -> None:
    """It needs more than it said: the words of its worker tell the cause, not the wrapper's at the end."""
    backend = vllm(tmp_path, memory={"vram": "4GiB"}, restart={"max_failures": 1}, ladder=[])
    async with driver.stranger(15 * GIB), fleet(tmp_path, driver, {"one": backend}) as daemon:
        await daemon.until_phase("parked", "one")
        assert [one["data"]["cause"] for one in await daemon.events("backend.exit")] == ["gpu_oom"]


async def test_row_19_out_of_memory_but_alive(tmp_path: Path, driver: FakeDriver, http: aiohttp.ClientSession) -> None:
    """It answers 500 and goes on living: the words are in its log. It comes back smaller, and the job is run there."""
    backend = vllm(tmp_path, "--oom-alive-above-ctx", "1024", context=2048, ladder=[{"context": "50%"}])
    async with fleet(tmp_path, driver, {"one": backend}) as daemon:
        await daemon.until_phase("ready", "one")
        assert (await ask(http, daemon, "one", max_tokens=2)).status == 200
        assert (await daemon.backend("one"))["rung"] == 1
        first, second = (await daemon.jobs())[-1]["attempts"]
        assert (first["reason"], second["status"]) == ("backend_out_of_memory", "done")
        told = [e for e in await daemon.events("backend.phase") if e["data"]["phase"] == "stopping"]
        assert "out of memory" in told[0]["message"]


async def test_words_of_a_client_never_tell_of_lacking_memory(
    tmp_path: Path, driver: FakeDriver, http: aiohttp.ClientSession
) -> None:
    """An error that quotes its prompt, and a server that logs nothing of it, is an error and no more."""
    backend = vllm(tmp_path, "--status", "500", "--times", "1")
    async with fleet(tmp_path, driver, {"one": backend}) as daemon:
        await daemon.until_phase("ready", "one")
        said = await ask(http, daemon, "one", "torch.OutOfMemoryError: CUDA out of memory.", max_tokens=2)
        assert said.status == 200
        one = await daemon.backend("one")
        assert (one["rung"], one["generation"]) == (0, 1)


def give(folder: Path, user: int) -> None:
    """A folder and what is in it, and a way to it: pytest keeps its own folders for their owner alone."""
    for path in [folder, *folder.rglob("*")]:
        os.chown(path, user, user)
    for above in folder.parents:
        if above.stat().st_uid == os.getuid() and not above.stat().st_mode & stat.S_IXOTH:
            above.chmod(0o755)


@asynccontextmanager
async def confined(pid: int, limit: int) -> AsyncIterator[None]:
    """A process in a cgroup that the kernel kills in when it takes more than `limit` bytes."""
    group = CGROUP / f"supervisord-test-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(limit))
        with suppress(OSError):  # only where swap is accounted for
            (group / "memory.memsw.limit_in_bytes").write_text(str(limit))
        (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        async with asyncio.timeout(10):
            while (group / "cgroup.procs").read_text():  # noqa: ASYNC110 - the kernel has no event of ours
                await asyncio.sleep(0.02)
        group.rmdir()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.skipif(not (CGROUP / "memory.limit_in_bytes").exists(), reason="needs the memory controller of cgroup v1")
@pytest.mark.parametrize("flags", [(), ("--deaf-leader",)], ids=["its leader notices", "its leader does not"])
async def test_row_20_the_kernel_kills_one_worker_for_memory(
    tmp_path: Path, driver: FakeDriver, http: aiohttp.ClientSession, flags: tuple[str, ...]
) -> None:
    """Told as a kernel OOM, and the whole tree is another one afterwards."""
    async with fleet(tmp_path, driver, {"one": vllm(tmp_path, *flags)}) as daemon:
        first = await daemon.until_phase("ready", "one")
        tree = tree_of(first["pid"])
        worker = tree["VLLM::Worker_TP"]
        async with confined(worker.pid, 64 * 2**20):
            worker.send_signal(signal.SIGUSR1)  # it takes 1 GiB

            async def is_new() -> bool:
                backend = await daemon.backend("one")
                return backend["phase"] == "ready" and backend["generation"] == 2

            await daemon.until(is_new, "a new generation")
        assert not alive([*tree.values()])
        exits = await daemon.events("backend.exit")
        assert [one["data"]["cause"] for one in exits] == ["kernel_oom"]
        assert (await ask(http, daemon, "one", max_tokens=2)).status == 200


async def test_row_26_a_client_that_stops_reading_costs_only_itself(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    flags = ("--tokens", "100000", "--chunk-bytes", "2000")
    backends = {name: stubbed(tmp_path, *flags, slots=2) for name in ("a", "b")}
    daemon = Daemon(tmp_path, {"backends": backends, "limits": {"client_stall": "1s"}})
    async with running(daemon):
        for name in backends:
            await daemon.until_phase("ready", name)
        before = psutil.Process(daemon.pid).memory_info().rss
        with socket.socket() as stopped:
            stopped.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            host, port = daemon.address.rsplit(":", 1)
            stopped.connect((host, int(port)))
            body = b'{"model":"a","stream":true,"messages":[{"role":"user","content":"hello"}]}'
            head = f"POST {CHAT} HTTP/1.1\r\nHost: {daemon.address}\r\nContent-Type: application/json\r\n"
            stopped.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            await daemon.until(lambda: _flying(daemon, 1), "it to be at work")
            seen = await crowd(http, daemon, [[Ask(name, more={"max_tokens": 5})] * 5 for name in ("a", "b")])
            assert failed(seen) == []
            await daemon.until(lambda: _flying(daemon, 0), "the stalled one to be cut off", within=10)
        assert psutil.Process(daemon.pid).memory_info().rss - before < 64 * 2**20, "nothing was heaped up for it"
        slow = next(job for job in await daemon.jobs() if job["stream"])
        assert (slow["status"], slow["reason"]) in {("cancelled", "slow_client"), ("failed", "slow_client")}


async def _flying(daemon: Daemon, count: int) -> bool:
    return bool((await daemon.status())["queue"]["in_flight"] == count)


async def test_row_34_without_gpus_or_a_driver_it_serves_and_says_what_is_missing(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    async with running(Daemon(tmp_path, {"backends": {"one": stubbed(tmp_path)}})) as daemon:
        await daemon.until_phase("ready", "one")
        assert (await ask(http, daemon, "one")).status == 200
        status = await daemon.status()
        assert status["gpu_sensor"]["state"] in {"absent", "ok"}
        if status["gpu_sensor"]["state"] == "absent":
            assert status["gpu_sensor"]["problem"]
        assert ("no PSI" in status["host"]["missing"]) is (status["host"]["stall_full_percent"] is None)


AS_NOBODY = (f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
WITHOUT_CAPABILITIES = ("--bounding-set=-all", "--inh-caps=-all")


def everybody_can_run(program: str) -> bool:
    path = Path(program).resolve()
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in [path, *path.parents])


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give it up")
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv")
@pytest.mark.parametrize("become", [AS_NOBODY, WITHOUT_CAPABILITIES], ids=["nobody", "no capabilities"])
async def test_row_34_without_privileges(tmp_path: Path, http: aiohttp.ClientSession, become: tuple[str, ...]) -> None:
    """No cgroup to write, no kernel log to read, no nice below 0: it works with what there is."""
    backend = stubbed(tmp_path, "--fork-worker")
    if become is AS_NOBODY:
        if not everybody_can_run(sys.executable):
            pytest.skip(f"others than root cannot run {sys.executable}")
        give(tmp_path, NOBODY)
    daemon = Daemon(tmp_path, {"backends": {"one": backend}})
    daemon.prefix = ("setpriv", *become)
    async with running(daemon):
        first = await daemon.until_phase("ready", "one")
        assert (await ask(http, daemon, "one")).status == 200
        psutil.Process(first["pid"]).kill()
        assert (await ask(http, daemon, "one")).status == 200
        assert (await daemon.backend("one"))["generation"] == 2
        assert "Traceback" not in daemon.log()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to hide things")
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
async def test_row_34_without_cgroups_or_psi(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    """Hidden in a mount namespace of the daemon's own."""
    daemon = Daemon(tmp_path, {"backends": {"one": stubbed(tmp_path, "--fork-worker")}})
    hide = "for it in /proc/pressure /sys/fs/cgroup; do [ -d $it ] && mount -t tmpfs none $it; done"
    daemon.prefix = ("unshare", "--mount", "sh", "-c", f'{hide}; exec "$@"', "sh")
    async with running(daemon):
        first = await daemon.until_phase("ready", "one")
        tree = daemon.descendants()
        assert (await ask(http, daemon, "one")).status == 200
        host = (await daemon.status())["host"]
        assert "no PSI" in host["missing"]
        assert host["stall_full_percent"] is None
        psutil.Process(first["pid"]).kill()
        assert (await ask(http, daemon, "one")).status == 200
        assert not alive(tree), "all of the first one's tree, without a cgroup to kill"
