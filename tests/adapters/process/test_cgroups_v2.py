"""Version 2, delegated: plain files for the controllers this machine keeps in version 1, and the real kernel."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from supervisord.adapters.process import cgroup_v2
from supervisord.adapters.process.cgroups import UNIFIED, Groups, Own, use
from supervisord.adapters.process.host import LinuxProcessHost
from supervisord.core.memory import MIB, GroupLimits, GroupUsage
from supervisord.ports import GroupsState
from tests.adapters.process.groups import LIMIT, limited
from tests.adapters.process.plain_groups import PlainGroups
from tests.adapters.process.recorder import Recorder, until
from tests.fakes.leaves import mine

Plain = Callable[..., PlainGroups]


@pytest.fixture
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plain:
    def make(name: str = "llm-supervisord.service", **settings: object) -> PlainGroups:
        groups = PlainGroups(tmp_path / "cgroup" / name, **settings)  # type: ignore[arg-type]
        groups.install(monkeypatch)
        return groups

    return make


def taken(groups: PlainGroups, folder: str = "") -> Groups:
    """What the daemon makes of the group it was started in."""
    return use({UNIFIED: Own(groups.base / folder, at_root=True)}, "0123456789abcdef")


def procs(folder: Path) -> list[int]:
    return [int(pid) for pid in (folder / "cgroup.procs").read_text().split()]


def test_the_daemon_moves_to_a_leaf_of_its_own_with_a_reserve(plain: Plain) -> None:
    groups = plain()
    assert taken(groups).state() == GroupsState("v2", "", ("memory", "pids"))
    assert procs(groups.base) == []
    assert procs(groups.base / "daemon") == [os.getpid()]
    assert (groups.base / "daemon" / "memory.min").read_text() == str(64 * MIB)
    assert (groups.base / "cgroup.subtree_control").read_text().split() == ["memory", "pids"]


def test_the_service_manager_may_have_put_it_there(plain: Plain) -> None:
    """DelegateSubgroup=, systemd 254 and later."""
    groups = plain()
    groups.make(groups.base / "daemon")
    groups.write(groups.base / "daemon" / "cgroup.procs", str(os.getpid()))
    made = taken(groups, "daemon")
    assert made.state() == GroupsState("v2", "", ("memory", "pids"))
    assert procs(groups.base / "daemon") == [os.getpid()]
    leaf = made.create("small", 1, GroupLimits())
    assert leaf.folders == (f"{groups.base}/backend-small-1",)


def test_a_reserve_that_is_not_given_is_no_trouble(plain: Plain) -> None:
    groups = plain()
    groups.refuses["memory.min"] = errno.EACCES
    assert taken(groups).state().problem == ""


def test_a_leaf_has_its_limits_and_goes_as_a_whole(plain: Plain) -> None:
    groups = plain()
    made = taken(groups)
    leaf = made.create("a.b-c", 7, GroupLimits(LIMIT, 100))
    folder = groups.base / "backend-a.b-c-7"
    assert leaf.folders == (str(folder),)
    assert leaf.notes == ()
    assert (folder / "memory.max").read_text() == str(LIMIT)
    assert (folder / "pids.max").read_text() == "100"
    assert (folder / "memory.oom.group").read_text() == "1"
    assert (folder / "memory.swap.max").read_text() == "max\n"
    free = groups.base / "backend-free-1"
    made.create("free", 1, GroupLimits())
    assert (free / "memory.max").read_text() == (free / "pids.max").read_text() == "max\n"
    assert (free / "memory.oom.group").read_text() == "1"
    made.give_back(leaf)
    assert not folder.exists()


def test_usage_is_what_the_kernel_counts(plain: Plain) -> None:
    groups = plain()
    leaf = taken(groups).create("small", 1, GroupLimits(LIMIT))
    folder = Path(leaf.folders[0])
    (folder / "memory.events").write_text("low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 1\n")
    (folder / "pids.current").write_text("5\n")
    assert leaf.usage() == GroupUsage(4096, 8192, LIMIT, 2, 12, 1.5, 5)
    (folder / "memory.peak").unlink()  # before Linux 5.19
    (folder / "memory.pressure").unlink()  # without PSI
    (folder / "memory.max").write_text("max\n")
    assert leaf.usage() == GroupUsage(4096, None, None, 2, 12, None, 5)


def test_one_limit_that_is_refused_takes_no_other_with_it(plain: Plain) -> None:
    groups = plain()
    made = taken(groups)
    groups.refuses["memory.oom.group"] = errno.EACCES
    leaf = made.create("small", 1, GroupLimits(LIMIT, 100))
    assert leaf.notes == (f"a limit of {leaf.folders[0]} was not set: Permission denied",)
    assert (Path(leaf.folders[0]) / "memory.max").read_text() == str(LIMIT)
    assert (Path(leaf.folders[0]) / "pids.max").read_text() == "100"


def test_a_controller_that_was_not_delegated_is_told(plain: Plain) -> None:
    groups = plain(controllers="cpu pids")
    made = taken(groups)
    words = f"{groups.base} has no memory controller; run the daemon as a service with Delegate=memory pids"
    assert made.state() == GroupsState("v2", words, ("pids",))
    leaf = made.create("small", 1, GroupLimits(LIMIT, 100))
    assert leaf.notes == (f"limits.memory is set, and nothing holds the backends to it: {words}",)
    assert (Path(leaf.folders[0]) / "pids.max").read_text() == "100"


def test_a_controller_that_cannot_be_enabled_is_told(plain: Plain) -> None:
    groups = plain()
    groups.refuses["cgroup.subtree_control"] = errno.EBUSY
    words = f"the memory controller could not be enabled below {groups.base}: it holds processes itself"
    state = taken(groups).state()
    assert state.problem.startswith(words)
    assert state.controllers == ()
    groups = plain("other.service")
    groups.refuses["cgroup.subtree_control"] = errno.EACCES
    assert "could not be enabled below" in (problem := taken(groups).state().problem)
    assert "Permission denied" in problem


def test_a_group_shared_with_others_is_left_alone(plain: Plain) -> None:
    """0 stands for a process that another PID namespace hides."""
    for number, other in enumerate((1, 0)):
        groups = plain(f"session-{number}.scope", others=(other,))
        state = taken(groups).state()
        assert state.kind == "none"
        assert state.problem == (
            f"the control group {groups.base} is shared with other processes (pid {other}); "
            "run the daemon as a service with Delegate=memory pids"
        )
        assert not (groups.base / "daemon").exists()


def test_a_move_that_is_refused_is_told(plain: Plain) -> None:
    groups = plain()
    groups.refuses["cgroup.procs"] = errno.EACCES
    state = taken(groups).state()
    assert (state.kind, state.controllers) == ("none", ())
    assert state.problem.startswith(f"the daemon could not move to {groups.base}/daemon: Permission denied; run")


@pytest.mark.root
@pytest.mark.skipif("__import__('os').geteuid() != 0", reason="only root may write what was not delegated to it")
def test_what_root_could_write_is_not_thereby_delegated(plain: Plain) -> None:
    groups = plain()
    tree, problem = cgroup_v2.take(groups.base, at_root=False)
    assert tree is None
    assert problem.startswith(f"the control group {groups.base} was not delegated to the daemon; run the daemon as a")


def test_a_read_only_group_is_told(plain: Plain, monkeypatch: pytest.MonkeyPatch) -> None:
    """As containers mount it; here nothing is writable because access(2) says so."""
    groups = plain()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    state = taken(groups).state()
    assert state.kind == "none"
    assert "belongs to another user or is read-only" in state.problem


async def test_a_backend_joins_its_leaf_and_is_killed_as_a_whole(
    plain: Plain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = plain()
    monkeypatch.setattr("supervisord.adapters.process.host.detect", lambda instance: taken(groups))
    host = LinuxProcessHost(tmp_path / "state", tmp_path / "log", log_max_bytes=1 << 20, log_keep=1)
    events = Recorder()
    process = await host.spawn(limited("import time\nprint('up')\ntime.sleep(1000)", memory=LIMIT), events)
    await events.until_line("^up$")
    leaf = groups.base / "backend-b-1"
    assert (leaf / "cgroup.procs").read_text() == "0", "whoever writes it: the process itself"
    group = (await process.usage()).group
    assert group is not None
    assert group.limit == LIMIT
    removed: list[str] = []
    monkeypatch.setattr(groups, "remove", lambda folder: removed.append((folder / "cgroup.kill").read_text()))
    groups.install(monkeypatch)
    process.kill()
    await events.until_gone()
    await until(lambda: bool(removed))
    assert removed[0] == "1"
    await host.close()


# --- the real kernel, with a controller that it has in version 2 ---

LIFE = """
import os, sys
from pathlib import Path
from supervisord.adapters.process import cgroup_v2
base = Path(sys.argv[1])
(base / "cgroup.procs").write_text(str(os.getpid()))
tree, problem = cgroup_v2.take(base, at_root=False, wanted=("hugetlb",))
(own,) = [line for line in open("/proc/self/cgroup") if line.startswith("0::")]
print(problem, tree.controllers if tree else None, own)
"""


@pytest.fixture
def delegated() -> Iterator[Path]:
    """A group of the real version 2 with a controller, delegated as systemd does it."""
    root = mine()[UNIFIED]
    control = root / "cgroup.subtree_control"
    had = "hugetlb" in control.read_text()
    if not had:
        control.write_text("+hugetlb")
    base = root / f"llm-supervisord-test-{os.getpid()}"
    base.mkdir()
    yield base
    for folder in (base / "daemon", base):
        if folder.exists():
            folder.rmdir()
    if not had:
        control.write_text("-hugetlb")


def lives(base: Path) -> str:
    env = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, "-c", LIFE, base]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def has_real_controller() -> bool:
    folder = mine().get(UNIFIED)
    return folder is not None and os.geteuid() == 0 and "hugetlb" in (folder / "cgroup.controllers").read_text()


@pytest.mark.root
@pytest.mark.skipif("not has_real_controller()", reason="needs a v2 hierarchy with a controller, and root")
def test_the_kernel_lets_the_daemon_do_so(delegated: Path) -> None:
    assert lives(delegated).startswith(f"the control group {delegated} was not delegated")
    os.setxattr(delegated, "user.delegate", b"1")
    other = subprocess.Popen(["sleep", "1000"])
    try:
        (delegated / "cgroup.procs").write_text(str(other.pid))
        assert f"shared with other processes (pid {other.pid})" in lives(delegated)
    finally:
        other.kill()
        other.wait()
    for _ in range(2):  # a next life finds the leaf
        said = lives(delegated)
        assert said.startswith("('hugetlb',)"), said
        assert f"/{delegated.name}/daemon" in said
        assert (delegated / "cgroup.subtree_control").read_text().split() == ["hugetlb"]
        (delegated / "cgroup.subtree_control").write_text("-hugetlb")
