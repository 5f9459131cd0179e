"""Who waits for a place in memory, and how urgently."""

import asyncio
from collections.abc import Mapping
from enum import StrEnum

from supervisord.core.life import Phase
from supervisord.engine.backend import Backend


class Answer(StrEnum):
    """What became of a backend's wish for a place."""

    ADMITTED = "admitted"
    WITHDRAWN = "withdrawn"


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
        phases = {name: backend.state.phase for name, backend in backends.items()}
        self.admitted = {n for n in self.admitted if phases.get(n) in {Phase.STARTING, Phase.LOADING}}
        self.insisted = {n for n in self.insisted if phases.get(n) in {Phase.STOPPED, Phase.STARTING, Phase.BACKOFF}}
