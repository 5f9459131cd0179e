"""No process of a tree escapes: whatever it forks, ignores, stops or changes about itself."""

import asyncio
import errno
import os
import re
import resource
import signal
import socket
from contextlib import suppress
from pathlib import Path

import pytest

from supervisord.adapters.process import guardian
from supervisord.adapters.process import host as host_module
from supervisord.adapters.process.child import GuardedProcess
from supervisord.adapters.process.host import LinuxProcessHost
from supervisord.adapters.process.log_drain import LogDrain
from supervisord.ports import ProcessSpec
from tests.adapters.process.recorder import ESCAPE, Recorder, alive, exists, proc, py, sh, until
from tests.fakes.garbage import no_garbage


async def start(host: LinuxProcessHost, spec: ProcessSpec) -> tuple[GuardedProcess, Recorder]:
    events = Recorder()
    process = await host.spawn(spec, events)
    assert isinstance(process, GuardedProcess)
    return process, events


async def test_terminate_reaches_the_whole_group_of_the_leader(host: LinuxProcessHost) -> None:
    process, events = await start(host, sh('sleep 1000 & echo "sleeper=$!"; wait'))
    sleeper = await events.pid("sleeper")
    process.terminate()
    assert await events.until_exited() == -signal.SIGTERM
    await events.until_gone()
    assert not exists(sleeper)


async def test_a_stopped_leader_gets_its_sigterm(host: LinuxProcessHost) -> None:
    process, events = await start(host, sh("trap 'exit 42' TERM; echo ready; while :; do sleep 0.05; done"))
    await events.until_line("ready")
    os.kill(process.pid, signal.SIGSTOP)
    await until(lambda: Path(f"/proc/{process.pid}/stat").read_text().split()[2] == "T")
    process.terminate()
    assert await events.until_exited() == 42
    process.kill()
    await events.until_gone()


async def test_kill_reaches_a_grandchild_in_its_own_session(host: LinuxProcessHost) -> None:
    process, events = await start(host, py(ESCAPE + "time.sleep(1000)"))
    escaped = await events.pid("escaped")
    await events.pid("leader")
    usage = await process.usage()
    assert set(usage.pids) == {process.pid, escaped}
    process.kill()
    await events.until_gone()
    assert events.story == ["exited", "gone"]
    assert not exists(escaped)
    assert not exists(process.pid)


async def test_row_6_workers_outlive_their_leader_until_they_are_killed(host: LinuxProcessHost) -> None:
    """As vLLM's EngineCore does. That the leader has ended is told; what to do about the rest is for the engine."""
    process, events = await start(host, py(ESCAPE + "time.sleep(1000)"))
    escaped = await events.pid("escaped")
    os.kill(process.pid, signal.SIGKILL)
    assert await events.until_exited() == -signal.SIGKILL
    assert (await process.usage()).pids == (escaped,)
    process.terminate()  # the leader's number may belong to anybody by now
    assert alive(escaped)
    assert events.story == ["exited"]
    process.kill()
    await events.until_gone()
    assert not exists(escaped)


async def test_row_7_a_stranger_that_holds_stdout_is_not_waited_for(host: LinuxProcessHost) -> None:
    """The pipe's other end is passed to a process that is none of ours."""
    process, events = await start(host, sh("echo last words; exec sleep 1000"))
    await events.until_line("last words")
    held = os.open(f"/proc/{process.pid}/fd/1", os.O_WRONLY)
    try:
        process.terminate()
        assert await events.until_exited() == -signal.SIGTERM
        await events.until_gone()
    finally:
        os.close(held)
    assert events.lines == ["last words"]


async def test_row_8_double_forked_children_leave_no_zombies(host: LinuxProcessHost) -> None:
    program = """
import os, time
for _ in range(30):
    if os.fork() == 0:
        if os.fork() == 0:
            os._exit(0)
        os._exit(0)
    os.wait()
print("forked=1")
time.sleep(1000)
"""
    process, events = await start(host, py(program))
    await events.pid("forked")

    def below() -> list[str]:
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                state, parent = stat.read_text().rsplit(")", 1)[1].split()[:2]
                if int(parent) in {process.guardian.pid, process.pid}:
                    found.append(state)
        return found

    await until(lambda: below() == ["S"])
    process.kill()
    await events.until_gone()


CHAIN = """
import os, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("started=1", flush=True)
while True:
    if os.fork():
        os._exit(0)
"""


async def test_a_chain_of_forks_cannot_run_away(host: LinuxProcessHost) -> None:
    """Each process of it lives for less than one walk over the processes takes."""
    process, events = await start(host, py(CHAIN))
    await events.pid("started")
    process.kill()
    await events.until_gone()


async def test_a_bush_of_forks_in_sessions_of_their_own(host: LinuxProcessHost) -> None:
    program = """
import os, time
print("started=1", flush=True)
for _ in range(6):
    os.fork()
    os.setsid() if os.getpid() != os.getsid(0) and os.getpid() != os.getpgid(0) else None
time.sleep(1000)
"""
    process, events = await start(host, py(program))
    await events.pid("started")
    process.kill()
    await events.until_gone()
    assert (await process.usage()).pids == ()


