"""A backend without a process of ours: what stands in for one, so that its life is the same as that of all others."""

from collections.abc import Mapping, Sequence

from supervisord.core.memory import GroupUsage, TreeUsage
from supervisord.ports import LogState, ProcessEvents


class NoProcess:
    """`ports.ManagedProcess` of an address that is not ours to start: it ends when it is told to, at once."""

    pid = 0

    def __init__(self, events: ProcessEvents) -> None:
        self._events = events
        self._ended = False
        self._gone = False

    def terminate(self) -> None:
        """There is nothing to wait for."""
        if not self._ended:
            self._ended = True
            self._events.exited(0)

    def kill(self) -> None:
        """Nothing is left of it."""
        if not self._gone:
            self._ended = self._gone = True
            self._events.tree_gone()

    def tail(self, lines: int) -> Sequence[str]:
        """Its log is elsewhere."""
        del lines
        return ()

    def log_state(self) -> LogState:
        return LogState()

    async def usage(self) -> TreeUsage:
        """Nothing of this machine."""
        return TreeUsage((), 0, 0, 0.0)

    def group_usage(self) -> GroupUsage | None:
        """It has none of this machine."""
        return None

    async def demand(self) -> Mapping[int, float]:
        """Nothing of this machine."""
        return {}

    async def owns_port(self, port: int) -> bool:
        """Nobody else can be meant."""
        del port
        return True
