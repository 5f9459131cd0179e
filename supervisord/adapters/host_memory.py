"""The host's memory: totals from psutil, swap traffic and memory stall from /proc."""

import os
import time
import warnings
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from supervisord.core.errors import SensorError
from supervisord.core.memory import SWAP_WINDOW_S, HostSample

_PAGE = os.sysconf("SC_PAGE_SIZE")  # /proc/vmstat counts pswpin and pswpout in pages
_MOST = 64  # readings in that window: three times what the fastest cadence makes


@dataclass(frozen=True, slots=True)
class _Totals:
    """Bytes."""

    total: int
    available: int
    swap_total: int
    swap_used: int


@dataclass(frozen=True, slots=True)
class _Traffic:
    """Pages swapped since boot, at a moment in monotonic seconds."""

    at: float
    pages_in: int
    pages_out: int


class HostSensor:
    """The host half of the MemoryProbe port. `proc` is where vmstat and pressure are."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._vmstat = proc / "vmstat"
        self._pressure = proc / "pressure/memory"
        self._traffic: deque[_Traffic] = deque(maxlen=_MOST)

    async def host(self) -> HostSample:
        """The host now. It reads four small files without waiting: 0.2 ms.

        Swap rates are means over the last two seconds or since the call before, whichever is longer, so the first call
        has none: the kernel swaps in bursts, and under pressure this is called ten times a second. Raises SensorError
        when not even the totals can be read.
        """
        at = time.monotonic()
        try:
            totals = _totals()
        except (OSError, KeyError) as error:
            raise SensorError(f"the host's memory cannot be read: {error!r}; is /proc mounted whole?") from error
        vmstat, stall = _fields(self._vmstat), _stall(self._pressure)
        swap_in_rate, swap_out_rate = self._rates(at, vmstat)
        return HostSample(
            at=at,
            total=totals.total,
            available=totals.available,
            swap_total=totals.swap_total,
            swap_used=totals.swap_used,
            swap_in_rate=swap_in_rate,
            swap_out_rate=swap_out_rate,
            stall_some=stall.get("some"),
            stall_full=stall.get("full"),
            oom_kills=vmstat.get("oom_kill"),
            missing=_missing(vmstat, stall, swap_total=totals.swap_total),
        )

    def _rates(self, at: float, vmstat: Mapping[str, int]) -> tuple[float | None, float | None]:
        """Bytes/s swapped in and out of late."""
        kept = self._traffic
        if "pswpin" not in vmstat or "pswpout" not in vmstat:
            kept.clear()
            return None, None
        if kept and at <= kept[-1].at:
            return None, None
        now = _Traffic(at, vmstat["pswpin"], vmstat["pswpout"])
        kept.append(now)
        while len(kept) > 2 and at - kept[1].at >= SWAP_WINDOW_S:
            kept.popleft()
        before = kept[0]
        if before is now:
            return None, None
        if now.pages_in < before.pages_in or now.pages_out < before.pages_out:
            kept.clear()  # counters that go back were reset, as by the restore of a virtual machine
            kept.append(now)
            return None, None
        seconds = at - before.at
        return (now.pages_in - before.pages_in) * _PAGE / seconds, (now.pages_out - before.pages_out) * _PAGE / seconds


def _totals() -> _Totals:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of counters that are not there: `missing` says so
        memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    return _Totals(memory.total, memory.available, swap.total, swap.used)


def _missing(vmstat: Mapping[str, int], stall: Mapping[str, float], *, swap_total: int) -> tuple[str, ...]:
    checks = (
        ("no swap", swap_total == 0),
        ("no swap counters", "pswpin" not in vmstat or "pswpout" not in vmstat),
        ("no PSI", "some" not in stall or "full" not in stall),
        ("no OOM counter", "oom_kill" not in vmstat),
    )
    return tuple(what for what, is_missing in checks if is_missing)


def _fields(path: Path) -> dict[str, int]:
    """The `name number` lines of a file; empty where it cannot be read."""
    pairs = (line.split() for line in _text(path).splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _stall(path: Path) -> dict[str, float]:
    """The avg10 of each line of a pressure file, in percent, by its first word."""
    found: dict[str, float] = {}
    for line in _text(path).splitlines():
        kind, *figures = line.split()
        for figure in figures:
            name, _, value = figure.partition("=")
            if name == "avg10":
                found[kind] = float(value)
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # not there, or switched off at boot: reading it is then "operation not supported"
        return ""
