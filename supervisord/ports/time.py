"""Time."""

from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    """Time. Durations are only ever differences of `monotonic()`."""

    def monotonic(self) -> float:
        """Seconds that never jump."""
        ...

    def wall(self) -> float:
        """Seconds since the epoch, for people to read; it may jump."""
        ...

    def call_at(self, when: float, callback: Callable[[], None]) -> "Timer":
        """Run `callback` once `monotonic()` has reached `when`."""
        ...

    async def sleep(self, seconds: float) -> None: ...


class Timer(Protocol):
    def cancel(self) -> None: ...
