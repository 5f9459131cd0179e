"""Control groups: a leaf for each backend, in whichever hierarchies this machine lets the daemon use.

Only the backend's own processes are in its leaf. The guardian stays outside, so that neither `memory.oom.group` nor
`cgroup.kill` can take it. Where nothing can be used, everything works without, and says why.
"""

import errno
import os
import re
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol

from supervisord.adapters.process import cgroup_files as files
from supervisord.adapters.process import cgroup_v2
from supervisord.adapters.process.cgroup_v1 import MemoryV1, PidsV1
from supervisord.adapters.process.cgroup_v2 import Unified
from supervisord.core.memory import GroupLimits, GroupUsage
from supervisord.ports import GroupsState

UNIFIED = ""  # the hierarchy of version 2, as /proc/PID/cgroup names it
_MARK = "llm-supervisord-"
_LEAF = re.compile(rf"(?:{_MARK}[0-9a-f]{{8}}-)?backend-(?P<name>.+)-\d+(?:\.\d)?")
_SPARE_NAMES = ("", ".2", ".3", ".4")  # where a leaf of that name still stands: stuck in the kernel, or being removed
_TROUBLES = 4


class Hierarchy(Protocol):
    """One tree of control groups, below whose `base` leaves are made."""

    @property
    def base(self) -> Path: ...

    @property
    def controllers(self) -> tuple[str, ...]: ...

    def limit(self, leaf: Path, limits: GroupLimits) -> None:
        """Set what its controllers can hold. Raises OSError."""
        ...

    def read(self, leaf: Path) -> GroupUsage:
        """What its controllers count."""
        ...


