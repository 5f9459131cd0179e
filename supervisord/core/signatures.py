"""What the log of a process proves: words of a cause, unless they were harmless, taken back, or only quoted."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class CauseKind(StrEnum):
    ASKED = "asked"
    KERNEL_OOM = "kernel_oom"
    GPU_OOM = "gpu_oom"
    HOST_OOM = "host_oom"  # an allocation of host memory was refused, or systemd-oomd ended it for want of it
    DEVICE_LOST = "device_lost"
    CONFIGURATION = "configuration"
    HANG = "hang"
    LOAD_STALL = "load_stall"
    KILLED = "killed"
    CRASH = "crash"
    EXITED = "exited"  # status 0, and nobody asked: vLLM does so after its engine died
    UNREACHABLE = "unreachable"  # a server that is run elsewhere: there is no process to tell more
    EXHAUSTED = "exhausted"  # no descriptor, process or memory was left to start it with


@dataclass(frozen=True, slots=True)
class Signature:
    """Words of a process's own stderr that prove a cause. Matched without regard to case, line by line.

    Of a kind that tells only how it ended (crash, killed) they choose the line that is quoted.
    """

    kind: CauseKind
    words: str
    unless: str = ""  # a line with these words too is harmless
    until: tuple[str, ...] = ()  # a later line with one of these takes it back: the process coped, and went on
    announces: bool = False  # the reason is in another line: quoted where there is no better one
    heals: bool = False  # of a configuration: another start can succeed, since the port is another
    ends_itself: bool = False  # after these words the runtime kills its own tree: the signal is its own
    vanished: bool = False  # a process of it is gone without having said why: the kernel may have killed it


@dataclass(frozen=True, slots=True)
class Sighting:
    """A line with the words of a signature. `doubt`: why it proves nothing all the same, in words; empty: it does."""

    line: str
    signature: Signature
    doubt: str = ""


def sightings(log: Sequence[str], signatures: Sequence[Signature], kind: CauseKind) -> tuple[Sighting, ...]:
    """Every line with words of `kind`, oldest first."""
    wanted = [s for s in signatures if s.kind is kind]
    found = (_sighting(log, index, wanted) for index in range(len(log)))
    return tuple(sighting for sighting in found if sighting is not None)


def most_telling(seen: Sequence[Sighting]) -> Sighting | None:
    """The first line that proves something: what follows it is only the fall. A message, rather than the source line
    that a traceback shows above it."""
    proofs = [sighting for sighting in seen if not sighting.doubt]
    return min(proofs, key=lambda s: (s.signature.announces, bool(_SOURCE_LINE.match(s.line))), default=None)


def refused_by_a_device(log: Sequence[str], signatures: Sequence[Signature]) -> tuple[Sighting, ...]:
    """Lines in which a GPU's library itself says that it failed, out of memory: whatever server passes that on."""
    return _matches(log, _DEVICE_REFUSED, Signature(CauseKind.GPU_OOM, "", until=_coping(signatures)))


def killed_children(log: Sequence[str]) -> tuple[Sighting, ...]:
    """Lines that tell of a process that ended by SIGKILL, as a parent of any make says it."""
    return _matches(log, _CHILD_KILLED, Signature(CauseKind.KILLED, "", vanished=True))


def _matches(log: Sequence[str], words: re.Pattern[str], signature: Signature) -> tuple[Sighting, ...]:
    found = ((index, words.search(line)) for index, line in enumerate(log))
    return tuple(
        Sighting(log[index].rstrip(), signature, _doubt(signature, log, index, match.start()))
        for index, match in found
        if match is not None
    )


def refused_allocations(log: Sequence[str], signatures: Sequence[Signature]) -> tuple[Sighting, ...]:
    """Lines that speak of memory that was not given, in whatever words: they prove something where a pool was full."""
    wanted = [Signature(CauseKind.GPU_OOM, words, until=_coping(signatures)) for words in _REFUSED]
    return sightings(log, wanted, CauseKind.GPU_OOM)


def _coping(signatures: Sequence[Signature]) -> tuple[str, ...]:
    """What takes back the runtime's own words of a full GPU takes any others back too."""
    return tuple({words for s in signatures if s.kind is CauseKind.GPU_OOM for words in s.until})


# CTranslate2: "CUDA failed with error out of memory"; lmdeploy: "CUDA runtime error: out of memory /lmdeploy/src/…".
_DEVICE_REFUSED = re.compile(
    r"\b(?:cu|cuda|hip|rocm|sycl|vulkan|level_zero)\w*\b.{0,80}\b(?:error|failed|failure)\b.{0,80}\bout of memory",
    re.IGNORECASE,
)

