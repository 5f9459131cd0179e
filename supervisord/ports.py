"""Where the engine meets the world. Each Protocol has one real adapter, and a verified in-memory one for tests."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from supervisord.core.footprint import ModelFacts
from supervisord.core.memory import GpuReading, HostSample, TreeUsage
from supervisord.core.record import AttemptRecord, EventRecord, FootprintRecord, JobRecord, JobResult
from supervisord.runtimes.base import Address, BackendSpec, HttpAnswer


class Clock(Protocol):
    """Time. Durations are only ever differences of `monotonic()`."""

    def monotonic(self) -> float:
        """Seconds that never jump."""
        ...

    def wall(self) -> float:
        """Seconds since the epoch, for people to read; it may jump."""
        ...

    def call_at(self, when: float, callback: Callable[[], None]) -> "Timer":
        """Run `callback` once `monotonic()` has reached `when`."""
        ...

    async def sleep(self, seconds: float) -> None: ...


class Timer(Protocol):
    def cancel(self) -> None: ...


# --- processes -------------------------------------------------------------------------------------------------------


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
        """What `program --help` prints, bounded at 256 KiB; empty when it fails or takes longer than `timeout` s."""
        ...

    def port_problem(self, host: str, port: int) -> str | None:
        """Why nobody could listen on `port`, in words that name the holder where it can be seen; None if one could."""
        ...

    async def file_problem(self, path: str) -> str | None:
        """Why a file or folder cannot be read, in words; None if it can."""
        ...

    async def close(self) -> None: ...


class KernelLog(Protocol):
    """The kernel's own word on processes that it killed."""

    def oom_kills(self) -> int | None:
        """How many processes it has killed for lack of memory since boot; None where it does not count."""
        ...

    def named(self, pids: frozenset[int]) -> bool | None:
        """Whether its log tells of one of `pids` being killed for lack of memory; None where it cannot be read."""
        ...


# --- sensors and probes ----------------------------------------------------------------------------------------------


class HealthProbe(Protocol):
    async def get(self, address: Address, path: str, timeout: float) -> HttpAnswer:
        """One GET on a fresh or kept connection, body bounded at 1 MiB. Raises ProbeError after `timeout` s at most."""
        ...

    async def post(self, address: Address, path: str, body: bytes, timeout: float) -> HttpAnswer:
        """One POST of a JSON body; otherwise as `get`, with an answer of at most 16 MiB."""
        ...

    async def close(self) -> None: ...


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


# --- records ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class JobFilter:
    status: str | None = None
    model: str | None = None
    backend: str | None = None
    since: float | None = None  # seconds since the epoch
    after: str | None = None  # a job id: only older ones, newest first
    limit: int = 50


@dataclass(frozen=True, slots=True)
class StoredJob:
    """A job with all that became of it."""

    job: JobRecord
    status: str
    result: JobResult | None
    attempts: tuple[AttemptRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class StoredEvent:
    id: int
    event: EventRecord


@dataclass(frozen=True, slots=True)
class StoreState:
    """How the store is. `problem` is empty while it takes writes."""

    path: str
    size_bytes: int
    pending: int  # writes handed over and not yet committed
    problem: str = ""
    full: bool = False  # the disk below it is full
    oldest_pending_s: float | None = None  # how long the oldest of them waits


@dataclass(frozen=True, slots=True)
class Recovery:
    """What opening the store found of an earlier life."""

    abandoned: int = 0  # synchronous jobs whose client died with the daemon
    jobs_total: int = 0
    notes: tuple[str, ...] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True)
class DayCounts:
    done: int
    failed: int


