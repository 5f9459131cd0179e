"""The daemon's life: start, serve, drain, stop, in an order that loses nothing and leaves nothing behind."""

import asyncio
from collections.abc import Callable

from supervisord.core import life
from supervisord.core.errors import DrainingError, InvalidRequestError
from supervisord.core.hang import busiest
from supervisord.core.job import FailureReason
from supervisord.core.queue import JobQueue
from supervisord.core.record import EventKind
from supervisord.core.routing import Routes
from supervisord.core.state import Phase, Want
from supervisord.core.terms import OutputCheck
from supervisord.engine.backend import Backend
from supervisord.engine.background.responses import Responses
from supervisord.engine.batching.batches import Batches
from supervisord.engine.casualties import Casualties
from supervisord.engine.dispatcher import Dispatcher
from supervisord.engine.fleet import Fleet
from supervisord.engine.footprints import Footprints
from supervisord.engine.gateway import Gateway
from supervisord.engine.guard import Guard
from supervisord.engine.history import History
from supervisord.engine.incidents import Incidents
from supervisord.engine.journal import Journal
from supervisord.engine.permits import Permits
from supervisord.engine.placer import Placer
from supervisord.engine.sampler import Sampler
from supervisord.engine.served import Served
from supervisord.engine.settings import Ports, Settings
from supervisord.engine.sizing import Sizing
from supervisord.engine.tasks import Tasks
from supervisord.engine.tries import Tries
from supervisord.engine.watchdog import Watchdog
from supervisord.engine.work.durable import Durable
from supervisord.engine.world import Hooks, World
from supervisord.runtimes.reload import ReloadReport, changes

LAST_WORDS_S = 1.0  # for requests that are ended to tell their clients


