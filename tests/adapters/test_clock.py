"""The clock, on both kinds of loop."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from supervisord.adapters.clock import LoopClock
from supervisord.ports import Clock

LIMIT_S = 10.0


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[Clock], Awaitable[None]]], None]:
    def run(scenario: Callable[[Clock], Awaitable[None]]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(LIMIT_S):
                await scenario(LoopClock())

        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(bounded())

    return run


Run = Callable[[Callable[[Clock], Awaitable[None]]], None]


async def fired_at(clock: Clock, when: float) -> float:
    done: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    clock.call_at(when, lambda: done.set_result(clock.monotonic()))
    assert not done.done()
    return await done


def test_it_shows_the_kernels_clocks(run: Run) -> None:
    async def scenario(clock: Clock) -> None:
        before, after = time.clock_gettime(time.CLOCK_MONOTONIC), clock.monotonic()
        assert before <= after <= time.clock_gettime(time.CLOCK_MONOTONIC)
        assert abs(clock.wall() - time.clock_gettime(time.CLOCK_REALTIME)) < 1

    run(scenario)


def test_a_call_never_comes_before_its_time(run: Run) -> None:
    async def scenario(clock: Clock) -> None:
        for tenth_of_ms in range(1, 60):
            when = clock.monotonic() + tenth_of_ms / 10_000
            assert await fired_at(clock, when) >= when

    run(scenario)


def test_a_time_gone_by_means_soon(run: Run) -> None:
    async def scenario(clock: Clock) -> None:
        assert await fired_at(clock, clock.monotonic() - 5) >= 0

    run(scenario)


def test_a_cancelled_call_does_not_come(run: Run) -> None:
    async def scenario(clock: Clock) -> None:
        calls: list[str] = []
        now = clock.monotonic()
        cancelled = clock.call_at(now + 0.005, lambda: calls.append("cancelled"))
        kept = clock.call_at(now + 0.005, lambda: calls.append("kept"))
        cancelled.cancel()
        await fired_at(clock, now + 0.02)
        assert calls == ["kept"]
        kept.cancel()

    run(scenario)


def test_a_call_the_loop_makes_early_is_made_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(clock: Clock) -> None:
        ahead = time.monotonic
        when = ahead() + 0.01
        monkeypatch.setattr(time, "monotonic", lambda: ahead() - 0.005)  # the loop is ahead by 5 ms
        assert await fired_at(clock, when) >= when

    run(scenario)


def test_sleep_sleeps(run: Run) -> None:
    async def scenario(clock: Clock) -> None:
        began = clock.monotonic()
        await clock.sleep(0.02)
        assert clock.monotonic() - began > 0.018  # uvloop rounds to milliseconds

    run(scenario)