class JobStore(Protocol):
    """The records. One writer; `put_*` hand a write over and return at once, writes are committed in groups, in order.

    `put_*` raise StoreUnavailableError (or StoreFullError) when the writer is broken or too far behind.
    """

    async def open(self) -> Recovery:
        """Open, migrate, check, recover. Raises StateFolderError."""
        ...

    def put_job(self, job: JobRecord) -> None: ...

    def put_attempt_started(self, job_id: str, number: int, backend: str, generation: int) -> None: ...

    def put_attempt(self, attempt: AttemptRecord) -> None: ...

    def put_result(self, result: JobResult) -> None:
        """Final: a job that has a result keeps its first one."""
        ...

    def put_event(self, event: EventRecord) -> None: ...

    def put_footprint(self, footprint: FootprintRecord) -> None:
        """What a backend was seen to take; replaces what was known of the same configuration."""
        ...

    async def footprints(self) -> Sequence[FootprintRecord]:
        """All that are known: one for each configuration that ever ran."""
        ...

    async def flush(self) -> None:
        """Everything handed over before is durable on return."""
        ...

    async def job(self, job_id: str) -> StoredJob | None:
        """By full id or unambiguous prefix."""
        ...

    async def jobs(self, wanted: JobFilter) -> Sequence[StoredJob]: ...

    async def events(self, *, after: int | None, limit: int, backend: str | None = None) -> Sequence[StoredEvent]:
        """After id `after`, oldest first; without it the newest `limit`, oldest first."""
        ...

    async def counts_since(self, since: float) -> DayCounts: ...

    def state(self) -> StoreState: ...

    async def close(self) -> None: ...


# --- the relay -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    """One request to a backend; the body goes out as it is, with its length."""

    address: Address
    method: str
    path: str  # below the address's prefix
    headers: Sequence[tuple[str, str]]  # besides the address's own
    body: bytes
    idle_timeout_s: float  # nothing received for that long: fault "idle"
    connect_timeout_s: float = 5.0


@dataclass(frozen=True, slots=True)
class UpstreamFault:
    """Why an exchange broke off. `kind`: connect, reset, eof, protocol, idle."""

    kind: str
    detail: str


class Receiver(Protocol):
    """Takes an answer as it arrives; called on the loop from within the read, so it must be quick."""

    def on_head(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Header names come lower-case."""
        ...

    def on_data(self, data: bytes) -> None:
        """A part of the body, transfer coding removed, as one read brought it."""
        ...

    def on_end(self) -> None:
        """The body is whole by its own framing."""
        ...

    def on_fault(self, fault: UpstreamFault) -> None:
        """It will not become whole. Nothing follows."""
        ...


class Exchange(Protocol):
    def pause(self) -> None:
        """Stop reading from the backend: the client is slower."""
        ...

    def resume(self) -> None: ...

    def abort(self) -> None:
        """Close the connection now, so that the backend stops computing. No call follows."""
        ...


class Upstream(Protocol):
    async def start(self, request: UpstreamRequest, receiver: Receiver) -> Exchange:
        """Send a request; the answer goes to `receiver`. A connect failure is an UpstreamFault, not an exception."""
        ...

    def forget(self, address: Address) -> None:
        """Close the kept connections to an address: its process is gone."""
        ...

    async def close(self) -> None: ...


class Client(Protocol):
    """The waiting client of a synchronous job. Nothing has reached it until `start` was called."""

    def start(self, status: int, headers: Sequence[tuple[str, str]], *, length: int | None) -> None:
        """Send the head. `length` None: the body's end is marked by the framing (chunked)."""
        ...

    def write(self, data: bytes) -> bool:
        """Send a part of the body; False when the buffer towards the client is full: wait for `drained`."""
        ...

    async def drained(self) -> None:
        """Returns once the client has taken enough. Unbounded: the caller sets the limit."""
        ...

    def finish(self) -> None:
        """The body is whole."""
        ...

    def abort(self) -> None:
        """Cut the connection so that the client cannot take the answer for a whole one."""
        ...


class Notifier(Protocol):
    """The service manager."""

    def ready(self) -> None: ...

    def status(self, text: str) -> None: ...

    def watchdog(self) -> None: ...

    def stopping(self) -> None: ...

    def reloading(self) -> None:
        """A reload has begun; `ready` tells its end."""
        ...

    @property
    def watchdog_interval_s(self) -> float | None:
        """How often the manager wants to be told; None: it does not watch."""
        ...
