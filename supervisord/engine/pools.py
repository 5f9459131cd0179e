"""Samples -> pools: what is free for backends, who else is there, and whether the figures can be trusted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from supervisord.core.memory import GpuSample, HostLimits, HostSample, Level, Pressure, SensorState, VramLimits
from supervisord.core.placement import HOST, Holder, Pool

Holdings = Mapping[str, Mapping[str, int]]  # backend -> pool -> bytes


@dataclass(frozen=True, slots=True)
class HostShare:
    """How much of the host's memory backends may have. Bytes; `limit`: all of them together; None: what there is."""

    reserve: int = 2 * 1024**3
    limit: int | None = None


def gpu_pool(sample: GpuSample, limits: VramLimits, ours: frozenset[int]) -> Pool:
    """One GPU. `ours`: the pids of every backend. A card that is tight is no problem: it is full by design."""
    foreign = tuple(Holder(p.pid, p.name, p.used) for p in sample.processes if p.pid not in ours)
    listed = sum(p.used or 0 for p in sample.processes)
    nameless = any(p.used is None for p in sample.processes)
    unexplained = 0 if nameless else max(0, sample.used - sample.reserved - listed)
    return Pool(
        key=sample.uuid,
        label=f"gpu{sample.index}",
        total=sample.total,
        free=sample.free,
        reserve=gpu_reserve(sample.total, limits),
        problem=_gpu_problem(sample),
        foreign=foreign,
        unexplained=unexplained,
    )


def gpu_reserve(total: int, limits: VramLimits) -> int:
    """Bytes that stay free on a GPU of so many: at least so that it is not tight at once."""
    return max(limits.reserve, limits.tight_free, int(limits.tight_ratio * total))


def _gpu_problem(sample: GpuSample) -> str:
    if sample.state is SensorState.OK:
        return ""
    said = f": {sample.problem}" if sample.problem else ""
    return f"it cannot be measured ({sample.state}{said})"


def host_pool(
    sample: HostSample | None,
    level: Level,
    limits: HostLimits,
    share: HostShare,
    *,
    problem: str,
    mapped: int,
    held: int,
) -> Pool:
    """The host's RAM. `mapped`: pages of model files that our backends use; `held`: all that they hold.

    The kernel counts mapped files as available, since it can drop them: the models would then be read from the disk
    for every token.
    """
    if sample is None:
        return Pool(HOST, HOST, 0, 0, 0, problem=problem or "it was not measured yet")
    reserve = max(share.reserve, int(limits.tight_available_ratio * sample.total))
    total, free = sample.total, max(0, sample.available - mapped)
    if share.limit is not None:
        total = min(total, share.limit + reserve)
        free = min(free, max(0, share.limit - held) + reserve)
    return Pool(HOST, HOST, total, free, reserve, problem=problem or _host_problem(sample, level, limits))


def _host_problem(sample: HostSample, level: Level, limits: HostLimits) -> str:
    """Little that is available is a question of room; a host that swaps for its life can take nothing new."""
    scarce = sample.available < limits.tight_available_ratio * sample.total
    if level.pressure is Pressure.CRITICAL or (level.pressure is Pressure.TIGHT and not scarce):
        return "it is short of memory and swaps"
    return ""


def wanted_gpus(wanted: Sequence[str], count: int | None, gpus: Sequence[GpuSample]) -> tuple[str, ...]:
    """The UUIDs of the GPUs that a backend may use; `count`: that many of them, from the first."""
    if not wanted:
        return tuple(g.uuid for g in gpus)[:count]
    named = {str(g.index): g.uuid for g in gpus} | {g.uuid: g.uuid for g in gpus}
    # One that is not there keeps its name: a pool that nobody knows lets nothing start.
    return tuple(named.get(name, name) for name in wanted)[:count]
