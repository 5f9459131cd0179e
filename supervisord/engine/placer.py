"""Gives backends their places in memory: asks `core.placement` for a plan after everything that could change it."""

import asyncio
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from enum import StrEnum

from supervisord.core import life
from supervisord.core.errors import SpawnError
from supervisord.core.footprint import Need
from supervisord.core.life import Phase, Want
from supervisord.core.placement import HOST, PlacementPolicy, Plan, Pool, Standing, Tenant, plan
from supervisord.core.record import EventKind
from supervisord.engine.backend import Backend
from supervisord.engine.dispatcher import Dispatcher
from supervisord.engine.footprints import Footprints
from supervisord.engine.journal import Journal
from supervisord.engine.sampler import Sampler
from supervisord.ports import Clock


class _Answer(StrEnum):
    """What became of a backend's wish for a place."""

    ADMITTED = "admitted"
    WITHDRAWN = "withdrawn"


_STANDING: Mapping[Phase, Standing] = {
    Phase.STOPPED: Standing.AWAY,
    Phase.BACKOFF: Standing.AWAY,
    Phase.PARKED: Standing.AWAY,
    Phase.STARTING: Standing.STARTING,
    Phase.LOADING: Standing.STARTING,
    Phase.READY: Standing.RESIDENT,
    Phase.SUSPECT: Standing.RESIDENT,
    Phase.DRAINING: Standing.LEAVING,
    Phase.STOPPING: Standing.LEAVING,
    Phase.UNKILLABLE: Standing.LEAVING,
}

SHORTEST_PAUSE_S = 0.005
LOOK_EVERY_S = 0.25  # while somebody waits: Ollama polls as often for memory that is being released

_NOT_WAITING = (False, False, "")
_FIGURES = re.compile(r"[0-9]+(?:\.[0-9]+)?")


