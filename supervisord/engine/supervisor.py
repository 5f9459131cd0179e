"""The daemon's life: start, serve, drain, stop, in an order that loses nothing and leaves nothing behind."""

import asyncio
from collections.abc import Callable

from supervisord.core import life
from supervisord.core.errors import DrainingError, NotFoundError
from supervisord.core.hang import busiest
from supervisord.core.job import FailureReason
from supervisord.core.queue import JobQueue
from supervisord.core.record import EventKind
from supervisord.core.routing import Routes
from supervisord.core.state import DOWN, Phase, Want
from supervisord.engine.backend import Backend
from supervisord.engine.dispatcher import Dispatcher
from supervisord.engine.footprints import Footprints
from supervisord.engine.gateway import Gateway
from supervisord.engine.guard import Guard
from supervisord.engine.history import History
from supervisord.engine.incidents import Incidents
from supervisord.engine.journal import Journal
from supervisord.engine.placer import Placer
from supervisord.engine.sampler import Sampler
from supervisord.engine.settings import Ports, Settings
from supervisord.engine.sizing import Sizing
from supervisord.engine.stopping import RELEASE_LIMIT_S
from supervisord.engine.tasks import Tasks
from supervisord.engine.watchdog import Watchdog
from supervisord.engine.world import Hooks, World
from supervisord.runtimes.base import BackendSpec
from supervisord.runtimes.reload import ReloadReport, changes

LAST_WORDS_S = 1.0  # for requests that are ended to tell their clients


