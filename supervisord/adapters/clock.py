"""Time, from the running loop and the kernel's monotonic clock."""

import asyncio
import time
from collections.abc import Callable


class LoopClock:
    """The Clock port. To be made while its loop runs.

    `monotonic` is CLOCK_MONOTONIC itself, as in the samples of the sensors, and not the loop's time: uvloop's is of
    whole milliseconds and as old as the turn of the loop.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()  # noqa: TID251 - the one place for it

    def call_at(self, when: float, callback: Callable[[], None]) -> "LoopTimer":
        """Run `callback` on the loop once `monotonic()` has reached `when`; never within this call."""
        return LoopTimer(self._loop, when, callback)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class LoopTimer:
    """A call to come. Cancelling it after it ran does nothing."""

    __slots__ = ("_callback", "_handle", "_loop", "_when")

    def __init__(self, loop: asyncio.AbstractEventLoop, when: float, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._when = when
        self._callback = callback
        self._handle = loop.call_later(max(0.0, when - time.monotonic()), self._run)

    def cancel(self) -> None:
        self._handle.cancel()

    def _run(self) -> None:
        left = self._when - time.monotonic()
        if left > 0:  # loops round: uvloop to the nearest millisecond, asyncio by its clock's resolution
            self._handle = self._loop.call_later(left, self._run)
        else:
            self._callback()
