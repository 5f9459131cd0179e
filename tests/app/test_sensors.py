"""Both sensors behind one port."""

import sys
from pathlib import Path

from supervisord.adapters.host_memory import HostSensor
from supervisord.adapters.nvml import NvmlSensor
from supervisord.app.sensors import Sensors
from supervisord.core.memory import SensorState
from supervisord.ports import MemoryProbe


async def test_the_port_gives_both_readings(tmp_path: Path) -> None:
    probe: MemoryProbe = Sensors(NvmlSensor(deadline_s=20), HostSensor())
    assert (await probe.host()).total > 0
    reading = await probe.gpus()
    assert reading.state in {SensorState.OK, SensorState.ABSENT, SensorState.FAILING}
    assert "pynvml" in sys.modules
    probe.close()
    assert (await probe.gpus()).state is SensorState.STALE
