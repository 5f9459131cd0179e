"""Why a process ended: status, signal, log tail, counters and samples -> ExitCause, with its evidence."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class CauseKind(StrEnum):
    ASKED = "asked"
    KERNEL_OOM = "kernel_oom"
    GPU_OOM = "gpu_oom"
    DEVICE_LOST = "device_lost"
    CONFIGURATION = "configuration"
    HANG = "hang"
    LOAD_STALL = "load_stall"
    KILLED = "killed"
    CRASH = "crash"
    EXITED = "exited"  # status 0, and nobody asked: vLLM does so after its engine died


OUT_OF_MEMORY = frozenset({CauseKind.KERNEL_OOM, CauseKind.GPU_OOM})


class AskedFor(StrEnum):
    """What the daemon itself had done to the process before it ended."""

    NOTHING = "nothing"
    STOP = "stop"
    HANG = "hang"
    STALL = "stall"


@dataclass(frozen=True, slots=True)
class Signature:
    """Words of a process's own stderr that prove a cause. Matched without regard to case, line by line."""

    kind: CauseKind
    words: str
    unless: str = ""  # a line with these words too is harmless: "retrying without pipeline parallelism"


@dataclass(frozen=True, slots=True)
class ExitEvidence:
    """All that is known when a process has ended.

    `status` is as `subprocess` counts: negative for a signal. `log` is the process's own stderr and stdout, oldest
    first. `kernel_oom_kills` is how much the kernel's counter rose during the life of this generation, or None where
    it cannot be read; `kernel_named_us` whether the kernel log names a process of ours.
    """

    status: int | None
    asked: AskedFor = AskedFor.NOTHING
    was_ready: bool = False
    log: Sequence[str] = ()
    kernel_oom_kills: int | None = None
    cgroup_oom_kills: int | None = None
    kernel_named_us: bool | None = None
    vram_free_ratio: float | None = None
    spawn_error: str | None = None
    spawn_permanent: bool = False


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