class Supervisor:
    """Owns every part of the engine. `run` returns when everything is down."""

    def __init__(self, ports: Ports, settings: Settings, *, new_id: Callable[[], str]) -> None:
        self.ports = ports
        self.settings = settings
        self.new_id = new_id
        self.started_at = ports.clock.monotonic()
        self.journal = Journal(ports.store, ports.clock)
        self.permits = Permits()
        self.dispatcher = Dispatcher(JobQueue(settings.queue), ports.clock, self.permits)
        self.sampler = Sampler(ports.memory, ports.clock, self.journal, settings.memory)
        self.history = History(self.sampler, ports.clock)
        casualties = Casualties(ports.clock)
        self.incidents = Incidents(
            ports.store,
            ports.clock,
            self.journal,
            self.history,
            casualties=casualties,
            new_id=new_id,
            in_flight=self.dispatcher.leases.serving,
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
        self.tries = Tries(
            self.dispatcher,
            ports.upstream,
            ports.store,
            self.journal,
            ports.clock,
            hardware=self.sampler.hardware,
            broke_off=casualties.broke_off,
            policy=settings.gateway.tries,
        )
        sizing = Sizing(ports.probe)
        self.gateway = Gateway(
            self.dispatcher,
            self.tries,
            ports.store,
            self.journal,
            ports.clock,
            sizing=sizing,
            new_id=new_id,
            permits=self.permits,
            policy=settings.gateway,
        )
        self.durable = Durable(
            ports.store,
            self.dispatcher,
            self.tries,
            self.journal,
            ports.clock,
            sizing=sizing,
            outputs=ports.outputs,
            permits=self.permits,
            new_id=new_id,
            policy=settings.backlog,
        )
        self.responses = Responses(self.durable, ports.store, ports.clock, lambda: self.tasks)
        self.batches = Batches(
            ports.store,
            self.durable,
            self.journal,
            ports.clock,
            new_id=new_id,
            known=Served(self.dispatcher, self.permits).check,
            checkable=self.check_output,
        )
        self.files = self.batches.files
        self.fleet = Fleet(ports.clock)
        self.backends = self.fleet.backends
        self._phases: dict[str, Phase] = {}
        self._stop = asyncio.Event()
        self._hurry = False
        self._loops: list[asyncio.Task[None]] = []
        self.draining = False

    @property
    def routes(self) -> Routes:
        """The models as clients see them."""
        return self.dispatcher.outlook.routes

    def backend(self, name: str) -> Backend:
        """Raises NotFoundError."""
        return self.fleet.named(name)

    def tell_operator(self, verb: str, backend: str) -> None:
        """Record that somebody asked for something by hand."""
        self.journal.tell(EventKind.OPERATOR, f"an operator asked to {verb} {backend}", backend=backend)

    async def wait_for(self, reached: Callable[[], bool], timeout_s: float) -> bool:
        """Whether a condition on the backends came true within `timeout_s` seconds."""
        return await self.fleet.reached(reached, timeout_s)

    async def open(self, group: asyncio.TaskGroup) -> None:
        """Open the store, clear what an earlier life left, and build the backends; nothing is started yet.

        Raises StateFolderError when the store cannot be used.
        """
        recovery = await self.ports.store.open()
        tasks = self.tasks = Tasks(group)
        killed = await self.ports.processes.kill_leftovers()
        await self.footprints.open()
        world = World(
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
        hooks = Hooks(
            granted=self.dispatcher.granted,
            refused=self.dispatcher.refused,
            fail=self.dispatcher.leases.fail,
            changed=self._backend_changed,
            entered=self.incidents.changed,
        )
        self.fleet.equip(world, hooks)
        for spec in self.settings.backends:
            await self.footprints.look_at(spec)
            self.fleet.add(spec)
        self.dispatcher.serve_with(self.backends, self.placer, self.fleet.has_changed)
        self.dispatcher.route_by(Routes(self.settings.routes, self.settings.default_route))
        self.sampler.watch_over(self.backends)
        self.sampler.sampled = self._sampled
        self.guard.watch_over(self.backends)
        self.placer.watch_over(self.backends)
        await self.durable.open(tasks)
        await self.batches.open(tasks)
        self.journal.tell(
            EventKind.DAEMON_STARTED,
            f"started with {len(self.backends)} backends",
            backends=list(self.backends),
            abandoned_jobs=recovery.abandoned,
            requeued_jobs=recovery.requeued,
            given_up_jobs=recovery.given_up,
            waiting_jobs=self.durable.waiting,
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
            tasks.loop(self.batches.run(), "batches"),
        ]
        for backend in self.backends.values():
            if backend.spec.autostart:
                backend.post(life.StartAsked("configured to run"))
        self.durable.start()
        self.ports.notifier.ready()
        self._tell_manager()

    def request_stop(self, *, at_once: bool = False) -> None:
        """Begin to go down: drain, then stop. `at_once` ends a drain that is going on."""
        self._stop.set()
        self._hurry = self._hurry or at_once
        self.fleet.has_changed()

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
        self.durable.backlog.policy = settings.backlog
        added = [self.fleet.add(spec) for spec in made.added]
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
            self.tasks.bounded(self.fleet.forget(self.backends[spec.name], self._configured), f"forget {spec.name}")
        self.placer.touch()
        self.durable.backlog.touch()
        return ReloadReport.of(made)

    def _configured(self) -> set[str]:
        return {spec.name for spec in self.settings.backends}

    # --- the queue ---------------------------------------------------------------------------------------------------

    def pause_queue(self, why: str = "an operator paused the queue") -> None:
        """Begin nothing, of whomever, until `resume_queue` or the next start of the daemon; what runs goes on."""
        if self.dispatcher.held != why:
            self.dispatcher.hold(why)
            self.journal.tell(EventKind.DISPATCH_PAUSED, f"nothing is dispatched: {why}")

    def resume_queue(self) -> None:
        """Begin again what waits."""
        if self.dispatcher.held:
            self.dispatcher.hold("")
            self.journal.tell(EventKind.DISPATCH_RESUMED, "an operator resumed the queue")
            self.durable.backlog.touch()

    async def check_output(self, check: OutputCheck, endpoint: str, request: bytes, client: str) -> None:
        """Raises InvalidRequestError where an answer to `request` of `client` could not be checked as asked."""
        if self.ports.outputs is None:
            raise InvalidRequestError("This daemon cannot check answers.", param="validate_output")
        await self.ports.outputs.accepts(check, endpoint, request, client)

    # --- going down --------------------------------------------------------------------------------------------------

    async def drain(self) -> None:
        """Take nothing new, finish what is in flight within the limit, end the rest with a reason."""
        self.draining = True
        self.ports.notifier.stopping()
        self.journal.tell(
            EventKind.DAEMON_STOPPING,
            f"going down: {self.dispatcher.in_flight} requests in flight, {len(self.dispatcher.queue)} waiting",
        )
        self.tries.closed = "The daemon is going down and takes no new work."
        self.durable.stop(self.tries.closed)
        self.dispatcher.refuse_all(DrainingError(self.tries.closed, retry_after_s=5))
        limit = self.ports.clock.monotonic() + self.settings.drain_s
        while self.dispatcher.in_flight and self.ports.clock.monotonic() < limit and not self._hurry:
            await self.fleet.change(limit)
        for backend in self.backends.values():
            self.dispatcher.leases.fail(
                backend.name, backend.state.generation, FailureReason.DRAINING, "the daemon is going down"
            )
        limit = self.ports.clock.monotonic() + LAST_WORDS_S
        while self.dispatcher.in_flight and self.ports.clock.monotonic() < limit:
            await self.fleet.change(limit)
        await self.durable.close()

    async def stop(self) -> None:
        """Stop every backend and wait until nothing of them is left."""
        await self.fleet.stop()

    async def close(self) -> None:
        """End what watches, kill what is left of any process, commit every record."""
        await self.durable.close()
        for loop in self._loops:
            loop.cancel()
        self.placer.close()
        self.incidents.close()
        self.fleet.close()
        await self.ports.processes.close()
        self.tasks.close()
        await self.ports.upstream.close()
        await self.ports.probe.close()
        if self.ports.outputs is not None:
            await self.ports.outputs.close()
        self.ports.memory.close()
        await self.ports.store.close()

    # --- telling -----------------------------------------------------------------------------------------------------

    def _backend_changed(self, name: str) -> None:
        self.fleet.has_changed()
        backend = self.backends.get(name)
        if backend is None:
            return
        if backend.state.phase is Phase.STOPPING and backend.generation is not None:
            self.ports.upstream.forget(backend.generation.address)
        self.dispatcher.pump()
        self.durable.backlog.touch()
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
