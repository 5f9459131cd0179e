"""What a configured backend needs: which of its settings decide it, and an estimate before it has ever run."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import assert_never

from supervisord.core.footprint import (
    CUDA_CONTEXT,
    FIT_MARGIN,
    Cache,
    ModelFacts,
    Need,
    Offload,
    Source,
    llama_bytes,
    settled,
)
from supervisord.core.ladder import Footprint
from supervisord.core.memory import GIB
from supervisord.core.record import FootprintRecord
from supervisord.runtimes.base import BackendSpec, RuntimeKind


def digest(spec: BackendSpec, rung: int, weights: int | None = None) -> str:
    """A name for everything that decides the footprint of `spec` on `rung`: the same in every run of this program.

    Names, priorities, time limits, ports and keys are no part of it. `weights`, the size of the model's files, tells
    apart two models of which one has taken the other's path.
    """
    decides = {
        "runtime": spec.runtime,
        "binary": spec.binary,  # built for the CPU or for a GPU
        "model": spec.model,
        "weights": weights,
        "cwd": spec.cwd,
        "footprint": asdict(spec.footprint),
        "slots": spec.slots,
        "rung": rung,
        "rungs": None if spec.rungs is None else [asdict(step) for step in spec.rungs[:rung]],
        "vllm": asdict(spec.vllm),
        "command": None if spec.command is None else spec.command.argv,
        "args": spec.args,
        "env": dict(spec.env),
        "gpus": spec.gpus,
        "tensor_split": spec.tensor_split,
        "embeddings": spec.embeddings,
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:32]


def need(
    spec: BackendSpec,
    footprint: Footprint,
    *,
    learned: FootprintRecord | None = None,
    facts: ModelFacts | None = None,
    gpus: Sequence[int] = (),
    reserve: int = 0,
) -> Need:
    """What `spec` takes at `footprint`: each figure as configured, else as learned, else as `estimate` has it.

    VRAM that was configured and proved too small counts as learned. What was learned never asks for more than empty
    GPUs have to give: one leak, or a smaller reserve in those days, would else keep it from ever starting again. Nor
    does a llama-server that chooses its layers itself: it was learned on emptier GPUs.
    """
    estimated = estimate(facts, spec, footprint, gpus=gpus, reserve=reserve)
    found = settled(spec.memory.vram, spec.memory.ram, learned, estimated)
    if found.vram is None or found.vram_source is Source.CONFIGURED or not gpus:
        return found
    if _is_elastic(spec, footprint):
        most = _room(gpus, max(reserve, FIT_MARGIN))
    elif found.vram_source is Source.LEARNED:
        most = _room(gpus, reserve)
    else:
        return found
    return replace(found, vram=max(spec.memory.vram or 0, min(found.vram, most)))


def estimate(
    facts: ModelFacts | None, spec: BackendSpec, footprint: Footprint, *, gpus: Sequence[int] = (), reserve: int = 0
) -> Need:
    """What `spec` takes at `footprint`, before it has ever run.

    `gpus` are the sizes in bytes of the GPUs it may use, in their order; empty where there is none. Of each of them
    `reserve` bytes stay free.
    """
    vram, ram = _bytes(facts, spec, footprint, gpus, reserve)
    return Need(vram, ram, _load_s(facts, spec), _source(vram), _source(ram))


def _bytes(
    facts: ModelFacts | None, spec: BackendSpec, footprint: Footprint, gpus: Sequence[int], reserve: int
) -> tuple[int | None, int | None]:
    match spec.runtime:
        case RuntimeKind.LLAMA_CPP:
            return _llama(facts, spec, footprint, gpus, reserve)
        case RuntimeKind.VLLM:
            return _vllm(facts, spec, footprint, gpus)
        case RuntimeKind.COMMAND:
            return None, None
        case RuntimeKind.REMOTE:
            return 0, 0
        case _ as never:
            assert_never(never)


def _source(figure: int | None) -> Source:
    return Source.UNKNOWN if figure is None else Source.ESTIMATED


# --- llama.cpp -------------------------------------------------------------------------------------------------------

_UBATCH = 512  # llama-server's default step
_UNKNOWN_CONTEXT = 4096  # where neither configuration nor model says one


def _llama(
    facts: ModelFacts | None, spec: BackendSpec, footprint: Footprint, gpus: Sequence[int], reserve: int
) -> tuple[int | None, int | None]:
    if facts is None:
        return None if gpus and footprint.gpu_layers != 0 else 0, None
    offload = Offload(len(gpus), _room(gpus, max(reserve, FIT_MARGIN)), footprint.gpu_layers)
    return llama_bytes(facts, _cache(facts, spec, footprint), offload)


def _is_elastic(spec: BackendSpec, footprint: Footprint) -> bool:
    return spec.runtime is RuntimeKind.LLAMA_CPP and footprint.gpu_layers is None


def _room(gpus: Sequence[int], reserve: int) -> int:
    return sum(max(0, size - reserve) for size in gpus)


def _cache(facts: ModelFacts, spec: BackendSpec, footprint: Footprint) -> Cache:
    context = footprint.context
    if context is None:  # llama-server then divides what the model was trained for among its slots
        context = (facts.trained_context or _UNKNOWN_CONTEXT) // spec.slots
    return Cache(context, spec.slots, footprint.cache_type, min(_UBATCH, footprint.batch or _UBATCH))


# --- vLLM ------------------------------------------------------------------------------------------------------------

_UTILIZATION = 0.92  # vLLM's default share of each GPU
_ACTIVATIONS = GIB  # of each GPU, beside weights and KV cache: activations of a step, CUDA graphs
_HOST, _HOST_WORKER = 3 * GIB, GIB * 3 // 2  # API server, EngineCore and one worker; each further worker has torch too
_CPU_PROCESSES = GIB * 5 // 2  # the three together, as seen with a model of 1 MB
_CPU_KV_GIB = 4.0  # VLLM_CPU_KVCACHE_SPACE where it is not set


def _vllm(
    facts: ModelFacts | None, spec: BackendSpec, footprint: Footprint, gpus: Sequence[int]
) -> tuple[int | None, int | None]:
    weights = None if facts is None else facts.weights
    if not gpus:
        return 0, None if weights is None else weights + _cpu_kv(spec) + _CPU_PROCESSES
    workers = max(1, spec.vllm.tensor_parallel)
    return _vllm_vram(weights, spec, footprint, gpus[:workers]), _HOST + (workers - 1) * _HOST_WORKER


def _vllm_vram(weights: int | None, spec: BackendSpec, footprint: Footprint, used: Sequence[int]) -> int | None:
    cache = spec.vllm.kv_cache_memory
    if cache is None:
        share = _UTILIZATION if footprint.gpu_utilization is None else footprint.gpu_utilization
        return int(sum(used) * share)
    if weights is None:
        return None
    return weights + len(used) * (cache + _ACTIVATIONS + CUDA_CONTEXT)  # it is the KV cache of each GPU


def _cpu_kv(spec: BackendSpec) -> int:
    try:
        wanted = float(spec.env.get("VLLM_CPU_KVCACHE_SPACE", ""))
    except ValueError:
        wanted = 0.0
    return int((wanted if 0 < wanted < 1e6 else _CPU_KV_GIB) * GIB)


# --- time ------------------------------------------------------------------------------------------------------------

_READ_RATE = 500_000_000.0  # bytes/s: a SATA disk; from NVMe or the page cache it is quicker
_START_S = {
    RuntimeKind.LLAMA_CPP: 2.0,
    RuntimeKind.VLLM: 60.0,  # 30 to 44 s were seen with a model of 1 MB, without CUDA graphs
    RuntimeKind.COMMAND: 30.0,
    RuntimeKind.REMOTE: 0.0,
}


def _load_s(facts: ModelFacts | None, spec: BackendSpec) -> float:
    if spec.runtime is RuntimeKind.REMOTE or facts is None:
        return _START_S[spec.runtime]
    return _START_S[spec.runtime] + facts.weights / _READ_RATE
