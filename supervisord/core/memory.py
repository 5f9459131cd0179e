"""Memory: samples, limits, pressure with hysteresis, and how soon to look again."""

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

MIB = 1024 * 1024
GIB = 1024 * MIB


class Pressure(IntEnum):
    OK = 0
    TIGHT = 1
    CRITICAL = 2

    @property
    def label(self) -> str:
        return self.name.lower()


class SensorState(StrEnum):
    OK = "ok"
    ABSENT = "absent"  # no driver, no library, no GPU: nothing to watch
    FAILING = "failing"  # it answers with errors
    STALE = "stale"  # it has not answered in time: never read as free memory
    LOST = "lost"  # the device fell off the bus


@dataclass(frozen=True, slots=True)
class GpuProcess:
    pid: int
    used: int | None  # bytes; None where the driver does not say
    name: str


@dataclass(frozen=True, slots=True)
class GpuSample:
    """One GPU at one moment. Sizes in bytes, `at` in monotonic seconds."""

    index: int
    uuid: str
    name: str
    state: SensorState
    at: float
    total: int = 0
    used: int = 0
    free: int = 0
    reserved: int = 0
    utilization: float | None = None  # 0..1
    temperature_c: float | None = None
    power_w: float | None = None
    processes: tuple[GpuProcess, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class GpuReading:
    """What the GPU sensor as a whole says. `problem` is empty where `state` is ok."""

    state: SensorState
    gpus: tuple[GpuSample, ...] = ()
    problem: str = ""
    driver: str = ""


@dataclass(frozen=True, slots=True)
class HostSample:
    """The host at one moment. Sizes in bytes, rates in bytes/s, stall in percent (PSI avg10), `at` monotonic seconds.

    None means this machine does not offer the figure (no PSI, no swap accounting).
    """

    at: float
    total: int
    available: int
    swap_total: int
    swap_used: int
    swap_in_rate: float | None = None
    swap_out_rate: float | None = None
    stall_some: float | None = None
    stall_full: float | None = None
    oom_kills: int | None = None
    missing: tuple[str, ...] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True)
class TreeUsage:
    """A whole process tree. Sizes in bytes, CPU time in seconds since it started."""

    pids: tuple[int, ...]
    rss: int
    swap: int
    cpu_s: float
    mapped: int = 0  # of `rss`, pages of files: the kernel calls them available, although a mapped model is in use


@dataclass(frozen=True, slots=True)
class VramLimits:
    """When a GPU is short of memory. Bytes free; the ratio is of the total."""

    reserve: int = 2 * GIB
    tight_free: int = GIB
    tight_ratio: float = 0.05
    critical_free: int = 256 * MIB
    leave_factor: float = 1.5  # a level is left only with that much more free than it was entered with
    leave_after_s: float = 15.0


@dataclass(frozen=True, slots=True)
class HostLimits:
    """When the host is short of memory. Ratios of the total, stall in percent (PSI full avg10), rates in bytes/s.

    Used swap alone says nothing, and stall alone stays high after relief: only both together are thrashing.
    systemd-oomd acts at 60 % for 30 s, which is too late for a workstation somebody is typing on.
    """

    tight_available_ratio: float = 0.10
    tight_stall: float = 10.0
    tight_swap_rate: float = 10_000_000.0
    critical_stall: float = 40.0
    critical_for_s: float = 10.0
    leave_after_s: float = 15.0


@dataclass(frozen=True, slots=True)
class Level:
    """The pressure on one pool, and how long other readings have disagreed with it."""

    pressure: Pressure = Pressure.OK
    above_since: float | None = None  # readings ask for a higher level since then
    below_since: float | None = None  # readings ask for a lower level since then


@dataclass(frozen=True, slots=True)
class _Reading:
    enter: Pressure  # the highest level whose entering threshold is crossed
    hold: Pressure  # the highest level whose leaving threshold is still crossed
    dwell_s: float  # how long `enter` must last before it counts