# Go: "signal: killed"; TGI: "signaled to shutdown with signal 9"; Python's multiprocessing counts "exitcode=-9", which
# vLLM says as "Failed core proc(s): {'EngineCore': -9}".
_CHILD_KILLED = re.compile(r"\bsignal:? (?:9\b|killed\b)|\bexit[ _]?code\W{1,3}-9\b|': -9\b", re.IGNORECASE)

# CUDA, HIP, Level Zero, Vulkan, PyTorch, ggml and the C library each have words of their own for it.
_REFUSED = (
    "out of memory", "out_of_memory", "outofmemory", "out of device memory", "outofdevicememory", "failed to allocate",
    "unable to allocate", "could not allocate", "can't allocate", "allocation failed", "alloc failed", "alloc_failed",
    "resource allocation failed", "insufficient memory", "insufficient gpu memory", "not enough memory",
)  # fmt: skip

# Words that stand beside those, without anybody having died of it: a host buffer that is then not pinned, pages that
# are then not locked, a size that is then not fitted, a request that SGLang takes back, memory that NCCL cannot use, a
# prompt that llama-server then does not keep.
_HARMLESS = (
    "pinned memory",
    "mlock",
    "memlock",
    "failed to fit params",
    "retract",
    "ibv_",
    "ibvwrap",
    "oom_score",
    "prompt cache",
)
_OF_MEMORY = frozenset({CauseKind.GPU_OOM, CauseKind.HOST_OOM})

# How runtimes mark lines that tell of ordinary work. Ollama relays what its runner says as level=INFO: that counts.
_ORDINARY = re.compile(
    r"""(?:\([^)]*\)\s)?(?:INFO|DEBUG)\s\d\d-\d\d\s  # vLLM: (APIServer pid=7) INFO 11-21 07:14:05 [...]
    | (?:INFO|DEBUG):\s                              # uvicorn
    | \d+\.\d\d\.\d{3}\.\d{3}\s[ID]\s                # llama.cpp: 0.06.377.734 I srv ...
    | time=\S+\slevel=DEBUG\s                        # Ollama
    | \d{4}-\S+Z\s+(?:INFO|DEBUG)\s                  # TGI
    | \[TensorRT-LLM\]\[(?:INFO|DEBUG|VERBOSE)\]
    """,
    re.VERBOSE,
)

# What a client sent, or got: after one of these a line holds words that are not the server's own.
_ECHO = re.compile(
    r"""\bprompt:
    | \b(?:prompt|content|text|messages|inputs?|outputs?|query|question|request|response|completion|body)
      (?:\\?["'])?\s*[:=]\s*\\?["'\[{(]
    | \b(?:Receive|Finish):\sobj=                    # SGLang
    """,
    re.VERBOSE | re.IGNORECASE,
)

# vLLM's prefix, or PyTorch's "[rank0]:", then an indented statement: Python shows it above the message.
_SOURCE_LINE = re.compile(r"^(?:\([^)]*\)\s)?(?:[A-Z]+\s[\d-]+\s[\d:]+\s\[[^]]+\]\s?|\[rank\d+\]:)?\s{4,}\S")


def _sighting(log: Sequence[str], index: int, wanted: Sequence[Signature]) -> Sighting | None:
    """What a line tells: of several signatures that it matches the one with the least doubt."""
    low = log[index].lower()
    found = [(signature, low.find(signature.words.lower())) for signature in wanted]
    seen = [Sighting(log[index].rstrip(), s, _doubt(s, log, index, at)) for s, at in found if at >= 0]
    return min(seen, key=lambda s: (bool(s.doubt), s.signature.announces), default=None)


def _doubt(signature: Signature, log: Sequence[str], index: int, at: int) -> str:
    line, low = log[index], log[index].lower()
    if signature.unless and signature.unless.lower() in low:
        return "is harmless"
    if signature.kind in _OF_MEMORY and any(words in low for words in _HARMLESS):
        return "is harmless"
    if _is_quoted(line, at):
        return "is no complaint of its own"
    if _coped(signature, log[index + 1 :]):
        return "was taken back: it coped, and went on"
    return ""


def _is_quoted(line: str, at: int) -> bool:
    """Whether the words at `at` are in a line of ordinary work, or are what a client said."""
    echo = _ECHO.search(line)
    return _ORDINARY.match(line) is not None or (echo is not None and echo.start() < at)


def _coped(signature: Signature, later: Sequence[str]) -> bool:
    return any(words.lower() in line.lower() for words in signature.until for line in later)
