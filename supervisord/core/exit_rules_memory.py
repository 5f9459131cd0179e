"""The rules of a verdict that tell of memory: the kernel's, systemd-oomd's, the GPU's, the host's."""

from supervisord.core.evidence import ExitEvidence
from supervisord.core.exit_finding import Finding, Known, host_room, matched, nothing_in
from supervisord.core.memory import MIB
from supervisord.core.signatures import (
    CauseKind,
    Sighting,
    killed_children,
    most_telling,
    refused_allocations,
    refused_by_a_device,
    sightings,
)


def kernel_oom(known: Known) -> Finding:
    found = known.found
    if found.cgroup_oom_kills:
        risen = f"memory.events oom_kill rose by {found.cgroup_oom_kills}"
        return matched(CauseKind.KERNEL_OOM, "killed by the kernel: its memory group was full", risen, risen)
    counted = _counted_kills(found)
    proof = _who_was_meant(known)
    if found.kernel_oom_kills == 0 or not proof:
        return Finding(f"{counted}; {proof or _nobody_named(found)}")
    # vLLM's leader ends politely, with status 0 or 1, when the kernel has killed one of its workers.
    whom = "killed" if found.signal == 9 else "a process of it was killed"
    summary = f"{whom} by the kernel: host out of memory"
    return matched(CauseKind.KERNEL_OOM, summary, f"{counted}; {proof}", counted, proof)


def _counted_kills(found: ExitEvidence) -> str:
    group = "" if found.cgroup_oom_kills is None else "memory.events oom_kill did not rise; "
    if found.kernel_oom_kills is None:
        return f"{group}the kernel's counter of such kills cannot be read"
    if not found.kernel_oom_kills:
        return f"{group}/proc/vmstat oom_kill did not rise"
    return f"{group}/proc/vmstat oom_kill rose by {found.kernel_oom_kills}"


def _who_was_meant(known: Known) -> str:
    """What tells that it was one of ours that the kernel killed; empty: nothing does.

    Where the kernel's log cannot be read, the counter and a process that is gone without a word must do.
    """
    found = known.found
    if found.kernel_named_us is not None:
        return "the kernel log names it" if found.kernel_named_us else ""
    if not found.kernel_oom_kills:
        return ""
    if found.kernel_named_alike:
        return f"the kernel log names a {found.kernel_named_alike}, as one of its processes is called"
    if known.deadly_signal == 9:
        return "it ended by SIGKILL, and the kernel log cannot be read"
    return _vanished(known)


def _vanished(known: Known) -> str:
    if known.proof(CauseKind.GPU_OOM) or known.proof(CauseKind.HOST_OOM):
        return ""
    telling = [s for s in known.signatures if s.vanished]
    gone = most_telling((*killed_children(known.found.log), *sightings(known.found.log, telling, CauseKind.CRASH)))
    if gone is None:
        return ""
    return f"a process of it is gone without a word, and the kernel log cannot be read: {gone.line.strip()}"


def _nobody_named(found: ExitEvidence) -> str:
    if found.kernel_named_us is None:
        return "the kernel log cannot be read"
    count = len(found.processes)
    ours = f"none of its {count} processes" if count > 1 else "no process of it"
    return f"the kernel log names {ours}"


def systemd_oomd(known: Known) -> Finding:
    named = known.found.systemd_oomd_named_us
    if named is None:
        return Finding("whether systemd-oomd killed it cannot be seen here")
    if not named:
        return Finding("its control group has no mark of systemd-oomd")
    said = "systemd-oomd marked its control group as one that it killed (user.oomd_ooms)"
    return matched(CauseKind.HOST_OOM, "killed by systemd-oomd: host short of memory", said, said)


def gpu_oom(known: Known) -> Finding:
    seen, full = known.seen(CauseKind.GPU_OOM), _fullness(known.found)
    proof = most_telling(seen)
    if proof is None:
        seen += _in_other_words(known, full=bool(full))
        proof = most_telling(seen)
    if proof is None:
        return Finding(nothing_in("GPU memory that was refused", seen) + f"; {full or _room(known.found)}")
    line = proof.line.strip()
    room = _room(known.found)
    measured = () if room == _UNMEASURED else (room,)
    return matched(CauseKind.GPU_OOM, f"GPU out of memory: {line}", f"its log says: {line}; {room}", line, *measured)


def _in_other_words(known: Known, *, full: bool) -> tuple[Sighting, ...]:
    """What it says of refused memory in words that no signature has; of the host's that is another rule's affair."""
    log = known.found.log
    seen = refused_by_a_device(log, known.signatures)
    if full:
        seen += refused_allocations(log, known.signatures)
    of_host = {sighting.line for sighting in known.seen(CauseKind.HOST_OOM)}
    return tuple(sighting for sighting in seen if sighting.line not in of_host)


_UNMEASURED = "how full the GPU was is not known"


def _fullness(found: ExitEvidence) -> str:
    """That a GPU was full, in words; empty where it was not, or where nobody looked."""
    room = found.fullest_gpu
    return _room(found) if room is not None and room.full else ""


def _room(found: ExitEvidence) -> str:
    room = found.fullest_gpu
    if room is not None:
        return f"GPU {room.index} had {room.free // MIB} of {room.total // MIB} MiB free"
    return _UNMEASURED


def host_oom(known: Known) -> Finding:
    seen = known.seen(CauseKind.HOST_OOM)
    proof = most_telling(seen)
    if proof is None:
        return Finding(nothing_in("host memory that was refused", seen))
    line = proof.line.strip()
    return matched(
        CauseKind.HOST_OOM, f"host out of memory: {line}", f"its log says: {line}; {host_room(known.found)}", line
    )
