"""Watches one generation: loading, readiness, liveness, progress, and what its tree uses."""

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from supervisord.core import hang, life
from supervisord.core.errors import ProbeError
from supervisord.core.exits import CauseKind, ExitCause
from supervisord.core.hang import Look, Sign
from supervisord.core.state import BackendState, LifePolicy, Phase
from supervisord.engine.generation import Generation
from supervisord.engine.lateness import Lateness
from supervisord.ports import Clock, HealthProbe, KernelLog
from supervisord.runtimes.base import BackendSpec, Counters, HttpAnswer, Readiness, Runtime

LOADING_POLL_S = 0.08  # a server that became ready is noticed within 100 ms
SUSPECT_POLL_S = 1.0
UNNAMED_LOOKS = 3  # the kernel counts a kill before it prints who was killed
USAGE_EVERY_S = 2.0
USAGE_WHILE_LOADING_S = 0.5  # a short load must not go by unmeasured: its peak is what is learned
GROWTH = 1024 * 1024  # bytes of memory that count as a sign of loading: less is noise of the allocator


class Watched(Protocol):
    """The backend that is watched."""

    @property
    def state(self) -> BackendState: ...

    @property
    def policy(self) -> LifePolicy: ...

    @property
    def known_context(self) -> int | None: ...

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
        kernel: KernelLog,
        gpu_load: Callable[[BackendSpec, frozenset[int]], float | None],
    ) -> None:
        self._kernel = kernel
        self._gpu_load = gpu_load
        self._oom_kills = generation.oom_kills_before
        self._unnamed = 0  # looks at the kernel's log in which a kill that it has counted was not found to be of ours
        self._preemptions: float | None = None
        self._lateness = Lateness()
        self._spec = spec
        self._runtime = runtime
        self._generation = generation
        self._clock = clock
        self._probe = probe
        self._backend = backend
        self._usage_at = 0.0
        self._rss = 0
        self.seen: Look | None = None  # what the next look at its work is compared with; None: it has none
        self._ready_path = runtime.ready_path(spec)

    async def run(self) -> None:
        """Returns once the generation has no process to be watched."""
        while self._backend.is_current(self._generation):
            if self._backend.state.phase is Phase.LOADING:
                await self._look_at_loading()
                await self._clock.sleep(self._loading_poll_s())
            else:
                await self._look_at_service()
                await self._clock.sleep(self._service_poll_s())

    def _service_poll_s(self) -> float:
        """One that missed a probe gets no work until it answers: it is asked often."""
        every = self._spec.probe_interval_s
        return every if self._backend.state.phase is Phase.READY else min(every, SUSPECT_POLL_S)

    def _loading_poll_s(self) -> float:
        return LOADING_POLL_S if self._runtime.has_process else self._spec.probe_interval_s

    async def _look_at_loading(self) -> None:
        await self._measure()
        try:
            answer = await self._get(self._ready_path)
        except ProbeError as error:
            self._give_up(CauseKind.CRASH, error.message)
            return  # nobody listens yet
        if not self._backend.is_current(self._generation):
            return
        told = f"answers {self._ready_path} with status {answer.status}"
        match self._runtime.readiness(self._spec, answer):
            case Readiness.READY:
                await self._check_ready()
            case Readiness.LOADING:
                self._generation.note = "loading the model" if answer.status == 503 else told
                self._give_up(CauseKind.CRASH, told)
            case Readiness.BROKEN:
                self._generation.note = told
                self._give_up(CauseKind.CONFIGURATION, told)

    def _give_up(self, kind: CauseKind, why: str) -> None:
        """An address that is not ours does not serve, and is not starting: ask later, or not before it is mended."""
        if self._runtime.has_process:
            return
        cause = ExitCause(kind, why, permanent=kind is CauseKind.CONFIGURATION)
        self._backend.post(life.Exited(self._generation.number, cause))

    async def _check_ready(self) -> None:
        """An answer proves something only when it comes from our own tree."""
        process = self._generation.process
        if process is None or not await process.owns_port(self._generation.port):
            self._generation.note = f"port {self._generation.port} is answered by a process that is not ours"
            return
        self._generation.note = ""
        self._generation.identity = self._runtime.identity(await self._identity_answers())
        await self._measure(again=True)
        self._backend.became_ready(self._generation)
        await self._look_at_load()

    async def _identity_answers(self) -> dict[str, HttpAnswer]:
        answers: dict[str, HttpAnswer] = {}
        for path in self._runtime.identity_paths:
            try:
                answers[path] = await self._get(path)
            except ProbeError:
                continue  # what it does not tell stays unknown
        return answers

    async def _look_at_service(self) -> None:
        generation, began = self._generation, self._clock.monotonic()
        try:
            answer = await self._get(self._ready_path)
        except ProbeError as error:
            late_s = self._clock.monotonic() - began - self._spec.probe_timeout_s
            if not self._lateness.excuses(late_s):
                self._backend.post(life.ProbeMissed(generation.number, error.message))
        else:
            self._lateness.met()
            if self._runtime.readiness(self._spec, answer) is Readiness.READY:
                self._answered()
            else:
                why = f"answered its probe with status {answer.status}"
                self._backend.post(life.ProbeMissed(generation.number, why))
        state = self._backend.state
        if state.in_flight or state.phase is Phase.SUSPECT:
            await self._look_for_progress()
        else:
            self.seen = None
        self._look_at_kernel()
        await self._measure()

    def _answered(self) -> None:
        if self._backend.state.phase is not Phase.READY:
            self._backend.post(life.Answered(self._generation.number))

    async def _look_for_progress(self) -> None:
        """Bytes that came for a client, else the server's own counters, else what it computes."""
        number, before = self._generation.number, self.seen
        now = await (self._look_at_flow() if before is not None and self._flows(before) else self._look_at_figures())
        sign = Sign.NOTHING if before is None else hang.sign(before, now)
        if sign is Sign.NOTHING and hang.demand_is_due(before, now, self._backend.policy):
            now = await self._with_demand(now)
            sign = Sign.NOTHING if before is None else hang.sign(before, now)
        elif sign is Sign.NOTHING and before is not None:
            now = replace(now, demand=before.demand, demand_at=before.demand_at)
        if sign is Sign.MOVED:
            self._backend.post(life.Progressed(number))
        elif sign is Sign.COMPUTES:
            self._backend.post(life.Computed(number))
        # CPU time is compared over a while; what has been seen to move is done with.
        if before is None or sign is not Sign.NOTHING or hang.cores(before, now) is not None or before.cpu_s is None:
            self.seen = now
        self.tell_patience()

    def tell_patience(self) -> None:
        """How much longer the longest prompt may take whose answer has not begun."""
        longest = max(self._generation.unanswered.values(), default=0)
        tokens = hang.within_context(longest, self._backend.known_context)
        seconds = hang.allowance(tokens, self._backend.policy)
        if seconds != self._backend.state.allowance_s:
            self._backend.post(life.Allowed(self._generation.number, seconds))

    def _flows(self, before: Look) -> bool:
        return self._generation.last_bytes > before.bytes_at or self._generation.slow_clients > 0

    async def _look_at_flow(self) -> Look:
        """What costs the server nothing, while it sends."""
        if self._admits_by_load:
            await self._look_at_load()
        generation = self._generation
        held = generation.slow_clients > 0
        return Look(self._clock.monotonic(), generation.last_bytes, held_by_client=held)

    async def look(self) -> Look:
        """All that tells whether it moves or computes."""
        return await self._with_demand(await self._look_at_figures())

    async def glance(self) -> Look:
        """The same without asking its server, which may not answer: it has a moment only."""
        await self._measure(again=True)
        return await self._with_demand(self._look_with(None))

    async def _with_demand(self, look: Look) -> Look:
        """On a crowded machine a server that computes may get next to nothing of its processors for minutes."""
        process = self._generation.process
        return look if process is None else replace(look, demand=await process.demand(), demand_at=look.at)

    async def _look_at_figures(self) -> Look:
        counters = await self._look_at_load()
        await self._measure(again=True)
        return self._look_with(counters)

    def _look_with(self, counters: Counters | None) -> Look:
        generation, usage = self._generation, self._generation.usage
        return Look(
            self._clock.monotonic(),
            generation.last_bytes,
            held_by_client=generation.slow_clients > 0,
            work=None if counters is None else counters.work,
            kv_used=None if counters is None else counters.kv_used,
            cpu_s=None if usage is None else usage.cpu_s,
            gpu=self._gpu_load(self._spec, generation.pids),
        )

    @property
    def _admits_by_load(self) -> bool:
        """Whether what the server says of its load decides how much it is given: then it is always asked."""
        return self._spec.slots > 1

    async def _look_at_load(self) -> Counters | None:
        """The server's own figures, for whoever hands out its slots; None where it tells none."""
        if not self._runtime.counters_path:
            return None
        try:
            counters = self._runtime.counters(await self._get(self._runtime.counters_path))
        except ProbeError:
            return None
        if counters is not None and self._admits_by_load:
            total = counters.preemptions or 0.0
            new = 0.0 if self._preemptions is None else max(0.0, total - self._preemptions)
            self._preemptions = total
            told = life.Measured(self._generation.number, counters.waiting or 0.0, new, counters.kv_tokens)
            self._backend.post(told)
        return counters

    def _look_at_kernel(self) -> None:
        """A worker that the kernel killed for memory: its leader may go on as if nothing had happened."""
        usage = self._generation.usage
        group = None if usage is None else usage.group
        if group is not None and group.oom_kills:  # its group is new: every kill that it counts is of this generation
            self._condemn(f"its control group counts {group.oom_kills} kills for lack of memory")
            return
        kills = self._kernel.oom_kills()
        if kills is None or kills == self._oom_kills:
            return
        before = self._oom_kills
        if before is not None and self._kernel.named(self._generation.pids):
            self._condemn(f"/proc/vmstat oom_kill rose by {kills - before}", "the kernel log names one of its pids")
        self._unnamed += 1
        if before is None or self._unnamed >= UNNAMED_LOOKS:
            self._oom_kills, self._unnamed = kills, 0

    def _condemn(self, *evidence: str) -> None:
        cause = ExitCause(
            CauseKind.KERNEL_OOM, "the kernel killed a process of it: host out of memory", evidence=evidence
        )
        self._backend.post(life.Condemned(self._generation.number, cause))

    async def _measure(self, *, again: bool = False) -> None:
        """What the tree uses; memory that grows while loading is a sign that it loads."""
        now = self._clock.monotonic()
        process = self._generation.process
        every = USAGE_EVERY_S if self._backend.state.phase is Phase.READY else USAGE_WHILE_LOADING_S
        if process is None or (now - self._usage_at < every and not again):
            return
        self._usage_at = now
        usage = await process.usage()
        if not usage.pids:
            return
        self._generation.usage = usage
        self._generation.names.update({**dict.fromkeys(usage.pids, ""), **usage.names})
        if usage.rss > self._rss + GROWTH:
            self._rss = usage.rss
            if self._backend.state.phase is Phase.LOADING and self._backend.is_current(self._generation):
                self._backend.post(life.Progressed(self._generation.number))

    async def _get(self, path: str) -> HttpAnswer:
        return await self._probe.get(self._generation.address, path, timeout=self._spec.probe_timeout_s)
