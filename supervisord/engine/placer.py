"""Gives backends their places in memory: asks `core.placement` for a plan after everything that could change it."""

import asyncio
import re
from collections.abc import Mapping
from contextlib import suppress

from supervisord.core import life
from supervisord.core.errors import SpawnError
from supervisord.core.footprint import Need
from supervisord.core.placement import PlacementPolicy, Plan, Pool, Standing, Tenant, plan
from supervisord.core.record import EventKind
from supervisord.core.state import Want
from supervisord.engine.backend import Backend
from supervisord.engine.census import Census
from supervisord.engine.dispatcher import Dispatcher
from supervisord.engine.footprints import Footprints
from supervisord.engine.journal import Journal
from supervisord.engine.sampler import Sampler
from supervisord.engine.wishes import Answer, Wishes
from supervisord.ports import Clock

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
        self._wishes = Wishes()
        self._census = Census(self._wishes, sampler, dispatcher.outlook, footprints)
        self._lost: set[str] = set()  # GPUs that were told as lost
        self.pools: Mapping[str, Pool] = {}
        self.plan = Plan()
        self._changed = asyncio.Event()
        self._contradicted: set[tuple[str, str]] = set()
        self._fresh_after = 0.0  # nobody is let in by what was measured before
        self._looked = 0.0  # when a fresh sample was last asked for

    def watch_over(self, backends: Mapping[str, Backend]) -> None:
        """The backends that share the memory; the mapping may change later."""
        self._backends = self._census.backends = backends

    # --- asking ------------------------------------------------------------------------------------------------------

    async def admit(self, name: str) -> bool:
        """Wait for a backend's place: True once it may start, False when it is not needed there any more.

        Unbounded by intent: whoever has jobs waiting for it bounds the wait by their own time-outs, and gives up.
        Raises SpawnError, permanent, when it can never fit.
        """
        asked: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._wishes.asking[name] = asked
        self.changed()
        try:
            return await asked is Answer.ADMITTED
        finally:
            if self._wishes.asking.get(name) is asked:
                del self._wishes.asking[name]

    def give_up(self, name: str) -> None:
        """A backend that waits for its place does not want it any more. Does nothing when it does not wait."""
        asked = self._wishes.asking.get(name)
        if asked is not None and not asked.done():
            asked.set_result(Answer.WITHDRAWN)

    def insist(self, name: str) -> None:
        """An operator wants this backend up: idle ones make room for it."""
        self._wishes.insisted.add(name)
        self.touch()

    def wake(self, name: str, *, modest: bool, why: str) -> None:
        """A job needs a backend. `modest`: it would only help out others that serve the same."""
        if modest:
            self._wishes.modest.add(name)
        else:
            self._wishes.modest.discard(name)
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
        if self._wishes.asking:
            self._changed.set()

    def sampled(self) -> None:
        """There is a fresh sample: what it shows of those who run is worth keeping, and may change the plan."""
        for backend in self._backends.values():
            generation = backend.generation
            if generation is not None and generation.was_ready:
                self._footprints.observe(generation)
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
        moments = [] if self.plan.look_again is None else [self.plan.look_again]
        if self.plan.hold:
            moments.append(self._looked + LOOK_EVERY_S)
        return max(0.0, min(moments) - self._clock.monotonic()) if moments else None

    def review(self) -> None:
        """Make a plan of what is known now, and set about it."""
        self._changed.clear()
        self._wishes.settle(self._backends)
        self._tell_lost()
        if self._wishes.asking and self._sampler.began_at < self._fresh_after:
            self._sampler.look_now()  # its end brings us back here, with whatever it could measure
            return
        self.pools = self._sampler.pools()
        made = plan(self.tenants(), self.pools, self._clock.monotonic(), self.policy)
        before, self.plan = self.plan, made
        now = self._clock.monotonic()
        self._census.closed_since = {name: self._census.closed_since.get(name, now) for name in made.close}
        self._tell_holds(before.hold, made.hold)
        self._perform(before, made)
        if made.hold and self._clock.monotonic() - self._looked >= LOOK_EVERY_S:
            self._looked = self._clock.monotonic()
            self._sampler.look_now()

    def _perform(self, before: Plan, made: Plan) -> None:
        self._dispatcher.close({**made.close, **made.leave})  # who is about to leave gets nothing new on the way
        for name, why in made.never.items():
            if (asked := self._wishes.asking.get(name)) is not None and not asked.done():
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
        asked = self._wishes.asking.get(name)
        if asked is None or asked.done():
            return
        need = self.need_of(name)
        self._wishes.insisted.discard(name)
        self._wishes.modest.discard(name)
        if need.contradicts and (name, need.contradicts) not in self._contradicted:
            self._contradicted.add((name, need.contradicts))
            told = f"memory of {name} in the configuration {need.contradicts}: what was measured counts"
            self._journal.tell(EventKind.PLACED, told, backend=name)
        self._journal.tell(
            EventKind.PLACED,
            f"{name} has its place",
            backend=name,
            expected_vram_bytes=need.vram,
            expected_ram_bytes=need.ram,
            sources=[need.vram_source.value, need.ram_source.value],
            free={pool.label: pool.free for pool in self.pools.values()},
        )
        self._wishes.admitted.add(name)
        asked.set_result(Answer.ADMITTED)

    # --- looking -----------------------------------------------------------------------------------------------------

    def tenants(self) -> list[Tenant]:
        """Every backend that takes memory here, as it is at this moment."""
        return self._census.tenants()

    def standing_of(self, backend: Backend) -> Standing:
        """How a backend stands towards its place."""
        return self._census.standing_of(backend)

    def need_of(self, name: str) -> Need:
        """What a backend takes on the rung it is on."""
        return self._census.need_of(name)

    def expected_on(self, name: str, rung: int) -> Mapping[str, int]:
        """Bytes by pool that a backend would take on a rung of its ladder."""
        return self._census.expected_on(name, rung)

    @property
    def anybody_waits(self) -> bool:
        """Whether a backend waits for its place."""
        return bool(self._wishes.asking)

    def held(self, name: str) -> str:
        """Why a backend waits for its place; empty when it does not."""
        return self.plan.hold.get(name, "") if name in self._wishes.asking else ""

    def start_of(self, name: str) -> tuple[bool, bool, str]:
        """See `dispatcher.Waker`."""
        if name not in self._wishes.asking:  # mostly; asked for every request
            return _NOT_WAITING
        return True, name in self._wishes.modest, self.held(name) if name in self.plan.blocked else ""

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
        for name in list(self._wishes.asking):
            self.give_up(name)
