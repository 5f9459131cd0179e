"""How model servers end: one file each, as they really write it, and the verdict on it.

A file is a header of `key: value` lines, `---`, and the log. `cause` is what it was; `quote` is part of the line that
the summary must quote; `says` is part of what some rule must say; the rest is evidence. Fixed wording of the runtimes
is theirs to the letter; what stands around it is shortened.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from supervisord.adapters.kernel_log import KernelLog
from supervisord.core.exits import AskedFor, CauseKind, ExitEvidence, GpuRoom, Signature, Verdict, judge
from supervisord.core.memory import GIB, MIB, Pressure
from supervisord.runtimes import command_endings, llama_cpp_endings, vllm_endings

FILES = sorted(Path(__file__).parent.glob("*.txt"))
SIGNATURES: dict[str, Sequence[Signature]] = {
    "llama_cpp": llama_cpp_endings.SIGNATURES,
    "vllm": vllm_endings.SIGNATURES,
    "command": command_endings.SIGNATURES,
    "remote": (),
}
KEYS = {
    "runtime", "status", "cause", "permanent", "quote", "says", "ready", "asked", "kernel-kills",
    "cgroup-kills", "kernel", "kernel-log", "pids", "oomd", "gpu", "lost", "host", "pressure", "spawn",
    "spawn-permanent", "spawn-shortage", "unreachable", "addresses",
}  # fmt: skip


@dataclass(frozen=True)
class Ending:
    name: str
    head: dict[str, str]
    kernel: tuple[str, ...]
    log: tuple[str, ...]

    def number(self, key: str) -> int | None:
        return int(self.head[key]) if key in self.head else None

    def flag(self, key: str) -> bool | None:
        return None if key not in self.head else {"yes": True, "no": False}[self.head[key]]


def read(path: Path) -> Ending:
    head, _, log = path.read_text().partition("---\n")
    pairs = [line.split(": ", 1) for line in head.splitlines()]
    assert {key for key, _ in pairs} <= KEYS, f"{path.name}: unknown key"
    kernel = tuple(value for key, value in pairs if key == "kernel")
    return Ending(path.stem, dict(pairs), kernel, tuple(log.splitlines()))


class Kernel:
    """The real reader of the kernel's log, on a file with these lines in it."""

    def __init__(self, folder: Path, ending: Ending) -> None:
        (folder / "proc/self/ns").mkdir(parents=True)
        foreign = ending.head.get("kernel-log") == "foreign"
        (folder / "proc/self/ns/pid").symlink_to("pid:[4026532000]" if foreign else "pid:[4026531836]")
        kmsg = folder / "kmsg"
        if ending.kernel or ending.head.get("kernel-log") in {"readable", "foreign"}:
            kmsg.write_text("")
        self.log = KernelLog(folder / "proc", kmsg)
        self.log.mark()
        with kmsg.open("a") as more:
            more.writelines(f"4,{n},{n}000000,-;{line}\n" for n, line in enumerate(ending.kernel, 1))


def evidence(ending: Ending, folder: Path) -> ExitEvidence:
    processes = {int(pid): name for pid, name in (p.split(" ", 1) for p in _list(ending, "pids"))}
    kernel = Kernel(folder, ending).log
    victims = kernel.victims(0.0) or ()
    available, total = (float(size) for size in ending.head["host"].split()) if "host" in ending.head else (None, 1.0)
    found = ExitEvidence(
        None if ending.head["status"] == "none" else int(ending.head["status"]),
        asked=AskedFor(ending.head.get("asked", "nothing")),
        was_ready=bool(ending.flag("ready")),
        log=ending.log,
        kernel_oom_kills=ending.number("kernel-kills"),
        cgroup_oom_kills=ending.number("cgroup-kills"),
        kernel_named_us=kernel.named(frozenset(processes)),
        kernel_named_alike=next((name for name in victims if name in processes.values()), ""),
        systemd_oomd_named_us=ending.flag("oomd"),
        processes=processes,
        gpus=tuple(_gpu(*map(int, gpu.split())) for gpu in _list(ending, "gpu")),
        gpu_addresses=frozenset(_list(ending, "addresses")),
        gpus_lost=tuple(_list(ending, "lost")),
        gpu_errors=kernel.gpu_errors(0.0) or (),
        host_available=None if available is None else int(available * GIB),
        host_available_ratio=None if available is None else available / (total or 1.0),
        host_pressure=Pressure[ending.head["pressure"].upper()] if "pressure" in ending.head else None,
        spawn_error=ending.head.get("spawn"),
        spawn_permanent=bool(ending.flag("spawn-permanent")),
        spawn_shortage=bool(ending.flag("spawn-shortage")),
        unreachable=ending.head.get("unreachable", ""),
    )
    kernel.close()
    return found


