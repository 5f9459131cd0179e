"""What every Clock promises: the loop's own, and the one that stands in for it in tests."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest

from supervisord.adapters.clock import LoopClock
from supervisord.ports import Clock
from tests.fakes.clock import MOST_TURNS, FakeClock, fake_time

SHORT_S = 0.01


@dataclass(frozen=True, slots=True)
class Time:
    clock: Clock
    passes: Callable[[float], Awaitable[None]]


@pytest.fixture(params=["loop", "fake"])
async def time(request: pytest.FixtureRequest) -> AsyncIterator[Time]:
    if request.param == "loop":
        yield Time(LoopClock(), asyncio.sleep)
    else:
        with fake_time() as clock:
            yield Time(clock, clock.advance)


async def test_both_clocks_go_at_one_pace(time: Time) -> None:
    monotonic, wall = time.clock.monotonic(), time.clock.wall()
    await time.passes(SHORT_S)
    passed = time.clock.monotonic() - monotonic
    assert passed >= SHORT_S * 0.9
    assert time.clock.wall() - wall == pytest.approx(passed, abs=0.005)


async def test_a_call_comes_at_its_time_and_never_before(time: Time) -> None:
    when = time.clock.monotonic() + SHORT_S
    came: list[float] = []
    time.clock.call_at(when, lambda: came.append(time.clock.monotonic()))
    await asyncio.sleep(0)
    assert not came
    await time.passes(3 * SHORT_S)
    assert len(came) == 1
    assert came[0] >= when


async def test_a_time_gone_by_means_soon_but_not_within_the_call(time: Time) -> None:
    came: list[str] = []
    time.clock.call_at(time.clock.monotonic() - 5, lambda: came.append("late"))
    assert not came
    await time.passes(SHORT_S)
    assert came == ["late"]


async def test_the_earlier_call_comes_first(time: Time) -> None:
    now = time.clock.monotonic()
    came: list[int] = []
    for tenths in (3, 1, 2):
        time.clock.call_at(now + tenths * SHORT_S, lambda number=tenths: came.append(number))  # type: ignore[misc]
    await time.passes(5 * SHORT_S)
    assert came == [1, 2, 3]


async def test_a_cancelled_call_does_not_come_and_may_be_cancelled_after_it_came(time: Time) -> None:
    now = time.clock.monotonic()
    came: list[str] = []
    time.clock.call_at(now + SHORT_S, lambda: came.append("cancelled")).cancel()
    kept = time.clock.call_at(now + SHORT_S, lambda: came.append("kept"))
    await time.passes(3 * SHORT_S)
    assert came == ["kept"]
    kept.cancel()


async def test_who_sleeps_wakes_when_the_time_has_passed(time: Time) -> None:
    async with asyncio.TaskGroup() as group:
        began = time.clock.monotonic()
        sleeper = group.create_task(time.clock.sleep(SHORT_S))
        await asyncio.sleep(0)
        assert not sleeper.done()
        await time.passes(3 * SHORT_S)
        assert sleeper.done()
        assert time.clock.monotonic() - began >= SHORT_S * 0.9


async def test_time_outs_of_asyncio_go_by_the_same_time(time: Time) -> None:
    async def waits() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SHORT_S):
                await asyncio.get_running_loop().create_future()

    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(waits())
        await asyncio.sleep(0)
        assert not waiting.done()
        await time.passes(3 * SHORT_S)
        assert waiting.done()


async def test_the_fake_one_stands_still_and_does_everything_at_its_own_moment() -> None:
    with fake_time(now=50.0) as clock:
        seen: list[float] = []

        async def three_times() -> None:
            for _ in range(3):
                await clock.sleep(2)
                seen.append(clock.monotonic())

        async with asyncio.TaskGroup() as group:
            group.create_task(three_times())
            await clock.rest()
            assert clock.monotonic() == 50.0
            await clock.advance(4.5)
            assert (seen, clock.monotonic()) == ([52.0, 54.0], 54.5)
            await clock.advance(10)
        assert seen == [52.0, 54.0, 56.0]
        clock.jump_wall(-100)
        assert clock.monotonic() == 64.5


async def test_the_fake_one_is_never_early_by_the_resolution_of_the_loop() -> None:
    with fake_time(now=1000.0) as clock:
        came: list[float] = []
        clock.call_at(1005.0, lambda: came.append(clock.monotonic()))
        await clock.advance(5.0 - 1e-10)
        assert came in ([], [1005.0])
        await clock.advance(1e-9)
        assert came == [1005.0]


async def test_the_fake_one_says_when_a_loop_never_rests() -> None:
    loop = asyncio.get_running_loop()
    calls = 0

    def again() -> None:
        nonlocal calls
        calls += 1
        if calls < 2 * MOST_TURNS:
            loop.call_soon(again)

    with fake_time() as clock:
        again()
        with pytest.raises(AssertionError, match="still busy"):
            await clock.rest()
        calls = 2 * MOST_TURNS
        await clock.rest()


async def test_the_loops_own_time_is_back_afterwards() -> None:
    before = asyncio.get_running_loop().time()
    with fake_time(now=before - 1000):
        assert asyncio.get_running_loop().time() == before - 1000
    assert asyncio.get_running_loop().time() >= before


async def test_what_would_have_come_later_does_not_come_once_the_fake_time_is_over() -> None:
    loop = asyncio.get_running_loop()
    came: list[str] = []
    loop.call_later(0.001, came.append, "outside")
    with fake_time(now=1.0) as clock:
        clock.call_at(2.0, lambda: came.append("inside"))
    await asyncio.sleep(0.01)
    assert came == ["outside"]


async def test_what_does_not_come_to_pass_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fakes.clock.PATIENCE_S", 0.0)
    with fake_time() as clock, pytest.raises(AssertionError, match="the wonder did not come to pass"):
        await clock.until(lambda: False, "the wonder")


def test_the_fake_one_says_when_nobody_lets_time_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fakes.clock.PATIENCE_S", 0.01)

    async def waits_for_ever() -> None:
        with fake_time() as clock:
            await clock.sleep(1)

    with pytest.raises(AssertionError, match="nobody lets it"):
        asyncio.run(waits_for_ever())


def used(clock: FakeClock) -> Clock:
    """The type checker holds the fake to the Protocol."""
    return clock
