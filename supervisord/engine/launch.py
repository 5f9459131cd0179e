"""From a backend's description to a process that can be spawned; whatever is missing is told before anything starts."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from supervisord.core.errors import SpawnError
from supervisord.core.ladder import Footprint
from supervisord.ports import ProcessHost, ProcessSpec
from supervisord.runtimes.base import BackendSpec, Runtime

HELP_TIMEOUT_S = 10.0  # a CUDA build of llama-server takes up to 2 s to list its flags
EMBEDDED_MODEL = "embedded"

_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")


@dataclass(frozen=True, slots=True)
class Prepared:
    spec: ProcessSpec
    port: int


class Launcher:
    """Prepares the starts of one backend."""

    def __init__(self, spec: BackendSpec, runtime: Runtime, processes: ProcessHost) -> None:
        self._spec = spec
        self._runtime = runtime
        self._processes = processes
        self._offered: dict[tuple[str, ...], frozenset[str]] = {}

    async def prepare(self, generation: int, footprint: Footprint) -> Prepared:
        """Raises SpawnError, permanent where somebody has to change something first."""
        program = self._program()
        self._check_model()
        port = self._port()
        offered = await self._flags_of(program)
        launch = self._runtime.launch(self._spec, footprint, port, program, offered)
        spec = ProcessSpec(
            name=self._spec.name,
            generation=generation,
            argv=launch.argv,
            env=launch.env,
            cwd=launch.cwd,
            nice=self._spec.nice,
            oom_score_adj=self._spec.oom_score_adj,
        )
        return Prepared(spec, port)

    def _program(self) -> tuple[str, ...]:
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

    def _check_model(self) -> None:
        if self._spec.model == EMBEDDED_MODEL:
            return
        problem = self._processes.file_problem(self._spec.model)
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
