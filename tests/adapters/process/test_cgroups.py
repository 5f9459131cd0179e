"""Row 34 and what backends share: real control groups of this machine, and the kernel that enforces them."""

import asyncio
import os
import re
import resource
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from supervisord.adapters.process import cgroup_files, guardian, orphans
from supervisord.adapters.process.cgroups import Leaf
from supervisord.adapters.process.child import GuardedProcess
from supervisord.adapters.process.host import LinuxProcessHost
from supervisord.core.errors import SpawnError
from supervisord.core.memory import MIB, GroupLimits, GroupUsage
from supervisord.ports import ProcessSpec
from tests.adapters.process.groups import FUGITIVE, HUNGRY, LIMIT, limited, needs
from tests.adapters.process.recorder import ESCAPE, Recorder, alive, proc, until
from tests.fakes.leaves import mine, standing

pytestmark = [pytest.mark.root, needs("memory", "pids")]

IDLE = "import time\nprint('up')\ntime.sleep(1000)"


@pytest.fixture
async def host(host: LinuxProcessHost) -> LinuxProcessHost:
    assert host.groups().kind == "v1"
    return host


def read(process: object) -> GroupUsage:
    assert isinstance(process, GuardedProcess)
    usage = process.group_usage()
    assert usage is not None
    return usage


async def start(
    host: LinuxProcessHost, name: str, program: str = IDLE, **limits: int
) -> tuple[GuardedProcess, Recorder]:
    events = Recorder()
    process = await host.spawn(limited(program, name=name, **limits), events)
    assert isinstance(process, GuardedProcess)
    return process, events


async def test_the_kernel_kills_in_the_leaf_that_is_full_and_in_no_other(host: LinuxProcessHost) -> None:
    neighbour, _ = await start(host, "neighbour", memory=LIMIT)
    hungry, events = await start(host, "hungry", HUNGRY, memory=LIMIT)
    assert await events.until_exited() == -9
    assert read(hungry).oom_kills == 1
    await events.until_gone()
    last = read(hungry)
    assert (last.oom_kills, last.limit) == (1, LIMIT), "the last reading stays"
    assert last.at_limit
    assert last.peak is not None
    assert last.peak > LIMIT - MIB
    assert (read(neighbour).oom_kills, read(neighbour).at_limit) == (0, 0)
    assert hungry.leaf.folders
    await until(lambda: not any(Path(folder).exists() for folder in hungry.leaf.folders))
    assert read(hungry) == last


async def test_a_worker_that_is_killed_is_counted_although_its_leader_ends_politely(host: LinuxProcessHost) -> None:
    program = f"import os\npid = os.fork()\nif pid == 0:\n exec({HUNGRY!r})\nos.waitpid(pid, 0)"
    process, events = await start(host, "b", program, memory=LIMIT)
    assert await events.until_exited() == 0
    assert read(process).oom_kills == 1


async def test_usage_tells_of_the_group(host: LinuxProcessHost) -> None:
    process, events = await start(host, "b", memory=LIMIT)
    await events.until_line("up")
    group = (await process.usage()).group
    assert group is not None
    assert (group.limit, group.oom_kills, group.pids) == (LIMIT, 0, 1)
    assert group.current is not None
    assert 0 < group.current < LIMIT
    seen = read(process)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        assert process.group_usage() == seen, "what was last seen, where nothing can be read"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    unlimited, _ = await start(host, "free")
    assert read(unlimited).limit is None
    process.kill()
    await events.until_gone()
    assert (await process.usage()).group is None


async def test_a_fork_bomb_is_held(host: LinuxProcessHost) -> None:
    program = """
import os, time
made = 0
while True:
    try:
        if os.fork() == 0:
            time.sleep(1000)
    except BlockingIOError:
        print(f"held={made}")
        break
    made += 1
time.sleep(1000)
"""
    process, events = await start(host, "bomb", program, pids=20)
    assert await events.pid("held") == 19
    assert read(process).pids == 20
    _, other = await start(host, "neighbour")
    await other.until_line("up")
    process.kill()
    await events.until_gone()
    assert read(process).pids == 0


