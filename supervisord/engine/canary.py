"""A question to a backend that is idle, for one token or less: whether it would still answer."""

import asyncio
from typing import Protocol

from supervisord.core import life
from supervisord.core.errors import ProbeError
from supervisord.core.state import BackendState, LifePolicy, Phase
from supervisord.engine.generation import Generation
from supervisord.engine.lateness import Lateness
from supervisord.engine.tasks import Tasks
from supervisord.ports import Clock, HealthProbe
from supervisord.runtimes.base import BackendSpec, Call, Runtime

LOOK_EVERY_S = 1.0  # whether one is due
NEARLY = 0.95  # of the wait: a request that failed sooner was refused or cut off, and that the probe sees too


class Idle(Protocol):
    """The backend that is asked."""

    @property
    def state(self) -> BackendState: ...

    @property
    def spec(self) -> BackendSpec: ...

    @property
    def policy(self) -> LifePolicy: ...

    def post(self, event: life.Event) -> None: ...

    def is_current(self, generation: Generation) -> bool: ...

    def jobs_wait(self) -> bool: ...


class Canary:
    """Asks one generation now and then, until that is gone.

    It takes no slot, so no job ever waits for it: `disturb` ends it as soon as there is one. It is no use of the
    backend, as far as anybody counts.
    """

    def __init__(
        self, backend: Idle, generation: Generation, runtime: Runtime, *, clock: Clock, probe: HealthProbe, tasks: Tasks
    ) -> None:
        self._backend = backend
        self._generation = generation
        self._runtime = runtime
        self._clock = clock
        self._probe = probe
        self._tasks = tasks
        self._lateness = Lateness()
        self._proven_at = clock.monotonic()  # when it last answered one
        self._asking: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Returns once the generation has no process to be asked."""
        while self._backend.is_current(self._generation):
            call = self._due()
            if call is not None:
                self._asking = self._tasks.bounded(self._ask(call), f"canary {self._generation.number}")
                await asyncio.wait((self._asking,))
                self._asking = None
            await self._clock.sleep(LOOK_EVERY_S)

    def disturb(self) -> None:
        """There is work: it comes first, and shows by itself whether the backend answers."""
        if self._asking is not None:
            self._asking.cancel()

    def _due(self) -> Call | None:
        spec, state = self._backend.spec, self._backend.state
        if spec.canary_every_s is None or not _is_idle(state) or self._backend.jobs_wait():
            return None
        proven = max(self._proven_at, self._generation.last_bytes, state.ready_since or 0.0)
        if self._clock.monotonic() - proven < spec.canary_every_s:
            return None
        return self._runtime.canary(spec, spec.upstream_model or spec.models[0])

    async def _ask(self, call: Call) -> None:
        """Any answer will do: one that refuses is no hang."""
        began, limit = self._clock.monotonic(), self._backend.policy.progress_s
        try:
            await self._put(call, limit)
        except ProbeError:
            waited = self._clock.monotonic() - began
            if waited >= NEARLY * limit and not self._lateness.excuses(waited - limit):
                self._backend.post(life.CanaryMissed(self._generation.number, waited))
            return
        self._lateness.met()
        self._proven_at = self._clock.monotonic()
        self._backend.post(life.Progressed(self._generation.number))

    async def _put(self, call: Call, limit: float) -> None:
        address = self._generation.address
        if call.body:
            await self._probe.post(address, call.path, call.body, limit)
        else:
            await self._probe.get(address, call.path, limit)


def _is_idle(state: BackendState) -> bool:
    return state.phase is Phase.READY and not state.in_flight and not state.on_trial
