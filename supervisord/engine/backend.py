"""Performs what `core.backend` decides for one backend: spawns, watches, kills, and tells what it saw as events."""

import random
from collections.abc import Callable
from dataclasses import replace

from supervisord.core import life
from supervisord.core.errors import SpawnError
from supervisord.core.exits import CauseKind, ExitCause, ExitEvidence, Signature, classify, out_of_memory
from supervisord.core.ladder import Footprint, Rung
from supervisord.core.state import ALIVE, DOWN, BackendState, LifePolicy, Phase, Want
from supervisord.engine import stopping, telling
from supervisord.engine.actor import BackendActor
from supervisord.engine.attendance import Attendance
from supervisord.engine.generation import Generation
from supervisord.engine.launch import Launcher
from supervisord.engine.output import Output
from supervisord.engine.remote import NoProcess
from supervisord.engine.scale import Scale
from supervisord.engine.verdict import verdict_on
from supervisord.engine.world import Hooks, World
from supervisord.ports import ManagedProcess
from supervisord.runtimes.base import BackendSpec, Runtime
from supervisord.runtimes.registry import RUNTIMES

LOG_LINES = 400  # of the log's end that the verdict on an exit looks at; vLLM tells a cause up to 120 before its end
LATENCY_WEIGHT = 0.3  # of the newest request in the running mean of the time to the first byte
NEVER_PARKED = 1_000_000  # failures: an address that is not ours may come back at any time, and costs nothing to ask


