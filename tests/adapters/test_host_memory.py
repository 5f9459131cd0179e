"""The host sensor: the real machine, and machines that lack things, as folders that look like /proc."""

import asyncio
import os
import time
from pathlib import Path

import psutil
import pytest

from supervisord.adapters.host_memory import HostSensor
from supervisord.core.errors import SensorError
from supervisord.core.memory import MIB

PAGE = os.sysconf("SC_PAGE_SIZE")
HAS_PSI = Path("/proc/pressure/memory").exists()
MEMINFO = {
    "MemTotal": 16384,
    "MemFree": 512,
    "MemAvailable": 4096,
    "Buffers": 16,
    "Cached": 2048,
    "SwapTotal": 8192,
    "SwapFree": 6144,
}  # MiB


class Proc:
    """A folder that looks like /proc, for the sensor and for psutil."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "pressure").mkdir()
        self.meminfo()
        self.vmstat()
        self.stall(some=0.0, full=0.0)

    def meminfo(self, **changes: int) -> None:
        lines = (f"{name}: {size * 1024} kB\n" for name, size in (MEMINFO | changes).items())
        (self.root / "meminfo").write_text("".join(lines))

    def vmstat(self, **counters: int) -> None:
        counters = {"pswpin": 0, "pswpout": 0, "oom_kill": 0} | counters
        lines = "".join(f"{name} {value}\n" for name, value in counters.items())
        (self.root / "vmstat").write_text(f"nr_free_pages 1\n{lines}")

    def stall(self, **avg10: float) -> None:
        lines = (f"{kind} avg10={value:.2f} avg60=7.00 avg300=8.00 total=9\n" for kind, value in avg10.items())
        (self.root / "pressure/memory").write_text("".join(lines))


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Proc:
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path))  # psutil's own setting for this
    return Proc(tmp_path)


async def test_the_real_machine() -> None:
    sensor = HostSensor()
    before = time.monotonic()
    first, second = await sensor.host(), await sensor.host()
    assert before <= first.at < second.at <= time.monotonic()
    assert first.total == psutil.virtual_memory().total
    assert 0 < first.available <= first.total
    assert (first.swap_in_rate, first.swap_out_rate) == (None, None)
    assert second.swap_in_rate is not None
    assert second.swap_out_rate is not None
    assert ("no PSI" in second.missing) == (second.stall_some is None) == (not HAS_PSI)
    assert ("no swap" in second.missing) == (psutil.swap_memory().total == 0)


async def test_a_reading_is_cheap() -> None:
    sensor = HostSensor()
    times = []
    for _ in range(50):
        began = time.perf_counter()
        await sensor.host()
        times.append(time.perf_counter() - began)
    assert min(times) < 0.001


async def test_every_figure_has_its_source(proc: Proc) -> None:
    proc.vmstat(oom_kill=3)
    proc.stall(some=12.34, full=5.67)
    sample = await HostSensor(proc.root).host()
    assert (sample.total, sample.available) == (16384 * MIB, 4096 * MIB)
    assert (sample.swap_total, sample.swap_used) == (8192 * MIB, 2048 * MIB)
    assert (sample.stall_some, sample.stall_full, sample.oom_kills) == (12.34, 5.67, 3)
    assert sample.missing == ()


class Hands:
    """A monotonic clock that a test turns."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


async def test_rates_are_bytes_a_second_of_the_last_two_seconds(proc: Proc, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel swaps in bursts: a tenth of a second without one is no relief."""
    hands, sensor = Hands(monkeypatch), HostSensor(proc.root)
    proc.vmstat(pswpin=1000, pswpout=5000)
    assert (await sensor.host()).swap_in_rate is None
    hands.now += 0.5
    proc.vmstat(pswpin=1500, pswpout=5100)
    burst = await sensor.host()
    assert (burst.swap_in_rate, burst.swap_out_rate) == (500 * PAGE / 0.5, 100 * PAGE / 0.5)
    hands.now += 1.5
    quiet = await sensor.host()
    assert (quiet.swap_in_rate, quiet.swap_out_rate) == (500 * PAGE / 2.0, 100 * PAGE / 2.0)
    hands.now += 0.5
    over = await sensor.host()
    assert (over.swap_in_rate, over.swap_out_rate) == (0.0, 0.0)


async def test_calls_further_apart_are_compared_with_the_one_before(
    proc: Proc, monkeypatch: pytest.MonkeyPatch
) -> None:
    hands, sensor = Hands(monkeypatch), HostSensor(proc.root)
    for pages in (0, 100, 100):
        proc.vmstat(pswpin=pages)
        sample = await sensor.host()
        hands.now += 30.0
    assert sample.swap_in_rate == 0.0


async def test_a_counter_that_went_back_gives_no_rate(proc: Proc, monkeypatch: pytest.MonkeyPatch) -> None:
    hands, sensor = Hands(monkeypatch), HostSensor(proc.root)
    for pages, rate in ((1000, None), (10, None), (20, 10 * PAGE / 0.5)):
        proc.vmstat(pswpin=pages, pswpout=1000)
        assert (await sensor.host()).swap_in_rate == rate
        hands.now += 0.5


async def test_two_calls_at_the_same_instant_divide_by_nothing(proc: Proc, monkeypatch: pytest.MonkeyPatch) -> None:
    sensor = HostSensor(proc.root)
    monkeypatch.setattr(time, "monotonic", lambda: 5.0)
    await sensor.host()
    assert (await sensor.host()).swap_in_rate is None


async def test_a_machine_without_anything_says_so(proc: Proc) -> None:
    proc.meminfo(SwapTotal=0, SwapFree=0)
    (proc.root / "vmstat").unlink()
    (proc.root / "pressure/memory").unlink()
    sensor = HostSensor(proc.root)
    for _ in range(2):
        sample = await sensor.host()
        assert sample.missing == ("no swap", "no swap counters", "no PSI", "no OOM counter")
        assert (sample.swap_in_rate, sample.swap_out_rate, sample.oom_kills) == (None, None, None)
        assert (sample.stall_some, sample.stall_full) == (None, None)
        assert sample.available == 4096 * MIB


async def test_an_old_kernel_counts_no_oom_kills_and_has_half_a_pressure_file(proc: Proc) -> None:
    (proc.root / "vmstat").write_text("pswpin 1\npswpout 1\nbroken\nnegative -1\n")
    proc.stall(some=1.0)
    sample = await HostSensor(proc.root).host()
    assert sample.missing == ("no PSI", "no OOM counter")
    assert (sample.stall_some, sample.stall_full) == (1.0, None)


async def test_counters_that_come_back_start_anew(proc: Proc) -> None:
    sensor = HostSensor(proc.root)
    proc.vmstat(pswpin=1000)
    await sensor.host()
    (proc.root / "vmstat").write_text("pswpin 1000\n")
    await sensor.host()
    proc.vmstat(pswpin=9000)
    assert (await sensor.host()).swap_in_rate is None


async def test_without_the_totals_it_fails_with_words(proc: Proc) -> None:
    (proc.root / "meminfo").unlink()
    with pytest.raises(SensorError, match=r"host's memory cannot be read.*is /proc mounted"):
        await HostSensor(proc.root).host()


async def test_a_pressure_file_that_cannot_be_read_is_a_missing_one(proc: Proc) -> None:
    (proc.root / "pressure/memory").unlink()
    (proc.root / "pressure/memory").mkdir()  # reading fails, as with psi=0, though the name exists
    async with asyncio.timeout(5):
        assert "no PSI" in (await HostSensor(proc.root).host()).missing
