"""Whoever looks at one running generation: its watch, its canaries, and the last look before it is killed."""

import asyncio
from typing import Protocol

from supervisord.engine.canary import Canary, Idle
from supervisord.engine.diagnosis import Diagnosis
from supervisord.engine.generation import Generation
from supervisord.engine.watch import Watch, Watched
from supervisord.engine.world import World
from supervisord.runtimes.base import Runtime


class Attended(Watched, Idle, Protocol):
    """The backend whose generation it is."""

    @property
    def name(self) -> str: ...

    runtime: Runtime


class Attendance:
    """Begins when the process runs; its loops end by themselves when the generation has no process any more."""

    def __init__(self, backend: Attended, generation: Generation, world: World) -> None:
        self._backend = backend
        self._generation = generation
        self._world = world
        self._diagnosis: asyncio.Task[None] | None = None
        self._watch = Watch(
            backend,
            generation,
            spec=backend.spec,
            runtime=backend.runtime,
            clock=world.clock,
            probe=world.probe,
            kernel=world.kernel,
            gpu_load=world.gpu_load,
        )
        self._canary = Canary(
            backend, generation, backend.runtime, clock=world.clock, probe=world.probe, tasks=world.tasks
        )
        which = f"{backend.name} {generation.number}"
        world.tasks.bounded(self._watch.run(), f"watch {which}")
        world.tasks.bounded(self._canary.run(), f"canaries {which}")

    def disturb(self) -> None:
        """There is work, which comes before any canary."""
        self._canary.disturb()

    def diagnose(self) -> None:
        """Look once more, and tell by `Diagnosed`. Only one look at a time can be of any use."""
        if self._diagnosis is not None:
            self._diagnosis.cancel()
        self._watch.tell_patience()
        backend, world = self._backend, self._world
        diagnosis = Diagnosis(
            backend,
            self._generation,
            self._watch.look,
            self._watch.glance,
            spec=backend.spec,
            runtime=backend.runtime,
            clock=world.clock,
            probe=world.probe,
            examiner=world.examiner,
        )
        told = f"diagnosis {backend.name} {self._generation.number}"
        self._diagnosis = world.tasks.bounded(diagnosis.run(self._watch.seen), told)