async def test_idle_guardian_sleeps(host: LinuxProcessHost) -> None:
    process, events = await start(host, sh("exec sleep 1000"))
    status = Path(f"/proc/{process.guardian.pid}/status")

    def switches() -> int:
        return sum(int(count) for count in re.findall(r"ctxt_switches:\s+(\d+)", status.read_text()))

    await until(lambda: Path(f"/proc/{process.guardian.pid}/wchan").exists() and "State:\tS" in status.read_text())
    before = switches()
    await asyncio.sleep(0.3)  # the claim is that nothing happens in a stretch of time
    assert switches() == before
    process.kill()
    await events.until_gone()


async def test_usage_counts_the_whole_tree(host: LinuxProcessHost) -> None:
    program = """
import os, time
block = bytearray(64 << 20)
if os.fork() == 0:
    block = bytearray(b"x" * (32 << 20))
    end = time.process_time() + 0.3
    while time.process_time() < end: pass
    print("busy=1")
    time.sleep(1000)
time.sleep(1000)
"""
    process, events = await start(host, py(program))
    await events.pid("busy")
    usage = await process.usage()
    assert len(usage.pids) == 2
    assert process.pid in usage.pids
    assert usage.rss > 32 << 20
    assert usage.swap >= 0
    assert usage.cpu_s >= 0.25
    os.kill(next(pid for pid in usage.pids if pid != process.pid), signal.SIGKILL)
    await until(lambda: sum(alive(pid) for pid in usage.pids) == 1)
    process.kill()
    await events.until_gone()


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_a_port_is_owned_by_the_tree_that_listens_on_it(host: LinuxProcessHost, address: str) -> None:
    program = """
import os, socket, sys, time
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
s.bind((sys.argv[1], int(sys.argv[2])))
print("bound=1", flush=True)
s.listen()
if os.fork() == 0:
    print("listening=1", flush=True)
    time.sleep(1000)
s.close()
time.sleep(1000)
"""
    port = host.free_port(address)
    process, events = await start(host, py(program, address, str(port)))
    other, other_events = await start(host, sh("exec sleep 1000", name="other"))
    await events.pid("listening")
    assert await process.owns_port(port)
    assert not await other.owns_port(port)
    assert not await process.owns_port(port + 1 if port < 65535 else port - 1)
    for one, told in ((process, events), (other, other_events)):
        one.kill()
        await told.until_gone()
    assert not await process.owns_port(port)


async def test_a_port_held_by_a_stranger_is_not_ours(host: LinuxProcessHost) -> None:
    """Nor is one from which the tree only connects."""
    program = """
import socket, sys, time
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
print("from=%d" % s.getsockname()[1])
time.sleep(1000)
"""
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        process, events = await start(host, py(program, str(stranger.getsockname()[1])))
        port = await events.pid("from")
        assert not await process.owns_port(stranger.getsockname()[1])
        assert not await process.owns_port(port)
    process.kill()
    await events.until_gone()


# Overwrites what the kernel shows as its environment, as setproctitle does in vLLM's workers.
FORGET_ENVIRONMENT = """
import ctypes
fields = open("/proc/self/stat").read().rsplit(")", 1)[1].split()
start, end = int(fields[47]), int(fields[48])
ctypes.memset(start, 0, end - start)
"""


@pytest.mark.parametrize("forget", ["", FORGET_ENVIRONMENT], ids=["marked", "forgetful"])
async def test_a_killed_guardian_takes_its_tree_along(host: LinuxProcessHost, forget: str) -> None:
    program = ESCAPE.replace("        for number", forget.replace("\n", "\n        ") + "\n        for number")
    process, events = await start(host, py(program + "time.sleep(1000)"))
    escaped = await events.pid("escaped")
    await events.pid("leader")
    if forget:
        assert "LLM_SUPERVISORD" not in proc(escaped, "environ")
        await process.usage()  # which the sampler asks for each second
    other, other_events = await start(host, sh("exec sleep 1000", name="other"))
    os.kill(process.guardian.pid, signal.SIGKILL)
    assert await events.until_exited() == -signal.SIGKILL
    await events.until_gone()
    assert events.story == ["exited", "gone"]
    assert not exists(escaped)
    assert not exists(process.pid)
    assert not exists(process.guardian.pid)
    assert alive(other.pid)
    other.kill()
    await other_events.until_gone()


@pytest.mark.parametrize("orphaned", [False, True])
async def test_what_a_process_held_is_freed_with_it(host: LinuxProcessHost, *, orphaned: bool) -> None:
    """Its last lines take up to a megabyte: they go with who holds the process, and wait for no garbage collector."""
    async with no_garbage(GuardedProcess, LogDrain):
        process, events = await start(host, sh("echo up; exec sleep 1000"))
        await events.until_line("up")
        if orphaned:
            os.kill(process.guardian.pid, signal.SIGKILL)
        else:
            process.kill()
        await events.until_gone()
        assert process.tail(1) == ["up"]
        del process