class Supervisor:
    """Owns every part of the engine. `run` returns when everything is down."""

    def __init__(self, ports: Ports, settings: Settings, *, new_id: Callable[[], str]) -> None:
        self.ports = ports
        self.settings = settings
        self.started_at = ports.clock.monotonic()
        self.journal = Journal(ports.store, ports.clock)
        self.dispatcher = Dispatcher(JobQueue(settings.queue), ports.clock)
        self.sampler = Sampler(ports.memory, ports.clock, self.journal, settings.memory)
        self.history = History(self.sampler, ports.clock)
        self.incidents = Incidents(
            ports.store,
            ports.clock,
            self.journal,
            self.history,
            new_id=new_id,
            in_flight=self.dispatcher.serving,
        )
        self.footprints = Footprints(ports.store, ports.files, ports.clock)
        self.placer = Placer(
            ports.clock,
            self.journal,
            sampler=self.sampler,
            dispatcher=self.dispatcher,
            footprints=self.footprints,
            policy=settings.placement,
        )
        self.guard = Guard(
            ports.clock,
            self.journal,
            sampler=self.sampler,
            dispatcher=self.dispatcher,
            placer=self.placer,
            moved=self.incidents.moved,
        )
        self.gateway = Gateway(
            self.dispatcher,
            ports.upstream,
            ports.store,
            self.journal,
            ports.clock,
            sizing=Sizing(ports.probe),
            new_id=new_id,
            hardware=self.sampler.hardware,
            policy=settings.gateway,
        )
        self.backends: dict[str, Backend] = {}
        self._phases: dict[str, Phase] = {}
        self._stop = asyncio.Event()
        self._changed = asyncio.Event()
        self._hurry = False
        self._loops: list[asyncio.Task[None]] = []
        self.draining = False

    @property
    def routes(self) -> Routes:
        """The models as clients see them."""
        return self.dispatcher.outlook.routes

    def backend(self, name: str) -> Backend:
        """Raises NotFoundError."""
        if name not in self.backends:
            known = ", ".join(self.backends) or "none is configured"
            raise NotFoundError(f'There is no backend "{name}"; there are: {known}.', param="name")
        return self.backends[name]

    def tell_operator(self, verb: str, backend: str) -> None:
        """Record that somebody asked for something by hand."""
        self.journal.tell(EventKind.OPERATOR, f"an operator asked to {verb} {backend}", backend=backend)

    async def wait_for(self, reached: Callable[[], bool], timeout_s: float) -> bool:
        """Whether a condition on the backends came true within `timeout_s` seconds."""
        limit = self.ports.clock.monotonic() + timeout_s
        while not reached():
            if self.ports.clock.monotonic() >= limit:
                return False
            await self._wait_for_change(limit)
        return True

    async def open(self, group: asyncio.TaskGroup) -> None:
        """Open the store, clear what an earlier life left, and build the backends; nothing is started yet.

        Raises StateFolderError when the store cannot be used.
        """
        recovery = await self.ports.store.open()
        tasks = self.tasks = Tasks(group)
        killed = await self.ports.processes.kill_leftovers()
        await self.footprints.open()
        self._world = World(
            clock=self.ports.clock,
            processes=self.ports.processes,
            probe=self.ports.probe,
            kernel=self.ports.kernel,
            tasks=tasks,
            journal=self.journal,
            released=self.sampler.released,
            look_now=self.sampler.look_now,
            places=self.placer,
            observe=self.footprints.observe,
            look_at=self.footprints.look_at,
            headroom=lambda: self.sampler.vram_reserve,
            quantization=self.footprints.quantization,
            surroundings=self.sampler.surroundings,
            gpu_load=lambda spec, pids: busiest(self.sampler.gpus, self.sampler.gpus_of(spec), pids),
            jobs_wait=lambda name: self.dispatcher.outlook.waiting_for(name).queued > 0,
            examiner=self.ports.examiner,
        )
        self._hooks = Hooks(
            granted=self.dispatcher.granted,
            refused=self.dispatcher.refused,
            fail=self.dispatcher.fail_leases,
            changed=self._backend_changed,
            entered=self.incidents.changed,
        )
        for spec in self.settings.backends:
            await self.footprints.look_at(spec)
            self._backend_for(spec)
        self.dispatcher.serve_with(self.backends, self.placer, self._changed.set)
        self.dispatcher.route_by(Routes(self.settings.routes, self.settings.default_route))
        self.sampler.watch_over(self.backends)
        self.sampler.sampled = self._sampled
        self.guard.watch_over(self.backends)
        self.placer.watch_over(self.backends)
        self.journal.tell(
            EventKind.DAEMON_STARTED,
            f"started with {len(self.backends)} backends",
            backends=list(self.backends),
            abandoned_jobs=recovery.abandoned,
        )
        for sentence in killed:
            self.journal.tell(EventKind.ORPHANS, sentence)
        for note in recovery.notes:
            self.journal.tell(EventKind.STORE, note)
        await self.sampler.sample()

    def _sampled(self) -> None:
        self.history.note()
        self.guard.review()
        self.placer.sampled()

    async def start(self) -> None:
        """Start what the configuration wants up, and what watches over it."""
        tasks = self.tasks
        watchdog = Watchdog(self.ports.clock, self.ports.notifier, self.ports.store, self.sampler)
        self._loops = [
            tasks.loop(self.sampler.run(), "sampler"),
            tasks.loop(self.placer.run(), "placer"),
            tasks.loop(watchdog.run(), "watchdog"),
        ]
        for backend in self.backends.values():
            if backend.spec.autostart:
                backend.post(life.StartAsked("configured to run"))
        self.ports.notifier.ready()
        self._tell_manager()

    def request_stop(self, *, at_once: bool = False) -> None:
        """Begin to go down: drain, then stop. `at_once` ends a drain that is going on."""
        self._stop.set()
        self._hurry = self._hurry or at_once
        self._changed.set()

    async def run_until_stopped(self) -> None:
        """Returns once somebody asked to stop."""
        await self._stop.wait()

    # --- another configuration ---------------------------------------------------------------------------------------

    async def reload(self, settings: Settings) -> ReloadReport:
        """Make `settings` the ones in force: backends that are not touched keep their process and their requests.

        Returns once everything is decided, not once every changed backend is up again. Raises DrainingError.
        """
        made = changes(self.settings.backends, settings.backends)
        for spec in (*made.added, *made.changed):
            await self.footprints.look_at(spec)  # before anything is changed: a stop may overtake us only here
        if self.draining:
            raise DrainingError("The daemon is going down, and reads no configuration any more.")
        self.settings = settings
        self.dispatcher.queue.limit_by(settings.queue)
        self.sampler.limit_by(settings.memory)
        self.gateway.serve_by(settings.gateway)
        self.placer.policy = settings.placement
        added = [self._backend_for(spec) for spec in made.added]
        self.dispatcher.route_by(Routes(settings.routes, settings.default_route))
        for spec in made.adjusted:
            self.backends[spec.name].reconfigure(spec, restart=False)
        for spec in made.changed:
            self.backends[spec.name].reconfigure(spec, restart=True)
        for backend in added:
            if backend.spec.autostart:
                backend.post(life.StartAsked("added to the configuration"))
        for spec in made.removed:
            self.backends[spec.name].post(life.StopAsked("removed from the configuration", Want.DOWN))
            self.tasks.bounded(self._forget(self.backends[spec.name]), f"forget {spec.name}")
        self.placer.touch()
        return ReloadReport.of(made)

    def _backend_for(self, spec: BackendSpec) -> Backend:
        """A new backend; or one that was removed and has not ended yet, to come back as described now."""
        leaving = self.backends.get(spec.name)
        if leaving is not None:
            leaving.reconfigure(spec, restart=True)
            leaving.post(life.Readmitted("it is back in the configuration"))
            return leaving
        made = self.backends[spec.name] = Backend(spec, self._world, self._hooks)
        return made

    async def _forget(self, backend: Backend) -> None:
        """Let a backend that is no longer configured finish, then drop it. One that was added again is another."""
        limit = self.ports.clock.monotonic() + self._longest_stop() + RELEASE_LIMIT_S
        while backend.state.phase not in DOWN and self.ports.clock.monotonic() < limit:
            await self._wait_for_change(limit)
        if backend.state.phase not in DOWN:
            return  # it cannot be killed: it goes on being shown for what it is
        if self.backends.get(backend.name) is backend and backend.name not in {s.name for s in self.settings.backends}:
            del self.backends[backend.name]
            backend.close()

    # --- going down --------------------------------------------------------------------------------------------------

    async def drain(self) -> None:
        """Take nothing new, finish what is in flight within the limit, end the rest with a reason."""
        self.draining = True
        self.ports.notifier.stopping()
        self.journal.tell(
            EventKind.DAEMON_STOPPING,
            f"going down: {self.dispatcher.in_flight} requests in flight, {len(self.dispatcher.queue)} waiting",
        )
        self.gateway.closed = "The daemon is going down and takes no new work."
        self.dispatcher.refuse_all(DrainingError(self.gateway.closed, retry_after_s=5))
        limit = self.ports.clock.monotonic() + self.settings.drain_s
        while self.dispatcher.in_flight and self.ports.clock.monotonic() < limit and not self._hurry:
            await self._wait_for_change(limit)
        for backend in self.backends.values():
            self.dispatcher.fail_leases(
                backend.name, backend.state.generation, FailureReason.DRAINING, "the daemon is going down"
            )
        limit = self.ports.clock.monotonic() + LAST_WORDS_S
        while self.dispatcher.in_flight and self.ports.clock.monotonic() < limit:
            await self._wait_for_change(limit)

    async def stop(self) -> None:
        """Stop every backend and wait until nothing of them is left."""
        for backend in self.backends.values():
            backend.post(life.StopAsked("the daemon is going down", Want.DOWN))
        limit = self.ports.clock.monotonic() + self._longest_stop()
        while any(not _is_down(b) for b in self.backends.values()) and self.ports.clock.monotonic() < limit:
            await self._wait_for_change(limit)

    async def close(self) -> None:
        """End what watches, kill what is left of any process, commit every record."""
        for loop in self._loops:
            loop.cancel()
        self.placer.close()
        self.incidents.close()
        for backend in self.backends.values():
            backend.close()
        await self.ports.processes.close()
        self.tasks.close()
        await self.ports.upstream.close()
        await self.ports.probe.close()
        self.ports.memory.close()
        await self.ports.store.close()

    def _longest_stop(self) -> float:
        return max(
            (b.spec.life.drain_s + b.spec.life.term_s + b.spec.life.kill_s + 5.0 for b in self.backends.values()),
            default=0.0,
        )

    async def _wait_for_change(self, limit: float) -> None:
        self._changed.clear()
        try:
            async with asyncio.timeout(max(0.0, min(1.0, limit - self.ports.clock.monotonic()))):
                await self._changed.wait()
        except TimeoutError:
            return

    # --- telling -----------------------------------------------------------------------------------------------------

    def _backend_changed(self, name: str) -> None:
        self._changed.set()
        backend = self.backends.get(name)
        if backend is None:
            return
        if backend.state.phase is Phase.STOPPING and backend.generation is not None:
            self.ports.upstream.forget(backend.generation.address)
        self.dispatcher.pump()
        if self._phases.get(name) is backend.state.phase:
            self.placer.touch()
        else:  # it may have taken memory, or given some back
            self._phases[name] = backend.state.phase
            self.placer.changed()
        self._tell_manager()

    def _tell_manager(self) -> None:
        phases = ", ".join(f"{b.name} {b.state.phase}" for b in self.backends.values())
        self.ports.notifier.status(phases or "no backends configured")

    def degraded(self) -> list[str]:
        """What does not work as it should, in words; empty while all is well."""
        problems = []
        store = self.ports.store.state()
        if store.problem:
            problems.append(f"store: {store.problem}")
        if self.sampler.host_problem:
            problems.append(f"host memory: {self.sampler.host_problem}")
        for backend in self.backends.values():
            generation = backend.generation
            if generation is not None and generation.process is not None:
                log = generation.process.log_state()
                if log.degraded:
                    problems.append(f"log of {backend.name}: {log.degraded}")
        return problems


def _is_down(backend: Backend) -> bool:
    return backend.state.phase in DOWN or backend.state.phase is Phase.UNKILLABLE
