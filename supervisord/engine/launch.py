"""From a backend's description to a process that can be spawned; whatever is missing is told before anything starts."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from supervisord.core.errors import SpawnError
from supervisord.core.ladder import Footprint
from supervisord.ports import ProcessHost, Processors, ProcessSpec
from supervisord.runtimes.base import Address, BackendSpec, Runtime

HELP_TIMEOUT_S = 10.0  # a CUDA build of llama-server takes up to 2 s to list its flags
EMBEDDED_MODEL = "embedded"
OMP_THREADS = "OMP_NUM_THREADS"

_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")


@dataclass(frozen=True, slots=True)
class Prepared:
    spec: ProcessSpec
    address: Address
    stop: tuple[str, ...] = ()


class Launcher:
    """Prepares the starts of one backend."""

    def __init__(
        self, spec: BackendSpec, runtime: Runtime, processes: ProcessHost, headroom: Callable[[], int]
    ) -> None:
        self._headroom = headroom
        self._spec = spec
        self._runtime = runtime
        self._processes = processes
        self._offered: dict[tuple[str, ...], frozenset[str]] = {}

    async def check(self) -> None:
        """Look for what a start needs, before memory is found for it. Raises SpawnError, permanent."""
        self._program()
        await self._check_model()

    async def prepare(self, generation: int, footprint: Footprint) -> Prepared:
        """Raises SpawnError, permanent where somebody has to change something first."""
        program = self._program()
        await self._check_model()
        port = self._port()
        offered = await self._flags_of(program) if self._runtime.asks_help else frozenset()
        placed = processors_of(self._spec, self._processes.processors())
        described = replace(self._spec, threads=placed.threads, headroom=self._headroom())
        launch = self._runtime.launch(described, footprint, port, program, offered)
        spec = ProcessSpec(
            name=self._spec.name,
            generation=generation,
            argv=launch.argv,
            env={**placed.env, **launch.env},
            cwd=launch.cwd,
            nice=self._spec.nice,
            oom_score_adj=self._spec.oom_score_adj,
            cpus=placed.cpus,
            memory_node=self._spec.numa_node,
            limits=self._spec.limits,
        )
        return Prepared(spec, self._runtime.address(self._spec, port), launch.stop)

    def _program(self) -> tuple[str, ...]:
        if not self._runtime.program:  # the configured command names it
            return ()
        if self._spec.binary == "auto":
            return self._processes.find_server(self._runtime.program, embedded=self._spec.model == EMBEDDED_MODEL)
        path = self._processes.find_program(self._spec.binary)
        if path is None:
            raise SpawnError(
                f'The program "{self._spec.binary}" does not exist or cannot be run. '
                f"Correct backends.{self._spec.name}.binary.",
                permanent=True,
            )
        return (path,)

    async def _check_model(self) -> None:
        if not self._spec.model.startswith("/"):  # embedded, or a name that its server knows
            return
        problem = await self._processes.file_problem(self._spec.model)
        if problem is not None:
            raise SpawnError(f"{problem} Correct backends.{self._spec.name}.model.", permanent=True)

    def _port(self) -> int:
        if not self._spec.port:
            return self._processes.free_port(self._spec.host)
        problem = self._processes.port_problem(self._spec.host, self._spec.port)
        if problem is not None:
            raise SpawnError(f"{problem} Free it, or change backends.{self._spec.name}.port.", permanent=True)
        return self._spec.port

    async def _flags_of(self, program: Sequence[str]) -> frozenset[str]:
        """The long flags that the program's help names; asked once for each program."""
        key = tuple(program)
        if key not in self._offered:
            text = await self._processes.help_text(key, HELP_TIMEOUT_S)
            self._offered[key] = frozenset(_FLAG.findall(text))
        return self._offered[key]


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a backend computes. `threads`: as configured, else one for each physical core it was given."""

    cpus: tuple[int, ...]
    threads: int | None
    env: Mapping[str, str]


def processors_of(spec: BackendSpec, machine: Processors) -> Placed:
    """The processors a backend may use, and how many threads that is good for.

    OpenMP counts logical processors; two threads on one physical core only fight over its arithmetic units.
    Raises SpawnError for a NUMA node that this machine does not have.
    """
    cpus = spec.cpus
    if not cpus and spec.numa_node is not None:
        if spec.numa_node not in machine.nodes:
            there = ", ".join(str(node) for node in sorted(machine.nodes)) or "none"
            raise SpawnError(
                f"This machine has no NUMA node {spec.numa_node}; it has: {there}. "
                f"Correct backends.{spec.name}.numa_node.",
                permanent=True,
            )
        cpus = machine.nodes[spec.numa_node]
    mine = set(cpus)
    cores = sum(1 for core in machine.cores if not mine or mine.intersection(core))
    threads = spec.threads if spec.threads is not None or not cpus else max(1, cores)
    omp = threads if threads is not None else cores
    return Placed(cpus, threads, {OMP_THREADS: str(omp)} if omp else {})
