"""A workstation in memory: GPUs, processes that take their memory, servers that answer, and the ports that show them.

The contract suite holds processes and probe to what the real ones promise.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

from supervisord.core.errors import ProbeError, SpawnError
from supervisord.core.footprint import ModelFacts
from supervisord.core.memory import (
    GIB,
    GpuProcess,
    GpuReading,
    GpuSample,
    GroupUsage,
    HostSample,
    SensorState,
    TreeUsage,
)
from supervisord.ports import Clock, GroupsState, LogState, ProcessEvents, Processors, ProcessSpec
from supervisord.runtimes.base import Address, BackendSpec, HttpAnswer

HANGS = None  # in place of an answer
OK = HttpAnswer(200, b'{"status":"ok"}')
LOADING = HttpAnswer(503, b'{"error":{"message":"Loading model","code":503}}')

Answers = dict[str, HttpAnswer | None]


@dataclass(slots=True)
class Site:
    """What answers on a port. `asked`: the paths that were asked for, with the bodies of POSTs."""

    answers: Answers = field(default_factory=dict)
    asked: list[tuple[str, bytes | None]] = field(default_factory=list)


@dataclass(slots=True)
class Card:
    """A GPU. `used`: bytes by pid."""

    index: int
    total: int = 24 * GIB
    state: SensorState = SensorState.OK
    lists_processes: bool = True  # a driver in a container shows how much is used, and not by whom
    used: dict[int, int] = field(default_factory=dict)
    load: float = 0.0  # 0..1
    on_the_bus: bool = True  # the driver tells where it is
    busy: dict[int, float] | None = None  # by pid; None: the driver does not tell

    @property
    def uuid(self) -> str:
        return f"GPU-{self.index}"

    def sample(self, at: float) -> GpuSample:
        used = sum(self.used.values())
        listed = self.used.items() if self.lists_processes else ()
        processes = tuple(
            GpuProcess(pid, size, f"process {pid}", None if self.busy is None else self.busy.get(pid, 0.0))
            for pid, size in listed
        )
        return GpuSample(
            self.index,
            self.uuid,
            "Card",
            self.state,
            at,
            self.total,
            used,
            self.total - used,
            utilization=self.load,
            processes=processes,
            address=f"0000:{self.index + 1:02x}:00" if self.on_the_bus else "",
        )


class Machine:
    """`MemoryProbe`, `KernelLog`, `ModelFiles`, and what the processes of `Processes` live on.

    `look_s`: how long the driver takes to answer; what it shows is from the beginning of the look.
    """

    def __init__(self, clock: Clock, cards: int = 1) -> None:
        self.clock = clock
        self.cards = [Card(index) for index in range(cards)]
        self.ram = 64 * GIB
        self.rss: dict[int, int] = {}
        self.cores = 0.0  # that every process tree uses
        self.crowded = 0.0  # the share of the time in which their threads want a processor
        self.sites: dict[int, Site] = {}
        self.look_s = 0.0
        self.looks = 0
        self.stall = 0.0  # percent of the time in which everything waits for memory, and the host swaps
        self.kills: int | None = 0
        self.killed: frozenset[int] | None = frozenset()  # pids that the kernel's log names; None: it cannot be read
        self.victim_names: tuple[str, ...] = ()
        self.gpu_lines: tuple[str, ...] = ()
        self.models: dict[str, ModelFacts] = {}

    def forget(self, pid: int) -> None:
        """The process is gone, and what it held is free."""
        self.rss.pop(pid, None)
        for card in self.cards:
            card.used.pop(pid, None)

    async def gpus(self) -> GpuReading:
        """See `ports.MemoryProbe`."""
        self.looks += 1
        at = self.clock.monotonic()
        samples = tuple(card.sample(at) for card in self.cards)
        if self.look_s:
            await self.clock.sleep(self.look_s)
        return GpuReading(SensorState.OK if samples else SensorState.ABSENT, samples)

    async def host(self) -> HostSample:
        """See `ports.MemoryProbe`."""
        available, swapping = self.ram - sum(self.rss.values()), 50e6 if self.stall else 0.0
        return HostSample(
            self.clock.monotonic(), self.ram, available, 0, 0, swap_in_rate=swapping, stall_full=self.stall
        )

    def oom_kills(self) -> int | None:
        """See `ports.KernelLog`."""
        return self.kills

    def named(self, pids: frozenset[int]) -> bool | None:
        """See `ports.KernelLog`."""
        return None if self.killed is None else bool(pids & self.killed)

    def victims(self, since: float) -> tuple[str, ...] | None:
        """See `ports.KernelLog`. `victim_names`: the same whenever it is asked."""
        return None if self.killed is None else self.victim_names

    def gpu_errors(self, since: float) -> tuple[str, ...] | None:
        """See `ports.KernelLog`. `gpu_lines`: the same whenever it is asked."""
        return None if self.killed is None else self.gpu_lines

    async def facts(self, spec: BackendSpec) -> ModelFacts | None:
        """See `ports.ModelFiles`."""
        return self.models.get(spec.model)

    def close(self) -> None:
        return None


class Process:
    """`ports.ManagedProcess`. What it does is set from outside: `says`, `ends`; set `obeys` and `workers` at any time.

    `workers`: there are some, and they outlive the leader until they are killed.
    """

    def __init__(self, machine: Machine, spec: ProcessSpec, events: ProcessEvents, pid: int) -> None:
        self._machine = machine
        self._events = events
        self._log: list[str] = []
        self.spec = spec
        self.pid = pid
        self.obeys = True
        self.workers: tuple[int, ...] = ()
        self.group: GroupUsage | None = None  # what its control group counts, to the end and after; None: it has none
        self.terms = self.kills = 0
        self._used_s, self._used_at = 0.0, machine.clock.monotonic()
        self._wanted_s, self._wanted_at = 0.0, machine.clock.monotonic()
        self.exited = self.gone = False
        self.site = Site(dict(_LLAMA_SERVER))
        self.port = _port_in(spec.argv)
        machine.sites[self.port] = self.site

    def says(self, *lines: str) -> None:
        """Print these lines."""
        self._log += lines
        for line in lines:
            self._soon(self._events.output, line)

    def holds(self, vram: int, card: int = 0, *, pid: int | None = None) -> None:
        """Take so many bytes of a GPU."""
        self._machine.cards[card].used[pid or self.pid] = vram

    def ends(self, status: int) -> None:
        """The leader ends."""
        if self.exited:
            return
        self.exited = True
        self._soon(self._events.exited, status)
        self._machine.forget(self.pid)
        if self._machine.sites.get(self.port) is self.site:
            del self._machine.sites[self.port]
        if not self.workers:
            self._go()

    def _go(self) -> None:
        if not self.gone:
            self.gone = True
            for pid in self.workers:
                self._machine.forget(pid)
            self._soon(self._events.tree_gone)

    def _soon(self, call: Callable[..., None], *args: object) -> None:
        """News is never told within the call that brought it about: the real one's comes through a socket."""
        asyncio.get_running_loop().call_soon(call, *args)

    def terminate(self) -> None:
        """See `ports.ManagedProcess`."""
        self.terms += 1
        if self.obeys:
            self.ends(-15)

    def kill(self) -> None:
        """See `ports.ManagedProcess`."""
        self.kills += 1
        self.ends(-9)
        self._go()

    def tail(self, lines: int) -> Sequence[str]:
        """See `ports.ManagedProcess`."""
        return self._log[-lines:]

    def log_state(self) -> LogState:
        return LogState(lines=len(self._log))

    async def usage(self) -> TreeUsage:
        """See `ports.ManagedProcess`."""
        pids = () if self.gone else (*(() if self.exited else (self.pid,)), *self.workers)
        group = None if self.gone else self.group
        return TreeUsage(pids, sum(self._machine.rss.get(pid, 0) for pid in pids), 0, self._cpu_s(), group=group)

    def group_usage(self) -> GroupUsage | None:
        """See `ports.ManagedProcess`."""
        return self.group

    def _cpu_s(self) -> float:
        now = self._machine.clock.monotonic()
        self._used_s += (now - self._used_at) * self._machine.cores
        self._used_at = now
        return self._used_s

    async def demand(self) -> Mapping[int, float]:
        """See `ports.ManagedProcess`. It has one thread."""
        self._wanted_s += (self._machine.clock.monotonic() - self._wanted_at) * self._machine.crowded
        self._wanted_at = self._machine.clock.monotonic()
        return {self.pid: self._wanted_s}

    async def owns_port(self, port: int) -> bool:
        """See `ports.ManagedProcess`."""
        return not self.exited and port == self.port