async def test_a_stopped_guardian_is_woken_to_kill(host: LinuxProcessHost) -> None:
    process, events = await start(host, sh("exec sleep 1000"))
    os.kill(process.guardian.pid, signal.SIGSTOP)
    await until(lambda: "T (stopped)" in proc(process.guardian.pid, "status"))
    process.kill()
    await events.until_gone()


async def test_without_descriptors_nothing_is_taken_for_gone(host: LinuxProcessHost) -> None:
    """What cannot be seen is still there: usage stays as it was, and a hunt goes on."""
    process, events = await start(host, py(ESCAPE + "time.sleep(1000)"))
    escaped = await events.pid("escaped")
    await events.pid("leader")
    seen = await process.usage()
    assert len(seen.pids) == 2
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        assert await process.usage() == seen
        assert not await process.owns_port(1)
        os.kill(process.guardian.pid, signal.SIGKILL)
        await asyncio.sleep(0.2)  # some rounds of looking
        assert events.story == []
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    await events.until_gone()
    assert events.story == ["exited", "gone"]
    assert not exists(escaped)


def test_a_process_that_cannot_be_read_is_not_taken_for_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(guardian, "read_process", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        guardian.processes()


async def test_a_guardian_killed_after_its_leader(host: LinuxProcessHost) -> None:
    process, events = await start(host, py(ESCAPE))
    escaped = await events.pid("escaped")
    assert await events.until_exited() == 0
    os.kill(process.guardian.pid, signal.SIGKILL)
    await events.until_gone()
    assert events.story == ["exited", "gone"]
    assert not exists(escaped)


async def test_a_guardian_killed_before_its_start_is_answered(host: LinuxProcessHost) -> None:
    """Both news are there at once: the caller still gets its process first, then the end of it."""
    events = Recorder()
    spawning = asyncio.ensure_future(host.spawn(sh("exec sleep 1000"), events))  # noqa: TID251 - cut in the middle
    await asyncio.sleep(0)
    (child,) = host._children
    child._unwatch()
    await until(lambda: bool(_children_of(child.guardian.pid)))
    (leader,) = _children_of(child.guardian.pid)
    await until(lambda: Path(f"/proc/{leader}/comm").read_text() == "sleep\n")
    await asyncio.sleep(0.05)  # the word of it is under way
    os.kill(child.guardian.pid, signal.SIGKILL)
    await until(lambda: not alive(child.guardian.pid))
    child._on_guardian_ended()
    process = await spawning
    assert process.pid == leader
    assert events.story == []
    assert await events.until_exited() == -signal.SIGKILL
    await events.until_gone()


def _children_of(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(stat.read_text().rsplit(")", 1)[1].split()[1]) == pid:
                found.append(int(stat.parent.name))
    return found


async def test_closing_the_host_kills_everything(tmp_path: Path) -> None:
    host = LinuxProcessHost(tmp_path / "state", tmp_path / "log", log_max_bytes=1 << 20, log_keep=2)
    process, events = await start(host, py(ESCAPE + "time.sleep(1000)"))
    escaped = await events.pid("escaped")
    await host.close()
    assert events.story == ["exited", "gone"]
    assert not exists(escaped)
    assert process.ended


async def test_closing_does_not_wait_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not end in time is left to its guardian, which goes on without the daemon."""
    monkeypatch.setattr(host_module, "CLOSE_S", 0.05)
    monkeypatch.setattr(GuardedProcess, "kill", lambda self: None)  # as if it hung in the kernel
    host = LinuxProcessHost(tmp_path / "state", tmp_path / "log", log_max_bytes=1 << 20, log_keep=2)
    process, events = await start(host, sh("exec sleep 1000"))
    await host.close()
    assert events.story == []
    await until(lambda: not alive(process.pid) and not alive(process.guardian.pid))
    os.waitpid(process.guardian.pid, 0)  # noqa: ASYNC222 - it has ended, this only takes the zombie


def frozen_group() -> Path | None:
    folder = Path("/sys/fs/cgroup/freezer")
    return folder if os.geteuid() == 0 and (folder / "tasks").exists() else None


@pytest.mark.root
@pytest.mark.skipif(frozen_group() is None, reason="needs root and a cgroup v1 freezer")
async def test_what_sigkill_cannot_end_is_named(host: LinuxProcessHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process frozen by a v1 freezer stays in state D: the nearest thing to one that waits for a dead driver."""
    folder = frozen_group()
    assert folder is not None
    group = folder / f"llm-supervisord-test-{os.getpid()}"
    group.mkdir()
    process, events = await start(host, sh("exec sleep 1000"))
    try:
        (group / "cgroup.procs").write_text(str(process.pid))
        (group / "freezer.state").write_text("FROZEN")
        await until(lambda: (group / "freezer.state").read_text() == "FROZEN\n")
        process.kill()
        await until(lambda: process.stuck == (process.pid,))
        assert events.story == []
    finally:
        (group / "freezer.state").write_text("THAWED")
    await events.until_gone()
    await until(lambda: not (group / "tasks").read_text())
    group.rmdir()
