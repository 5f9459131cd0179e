"""Looking at a process tree through /proc: what it uses, on which ports it listens.

Blocking: call from a thread. Raises OSError when the system cannot say, for want of descriptors.
"""

import os
import re
from collections.abc import Collection
from pathlib import Path

from supervisord.adapters.process.guardian import Process, descendants, group_members, process, processes
from supervisord.core.memory import TreeUsage

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
THREADS = 512  # of a process that are looked at, the oldest: CUDA and OpenMP make some 10 for each processor
_LISTEN = "0A"  # <net/tcp_states.h>
_SWAP = re.compile(rb"^VmSwap:\s+(\d+) kB", re.MULTILINE)
_MAPPED = re.compile(rb"^RssFile:\s+(\d+) kB", re.MULTILINE)
_NAME = re.compile(rb"^Name:\t(.*)$", re.MULTILINE)
_RSS = re.compile(rb"^VmRSS:\s+(\d+) kB", re.MULTILINE)


def members(guardian: Process, groups: tuple[str, ...] = ()) -> list[Process]:
    """The living processes below a guardian and those in its control group, zombies left out.

    Of a guardian that has ended, only the latter are known.
    """
    table = processes()
    root = table.get(guardian.pid)
    known = root is not None and root.start == guardian.start
    below = [one for one in descendants({guardian.pid}, table) if one.state not in "ZX"] if known else []
    pids = {one.pid for one in below}
    return [*below, *(one for one in group_members(groups) if one.pid not in pids)]


def measure(guardian: Process, tree: Collection[Process]) -> TreeUsage:
    """Sizes in bytes (shared pages count in each process), CPU seconds with those of the children that have ended."""
    rss = swap = mapped = 0
    names: dict[int, str] = {}
    for one in tree:
        status = _read(f"/proc/{one.pid}/status")
        if named := _NAME.search(status):
            names[one.pid] = named[1].decode(errors="replace")
        rss += _kib(_RSS, status)
        swap += _kib(_SWAP, status)
        mapped += _kib(_MAPPED, status)
    now = process(guardian.pid)
    ticks = now.children_ticks if now is not None and now.start == guardian.start else 0
    ticks += sum(one.ticks + one.children_ticks for one in tree)
    return TreeUsage(tuple(one.pid for one in tree), rss, swap, ticks / TICKS_PER_S, mapped, names=names)


def demand(pids: Collection[int]) -> dict[int, float]:
    """By thread id: seconds that it has run, or waited on a run queue. Nothing without CONFIG_SCHED_INFO."""
    found = {}
    for pid in pids:
        for thread in _threads(pid):
            ran, waited, *_ = (*map(int, _read(f"/proc/{pid}/task/{thread}/schedstat").split()), 0, 0)
            if ran:  # a thread that is there has run; zeros: the kernel does not count
                found[int(thread)] = (ran + waited) / 1e9
    return found


def _threads(pid: int) -> list[str]:
    try:
        return os.listdir(f"/proc/{pid}/task")[:THREADS]  # noqa: PTH208 - up to hundreds of them
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return []


def listens(tree: Collection[Process], port: int) -> bool:
    """Whether one of the processes holds a socket that listens on TCP `port`, at whatever address."""
    sockets = {f"socket:[{inode}]" for inode in _listening(port)}
    return bool(sockets) and any(_holds(one.pid, sockets) for one in tree)


def environment(pid: int) -> dict[str, str]:
    """The environment a process started with; empty where it cannot be read or the process has overwritten it."""
    packed = os.fsdecode(_read(f"/proc/{pid}/environ"))
    return dict(item.split("=", 1) for item in packed.split("\0") if "=" in item)


def _listening(port: int) -> set[str]:
    wanted = f"{port:04X}"
    inodes = set()
    for table in ("tcp", "tcp6"):
        for line in _read(f"/proc/net/{table}").decode().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTEN and fields[1].endswith(":" + wanted):
                inodes.add(fields[9])
    return inodes


def _holds(pid: int, sockets: Collection[str]) -> bool:
    folder = f"/proc/{pid}/fd"
    try:
        descriptors = os.listdir(folder)  # noqa: PTH208 - hundreds of them, pathlib is ten times slower
    except OSError:
        return False  # ended, or of another user: then nothing proves that the socket is its own
    for name in descriptors:
        try:
            if os.readlink(f"{folder}/{name}") in sockets:  # noqa: PTH115 - as above
                return True
        except OSError:
            continue
    return False


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""


def _kib(pattern: re.Pattern[bytes], status: bytes) -> int:
    found = pattern.search(status)
    return int(found[1]) * 1024 if found else 0
