"""The OOM ladder: rungs of smaller footprints, and when to step down."""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import assert_never


@dataclass(frozen=True, slots=True)
class Footprint:
    """The settings that decide how much memory a server takes. None: the runtime's own default."""

    context: int | None = None  # tokens one request may use, prompt and answer together
    cache_type: str | None = None  # KV cache element type: f16, q8_0, q4_0
    gpu_layers: int | None = None  # None: as many as fit; 0: CPU only
    batch: int | None = None


class Shrink(StrEnum):
    CACHE_Q8 = "kv_q8_0"
    CONTEXT = "context"
    GPU_LAYERS = "gpu_layers"


@dataclass(frozen=True, slots=True)
class Rung:
    """One step of a ladder. `factor` scales what `shrink` names; a rung keeps what the rungs above it did."""

    shrink: Shrink
    factor: float = 1.0

    def describe(self) -> str:
        match self.shrink:
            case Shrink.CACHE_Q8:
                return "KV cache q8_0"
            case Shrink.CONTEXT:
                return f"context x {self.factor:g}"
            case Shrink.GPU_LAYERS:
                return f"GPU layers x {self.factor:g}"
            case _ as never:
                assert_never(never)


WIDE_CACHE = frozenset({None, "f32", "f16", "bf16"})  # types wider than q8_0; llama.cpp's default is f16
CONTEXT_STEP = 256  # llama.cpp pads the context to a multiple of 256 itself
SMALLEST_CONTEXT = 512  # below it no chat template with a question fits


def apply(base: Footprint, rungs: tuple[Rung, ...], rung: int, *, trained_context: int | None = None) -> Footprint:
    """The footprint on `rung` (0: as configured; n: after the first n rungs).

    `trained_context` stands in for an unset context where it is known; a context rung without either has nothing to
    scale and changes nothing. The same goes for GPU layers.
    """
    footprint = base
    for step in rungs[:rung]:
        footprint = _shrunk(footprint, base, step, trained_context)
    return footprint


def _shrunk(footprint: Footprint, base: Footprint, rung: Rung, trained_context: int | None) -> Footprint:
    match rung.shrink:
        case Shrink.CACHE_Q8:
            return replace(footprint, cache_type="q8_0") if footprint.cache_type in WIDE_CACHE else footprint
        case Shrink.CONTEXT:
            whole = base.context or trained_context
            if whole is None:
                return footprint
            scaled = int(whole * rung.factor) // CONTEXT_STEP * CONTEXT_STEP
            return replace(footprint, context=min(footprint.context or whole, max(SMALLEST_CONTEXT, scaled)))
        case Shrink.GPU_LAYERS:
            if base.gpu_layers is None or footprint.gpu_layers is None:
                return footprint
            return replace(footprint, gpu_layers=min(footprint.gpu_layers, int(base.gpu_layers * rung.factor)))
        case _ as never:
            assert_never(never)


def useful_rungs(base: Footprint, rungs: tuple[Rung, ...], *, trained_context: int | None = None) -> tuple[Rung, ...]:
    """`rungs` without those that would change nothing: a restart on such a rung is the same crash again."""
    kept: tuple[Rung, ...] = ()
    for rung in rungs:
        longer = (*kept, rung)
        before = apply(base, kept, len(kept), trained_context=trained_context)
        if apply(base, longer, len(longer), trained_context=trained_context) != before:
            kept = longer
    return kept
