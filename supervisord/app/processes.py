"""`ports.ProcessHost`, put together from the adapters that know a part of it each."""

from collections.abc import Mapping, Sequence

from supervisord.adapters.llama_binary import NO_LLAMA_SERVER, embedded_llama_server, find_llama_server
from supervisord.adapters.process import inspect, short_programs
from supervisord.adapters.process.host import LinuxProcessHost
from supervisord.adapters.processors import read_processors
from supervisord.core.errors import SpawnError
from supervisord.ports import Processors

LLAMA_SERVER = "llama-server"


class Processes(LinuxProcessHost):
    """Processes on this machine, and the programs there are to start."""

    def find_server(self, name: str, *, embedded: bool) -> tuple[str, ...]:
        """See `ports.ProcessHost`. Only llama-server has an embedded stand-in."""
        if name != LLAMA_SERVER:
            return self._on_path(name)
        found = embedded_llama_server() if embedded else find_llama_server(self.find_program)
        if found is None:
            raise SpawnError(f"Cannot start {name}: {NO_LLAMA_SERVER}", permanent=True)
        return found

    def _on_path(self, name: str) -> tuple[str, ...]:
        found = self.find_program(name)
        if found is None:
            raise SpawnError(
                f'Cannot start {name}: there is no "{name}" on PATH. Install it, or name it (or the python of its '
                "environment) in the backend's `binary`.",
                permanent=True,
            )
        return (found,)

    async def help_text(self, program: Sequence[str], timeout: float) -> str:
        """See `ports.ProcessHost`."""
        return await short_programs.help_text(program, timeout)

    async def run(self, argv: Sequence[str], env: Mapping[str, str], timeout: float) -> str:
        """See `ports.ProcessHost`."""
        return await short_programs.run(argv, env, timeout, self._secrets())

    def processors(self) -> Processors:
        """See `ports.ProcessHost`."""
        return read_processors()

    def port_problem(self, host: str, port: int) -> str | None:
        """See `ports.ProcessHost`."""
        return inspect.port_problem(host, port)
