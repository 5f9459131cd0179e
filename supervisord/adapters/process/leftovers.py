"""What an earlier life of the daemon left running: remembered in the state folder, found again, killed.

Needed only when daemon and guardian were both killed. A process is killed when the record names it by pid *and* start
time of this very boot, when it is in the control group of a backend of this installation, when its environment carries
this installation's mark, or when it descends from such a one. The control groups are removed after that.
"""

import json
import os
import secrets
import signal
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from supervisord.adapters.process import tree
from supervisord.adapters.process.cgroup_files import remove_in_time
from supervisord.adapters.process.cgroups import NO_GROUPS, Groups, backend_of
from supervisord.adapters.process.guardian import (
    Process,
    descendants,
    group_members,
    kill_group,
    processes,
    signal_exactly,
)
from supervisord.adapters.process.launch import BACKEND, INSTANCE

WAIT_S = 5.0
PAUSE_S = 0.02


@dataclass(frozen=True, slots=True)
class Remembered:
    """One live backend: its name, and pid and start time of each of its processes, the guardian among them."""

    backend: str
    processes: tuple[tuple[int, int], ...]
    groups: tuple[str, ...] = ()  # folders of its control group


@dataclass(frozen=True, slots=True)
class Leftover:
    process: Process
    backend: str
    command: str


class Memory:
    """The files `instance` and `children.json` in `<state>/run`. Blocking; the folder is made when needed."""

    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir / "run"
        self._boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()

    def instance(self) -> str:
        """The random id of this installation: the same for all lives of the daemon on this state folder."""
        file = self._folder / "instance"
        try:
            found = file.read_text().strip()
        except FileNotFoundError:
            found = ""
        if not found:
            found = secrets.token_hex(16)
            self._write(file, found + "\n")
        return found

    def save(self, backends: Iterable[Remembered]) -> None:
        """Raises OSError."""
        content = {
            "boot": self._boot,
            "backends": [{"name": one.backend, "processes": one.processes, "groups": one.groups} for one in backends],
        }
        self._write(self._folder / "children.json", json.dumps(content) + "\n")

    def load(self) -> list[Remembered]:
        """Of this boot only. Raises ValueError when the file is damaged, OSError when it cannot be read."""
        try:
            content = json.loads((self._folder / "children.json").read_text())
        except FileNotFoundError:
            return []
        try:
            if content["boot"] != self._boot:
                return []
            return [
                Remembered(
                    str(one["name"]),
                    tuple((int(pid), int(start)) for pid, start in one["processes"]),
                    tuple(map(str, one.get("groups", ()))),  # not written by the first versions
                )
                for one in content["backends"]
            ]
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a record of processes: {error!r}") from error

    def _write(self, file: Path, text: str) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(file.name + ".new")
        temporary.write_text(text)
        temporary.replace(file)


def kill_leftovers(memory: Memory, instance: str, spare: Collection[int], groups: Groups = NO_GROUPS) -> list[str]:
    """Kill them, wait until they are gone (5 s at most), and tell.

    `spare`: pids of this life's own guardians. `groups`: know the leaves of this life, which stay.
    """
    told: list[str] = []
    remembered: list[Remembered] = []
    try:
        remembered = memory.load()
    except (OSError, ValueError) as error:
        told.append(f"the record of running processes is unreadable ({error}); only marked processes can be found")
    leaves = groups.earlier(Path(folder) for backend in remembered for folder in backend.groups)
    seen: dict[int, Leftover] = {}
    deadline = time.monotonic() + WAIT_S
    while (left := _find(remembered, instance, spare, leaves)) and time.monotonic() < deadline:
        for one in left:
            signal_exactly(one.process, signal.SIGKILL)
            seen.setdefault(one.process.pid, one)
        _kill_whole(leaves, {one.process.pid for one in left})
        time.sleep(PAUSE_S)
    surviving = {one.process.pid for one in left}
    told += [_sentence(one, survives=pid in surviving) for pid, one in seen.items()]
    return told + [problem for leaf in leaves if (problem := remove_in_time(leaf))]


def _kill_whole(leaves: Iterable[Path], guilty: Collection[int]) -> None:
    """At once, so that nothing forks away; never a group that somebody else's process, or we, were moved into."""
    for leaf in leaves:
        if all(one.pid in guilty for one in group_members((str(leaf),))):
            kill_group(str(leaf))


def _sentence(one: Leftover, *, survives: bool) -> str:
    who = f"pid {one.process.pid} ({one.command}) left by an earlier life as backend {one.backend}"
    if survives:
        return f"could not kill {who}: it hangs in the kernel or belongs to another user; its memory stays in use"
    return f"killed {who}"


def _find(
    remembered: Sequence[Remembered], instance: str, spare: Collection[int], leaves: Iterable[Path]
) -> list[Leftover]:
    table = processes()
    innocent = set(spare) | _with_ancestors(os.getpid(), table)
    innocent |= {one.pid for one in descendants(set(spare), table)}
    names = dict(_recorded(remembered, table)) | dict(_marked(table, instance)) | dict(_grouped(leaves, table))
    for pid, name in list(names.items()):
        for below in descendants({pid}, table):
            names.setdefault(below.pid, name)
    return [
        Leftover(table[pid], name, _command(pid))
        for pid, name in names.items()
        if pid not in innocent and table[pid].state not in "ZX"
    ]


def _recorded(remembered: Iterable[Remembered], table: dict[int, Process]) -> Iterator[tuple[int, str]]:
    for backend in remembered:
        for pid, start in backend.processes:
            if pid in table and table[pid].start == start:
                yield pid, backend.backend


def _marked(table: dict[int, Process], instance: str) -> Iterator[tuple[int, str]]:
    for pid in table:
        environment = tree.environment(pid)
        if environment.get(INSTANCE) == instance:
            yield pid, environment.get(BACKEND, "?")


def _grouped(leaves: Iterable[Path], table: dict[int, Process]) -> Iterator[tuple[int, str]]:
    for leaf in leaves:
        for one in group_members((str(leaf),)):
            if one.pid in table and table[one.pid].start == one.start:
                yield one.pid, backend_of(leaf) or "?"


def _with_ancestors(pid: int, table: dict[int, Process]) -> set[int]:
    found = set()
    while pid in table and pid not in found:
        found.add(pid)
        pid = table[pid].parent
    return found


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        return "?"