_LLAMA_SERVER: Answers = {
    "/health": OK,
    "/metrics": HttpAnswer(200, b"llamacpp:n_decode_total 0\n"),
    "/props": HttpAnswer(200, b'{"total_slots": 1, "default_generation_settings": {"n_ctx": 4096}}'),
}


def _port_in(argv: Sequence[str]) -> int:
    return int(argv[argv.index("--port") + 1]) if "--port" in argv else 0


class Processes:
    """`ports.ProcessHost`. `started`: every process there was, by backend, oldest first.

    `on_start` is called with each process before its start is told. Set `problem` to have starts fail.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._pids = count(101)
        self._ports = count(20001)
        self.started: dict[str, list[Process]] = {}
        self.on_start: Callable[[Process], None] = _ignore
        self.problem: SpawnError | None = None
        self.spawn_gate: asyncio.Event | None = None  # starts take until it is set
        self.missing: set[str] = set()  # programs and files that do not exist
        self.busy_ports: set[int] = set()
        self.helped: list[tuple[str, ...]] = []
        self.help = ""
        self.ran: list[tuple[tuple[str, ...], Mapping[str, str], float]] = []
        self.run_takes_s = 0.0
        self.run_problem = ""
        self.groups_state = GroupsState("none", "no cgroup file system is mounted here")
        self.machine_processors = Processors(((0,), (1,)), {0: (0, 1)})

    def of(self, name: str) -> Process:
        """The latest process of a backend."""
        return self.started[name][-1]

    def count(self, name: str) -> int:
        """How often a backend was started."""
        return len(self.started.get(name, ()))

    async def spawn(self, spec: ProcessSpec, events: ProcessEvents) -> Process:
        """See `ports.ProcessHost`."""
        if self.spawn_gate is not None:
            await self.spawn_gate.wait()
        if self.problem is not None:
            raise self.problem
        if spec.argv[0] in self.missing:
            raise SpawnError(f"cannot start {spec.name}: {spec.argv[0]}: No such file or directory", permanent=True)
        process = Process(self._machine, spec, events, next(self._pids))
        self.started.setdefault(spec.name, []).append(process)
        self.on_start(process)
        return process

    async def kill_leftovers(self) -> Sequence[str]:
        return ()

    def free_port(self, host: str) -> int:
        return next(self._ports)

    def find_program(self, name: str) -> str | None:
        return None if name in self.missing else f"/usr/bin/{name}"

    def find_server(self, name: str, *, embedded: bool) -> tuple[str, ...]:
        """See `ports.ProcessHost`."""
        if name in self.missing:
            raise SpawnError(f"{name} is not installed", permanent=True)
        return (f"/usr/bin/{name}",)

    async def run(self, argv: Sequence[str], env: Mapping[str, str], timeout: float) -> str:
        """See `ports.ProcessHost`."""
        self.ran.append((tuple(argv), env, timeout))
        await self._machine.clock.sleep(min(self.run_takes_s, timeout))
        return self.run_problem if self.run_takes_s <= timeout else f"{argv[0]} did not end within {timeout:g} s"

    def processors(self) -> Processors:
        return self.machine_processors

    async def help_text(self, program: Sequence[str], timeout: float) -> str:
        """See `ports.ProcessHost`."""
        self.helped.append(tuple(program))
        return self.help

    def groups(self) -> GroupsState:
        """See `ports.ProcessHost`."""
        return self.groups_state

    def port_problem(self, host: str, port: int) -> str | None:
        return f"port {port} is taken by somebody." if port in self.busy_ports else None

    async def file_problem(self, path: str) -> str | None:
        return f"{path}: No such file or directory." if path in self.missing else None

    async def close(self) -> None:
        for process in (p for of_one in self.started.values() for p in of_one if not p.gone):
            process.kill()


def _ignore(process: Process) -> None:
    del process


class Probe:
    """`ports.HealthProbe` of the machine's sites, by port."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    async def get(self, address: Address, path: str, timeout: float) -> HttpAnswer:
        """See `ports.HealthProbe`."""
        return await self._ask(address, path, None, timeout)

    async def post(self, address: Address, path: str, body: bytes, timeout: float) -> HttpAnswer:
        """See `ports.HealthProbe`."""
        return await self._ask(address, path, body, timeout)

    async def _ask(self, address: Address, path: str, body: bytes | None, timeout: float) -> HttpAnswer:
        site = self._machine.sites.get(address.port)
        name = f"{'GET' if body is None else 'POST'} http://{address.host}:{address.port}{path}"
        if site is None:
            raise ProbeError(f"{name}: connection refused")
        site.asked.append((path, body))
        answer = site.answers.get(path, HttpAnswer(404, b"{}"))
        if answer is HANGS:
            await self._machine.clock.sleep(timeout)
            raise ProbeError(f"{name}: no answer in {timeout:g} s")
        return answer

    async def close(self) -> None:
        return None


class Manager:
    """`ports.Notifier`. `told`: what the service manager heard."""

    watchdog_interval_s: float | None = None

    def __init__(self) -> None:
        self.told: list[str] = []

    def ready(self) -> None:
        self.told.append("ready")

    def status(self, text: str) -> None:
        self.told.append(text)

    def watchdog(self) -> None:
        self.told.append("watchdog")

    def stopping(self) -> None:
        self.told.append("stopping")

    def reloading(self) -> None:
        self.told.append("reloading")
