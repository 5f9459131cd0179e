"""What is known at the moment when a process ends, gathered for the verdict on it."""

from dataclasses import dataclass

from supervisord.core.evidence import GpuRoom
from supervisord.core.exits import ExitEvidence, Verdict, judge
from supervisord.core.memory import GroupUsage, Pressure
from supervisord.engine.generation import Generation
from supervisord.ports import KernelLog
from supervisord.runtimes.registry import RUNTIMES


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Memory around a backend by the latest sample. `available`, and its `ratio` of the total: of the host's RAM."""

    gpus: tuple[GpuRoom, ...] = ()
    lost: tuple[str, ...] = ()
    addresses: frozenset[str] = frozenset()  # on the PCI bus, of all its GPUs; empty: not known of all
    available: int | None = None
    ratio: float | None = None
    pressure: Pressure | None = None


def verdict_on(
    generation: Generation, status: int, log: tuple[str, ...], kernel: KernelLog, around: Surroundings
) -> Verdict:
    """Why its leader ended. Quick: a few reads of the kernel's counters, and of its log where they have risen."""
    kills = _rose(kernel.oom_kills(), generation.oom_kills_before)
    looks = bool(kills) or status == -9  # reading the log takes time: only where there may be something in it
    group = _group(generation)
    victims = kernel.victims(generation.spawned) if looks else None
    evidence = ExitEvidence(
        status,
        asked=generation.asked,
        was_ready=generation.was_ready,
        unreachable=generation.unreachable,
        log=log,
        kernel_oom_kills=kills,
        cgroup_oom_kills=group.oom_kills,
        systemd_oomd_named_us=None if group.oomd_kills is None else group.oomd_kills > 0,
        kernel_named_us=kernel.named(generation.pids) if looks else None,
        kernel_named_alike=next((name for name in victims or () if name in generation.names.values()), ""),
        processes=generation.names,
        gpus=around.gpus,
        gpu_addresses=around.addresses,
        gpus_lost=around.lost,
        gpu_errors=kernel.gpu_errors(generation.spawned) or (),
        host_available=around.available,
        host_available_ratio=around.ratio,
        host_pressure=around.pressure,
    )
    return judge(evidence, RUNTIMES[generation.described.runtime].signatures(generation.described))


def _rose(now: int | None, before: int | None) -> int | None:
    return None if now is None or before is None else now - before


def _group(generation: Generation) -> GroupUsage:
    """Its group is its own and new: every kill that it counts belongs to this generation."""
    usage = generation.process.group_usage() if generation.process is not None else None
    return usage or GroupUsage()
