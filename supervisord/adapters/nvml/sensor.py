"""NVIDIA GPUs through NVML, read on a thread of its own: a call into a broken driver may never return."""

import asyncio
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pynvml

from supervisord.adapters.nvml.users import LOST, GpuUsers, optional
from supervisord.core.memory import GpuReading, GpuSample, SensorState

_FAILED_RETRY_S = 5.0  # a driver reload takes seconds; nvmlInit may fork nvidia-modprobe, so not at every reading
_CLOSE_S = 0.5  # nvmlShutdown takes milliseconds; its only use is tidiness

_TOO_OLD = frozenset(
    {
        pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
        pynvml.NVML_ERROR_NOT_SUPPORTED,
    }
)
_LOOK = "run nvidia-smi, and look for 'NVRM: Xid' in the kernel log"
_ADVICE = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "install the NVIDIA driver's libnvidia-ml.so.1 if this machine has a GPU",
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "run 'modprobe nvidia'; if it fails, the kernel log says why",
    pynvml.NVML_ERROR_NO_PERMISSION: "give this user access to /dev/nvidia*, and check DeviceAllow= of the service",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "the driver was upgraded: restart this daemon; if it stays, reboot",
    pynvml.NVML_ERROR_GPU_IS_LOST: f"it fell off the bus: {_LOOK}; it usually needs a reboot",
    pynvml.NVML_ERROR_RESET_REQUIRED: "stop what uses it and run 'nvidia-smi --gpu-reset', or reboot",
    pynvml.NVML_ERROR_NOT_SUPPORTED: "this GPU does not report its memory (it may share the host's)",
}


class NvmlSensor:
    """The GPU half of the MemoryProbe port.

    `deadline_s` bounds each reading, in seconds from the moment the driver was asked. While a call is blocked in the
    driver it is not made again: the last known samples are given, marked stale, with the time they were taken.
    `retry_s` is how long to wait before looking again for an absent library, or for a lost GPU. `root` is where /proc
    and /sys are.
    """

    def __init__(self, deadline_s: float = 2.0, *, retry_s: float = 60.0, root: Path = Path("/")) -> None:
        self._deadline_s = deadline_s
        self._driver = _Driver(retry_s, root)
        self._requests: SimpleQueue[Future[GpuReading] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._asked: Future[GpuReading] | None = None
        self._asked_at = 0.0
        self._last = GpuReading(SensorState.ABSENT)
        self._closed = False

    async def gpus(self) -> GpuReading:
        """All GPUs, after `deadline_s` seconds at most. Raises nothing: what is wrong is in the reading."""
        if self._closed:
            return _stale(self._last, "the GPU sensor is closed")
        asked = self._ask()
        left = self._asked_at + self._deadline_s - time.monotonic()
        if left > 0:
            await asyncio.wait((asyncio.wrap_future(asked),), timeout=left)
        if not asked.done():
            return _stale(self._last, f"the NVIDIA driver has not answered within {self._deadline_s:g} s: {_LOOK}")
        self._last = asked.result()
        return self._last

    def close(self) -> None:
        """Shut NVML down; a thread that is blocked in the driver is left behind, and does not outlive the process."""
        self._closed = True
        if self._thread is None:
            return
        self._requests.put(None)
        if self._asked is not None and self._asked.done():
            self._thread.join(_CLOSE_S)

    def _ask(self) -> Future[GpuReading]:
        if self._asked is not None:
            if not self._asked.done():
                return self._asked
            self._last = self._asked.result()  # it may have come too late for whoever asked
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="nvml", daemon=True)
            self._thread.start()
        self._asked = Future()
        self._asked_at = time.monotonic()
        self._requests.put(self._asked)
        return self._asked

    def _serve(self) -> None:
        while (request := self._requests.get()) is not None:
            request.set_result(self._driver.read())
        self._driver.shut_down()


