"""What the kernel says of processes that it killed for want of memory, and of GPUs that failed: counter and log."""

import os
import re
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

# mm/oom_kill.c: "Out of memory: Killed process 71 (name)", "Memory cgroup out of memory: Killed process 71 (name)",
# "oom_reaper: reaped process 71 (name)". Before Linux 5.0: "Out of memory: Kill process 71 (name) score 9 …".
# The name in brackets is cut at 15 characters (TASK_COMM_LEN), and may hold brackets itself.
_KILLED = re.compile(
    rb"(?:[Oo]ut of memory.*: Kill(?:ed)? process|oom_reaper: reaped process) (\d+) \((.{1,15})\)(?=[ ,]|$)"
)
# NVIDIA: "NVRM: Xid (PCI:0000:01:00): 79, pid=7, GPU has fallen off the bus."; amdgpu, i915 and xe say it in prose.
_GPU_FAILED = re.compile(
    rb"NVRM: .*(?:Xid|fallen off the bus)|amdgpu.*(?:GPU reset|ring \S+ timeout|device lost)|i915.*GPU HANG|^xe .*reset"
)
_RECORD_BYTES = 8192  # one read gives one record whole, of 2 KiB at most (PRINTK_MESSAGE_MAX), or fails
_RECORDS = 100_000  # in one reading: the largest log buffer in use (16 MiB) holds fewer
_KILLS = 1024  # remembered victims
_GPU_ERRORS = 64  # remembered lines: a GPU that fails can say so for every channel
# The log is stamped by another clock than CLOCK_MONOTONIC, and neither is corrected to the other.
_CLOCK_SLACK_S = 1.0
_FIRST_PID_NAMESPACE = "pid:[4026531836]"  # include/linux/proc_ns.h: PROC_PID_INIT_INO


@dataclass(frozen=True, slots=True)
class _Victim:
    at: float
    pid: int
    name: str


class KernelLog:
    """The KernelLog port: the kernel's word about out-of-memory kills and about GPUs.

    `kmsg` is read without waiting, from the call of `mark` on. Nothing is raised where it may not be read. `proc` is
    where vmstat is.
    """

    def __init__(self, proc: Path = Path("/proc"), kmsg: Path = Path("/dev/kmsg")) -> None:
        self._proc = proc
        self._killed: deque[_Victim] = deque(maxlen=_KILLS)
        self._gpu_errors: deque[tuple[float, str]] = deque(maxlen=_GPU_ERRORS)
        self._kmsg = kmsg
        self._log: int | None = None
        self._knows_pids = False

    def mark(self) -> None:
        """Only what the kernel says from now on counts."""
        self.close()
        self._killed.clear()
        self._gpu_errors.clear()
        self._log = _open_at_end(self._kmsg)
        self._knows_pids = self._shares_pids_with_the_kernel()

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
        if not self._knows_pids or not self._read_on():
            return None
        return any(victim.pid in pids for victim in self._killed)

    def victims(self, since: float) -> tuple[str, ...] | None:
        """See `ports.KernelLog`. A container with PIDs of its own may still read the names."""
        if not self._read_on():
            return None
        return tuple(victim.name for victim in self._killed if victim.at >= since - _CLOCK_SLACK_S)

    def gpu_errors(self, since: float) -> tuple[str, ...] | None:
        """See `ports.KernelLog`."""
        if not self._read_on():
            return None
        return tuple(line for at, line in self._gpu_errors if at >= since - _CLOCK_SLACK_S)

    def close(self) -> None:
        if self._log is not None:
            os.close(self._log)
            self._log = None

    def _shares_pids_with_the_kernel(self) -> bool:
        try:
            return str((self._proc / "self/ns/pid").readlink()) == _FIRST_PID_NAMESPACE
        except OSError:
            return False

    def _read_on(self) -> bool:
        """Whether the log can be read; what is new in it is known then."""
        if self._log is None:
            return False
        for _ in range(_RECORDS):
            try:
                record = os.read(self._log, _RECORD_BYTES)
            except BrokenPipeError:  # records were overwritten before they were read; the next read goes on after them
                continue
            except OSError:  # EAGAIN: that was all
                break
            if not record:
                break
            self._take(record)
        return True

    def _take(self, text: bytes) -> None:
        for at, message in _messages(text):
            victim = _KILLED.search(message)
            if victim is not None:
                self._killed.append(_Victim(at, int(victim[1]), _words(victim[2])))
            elif _GPU_FAILED.search(message):
                self._gpu_errors.append((at, _words(message)))


def _open_at_end(kmsg: Path) -> int | None:
    try:
        log = os.open(kmsg, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with suppress(OSError):  # ESPIPE: a pipe holds no past
        os.lseek(log, 0, os.SEEK_END)
    return log


def _messages(text: bytes) -> Iterator[tuple[float, bytes]]:
    """The records in `text`: seconds since boot, and what is said.

    Only facility 0 is the kernel's: programs can write to the log, but not as that.
    """
    for record in text.splitlines():
        head, _, message = record.partition(b";")
        priority, _, rest = head.partition(b",")
        if priority.isdigit() and int(priority) >> 3 == 0:
            stamp = rest.split(b",")[1:2]
            yield (int(stamp[0]) / 1e6 if stamp and stamp[0].isdigit() else 0.0), message


def _words(text: bytes) -> str:
    return text.decode("utf-8", "replace")
