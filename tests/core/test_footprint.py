"""Which figure counts, what is learned, and the arithmetic of a llama-server's memory."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisord.core.footprint import (
    CUDA_CONTEXT,
    CUDA_HOST,
    Cache,
    ModelFacts,
    Need,
    Offload,
    Source,
    kv_bytes,
    llama_bytes,
    merged,
    settled,
)
from supervisord.core.memory import GIB, MIB
from supervisord.core.record import FootprintRecord

# gemma-3-270m, Q4_K_M: of its 18 layers every sixth keeps the whole context.
GEMMA = ModelFacts(
    weights=253_113_024,
    layers=18,
    kv_bytes_per_token=18 * 1024,
    windowed_kv_bytes_per_token=15 * 1024,
    window=512,
    trained_context=32768,
    embedding_size=640,
    vocabulary=262144,
)
# Llama 3 8B, Q4_K_M.
LLAMA = ModelFacts(
    weights=4_920_000_000, layers=32, kv_bytes_per_token=128 * 1024, embedding_size=4096, vocabulary=128256
)
CPU = Offload(gpus=0, room=0, layers=None)
ONE_GPU = Offload(gpus=1, room=22 * GIB, layers=None)


def cache(context: int, slots: int = 1, cache_type: str | None = None, ubatch: int = 512) -> Cache:
    return Cache(context, slots, cache_type, ubatch)


# --- the KV cache ----------------------------------------------------------------------------------------------------


def test_a_cache_is_as_large_as_llama_cpp_said() -> None:
    """Its own lines: 96.00 MiB in 3 layers of 8192 cells, 60.00 MiB in 15 layers of 1024 cells, four times."""
    assert kv_bytes(GEMMA, cache(8192, slots=4)) == (96 + 60) * MIB
    assert kv_bytes(LLAMA, cache(8192)) == GIB


def test_a_window_longer_than_the_context_keeps_the_context() -> None:
    assert kv_bytes(GEMMA, cache(512)) == 18 * 512 * 1024


def test_contexts_are_padded() -> None:
    assert kv_bytes(LLAMA, cache(1)) == kv_bytes(LLAMA, cache(256)) < kv_bytes(LLAMA, cache(257))


@pytest.mark.parametrize(
    ("cache_type", "factor"),
    [("f32", 2.0), ("f16", 1.0), ("bf16", 1.0), ("q8_0", 0.53125), ("q4_0", 0.28125), ("new", 1.0)],
)
def test_elements_have_their_size(cache_type: str, factor: float) -> None:
    assert kv_bytes(LLAMA, cache(8192, cache_type=cache_type)) == factor * GIB


def test_without_facts_there_is_no_cache() -> None:
    assert kv_bytes(ModelFacts(weights=1), cache(8192)) == 0


# --- a llama-server --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("context", "slots", "cache_type", "resident_mib"),
    [
        (512, 1, None, 379), (512, 4, None, 412), (2048, 1, None, 396), (2048, 4, None, 463), (8192, 1, None, 414),
        (8192, 4, None, 533), (8192, 4, "q8_0", 458),
    ],
)  # fmt: skip
def test_on_the_cpu_it_is_what_a_real_one_was_seen_to_take(
    context: int, slots: int, cache_type: str | None, resident_mib: int
) -> None:
    """Resident memory of the embedded engine after a prompt of 600 tokens."""
    vram, ram = llama_bytes(GEMMA, cache(context, slots, cache_type), CPU)
    assert vram == 0
    assert 0.97 <= ram / (resident_mib * MIB) <= 1.1


def test_on_a_gpu_weights_and_cache_move_there() -> None:
    vram, ram = llama_bytes(LLAMA, cache(8192), ONE_GPU)
    step = vram - CUDA_CONTEXT - LLAMA.weights - GIB
    assert 258 * MIB <= step <= 260 * MIB  # llama.cpp said 258.5 MiB
    assert CUDA_HOST < ram < 2 * GIB


def test_a_long_context_needs_a_large_mask() -> None:
    """Said on a GPU with that context: 808.02 MiB."""
    model = ModelFacts(weights=5 * GIB, vocabulary=248320, embedding_size=2560)
    vram, _ = llama_bytes(model, cache(262144), ONE_GPU)
    assert 800 * MIB <= vram - CUDA_CONTEXT - model.weights <= 860 * MIB


def test_each_gpu_has_its_own_context_and_buffers() -> None:
    one, _ = llama_bytes(LLAMA, cache(8192), ONE_GPU)
    two, _ = llama_bytes(LLAMA, cache(8192), replace(ONE_GPU, gpus=2))
    assert two - one > CUDA_CONTEXT + 258 * MIB


def test_layers_are_shared_as_configured() -> None:
    everything, _ = llama_bytes(LLAMA, cache(8192), replace(ONE_GPU, layers=99))
    half, ram = llama_bytes(LLAMA, cache(8192), replace(ONE_GPU, layers=16))
    none, all_ram = llama_bytes(LLAMA, cache(8192), replace(ONE_GPU, layers=0))
    assert everything - half == pytest.approx((LLAMA.weights + GIB) / 2, abs=1)
    assert none == 0
    assert all_ram > ram > (LLAMA.weights + GIB) / 2


def test_layers_of_an_unknown_number_are_all_of_them() -> None:
    unknown = replace(LLAMA, layers=None)
    assert llama_bytes(unknown, cache(512), replace(ONE_GPU, layers=3)) == llama_bytes(unknown, cache(512), ONE_GPU)


def test_what_does_not_fit_stays_in_ram_where_the_server_chooses() -> None:
    vram, ram = llama_bytes(LLAMA, cache(8192), replace(ONE_GPU, room=4 * GIB))
    assert vram == 4 * GIB
    assert ram > LLAMA.weights + GIB - 4 * GIB
    forced, _ = llama_bytes(LLAMA, cache(8192), replace(ONE_GPU, room=4 * GIB, layers=32))
    assert forced > LLAMA.weights
    no_room, _ = llama_bytes(LLAMA, cache(8192), replace(ONE_GPU, room=0))
    assert no_room < GIB


sizes = st.integers(1, 10**6)


facts = st.builds(
    ModelFacts,
    weights=st.integers(0, 2**42),
    kv_bytes_per_token=st.none() | sizes,
    windowed_kv_bytes_per_token=st.integers(0, 10**6),
    window=st.none() | sizes,
    vocabulary=st.none() | sizes,
    layers=st.none() | sizes,
)
caches = st.builds(
    Cache, context=sizes, slots=st.integers(1, 64), cache_type=st.none() | st.just("q8_0"), ubatch=st.integers(1, 4096)
)


@given(facts, caches, st.integers(0, 8), st.none() | st.integers(0, 200))
def test_more_is_never_less(facts: ModelFacts, kept: Cache, gpus: int, layers: int | None) -> None:
    offload = Offload(gpus, 20 * GIB * gpus, layers)
    vram, ram = llama_bytes(facts, kept, offload)
    assert min(vram, ram) >= 0
    assert vram + ram >= facts.weights + kv_bytes(facts, kept)
    for larger in (replace(kept, context=kept.context * 2), replace(kept, slots=kept.slots + 1)):
        assert sum(llama_bytes(facts, larger, offload)) >= vram + ram


# --- what is known best ----------------------------------------------------------------------------------------------

LEARNED = FootprintRecord("k", "left", 1000.0, vram=8 * GIB, ram=GIB, load_s=9.0)
ESTIMATED = Need(6 * GIB, 2 * GIB, 20.0)


def test_what_is_configured_comes_before_what_was_learned_before_what_is_estimated() -> None:
    known = (Source.CONFIGURED, Source.LEARNED, Source.ESTIMATED, Source.UNKNOWN)
    most = 9 * GIB
    assert settled(most, 2, LEARNED, ESTIMATED) == Need(most, 2, 9.0, known[0], known[0])
    assert settled(most, None, LEARNED, ESTIMATED) == Need(most, GIB, 9.0, known[0], known[1])
    assert settled(None, None, LEARNED, ESTIMATED) == Need(8 * GIB, GIB, 9.0, known[1], known[1])
    assert settled(None, None, None, ESTIMATED) == ESTIMATED
    assert settled(0, None, None, Need(5, None, 1.0)) == Need(0, None, 1.0, known[0], known[3])
    unmeasured = replace(LEARNED, vram=None, load_s=None)
    assert settled(None, None, unmeasured, ESTIMATED) == Need(6 * GIB, GIB, 20.0, known[2], known[1])
    assert settled(None, None, None, Need(None, None, 1.0)) == Need(None, None, 1.0, known[3], known[3])


def test_vram_configured_below_what_was_measured_is_not_believed_and_that_is_said() -> None:
    found = settled(4 * GIB, None, LEARNED, ESTIMATED)
    assert (found.vram, found.vram_source) == (8 * GIB, Source.LEARNED)
    assert found.contradicts == "says 4.0 GiB, took 8.0 GiB"


@pytest.mark.parametrize("configured", [8 * GIB, 9 * GIB])
def test_vram_configured_to_hold_what_was_measured_is_believed(configured: int) -> None:
    found = settled(configured, None, LEARNED, ESTIMATED)
    assert (found.vram, found.vram_source, found.contradicts) == (configured, Source.CONFIGURED, "")


def test_a_difference_too_small_for_words_counts_and_is_not_told() -> None:
    found = settled(8 * GIB - MIB, None, LEARNED, ESTIMATED)
    assert (found.vram, found.vram_source, found.contradicts) == (8 * GIB, Source.LEARNED, "")


def test_ram_is_what_the_configuration_says_whatever_was_mapped() -> None:
    found = settled(None, MIB, LEARNED, ESTIMATED)
    assert (found.ram, found.ram_source, found.contradicts) == (MIB, Source.CONFIGURED, "")


# --- learning --------------------------------------------------------------------------------------------------------


def seen(vram: int | None = None, ram: int | None = None, load_s: float | None = None) -> FootprintRecord:
    return FootprintRecord("k", "right", 2000.0, vram, ram, load_s)


def test_the_first_figures_are_kept_and_nothing_is_not() -> None:
    assert merged(None, seen(vram=5)) == seen(vram=5)
    assert merged(None, seen(load_s=5.0)) == seen(load_s=5.0)
    assert merged(None, seen(vram=0)) == seen(vram=0)
    assert merged(None, seen()) is None


def test_peaks_grow_and_never_shrink() -> None:
    assert merged(LEARNED, seen(vram=9 * GIB, ram=GIB // 2)) == replace(
        LEARNED, vram=9 * GIB, backend="right", at=2000.0
    )
    assert merged(LEARNED, seen(vram=0, ram=0)) is None
    assert merged(LEARNED, seen()) is None


@pytest.mark.parametrize(
    ("known", "grown", "stored"),
    [
        (100 * GIB, 16 * MIB, False), (100 * GIB, 16 * MIB + 1, True),
        (100 * MIB, MIB, False), (100 * MIB, MIB + 1, True),
        (0, 1, True),
    ],
)  # fmt: skip
def test_growth_of_one_percent_or_sixteen_mib_is_worth_a_write(known: int, grown: int, stored: bool) -> None:
    record = replace(LEARNED, ram=known)
    assert (merged(record, seen(ram=known + grown)) is not None) == stored


def test_a_figure_measured_for_the_first_time_is_kept() -> None:
    record = replace(LEARNED, vram=None, load_s=None)
    found = merged(record, seen(vram=3, load_s=4.0))
    assert found == FootprintRecord("k", "right", 2000.0, 3, LEARNED.ram, 4.0)


@pytest.mark.parametrize(("load_s", "after"), [(10.7, None), (7.3, None), (19.0, 14.0), (3.0, 6.0)])
def test_the_load_time_follows_slowly(load_s: float, after: float | None) -> None:
    found = merged(LEARNED, seen(load_s=load_s))
    assert (None if found is None else found.load_s) == after


@given(st.floats(0.01, 1e4), st.floats(0.01, 1e4))
def test_the_load_time_gets_there(known: float, steady: float) -> None:
    record = replace(LEARNED, load_s=known)
    for _ in range(40):
        record = merged(record, seen(load_s=steady)) or record
    assert record.load_s is not None
    assert abs(record.load_s - steady) <= 0.21 * record.load_s
