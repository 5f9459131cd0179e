"""Performs what `core.backend` decides for one backend: spawns, watches, kills, and tells what it saw as events."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from supervisord.core import ladder, life
from supervisord.core.errors import SpawnError
from supervisord.core.exits import AskedFor, CauseKind, ExitCause, ExitEvidence, classify
from supervisord.core.job import FailureReason
from supervisord.core.life import ALIVE, BackendState, Phase, Want
from supervisord.core.record import EventKind
from supervisord.engine.actor import BackendActor
from supervisord.engine.generation import Generation
from supervisord.engine.journal import Journal
from supervisord.engine.launch import Launcher
from supervisord.engine.tasks import Tasks
from supervisord.engine.watch import Watch
from supervisord.ports import Clock, HealthProbe, KernelLog, ManagedProcess, ProcessHost
from supervisord.runtimes.base import BackendSpec, Runtime

LOG_LINES = 200  # of the log's end that the verdict on an exit looks at
RELEASE_LIMIT_S = 30.0  # for the driver to give memory back after the last process ended; seen: 0.3 to 5 s
RELEASE_POLL_S = 0.25


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


@dataclass(frozen=True, slots=True)
class Hooks:
    """Whom a backend tells: the dispatcher."""

    granted: Callable[[str, str, int], None]  # job, backend, generation
    refused: Callable[[str, str], None]  # job, backend
    fail: Callable[[str, int, FailureReason, str], None]  # backend, generation: everything in flight there
    changed: Callable[[str], None]


class _Output:
    """`ports.ProcessEvents` of one generation. Holds back an end that comes before the start has been told."""

    def __init__(self, backend: "Backend", generation: Generation) -> None:
        self._backend = backend
        self._generation = generation
        self._held: list[Callable[[], None]] | None = []

    def exited(self, status: int) -> None:
        self._tell(partial(self._backend.leader_exited, self._generation, status))

    def tree_gone(self) -> None:
        self._tell(partial(self._backend.tree_gone, self._generation))

    def _tell(self, call: Callable[[], None]) -> None:
        if self._held is None:
            call()
        else:
            self._held.append(call)

    def release(self) -> None:
        """The start has been told."""
        held, self._held = self._held, None
        for call in held or ():
            call()

    def output(self, line: str) -> None:
        self._backend.printed(self._generation, line)


class Backend:
    """One configured backend. Events go in by `post`; everybody else reads `state` and `generation`."""

    def __init__(self, spec: BackendSpec, runtime: Runtime, world: World, hooks: Hooks) -> None:
        self.spec = spec
        self.runtime = runtime
        self._world = world
        self._hooks = hooks
        self._launcher = Launcher(spec, runtime, world.processes)
        self._whole_context: int | None = None  # what the server takes by itself where no context is configured
        self._rungs = self._useful_rungs()
        self.generation: Generation | None = None
        self._last_words: list[str] = []  # of the generation before this one
        self.last_used = world.clock.monotonic()
        self.tokens_per_second: float | None = None
        self.log_followers: set[Callable[[str], None]] = set()
        want = Want.UP if spec.autostart else Want.ON_DEMAND
        state = BackendState(want=want, since=world.clock.monotonic())
        policy = replace(spec.life, rungs=len(self._rungs))
        self._actor = BackendActor(state, policy, world.clock, self._perform, self._changed)

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def state(self) -> BackendState:
        return self._actor.state

    @property
    def rungs(self) -> tuple[ladder.Rung, ...]:
        return self._rungs

    def footprint_on(self, rung: int) -> ladder.Footprint:
        """The memory settings of a rung; 0 is as configured."""
        return ladder.apply(self.spec.footprint, self._rungs, rung, trained_context=self._whole_context)

    def _useful_rungs(self) -> tuple[ladder.Rung, ...]:
        rungs = self.runtime.ladder if self.spec.rungs is None else self.spec.rungs
        return ladder.useful_rungs(self.spec.footprint, rungs, trained_context=self._whole_context)

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
                if (process := self._process_of(number)) is not None:
                    process.kill()
            case life.GrantLease(job_id=job_id, generation=number):
                self.last_used = self._world.clock.monotonic()
                self._hooks.granted(job_id, self.name, number)
            case life.RefuseLease(job_id=job_id):
                self._hooks.refused(job_id, self.name)
            case life.FailLeases(generation=number, reason=reason, detail=detail):
                self._hooks.fail(self.name, number, reason, detail)

    async def _spawn(self, number: int, rung: int) -> None:
        clock = self._world.clock
        footprint = self.footprint_on(rung)
        generation = Generation(number, rung, footprint, self.spec.host, self.spec.port)
        generation.last_bytes = clock.monotonic()
        generation.oom_kills_before = self._world.kernel.oom_kills()
        self._last_words = self.tail(LOG_LINES)
        self.generation = generation
        output = _Output(self, generation)
        try:
            prepared = await self._launcher.prepare(number, footprint)
            generation.port = prepared.port
            generation.process = await self._world.processes.spawn(prepared.spec, output)
        except SpawnError as error:
            evidence = ExitEvidence(None, spawn_error=error.message, spawn_permanent=error.permanent)
            cause = classify(evidence, self.runtime.signatures)
            self.post(life.SpawnFailed(number, cause, random.random()))  # noqa: S311 - jitter, not a secret
            return
        self.post(life.Spawned(number))
        output.release()
        watch = Watch(self, generation, spec=self.spec, runtime=self.runtime, clock=clock, probe=self._world.probe)
        self._world.tasks.bounded(watch.run(), f"watch {self.name} {number}")

    def _process_of(self, number: int) -> ManagedProcess | None:
        generation = self.generation
        return generation.process if generation is not None and generation.number == number else None

    def _terminate(self, number: int) -> None:
        generation, process = self.generation, self._process_of(number)
        if generation is None or process is None:
            return
        cause = self.state.cause
        match None if cause is None else cause.kind:
            case CauseKind.HANG:
                generation.asked = AskedFor.HANG
            case CauseKind.LOAD_STALL:
                generation.asked = AskedFor.STALL
            case _:
                generation.asked = AskedFor.STOP
        process.terminate()

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
        pids = frozenset({generation.pid or 0, *(generation.usage.pids if generation.usage else ())})
        evidence = ExitEvidence(
            status,
            asked=generation.asked,
            was_ready=generation.was_ready,
            log=log,
            kernel_oom_kills=self._oom_kills_since(generation),
            kernel_named_us=self._world.kernel.named(pids) if status == -9 else None,
        )
        cause = classify(evidence, self.runtime.signatures)
        self._tell_exit(generation, status, cause)
        self.post(life.Exited(generation.number, cause))

    def _oom_kills_since(self, generation: Generation) -> int | None:
        now = self._world.kernel.oom_kills()
        if now is None or generation.oom_kills_before is None:
            return None
        return now - generation.oom_kills_before

    def _tell_exit(self, generation: Generation, status: int, cause: ExitCause) -> None:
        self._world.journal.tell(
            EventKind.EXIT,
            f"{self.name} ended: {cause.summary}",
            backend=self.name,
            generation=generation.number,
            status=status,
            cause=cause.kind.value,
            permanent=cause.permanent,
            evidence=list(cause.evidence),
            log_tail=self.tail(20),
        )

    def tree_gone(self, generation: Generation) -> None:
        """No process of the tree is left: from here on only its memory can be missing."""
        self.post(life.TreeGone(generation.number))
        self._world.tasks.bounded(self._await_release(generation), f"release {self.name} {generation.number}")

    async def _await_release(self, generation: Generation) -> None:
        """Freed is what has been measured as free; a driver that tells nothing is not waited for."""
        clock = self._world.clock
        pids = frozenset(generation.usage.pids if generation.usage else ()) | {generation.pid or 0}
        gone_at = clock.monotonic()
        while not self._world.released(pids, gone_at) and clock.monotonic() < gone_at + RELEASE_LIMIT_S:
            generation.note = "waits for its VRAM to be measured free"
            self._world.look_now()
            await clock.sleep(RELEASE_POLL_S)
        self.post(life.Released(generation.number, random.random()))  # noqa: S311 - jitter, not a secret

    # --- what the watch sees -----------------------------------------------------------------------------------------

    def is_current(self, generation: Generation) -> bool:
        """Whether `generation` still has a process to be watched."""
        return generation is self.generation and (
            self.state.phase in ALIVE and self.state.generation == generation.number
        )

    def became_ready(self, generation: Generation) -> None:
        """The server answered, from a port of its own tree, and told who it is."""
        generation.was_ready = True
        if generation.rung == 0 and generation.identity.context_length is not None:
            self._learn_context(generation.identity.context_length)
        self.post(life.Answered(generation.number))

    def _learn_context(self, tokens: int) -> None:
        """Rungs that scale the context need one: what the server took by itself on rung 0 will do."""
        self._whole_context = tokens
        self._rungs = self._useful_rungs()
        self._actor.policy = replace(self._actor.policy, rungs=len(self._rungs))

    # --- telling -----------------------------------------------------------------------------------------------------

    def _changed(self, before: BackendState, after: BackendState) -> None:
        if before.phase is not after.phase or before.generation != after.generation:
            self._tell_phase(before, after)
        if before.rung != after.rung:
            self._tell_rung(before, after)
        # Leases come and go by the dispatcher's own doing: it knows.
        if before.phase is not after.phase or before.want is not after.want or before.rung != after.rung:
            self._hooks.changed(self.name)

    def _tell_phase(self, before: BackendState, after: BackendState) -> None:
        because = f": {after.reason}" if after.reason else ""
        self._world.journal.tell(
            EventKind.PHASE,
            f"{self.name} is {after.phase}{because}",
            backend=self.name,
            generation=after.generation,
            before=before.phase.value,
            phase=after.phase.value,
            rung=after.rung,
            restarts=after.restarts,
        )

    def _tell_rung(self, before: BackendState, after: BackendState) -> None:
        now = self.footprint_on(after.rung)
        step = self._rungs[after.rung - 1].describe() if after.rung else "as configured"
        self._world.journal.tell(
            EventKind.RUNG,
            f"{self.name} goes to rung {after.rung} ({step})",
            backend=self.name,
            generation=after.generation,
            before=before.rung,
            rung=after.rung,
            context_tokens=now.context,
            cache_type=now.cache_type,
            gpu_layers=now.gpu_layers,
        )
