"""From samples to pools: what counts as free, and when no figure can be trusted."""

from supervisord.core.memory import (
    GpuProcess,
    GpuSample,
    HostLimits,
    HostSample,
    Level,
    Pressure,
    SensorState,
    VramLimits,
)
from supervisord.core.placement import HOST, Holder
from supervisord.engine.pools import HostShare, gpu_pool, host_pool, wanted_gpus

GIB = 2**30
OK = Level()
TIGHT = Level(Pressure.TIGHT)


def gpu(index: int = 0, state: SensorState = SensorState.OK, **changes: object) -> GpuSample:
    values: dict[str, object] = {"total": 24 * GIB, "used": 10 * GIB, "free": 14 * GIB, "reserved": GIB}
    return GpuSample(index, f"GPU-{index}", "Test", state, 1.0, **(values | changes))  # type: ignore[arg-type]


def host(**changes: object) -> HostSample:
    values: dict[str, object] = {"total": 64 * GIB, "available": 40 * GIB, "swap_total": 0, "swap_used": 0}
    return HostSample(1.0, **(values | changes))  # type: ignore[arg-type]


def pool(sample: HostSample | None, level: Level = OK, share: HostShare | None = None, **told: object) -> object:
    told = {"problem": "", "mapped": 0, "held": 0} | told
    return host_pool(sample, level, HostLimits(), share or HostShare(), **told)  # type: ignore[arg-type]


def test_foreign_processes_are_named_and_what_nobody_shows_is_told() -> None:
    processes = (GpuProcess(1, 4 * GIB, "ours"), GpuProcess(2, 3 * GIB, "blender"))
    found = gpu_pool(gpu(processes=processes), VramLimits(), frozenset({1}))
    assert found.foreign == (Holder(2, "blender", 3 * GIB),)
    assert found.unexplained == 2 * GIB
    assert (found.key, found.label, found.free, found.problem) == ("GPU-0", "gpu0", 14 * GIB, "")


def test_a_process_without_a_figure_explains_any_amount() -> None:
    assert gpu_pool(gpu(processes=(GpuProcess(1, None, "x"),)), VramLimits(), frozenset()).unexplained == 0


def test_the_reserve_of_a_gpu_is_never_below_where_it_is_tight() -> None:
    assert gpu_pool(gpu(), VramLimits(reserve=2 * GIB), frozenset()).reserve == 2 * GIB
    assert gpu_pool(gpu(), VramLimits(reserve=0, tight_free=GIB), frozenset()).reserve == int(1.2 * GIB)
    assert gpu_pool(gpu(), VramLimits(reserve=0, tight_free=3 * GIB), frozenset()).reserve == 3 * GIB


def test_a_card_that_is_tight_is_full_by_design_but_one_that_is_not_measured_is_a_problem() -> None:
    assert not gpu_pool(gpu(), VramLimits(), frozenset()).problem
    stale = gpu_pool(gpu(state=SensorState.STALE, problem="no answer"), VramLimits(), frozenset())
    assert "stale" in stale.problem
    assert "no answer" in stale.problem
    lost = GpuSample(0, "GPU-0", "Test", SensorState.LOST, 1.0)
    assert gpu_pool(lost, VramLimits(), frozenset()).problem == "it cannot be measured (lost)"


def test_model_files_that_are_mapped_and_in_use_are_not_free() -> None:
    found = pool(host(), mapped=10 * GIB)
    assert (found.free, found.reserve) == (30 * GIB, int(6.4 * GIB))  # type: ignore[attr-defined]
    assert pool(host(), mapped=50 * GIB).free == 0  # type: ignore[attr-defined]


def test_a_limit_bounds_all_backends_together() -> None:
    share = HostShare(reserve=GIB, limit=8 * GIB)
    found = pool(host(), share=share, held=3 * GIB)
    reserve = int(6.4 * GIB)  # tight below 10 %
    assert (found.free - found.reserve, found.total - found.reserve) == (5 * GIB, 8 * GIB)  # type: ignore[attr-defined]
    assert found.reserve == reserve  # type: ignore[attr-defined]
    full = pool(host(), share=share, held=9 * GIB)
    assert full.free == full.reserve  # type: ignore[attr-defined]
    scarce = pool(host(available=2 * GIB), share=share)
    assert scarce.free == 2 * GIB  # type: ignore[attr-defined]


def test_a_host_that_swaps_for_its_life_takes_nothing_new_but_one_that_is_only_full_may_be_cleared() -> None:
    assert pool(host(), Level(Pressure.CRITICAL)).problem  # type: ignore[attr-defined]
    assert pool(host(), TIGHT).problem  # type: ignore[attr-defined]
    assert not pool(host(available=GIB), TIGHT).problem  # type: ignore[attr-defined]


def test_a_host_that_cannot_be_read_lets_nothing_start() -> None:
    assert pool(None).problem == "it was not measured yet"  # type: ignore[attr-defined]
    assert pool(None, problem="too many open files").problem == "too many open files"  # type: ignore[attr-defined]
    assert pool(host(), problem="late").problem == "late"  # type: ignore[attr-defined]
    assert pool(None).key == HOST  # type: ignore[attr-defined]


def test_gpus_are_wanted_by_index_or_uuid_and_one_that_is_not_there_keeps_its_name() -> None:
    there = (gpu(0), gpu(1))
    assert wanted_gpus((), None, there) == ("GPU-0", "GPU-1")
    assert wanted_gpus((), 1, there) == ("GPU-0",)
    assert wanted_gpus(("1", "GPU-0"), None, there) == ("GPU-1", "GPU-0")
    assert wanted_gpus(("7",), None, there) == ("7",)
