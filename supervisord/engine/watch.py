"""Watches one generation: loading, readiness, liveness, progress, and what its tree uses."""

from typing import Protocol

from supervisord.core import life
from supervisord.core.errors import ProbeError
from supervisord.core.life import BackendState, Phase
from supervisord.engine.generation import Generation
from supervisord.ports import Clock, HealthProbe
from supervisord.runtimes.base import BackendSpec, HttpAnswer, Readiness, Runtime

LOADING_POLL_S = 0.08  # a server that became ready is noticed within 100 ms
USAGE_EVERY_S = 2.0
GROWTH = 1024 * 1024  # bytes of memory that count as a sign of loading: less is noise of the allocator


class Watched(Protocol):
    """The backend that is watched."""

    @property
    def state(self) -> BackendState: ...

    def post(self, event: life.Event) -> None: ...

    def is_current(self, generation: Generation) -> bool: ...

    def became_ready(self, generation: Generation) -> None: ...


class Watch:
    """A loop that ends with its generation. It decides nothing: it posts what it saw."""

    def __init__(
        self,
        backend: Watched,
        generation: Generation,
        *,
        spec: BackendSpec,
        runtime: Runtime,
        clock: Clock,
        probe: HealthProbe,
    ) -> None:
        self._spec = spec
        self._runtime = runtime
        self._generation = generation
        self._clock = clock
        self._probe = probe
        self._backend = backend
        self._usage_at = 0.0
        self._rss = 0
        self._work: float | None = None
        self._bytes_at = generation.last_bytes

    async def run(self) -> None:
        """Returns once the generation has no process to be watched."""
        while self._backend.is_current(self._generation):
            if self._backend.state.phase is Phase.LOADING:
                await self._look_at_loading()
                await self._clock.sleep(LOADING_POLL_S)
            else:
                await self._look_at_service()
                await self._clock.sleep(self._spec.probe_interval_s)

    async def _look_at_loading(self) -> None:
        await self._measure()
        try:
            answer = await self._get(self._runtime.ready_path)
        except ProbeError:
            return  # nobody listens yet
        if not self._backend.is_current(self._generation):
            return
        match self._runtime.readiness(answer):
            case Readiness.READY:
                await self._check_ready()
            case Readiness.LOADING:
                self._generation.note = "loading the model"
            case Readiness.BROKEN:
                self._generation.note = f"answers {self._runtime.ready_path} with status {answer.status}"

    async def _check_ready(self) -> None:
        """An answer proves something only when it comes from our own tree."""
        process = self._generation.process
        if process is None or not await process.owns_port(self._generation.port):
            self._generation.note = f"port {self._generation.port} is answered by a process that is not ours"
            return
        self._generation.note = ""
        self._generation.identity = self._runtime.identity(await self._identity_answers())
        self._backend.became_ready(self._generation)

    async def _identity_answers(self) -> dict[str, HttpAnswer]:
        answers: dict[str, HttpAnswer] = {}
        for path in self._runtime.identity_paths:
            try:
                answers[path] = await self._get(path)
            except ProbeError:
                continue  # what it does not tell stays unknown
        return answers

    async def _look_at_service(self) -> None:
        generation = self._generation
        try:
            answer = await self._get(self._runtime.ready_path)
        except ProbeError as error:
            self._backend.post(life.ProbeMissed(generation.number, error.message))
        else:
            if self._runtime.readiness(answer) is Readiness.READY:
                self._answered()
            else:
                why = f"answered its probe with status {answer.status}"
                self._backend.post(life.ProbeMissed(generation.number, why))
        if self._backend.state.in_flight:
            await self._look_for_progress()
        await self._measure()

    def _answered(self) -> None:
        if self._backend.state.phase is not Phase.READY:
            self._backend.post(life.Answered(self._generation.number))

    async def _look_for_progress(self) -> None:
        """Bytes that came for a client, else the server's own counters: a long prompt sends nothing for minutes."""
        generation = self._generation
        if generation.last_bytes > self._bytes_at or generation.slow_clients:
            self._bytes_at = generation.last_bytes
            self._backend.post(life.Progressed(generation.number))
            return
        try:
            counters = self._runtime.counters(await self._get(self._runtime.counters_path))
        except ProbeError:
            return
        if counters is None:
            return
        if self._work is not None and counters.work > self._work:
            self._backend.post(life.Progressed(generation.number))
        self._work = counters.work

    async def _measure(self) -> None:
        """What the tree uses; memory that grows while loading is a sign that it loads."""
        now = self._clock.monotonic()
        process = self._generation.process
        if process is None or now - self._usage_at < USAGE_EVERY_S:
            return
        self._usage_at = now
        usage = await process.usage()
        if not usage.pids:
            return
        self._generation.usage = usage
        if usage.rss > self._rss + GROWTH:
            self._rss = usage.rss
            if self._backend.state.phase is Phase.LOADING and self._backend.is_current(self._generation):
                self._backend.post(life.Progressed(self._generation.number))

    async def _get(self, path: str) -> HttpAnswer:
        return await self._probe.get(
            self._generation.host, self._generation.port, path, timeout=self._spec.probe_timeout_s
        )
