"""What every backend shares: the ports, and whom it tells what happened."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from supervisord.core.job import FailureReason
from supervisord.engine.generation import Generation
from supervisord.engine.journal import Journal
from supervisord.engine.tasks import Tasks
from supervisord.ports import Clock, HealthProbe, KernelLog, ProcessHost
from supervisord.runtimes.base import BackendSpec


class Places(Protocol):
    """Who says when there is memory for a start."""

    async def admit(self, name: str) -> bool:
        """Wait for a place; False when it is not needed any more. Raises SpawnError when it can never fit."""
        ...

    def give_up(self, name: str) -> None:
        """Do not wait any more."""
        ...


@dataclass(frozen=True, slots=True)
class World:
    """The ports and owners that every backend shares."""

    clock: Clock
    processes: ProcessHost
    probe: HealthProbe
    kernel: KernelLog
    tasks: Tasks
    journal: Journal
    released: Callable[[frozenset[int], float], bool]  # these pids hold no VRAM any more, measured since then
    look_now: Callable[[], None]  # take a fresh sample of memory
    places: Places
    observe: Callable[[Generation], None]  # learn what a generation takes
    look_at: Callable[[BackendSpec], Awaitable[None]]  # read what the model's files say
    headroom: Callable[[], int]  # bytes that stay free on each GPU
    quantization: Callable[[BackendSpec], str | None]  # by the model's own files


@dataclass(frozen=True, slots=True)
class Hooks:
    """Whom a backend tells: the dispatcher."""

    granted: Callable[[str, str, int], None]  # job, backend, generation
    refused: Callable[[str], None]  # job
    fail: Callable[[str, int, FailureReason, str], None]  # backend, generation: everything in flight there
    changed: Callable[[str], None]