class _Driver:
    """One session with NVML. Every method runs on the sensor's thread."""

    def __init__(self, retry_s: float, root: Path) -> None:
        self._retry_s = retry_s
        self._root = root
        self._users = GpuUsers(root / "proc")
        self._open = False
        self._version = ""
        self._known: dict[int, GpuSample] = {}
        self._refusal = GpuReading(SensorState.ABSENT)
        self._retry_at = 0.0  # monotonic: not opened again before
        self._reopen_at: float | None = None  # monotonic: a lost GPU may have been reset by then

    def read(self) -> GpuReading:
        try:
            return self._read()
        except Exception as error:  # noqa: BLE001 - whatever pynvml meets, the thread lives and the sensor says so
            return self._refuse(SensorState.FAILING, f"NVML answered nonsense: {error}; {_LOOK}")

    def shut_down(self) -> None:
        if self._open:
            self._open = False
            self._users.forget()
            with suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()

    def _read(self) -> GpuReading:
        if self._reopen_at is not None and time.monotonic() >= self._reopen_at:
            self.shut_down()
        if not self._open and time.monotonic() < self._retry_at:
            return self._refusal
        was_open = self._open
        try:
            return self._read_open()
        except pynvml.NVMLError as error:
            if was_open and error.value == pynvml.NVML_ERROR_UNINITIALIZED:  # the driver was reloaded
                self.shut_down()
                return self._read()
            return self._failed(error)

    def _read_open(self) -> GpuReading:
        if not self._open:
            pynvml.nvmlInit()
            self._open, self._reopen_at = True, None
            self._version = optional(pynvml.nvmlSystemGetDriverVersion) or ""
        count = pynvml.nvmlDeviceGetCount()
        if count == 0:
            return self._none_found()
        samples = tuple(self._sample(index) for index in range(count))
        self._known = {sample.index: sample for sample in samples}
        if self._reopen_at is None and any(sample.state is SensorState.LOST for sample in samples):
            self._reopen_at = time.monotonic() + self._retry_s
        if any(sample.state is SensorState.OK for sample in samples):
            return GpuReading(SensorState.OK, samples, driver=self._version)
        return GpuReading(samples[0].state, samples, samples[0].problem, self._version)

    # --- one GPU ---

    def _sample(self, index: int) -> GpuSample:
        try:
            return self._measure(index, pynvml.nvmlDeviceGetHandleByIndex(index))
        except pynvml.NVMLError as error:
            if error.value == pynvml.NVML_ERROR_UNINITIALIZED:
                raise
            state = SensorState.LOST if error.value in LOST else SensorState.FAILING
            known = self._known.get(index) or GpuSample(index, "", f"GPU {index}", state, time.monotonic())
            return replace(known, state=state, problem=_words(f"GPU {index}", error))

    def _measure(self, index: int, handle: Any) -> GpuSample:
        at = time.monotonic()  # before the call: a sample is never younger than it says
        memory = _memory(handle)
        rates = optional(lambda: pynvml.nvmlDeviceGetUtilizationRates(handle))
        celsius = optional(lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU))
        milliwatts = optional(lambda: pynvml.nvmlDeviceGetPowerUsage(handle))
        uuid = str(pynvml.nvmlDeviceGetUUID(handle))
        return GpuSample(
            index=index,
            uuid=uuid,
            name=str(pynvml.nvmlDeviceGetName(handle)),
            state=SensorState.OK,
            at=at,
            total=int(memory.total),
            used=int(memory.used),
            free=int(memory.free),
            reserved=int(getattr(memory, "reserved", 0)),
            utilization=None if rates is None else rates.gpu / 100,
            temperature_c=None if celsius is None else float(celsius),
            power_w=None if milliwatts is None else milliwatts / 1000,
            processes=self._users.of(handle, uuid),
            address=optional(partial(_address, handle)) or "",
        )

    # --- no GPU ---

    def _none_found(self) -> GpuReading:
        self.shut_down()
        if _has_nvidia_pci(self._root / "sys"):
            hint = "check 'nvidia-smi -L', the nodes /dev/nvidia*, and DeviceAllow= of the service"
            return self._refuse(SensorState.FAILING, f"NVML finds no GPU though the PCI bus has one: {hint}")
        return self._refuse(SensorState.ABSENT, "NVML finds no GPU on this machine")

    def _failed(self, error: Any) -> GpuReading:
        self.shut_down()
        if error.value == pynvml.NVML_ERROR_LIBRARY_NOT_FOUND and not _has_nvidia_pci(self._root / "sys"):
            return self._refuse(SensorState.ABSENT, "no NVIDIA driver, and no NVIDIA GPU on the PCI bus")
        return self._refuse(self._state_of(error.value), _words("NVML", error))

    def _state_of(self, code: int) -> SensorState:
        if code in LOST:
            return SensorState.LOST
        if code == pynvml.NVML_ERROR_LIBRARY_NOT_FOUND:
            return SensorState.ABSENT
        # The library is installed on machines without a GPU, too; a driver missing for a GPU that is there is a fault.
        if code == pynvml.NVML_ERROR_DRIVER_NOT_LOADED and not _has_nvidia_pci(self._root / "sys"):
            return SensorState.ABSENT
        return SensorState.FAILING

    def _refuse(self, state: SensorState, problem: str) -> GpuReading:
        absent = state is SensorState.ABSENT
        self._retry_at = time.monotonic() + (self._retry_s if absent else min(_FAILED_RETRY_S, self._retry_s))
        known = () if absent else self._known.values()
        gpus = tuple(replace(sample, state=state, problem=problem) for sample in known)
        self._refusal = GpuReading(state, gpus, problem, self._version)
        return self._refusal


def _words(what: str, error: Any) -> str:
    return f"{what}: {error} (NVML error {error.value}): {_ADVICE.get(error.value, _LOOK)}"


def _stale(last: GpuReading, problem: str) -> GpuReading:
    """`last` as it was, no longer to be relied on. A lost GPU stays lost."""
    gpus = tuple(
        sample if sample.state is SensorState.LOST else replace(sample, state=SensorState.STALE, problem=problem)
        for sample in last.gpus
    )
    return GpuReading(SensorState.STALE, gpus, problem, last.driver)


def _address(handle: Any) -> str:
    """As the kernel writes it; NVML's own text has a domain of eight digits, and a function."""
    found = pynvml.nvmlDeviceGetPciInfo(handle)
    return f"{found.domain:04x}:{found.bus:02x}:{found.device:02x}"


def _memory(handle: Any) -> Any:
    """Version 2 tells what the driver keeps for itself; before driver 510 only version 1, which counts it as used."""
    try:
        return pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
    except pynvml.NVMLError as error:
        if error.value not in _TOO_OLD:
            raise
        return pynvml.nvmlDeviceGetMemoryInfo(handle)


def _has_nvidia_pci(sys: Path) -> bool:
    """Whether a display controller (class 03) of NVIDIA (vendor 10de) is on the PCI bus."""
    return any(
        _first_line(device / "vendor") == "0x10de" and _first_line(device / "class").startswith("0x03")
        for device in (sys / "bus/pci/devices").glob("*")
    )


def _first_line(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
