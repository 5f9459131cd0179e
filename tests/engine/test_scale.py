"""The rungs a backend has, and what its starts teach about them."""

from dataclasses import replace

from supervisord.core.ladder import Footprint, Rung, Shrink
from supervisord.engine.scale import Scale
from supervisord.runtimes.base import BackendSpec, RuntimeKind, VllmOptions
from supervisord.runtimes.registry import RUNTIMES
from tests.engine.rig import llama

NO_FLASH = "E llama_init_from_model: quantized V cache requires flash_attn to be enabled"
WOULD_FIT = "ValueError: ... the estimated maximum model length is 20000. Try increasing `gpu_memory_utilization`"


def vllm(**changes: object) -> BackendSpec:
    spec = BackendSpec("v", RuntimeKind.VLLM, "/models/v", ("v",))
    return replace(spec, **changes)  # type: ignore[arg-type]


def scale_of(spec: BackendSpec) -> Scale:
    return Scale(spec, RUNTIMES[spec.runtime])


def words(scale: Scale) -> list[str]:
    return [scale.name_of(rung) for rung in range(len(scale.rungs) + 1)]


def test_rungs_that_would_change_nothing_are_none() -> None:
    assert words(scale_of(llama("a"))) == ["as configured", "KV cache q8_0"]
    small = scale_of(llama("a", footprint=Footprint(context=8192, cache_type="q8_0", gpu_layers=0)))
    assert words(small) == ["as configured", "context x 0.75", "context x 0.5"]


def test_the_context_that_a_server_took_by_itself_makes_rungs_of_it() -> None:
    scale = scale_of(llama("a"))
    scale.learn_context(16384)
    assert scale.whole_context == 16384
    assert words(scale) == ["as configured", "KV cache q8_0", "context x 0.75", "context x 0.5"]
    assert scale.footprint_on(0).context is None
    assert scale.footprint_on(3).context == 8192
    assert scale.footprint_on(3).cache_type == "q8_0"


def test_configured_rungs_are_the_only_ones_and_none_is_none() -> None:
    spec = llama("a", footprint=Footprint(context=8192))
    assert words(scale_of(replace(spec, rungs=(Rung(Shrink.CONTEXT, 0.5),)))) == ["as configured", "context x 0.5"]
    assert scale_of(replace(spec, rungs=())).rungs == ()


def test_what_a_start_said_would_fit_becomes_a_rung_of_its_own() -> None:
    scale = scale_of(vllm(footprint=Footprint(context=32768)))
    before = scale.rungs
    scale.learn_fitting(("INFO nothing to learn from",))
    assert scale.rungs == before
    scale.learn_fitting(("INFO loading", WOULD_FIT))
    assert scale.rungs[0].shrink is Shrink.FITTING
    assert scale.footprint_on(1).context == 20000


def test_a_way_that_the_server_does_not_know_is_no_rung_any_more() -> None:
    scale = scale_of(llama("a", footprint=Footprint(context=8192)))
    assert not scale.learn_refused(0, (NO_FLASH,)), "as configured it is not our doing"
    assert not scale.learn_refused(1, ("error: invalid argument",))
    assert scale.learn_refused(1, ("loading", NO_FLASH))
    assert words(scale) == ["as configured", "context x 0.75", "context x 0.5"]
    assert scale.footprint_on(1) == Footprint(context=6144)
    other = scale_of(llama("a", footprint=Footprint(context=8192)))
    other.remember(scale)
    assert words(other) == words(scale)


def test_without_another_rung_it_is_the_end_of_the_ladder() -> None:
    scale = scale_of(llama("a", rungs=(Rung(Shrink.CACHE_Q8),)))
    assert not scale.learn_refused(1, (NO_FLASH,))
    assert scale.rungs == ()


def test_vllm_takes_no_share_of_a_gpu_where_its_cache_has_a_size() -> None:
    shrinks = {rung.shrink for rung in scale_of(vllm()).rungs}
    assert Shrink.GPU_UTILIZATION in shrinks
    fixed = scale_of(vllm(vllm=VllmOptions(kv_cache_memory=2**30)))
    assert Shrink.GPU_UTILIZATION not in {rung.shrink for rung in fixed.rungs}
