"""What is asked of the machine and of the servers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from supervisord.core.footprint import ModelFacts
from supervisord.core.memory import GpuReading, HostSample
from supervisord.runtimes.base import Address, BackendSpec, HttpAnswer


class KernelLog(Protocol):
    """The kernel's own word on processes that it killed, and on GPUs that failed."""

    def oom_kills(self) -> int | None:
        """How many processes it has killed for lack of memory since boot; None where it does not count."""
        ...

    def named(self, pids: frozenset[int]) -> bool | None:
        """Whether its log tells of one of `pids` being killed for lack of memory; None where it cannot be read."""
        ...

    def victims(self, since: float) -> tuple[str, ...] | None:
        """The names, cut at 15 characters, of those killed for lack of memory since `since` (monotonic), or up to a
        second earlier; None where its log cannot be read. For containers, whose PIDs are not the kernel's."""
        ...

    def gpu_errors(self, since: float) -> tuple[str, ...] | None:
        """What it says of GPUs that failed ("NVRM: Xid (PCI:0000:01:00): 79, …") since then, oldest first, 64 lines at
        most; None where its log cannot be read."""
        ...


class HealthProbe(Protocol):
    async def get(self, address: Address, path: str, timeout: float) -> HttpAnswer:
        """One GET on a fresh or kept connection, body bounded at 1 MiB. Raises ProbeError after `timeout` s at most."""
        ...

    async def post(self, address: Address, path: str, body: bytes, timeout: float) -> HttpAnswer:
        """One POST of a JSON body; otherwise as `get`, with an answer of at most 16 MiB."""
        ...

    async def close(self) -> None: ...


RUNNING = "running"  # in place of what a thread waits for: it runs, or waits for a processor
ON_DISK = "disk"  # before what it waits for, with a colon: it waits for a disk, or for memory to come back from one


@dataclass(frozen=True, slots=True)
class ProcessFinding:
    """One process, looked at because it seems to hang. Every text is bounded."""

    pid: int
    name: str
    state: str  # the letter of /proc/PID/stat: R, S, D, T, Z
    cpu_s: float
    threads: Mapping[str, int] = field(default_factory=dict)  # what they wait for (wchan, RUNNING), and how many do
    stack: str = ""  # by py-spy, of a Python process, where it is installed; else the kernel's, where it may be read
    problem: str = ""  # why something of this is missing


class Examiner(Protocol):
    """Looks at processes that seem to hang."""

    async def examine(self, pids: Sequence[int], timeout: float) -> Sequence[ProcessFinding]:
        """What they are doing, after `timeout` s at the latest; those that are gone are left out."""
        ...


class MemoryProbe(Protocol):
    async def gpus(self) -> GpuReading:
        """The GPUs, never later than the adapter's deadline; a late driver gives state `stale`."""
        ...

    async def host(self) -> HostSample: ...

    def close(self) -> None: ...


class ModelFiles(Protocol):
    async def facts(self, spec: BackendSpec) -> ModelFacts | None:
        """What the files of a backend's model tell; None where there are none here or they cannot be read."""
        ...
