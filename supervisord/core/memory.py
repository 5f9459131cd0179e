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
