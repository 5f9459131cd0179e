"""What a backend needs, in bytes: as configured, as learned from its earlier runs, or estimated from its model's files.

Estimates only have to do for the first start of a configuration: what is measured then replaces them.
"""

from dataclasses import dataclass
from enum import StrEnum

from supervisord.core.memory import GIB, MIB
from supervisord.core.record import FootprintRecord
from supervisord.core.tenancy import gib


class Source(StrEnum):
    """How a need is known, the most dependable first."""

    CONFIGURED = "configured"
    LEARNED = "learned"
    ESTIMATED = "estimated"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Need:
    """What a backend takes at its peak, in bytes over all its processes and GPUs; None: it cannot be told.

    `ram` is resident memory, mapped files among it. `load_s` is how long its start takes, in seconds. `contradicts`:
    how the VRAM that is configured was proved too small, for people; empty: it was not.
    """

    vram: int | None
    ram: int | None
    load_s: float
    vram_source: Source = Source.ESTIMATED
    ram_source: Source = Source.ESTIMATED
    contradicts: str = ""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a model's own files say, as far as they do: GGUF header, or config.json with the sizes of its weights.

    Layers with sliding-window attention keep no more than a window of their context: `windowed_kv_bytes_per_token`
    is their part of `kv_bytes_per_token`.
    """

    weights: int  # bytes of all its files
    layers: int | None = None
    kv_bytes_per_token: int | None = None  # K and V of all layers with 16-bit elements
    windowed_kv_bytes_per_token: int = 0
    window: int | None = None  # tokens
    trained_context: int | None = None
    embedding_size: int | None = None
    vocabulary: int | None = None
    quantization: str | None = None


@dataclass(frozen=True, slots=True)
class Cache:
    """A KV cache. `context` in tokens for each slot; `cache_type` None: 16 bits; `ubatch`: tokens in one step."""

    context: int
    slots: int
    cache_type: str | None
    ubatch: int


# Size of an element against 16 bits. A block of 32 holds 34, 24, 22, 20 or 18 bytes (ggml-common.h).
_CACHE_FACTOR = {
    "f32": 2.0, "q8_0": 34 / 64, "q5_1": 24 / 64, "q5_0": 22 / 64, "q4_1": 20 / 64, "q4_0": 18 / 64, "iq4_nl": 18 / 64,
}  # fmt: skip
_CELLS = 256  # llama.cpp pads each slot's cache to a multiple of it


def kv_bytes(facts: ModelFacts, cache: Cache) -> int:
    """The KV cache as llama.cpp allocates it: whole, at the start. 0 where the facts do not tell.

    A layer with a window keeps the window and one step on top (llama-kv-cache-iswa.cpp). Seen with gemma-3-270m, four
    slots of 8192: 96 MiB in 3 full layers, 60 MiB in 15 windowed ones.
    """
    if facts.kv_bytes_per_token is None:
        return 0
    cells = _padded(cache.context)
    kept = cells if facts.window is None else min(cells, _padded(facts.window + cache.ubatch))
    windowed = min(facts.windowed_kv_bytes_per_token, facts.kv_bytes_per_token)
    of_a_slot = (facts.kv_bytes_per_token - windowed) * cells + windowed * kept
    return int(of_a_slot * cache.slots * _CACHE_FACTOR.get(cache.cache_type or "f16", 1.0))


def _padded(tokens: int) -> int:
    return -(-tokens // _CELLS) * _CELLS


# The inputs and outputs of a step, as 4-byte floats, that one buffer of llama.cpp holds at a time: 64 bytes for each
# element of the embedding, and the attention mask, 4 bytes a token and its copy of 2. Seen: 27.3 MiB for a context of
# 8192 and an embedding of 640; 808 MiB on a GPU for a context of 262144.
_STEP_BYTES, _MASK_BYTES = 64, 6
# Builds before 2026 keep room for the logits of a whole step: 258.5 MiB on a GPU for a vocabulary of 128256 and steps
# of 512. On a CPU what is not touched is not resident.
_LOGIT_BYTES = 4
# An idle llama-server beside its model: 113 MiB with 262144 tokens in the vocabulary, strings and look-up tables.
_SERVER, _BYTES_PER_WORD = 64 * MIB, 200
# Of a process on each GPU it uses, before it allocates anything: 107 MiB on an RTX 4060 Ti, 256 on a 3090, 555 on an
# RTX PRO 6000 (it grows with the number of its cores); then cuBLAS and its workspace.
CUDA_CONTEXT = GIB // 2
CUDA_HOST = GIB // 2  # CUDA's libraries and pinned buffers in RAM; not measured by us: the first run tells
FIT_MARGIN = GIB  # what llama-server leaves free of each GPU where it chooses its layers itself (-fitt 1024)


@dataclass(frozen=True, slots=True)
class Offload:
    """Where llama-server's layers go. `layers` on the GPUs, None: as many as fit into `room` bytes of `gpus` GPUs."""

    gpus: int
    room: int
    layers: int | None


