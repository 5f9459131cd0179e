"""Memory: samples, limits, pressure with hysteresis, and how soon to look again."""

from collections.abc import Mapping
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
    busy: float | None = None  # the share of the last seconds in which it kept the GPU busy, 0..1; None: not told


@dataclass(frozen=True, slots=True)
class GpuSample:
    """One GPU at one moment. Sizes in bytes, `at` in monotonic seconds.

    `address`: domain, bus and device on the PCI bus, as the kernel writes them ("0000:01:00"); empty: not known.
    """

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
    address: str = ""


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
class GroupLimits:
    """What a backend's control group may hold. Bytes and processes; None: no limit of its own."""

    memory: int | None = None
    pids: int | None = None


@dataclass(frozen=True, slots=True)
class GroupUsage:
    """A control group as the kernel counts it. Bytes; None: this kernel, or this version of cgroups, does not tell.

    `oom_kills`: processes of it that the kernel killed for lack of memory, whoever was short: `memory.events` oom_kill
    (v2), `memory.oom_control` oom_kill (v1). `at_limit`: how often it was held at its own limit (`memory.events` max;
    v1: failcnt). `stall_full`: percent of the last 10 s in which all of it waited for memory. `oomd_kills`: how often
    systemd-oomd has killed it.
    """

    current: int | None = None
    peak: int | None = None
    limit: int | None = None
    oom_kills: int | None = None
    at_limit: int | None = None
    stall_full: float | None = None
    pids: int | None = None
    oomd_kills: int | None = None


@dataclass(frozen=True, slots=True)
class TreeUsage:
    """A whole process tree. Sizes in bytes, CPU time in seconds since it started."""

    pids: tuple[int, ...]
    rss: int
    swap: int
    cpu_s: float
    mapped: int = 0  # of `rss`, pages of files: the kernel calls them available, although a mapped model is in use
    group: GroupUsage | None = None  # None: it has no control group of its own
    names: Mapping[int, str] = field(default_factory=dict)  # by pid, as the kernel cuts them at 15 characters


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

    Used swap alone says nothing, and stall alone stays high after relief: only both together are thrashing. On a host
    without swap, little that is available stands for the swapping.
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
    """The pressure on one pool, and how long other readings have disagreed with it.

    `now`: what the latest reading alone asks for. A level outlasts its relief, so that it does not flutter; who asks
    somebody to give up memory goes by both.
    """

    pressure: Pressure = Pressure.OK
    above_since: float | None = None  # readings ask for a higher level since then
    below_since: float | None = None  # readings ask for a lower level since then
    now: Pressure = Pressure.OK

    @property
    def pressing(self) -> Pressure:
        """The pressure, as far as the latest reading bears it out."""
        return min(self.pressure, self.now)


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
    scarce = sample.available < limits.tight_available_ratio * sample.total * (2.0 - factor)
    # Without swap it is the pages of files, of programs and mapped models, that come and go.
    thrashing = swapping > limits.tight_swap_rate * factor or (scarce and not sample.swap_total)
    if thrashing and stall > limits.critical_stall * factor:
        return Pressure.CRITICAL
    if scarce or (thrashing and stall > limits.tight_stall * factor):
        return Pressure.TIGHT
    return Pressure.OK


def _settle(level: Level, reading: _Reading, now: float, leave_after_s: float) -> Level:
    """Hysteresis: up after the dwell of the higher level, down after quiet below the leaving threshold."""
    if reading.enter > level.pressure:
        since = now if level.above_since is None else level.above_since
        if now - since >= reading.dwell_s:
            return Level(reading.enter, now=reading.hold)
        # Thrash that is not yet critical for long enough is tight already.
        return Level(max(level.pressure, Pressure.TIGHT), above_since=since, now=reading.hold)
    if reading.hold > level.pressure:  # a moment of less does not begin the dwell anew
        return Level(level.pressure, above_since=level.above_since, now=reading.hold)
    if reading.hold < level.pressure:
        since = now if level.below_since is None else level.below_since
        if now - since >= leave_after_s:
            return Level(reading.hold, now=reading.hold)
        return Level(level.pressure, below_since=since, now=reading.hold)
    return Level(level.pressure, now=reading.hold)


SLOWEST_POLL_S = 2.0  # far from every limit; NVML and /proc cost about 1 ms, so this is 0.05 % of a core
FASTEST_POLL_S = 0.1
SWAP_WINDOW_S = 2.0  # over which swap rates are means: the kernel swaps in bursts
FILL_RATE = 4 * GIB  # bytes/s: what a model load from page cache to VRAM was seen to reach on PCIe 3


def next_poll(headroom: int | None, pressure: Pressure, filling: float = 0.0) -> float:
    """Seconds until the next sample: half the time in which memory could fill.

    `headroom` is bytes above the nearest critical limit, None where nothing is measured; `filling` bytes/s by which
    it was just seen to shrink: memory is taken to fill at least as fast as that, and as FILL_RATE. earlyoom computes
    its cadence the same way, from how fast memory can disappear.
    """
    if headroom is None:
        return SLOWEST_POLL_S
    if pressure is Pressure.CRITICAL:
        return 0.5  # memory is gone already: what matters now is noticing relief
    return min(SLOWEST_POLL_S, max(FASTEST_POLL_S, headroom / max(FILL_RATE, filling) / 2))
