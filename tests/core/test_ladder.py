"""The ladder: every rung asks for less than the one above it."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisord.core.ladder import (
    CONTEXT_STEP,
    DEFAULT_GPU_UTILIZATION,
    SMALLEST_CONTEXT,
    SMALLEST_GPU_UTILIZATION,
    Footprint,
    Rung,
    Shrink,
    apply,
    useful_rungs,
)

BASE = Footprint(context=8192, cache_type="f16", gpu_layers=40, batch=512)
RUNGS = (Rung(Shrink.CACHE_Q8), Rung(Shrink.CONTEXT, 0.75), Rung(Shrink.CONTEXT, 0.5), Rung(Shrink.GPU_LAYERS, 0.5))
BITS = {None: 16, "f32": 32, "f16": 16, "bf16": 16, "q8_0": 8.5, "q5_1": 6, "q5_0": 5.5, "q4_1": 5, "q4_0": 4.5}

footprints = st.builds(
    Footprint,
    context=st.none() | st.integers(1, 300_000),
    cache_type=st.sampled_from([*BITS]),
    gpu_layers=st.none() | st.integers(0, 200),
    gpu_utilization=st.none() | st.floats(0.05, 1.0),
    sequences=st.none() | st.integers(1, 1024),
)
contexts = st.none() | st.integers(1, 300_000)
ladders = st.lists(
    st.builds(Rung, st.sampled_from(Shrink), st.floats(0.01, 1.0)), max_size=6
).map(tuple)  # fmt: skip


def size(footprint: Footprint, trained: int) -> tuple[float, ...]:
    utilization = footprint.gpu_utilization
    return (
        trained if footprint.context is None else footprint.context,
        BITS[footprint.cache_type],
        1000 if footprint.gpu_layers is None else footprint.gpu_layers,
        DEFAULT_GPU_UTILIZATION if utilization is None else utilization,
        footprint.sequences or 0,
    )


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


@given(base=footprints, rungs=ladders, trained=contexts, fitting=contexts)
def test_no_rung_asks_for_more(
    base: Footprint, rungs: tuple[Rung, ...], trained: int | None, fitting: int | None
) -> None:
    whole = trained or base.context or 300_000
    known = {"trained_context": trained, "fitting_context": fitting}
    sizes = [size(apply(base, rungs, n, **known), whole) for n in range(len(rungs) + 1)]
    for above, below in itertools.pairwise(sizes):
        assert all(small <= large for small, large in zip(below, above, strict=True))


@given(base=footprints, rungs=ladders, fitting=contexts)
def test_every_useful_rung_changes_something(base: Footprint, rungs: tuple[Rung, ...], fitting: int | None) -> None:
    kept = useful_rungs(base, rungs, fitting_context=fitting)
    steps = [apply(base, kept, n, fitting_context=fitting) for n in range(len(kept) + 1)]

    assert len(set(steps)) == len(steps)
    assert steps[-1] == apply(base, rungs, len(rungs), fitting_context=fitting)


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
        (Footprint(context=4096), Rung(Shrink.FITTING), None),
        (Footprint(gpu_utilization=SMALLEST_GPU_UTILIZATION), Rung(Shrink.GPU_UTILIZATION, 0.05), None),
        (Footprint(gpu_utilization=0.05), Rung(Shrink.GPU_UTILIZATION, 0.05), None),
        (Footprint(), Rung(Shrink.SEQUENCES, 0.5), None),
        (Footprint(sequences=1), Rung(Shrink.SEQUENCES, 0.5), None),
    ],
)
def test_a_rung_with_nothing_to_shrink_is_left_out(base: Footprint, rung: Rung, trained: int | None) -> None:
    assert apply(base, (rung,), 1, trained_context=trained) == base
    assert useful_rungs(base, (rung,), trained_context=trained) == ()


def test_the_trained_context_stands_in_for_one_that_is_not_set() -> None:
    rungs = (Rung(Shrink.CONTEXT, 0.5),)

    assert apply(Footprint(), rungs, 1, trained_context=8192) == Footprint(context=4096)
    assert useful_rungs(Footprint(), rungs, trained_context=8192) == rungs


@pytest.mark.parametrize(
    ("base", "fitting", "expected"),
    [
        (Footprint(context=4096), 1792, 1792),
        (Footprint(context=4096), 1777, 1777),  # a whole number of vLLM's blocks, not of our steps
        (Footprint(), 1792, 1792),
        (Footprint(context=4096), 4096, 4096),
        (Footprint(context=4096), 8000, 4096),
        (Footprint(context=4096), SMALLEST_CONTEXT - 1, 4096),  # too short to be of use
        (Footprint(context=4096), None, 4096),
    ],
)
def test_the_context_that_fits(base: Footprint, fitting: int | None, expected: int) -> None:
    assert apply(base, (Rung(Shrink.FITTING),), 1, fitting_context=fitting).context == expected


def test_what_fits_is_scaled_where_nothing_else_is_known() -> None:
    rungs = (Rung(Shrink.FITTING), Rung(Shrink.CONTEXT, 0.5))

    assert apply(Footprint(), rungs, 2, fitting_context=4096).context == 2048


def test_a_context_that_would_fit_is_no_use_where_the_model_knows_no_longer_one() -> None:
    assert useful_rungs(Footprint(), (Rung(Shrink.FITTING),), trained_context=2048, fitting_context=4000) == ()


def test_a_fitting_rung_appears_once_it_is_known_what_fits() -> None:
    base, rungs = Footprint(context=4096), (Rung(Shrink.FITTING), Rung(Shrink.CONTEXT, 0.5))

    assert useful_rungs(base, rungs) == rungs[1:]
    assert useful_rungs(base, rungs, fitting_context=3000) == rungs
    assert useful_rungs(base, rungs, fitting_context=2000) == rungs[:1]


def test_utilization_goes_down_step_by_step_and_not_below_its_floor() -> None:
    rungs = (Rung(Shrink.GPU_UTILIZATION, 0.05), Rung(Shrink.GPU_UTILIZATION, 0.05), Rung(Shrink.GPU_UTILIZATION, 0.9))

    assert [apply(Footprint(), rungs, n).gpu_utilization for n in range(4)] == [None, 0.87, 0.82, 0.1]
    assert apply(Footprint(gpu_utilization=0.95), rungs, 1).gpu_utilization == 0.9


def test_sequences_are_scaled_from_what_was_configured_and_one_is_left() -> None:
    rungs = (Rung(Shrink.SEQUENCES, 0.5), Rung(Shrink.SEQUENCES, 0.25), Rung(Shrink.SEQUENCES, 0.001))

    assert [apply(Footprint(sequences=64), rungs, n).sequences for n in range(4)] == [64, 32, 16, 1]


def test_contexts_are_whole_steps_and_never_useless() -> None:
    for context in range(1, 20_000, 37):
        shrunk = apply(Footprint(context=context), (Rung(Shrink.CONTEXT, 0.75),), 1).context
        assert shrunk is not None
        assert shrunk % CONTEXT_STEP == 0 or shrunk == context
        assert shrunk >= min(context, SMALLEST_CONTEXT)


def test_rungs_describe_themselves() -> None:
    more = (Rung(Shrink.FITTING), Rung(Shrink.GPU_UTILIZATION, 0.05), Rung(Shrink.SEQUENCES, 0.5))

    assert [rung.describe() for rung in (*RUNGS, *more)] == [
        "KV cache q8_0", "context x 0.75", "context x 0.5", "GPU layers x 0.5",
        "the context that fits", "GPU utilization - 0.05", "sequences x 0.5",
    ]  # fmt: skip
