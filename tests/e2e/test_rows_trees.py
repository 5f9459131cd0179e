"""Whole trees below a whole daemon: what backends leave behind, and what a daemon that dies leaves behind."""

import asyncio
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import aiohttp
import psutil
import pytest

from supervisord.adapters.process.leftovers import Memory
from tests.e2e.conftest import Start
from tests.fakes.clients import ask
from tests.fakes.daemon import ROOT, Daemon, alive, running, stubbed
from tests.fakes.stub import stub_argv

MARK = "LLM_SUPERVISORD_TEST_TREE"
PIDS = Path("/sys/fs/cgroup/pids")


def marked(*values: str) -> list[psutil.Process]:
    """Every process, whoever its parent is now, that was started with one of these in its environment."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if set(values) & set(process.environ().values()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def guarded(daemon: psutil.Process) -> bool:
    """Whether the first guardian runs: no other child of the daemon has anything to do with this."""
    with suppress(psutil.NoSuchProcess):
        return any("guardian.py" in " ".join(child.cmdline()) for child in daemon.children())
    return False


async def test_row_4_a_daemon_killed_while_it_starts_children_leaves_none(tmp_path: Path) -> None:
    """At moments around the fork of its guardians, and before and after they or the backends run their programs."""
    mark = tmp_path.name
    daemon = Daemon(tmp_path, {"backends": {f"b{n}": stubbed(tmp_path, env={MARK: mark}) for n in range(3)}})
    for moment in (0.0, 0.01, 0.03, 0.08, 0.2, 0.5):
        daemon.write()
        with daemon.output.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "supervisord", "--config", str(daemon.config),
                cwd=ROOT, stdout=output, stderr=output, env={**os.environ, MARK: mark},
            )  # fmt: skip
        async with asyncio.timeout(20):
            while not guarded(psutil.Process(process.pid)):  # noqa: ASYNC110 - its children are not ours
                await asyncio.sleep(0.001)
        await asyncio.sleep(moment)
        process.kill()
        await process.wait()
        instance = Memory(tmp_path / "state").instance()  # in the environment of guardians, which have one of their own
        async with asyncio.timeout(5):
            while marked(mark, instance):  # noqa: ASYNC110 - foreign processes have no event of ours
                await asyncio.sleep(0.02)
    async with running(daemon, **{MARK: mark}):  # at its end no control group is left, not of those before it either
        pass


async def test_row_7_a_worker_in_a_session_of_its_own_that_holds_stdout(
    start: Start, http: aiohttp.ClientSession
) -> None:
    """Its leader is killed; the worker goes too, and the next generation is not held up by the pipe it holds."""
    async with start("--fork-worker") as daemon:
        first = await daemon.until_phase("ready")
        (worker,) = psutil.Process(first["pid"]).children()
        assert os.getsid(worker.pid) != os.getsid(first["pid"])
        os.kill(first["pid"], signal.SIGKILL)
        answer = await ask(http, daemon)
        assert answer.status == 200
        assert answer.took < 5
        assert not alive([worker])
        assert (await daemon.backend())["generation"] == 2


async def test_row_8_double_forked_children_are_reaped(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    """A server that leaves orphans behind all the time: none of them stays in the table of processes."""
    program = tmp_path / "forgetful"
    stub = " ".join(stub_argv())
    program.write_text(
        "#!/bin/sh\n( while :; do ( sh -c 'sleep 0.05 & sleep 0.05 & exit 0' & ); sleep 0.05; done ) &\n"
        f'PYTHONPATH={ROOT} exec {stub} "$@"\n'
    )
    program.chmod(0o755)
    async with running(Daemon(tmp_path, {"backends": {"stub": stubbed(tmp_path, binary=str(program))}})) as daemon:
        backend = await daemon.until_phase("ready")
        orphans: set[int] = set()
        for _ in range(40):
            orphans |= {process.pid for process in _zombies(daemon)}
            await asyncio.sleep(0.05)  # a while of it is the point
        left = [pid for pid in orphans if psutil.pid_exists(pid)]
        assert len(left) < 10, "some eighty ended by then"
        assert (await ask(http, daemon)).status == 200
        await daemon.control("POST", "/v1/backends/stub/stop", {"wait_s": 10})
        assert (await daemon.backend())["phase"] == "stopped"
        assert backend["generation"] == 1
        assert _zombies(daemon) == []
        assert daemon.descendants() == []


def _zombies(daemon: Daemon) -> list[psutil.Process]:
    found = []
    for process in daemon.descendants():
        with suppress(psutil.NoSuchProcess):
            if process.status() == psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


async def test_row_30_a_daemon_without_descriptors_refuses_and_recovers(
    start: Start, http: aiohttp.ClientSession
) -> None:
    """Clients and starts are refused, nothing is lost, and once there are some again all is as before.

    However long that takes: a start for which nothing is left is no failure of the backend, so it is never parked.
    """
    async with start(restart={"max_failures": 2}) as daemon:
        first = await daemon.until_phase("ready")
        assert (await ask(http, daemon)).status == 200
        process = psutil.Process(daemon.pid)
        usual = process.rlimit(psutil.RLIMIT_NOFILE)
        process.rlimit(psutil.RLIMIT_NOFILE, (process.num_fds(), usual[1]))
        try:
            os.kill(first["pid"], signal.SIGKILL)
            tries = await daemon.until(lambda: _backoffs(daemon, "Too many open files"), "more than five failed starts")
            assert all("raise the limit of open files" in line for line in tries)
            with suppress(aiohttp.ClientError, TimeoutError):
                async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as stranger:
                    seen = await ask(stranger, daemon)
                    assert seen.status in {200, 502, 503}
        finally:
            process.rlimit(psutil.RLIMIT_NOFILE, usual)
        await daemon.until_phase("ready")
        assert (await ask(http, daemon)).status == 200
        assert {job["status"] for job in await daemon.jobs()} <= {"done", "failed", "cancelled"}
        assert await _causes(daemon) == ["exhausted", "killed"], "told once, however often it was tried"


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.skipif(not (PIDS / "cgroup.procs").exists(), reason="needs the pids controller of cgroup v1")
async def test_row_30_a_daemon_without_processes_waits_for_room(start: Start, http: aiohttp.ClientSession) -> None:
    """The limit of processes and threads, as TasksMax= of a unit sets it."""
    async with start(restart={"max_failures": 2}) as daemon:
        first = await daemon.until_phase("ready")
        group = PIDS / f"llm-supervisord-test-{daemon.pid}"
        group.mkdir()
        try:
            (group / "cgroup.procs").write_text(str(daemon.pid))
            (group / "pids.max").write_text((group / "pids.current").read_text())
            os.kill(first["pid"], signal.SIGKILL)
            tries = await daemon.until(lambda: _backoffs(daemon, "raise the limit of processes"), "failed starts")
            assert all("TasksMax=" in line for line in tries)
            (group / "pids.max").write_text("max")
            await daemon.until_phase("ready")
            assert (await ask(http, daemon)).status == 200
            assert await _causes(daemon) == ["exhausted", "killed"]
        finally:
            for pid in (group / "cgroup.procs").read_text().split():
                (PIDS / "cgroup.procs").write_text(pid)
            group.rmdir()


async def _backoffs(daemon: Daemon, why: str) -> list[str]:
    """More than five starts that failed like this, from its log: its doors may be shut."""
    told = [line for line in daemon.log().splitlines() if why in line and "is backoff" in line]
    return told if len(told) > 5 else []


async def _causes(daemon: Daemon) -> list[str]:
    """Of its incidents, the newest first."""
    return [one["cause"] for one in (await daemon.control("GET", "/v1/incidents"))["incidents"]]


RESTARTS = 60
WARM = 15


async def test_row_31_restarts_cost_the_daemon_nothing_in_the_long_run(tmp_path: Path) -> None:
    """Descriptors, threads, children and memory are as they were after the first few."""
    backends = {"stub": stubbed(tmp_path, binary=str(_light(tmp_path)), probe_interval="100ms")}
    async with running(Daemon(tmp_path, {"backends": backends})) as daemon:
        await daemon.until_phase("ready")
        process = psutil.Process(daemon.pid)
        figures, after_warm_up = (0, 0, 0), 0
        for number in range(RESTARTS):
            told = await daemon.control("POST", "/v1/backends/stub/restart", {"wait_s": 20})
            assert told["backend"]["phase"] == "ready", told
            if number == WARM:
                figures = process.num_fds(), process.num_threads(), len(process.children(recursive=True))
                after_warm_up = process.memory_info().rss

        async def as_before() -> bool:  # a connection of the last question may still be closing
            now = process.num_fds(), process.num_threads(), len(process.children(recursive=True))
            return all(have <= had for have, had in zip(now, figures, strict=True))

        await daemon.until(as_before, f"no more than {figures} descriptors, threads and children", within=5)
        assert process.memory_info().rss - after_warm_up < 4 * 2**20, "well below 100 KiB each"
        assert (await daemon.backend())["generation"] == RESTARTS + 1


def _light(folder: Path) -> Path:
    """A server that starts in a few milliseconds: enough of llama-server to be ready."""
    program = folder / "light-server"
    program.write_text(LIGHT.replace("PYTHON", sys.executable))
    program.chmod(0o755)
    return program


LIGHT = """#!PYTHON -IS
import socket, sys
if "--help" in sys.argv: sys.exit(0)
port = int(sys.argv[sys.argv.index("--port") + 1])
listener = socket.create_server(("127.0.0.1", port))
while True:
    client, _ = listener.accept()
    with client:
        path = client.recv(65536).split(b" ")[1]
        body = b'{"status":"ok"}' if path == b"/health" else b"{}" if path == b"/props" else b'{"data":[]}'
        client.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Type: application/json\\r\\nConnection: close\\r\\n"
                       b"Content-Length: %d\\r\\n\\r\\n%b" % (len(body), body))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV])
async def test_row_6_whatever_ends_the_leader_its_worker_goes_too(start: Start, number: signal.Signals) -> None:
    async with start("--fork-worker") as daemon:
        first = await daemon.until_phase("ready")
        workers = psutil.Process(first["pid"]).children()
        os.kill(first["pid"], number)

        async def again() -> bool:
            backend = await daemon.backend()
            return backend["phase"] == "ready" and backend["generation"] == 2

        await daemon.until(again, "the next generation")
        assert not alive(workers)
