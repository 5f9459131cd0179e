"""Sensors -> pressure -> first actions: under critical pressure dispatch pauses and idle backends leave."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from supervisord.core import life
from supervisord.core.errors import SensorError
from supervisord.core.life import DOWN, Phase, Want
from supervisord.core.memory import (
    Candidate,
    GpuReading,
    GpuSample,
    HostLimits,
    HostSample,
    Level,
    Pressure,
    SensorState,
    VramLimits,
    assess_gpu,
    assess_host,
    choose_victim,
    next_poll,
)
from supervisord.core.placement import HOST, Pool
from supervisord.core.record import EventKind
from supervisord.engine.backend import Backend
from supervisord.engine.dispatcher import Dispatcher
from supervisord.engine.journal import Journal
from supervisord.engine.pools import Holdings, HostShare, gpu_pool, host_pool, wanted_gpus
from supervisord.ports import Clock, MemoryProbe
from supervisord.runtimes.base import BackendSpec, RuntimeKind

SETTLE_S = 5.0  # after asking one backend to leave: its effect is measured before the next is asked


@dataclass(frozen=True, slots=True)
class MemoryLimits:
    vram: VramLimits = field(default_factory=VramLimits)
    host: HostLimits = field(default_factory=HostLimits)
    host_share: HostShare = field(default_factory=HostShare)


class Sampler:
    """Owns the samples and the levels; everybody else reads them."""

    def __init__(
        self, probe: MemoryProbe, clock: Clock, journal: Journal, dispatcher: Dispatcher, limits: MemoryLimits
    ) -> None:
        self._probe = probe
        self._clock = clock
        self._journal = journal
        self._dispatcher = dispatcher
        self._limits = limits
        self._backends: Mapping[str, Backend] = {}
        self.host: HostSample | None = None
        self.gpus = GpuReading(SensorState.ABSENT, problem="not sampled yet")
        self.levels: dict[str, Level] = {HOST: Level()}
        self.host_problem = ""
        self.sampled_at: float | None = None
        self.began_at = float("-inf")  # when the latest sample was begun: nothing it shows is older (monotonic)
        self._hurry = asyncio.Event()
        self._left_at = -SETTLE_S
        self._paused: Mapping[str, str] = {}
        self.holdings: Holdings = {}
        self.sampled: Callable[[], None] = _ignore  # told of each sample

    def limit_by(self, limits: MemoryLimits) -> None:
        """Other limits from now on: the configuration was reloaded."""
        self._limits = limits

    def watch_over(self, backends: Mapping[str, Backend]) -> None:
        """The backends that may be asked to leave."""
        self._backends = backends

    async def run(self) -> None:
        """Sample for ever, at a cadence that follows the danger."""
        while True:
            self._hurry.clear()  # before the look: who asks while it goes on needs the next one
            await self.sample()
            self._act()
            self.sampled()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._cadence()):
                    await self._hurry.wait()

    async def sample(self) -> None:
        """One look at every sensor."""
        began = self._clock.monotonic()
        reading = await self._probe.gpus()
        self._tell_sensor(reading)
        self.gpus = reading
        await self._sample_host()
        self._measure_holdings()
        self.began_at = began
        self.sampled_at = self._clock.monotonic()
        for gpu in reading.gpus:
            before = self.levels.get(gpu.uuid, Level())
            self._settle(gpu.uuid, assess_gpu(before, gpu, self._limits.vram))

    async def _sample_host(self) -> None:
        """A sensor that fails stops nobody: the last sample stays, with its age, and the status says why."""
        try:
            self.host = await self._probe.host()
        except SensorError as error:
            if error.message != self.host_problem:
                self.host_problem = error.message
                self._journal.tell(EventKind.SENSOR, f"host memory cannot be read: {error.message}")
            return
        self.host_problem = ""
        self._settle(HOST, assess_host(self.levels[HOST], self.host, self._limits.host))

    def look_now(self) -> None:
        """Do not wait for the next turn: somebody needs a fresh sample."""
        self._hurry.set()

    def level(self, pool: str) -> Pressure:
        """The pressure on `host` or on the GPU with a UUID."""
        return self.levels.get(pool, Level()).pressure

    def vram_of(self, pids: frozenset[int]) -> int | None:
        """Bytes of VRAM that these processes hold by the latest fresh sample; None where nobody can tell."""
        if self.gpus.state is not SensorState.OK:
            return None
        held = [p.used for gpu in self._measured() for p in gpu.processes if p.pid in pids]
        return sum(used or 0 for used in held)

    def _measured(self) -> list[GpuSample]:
        """The GPUs whose figures are of now: one that is lost or late keeps showing what it once held."""
        return [gpu for gpu in self.gpus.gpus if gpu.state is SensorState.OK]

    def released(self, pids: frozenset[int], since: float) -> bool:
        """Whether no GPU holds memory of these processes any more, measured after `since`; True where none can tell."""
        if self.gpus.state is not SensorState.OK or not self.gpus.gpus:
            return True
        fresh = all(gpu.at > since for gpu in self.gpus.gpus if gpu.state is SensorState.OK)
        return fresh and not self.vram_of(pids)

    def hardware(self) -> str:
        """What this machine is, for records: its GPUs, else its processor's lack of them."""
        names = [f"{gpu.name} {gpu.total / 2**30:.0f} GiB" for gpu in self.gpus.gpus]
        host = f"{self.host.total / 2**30:.0f} GiB RAM" if self.host is not None else ""
        return ", ".join([*names, host]) if names else f"CPU, {host}"

    # --- actions -----------------------------------------------------------------------------------------------------

    def _act(self) -> None:
        critical = self._critical_pools()
        self._pause(critical)
        if critical and self._clock.monotonic() - self._left_at >= SETTLE_S:
            self._ask_one_to_leave(critical)

    def _critical_pools(self) -> dict[str, str]:
        pools = {HOST: "the host is short of memory"} if self.level(HOST) is Pressure.CRITICAL else {}
        for gpu in self.gpus.gpus:
            if self.level(gpu.uuid) is Pressure.CRITICAL:
                pools[gpu.uuid] = f"gpu{gpu.index} is short of memory"
        return pools

    def _pause(self, critical: Mapping[str, str]) -> None:
        paused: dict[str, str] = {}
        for backend in self._backends.values():
            for pool in self._pools_of(backend):
                if pool in critical:
                    paused[backend.name] = critical[pool]
        if paused != self._paused:
            self._tell_pause(paused)
            self._paused = paused
            self._dispatcher.pause(paused)

    def _ask_one_to_leave(self, critical: Mapping[str, str]) -> None:
        candidates = tuple(
            Candidate(b.name, _is_idle(b), b.spec.priority, b.last_used, b.spec.pinned)
            for b in self._backends.values()
            if not critical.keys().isdisjoint(self._pools_of(b))
        )
        victim = choose_victim(candidates)
        if victim is None:
            return
        self._left_at = self._clock.monotonic()
        why = "; ".join(critical.values())
        self._journal.tell(EventKind.EVICTED, f"{victim} was asked to leave: {why}", backend=victim)
        self._backends[victim].post(life.StopAsked(f"left: {why}", Want.ON_DEMAND))

    # --- places ------------------------------------------------------------------------------------------------------

    def pools(self) -> dict[str, Pool]:
        """Every pool of memory, as it was sampled last."""
        ours = frozenset(pid for b in self._backends.values() if b.generation for pid in b.generation.pids)
        mapped = sum(b.generation.usage.mapped for b in self._backends.values() if b.generation and b.generation.usage)
        held = sum(by_pool.get(HOST, 0) for by_pool in self.holdings.values())
        limits = self._limits
        host = host_pool(
            self.host,
            self.levels[HOST],
            limits.host,
            limits.host_share,
            problem=self.host_problem,
            mapped=mapped,
            held=held,
        )
        gpus = (gpu_pool(g, limits.vram, ours) for g in self.gpus.gpus)
        return {HOST: host} | {pool.key: pool for pool in gpus}

    def gpus_of(self, spec: BackendSpec) -> tuple[str, ...]:
        """The UUIDs of the GPUs whose memory a backend uses; none for one that computes on the host."""
        if spec.footprint.gpu_layers == 0 or spec.memory.vram == 0 or spec.runtime is RuntimeKind.REMOTE:
            return ()
        if self.gpus.state is SensorState.ABSENT:
            return ()
        if not self.gpus.gpus:  # there are some, and the driver does not tell which
            return spec.gpus or ("gpu",)
        count = spec.vllm.tensor_parallel if spec.runtime is RuntimeKind.VLLM else None
        return wanted_gpus(spec.gpus, count, self.gpus.gpus)

    def totals(self, gpus: Sequence[str]) -> tuple[int, ...]:
        """The sizes of these GPUs in bytes, as far as they are known."""
        sizes = {g.uuid: g.total for g in self.gpus.gpus}
        return tuple(sizes[uuid] for uuid in gpus if uuid in sizes)

    @property
    def vram_reserve(self) -> int:
        """Bytes that stay free on each GPU."""
        return self._limits.vram.reserve

    def lost_gpus(self) -> dict[str, str]:
        """UUIDs and labels of the GPUs that fell off the bus."""
        return {g.uuid: f"gpu{g.index}" for g in self.gpus.gpus if g.state is SensorState.LOST}

    def _measure_holdings(self) -> None:
        """What each backend holds, from the very samples that say what is free."""
        self.holdings = {b.name: self._held_by(b) for b in self._backends.values() if b.generation is not None}

    def _held_by(self, backend: Backend) -> dict[str, int]:
        generation = backend.generation
        if generation is None or backend.state.phase in DOWN:
            return {}
        held = {HOST: generation.usage.rss} if generation.usage is not None else {}
        for gpu in self._measured():
            used = sum(p.used or 0 for p in gpu.processes if p.pid in generation.pids)
            if used:
                held[gpu.uuid] = used
        generation.peak_vram = _higher(generation.peak_vram, sum(used for pool, used in held.items() if pool != HOST))
        generation.peak_ram = _higher(generation.peak_ram, held.get(HOST, 0))
        return held

    def _pools_of(self, backend: Backend) -> Sequence[str]:
        """Where a backend's memory is: the host, and the GPUs it may use."""
        return (HOST, *self.gpus_of(backend.spec)) if backend.runtime.has_process else ()

    # --- telling, and when to look again -----------------------------------------------------------------------------

    def _settle(self, pool: str, level: Level) -> None:
        before = self.levels.get(pool, Level()).pressure
        self.levels[pool] = level
        if before is not level.pressure:
            self._journal.tell(
                EventKind.PRESSURE,
                f"memory of {self._pool_name(pool)} is {level.pressure.label} (was {before.label})",
                pool=pool,
                before=before.label,
                pressure=level.pressure.label,
                evidence=self._evidence(pool),
            )

    def _pool_name(self, pool: str) -> str:
        return next((f"gpu{gpu.index}" for gpu in self.gpus.gpus if gpu.uuid == pool), pool)

    def _evidence(self, pool: str) -> dict[str, object]:
        if pool == HOST and self.host is not None:
            host = self.host
            return {
                "available_bytes": host.available,
                "total_bytes": host.total,
                "swap_in_bytes_per_s": host.swap_in_rate,
                "swap_out_bytes_per_s": host.swap_out_rate,
                "stall_full_percent": host.stall_full,
            }
        return next(
            ({"free_bytes": g.free, "total_bytes": g.total} for g in self.gpus.gpus if g.uuid == pool),
            {},
        )

    def _tell_sensor(self, reading: GpuReading) -> None:
        if (reading.state, reading.problem) != (self.gpus.state, self.gpus.problem):
            said = f": {reading.problem}" if reading.problem else ""
            self._journal.tell(EventKind.SENSOR, f"GPU sensor is {reading.state}{said}", state=reading.state.value)

    def _tell_pause(self, paused: Mapping[str, str]) -> None:
        if paused:
            why = "; ".join(sorted(set(paused.values())))
            self._journal.tell(EventKind.DISPATCH_PAUSED, f"no new work for {', '.join(paused)}: {why}")
        else:
            self._journal.tell(EventKind.DISPATCH_RESUMED, "work is dispatched again")

    def _cadence(self) -> float:
        worst = max(level.pressure for level in self.levels.values())
        return next_poll(self._headroom(), worst)

    def _headroom(self) -> int | None:
        fresh = [gpu for gpu in self.gpus.gpus if gpu.state is SensorState.OK]
        rooms = [_vram_headroom(gpu, self._limits.vram) for gpu in fresh]
        if self.host is not None:
            tight = int(self._limits.host.tight_available_ratio * self.host.total)
            rooms.append(max(0, self.host.available - tight))
        return min(rooms, default=None)


def _vram_headroom(gpu: GpuSample, limits: VramLimits) -> int:
    return max(0, gpu.free - limits.critical_free)


def _higher(peak: int | None, seen: int) -> int | None:
    return max(peak or 0, seen) or None


def _ignore() -> None:
    return None


def _is_idle(backend: Backend) -> bool:
    state = backend.state
    return state.phase is Phase.READY and state.in_flight == 0
