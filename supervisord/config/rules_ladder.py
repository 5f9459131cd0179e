"""Rungs of a ladder that would be the same crash again."""

from collections.abc import Iterator, Sequence

from supervisord.config.finding import Finding
from supervisord.config.problem import Path
from supervisord.config.schema_command import CommandSettings
from supervisord.config.schema_llama_cpp import AUTO_LAYERS, LlamaCppRung, LlamaCppSettings
from supervisord.config.schema_vllm import FITTING, VllmRung, VllmSettings
from supervisord.config.units import format_percent
from supervisord.core.ladder import WIDE_CACHE, Footprint, Rung, Shrink, apply


def findings(name: str, backend: LlamaCppSettings | VllmSettings | CommandSettings) -> Iterator[Finding]:
    """The rungs of a backend that take no less than those before them."""
    at: Path = ("backends", name, "ladder")
    if isinstance(backend, LlamaCppSettings):
        rungs = backend.ladder or []
        yield from _told(at, [_llama_cpp(rung, rungs[:index], backend) for index, rung in enumerate(rungs)])
    elif isinstance(backend, VllmSettings):
        steps = backend.ladder or []
        yield from _told(at, [_vllm(rung, steps[:index], backend) for index, rung in enumerate(steps)])


def _told(at: Path, messages: Sequence[str]) -> Iterator[Finding]:
    for index, message in enumerate(messages):
        if message:
            yield Finding(((*at, index),), message)


def _llama_cpp(rung: LlamaCppRung, earlier: Sequence[LlamaCppRung], backend: LlamaCppSettings) -> str:
    """Why a rung would be the same crash again; empty if it helps."""
    if rung.context is not None:
        return _share("context", rung.context, [r.context for r in earlier])
    if rung.gpu_layers is not None:
        if backend.gpu_layers == AUTO_LAYERS:
            return "gpu_layers of the backend is auto, of which no share is known; give it a number"
        return _not_smaller("gpu_layers", rung.gpu_layers, [r.gpu_layers for r in earlier])
    if backend.cache_type not in WIDE_CACHE:
        return f"kv q8_0 takes no less than cache_type {backend.cache_type}; remove this rung"
    return "kv q8_0 stands on an earlier rung already; remove this one" if any(r.kv for r in earlier) else ""


def _vllm(rung: VllmRung, earlier: Sequence[VllmRung], backend: VllmSettings) -> str:
    if rung.context == FITTING:
        known = any(r.context == FITTING for r in earlier)
        return "context fitting stands on an earlier rung already; remove this one" if known else ""
    if rung.context is not None:
        return _share("context", rung.context, [r.context for r in earlier if r.context != FITTING])
    if rung.sequences is not None:
        return _share("sequences", rung.sequences, [r.sequences for r in earlier])
    return _gpu_memory(rung, earlier, backend)


def _gpu_memory(rung: VllmRung, earlier: Sequence[VllmRung], backend: VllmSettings) -> str:
    if backend.kv_cache_memory is not None:
        return "gpu_memory changes nothing where kv_cache_memory is set; remove this rung, or that setting"
    rungs = tuple(Rung(Shrink.GPU_UTILIZATION, r.gpu_memory) for r in (*earlier, rung) if r.gpu_memory is not None)
    whole = Footprint(gpu_utilization=backend.gpu_memory_utilization)
    before = apply(whole, rungs, len(rungs) - 1)
    if apply(whole, rungs, len(rungs)) != before:
        return ""
    left = format_percent(before.gpu_utilization or 0.0)
    return f"gpu_memory takes nothing from {left}, which is the least that serves; remove this rung"


def _share(key: str, share: float, earlier: Sequence[float | None]) -> str:
    if share == 0:
        return f"{key} 0% leaves nothing to serve with; write a share above it"
    return _not_smaller(key, share, earlier)


def _not_smaller(key: str, share: float, earlier: Sequence[float | None]) -> str:
    before = min((other for other in earlier if other is not None), default=1.0)
    if share < before:
        return ""
    return f"{key} {format_percent(share)} takes no less than the {format_percent(before)} before it"
