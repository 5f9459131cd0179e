"""Sensors -> samples -> levels of pressure, and what each backend holds."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from supervisord.core.errors import SensorError
from supervisord.core.evidence import GpuRoom
from supervisord.core.memory import (
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
    next_poll,
)
from supervisord.core.placement import HOST, Pool
from supervisord.core.record import EventKind
from supervisord.core.state import DOWN
from supervisord.engine.backend import Backend
from supervisord.engine.journal import Journal
from supervisord.engine.pools import Holdings, HostShare, gpu_pool, gpu_reserve, host_pool, wanted_gpus
from supervisord.engine.verdict import Surroundings
from supervisord.ports import Clock, MemoryProbe
from supervisord.runtimes.base import BackendSpec, RuntimeKind


@dataclass(frozen=True, slots=True)
class MemoryLimits:
    vram: VramLimits = field(default_factory=VramLimits)
    host: HostLimits = field(default_factory=HostLimits)
    host_share: HostShare = field(default_factory=HostShare)


class Sampler:
    """Owns the samples and the levels; everybody else reads them."""

    def __init__(self, probe: MemoryProbe, clock: Clock, journal: Journal, limits: MemoryLimits) -> None:
        self._probe = probe
        self._clock = clock
        self._journal = journal
        self._limits = limits
        self._backends: Mapping[str, Backend] = {}
        self.host: HostSample | None = None
        self.gpus = GpuReading(SensorState.ABSENT, problem="not sampled yet")
        self.levels: dict[str, Level] = {HOST: Level()}
        self.host_problem = ""
        self.sampled_at: float | None = None
        self.began_at = float("-inf")  # when the latest sample was begun: nothing it shows is older (monotonic)
        self._hurry = asyncio.Event()
        self._room: tuple[float, int | None] = (0.0, None)  # when it was looked at last, and the headroom then
        self.holdings: Holdings = {}
        self.sampled: Callable[[], None] = _ignore  # told of each sample

    def limit_by(self, limits: MemoryLimits) -> None:
        """Other limits from now on: the configuration was reloaded."""
        self._limits = limits

    def watch_over(self, backends: Mapping[str, Backend]) -> None:
        """The backends whose memory is measured."""
        self._backends = backends

    async def run(self) -> None:
        """Sample for ever, at a cadence that follows the danger."""
        while True:
            self._hurry.clear()  # before the look: who asks while it goes on needs the next one
            await self.sample()
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

    def pressing(self, pool: str) -> Pressure:
        """The pressure on a pool, as far as its latest reading bears it out."""
        return self.levels.get(pool, Level()).pressing

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
        """Bytes that stay free on each GPU: on each as many as on the largest, whatever GPU a backend gets."""
        limits = self._limits.vram
        return max((gpu_reserve(gpu.total, limits) for gpu in self.gpus.gpus), default=limits.reserve)

    @property
    def vram_critical(self) -> int:
        """Bytes free on a GPU below which it is critical."""
        return self._limits.vram.critical_free

    def free(self) -> dict[str, int]:
        """Bytes that are free in each pool that could be measured just now, by UUID and `host`."""
        found = {gpu.uuid: gpu.free for gpu in self._measured()}
        if self.host is not None and not self.host_problem:
            found[HOST] = self.host.available
        return found

    def surroundings(self, spec: BackendSpec) -> Surroundings:
        """What a backend had around it in the latest sample."""
        uuids = self.gpus_of(spec)
        mine = [gpu for gpu in self.gpus.gpus if gpu.uuid in uuids]
        host, stands = self.host, self.host is not None and not self.host_problem
        return Surroundings(
            gpus=tuple(GpuRoom(g.index, g.free, g.total) for g in mine if g.state is SensorState.OK),
            lost=tuple(f"gpu{g.index}: {g.problem or 'lost'}" for g in mine if g.state is SensorState.LOST),
            addresses=frozenset(g.address for g in mine) if all(g.address for g in mine) else frozenset(),
            available=host.available if host is not None and stands else None,
            ratio=host.available / host.total if host is not None and stands and host.total else None,
            pressure=self.level(HOST) if stands else None,
        )

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

    def pools_of(self, backend: Backend) -> Sequence[str]:
        """Where a backend's memory is: the host, and the GPUs it may use."""
        return (HOST, *self.gpus_of(backend.spec)) if backend.runtime.has_process else ()

    # --- telling, and when to look again -----------------------------------------------------------------------------

    def _settle(self, pool: str, level: Level) -> None:
        before = self.levels.get(pool, Level()).pressure
        self.levels[pool] = level
        if before is not level.pressure:
            self._journal.tell(
                EventKind.PRESSURE,
                f"memory of {self.label(pool)} is {level.pressure.label} (was {before.label})",
                pool=pool,
                before=before.label,
                pressure=level.pressure.label,
                evidence=self._evidence(pool),
            )

    def label(self, pool: str) -> str:
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

    def _cadence(self) -> float:
        worst = max(level.pressure for level in self.levels.values())
        return next_poll(self._headroom(), worst, self._filling())

    def _filling(self) -> float:
        """Bytes/s by which the room in the worst pool has shrunk since the last time this was asked."""
        (then, before), self._room = self._room, (self._clock.monotonic(), self._headroom())
        now, room = self._room
        return 0.0 if before is None or room is None or now <= then else (before - room) / (now - then)

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