class Placer:
    """The only one to say who may start. Everybody else asks, and is told."""

    def __init__(
        self,
        clock: Clock,
        journal: Journal,
        *,
        sampler: Sampler,
        dispatcher: Dispatcher,
        footprints: Footprints,
        policy: PlacementPolicy,
    ) -> None:
        self._clock = clock
        self._journal = journal
        self._sampler = sampler
        self._dispatcher = dispatcher
        self._footprints = footprints
        self.policy = policy
        self._backends: Mapping[str, Backend] = {}
        self._asking: dict[str, asyncio.Future[_Answer]] = {}
        self._insisted: set[str] = set()
        self._modest: set[str] = set()
        self._admitted: set[str] = set()
        self._lost: set[str] = set()  # GPUs that were told as lost
        self.pools: Mapping[str, Pool] = {}
        self.plan = Plan()
        self._changed = asyncio.Event()
        self._fresh_after = 0.0  # nobody is let in by what was measured before
        self._looked = 0.0  # when a fresh sample was last asked for

    def watch_over(self, backends: Mapping[str, Backend]) -> None:
        """The backends that share the memory; the mapping may change later."""
        self._backends = backends

    # --- asking ------------------------------------------------------------------------------------------------------

    async def admit(self, name: str) -> bool:
        """Wait for a backend's place: True once it may start, False when it is not needed there any more.

        Unbounded by intent: whoever has jobs waiting for it bounds the wait by their own time-outs, and gives up.
        Raises SpawnError, permanent, when it can never fit.
        """
        asked: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        self._asking[name] = asked
        self.changed()
        try:
            return await asked is _Answer.ADMITTED
        finally:
            if self._asking.get(name) is asked:
                del self._asking[name]

    def give_up(self, name: str) -> None:
        """A backend that waits for its place does not want it any more. Does nothing when it does not wait."""
        asked = self._asking.get(name)
        if asked is not None and not asked.done():
            asked.set_result(_Answer.WITHDRAWN)

    def insist(self, name: str) -> None:
        """An operator wants this backend up: idle ones make room for it."""
        self._insisted.add(name)
        self.touch()

    def wake(self, name: str, *, modest: bool, why: str) -> None:
        """A job needs a backend. `modest`: it would only help out others that serve the same."""
        if modest:
            self._modest.add(name)
        else:
            self._modest.discard(name)
        self._backends[name].post(life.WakeAsked(why))
        self.touch()

    # --- planning ----------------------------------------------------------------------------------------------------

    def changed(self) -> None:
        """Memory was taken or given back, or is asked for: what was measured before says nothing about it."""
        self._fresh_after = self._clock.monotonic()
        self._changed.set()

    def touch(self) -> None:
        """Something changed that could matter: plan again soon."""
        self._changed.set()

    def touch_if_waiting(self) -> None:
        """The same, where only those who wait for a place could care. Called for every request: it must be cheap."""
        if self._asking:
            self._changed.set()

    def sampled(self) -> None:
        """There is a fresh sample: what it shows of those who run is worth keeping, and may change the plan."""
        for backend in self._backends.values():
            generation = backend.generation
            if generation is not None and generation.was_ready:
                self._footprints.observe(backend.spec, generation)
        self.touch()

    async def run(self) -> None:
        """Plan for ever: after each change, and when time alone changes something."""
        while True:
            self.review()
            # A burst of changes is one change; a place is free for so long that this does not count.
            await self._clock.sleep(SHORTEST_PAUSE_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pause()):
                    await self._changed.wait()

    def _pause(self) -> float | None:
        """How long the plan may stand if nothing changes; None: as long as it likes."""
        if self.plan.look_again is None:
            return None
        return max(0.0, self.plan.look_again - self._clock.monotonic())

    def review(self) -> None:
        """Make a plan of what is known now, and set about it."""
        self._changed.clear()
        self._tell_lost()
        if self._asking and self._sampler.began_at < self._fresh_after:
            self._sampler.look_now()  # its end brings us back here, with whatever it could measure
            return
        self.pools = self._sampler.pools()
        made = plan(self.tenants(), self.pools, self._clock.monotonic(), self.policy)
        before, self.plan = self.plan, made
        self._tell_holds(before.hold, made.hold)
        self._perform(before, made)
        if made.hold and self._clock.monotonic() - self._looked >= LOOK_EVERY_S:
            self._looked = self._clock.monotonic()
            self._sampler.look_now()

    def _perform(self, before: Plan, made: Plan) -> None:
        self._dispatcher.close(made.close)
        for name, why in made.never.items():
            if (asked := self._asking.get(name)) is not None and not asked.done():
                asked.set_exception(SpawnError(f"{why}. Give it less to hold, or more memory.", permanent=True))
        for name, why in made.withdraw.items():
            self._backends[name].post(life.StopAsked(why, Want.ON_DEMAND))
        for name, why in made.leave.items():
            self._let_go(name, why)
        for name in made.admit:
            self._let_in(name)
        if made.blocked != before.blocked:  # whom to wait for may be another one now
            self._dispatcher.pump()

    def _let_go(self, name: str, why: str) -> None:
        self._journal.tell(EventKind.SWAP, f"{name} leaves: {why}", backend=name)
        self._backends[name].post(life.StopAsked(why, Want.ON_DEMAND))

    def _let_in(self, name: str) -> None:
        asked = self._asking.get(name)
        if asked is None or asked.done():
            return
        need = self.need_of(name)
        self._insisted.discard(name)
        self._modest.discard(name)
        self._journal.tell(
            EventKind.PLACED,
            f"{name} has its place",
            backend=name,
            expected_vram_bytes=need.vram,
            expected_ram_bytes=need.ram,
            sources=[need.vram_source.value, need.ram_source.value],
            free={pool.label: pool.free for pool in self.pools.values()},
        )
        self._admitted.add(name)
        asked.set_result(_Answer.ADMITTED)

    # --- what planning looks at --------------------------------------------------------------------------------------

    def tenants(self) -> list[Tenant]:
        """Every backend that takes memory here, as it is at this moment."""
        return [self._tenant(b) for b in self._backends.values() if b.runtime.has_process]

    def _tenant(self, backend: Backend) -> Tenant:
        name, state, spec = backend.name, backend.state, backend.spec
        standing = self.standing_of(backend)
        if standing in {Standing.RESIDENT, Standing.LEAVING}:
            self._insisted.discard(name)
        gpus = self._sampler.gpus_of(spec)
        need = self.need_of(name)
        expects = _spread(need.vram, gpus, spec.tensor_split)
        if need.ram:
            expects[HOST] = need.ram
        waiting = self._dispatcher.outlook.waiting_for(name)
        return Tenant(
            name=name,
            standing=standing,
            expects=expects,
            holds=self._holds(backend, standing, expects),
            turn=frozenset(gpus or (HOST,)),
            in_flight=state.in_flight,
            queued=waiting.queued,
            due=waiting.due,
            rank=waiting.rank,
            lasting=state.want is Want.UP,
            insisted=name in self._insisted,
            modest=name in self._modest and waiting.others_serve,
            pinned=spec.pinned,
            priority=spec.priority,
            idle_since=max(backend.last_used, state.ready_since or 0.0),
            ready_since=state.ready_since or 0.0,
            load_s=need.load_s,
            max_wait_s=spec.max_wait_s,
            min_residence_s=spec.min_residence_s,
            ttl_s=spec.ttl_s,
        )

    def standing_of(self, backend: Backend) -> Standing:
        """How a backend stands towards its place."""
        standing = _STANDING[backend.state.phase]
        if standing is not Standing.STARTING:
            self._admitted.discard(backend.name)
            return standing
        asked = self._asking.get(backend.name)
        if asked is not None and not asked.done():
            return Standing.WAITING
        return standing if backend.name in self._admitted else Standing.AWAY  # it has not asked yet

    def _holds(self, backend: Backend, standing: Standing, expects: Mapping[str, int]) -> Mapping[str, int]:
        if standing in {Standing.AWAY, Standing.WAITING}:
            return {}
        held = dict(self._sampler.holdings.get(backend.name, {}))
        if standing is Standing.RESIDENT and self._sampler.began_at > (backend.state.ready_since or 0.0):
            # A driver that lists no process of ours (containers, WSL) still counts their memory as used.
            for pool, expected in expects.items():
                if pool != HOST and not held.get(pool):
                    held[pool] = expected
        return held

    def need_of(self, name: str) -> Need:
        """What a backend takes on the rung it is on."""
        backend = self._backends[name]
        rung = backend.state.rung
        gpus = self._sampler.gpus_of(backend.spec)
        found = self._footprints.need(
            backend.spec,
            rung,
            backend.footprint_on(rung),
            gpus=self._sampler.totals(gpus),
            reserve=self._sampler.vram_reserve,
        )
        if gpus or not found.vram:
            return found
        # Without a GPU everything is in the host's memory.
        return replace(found, vram=None, ram=found.ram or found.vram)

    def held(self, name: str) -> str:
        """Why a backend waits for its place; empty when it does not."""
        return self.plan.hold.get(name, "") if name in self._asking else ""

    def start_of(self, name: str) -> tuple[bool, bool, str]:
        """See `dispatcher.Waker`."""
        if name not in self._asking:  # mostly; asked for every request
            return _NOT_WAITING
        return True, name in self._modest, self.held(name) if name in self.plan.blocked else ""

    # --- telling -----------------------------------------------------------------------------------------------------

    def _tell_holds(self, before: Mapping[str, str], now: Mapping[str, str]) -> None:
        for name, why in now.items():
            # The figures in it change with every sample; what it says does not.
            if _FIGURES.sub("#", before.get(name, "")) != _FIGURES.sub("#", why):
                self._journal.tell(EventKind.HELD, f"{name} waits for its place: {why}", backend=name)

    def _tell_lost(self) -> None:
        """A GPU that is gone takes its own backends with it, and nobody else."""
        lost = self._sampler.lost_gpus()
        for uuid, label in lost.items():
            if uuid in self._lost:
                continue
            for backend in self._backends.values():
                if backend.runtime.has_process and uuid in self._sampler.gpus_of(backend.spec):
                    backend.post(life.DeviceLost(f"{label} is lost"))
        self._lost = set(lost)

    def close(self) -> None:
        """Nobody waits for a place any more."""
        for name in list(self._asking):
            self.give_up(name)


def _spread(need: int | None, gpus: tuple[str, ...], split: tuple[float, ...]) -> dict[str, int]:
    """A need over several GPUs: by the configured split, else evenly."""
    if not need or not gpus:
        return {}
    shares = split if len(split) == len(gpus) else (1.0,) * len(gpus)
    whole = sum(shares)
    return {gpu: int(need * share / whole) for gpu, share in zip(gpus, shares, strict=True)}
