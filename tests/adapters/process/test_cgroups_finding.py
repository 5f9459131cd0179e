"""Where the daemon's own control groups are, as /proc tells it, and what is made of machines that have few or none."""

import os
import resource
from pathlib import Path
from types import SimpleNamespace

import pytest

from supervisord.adapters.process import cgroup_files, guardian
from supervisord.adapters.process.cgroups import UNIFIED, Own, backend_of, detect, own_groups, use
from supervisord.core.memory import GroupLimits, GroupUsage
from supervisord.ports import GroupsState

INSTANCE = "0123456789abcdef"


def mounted(at: Path, root: str = "/", kind: str = "cgroup2", options: str = "rw") -> str:
    place = str(at).replace(" ", "\\040")
    return f"36 25 0:31 {root} {place} rw,nosuid shared:9 - {kind} cgroup {options}\n"


def group(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "cgroup.procs").touch()
    return folder


def test_version_2_by_its_line_without_controllers(tmp_path: Path) -> None:
    own = group(tmp_path / "with space" / "system.slice" / "llm.service")
    mountinfo = mounted(tmp_path, kind="tmpfs") + mounted(tmp_path / "with space")
    assert own_groups(mountinfo, "0::/system.slice/llm.service\n") == {UNIFIED: Own(own, at_root=False)}


def test_version_1_by_controller(tmp_path: Path) -> None:
    memory, both = group(tmp_path / "memory" / "x"), group(tmp_path / "cpu,pids")
    mountinfo = mounted(tmp_path / "memory", kind="cgroup", options="rw,memory")
    mountinfo += mounted(tmp_path / "cpu,pids", kind="cgroup", options="rw,cpu,pids")
    found = own_groups(mountinfo, "4:memory:/x\n3:cpu,pids:/\n2:name=systemd:/\n")
    assert found["memory"] == Own(memory, at_root=False)
    assert found["pids"] == found["cpu"] == Own(both, at_root=True)


def test_a_container_sees_its_own_part(tmp_path: Path) -> None:
    """Without a cgroup namespace the path is that of the host, and what is mounted begins further down."""
    own = group(tmp_path / "daemon")
    mountinfo = mounted(tmp_path, root="/docker/4711")
    assert own_groups(mountinfo, "0::/docker/4711/daemon\n") == {UNIFIED: Own(own, at_root=True)}
    (tmp_path / "cgroup.procs").touch()
    assert own_groups(mountinfo, "0::/docker/4711\n") == {UNIFIED: Own(tmp_path, at_root=True)}


@pytest.mark.parametrize("path", ["/docker/4712", "/../other", "/"])
def test_a_group_outside_of_what_is_mounted_is_none(tmp_path: Path, path: str) -> None:
    group(tmp_path / "own")
    (tmp_path / "cgroup.procs").touch()
    assert own_groups(mounted(tmp_path, root="/docker/4711"), f"0::{path}\n") == {}


def test_the_first_mount_that_shows_it_is_taken(tmp_path: Path) -> None:
    own = group(tmp_path / "second" / "x")
    mountinfo = mounted(tmp_path / "gone") + mounted(tmp_path / "second") + mounted(tmp_path / "second")
    assert own_groups(mountinfo, "0::/x\n") == {UNIFIED: Own(own, at_root=False)}


def test_a_machine_without_any() -> None:
    made = use({}, INSTANCE)
    assert made.state() == GroupsState("none", "no cgroup file system is mounted here")
    leaf = made.create("small", 1, GroupLimits())
    assert (leaf.folders, leaf.notes, leaf.usage(), made.earlier()) == ((), (), None, [])
    made.give_back(leaf)


def test_proc_that_cannot_be_read_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup_files, "text", lambda file: "")
    assert detect(INSTANCE).state().kind == "none"