async def test_only_the_backend_is_in_its_leaf(host: LinuxProcessHost) -> None:
    process, events = await start(host, "b")
    await events.until_line("up")
    for folder in process.leaf.folders:
        assert guardian.group_pids((folder,)) == {process.pid}


# --- killing ---


async def test_what_was_moved_into_the_leaf_from_elsewhere_is_part_of_the_tree(host: LinuxProcessHost) -> None:
    """As somebody's container runtime would do: no descendant of the guardian, yet of the backend."""
    process, events = await start(host, "b")
    await events.until_line("up")
    stranger = await asyncio.create_subprocess_exec("sleep", "1000")
    cgroup_files.write(Path(process.leaf.folders[0]) / "cgroup.procs", str(stranger.pid))
    assert stranger.pid in (await process.usage()).pids
    os.kill(process.pid, signal.SIGKILL)
    await events.until_exited()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(events.until_gone(), 0.3)
    process.kill()
    await events.until_gone()
    assert await stranger.wait() == -9


async def test_strays_that_end_by_themselves_are_noticed(host: LinuxProcessHost) -> None:
    process, events = await start(host, "b")
    stranger = await asyncio.create_subprocess_exec("sleep", "1000")
    cgroup_files.write(Path(process.leaf.folders[0]) / "cgroup.procs", str(stranger.pid))
    os.kill(process.pid, signal.SIGKILL)
    await events.until_exited()
    stranger.kill()
    await stranger.wait()
    await events.until_gone()


async def test_a_fugitive_is_killed_with_its_tree(host: LinuxProcessHost) -> None:
    process, events = await start(host, "b", FUGITIVE)
    fugitive = await events.pid("fugitive")
    process.kill()
    await events.until_gone()
    assert not alive(fugitive)


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_fugitive_is_killed_although_the_guardian_is(
    host: LinuxProcessHost, monkeypatch: pytest.MonkeyPatch, *, at_once: bool
) -> None:
    """It was never looked at, has no mark, no session and no parent of the tree: only its group tells."""
    if not at_once:  # a kernel without cgroup.kill
        monkeypatch.setattr(orphans, "kill_group", lambda folder: None)
    process, events = await start(host, "b", FUGITIVE)
    fugitive = await events.pid("fugitive")
    os.kill(process.guardian.pid, signal.SIGKILL)
    await events.until_gone()
    assert not alive(fugitive)


@needs("")
async def test_a_whole_group_is_killed_at_once(host: LinuxProcessHost) -> None:
    process, events = await start(host, "b", ESCAPE + "time.sleep(1000)")
    escaped = await events.pid("escaped")
    (unified,) = [folder for folder in process.leaf.folders if (Path(folder) / "cgroup.kill").exists()]
    guardian.kill_group(unified)
    assert await events.until_exited() == -9
    await until(lambda: not alive(escaped))
    await events.until_gone()
    assert process._hunt is None, "the guardian stood outside"
    assert read(process).stall_full is not None


# --- where it does not work ---


