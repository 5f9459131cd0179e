"""`Clock` that stands still until it is told to go on. The contract suite holds it to the promises of the real one."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

MOST_TURNS = 20_000  # of the loop, at one moment: more is a loop that never comes to rest
PATIENCE_S = 10.0  # of real time, for sockets and threads


class FakeClock:
    """Made by `fake_time`, which lets asyncio's own time-outs follow it too: whatever waits, waits for `advance`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, now: float, epoch: float) -> None:
        self._loop: Any = loop  # what is ready and what is due it tells nobody
        self._now = now
        self._to_wall = epoch - now

    def monotonic(self) -> float:
        return self._now

    def wall(self) -> float:
        return self._now + self._to_wall

    def jump_wall(self, seconds: float) -> None:
        """Somebody set the machine's clock."""
        self._to_wall += seconds

    def call_at(self, when: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        """See `ports.Clock`."""

        def at_its_time() -> None:
            self._now = max(self._now, when)  # the loop calls what is due within its resolution, a nanosecond
            callback()

        timer: asyncio.TimerHandle = self._loop.call_at(when, at_its_time)
        return timer

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def advance(self, seconds: float) -> None:
        """Let time pass: every timer that is due meanwhile goes off at its own moment, and what it sets off is done."""
        end = self._now + seconds
        await self.rest()
        while (due := self._next_timer()) <= end:
            self._now = max(self._now, due)
            await self.rest()
        self._now = end
        await self.rest()

    async def gap(self, seconds: float) -> None:
        """Nothing runs for so long, as on a machine that is overloaded; then all that is overdue goes off at once."""
        self._now += seconds
        await self.rest()

    async def rest(self) -> None:
        """Returns once everything waits for time to pass, or for the world outside."""
        for _ in range(MOST_TURNS):
            await asyncio.sleep(0)
            if not self._loop._ready:
                return
        busy = ", ".join(str(handle) for handle in list(self._loop._ready)[:5])
        raise AssertionError(f"the loop was still busy after {MOST_TURNS} turns without any time passing: {busy}")

    async def until(self, condition: Callable[[], object], what: str = "it") -> None:
        """For what sockets and threads bring about, which takes real time and none of this clock's."""
        give_up = monotonic() + PATIENCE_S
        while not condition():
            assert monotonic() < give_up, f"{what} did not come to pass"
            await asyncio.sleep(0)

    def _next_timer(self) -> float:
        timers: list[asyncio.TimerHandle] = self._loop._scheduled
        return min((timer.when() for timer in timers if not timer.cancelled()), default=float("inf"))


@contextmanager
def fake_time(now: float = 1000.0, epoch: float = 1_700_000_000.0) -> Iterator[FakeClock]:
    """The running loop's time, stopped at `now`."""
    loop = asyncio.get_running_loop()
    clock = FakeClock(loop, now, epoch)
    selector: Any = loop._selector  # type: ignore[attr-defined]
    scheduled: list[asyncio.TimerHandle] = loop._scheduled  # type: ignore[attr-defined]
    before = {id(timer) for timer in scheduled}
    loop.time = clock.monotonic  # type: ignore[method-assign]
    plain = selector.select

    def select(timeout: float | None = None) -> object:
        found = plain(PATIENCE_S if timeout is None else min(timeout, PATIENCE_S))
        if not found and timeout != 0:
            raise AssertionError("everything waits for time to pass, and nobody lets it")
        return found

    selector.select = select
    try:
        yield clock
    finally:
        for timer in list(scheduled):
            if id(timer) not in before:
                timer.cancel()  # its time never comes
        del loop.time, selector.select