def _list(ending: Ending, key: str) -> list[str]:
    return ending.head[key].split(", ") if key in ending.head else []


def _gpu(index: int, free: int, total: int) -> GpuRoom:
    return GpuRoom(index, free * MIB, total * MIB)


def misses(ending: Ending, verdict: Verdict) -> list[str]:
    """What is wrong with the verdict, in words."""
    cause, head = verdict.cause, ending.head
    wrong = []
    if cause.kind is not CauseKind(head["cause"]):
        wrong.append(f"is {cause.kind}, not {head['cause']}")
    if cause.permanent != bool(ending.flag("permanent")):
        wrong.append(f"permanent is {cause.permanent}")
    if head.get("quote", "") not in cause.summary:
        wrong.append(f"does not quote {head['quote']!r}")
    if not any(head.get("says", "") in rule.because for rule in verdict.rules):
        wrong.append(f"no rule says {head['says']!r}")
    return wrong


def test_every_ending_gets_its_verdict(tmp_path: Path) -> None:
    wrong = []
    for ending in map(read, FILES):
        verdict = judge(evidence(ending, tmp_path / ending.name), SIGNATURES[ending.head["runtime"]])
        wrong += [f"{ending.name}: {miss} ({verdict.cause.summary})" for miss in misses(ending, verdict)]

    assert not wrong, "\n".join([f"{len(wrong)} misses in {len(FILES)} endings:", *wrong])


def test_there_are_enough_of_them_and_of_each_kind() -> None:
    kinds = Counter(read(path).head["cause"] for path in FILES)

    assert len(FILES) >= 60
    assert {kind for kind in CauseKind if kinds[kind] < 2} == set()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_rule_says_what_it_looked_at(path: Path, tmp_path: Path) -> None:
    ending = read(path)
    verdict = judge(evidence(ending, tmp_path), SIGNATURES[ending.head["runtime"]])

    decided = next(rule for rule in verdict.rules if rule.matched)
    assert len({rule.rule for rule in verdict.rules}) == len(verdict.rules)
    assert all(rule.because for rule in verdict.rules)
    assert decided.rule in {verdict.cause.kind, "spawn", "systemd_oomd"}


# Of these no whole ending is here: the same thing in the words of another build, device or language.
UNMET = {
    "torch.cuda.OutOfMemoryError", "XPU out of memory", "HIP error: out of memory", "CUDA_ERROR_OUT_OF_MEMORY",
    "CUresult error: 2 (out of memory)", "cudaErrorMemoryAllocation", "hipErrorOutOfMemory", "hipMalloc failed",
    "Triton Error [CUDA]: out of memory", "RESOURCE_EXHAUSTED: Out of memory", "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDA runtime error in error: out of memory", "Error Code 2: OutOfMemory", "Insufficient VRAM for model",
    "is less than the engine's budget", "not enough GPU memory", "out of device memory",
}  # fmt: skip


def test_every_word_of_a_full_gpu_is_met_or_known_not_to_be() -> None:
    log = "\n".join(line for path in FILES for line in read(path).log).lower()
    words = {s.words for s in (*vllm_endings.SIGNATURES, *command_endings.SIGNATURES) if s.kind is CauseKind.GPU_OOM}
    other_devices = {w for w in words if w.startswith(("unable to allocate ", "failed to allocate "))}

    assert {w for w in words - other_devices - UNMET if w.lower() not in log} == set()
