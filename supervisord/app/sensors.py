"""The two halves of the MemoryProbe port as one."""

from supervisord.adapters.host_memory import HostSensor
from supervisord.adapters.nvml import NvmlSensor
from supervisord.core.memory import GpuReading, HostSample


class Sensors:
    """Implements ports.MemoryProbe."""

    def __init__(self, nvml: NvmlSensor, host: HostSensor) -> None:
        self._nvml = nvml
        self._host = host

    async def gpus(self) -> GpuReading:
        return await self._nvml.gpus()

    async def host(self) -> HostSample:
        return await self._host.host()

    def close(self) -> None:
        self._nvml.close()
