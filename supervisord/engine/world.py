"""What every backend shares: the ports, and whom it tells what happened."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from supervisord.core.job import FailureReason
from supervisord.core.state import BackendState
from supervisord.engine.generation import Generation
from supervisord.engine.journal import Journal
from supervisord.engine.tasks import Tasks
from supervisord.engine.verdict import Surroundings
from supervisord.ports import Clock, Examiner, HealthProbe, KernelLog, ProcessHost
from supervisord.runtimes.base import BackendSpec


class Places(Protocol):
    """Who says when there is memory for a start."""

    async def admit(self, name: str) -> bool:
        """Wait for a place; False when it is not needed any more. Raises SpawnError when it can never fit."""
        ...

    def give_up(self, name: str) -> None:
        """Do not wait any more."""
        ...


class Witnessed(Protocol):
    """A backend, as whoever writes its story sees it."""

    @property
    def name(self) -> str: ...

    @property
    def state(self) -> BackendState: ...

    generation: Generation | None

    def tail(self, lines: int) -> list[str]: ...


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
    surroundings: Callable[[BackendSpec], Surroundings]  # memory around a backend by the latest sample
    gpu_load: Callable[[BackendSpec, frozenset[int]], float | None]  # as `core.hang.busiest`, of its GPUs and its pids
    jobs_wait: Callable[[str], bool]  # whether a job waits that the backend of this name could serve
    examiner: Examiner | None = None  # None: processes cannot be looked into


@dataclass(frozen=True, slots=True)
class Hooks:
    """Whom a backend tells: the dispatcher, and who keeps its story."""

    granted: Callable[[str, str, int], None]  # job, backend, generation
    refused: Callable[[str], None]  # job
    fail: Callable[[str, int, FailureReason, str], None]  # backend, generation: everything in flight there
    changed: Callable[[str], None]
    entered: Callable[[Witnessed, BackendState, BackendState], None]  # another phase or generation: before, after