class Backend:
    """One configured backend. Events go in by `post`; everybody else reads `state` and `generation`."""

    def __init__(self, spec: BackendSpec, world: World, hooks: Hooks) -> None:
        self.spec = spec
        self.runtime: Runtime = RUNTIMES[spec.runtime]
        self._world = world
        self._hooks = hooks
        self._launcher = Launcher(spec, self.runtime, world.processes, world.headroom)
        self._scale = Scale(spec, self.runtime)
        self._next: BackendSpec | None = None  # in force from the next start on
        self.generation: Generation | None = None
        self._attendance: Attendance | None = None  # of this generation, once its process runs
        self._last_words: list[str] = []  # of the generation before this one
        self.last_used = world.clock.monotonic()
        self.tokens_per_second: float | None = None
        self.latency_s: float | None = None  # to the first byte, of late
        self.log_followers: set[Callable[[str], None]] = set()
        want = Want.UP if spec.autostart else Want.ON_DEMAND
        state = BackendState(want=want, since=world.clock.monotonic())
        self._actor = BackendActor(state, self._life_policy(), world.clock, self._perform, self._changed)

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def state(self) -> BackendState:
        return self._actor.state

    @property
    def policy(self) -> LifePolicy:
        return self._actor.policy

    @property
    def known_context(self) -> int | None:
        """Tokens one request may use here: as it said itself, else as configured; None while nobody knows."""
        generation = self.generation
        told = generation.identity.context_length if generation is not None else None
        return told or self.footprint_on(self.state.rung).context or self._scale.whole_context

    @property
    def rungs(self) -> tuple[Rung, ...]:
        return self._scale.rungs

    @property
    def rung_name(self) -> str:
        """The rung it is on, in words."""
        return self._scale.name_of(self.state.rung)

    def footprint_on(self, rung: int) -> Footprint:
        """The memory settings of a rung; 0 is as configured."""
        return self._scale.footprint_on(rung)

    def _life_policy(self) -> LifePolicy:
        policy = replace(self.spec.life, rungs=len(self._scale.rungs))
        if not self.runtime.has_process:
            policy = replace(policy, elsewhere=True, restart=replace(policy.restart, max_failures=NEVER_PARKED))
        return policy

    def reconfigure(self, spec: BackendSpec, *, restart: bool) -> None:
        """Another description of the same backend: at once where nothing has to be started anew for it."""
        # What waits for a start already waits on: the process that is there was not started as described now.
        at_once = self._next is None and not restart
        down, known = self.state.phase in DOWN, self._scale
        self._next = spec
        if at_once or down:
            self._take_next()
        if not restart:
            self._scale.remember(known)
            self._actor.policy = self._life_policy()
            return
        why = "its configuration changed"
        self.post(life.ResetAsked(why))  # it begins on its first rung; one that had failed is started
        if self.state.want is Want.UP and not down:
            self.post(life.RestartAsked(why))
        if self.state.want is Want.ON_DEMAND:  # the next request loads it as it is then
            self.post(life.StopAsked(why, Want.ON_DEMAND))

    def _take_next(self) -> None:
        if self._next is None:
            return
        self.spec, self._next = self._next, None
        self.runtime = RUNTIMES[self.spec.runtime]
        self._launcher = Launcher(self.spec, self.runtime, self._world.processes, self._world.headroom)
        self._scale = Scale(self.spec, self.runtime)
        self._actor.policy = self._life_policy()

    def used(self, *, first_byte_s: float | None) -> None:
        """A request ended here; `first_byte_s`: how long its first byte took, if it went well."""
        self.last_used = self._world.clock.monotonic()
        if first_byte_s is not None:
            mean = self.latency_s
            self.latency_s = first_byte_s if mean is None else mean + LATENCY_WEIGHT * (first_byte_s - mean)

    def post(self, event: life.Event) -> None:
        """Hand an event to the backend's inbox."""
        self._actor.post(event)

    def tail(self, lines: int) -> list[str]:
        """The last lines that this or, before it prints anything, the last generation printed."""
        process = self.generation.process if self.generation is not None else None
        now = [] if process is None else list(process.tail(lines))
        return now or self._last_words[-lines:]

    def close(self) -> None:
        """No timer fires any more."""
        self._actor.close()

    # --- effects -----------------------------------------------------------------------------------------------------

    def _perform(self, effect: life.Effect) -> None:
        match effect:
            case life.Spawn(generation=number, rung=rung):
                self._world.tasks.bounded(self._spawn(number, rung), f"spawn {self.name} {number}")
            case life.Terminate(generation=number):
                self._terminate(number)
            case life.Kill(generation=number):
                self._kill(number)
            case life.Diagnose():
                self._diagnose()
            case life.GrantLease(job_id=job_id, generation=number):
                self._hooks.granted(job_id, self.name, number)
            case life.RefuseLease(job_id=job_id):
                self._hooks.refused(job_id)
            case life.FailLeases(generation=number, reason=reason, detail=detail):
                self._hooks.fail(self.name, number, reason, detail)

    async def _spawn(self, number: int, rung: int) -> None:
        self._take_next()
        generation = self._new_generation(number, rung)
        output = Output(self, generation)
        try:
            if not self.runtime.has_process:
                generation.process = NoProcess(output)
            elif not await self._spawn_process(generation, output):
                left = ExitCause(CauseKind.ASKED, "it gave up its place before it started")
                self.post(life.SpawnFailed(number, left, random.random()))  # noqa: S311 - jitter, not a secret
                return
        except SpawnError as error:
            evidence = ExitEvidence(
                None, spawn_error=error.message, spawn_permanent=error.permanent, spawn_shortage=error.shortage
            )
            cause = classify(evidence, self._signatures_of(generation))
            self.post(life.SpawnFailed(number, cause, random.random()))  # noqa: S311 - jitter, not a secret
            return
        self.post(life.Spawned(number))
        output.release()
        self._attendance = Attendance(self, generation, self._world)

    def _diagnose(self) -> None:
        if self._attendance is not None:
            self._attendance.diagnose()

    def jobs_wait(self) -> bool:
        """Whether a job waits that it could serve."""
        return self._world.jobs_wait(self.name)

    def _new_generation(self, number: int, rung: int) -> Generation:
        address = self.runtime.address(self.spec, self.spec.port)
        generation = Generation(number, rung, self.footprint_on(rung), address, self.spec)
        generation.rung_name, generation.rung_why = self._scale.name_of(rung), self.state.rung_why if rung else ""
        generation.last_bytes = generation.spawned = self._world.clock.monotonic()
        generation.oom_kills_before = self._world.kernel.oom_kills()
        self._last_words = self.tail(LOG_LINES)
        self.generation, self._attendance = generation, None
        return generation

    async def _spawn_process(self, generation: Generation, output: Output) -> bool:
        """False when its place was given up while it waited for it. Raises SpawnError."""
        await self._launcher.check()
        await self._world.look_at(self.spec)  # its model's file may be another one by now
        if self.state.phase is not Phase.STARTING:  # asked to stop meanwhile, when there was no wish to give up yet
            return False
        if not await self._world.places.admit(self.name):
            return False
        prepared = await self._launcher.prepare(generation.number, generation.footprint)
        generation.address, generation.stop, generation.launched = prepared.address, prepared.stop, prepared.spec
        generation.spawned = self._world.clock.monotonic()
        generation.process = await self._world.processes.spawn(prepared.spec, output)
        return True

    def _process_of(self, number: int) -> ManagedProcess | None:
        generation = self.generation
        return generation.process if generation is not None and generation.number == number else None

    def _kill(self, number: int) -> None:
        self._world.places.give_up(self.name)
        if (process := self._process_of(number)) is not None:
            process.kill()

    def _terminate(self, number: int) -> None:
        self._world.places.give_up(self.name)
        generation = self.generation
        if generation is not None and generation.number == number:
            stopping.terminate(self.name, generation, self.state.cause, self._world)

    # --- what the process tells --------------------------------------------------------------------------------------

    def printed(self, generation: Generation, line: str) -> None:
        """A line of output: a sign of life while loading, at most one event a second."""
        now = self._world.clock.monotonic()
        if self.state.phase is Phase.LOADING and now - generation.output_told >= 1.0:
            generation.output_told = now
            self.post(life.Progressed(generation.number))
        for follower in self.log_followers:
            follower(line)

    def leader_exited(self, generation: Generation, status: int) -> None:
        """The verdict on an exit, from all that is known at this moment."""
        process = generation.process
        log = () if process is None else tuple(process.tail(LOG_LINES))
        around = self._world.surroundings(generation.described)
        verdict = verdict_on(generation, status, log, self._world.kernel, around)
        cause = self._known_better(verdict.cause)
        if cause.is_oom:
            self._scale.learn_fitting(log)
            self._actor.policy = self._life_policy()
        elif cause.permanent and self._scale.learn_refused(generation.rung, log):
            cause = replace(cause, permanent=False)  # the next start is another one: its ladder goes on without that
            self._actor.policy = self._life_policy()
        generation.status, generation.rules, generation.last_words = status, verdict.rules, log
        telling.end(self._world.journal, self.name, generation, status=status, cause=cause, log_tail=self.tail(20))
        self._world.observe(generation)
        self.post(life.Exited(generation.number, cause))

    def _known_better(self, cause: ExitCause) -> ExitCause:
        """What we ended it for is known with its evidence: how it then ended tells less."""
        known = self.state.cause
        return known if known is not None and self.state.phase is Phase.STOPPING and known.kind is cause.kind else cause

    @staticmethod
    def _signatures_of(generation: Generation) -> tuple[Signature, ...]:
        return RUNTIMES[generation.described.runtime].signatures(generation.described)

    def tree_gone(self, generation: Generation) -> None:
        """No process of the tree is left: from here on only its memory can be missing."""
        self.post(life.TreeGone(generation.number))
        self._world.tasks.bounded(self._await_release(generation), f"release {self.name} {generation.number}")

    async def _await_release(self, generation: Generation) -> None:
        self.post(await stopping.released(generation, self._world))

    def lacks_memory(self, generation: Generation) -> bool:
        """Whether the server, which answered with an error, has said since the last look that it got no memory.

        It lives, but would answer the next request no better: it is started again with a smaller footprint.
        """
        process = generation.process
        if process is None or not self.is_current(generation):
            return False
        lines = process.log_state().lines
        fresh = process.tail(min(LOG_LINES, lines - generation.lines_judged))
        generation.lines_judged = lines
        cause = out_of_memory(fresh, self._signatures_of(generation))
        if cause is not None:
            self.post(life.Condemned(generation.number, cause))
        return cause is not None

    # --- what the watch sees -----------------------------------------------------------------------------------------

    def is_current(self, generation: Generation) -> bool:
        """Whether `generation` still has a process to be watched."""
        return generation is self.generation and (
            self.state.phase in ALIVE and self.state.generation == generation.number
        )

    def became_ready(self, generation: Generation) -> None:
        """The server answered, from a port of its own tree, and told who it is."""
        generation.was_ready = True
        if generation.process is not None:  # what it met while loading, it coped with
            generation.lines_judged = generation.process.log_state().lines
        told = generation.identity
        generation.identity = replace(
            told,
            model=told.model or self.spec.upstream_model or None,
            quantization=told.quantization or self._world.quantization(self.spec),
        )
        generation.loaded_in = self._world.clock.monotonic() - generation.spawned
        self.last_used = self._world.clock.monotonic()
        self._world.observe(generation)
        if generation.rung == 0 and generation.identity.context_length is not None:
            self._scale.learn_context(generation.identity.context_length)
            self._actor.policy = self._life_policy()
        self._world.look_now()  # what it holds now is what its next start will need
        self.post(life.Answered(generation.number))

    # --- telling -----------------------------------------------------------------------------------------------------

    def _changed(self, before: BackendState, after: BackendState) -> None:
        journal = self._world.journal
        if after.in_flight and self._attendance is not None:
            self._attendance.disturb()
        if before.phase is not after.phase or before.generation != after.generation:
            telling.phase(journal, self.name, before, after)
            self._hooks.entered(self, before, after)
        if before.open_until is None and after.open_until is not None:
            telling.breaker(journal, self.name, after)
        if before.rung != after.rung:
            name = self._scale.name_of(after.rung)
            footprint = self.footprint_on(after.rung)
            telling.rung(journal, self.name, before=before, after=after, now=footprint, described=name)
        # Leases come and go by the dispatcher's own doing: it knows.
        if _shown(before) != _shown(after):
            self._hooks.changed(self.name)


def _shown(state: BackendState) -> tuple[object, ...]:
    """What others go by, besides the slots that they were given themselves."""
    breaker = state.on_trial, state.open_until
    return state.phase, state.want, state.rung, state.share, state.capacity, breaker
