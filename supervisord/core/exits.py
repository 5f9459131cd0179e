"""Why a process ended: status, signal, log tail, counters and samples -> ExitCause, with its evidence."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class CauseKind(StrEnum):
    ASKED = "asked"
    KERNEL_OOM = "kernel_oom"
    GPU_OOM = "gpu_oom"
    HOST_OOM = "host_oom"  # an allocation of host memory was refused
    DEVICE_LOST = "device_lost"
    CONFIGURATION = "configuration"
    HANG = "hang"
    LOAD_STALL = "load_stall"
    KILLED = "killed"
    CRASH = "crash"
    EXITED = "exited"  # status 0, and nobody asked: vLLM does so after its engine died


OUT_OF_MEMORY = frozenset({CauseKind.KERNEL_OOM, CauseKind.GPU_OOM, CauseKind.HOST_OOM})

# These tell how a process ended; the others tell why.
CIRCUMSTANCES = frozenset(
    {CauseKind.ASKED, CauseKind.HANG, CauseKind.LOAD_STALL, CauseKind.KILLED, CauseKind.CRASH, CauseKind.EXITED}
)


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
    unless: str = ""  # a line with these words too is harmless
    until: tuple[str, ...] = ()  # a later line with one of these takes it back: the process coped, and went on


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


def classify(found: ExitEvidence, signatures: Sequence[Signature]) -> ExitCause:
    """Why it ended; the first rule that matches wins, in the order of certainty.

    What a runtime prints is believed before how it ended: a GPU OOM often ends in a failed assertion, in a double
    free, or in status 0. SIGKILL alone is never taken for OOM.
    """
    if found.asked is AskedFor.STOP:
        return ExitCause(CauseKind.ASKED, "stopped as asked")
    return (
        _spawn_failed(found)
        or _kernel_oom(found)
        or _by_signature(found, signatures, CauseKind.GPU_OOM, "GPU out of memory")
        or _by_signature(found, signatures, CauseKind.HOST_OOM, "host out of memory")
        or _by_signature(found, signatures, CauseKind.DEVICE_LOST, "the GPU was lost")
        or _configuration(found, signatures)
        or _hang(found)
        or _ending(found)
    )


def out_of_memory(log: Sequence[str], signatures: Sequence[Signature]) -> ExitCause | None:
    """What a process that goes on living has printed of memory that it did not get; None: nothing.

    For a server that answered with an error: some survive a refused allocation, and refuse every request from then on.
    """
    found = ExitEvidence(None, log=log)
    return _by_signature(found, signatures, CauseKind.GPU_OOM, "GPU out of memory") or _by_signature(
        found, signatures, CauseKind.HOST_OOM, "host out of memory"
    )


def describe_status(status: int | None) -> str:
    """An exit status in words: "status 1", "signal 9 (SIGKILL)"."""
    if status is None:
        return "unknown status"
    if status >= 0:
        return f"status {status}"
    return f"signal {-status} ({_SIGNALS.get(-status, 'unnamed')})"


# Linux numbers, the same on x86-64 and arm64 (signal(7)).
_SIGNALS = {
    1: "SIGHUP", 2: "SIGINT", 3: "SIGQUIT", 4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE", 9: "SIGKILL",
    11: "SIGSEGV", 13: "SIGPIPE", 15: "SIGTERM", 24: "SIGXCPU", 25: "SIGXFSZ", 31: "SIGSYS",
}  # fmt: skip


def _spawn_failed(found: ExitEvidence) -> ExitCause | None:
    if found.spawn_error is None:
        return None
    kind = CauseKind.CONFIGURATION if found.spawn_permanent else CauseKind.CRASH
    return ExitCause(kind, found.spawn_error, permanent=found.spawn_permanent)


def _kernel_oom(found: ExitEvidence) -> ExitCause | None:
    if found.cgroup_oom_kills:
        return ExitCause(
            CauseKind.KERNEL_OOM,
            "killed by the kernel: its memory group was full",
            evidence=(f"memory.events oom_kill rose by {found.cgroup_oom_kills}",),
        )
    if not found.kernel_oom_kills or not _was_meant(found):
        return None
    # vLLM's leader ends politely, with status 0 or 1, when the kernel has killed one of its workers.
    whom = "killed" if found.status == -9 else "a process of it was killed"
    named = "the kernel log names it" if found.kernel_named_us else "the kernel log cannot be read"
    return ExitCause(
        CauseKind.KERNEL_OOM,
        f"{whom} by the kernel: host out of memory",
        evidence=(f"/proc/vmstat oom_kill rose by {found.kernel_oom_kills}", named),
    )


def _was_meant(found: ExitEvidence) -> bool:
    """Whether it was one of ours that the kernel killed; where its log cannot be read, the leader's SIGKILL must do."""
    return found.status == -9 if found.kernel_named_us is None else found.kernel_named_us


def _by_signature(
    found: ExitEvidence, signatures: Sequence[Signature], kind: CauseKind, summary: str
) -> ExitCause | None:
    line = _matching_line(found.log, signatures, kind)
    if line is None:
        return None
    evidence = [line]
    if found.vram_free_ratio is not None:
        evidence.append(f"{found.vram_free_ratio:.0%} of the GPU's memory was free")
    return ExitCause(kind, f"{summary}: {line}", evidence=tuple(evidence))


def _matching_line(log: Sequence[str], signatures: Sequence[Signature], kind: CauseKind) -> str | None:
    """The first line that proves `kind` and was not taken back: what follows it is only the fall."""
    wanted = [s for s in signatures if s.kind is kind]
    lows = [line.lower() for line in log]
    for index, low in enumerate(lows):
        if any(_proves(signature, low, lows[index + 1 :]) for signature in wanted):
            return log[index].strip()
    return None


def _proves(signature: Signature, line: str, later: Sequence[str]) -> bool:
    if signature.words.lower() not in line or (signature.unless and signature.unless.lower() in line):
        return False
    return not any(words.lower() in after for words in signature.until for after in later)


def _configuration(found: ExitEvidence, signatures: Sequence[Signature]) -> ExitCause | None:
    """Words about flags, models and ports count only before it ever served, and only with a failing status."""
    if found.was_ready or found.status is None or found.status <= 0:
        return None
    line = _matching_line(found.log, signatures, CauseKind.CONFIGURATION)
    if line is None:
        return None
    return ExitCause(CauseKind.CONFIGURATION, line, permanent=True, evidence=_last_lines(found.log))


def _hang(found: ExitEvidence) -> ExitCause | None:
    if found.asked is AskedFor.HANG:
        return ExitCause(CauseKind.HANG, "killed because it no longer answered", evidence=_last_lines(found.log))
    if found.asked is AskedFor.STALL:
        return ExitCause(CauseKind.LOAD_STALL, "killed because loading stood still", evidence=_last_lines(found.log))
    return None


def _ending(found: ExitEvidence) -> ExitCause:
    how = describe_status(found.status)
    if found.status in {-9, -15}:
        return ExitCause(CauseKind.KILLED, f"killed from outside by {how}", evidence=_last_lines(found.log))
    if found.status == 0:
        return ExitCause(CauseKind.EXITED, "it ended with status 0, unasked", evidence=_last_lines(found.log))
    last = found.log[-1].strip() if found.log else "it printed nothing"
    return ExitCause(CauseKind.CRASH, f"ended by {how}: {last}", evidence=_last_lines(found.log))


def _last_lines(log: Sequence[str], count: int = 5) -> tuple[str, ...]:
    return tuple(line.strip() for line in log[-count:])
