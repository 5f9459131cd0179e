"""Who waits for a place in memory, and how urgently."""

import asyncio
from collections.abc import Mapping
from enum import StrEnum

from supervisord.core.state import After, BackendState, Phase
from supervisord.engine.backend import Backend


class Answer(StrEnum):
    """What became of a backend's wish for a place."""

    ADMITTED = "admitted"
    WITHDRAWN = "withdrawn"


_BEGINNING = frozenset({Phase.STARTING, Phase.LOADING})


class Wishes:
    """Written by the placer only. Names of backends."""

    def __init__(self) -> None:
        self.asking: dict[str, asyncio.Future[Answer]] = {}
        self.admitted: set[str] = set()  # let in, and not serving yet
        self.insisted: set[str] = set()  # an operator asked
        self.modest: set[str] = set()  # they would only help out others that serve the same

    def waits(self, name: str) -> bool:
        """Whether it asks for a place and has no answer yet."""
        asked = self.asking.get(name)
        return asked is not None and not asked.done()

    def settle(self, backends: Mapping[str, Backend]) -> None:
        """Forget what came true, or will not."""
        states = {name: backend.state for name, backend in backends.items()}
        self.admitted = {n for n in self.admitted if n in states and states[n].phase in _BEGINNING}
        self.insisted = {n for n in self.insisted if n in states and _is_open(states[n])}


def _is_open(state: BackendState) -> bool:
    """Whether a wish that it should run can still come true: not yet, and not given up either."""
    if state.phase in {Phase.DRAINING, Phase.STOPPING, Phase.UNKILLABLE}:
        return state.after is After.AGAIN  # it is on its way out, and comes back at once
    return state.phase in {Phase.STARTING, Phase.BACKOFF}
