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
    gpu_utilization: float | None = None  # vLLM: the share of each GPU it takes, 0..1
    sequences: int | None = None  # vLLM: requests in one step at the most


class Shrink(StrEnum):
    CACHE_Q8 = "kv_q8_0"
    CONTEXT = "context"
    GPU_LAYERS = "gpu_layers"
    FITTING = "fitting"  # the context that a start which ran out of memory said would fit
    GPU_UTILIZATION = "gpu_utilization"
    SEQUENCES = "sequences"


@dataclass(frozen=True, slots=True)
class Rung:
    """One step of a ladder; a rung keeps what the rungs above it did.

    `factor`, 0..1, scales what `shrink` names as it was configured; from a GPU utilization it is taken off.
    """

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
            case Shrink.FITTING:
                return "the context that fits"
            case Shrink.GPU_UTILIZATION:
                return f"GPU utilization - {self.factor:g}"
            case Shrink.SEQUENCES:
                return f"sequences x {self.factor:g}"
            case _ as never:
                assert_never(never)


WIDE_CACHE = frozenset({None, "f32", "f16", "bf16"})  # types wider than q8_0; llama.cpp's default is f16
CONTEXT_STEP = 256  # llama.cpp pads the context to a multiple of 256 itself
SMALLEST_CONTEXT = 512  # below it no chat template with a question fits
DEFAULT_GPU_UTILIZATION = 0.92  # vLLM's own
SMALLEST_GPU_UTILIZATION = 0.1  # of a card of 24 GiB: less holds no model and its KV cache


def apply(
    base: Footprint,
    rungs: tuple[Rung, ...],
    rung: int,
    *,
    trained_context: int | None = None,
    fitting_context: int | None = None,
) -> Footprint:
    """The footprint on `rung` (0: as configured; n: after the first n rungs).

    `trained_context` stands in for an unset context where it is known, else what a rung above made of it; a context
    rung without any of them has nothing to scale and changes nothing. The same goes for GPU layers and sequences that
    are not set. `fitting_context` is what the server said would fit; without it a fitting rung changes nothing.
    """
    footprint = base
    for step in rungs[:rung]:
        footprint = _shrunk(footprint, base, step, trained_context, fitting_context)
    return footprint


def _shrunk(footprint: Footprint, base: Footprint, rung: Rung, trained: int | None, fitting: int | None) -> Footprint:
    match rung.shrink:
        case Shrink.CACHE_Q8:
            return replace(footprint, cache_type="q8_0") if footprint.cache_type in WIDE_CACHE else footprint
        case Shrink.CONTEXT:
            return _context_scaled(footprint, base.context or trained or footprint.context, rung.factor)
        case Shrink.GPU_LAYERS:
            if base.gpu_layers is None or footprint.gpu_layers is None:
                return footprint
            return replace(footprint, gpu_layers=min(footprint.gpu_layers, int(base.gpu_layers * rung.factor)))
        case Shrink.FITTING:
            return _context_fitted(footprint, footprint.context or trained, fitting)
        case Shrink.GPU_UTILIZATION:
            return _utilization_lowered(footprint, rung.factor)
        case Shrink.SEQUENCES:
            return _sequences_scaled(footprint, base.sequences, rung.factor)
        case _ as never:
            assert_never(never)


def _context_scaled(footprint: Footprint, whole: int | None, factor: float) -> Footprint:
    if whole is None:
        return footprint
    scaled = int(whole * factor) // CONTEXT_STEP * CONTEXT_STEP
    return replace(footprint, context=min(footprint.context or whole, max(SMALLEST_CONTEXT, scaled)))


def _context_fitted(footprint: Footprint, now: int | None, fitting: int | None) -> Footprint:
    """Exactly what would fit, not a whole step of it: it is an estimate of the most there is room for."""
    if fitting is None or fitting < SMALLEST_CONTEXT or (now is not None and now <= fitting):
        return footprint
    return replace(footprint, context=fitting)


def _utilization_lowered(footprint: Footprint, step: float) -> Footprint:
    now = DEFAULT_GPU_UTILIZATION if footprint.gpu_utilization is None else footprint.gpu_utilization
    lower = round(max(SMALLEST_GPU_UTILIZATION, now - step), 4)  # 0.95 - 0.05 is 0.9, not 0.8999999999999999
    return replace(footprint, gpu_utilization=lower) if lower < now else footprint


def _sequences_scaled(footprint: Footprint, whole: int | None, factor: float) -> Footprint:
    if whole is None or footprint.sequences is None:
        return footprint
    return replace(footprint, sequences=min(footprint.sequences, max(1, int(whole * factor))))


def useful_rungs(
    base: Footprint,
    rungs: tuple[Rung, ...],
    *,
    trained_context: int | None = None,
    fitting_context: int | None = None,
) -> tuple[Rung, ...]:
    """`rungs` without those that would change nothing: a restart on such a rung is the same crash again.

    Which they are changes once `fitting_context` is known, and so does what the number of a rung means.
    """
    known = {"trained_context": trained_context, "fitting_context": fitting_context}
    kept: tuple[Rung, ...] = ()
    for rung in rungs:
        longer = (*kept, rung)
        if apply(base, longer, len(longer), **known) != apply(base, kept, len(kept), **known):
            kept = longer
    return kept
