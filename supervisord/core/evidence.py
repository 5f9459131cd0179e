"""All that can be known when a process has ended, and what a verdict on it is made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from supervisord.core.memory import MIB, Pressure
from supervisord.core.signatures import CauseKind

OUT_OF_MEMORY = frozenset({CauseKind.KERNEL_OOM, CauseKind.GPU_OOM, CauseKind.HOST_OOM})

# These tell how a process ended; the others tell why.
CIRCUMSTANCES = frozenset(
    {
        CauseKind.ASKED,
        CauseKind.HANG,
        CauseKind.LOAD_STALL,
        CauseKind.KILLED,
        CauseKind.CRASH,
        CauseKind.EXITED,
        CauseKind.UNREACHABLE,
    }
)

# A GPU with less than this free has no room for what a server asks for: its allocators ask for 2 MiB at the least
# (PyTorch, cuMemCreate), and PyTorch's messages of a full GPU name 1 to 60 MiB as free.
FULL_FREE = 64 * MIB
FULL_RATIO = 0.02


class AskedFor(StrEnum):
    """What the daemon itself had done to the process before it ended."""

    NOTHING = "nothing"
    STOP = "stop"
    HANG = "hang"
    STALL = "stall"


@dataclass(frozen=True, slots=True)
class GpuRoom:
    """What a GPU had free in the last sample before the end: later its memory may be free again. Bytes."""

    index: int
    free: int
    total: int

    @property
    def full(self) -> bool:
        """Whether nothing of use could be had from it."""
        return self.total > 0 and (self.free < FULL_FREE or self.free < FULL_RATIO * self.total)


@dataclass(frozen=True, slots=True)
class ExitEvidence:
    """All that is known when a process has ended. None: it could not be seen.

    `status` is as `subprocess` counts: negative for a signal. `log` is the process's own stderr and stdout, oldest
    first.

    `kernel_oom_kills` is how much the kernel's counter rose during the life of this generation, `cgroup_oom_kills` that
    of its control group; `kernel_named_us` whether the kernel log names a process of ours, `kernel_named_alike` the
    name of a victim that is called as one of ours, where the kernel counts PIDs that we cannot compare.
    `systemd_oomd_named_us`: whether systemd-oomd has marked our group as one that it killed. `processes`: names by PID,
    as the kernel cuts them at 15 characters.

    `spawn_error`: why it could not be started; `spawn_shortage`: because something of the machine was used up.
    `unreachable`: of a server that is run elsewhere, what asking it came to.

    `gpus`: those it used, or all. `gpu_addresses`: where those are on the PCI bus, as the kernel writes it
    ("0000:01:00"); empty where not all are known. `gpus_lost`: what the driver said of one that it lost.
    `gpu_errors`: lines of the kernel log about GPUs ("NVRM: Xid (PCI:0000:01:00): 79, …"). `host_available` in bytes,
    `host_available_ratio` of the total.
    """

    status: int | None
    asked: AskedFor = AskedFor.NOTHING
    was_ready: bool = False
    log: Sequence[str] = ()
    kernel_oom_kills: int | None = None
    cgroup_oom_kills: int | None = None
    kernel_named_us: bool | None = None
    spawn_error: str | None = None
    spawn_permanent: bool = False
    spawn_shortage: bool = False
    unreachable: str = ""
    kernel_named_alike: str = ""
    systemd_oomd_named_us: bool | None = None
    processes: Mapping[int, str] = field(default_factory=dict)
    gpus: Sequence[GpuRoom] = ()
    gpu_addresses: frozenset[str] = frozenset()
    gpus_lost: Sequence[str] = ()
    gpu_errors: Sequence[str] = ()
    host_available: int | None = None
    host_available_ratio: float | None = None
    host_pressure: Pressure | None = None

    @property
    def signal(self) -> int | None:
        """The signal that ended it; a shell and a container runtime tell that of their child as status 128 + N."""
        if self.status is None or self.status == 0:
            return None
        if self.status < 0:
            return -self.status
        return self.status - 128 if self.status - 128 in SIGNALS else None

    @property
    def fullest_gpu(self) -> GpuRoom | None:
        """That with the smallest share free."""
        rooms = [room for room in self.gpus if room.total > 0]
        return min(rooms, key=lambda room: (not room.full, room.free / room.total), default=None)


@dataclass(frozen=True, slots=True)
class ExitCause:
    """The verdict. `permanent`: the same start cannot succeed until somebody changes something."""

    kind: CauseKind
    summary: str
    permanent: bool = False
    evidence: tuple[str, ...] = field(default_factory=tuple)

    @property
    def is_oom(self) -> bool:
        return self.kind in OUT_OF_MEMORY


@dataclass(frozen=True, slots=True)
class Judgement:
    """One rule of the verdict on an exit: whether it matched, and what it found or missed, in words."""

    rule: str
    matched: bool
    because: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why it ended. `rules`: all of them in their order; the first that matched decided, later ones may be true too."""

    cause: ExitCause
    rules: tuple[Judgement, ...]


# Linux numbers, the same on x86-64 and arm64 (signal(7)).
SIGNALS: Mapping[int, str] = {
    1: "SIGHUP", 2: "SIGINT", 3: "SIGQUIT", 4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE", 9: "SIGKILL",
    11: "SIGSEGV", 13: "SIGPIPE", 15: "SIGTERM", 24: "SIGXCPU", 25: "SIGXFSZ", 31: "SIGSYS",
}  # fmt: skip


def describe_status(status: int | None) -> str:
    """An exit status in words: "status 1", "signal 9 (SIGKILL)"."""
    if status is None:
        return "unknown status"
    if status >= 0:
        return f"status {status}"
    return f"signal {-status} ({SIGNALS.get(-status, 'unnamed')})"
