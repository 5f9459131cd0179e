"""Control groups of version 2: one hierarchy, part of which was delegated to the daemon.

The daemon takes a leaf of its own in it, since a group with controllers below may hold no process itself; the leaves of
the backends stand beside that. Documentation/admin-guide/cgroup-v2.rst of the kernel, CGROUP_DELEGATION.md of systemd.
"""

import errno
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from supervisord.adapters.process import cgroup_files as files
from supervisord.core.memory import MIB, GroupLimits, GroupUsage

DAEMON = "daemon"  # the leaf of the daemon itself; DelegateSubgroup= of the unit names it too
RESERVE = 64 * MIB  # MemoryMin= of the unit: what the daemon keeps however much its backends press
CONTROLLERS = ("memory", "pids")
REMEDY = "; run the daemon as a service with Delegate=memory pids"
# Set by systemd on what it delegates (251 and later; trusted.* before, and readable for root only).
_DELEGATED = ("user.delegate", "trusted.delegate")
_AVG10 = re.compile(r"^full avg10=([\d.]+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Unified:
    """The hierarchy below `base`. Without controllers it still kills whole groups, and tells how they stall."""

    base: Path
    controllers: tuple[str, ...] = ()

    def limit(self, leaf: Path, limits: GroupLimits) -> None:
        """Raises OSError, after having set what can be set."""
        wanted: list[tuple[str, str]] = []
        if "pids" in self.controllers and limits.pids is not None:
            wanted.append(("pids.max", str(limits.pids)))
        if "memory" in self.controllers:
            # A server that lost one of its processes serves nobody: the kernel ends it as a whole, and soon.
            wanted.append(("memory.oom.group", "1"))
            if limits.memory is not None:
                wanted.append(("memory.max", str(limits.memory)))
        failed: OSError | None = None
        for name, value in wanted:
            try:
                files.write(leaf / name, value)
            except OSError as error:
                failed = error
        if failed is not None:
            raise failed

    def read(self, leaf: Path) -> GroupUsage:
        stall = _AVG10.search(files.text(leaf / "memory.pressure"))
        return GroupUsage(
            current=files.number(leaf / "memory.current"),
            peak=files.number(leaf / "memory.peak"),  # Linux 5.19 and later
            limit=files.number(leaf / "memory.max"),
            oom_kills=files.entry(leaf / "memory.events", "oom_kill"),
            at_limit=files.entry(leaf / "memory.events", "max"),
            stall_full=float(stall[1]) if stall else None,
            pids=files.number(leaf / "pids.current"),
        )


def available(own: Path, wanted: Sequence[str] = CONTROLLERS) -> tuple[str, ...]:
    """The controllers that the group of the daemon could hand on."""
    return tuple(name for name in wanted if name in files.text(_base(own) / "cgroup.controllers").split())


def take(own: Path, *, at_root: bool, wanted: Sequence[str] = CONTROLLERS) -> tuple[Unified | None, str]:
    """Make the group `own`, in which this process is, ready for leaves; and what is in the way, in words, or empty.

    `at_root`: `own` is the root of what this process can see, as in a container with a cgroup namespace of its own.
    """
    base = _base(own)
    if not files.writable(base):
        return None, f"the control group {base} belongs to another user or is read-only{REMEDY}"
    if not at_root and os.geteuid() == 0 and not _delegated(base):
        return None, f"the control group {base} was not delegated to the daemon{REMEDY}"
    others = _others(base)
    if others:
        return None, f"the control group {base} is shared with other processes (pid {others[0]}){REMEDY}"
    try:
        _move(base / DAEMON)
    except OSError as error:
        return None, f"the daemon could not move to {base / DAEMON}: {error.strerror}{REMEDY}"
    controllers, problem = _enable(base, wanted)
    _reserve(base / DAEMON)
    return Unified(base, controllers), problem


def _base(own: Path) -> Path:
    """Where the leaves are to stand: DelegateSubgroup= has put the daemon one level below."""
    return own.parent if own.name == DAEMON else own


def _delegated(base: Path) -> bool:
    for name in _DELEGATED:
        with suppress(OSError):
            return os.getxattr(base, name) == b"1"
    return False


def _others(base: Path) -> list[str]:
    """Processes that are neither this one nor in a leaf; 0 stands for one of another PID namespace."""
    return [pid for pid in files.text(base / "cgroup.procs").split() if int(pid) != os.getpid()]


def _move(leaf: Path) -> None:
    with suppress(FileExistsError):
        files.make(leaf)
    files.write(leaf / "cgroup.procs", str(os.getpid()))


def _enable(base: Path, wanted: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """One by one: a controller that is refused must not take the other with it."""
    there, problems = available(base, wanted), []
    for name in there:
        try:
            files.write(base / "cgroup.subtree_control", f"+{name}")
        except OSError as error:
            reason = "it holds processes itself" if error.errno == errno.EBUSY else error.strerror
            problems.append(f"the {name} controller could not be enabled below {base}: {reason}")
    problems += [f"{base} has no {name} controller{REMEDY}" for name in wanted if name not in there]
    enabled = files.text(base / "cgroup.subtree_control").split()
    return tuple(name for name in there if name in enabled), "; ".join(problems)


def _reserve(leaf: Path) -> None:
    """Where the unit's MemoryMin= stays with the service as a whole, memory_recursiveprot spreads it just as well."""
    with suppress(OSError):
        files.write(leaf / "memory.min", str(RESERVE))
