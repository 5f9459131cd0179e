"""The rule of a verdict that tells of a GPU that was lost: what its driver, the kernel and the process said of it."""

import re
from collections.abc import Mapping, Sequence

from supervisord.core.evidence import ExitEvidence
from supervisord.core.exit_finding import Finding, Known, matched, nothing_in
from supervisord.core.signatures import CauseKind, most_telling

# NVIDIA's catalogue of Xid errors: those after which the GPU is gone, or must be reset.
_LOST: Mapping[str, str] = {
    "48": "memory error that cannot be corrected",
    "79": "fallen off the bus",
    "95": "memory error that cannot be contained",
    "119": "its firmware does not answer",
    "120": "its firmware failed",
    "140": "memory error that cannot be recovered",
    "154": "needs to be reset",
}
# Of the same catalogue: its memory failed, and it goes on; 94 ends the process that used that part of it.
_SURVIVED: Mapping[str, str] = {
    "63": "a failed part of the GPU's memory was put out of use",
    "92": "the GPU corrects more memory errors than is usual",
    "94": "a memory error of the GPU, which it contained to the process",
}
# 13, 31, 43, 45 and most others: the fault of an application, or what follows when one is killed.
_APPLICATION = "an application's fault is no lost device"
_XID = re.compile(r"\bXid\b[^,]*?: (\d+)\b")
# The driver writes "NVRM: Xid (PCI:0000:01:00): 79, …" and "NVRM: GPU 0000:01:00.0: GPU has fallen off the bus."
_ADDRESS = re.compile(r"\bNVRM: .*?(?:PCI:|GPU )([0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2})\b", re.IGNORECASE)
_LOST_WORDS = ("fallen off the bus", "gpu is lost", "device lost from bus", "gpu reset begin")  # NVIDIA, amdgpu


def device_lost(known: Known) -> Finding:
    found = known.found
    seen = known.seen(CauseKind.DEVICE_LOST)
    proof = most_telling(seen)
    own = [line for line in found.gpu_errors if _concerns(line, found)]
    said = [*found.gpus_lost, *filter(_is_lost, own)]
    if proof is not None:
        said.append(proof.line.strip())
    if said:
        return matched(CauseKind.DEVICE_LOST, f"the GPU was lost: {said[0]}", "; ".join(said), *said)
    return Finding(nothing_in("a lost GPU", seen) + _harmless(own) + _of_others(found.gpu_errors, own))


def _concerns(line: str, found: ExitEvidence) -> bool:
    """Whether a line of the kernel log can be about a GPU of its own; where either is not known, it can."""
    named = _ADDRESS.search(line)
    return named is None or not found.gpu_addresses or named[1].lower() in found.gpu_addresses


def _is_lost(line: str) -> bool:
    xid = _XID.search(line)
    if xid is not None and xid[1] in _LOST:
        return True
    return any(words in line.lower() for words in _LOST_WORDS)


def _harmless(own: Sequence[str]) -> str:
    told = ((xid[1], line) for line in own if (xid := _XID.search(line)) is not None)
    return next((f"; {_SURVIVED.get(number, _APPLICATION)}: {line}" for number, line in told), "")


def _of_others(lines: Sequence[str], own: Sequence[str]) -> str:
    return next((f"; of a GPU that it does not use: {line}" for line in lines if line not in own), "")
