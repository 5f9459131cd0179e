"""What the kernel says about processes it killed for want of memory: its counter, and its log."""

import os
import re
from collections import deque
from contextlib import suppress
from pathlib import Path

# mm/oom_kill.c: "Out of memory: Killed process 71 (name)", "Memory cgroup out of memory: Killed process 71 (name)",
# "oom_reaper: reaped process 71 (name)". Before Linux 5.0: "Out of memory: Kill process 71 (name) score 9 …".
_KILLED = re.compile(rb"(?:[Oo]ut of memory.*: Kill(?:ed)? process|oom_reaper: reaped process) (\d+) \(")
_RECORD_BYTES = 8192  # one read gives one record whole, of 2 KiB at most (PRINTK_MESSAGE_MAX), or fails
_RECORDS = 100_000  # in one reading: the largest log buffer in use (16 MiB) holds fewer
_KILLS = 1024  # remembered victims
_FIRST_PID_NAMESPACE = "pid:[4026531836]"  # include/linux/proc_ns.h: PROC_PID_INIT_INO


class KernelLog:
    """The KernelLog port: the kernel's word about out-of-memory kills.

    `kmsg` is read without waiting, from the call of `mark` on. Nothing is raised where it may not be read. `proc` is
    where vmstat is.
    """

    def __init__(self, proc: Path = Path("/proc"), kmsg: Path = Path("/dev/kmsg")) -> None:
        self._proc = proc
        self._killed: deque[int] = deque(maxlen=_KILLS)
        self._kmsg = kmsg
        self._log: int | None = None

    def mark(self) -> None:
        """Only what the kernel says from now on counts."""
        self.close()
        self._killed.clear()
        self._log = _open_at_end(self._kmsg) if self._shares_pids_with_the_kernel() else None

    def oom_kills(self) -> int | None:
        """Processes killed for want of memory since boot, on the whole machine; None before Linux 4.13."""
        try:
            vmstat = (self._proc / "vmstat").read_text()
        except OSError:
            return None
        found = re.search(r"^oom_kill (\d+)$", vmstat, re.MULTILINE)
        return int(found[1]) if found else None

    def named(self, pids: frozenset[int]) -> bool | None:
        """Whether the kernel says that it killed one of `pids` for want of memory.

        None: the log cannot be read (kernel.dmesg_restrict without CAP_SYSLOG, no /dev/kmsg, a container with PIDs of
        its own).
        """
        if self._log is None:
            return None
        self._read(self._log)
        return not pids.isdisjoint(self._killed)

    def close(self) -> None:
        if self._log is not None:
            os.close(self._log)
            self._log = None

    def _shares_pids_with_the_kernel(self) -> bool:
        try:
            return str((self._proc / "self/ns/pid").readlink()) == _FIRST_PID_NAMESPACE
        except OSError:
            return False

    def _read(self, log: int) -> None:
        for _ in range(_RECORDS):
            try:
                record = os.read(log, _RECORD_BYTES)
            except BrokenPipeError:  # records were overwritten before they were read; the next read goes on after them
                continue
            except OSError:  # EAGAIN: that was all
                return
            if not record:
                return
            self._killed += _victims(record)


def _open_at_end(kmsg: Path) -> int | None:
    try:
        log = os.open(kmsg, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with suppress(OSError):  # ESPIPE: a pipe holds no past
        os.lseek(log, 0, os.SEEK_END)
    return log


def _victims(text: bytes) -> list[int]:
    """The PIDs that records name. Only facility 0 is the kernel's: programs can write to the log, but not as that."""
    found: list[int] = []
    for record in text.splitlines():
        priority = record.split(b",", 1)[0]
        if priority.isdigit() and int(priority) >> 3 == 0:
            found += map(int, _KILLED.findall(record))
    return found
