"""The sampler and the journal go on where sensors and logs fail."""

import asyncio

import pytest

from supervisord.adapters.clock import LoopClock
from supervisord.core.errors import SensorError
from supervisord.core.memory import GpuReading, GpuSample, HostSample, Pressure, SensorState
from supervisord.core.record import EventKind, EventRecord
from supervisord.engine.journal import Journal
from supervisord.engine.sampler import HOST, MemoryLimits, Sampler
from tests.fakes.store import MemoryStore

GIB = 2**30


class Sensors:
    """Says what it was told to say."""

    def __init__(self) -> None:
        self.problem = ""
        self.available = 32 * GIB
        self.gpu_at = 0.0
        self.looks: asyncio.Queue[None] = asyncio.Queue()

    async def gpus(self) -> GpuReading:
        if self.gpu_at == 0.0:
            return GpuReading(SensorState.ABSENT, problem="none")
        sample = GpuSample(0, "GPU-0", "Test", SensorState.OK, self.gpu_at, total=24 * GIB, free=20 * GIB)
        return GpuReading(SensorState.OK, (sample,))

    async def host(self) -> HostSample:
        self.looks.put_nowait(None)
        if self.problem:
            raise SensorError(self.problem)
        return HostSample(asyncio.get_running_loop().time(), 64 * GIB, self.available, 0, 0)

    def close(self) -> None:
        return None


@pytest.fixture
def sensors() -> Sensors:
    return Sensors()


@pytest.fixture
async def journal() -> Journal:
    return Journal(MemoryStore(), LoopClock())


@pytest.fixture
async def sampler(sensors: Sensors, journal: Journal) -> Sampler:
    return Sampler(sensors, LoopClock(), journal, MemoryLimits())


async def test_a_failing_host_sensor_is_said_once_and_keeps_the_last_sample(
    sampler: Sampler, sensors: Sensors, journal: Journal
) -> None:
    await sampler.sample()
    before = sampler.host
    sensors.problem = "too many open files"
    await sampler.sample()
    await sampler.sample()
    assert sampler.host is before
    assert sampler.host_problem == "too many open files"
    told = [event.message for event in journal.recent if event.kind is EventKind.SENSOR]
    assert [message for message in told if "host memory" in message] == [
        "host memory cannot be read: too many open files"
    ]
    sensors.problem = ""
    await sampler.sample()
    assert sampler.host_problem == ""


async def test_the_level_of_the_host_follows_its_samples(sampler: Sampler, sensors: Sensors) -> None:
    sensors.available = 2 * GIB
    await sampler.sample()
    assert sampler.level(HOST) is Pressure.TIGHT


async def test_memory_counts_as_released_only_by_a_sample_taken_after_the_end(
    sampler: Sampler, sensors: Sensors
) -> None:
    """A sample from before the process ended cannot prove that its memory is free."""
    await sampler.sample()
    assert sampler.released(frozenset({1}), since=5.0), "no GPU: nothing can be held"
    sensors.gpu_at = 4.0
    await sampler.sample()
    assert not sampler.released(frozenset({1}), since=5.0)
    sensors.gpu_at = 6.0
    await sampler.sample()
    assert sampler.released(frozenset({1}), since=5.0)


async def test_the_loop_looks_at_once_when_asked(sampler: Sampler, sensors: Sensors) -> None:
    """With memory to spare the next look would be 2 s away."""
    async with asyncio.TaskGroup() as group:
        running = group.create_task(sampler.run())
        await asyncio.wait_for(sensors.looks.get(), 1)
        await asyncio.sleep(0)
        sampler.look_now()
        await asyncio.wait_for(sensors.looks.get(), 1)
        running.cancel()


async def test_a_log_that_fails_does_not_stop_the_journal(journal: Journal) -> None:
    def full(event: EventRecord) -> None:
        raise OSError(28, "No space left on device")

    heard: list[str] = []
    journal.listen(full)
    journal.listen(lambda event: heard.append(event.message))
    journal.tell(EventKind.STORE, "something happened")
    assert heard == ["something happened"]


async def test_a_follower_that_lags_loses_the_oldest(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisord.engine.journal.FOLLOWER_LIMIT", 2)
    with journal.follow() as inbox:
        for number in range(3):
            journal.tell(EventKind.STORE, str(number))
        assert [inbox.get_nowait().message for _ in range(2)] == ["1", "2"]
