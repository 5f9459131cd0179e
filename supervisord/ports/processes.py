"""Process trees, and what starts them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from supervisord.core.memory import GroupLimits, GroupUsage, TreeUsage


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """A process to start in its own session, under a guardian that kills its whole tree when the daemon is gone."""

    name: str  # of the backend; names the log file
    generation: int
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str = ""
    nice: int = 0
    oom_score_adj: int | None = None
    cpus: tuple[int, ...] = ()  # the processors it may run on; empty: as the daemon
    memory_node: int | None = None  # the NUMA node its memory should come from; None: the system's choice
    limits: GroupLimits = field(default_factory=GroupLimits)  # of its control group, where there are any


@dataclass(frozen=True, slots=True)
class LogState:
    """How the draining of a process's output goes. Counts are since the start of this generation."""

    lines: int = 0
    bytes: int = 0
    dropped_bytes: int = 0  # not written to the file: the disk was slower than the process, or full
    cut_lines: int = 0  # longer than the limit of a line
    degraded: str = ""  # why the file is not being written; empty while it is


@dataclass(frozen=True, slots=True)
class Processors:
    """The machine's logical processors, by number. `cores`: those that share one physical core, together."""

    cores: tuple[tuple[int, ...], ...]
    nodes: Mapping[int, tuple[int, ...]]  # NUMA node -> its processors


@dataclass(frozen=True, slots=True)
class GroupsState:
    """How control groups can be used here. `kind`: v2, v1 or none; `problem`: why not, or what is missing of them."""

    kind: str
    problem: str = ""
    controllers: tuple[str, ...] = ()  # memory, pids: those that can be used


class ProcessEvents(Protocol):
    """What a process host tells about one process; called on the loop, in order, never after `tree_gone`."""

    def exited(self, status: int) -> None:
        """The leader ended; negative status: the signal."""
        ...

    def tree_gone(self) -> None:
        """No process of the tree is left, and no zombie of it."""
        ...

    def output(self, line: str) -> None:
        """One line of stdout or stderr (decoded with replacement, cut at the limit)."""
        ...


class ManagedProcess(Protocol):
    """A running (or ended) process tree."""

    pid: int  # of the leader

    def terminate(self) -> None:
        """SIGTERM and SIGCONT to the group of the leader. Does nothing once it has ended."""
        ...

    def kill(self) -> None:
        """SIGKILL to every process of the tree, again and again until none is left; `tree_gone` tells."""
        ...

    def tail(self, lines: int) -> Sequence[str]:
        """The last lines of output, oldest first; bounded by the ring."""
        ...

    def log_state(self) -> LogState: ...

    async def usage(self) -> TreeUsage:
        """What the whole tree uses now. An ended tree uses nothing."""
        ...

    def group_usage(self) -> GroupUsage | None:
        """Its control group at this moment; None where it has none. Quick: a few reads below /sys."""
        ...

    async def demand(self) -> Mapping[int, float]:
        """By thread id: seconds that it has run, or waited for a processor while it could run, since it started.

        Of the processes that `usage` found last; nothing where the kernel does not tell. Reads a file for each thread.
        """
        ...

    async def owns_port(self, port: int) -> bool:
        """Whether a process of the tree listens on TCP `port`."""
        ...


class ProcessHost(Protocol):
    async def kill_leftovers(self) -> Sequence[str]:
        """Kill what an earlier life of the daemon left behind; says in words what was killed."""
        ...

    async def spawn(self, spec: ProcessSpec, events: ProcessEvents) -> ManagedProcess:
        """Start a process. Raises SpawnError: the program is missing, not executable, or the system refuses."""
        ...

    def free_port(self, host: str) -> int:
        """A TCP port nobody listens on at this moment."""
        ...

    def find_program(self, name: str) -> str | None:
        """The absolute path of a program, by path or on PATH; None if it does not exist or cannot be run."""
        ...

    def find_server(self, name: str, *, embedded: bool) -> tuple[str, ...]:
        """What starts a model server where the configuration says `auto`: `name` on PATH, else the embedded engine.

        `embedded`: the bundled model is wanted, which only the embedded engine knows. Raises SpawnError, permanent,
        saying what to install.
        """
        ...

    async def run(self, argv: Sequence[str], env: Mapping[str, str], timeout: float) -> str:
        """Run a short helper program to its end, in at most `timeout` s; why it failed, in words, or empty."""
        ...

    def processors(self) -> "Processors":
        """What this machine computes with."""
        ...

    async def help_text(self, program: Sequence[str], timeout: float) -> str:
        """What `program --help` prints, bounded at 256 KiB; empty when it fails or takes longer than `timeout` s.

        Raises SpawnError where the machine has nothing left to run it with.
        """
        ...

    def port_problem(self, host: str, port: int) -> str | None:
        """Why nobody could listen on `port`, in words that name the holder where it can be seen; None if one could.

        Raises SpawnError where the machine has nothing left to try it with.
        """
        ...

    def groups(self) -> GroupsState:
        """What control groups do here."""
        ...

    async def file_problem(self, path: str) -> str | None:
        """Why a file or folder cannot be read, in words; None if it can. Raises SpawnError as `port_problem`."""
        ...

    async def close(self) -> None: ...
