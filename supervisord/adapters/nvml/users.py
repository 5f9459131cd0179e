"""Who uses a GPU, by what the NVIDIA driver tells: how much of its memory, and how much of its time.

Blocking: called on the sensor's thread.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pynvml

from supervisord.core.memory import GpuProcess

T = TypeVar("T")

LOST = frozenset({pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED})
WINDOW_S = 2.0  # of the samples of a reading: the driver takes some each second, and only the latest look counts
# With MIG there are no such samples, before Maxwell neither, and some drivers keep them for root.
_NEVER = frozenset(
    {
        pynvml.NVML_ERROR_NOT_SUPPORTED,
        pynvml.NVML_ERROR_NO_PERMISSION,
        pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
    }
)
_SHARER = "nvidia-cuda-mps"  # the work of its clients may count as its own
_COMPUTE = (pynvml.nvmlDeviceGetComputeRunningProcesses_v3, pynvml.nvmlDeviceGetComputeRunningProcesses_v2)
_GRAPHICS = (pynvml.nvmlDeviceGetGraphicsRunningProcesses_v3, pynvml.nvmlDeviceGetGraphicsRunningProcesses_v2)


def optional(call: Callable[[], T]) -> T | None:
    """What `call` gives, or None where this GPU or driver does not offer it."""
    try:
        return call()
    except pynvml.NVMLError as error:
        if error.value in LOST or error.value == pynvml.NVML_ERROR_UNINITIALIZED:
            raise
        return None


class GpuUsers:
    """The processes of each GPU. A GPU that cannot tell how busy they keep it is not asked for that again."""

    def __init__(self, proc: Path) -> None:
        self._proc = proc
        self._silent: set[str] = set()  # UUIDs

    def forget(self) -> None:
        """The driver may be another one from now on."""
        self._silent.clear()

    def of(self, handle: Any, uuid: str) -> tuple[GpuProcess, ...]:
        """Who uses a GPU, largest first. A process that computes and draws stands in both of the driver's lists."""
        found: dict[int, int | None] = {}
        for process in (*_listed(handle, _COMPUTE), *_listed(handle, _GRAPHICS)):
            sizes = [size for size in (found.get(process.pid), process.usedGpuMemory) if size is not None]
            found[process.pid] = max(sizes, default=None)
        users = [GpuProcess(pid, used, _comm(self._proc, pid)) for pid, used in found.items()]
        users.sort(key=lambda user: (-(user.used or 0), user.pid))
        busy = self._busy(handle, uuid) if users and not any(user.name.startswith(_SHARER) for user in users) else None
        if busy is None:
            return tuple(users)
        return tuple(replace(user, busy=busy.get(user.pid, 0.0)) for user in users)

    def _busy(self, handle: Any, uuid: str) -> Mapping[int, float] | None:
        """By pid, 0..1, those that did nothing left out; None where the driver does not tell."""
        if uuid in self._silent:
            return None
        since = int((time.time() - WINDOW_S) * 1e6)  # noqa: TID251 - the driver stamps its samples with wall time
        try:
            samples = pynvml.nvmlDeviceGetProcessUtilization(handle, since)
        except pynvml.NVMLError as error:
            if error.value in _NEVER:
                self._silent.add(uuid)
            if error.value == pynvml.NVML_ERROR_NOT_FOUND:  # nobody did anything
                return {}
            return optional(partial(_raise, error))
        found: dict[int, float] = {}
        for sample in samples:
            found[sample.pid] = max(found.get(sample.pid, 0.0), sample.smUtil / 100)
        return None if any(share > 1 for share in found.values()) else found  # some drivers leave them unset


def _raise(error: Exception) -> None:
    raise error


def _listed(handle: Any, versions: Iterable[Callable[[Any], Iterable[Any]]]) -> Iterable[Any]:
    for version in versions:
        found = optional(partial(version, handle))
        if found is not None:
            return found
    return ()


def _comm(proc: Path, pid: int) -> str:
    """The name the kernel has for a process (15 characters); empty where it is gone or in another PID namespace."""
    try:
        return (proc / str(pid) / "comm").read_text(errors="replace").rstrip("\n")
    except OSError:
        return ""
