"""The ladder: every rung asks for less than the one above it."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisord.core.ladder import CONTEXT_STEP, SMALLEST_CONTEXT, Footprint, Rung, Shrink, apply, useful_rungs

BASE = Footprint(context=8192, cache_type="f16", gpu_layers=40, batch=512)
RUNGS = (Rung(Shrink.CACHE_Q8), Rung(Shrink.CONTEXT, 0.75), Rung(Shrink.CONTEXT, 0.5), Rung(Shrink.GPU_LAYERS, 0.5))
BITS = {None: 16, "f32": 32, "f16": 16, "bf16": 16, "q8_0": 8.5, "q5_1": 6, "q5_0": 5.5, "q4_1": 5, "q4_0": 4.5}

footprints = st.builds(
    Footprint,
    context=st.none() | st.integers(1, 300_000),
    cache_type=st.sampled_from([*BITS]),
    gpu_layers=st.none() | st.integers(0, 200),
)
ladders = st.lists(
    st.builds(Rung, st.sampled_from(Shrink), st.floats(0.01, 1.0)), max_size=6
).map(tuple)  # fmt: skip


def size(footprint: Footprint, trained: int) -> tuple[float, float, float]:
    context = trained if footprint.context is None else footprint.context
    return context, BITS[footprint.cache_type], 1000 if footprint.gpu_layers is None else footprint.gpu_layers


def test_each_rung_keeps_what_those_above_it_did() -> None:
    assert [apply(BASE, RUNGS, n) for n in range(5)] == [
        BASE,
        Footprint(8192, "q8_0", 40, 512),
        Footprint(6144, "q8_0", 40, 512),
        Footprint(4096, "q8_0", 40, 512),
        Footprint(4096, "q8_0", 20, 512),
    ]


def test_below_the_last_rung_is_the_last_rung() -> None:
    assert apply(BASE, RUNGS, 9) == apply(BASE, RUNGS, 4)


@given(base=footprints, rungs=ladders, trained=st.none() | st.integers(1, 300_000))
def test_no_rung_asks_for_more(base: Footprint, rungs: tuple[Rung, ...], trained: int | None) -> None:
    whole = trained or base.context or 1
    sizes = [size(apply(base, rungs, n, trained_context=trained), whole) for n in range(len(rungs) + 1)]
    for above, below in itertools.pairwise(sizes):
        assert all(small <= large for small, large in zip(below, above, strict=True))


@given(base=footprints, rungs=ladders)
def test_every_useful_rung_changes_something(base: Footprint, rungs: tuple[Rung, ...]) -> None:
    kept = useful_rungs(base, rungs)
    steps = [apply(base, kept, n) for n in range(len(kept) + 1)]

    assert len(set(steps)) == len(steps)
    assert apply(base, kept, len(kept)) == apply(base, rungs, len(rungs))


@pytest.mark.parametrize(
    ("base", "rung", "trained"),
    [
        (Footprint(), Rung(Shrink.CONTEXT, 0.5), None),
        (Footprint(), Rung(Shrink.GPU_LAYERS, 0.5), None),
        (Footprint(gpu_layers=0), Rung(Shrink.GPU_LAYERS, 0.5), None),
        (Footprint(cache_type="q8_0"), Rung(Shrink.CACHE_Q8), None),
        (Footprint(cache_type="q4_0"), Rung(Shrink.CACHE_Q8), None),
        (Footprint(context=256), Rung(Shrink.CONTEXT, 0.5), None),
        (Footprint(context=SMALLEST_CONTEXT), Rung(Shrink.CONTEXT, 0.5), 4096),
    ],
)
def test_a_rung_with_nothing_to_shrink_is_left_out(base: Footprint, rung: Rung, trained: int | None) -> None:
    assert apply(base, (rung,), 1, trained_context=trained) == base
    assert useful_rungs(base, (rung,), trained_context=trained) == ()


def test_the_trained_context_stands_in_for_one_that_is_not_set() -> None:
    rungs = (Rung(Shrink.CONTEXT, 0.5),)

    assert apply(Footprint(), rungs, 1, trained_context=8192) == Footprint(context=4096)
    assert useful_rungs(Footprint(), rungs, trained_context=8192) == rungs


def test_contexts_are_whole_steps_and_never_useless() -> None:
    for context in range(1, 20_000, 37):
        shrunk = apply(Footprint(context=context), (Rung(Shrink.CONTEXT, 0.75),), 1).context
        assert shrunk is not None
        assert shrunk % CONTEXT_STEP == 0 or shrunk == context
        assert shrunk >= min(context, SMALLEST_CONTEXT)


def test_rungs_describe_themselves() -> None:
    assert [rung.describe() for rung in RUNGS] == [
        "KV cache q8_0", "context x 0.75", "context x 0.5", "GPU layers x 0.5",
    ]  # fmt: skip