async def test_a_backend_outside_of_its_leaf_is_not_judged_by_its_counters(
    host: LinuxProcessHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A counter that stands at 0 would acquit the kernel; here one of the folders takes nobody in."""
    real = host._groups.create

    def create(name: str, generation: int, limits: GroupLimits) -> Leaf:
        leaf = real(name, generation, limits)
        closed = Path(leaf.folders[0]) / "closed"
        return replace(leaf, parts=(*leaf.parts, (leaf.parts[0][0], closed)))

    monkeypatch.setattr(host._groups, "create", create)
    process, events = await start(host, "b")
    await events.until_line("^up$")
    await events.until_line("not in its control group .*/closed, whose limits do not hold then: No such file")
    assert process.group_usage() is None
    assert (await process.usage()).group is None
    assert str(process.leaf.folders[0]).rsplit("/", 1)[1] in proc(process.pid, "cgroup")


async def test_turned_off_nothing_is_made_and_limits_are_said_to_be_without_effect(tmp_path: Path) -> None:
    host = LinuxProcessHost(tmp_path / "state", tmp_path / "log", log_max_bytes=1 << 20, log_keep=1, cgroups=False)
    state = host.groups()
    assert (state.kind, state.controllers) == ("none", ())
    assert state.problem == "turned off by memory.cgroups"
    process, events = await start(host, "b", memory=LIMIT, pids=100)
    for name in ("memory", "pids"):
        words = f"limits.{name} is set, and nothing holds the backends to it: turned off by memory.cgroups"
        await events.until_line(f"^llm-supervisord: {words}$")
    await events.until_line("^up$")
    assert process.group_usage() is None
    assert (await process.usage()).group is None
    assert "limits.memory is set" in host.groups().problem
    assert standing(tmp_path / "state") == set()
    await host.close()


async def test_a_group_that_was_taken_away_does_not_stop_the_start(
    host: LinuxProcessHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its making and the start, by somebody who cleans up."""
    made = cgroup_files.make
    monkeypatch.setattr(cgroup_files, "make", lambda folder: (made(folder), folder.rmdir())[0])
    process, events = await start(host, "b")
    folder = re.escape(process.leaf.folders[0])
    await events.until_line(
        f"^llm-supervisord: not in its control group {folder}, whose limits do not hold then: No such"
    )
    await events.until_line("^up$")
    assert process.group_usage() is None


async def test_a_group_that_cannot_be_made_is_said(host: LinuxProcessHost, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(cgroup_files, "make", refuse)
    process, events = await start(host, "b", memory=LIMIT)
    words = f"no control group could be made below {mine()['memory']}: No space left on device"
    await events.until_line(f"^llm-supervisord: {re.escape(words)}$")
    await events.until_line("^up$")
    assert words in host.groups().problem
    assert process.leaf.folders == ()


async def test_a_limit_the_kernel_refuses_is_said(host: LinuxProcessHost, monkeypatch: pytest.MonkeyPatch) -> None:
    _, events = await start(host, "b", pids=-5)
    await events.until_line("^llm-supervisord: a limit of /sys/fs/cgroup/.*-backend-b-1 was not set: Invalid argument$")
    await events.until_line("^up$")


async def test_a_group_that_stays_busy_is_told_and_the_next_start_takes_another(
    host: LinuxProcessHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that hangs in the kernel stays in its group; here one is moved there when all is over."""
    monkeypatch.setattr(cgroup_files, "REMOVE_S", 0.05)
    process, events = await start(host, "b")
    first = Path(process.leaf.folders[0])
    stuck = await asyncio.create_subprocess_exec("sleep", "1000")
    monkeypatch.setattr(host._groups, "give_back", lambda leaf: None)
    process.kill()
    await events.until_gone()
    monkeypatch.undo()
    cgroup_files.write(first / "cgroup.procs", str(stuck.pid))
    host._groups.give_back(process.leaf, 0.05)
    assert f"the control group {first} could not be removed: Device or resource busy" in host.groups().problem
    following, _ = await start(host, "b")
    assert following.leaf.folders[0] == f"{first}.2"
    assert f"{first.name}.2" in proc(following.pid, "cgroup")
    stuck.kill()
    await stuck.wait()
    await until(lambda: cgroup_files.remove_in_time(first) == "")


async def test_a_start_that_fails_leaves_no_group(host: LinuxProcessHost, tmp_path: Path) -> None:
    for argv in (("/no/such/program",), ("",)):
        with pytest.raises(SpawnError):
            await host.spawn(ProcessSpec("b", 1, argv, {}), Recorder())
    await until(lambda: not standing(tmp_path / "state"))


async def test_groups_that_a_backend_made_itself_go_with_its_own(host: LinuxProcessHost) -> None:
    process, events = await start(host, "b")
    await events.until_line("up")
    (Path(process.leaf.folders[0]) / "inner").mkdir()
    process.kill()
    await events.until_gone()
    await until(lambda: not Path(process.leaf.folders[0]).exists())
    assert host.groups().problem == ""