def assess_gpu(level: Level, sample: GpuSample, limits: VramLimits) -> Level:
    """The level of a GPU after `sample`.

    Only a fresh sample can lower a level: what is stale, failing or lost is never read as free memory.
    """
    if sample.state is not SensorState.OK:
        return Level(level.pressure)
    enter = _vram_pressure(sample, limits, 1.0)
    hold = _vram_pressure(sample, limits, limits.leave_factor)
    return _settle(level, _Reading(enter, hold, 0.0), sample.at, limits.leave_after_s)


def _vram_pressure(sample: GpuSample, limits: VramLimits, factor: float) -> Pressure:
    if sample.free < limits.critical_free * factor:
        return Pressure.CRITICAL
    if sample.free < max(limits.tight_free, limits.tight_ratio * sample.total) * factor:
        return Pressure.TIGHT
    return Pressure.OK


def assess_host(level: Level, sample: HostSample, limits: HostLimits) -> Level:
    """The level of the host after `sample`. Figures this machine does not offer raise nothing."""
    enter = _host_pressure(sample, limits, 1.0)
    hold = _host_pressure(sample, limits, 0.5)
    dwell = limits.critical_for_s if enter is Pressure.CRITICAL else 0.0
    return _settle(level, _Reading(enter, hold, dwell), sample.at, limits.leave_after_s)


def _host_pressure(sample: HostSample, limits: HostLimits, factor: float) -> Pressure:
    swapping = (sample.swap_in_rate or 0.0) + (sample.swap_out_rate or 0.0)
    stall = sample.stall_full or 0.0
    thrashing = swapping > limits.tight_swap_rate * factor
    if thrashing and stall > limits.critical_stall * factor:
        return Pressure.CRITICAL
    scarce = sample.available < limits.tight_available_ratio * sample.total * (2.0 - factor)
    if scarce or (thrashing and stall > limits.tight_stall * factor):
        return Pressure.TIGHT
    return Pressure.OK


def _settle(level: Level, reading: _Reading, now: float, leave_after_s: float) -> Level:
    """Hysteresis: up after the dwell of the higher level, down after quiet below the leaving threshold."""
    if reading.enter > level.pressure:
        since = now if level.above_since is None else level.above_since
        if now - since >= reading.dwell_s:
            return Level(reading.enter)
        # Thrash that is not yet critical for long enough is tight already.
        return Level(max(level.pressure, Pressure.TIGHT), above_since=since)
    if reading.hold < level.pressure:
        since = now if level.below_since is None else level.below_since
        if now - since >= leave_after_s:
            return Level(reading.hold)
        return Level(level.pressure, below_since=since)
    return Level(level.pressure)


SLOWEST_POLL_S = 2.0  # far from every limit; NVML and /proc cost about 1 ms, so this is 0.05 % of a core
FASTEST_POLL_S = 0.1
FILL_RATE = 4 * GIB  # bytes/s: what a model load from page cache to VRAM was seen to reach on PCIe 3


def next_poll(headroom: int | None, pressure: Pressure) -> float:
    """Seconds until the next sample: half the time in which memory could fill at FILL_RATE.

    `headroom` is bytes above the nearest critical limit, None where nothing is measured. earlyoom computes its
    cadence the same way, from how fast memory can disappear.
    """
    if headroom is None:
        return SLOWEST_POLL_S
    if pressure is Pressure.CRITICAL:
        return 0.5  # memory is gone already: what matters now is noticing relief
    return min(SLOWEST_POLL_S, max(FASTEST_POLL_S, headroom / FILL_RATE / 2))


@dataclass(frozen=True, slots=True)
class Candidate:
    """A backend that could leave to free memory."""

    name: str
    idle: bool
    priority: int
    last_used: float  # monotonic
    pinned: bool = False


def choose_victim(candidates: tuple[Candidate, ...]) -> str | None:
    """Whom to ask to leave: idle, not pinned, lowest priority first, then least recently used. None: nobody."""
    leaving = [c for c in candidates if c.idle and not c.pinned]
    if not leaving:
        return None
    return min(leaving, key=lambda c: (c.priority, c.last_used, c.name)).name