def test_nothing_that_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Version 2 without the controllers, as beside version 1, and none of that writable."""
    own = {UNIFIED: Own(group(tmp_path / "v2"), at_root=False), "memory": Own(group(tmp_path / "v1"), at_root=False)}
    monkeypatch.setattr(cgroup_files, "writable", lambda folder: False)
    words = "there is no memory and no pids controller that the daemon may use"
    assert use(own, INSTANCE).state() == GroupsState("none", words)


def test_one_controller_of_version_1_is_better_than_none(tmp_path: Path) -> None:
    made = use({"memory": Own(group(tmp_path / "v1"), at_root=False)}, INSTANCE)
    assert made.state() == GroupsState("v1", "there is no pids controller that the daemon may use", ("memory",))
    leaf = made.create("small", 1, GroupLimits(pids=100))
    assert leaf.folders == (f"{tmp_path}/v1/llm-supervisord-01234567-backend-small-1",)
    assert "limits.pids is set, and nothing holds the backends to it: there is no pids" in leaf.notes[0]


def test_version_2_without_controllers_still_kills_and_tells_of_stall(tmp_path: Path) -> None:
    """Where systemd delegates version 2 beside version 1 to a daemon that is not root."""
    made = use({UNIFIED: Own(group(tmp_path / "v2"), at_root=False)}, INSTANCE)
    assert made.state() == GroupsState("v2", "there is no memory and no pids controller that the daemon may use")
    leaf = made.create("small", 1, GroupLimits())
    assert leaf.notes == ()
    (Path(leaf.folders[0]) / "memory.pressure").write_text("full avg10=2.50 avg60=0.00 avg300=0.00 total=1\n")
    assert leaf.usage() == GroupUsage(stall_full=2.5)


def test_troubles_are_bounded_and_told_once(tmp_path: Path) -> None:
    made = use({}, INSTANCE)
    for words in ("a", "b", "c", "d", "d", "e"):
        made.trouble(words)
    assert made.state().problem == "no cgroup file system is mounted here; b; c; d; e"


def test_a_leaf_that_stands_is_not_given_to_the_next_start(tmp_path: Path) -> None:
    base = group(tmp_path / "v1")
    made = use({"memory": Own(base, at_root=False), "pids": Own(group(tmp_path / "pids"), at_root=False)}, INSTANCE)
    leaves = [made.create("small", 1, GroupLimits()) for _ in range(5)]
    names = [Path(leaf.folders[0]).name.rpartition("-")[2] for leaf in leaves[:4]]
    assert names == ["1", "1.2", "1.3", "1.4"]
    assert leaves[4].folders == ()
    assert leaves[4].notes[0] == f"no control group could be made below {base}: Device or resource busy"
    made.give_back(leaves[1])
    assert not Path(leaves[1].folders[0]).exists()
    assert made.create("small", 1, GroupLimits()).folders == leaves[1].folders


def test_leaves_of_earlier_lives_are_those_with_our_name(tmp_path: Path) -> None:
    base = group(tmp_path / "v1")
    made = use({"memory": Own(base, at_root=False)}, INSTANCE)
    ours = group(base / "llm-supervisord-01234567-backend-small-3")
    recorded = group(tmp_path / "elsewhere" / "llm-supervisord-fedcba98-backend-big-1")
    others = [group(base / "llm-supervisord-fedcba98-backend-x-1"), group(base / "user"), tmp_path / "backend-no-1"]
    made.create("small", 4, GroupLimits())
    assert made.earlier([recorded, *others[1:], ours]) == [ours, recorded]
    (base / "llm-supervisord-01234567-backend-small-4").rmdir()
    nothing = use({"memory": Own(group(tmp_path / "gone"), at_root=False)}, INSTANCE)
    (tmp_path / "gone" / "cgroup.procs").unlink()
    (tmp_path / "gone").rmdir()
    assert nothing.earlier() == []


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        ("backend-small-1", "small"),
        ("backend-a.b-2-12.3", "a.b-2"),
        ("llm-supervisord-01234567-backend-x-1", "x"),
        ("llm-supervisord-backend-x-1", None),
        ("daemon", None),
        ("system.slice", None),
        ("backend-x", None),
    ],
)
def test_the_name_of_a_leaf_tells_its_backend(name: str, backend: str | None) -> None:
    assert backend_of(Path("/sys/fs/cgroup") / name) == backend


def test_files(tmp_path: Path) -> None:
    file = tmp_path / "memory.max"
    for text, number in (("max\n", None), ("9223372036854771712\n", None), ("4096\n", 4096), ("", None)):
        file.write_text(text)
        assert cgroup_files.number(file) == number
    file.write_text("oom 1\noom_kill 2\nunder_oom x\n")
    assert [cgroup_files.entry(file, key) for key in ("oom", "oom_kill", "under_oom", "kill")] == [1, 2, None, None]
    with pytest.raises(FileNotFoundError):
        cgroup_files.write(tmp_path / "memory.peak", "0")
    assert not (tmp_path / "memory.peak").exists()
    assert cgroup_files.remove_in_time(tmp_path / "gone") == ""


def test_without_descriptors_nobody_is_thought_to_be_gone(tmp_path: Path) -> None:
    (tmp_path / "cgroup.procs").write_text(f"0\n{os.getpid()}\n")
    (tmp_path / "empty").mkdir()
    folders = (str(tmp_path / "empty"), str(tmp_path))
    watcher = SimpleNamespace(groups=folders, strayed=False)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            guardian.group_pids(folders)
        assert guardian.Guardian.has_strays(watcher)  # type: ignore[arg-type]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert guardian.group_pids(folders) == {os.getpid()}
    assert [one.pid for one in guardian.group_members(folders)] == [os.getpid()]
