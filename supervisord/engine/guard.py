"""Watches over memory: performs what `core.guard` decides after each sample, and lets backends grow again."""

from collections.abc import Callable, Mapping

from supervisord.core import life
from supervisord.core.guard import Effect, GuardPolicy, GuardState, Move, Order, Resident, Strait, decide
from supervisord.core.memory import MIB, SWAP_WINDOW_S, GpuSample, Pressure
from supervisord.core.placement import HOST, Pool
from supervisord.core.record import EventKind
from supervisord.core.resizing import climb_due
from supervisord.core.state import Phase, Want
from supervisord.engine.backend import Backend
from supervisord.engine.dispatcher import Dispatcher
from supervisord.engine.growth import Growth
from supervisord.engine.journal import Journal
from supervisord.engine.placer import Placer
from supervisord.engine.sampler import Sampler
from supervisord.ports import Clock

_HOLDS = frozenset({Phase.STARTING, Phase.LOADING, Phase.READY, Phase.SUSPECT, Phase.DRAINING, Phase.STOPPING})
_MOVING = frozenset({Phase.DRAINING, Phase.STOPPING})
_NAMED = 3  # of the processes that hold most of a pool

Moved = Callable[[Order, Backend], None]


class Guard:
    """The only one that asks a backend to give up memory for the machine's sake."""

    def __init__(
        self,
        clock: Clock,
        journal: Journal,
        *,
        sampler: Sampler,
        dispatcher: Dispatcher,
        placer: Placer,
        moved: Moved,
        policy: GuardPolicy | None = None,
    ) -> None:
        self._clock = clock
        self._journal = journal
        self._sampler = sampler
        self._dispatcher = dispatcher
        self._placer = placer
        self._moved = moved
        self.policy = policy or GuardPolicy()
        self._backends: Mapping[str, Backend] = {}
        self._state = GuardState()
        self._growth = Growth()
        self._settled: dict[str, tuple[int, Mapping[str, int]]] = {}  # backend -> its generation, free bytes by pool
        self._paused: Mapping[str, str] = {}
        self._helpless: tuple[str, ...] = ()

    def watch_over(self, backends: Mapping[str, Backend]) -> None:
        """The backends that share the memory; the mapping may change later."""
        self._backends = backends

    def review(self) -> None:
        """Look at the latest sample, and do what it asks for."""
        now = self._clock.monotonic()
        pools = self._sampler.pools()
        straits = self._straits(pools)
        self._note_settled()
        self._growth.note(self._sampler.holdings, now)
        self._pause(now)
        before = self._state.sighted
        made = decide(self._state, straits, self._residents(), now, self.policy)
        self._state = made.state
        if made.effect is not None:
            self._tell_effect(made.effect)
        if made.order is not None:
            self._perform(made.order)
        self._tell_helpless(made.helpless, straits)
        if made.state.sighted.keys() - before.keys():
            self._sampler.look_now()  # nobody has to move before a second look agrees
        self._let_climb(pools, now)

    # --- what is ----------------------------------------------------------------------------------------------------

    def _straits(self, pools: Mapping[str, Pool]) -> list[Strait]:
        """Every pool that can be measured just now."""
        sampler = self._sampler
        free, began = sampler.free(), sampler.began_at
        pressing = sampler.pressing(HOST)
        straits = [Strait(HOST, HOST, pressing, free[HOST], began, lag_s=SWAP_WINDOW_S)] if HOST in free else []
        return straits + [self._card(gpu, pools[gpu.uuid], began) for gpu in sampler.gpus.gpus if gpu.uuid in free]

    def _card(self, gpu: GpuSample, pool: Pool, began: float) -> Strait:
        foreign = sorted(pool.foreign, key=lambda h: -(h.used or 0))
        return Strait(
            gpu.uuid,
            pool.label,
            self._sampler.pressing(gpu.uuid),
            gpu.free,
            began,
            theirs=sum(h.used or 0 for h in foreign) + pool.unexplained,
            short=max(0, self._sampler.vram_critical - gpu.free),
            who=", ".join(f"{h.name} (pid {h.pid}, {(h.used or 0) / MIB:.0f} MiB)" for h in foreign[:_NAMED]),
        )

    def _residents(self) -> list[Resident]:
        """Those whose memory can be had: nothing frees what one holds that cannot be killed."""
        tenants = {tenant.name: tenant.holds for tenant in self._placer.tenants()}
        return [
            self._resident(backend, tenants[backend.name])
            for backend in self._backends.values()
            if backend.state.phase in _HOLDS and backend.name in tenants
        ]

    def _resident(self, backend: Backend, holds: Mapping[str, int]) -> Resident:
        state = backend.state
        _, settled = self._settled.get(backend.name, (0, {}))
        return Resident(
            backend.name,
            idle=state.phase is Phase.READY and state.in_flight == 0,
            moving=state.phase in _MOVING,
            smaller=state.rung < backend.policy.rungs,
            priority=backend.spec.priority,
            last_used=backend.last_used,
            pinned=backend.spec.pinned,
            loading=state.phase in {Phase.STARTING, Phase.LOADING},
            holds=holds,
            settled=settled,
        )

    def _note_settled(self) -> None:
        """Once for each generation: what was free when it had taken its place."""
        free = self._sampler.free()
        for backend in self._backends.values():
            state = backend.state
            if state.phase is not Phase.READY or state.ready_since is None:
                continue
            known, _ = self._settled.get(backend.name, (0, {}))
            if known != state.generation and self._sampler.began_at > state.ready_since:
                self._settled[backend.name] = (state.generation, free)
        for name in self._settled.keys() - self._backends.keys():
            del self._settled[name]

    # --- what is done about it ---------------------------------------------------------------------------------------

    def _pause(self, now: float) -> None:
        """No new work where memory is critical; where it is tight, none for those that take more and more."""
        paused: dict[str, str] = {}
        for backend in self._backends.values():
            held = self._sampler.holdings.get(backend.name, {})
            for key in self._sampler.pools_of(backend):
                level, label = self._sampler.level(key), self._sampler.label(key)
                if level is Pressure.CRITICAL:
                    paused[backend.name] = f"{label} is short of memory"
                elif level is Pressure.TIGHT and self._growth.grows(backend.name, key, held.get(key, 0), now):
                    paused[backend.name] = f"{label} is tight, and it takes more and more"
        if paused != self._paused:
            self._tell_pause(paused)
            self._paused = paused
            self._dispatcher.pause(paused)

    def _perform(self, order: Order) -> None:
        backend = self._backends[order.name]
        self._moved(order, backend)
        if order.move is Move.EVICT:
            self._journal.tell(
                EventKind.EVICTED, f"{order.name} was asked to leave: {order.why}", backend=order.name, pool=order.pool
            )
            backend.post(life.StopAsked(f"left: {order.why}", Want.ON_DEMAND))
            return
        becomes = "come back smaller" if order.move is Move.SHRINK else "stay away, since it cannot be any smaller"
        self._journal.tell(
            EventKind.SHRUNK, f"{order.name} has to {becomes}: {order.why}", backend=order.name, pool=order.pool
        )
        backend.post(life.ShrinkAsked(order.why))

    def _let_climb(self, pools: Mapping[str, Pool], now: float) -> None:
        """One backend at a time, where its next larger size fits into what is measured free and nobody else waits."""
        if self._state.pending is not None or self._placer.anybody_waits:
            return
        for backend in self._backends.values():
            if climb_due(backend.state, backend.policy, now) and self._has_room(backend, pools):
                rung = backend.state.rung
                told = f"{backend.name} tries rung {rung - 1} again, after {now - backend.state.since:.0f} s on {rung}"
                self._journal.tell(EventKind.CLIMBED, told, backend=backend.name)
                backend.post(life.ClimbAsked("there is room for a larger footprint again"))
                return

    def _has_room(self, backend: Backend, pools: Mapping[str, Pool]) -> bool:
        held = self._sampler.holdings.get(backend.name, {})
        needs = self._placer.expected_on(backend.name, backend.state.rung - 1)
        for key in self._sampler.pools_of(backend):
            pool = pools.get(key)
            if pool is None or pool.problem or self._sampler.level(key) is not Pressure.OK:
                return False
            if pool.free + held.get(key, 0) < needs.get(key, 0) + pool.reserve:
                return False
        return True

    # --- telling -----------------------------------------------------------------------------------------------------

    def _tell_effect(self, effect: Effect) -> None:
        move, name = effect.pending.move, effect.pending.name
        freed = f"{effect.freed / MIB:.0f} MiB more are free" if effect.freed > 0 else "no more is free"
        late = "; it has not come to an end, and is not waited for any longer" if effect.late else ""
        self._journal.tell(
            EventKind.GUARD,
            f"{move} of {name}: {freed} after {effect.took_s:.1f} s{late}",
            backend=name,
            pool=effect.pending.pool,
            freed_bytes=effect.freed,
            took_s=effect.took_s,
        )

    def _tell_helpless(self, helpless: tuple[str, ...], straits: list[Strait]) -> None:
        if helpless == self._helpless:
            return
        self._helpless = helpless
        for strait in straits:
            if strait.key in helpless:
                who = f"; it is held by {strait.who}" if strait.who else ""
                told = f"{strait.label} is short of memory, and no backend of ours can free enough of it{who}"
                self._journal.tell(EventKind.GUARD, told, pool=strait.key)

    def _tell_pause(self, paused: Mapping[str, str]) -> None:
        if paused:
            why = "; ".join(sorted(set(paused.values())))
            self._journal.tell(EventKind.DISPATCH_PAUSED, f"no new work for {', '.join(paused)}: {why}")
        else:
            self._journal.tell(EventKind.DISPATCH_RESUMED, "work is dispatched again")