def llama_bytes(facts: ModelFacts, cache: Cache, offload: Offload) -> tuple[int, int]:
    """VRAM and RAM of a llama-server, in bytes.

    Compared with the resident memory of a real one on the CPU, gemma-3-270m with contexts of 512 to 8192 and one to
    four slots: 1 to 6 % above.
    """
    words, width = facts.vocabulary or 0, facts.embedding_size or 0
    step = cache.ubatch * (_STEP_BYTES * width + _MASK_BYTES * cache.context)
    logits = cache.ubatch * _LOGIT_BYTES * (words + width)
    moveable = facts.weights + kv_bytes(facts, cache)
    server = _SERVER + _BYTES_PER_WORD * words
    if offload.gpus == 0 or offload.layers == 0:
        return 0, moveable + step + server
    fixed = offload.gpus * (CUDA_CONTEXT + max(step, logits))
    moved = int(moveable * _share(facts, offload))
    if offload.layers is None:
        moved = min(moved, max(0, offload.room - fixed))
    table = min(facts.weights, words * width)  # the embedding of tokens stays in RAM, about one byte an element
    return fixed + moved, moveable - moved + table + server + CUDA_HOST


def _share(facts: ModelFacts, offload: Offload) -> float:
    if offload.layers is None or not facts.layers:
        return 1.0  # rather too much than too little
    return min(1.0, offload.layers / facts.layers)


# --- what is known best ----------------------------------------------------------------------------------------------


def settled(vram: int | None, ram: int | None, learned: FootprintRecord | None, estimated: Need) -> Need:
    """Each figure from its most dependable source: configured (`vram`, `ram`), else learned, else estimated.

    VRAM is never less than was measured: whoever starts on such a promise runs into the end of the card each time. RAM
    may be: pages of mapped files are in what was measured, and the kernel takes them back.
    """
    learned_vram, learned_ram, load_s = (
        (None, None, None) if learned is None else (learned.vram, learned.ram, learned.load_s)
    )
    believed, contradicts = _checked(vram, learned_vram)
    best_vram, vram_source = _best(believed, learned_vram, estimated.vram)
    best_ram, ram_source = _best(ram, learned_ram, estimated.ram)
    return Need(
        best_vram,
        best_ram,
        estimated.load_s if load_s is None else load_s,
        vram_source,
        ram_source,
        contradicts,
    )


def _checked(configured: int | None, learned: int | None) -> tuple[int | None, str]:
    """The configured figure, None where more was measured; and that in words, where words can tell the two apart."""
    if configured is None or learned is None or learned <= configured:
        return configured, ""
    said, took = gib(configured), gib(learned)
    return None, f"says {said}, took {took}" if said != took else ""


def _best(configured: int | None, learned: int | None, estimated: int | None) -> tuple[int | None, Source]:
    if configured is not None:
        return configured, Source.CONFIGURED
    if learned is not None:
        return learned, Source.LEARNED
    return estimated, Source.UNKNOWN if estimated is None else Source.ESTIMATED


# --- learning --------------------------------------------------------------------------------------------------------

_GROWN, _GROWN_SHARE = 16 * MIB, 0.01  # growth that is worth a write: either of them
_OTHER_LOAD = 0.2  # load times differ by a fifth between a cold and a warm page cache at the least
_ADAPT = 0.5  # one slow load (a cold cache, a busy disk) must not count for all


def merged(known: FootprintRecord | None, seen: FootprintRecord) -> FootprintRecord | None:
    """What to remember once `seen` was measured in a run of the same key; None: nothing worth a write.

    Peaks only grow; the load time moves half the way to the one just seen. Figures that were not measured stay.
    """
    if known is None:
        return None if seen.vram is seen.ram is seen.load_s is None else seen
    vram, ram = _peak(known.vram, seen.vram), _peak(known.ram, seen.ram)
    load_s = _adapted(known.load_s, seen.load_s)
    if (vram, ram, load_s) == (known.vram, known.ram, known.load_s):
        return None
    return FootprintRecord(known.key, seen.backend, seen.at, vram, ram, load_s)


def _peak(known: int | None, seen: int | None) -> int | None:
    if known is None or seen is None:
        return seen if known is None else known
    return seen if seen - known > min(_GROWN, int(known * _GROWN_SHARE)) else known


def _adapted(known: float | None, seen: float | None) -> float | None:
    if known is None or seen is None:
        return seen if known is None else known
    return known + (seen - known) * _ADAPT if abs(seen - known) > known * _OTHER_LOAD else known