@dataclass(frozen=True, slots=True)
class Leaf:
    """The control group of one generation of a backend: a folder in each hierarchy. `notes`: what is amiss with it."""

    parts: tuple[tuple[Hierarchy, Path], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def folders(self) -> tuple[str, ...]:
        return tuple(str(folder) for _, folder in self.parts)

    def usage(self) -> GroupUsage | None:
        """What the kernel counts now; None where there is nothing to read."""
        return _merged([tree.read(folder) for tree, folder in self.parts])


NO_LEAF = Leaf()


class Groups:
    """The hierarchies in use. `prefix` begins the names of leaves where other daemons may have theirs beside them."""

    def __init__(self, kind: str, trees: Sequence[Hierarchy] = (), *, problem: str = "", prefix: str = "") -> None:
        self._kind = kind
        self._trees = tuple(trees)
        self._problem = problem
        self._prefix = prefix
        self._controllers = tuple(name for tree in trees for name in tree.controllers)
        self._troubles: deque[str] = deque(maxlen=_TROUBLES)
        self._in_use: set[Path] = set()

    def state(self) -> GroupsState:
        problems = "; ".join(filter(None, (self._problem, *self._troubles)))
        return GroupsState(self._kind, problems, self._controllers)

    def create(self, backend: str, generation: int, limits: GroupLimits) -> Leaf:
        """A leaf with its limits set, as far as that can be done; the rest is in its notes. Raises nothing."""
        notes = [*self._unenforced(limits)]
        parts: list[tuple[Hierarchy, Path]] = []
        for tree in self._trees:
            try:
                folder = self._make(tree.base / f"{self._prefix}backend-{backend}-{generation}")
            except OSError as error:
                notes.append(self.trouble(f"no control group could be made below {tree.base}: {error.strerror}"))
                continue
            parts.append((tree, folder))
            try:
                tree.limit(folder, limits)
            except OSError as error:
                notes.append(self.trouble(f"a limit of {folder} was not set: {error.strerror}"))
        return Leaf(tuple(parts), tuple(notes))

    def give_back(self, leaf: Leaf, patience_s: float = files.REMOVE_S) -> None:
        """Remove a leaf whose processes have just ended; what stays is told by `state`. Once. Blocking."""
        for _, folder in leaf.parts:
            if problem := files.remove_in_time(folder, patience_s):
                self.trouble(problem)
            self._in_use.discard(folder)

    def earlier(self, recorded: Iterable[Path] = ()) -> list[Path]:
        """The leaves that earlier lives have left: those that stand beside ours, and those of a record.

        The record is believed only as far as it names what can be ours.
        """
        mark = f"{self._prefix}backend-"
        beside = [one for tree in self._trees for one in _folders(tree.base) if one.name.startswith(mark)]
        every = [one for one in dict.fromkeys([*beside, *recorded]) if one not in self._in_use]
        return [one for one in every if backend_of(one) is not None and (one / "cgroup.procs").exists()]

    def trouble(self, words: str) -> str:
        """Remember what went wrong, for `state`."""
        if words not in self._troubles:
            self._troubles.append(words)
        return words

    def _make(self, wanted: Path) -> Path:
        """A new folder, never one that counts or holds anything of an earlier start. Raises OSError."""
        refused = OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        for suffix in _SPARE_NAMES:
            folder = wanted.with_name(wanted.name + suffix)
            if folder in self._in_use:
                continue
            try:
                files.remove(folder)
                files.make(folder)
            except OSError as error:
                refused = error
            else:
                self._in_use.add(folder)
                return folder
        raise refused

    def _unenforced(self, limits: GroupLimits) -> Iterable[str]:
        for name, asked in (("memory", limits.memory), ("pids", limits.pids)):
            if asked is not None and name not in self._controllers:
                why = self._problem or f"there is no {name} controller"
                yield self.trouble(f"limits.{name} is set, and nothing holds the backends to it: {why}")


def no_groups(problem: str) -> Groups:
    """Work without control groups, for the reason given."""
    return Groups("none", problem=problem)


NO_GROUPS = no_groups("")


def backend_of(leaf: Path) -> str | None:
    """The backend whose leaf a folder is, by its name; None if it is none."""
    found = _LEAF.fullmatch(leaf.name)
    return found["name"] if found else None


def detect(instance: str) -> Groups:
    """Find out what can be used, and take it: the daemon may move to a leaf of its own. `instance`: id of the daemon.

    Once, before the first child.
    """
    return use(own_groups(files.text(Path("/proc/self/mountinfo")), files.text(Path("/proc/self/cgroup"))), instance)


def use(own: "Mapping[str, Own]", instance: str) -> Groups:
    """Take what there is of the groups this process is in."""
    if not own:
        return no_groups("no cgroup file system is mounted here")
    prefix = f"{_MARK}{instance[:8]}-"
    unified, problem = own.get(UNIFIED), ""
    if unified is not None and cgroup_v2.available(unified.folder):
        tree, problem = cgroup_v2.take(unified.folder, at_root=unified.at_root)
        if tree is not None:
            return Groups("v2", [tree], problem=problem)
    trees: list[Hierarchy] = [
        kind(own[name].folder)
        for name, kind in (("memory", MemoryV1), ("pids", PidsV1))
        if name in own and files.writable(own[name].folder)
    ]
    kind = "v1" if trees else "v2"
    if unified is not None and not problem and files.writable(unified.folder):
        trees.append(Unified(unified.folder))  # hybrid: kills whole groups, and tells how they stall
    missing = [name for name in cgroup_v2.CONTROLLERS if not any(name in tree.controllers for tree in trees)]
    if missing:
        problem = problem or f"there is no {' and no '.join(missing)} controller that the daemon may use"
    return Groups(kind, trees, problem=problem, prefix=prefix) if trees else no_groups(problem)


@dataclass(frozen=True, slots=True)
class Own:
    """The group this process is in, of one hierarchy. `at_root`: at the root of what it can see, as in a container."""

    folder: Path
    at_root: bool


def own_groups(mountinfo: str, membership: str) -> dict[str, Own]:
    """By controller, "" for version 2, from /proc/self/mountinfo and /proc/self/cgroup (proc(5), cgroups(7))."""
    paths = {name: path for names, path in _memberships(membership) for name in names}
    found: dict[str, Own] = {}
    for names, root, mount in _mounts(mountinfo):
        for name in names:
            if name in paths and name not in found and (below := _below(root, paths[name])) is not None:
                folder = mount / below
                if (folder / "cgroup.procs").exists():
                    found[name] = Own(folder, at_root=below in {Path(), Path(cgroup_v2.DAEMON)})
    return found


def _memberships(text: str) -> Iterable[tuple[list[str], str]]:
    for line in text.splitlines():
        _, names, path = line.split(":", 2)
        yield names.split(","), path


def _mounts(text: str) -> Iterable[tuple[list[str], str, Path]]:
    """The controllers, the root and the place of each mounted hierarchy."""
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind in {"cgroup", "cgroup2"}:
            root, mount = (_unescaped(field) for field in before.split(" ")[3:5])
            yield [UNIFIED] if kind == "cgroup2" else options.split(","), root, Path(mount)


def _unescaped(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)


def _below(root: str, path: str) -> Path | None:
    """`path` seen from the mounted root; None where it is outside of it."""
    try:
        below = Path(path).relative_to(root)
    except ValueError:
        return None
    return None if ".." in below.parts else below


def _folders(base: Path) -> list[Path]:
    try:
        return [Path(one) for one in os.scandir(base) if one.is_dir()]
    except OSError:
        return []


def _merged(readings: Sequence[GroupUsage]) -> GroupUsage | None:
    """Each figure from the first hierarchy that tells it; None where none tells any."""
    found = {
        field.name: next((value for one in readings if (value := getattr(one, field.name)) is not None), None)
        for field in fields(GroupUsage)
    }
    return GroupUsage(**found) if any(value is not None for value in found.values()) else None
