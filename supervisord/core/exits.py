"""Why a process ended: status, log, counters and samples -> a verdict, with what each rule found or missed."""

from collections.abc import Callable, Sequence

from supervisord.core.evidence import (
    CIRCUMSTANCES,
    OUT_OF_MEMORY,
    AskedFor,
    ExitCause,
    ExitEvidence,
    GpuRoom,
    Judgement,
    Verdict,
    describe_status,
)
from supervisord.core.exit_finding import Finding, Known
from supervisord.core.exit_rules import (
    asked,
    configuration,
    crash,
    exited,
    hang,
    killed,
    load_stall,
    spawn,
    unreachable,
)
from supervisord.core.exit_rules_gpu import device_lost
from supervisord.core.exit_rules_memory import gpu_oom, host_oom, kernel_oom, systemd_oomd
from supervisord.core.signatures import CauseKind, Signature

__all__ = [
    "CIRCUMSTANCES",
    "OUT_OF_MEMORY",
    "AskedFor",
    "CauseKind",
    "ExitCause",
    "ExitEvidence",
    "GpuRoom",
    "Judgement",
    "Signature",
    "Verdict",
    "classify",
    "describe_status",
    "judge",
    "out_of_memory",
]


def judge(found: ExitEvidence, signatures: Sequence[Signature]) -> Verdict:
    """Why it ended, and what every rule made of it; the first that matches wins, in the order of certainty.

    What a runtime prints is believed before how it ended: a GPU OOM often ends in a failed assertion, in a double
    free, or in status 0. SIGKILL alone is never taken for OOM.
    """
    known = Known(found, signatures)
    findings = [(name, rule(known)) for name, rule in _RULES]
    cause = next((finding.cause for _, finding in findings if finding.cause is not None), None)
    left = Finding("one of the rules above explains it") if cause is not None else crash(known)
    told = tuple(Judgement(name, f.cause is not None, f.because) for name, f in (*findings, ("crash", left)))
    decided = cause or left.cause
    assert decided is not None, "a crash is what is left"
    return Verdict(decided, told)


def classify(found: ExitEvidence, signatures: Sequence[Signature]) -> ExitCause:
    """`judge`, without the rules."""
    return judge(found, signatures).cause


def out_of_memory(log: Sequence[str], signatures: Sequence[Signature]) -> ExitCause | None:
    """What a process that goes on living has printed of memory that it did not get; None: nothing.

    For a server that answered with an error: some survive a refused allocation, and refuse every request from then on.
    """
    known = Known(ExitEvidence(None, log=log), signatures)
    return gpu_oom(known).cause or host_oom(known).cause


_Rule = Callable[[Known], Finding]
_RULES: tuple[tuple[str, _Rule], ...] = (
    ("asked", asked),
    ("spawn", spawn),
    ("unreachable", unreachable),
    ("kernel_oom", kernel_oom),
    ("systemd_oomd", systemd_oomd),
    ("gpu_oom", gpu_oom),
    ("host_oom", host_oom),
    ("device_lost", device_lost),
    ("configuration", configuration),
    ("hang", hang),
    ("load_stall", load_stall),
    ("killed", killed),
    ("exited", exited),
)
