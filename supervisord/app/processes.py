"""`ports.ProcessHost`, put together from the adapters that know a part of it each."""

from collections.abc import Sequence

from supervisord.adapters.llama_binary import NO_LLAMA_SERVER, embedded_llama_server, find_llama_server
from supervisord.adapters.process import inspect
from supervisord.adapters.process.host import LinuxProcessHost
from supervisord.core.errors import SpawnError


class Processes(LinuxProcessHost):
    """Processes on this machine, and the programs there are to start."""

    def find_server(self, name: str, *, embedded: bool) -> tuple[str, ...]:
        """See `ports.ProcessHost`."""
        found = embedded_llama_server() if embedded else find_llama_server(self.find_program)
        if found is None:
            raise SpawnError(f"Cannot start {name}: {NO_LLAMA_SERVER}", permanent=True)
        return found

    async def help_text(self, program: Sequence[str], timeout: float) -> str:
        """See `ports.ProcessHost`."""
        return await inspect.help_text(program, timeout)

    def port_problem(self, host: str, port: int) -> str | None:
        """See `ports.ProcessHost`."""
        return inspect.port_problem(host, port)
