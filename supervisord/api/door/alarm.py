"""A deadline that moves with every request."""

import asyncio
import math
from collections.abc import Callable
from enum import Enum, auto


class Awaited(Enum):
    """What the connection's deadline is for."""

    NOTHING = auto()  # a request is being answered: that has limits of its own
    REQUEST = auto()
    HEAD = auto()
    BODY = auto()
    PART = auto()  # of a body that is taken in parts
    ROOM = auto()  # in the buffer towards the client
    END = auto()


class Alarm:
    """Calls `late` once its deadline has passed.

    The loop's timer is left running and looks for itself how late it is: arming and cancelling one for each request
    would cost more than parsing it.
    """

    __slots__ = ("_deadline", "_late", "_loop", "_timer", "awaited")

    def __init__(self, loop: asyncio.AbstractEventLoop, late: Callable[[], None]) -> None:
        self._loop = loop
        self._late = late
        self._deadline = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self.awaited = Awaited.NOTHING

    def set(self, what: Awaited, seconds: float) -> None:
        """Go off when `what` has not come so long from now, and not when it was to go off before."""
        self.awaited = what
        self._deadline = when = self._loop.time() + seconds
        if self._timer is not None:
            if self._timer.when() <= when:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._look)

    def off(self) -> None:
        """Nothing is awaited: do not go off."""
        self.awaited = Awaited.NOTHING
        self._deadline = math.inf

    def close(self) -> None:
        """Be forgotten by the loop, and forget who was to be told."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._late = _nobody

    def _look(self) -> None:
        self._timer = None
        if self._loop.time() >= self._deadline:
            self._late()
        elif self._deadline < math.inf:
            self._timer = self._loop.call_at(self._deadline, self._look)


def _nobody() -> None:
    return None
