"""Pressure on memory: when it is entered, held and left, how soon to look again, and who leaves first."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisord.core.memory import (
    FASTEST_POLL_S,
    FILL_RATE,
    GIB,
    MIB,
    SLOWEST_POLL_S,
    GpuSample,
    HostLimits,
    HostSample,
    Level,
    Pressure,
    SensorState,
    VramLimits,
    assess_gpu,
    assess_host,
    next_poll,
)

OK, TIGHT, CRITICAL = Pressure.OK, Pressure.TIGHT, Pressure.CRITICAL
VRAM, HOST = VramLimits(), HostLimits()


def gpu(free: float, at: float = 0.0, *, total: int = 16 * GIB, state: SensorState = SensorState.OK) -> GpuSample:
    return GpuSample(0, "GPU-1", "card", state, at, total=total, used=total - int(free), free=int(free))


def host(
    at: float = 0.0, *, available: float = 0.5, stall: float | None = 0.0, swap_in: float | None = 0.0, out: float = 0.0
) -> HostSample:
    total = 100 * GIB
    return HostSample(
        at, total, int(total * available), GIB, 0, swap_in_rate=swap_in, swap_out_rate=out, stall_full=stall
    )


def told_gpu(*samples: GpuSample, level: Level = Level()) -> list[Pressure]:  # noqa: B008 - Level is frozen
    told = []
    for sample in samples:
        level = assess_gpu(level, sample, VRAM)
        told.append(level.pressure)
    return told


def told_host(*samples: HostSample, level: Level = Level()) -> list[Pressure]:  # noqa: B008 - Level is frozen
    told = []
    for sample in samples:
        level = assess_host(level, sample, HOST)
        told.append(level.pressure)
    return told


def test_pressure_has_names_and_an_order() -> None:
    assert [p.label for p in sorted(Pressure)] == ["ok", "tight", "critical"]


# --- a GPU -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("free", "total", "expected"),
    [
        (GIB, 16 * GIB, OK),
        (GIB - 1, 16 * GIB, TIGHT),
        (0.05 * 96 * GIB + 1, 96 * GIB, OK),
        (0.05 * 96 * GIB - GIB / 64, 96 * GIB, TIGHT),  # a large card: the ratio decides
        (256 * MIB, 16 * GIB, TIGHT),
        (256 * MIB - 1, 16 * GIB, CRITICAL),
        (0, 16 * GIB, CRITICAL),
    ],
)
def test_a_gpu_is_judged_at_once(free: float, total: int, expected: Pressure) -> None:
    assert told_gpu(gpu(free, total=total)) == [expected]


def test_a_level_is_left_with_half_as_much_again_and_after_quiet() -> None:
    assert told_gpu(gpu(0.9 * GIB, 0), gpu(1.4 * GIB, 1), gpu(1.4 * GIB, 100)) == [TIGHT, TIGHT, TIGHT]
    assert told_gpu(gpu(0.9 * GIB, 0), gpu(1.6 * GIB, 1), gpu(1.6 * GIB, 15.9), gpu(1.6 * GIB, 16)) == [
        TIGHT, TIGHT, TIGHT, OK,
    ]  # fmt: skip


def test_quiet_starts_anew_when_it_was_broken() -> None:
    samples = gpu(0.9 * GIB, 0), gpu(2 * GIB, 1), gpu(1.2 * GIB, 10), gpu(2 * GIB, 11), gpu(2 * GIB, 25)

    assert told_gpu(*samples) == [TIGHT] * 5
    assert told_gpu(*samples, gpu(2 * GIB, 26))[-1] is OK


def test_critical_goes_to_what_holds_and_not_further() -> None:
    assert told_gpu(gpu(0, 0), gpu(GIB, 1), gpu(GIB, 16), gpu(GIB, 100)) == [CRITICAL, CRITICAL, TIGHT, TIGHT]
    assert told_gpu(gpu(0, 0), gpu(8 * GIB, 1), gpu(8 * GIB, 16)) == [CRITICAL, CRITICAL, OK]


@pytest.mark.parametrize("state", [s for s in SensorState if s is not SensorState.OK])
@pytest.mark.parametrize("before", Pressure)
def test_what_is_not_fresh_is_never_read_as_free_memory(state: SensorState, before: Pressure) -> None:
    level = Level(before, below_since=0.0)

    assert assess_gpu(level, gpu(16 * GIB, 1000.0, state=state), VRAM) == Level(before)


def test_a_gap_in_the_samples_is_no_quiet() -> None:
    stale = gpu(0, 5, state=SensorState.STALE)

    assert told_gpu(gpu(0.5 * GIB, 0), gpu(4 * GIB, 1), stale, gpu(4 * GIB, 17)) == [TIGHT] * 4


# --- the host --------------------------------------------------------------------------------------------------------

THRASH = 20_000_000.0


def test_little_available_is_tight_and_is_left_at_half_as_much_again() -> None:
    samples = host(0, available=0.09), host(1, available=0.14), host(100, available=0.14)

    assert told_host(*samples) == [TIGHT] * 3
    assert told_host(*samples, host(101, available=0.16), host(116, available=0.16))[-1] is OK


@pytest.mark.parametrize(
    "sample",
    [
        host(stall=100.0),
        host(swap_in=THRASH),
        host(out=THRASH),
        host(stall=None, swap_in=THRASH),
        host(stall=100.0, swap_in=None),
        host(stall=9.9, swap_in=THRASH),
        host(stall=100.0, swap_in=9_999_999.0),
    ],
)
def test_neither_swap_nor_stall_alone_is_pressure(sample: HostSample) -> None:
    assert told_host(sample) == [OK]


@pytest.mark.parametrize(("swap_in", "out"), [(THRASH, 0.0), (0.0, THRASH), (6_000_000.0, 6_000_000.0)])
def test_swapping_and_stalling_is_tight(swap_in: float, out: float) -> None:
    assert told_host(host(stall=10.1, swap_in=swap_in, out=out)) == [TIGHT]


def test_thrash_is_tight_at_once_and_critical_after_ten_seconds() -> None:
    assert told_host(*(host(at, stall=50.0, swap_in=THRASH) for at in (0, 5, 9.9, 10))) == [
        TIGHT, TIGHT, TIGHT, CRITICAL,
    ]  # fmt: skip


def test_without_swap_little_that_is_available_stands_for_swapping() -> None:
    """Then it is the pages of programs and mapped models that come and go."""
    scarce = [replace(host(at, stall=50.0, available=0.05, swap_in=0.0), swap_total=0) for at in (0, 10)]
    assert told_host(*scarce)[-1] is CRITICAL
    assert told_host(*(replace(sample, swap_total=GIB) for sample in scarce))[-1] is TIGHT
    plenty = [replace(host(at, stall=50.0, available=0.5, swap_in=0.0), swap_total=0) for at in (0, 10)]
    assert told_host(*plenty)[-1] is OK


def test_thrash_that_is_a_moment_half_as_bad_goes_on() -> None:
    worst, less = {"stall": 50.0, "swap_in": THRASH}, {"stall": 21.0, "swap_in": 6_000_000.0}
    samples = (host(0, **worst), host(5, **less), host(10, **worst))
    assert told_host(*samples) == [TIGHT, TIGHT, CRITICAL]
    assert told_host(*samples[:2], host(10, **less), host(60, **less))[-1] is TIGHT, "it was never as bad for long"


def test_thrash_that_pauses_starts_its_ten_seconds_anew() -> None:
    thrash = [host(at, stall=50.0, swap_in=THRASH) for at in (0, 9)]
    pause = host(9.5, stall=20.0, swap_in=THRASH)

    assert told_host(*thrash, pause, host(11, stall=50.0, swap_in=THRASH))[-1] is TIGHT


def test_critical_is_held_until_it_is_half_as_bad() -> None:
    bad = [host(at, stall=50.0, swap_in=THRASH) for at in (0, 10)]

    assert told_host(*bad, host(11, stall=21.0, swap_in=THRASH), host(60, stall=21.0, swap_in=THRASH))[-1] is CRITICAL
    assert told_host(*bad, host(11, stall=19.0, swap_in=THRASH), host(26, stall=19.0, swap_in=THRASH))[-1] is TIGHT
    assert told_host(*bad, host(11), host(26))[-1] is OK


@given(st.lists(st.tuples(st.floats(0, 60), st.integers(0, 4 * GIB)), max_size=30))
def test_pressure_never_falls_within_the_time_it_has_to_be_quiet(steps: list[tuple[float, int]]) -> None:
    level, now, risen = Level(), 0.0, 0.0
    for seconds, free in steps:
        now += seconds
        before, level = level, assess_gpu(level, gpu(free, now), VRAM)
        if level.pressure > before.pressure:
            risen = now
        if level.pressure < before.pressure:
            assert now - risen >= VRAM.leave_after_s
        if free < VRAM.critical_free:
            assert level.pressure is CRITICAL


# --- how soon to look again ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headroom", "pressure", "expected"),
    [
        (None, OK, SLOWEST_POLL_S),
        (None, CRITICAL, SLOWEST_POLL_S),
        (1000 * GIB, OK, SLOWEST_POLL_S),
        (FILL_RATE, TIGHT, 0.5),
        (0, TIGHT, FASTEST_POLL_S),
        (-GIB, TIGHT, FASTEST_POLL_S),
        (-GIB, CRITICAL, 0.5),
    ],
)
def test_the_nearer_the_danger_the_sooner(headroom: int | None, pressure: Pressure, expected: float) -> None:
    assert next_poll(headroom, pressure) == pytest.approx(expected)


@given(st.integers(-(10**12), 10**13), st.floats(-1e13, 1e13))
def test_memory_cannot_fill_between_two_looks(headroom: int, filling: float) -> None:
    wait = next_poll(headroom, OK, filling)

    assert FASTEST_POLL_S <= wait <= SLOWEST_POLL_S
    assert wait * FILL_RATE <= headroom or wait == FASTEST_POLL_S
    assert wait * filling <= headroom or wait == FASTEST_POLL_S
