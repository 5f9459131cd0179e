"""The whole engine on a workstation in memory, where time passes only when a test says so."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, TypeVar

from supervisord.adapters.health import HttpProbe
from supervisord.adapters.upstream import HttpUpstream
from supervisord.core import life
from supervisord.core.job import Job, Submission
from supervisord.core.memory import GIB, VramLimits
from supervisord.core.placement import PlacementPolicy
from supervisord.core.record import EventKind
from supervisord.core.routing import Route
from supervisord.core.state import LifePolicy, Phase
from supervisord.engine.backend import Backend
from supervisord.engine.gateway import GatewayPolicy
from supervisord.engine.sampler import MemoryLimits
from supervisord.engine.settings import Ports, Settings
from supervisord.engine.supervisor import Supervisor
from supervisord.engine.tickets import Lease, Ticket
from supervisord.engine.work.backlog import BacklogPolicy
from supervisord.ports import Examiner, HealthProbe, Upstream
from supervisord.ports.outputs import OutputChecker
from supervisord.runtimes.base import BackendSpec, CommandOptions, MemoryNeed, RemoteOptions, RuntimeKind
from tests.fakes.clock import FakeClock, fake_time
from tests.fakes.engine import Machine, Manager, Probe, Processes
from tests.fakes.store import MemoryStore

Result = TypeVar("Result")

CHAT = "/v1/chat/completions"
RESERVE = GIB


def llama(name: str, vram: float | None = 1.0, **changes: Any) -> BackendSpec:
    """A llama-server that is said to take so many GiB of VRAM, and no RAM."""
    need = MemoryNeed(vram=None if vram is None else int(vram * GIB), ram=0)
    policy = LifePolicy(slots=changes.pop("slots", 1))
    spec = BackendSpec(name, RuntimeKind.LLAMA_CPP, f"/models/{name}.gguf", (name,), memory=need, autostart=False)
    return replace(spec, **({"life": policy} | changes))


def command(name: str, *argv: str, **changes: Any) -> BackendSpec:
    """A configured command line; `stop` as in its options."""
    options = CommandOptions(argv or ("serve", "--port", "${port}"), stop=changes.pop("stop", ()))
    spec = BackendSpec(name, RuntimeKind.COMMAND, "", (name,), command=options, autostart=False)
    return replace(spec, memory=MemoryNeed(vram=0, ram=0), **changes)


def remote(name: str, url: str = "http://127.0.0.1:4000/v1", key: str = "", **changes: Any) -> BackendSpec:
    """An address that is not ours."""
    options = RemoteOptions(url, key)
    policy = LifePolicy(slots=changes.pop("slots", 16), breaker=changes.pop("breaker", 3))
    spec = BackendSpec(name, RuntimeKind.REMOTE, "", (name,), remote=options, life=policy, autostart=False)
    return replace(spec, **changes)


class Wire:
    """`ports.Client` that remembers what it was told."""

    bodiless = False  # as the door's own client has it

    def __init__(self) -> None:
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.body = b""
        self.finished = self.aborted = False

    def start(self, status: int, headers: Sequence[tuple[str, str]], *, length: int | None) -> None:
        """See `ports.Client`."""
        del length
        assert self.status is None, "a head can be sent once"
        self.status, self.headers = status, dict(headers)

    def write(self, data: bytes) -> bool:
        """See `ports.Client`."""
        assert self.status is not None
        assert not self.finished
        self.body += data
        return True

    async def drained(self) -> None:
        return None

    def finish(self) -> None:
        self.finished = True

    def abort(self) -> None:
        self.aborted = True


@dataclass(slots=True)
class Rig:
    """The engine, and everything around it."""

    supervisor: Supervisor
    clock: FakeClock
    machine: Machine
    processes: Processes
    store: MemoryStore
    manager: Manager
    jobs: Any

    def __getitem__(self, name: str) -> Backend:
        return self.supervisor.backends[name]

    def phase(self, name: str) -> Phase:
        return self[name].state.phase

    def told(self, kind: EventKind, backend: str | None = None) -> list[str]:
        """The events of a kind, in words."""
        events = self.supervisor.journal.recent
        return [e.message for e in events if e.kind is kind and backend in {None, e.backend}]

    def job(self, model: str, **changes: Any) -> Job:
        """A job of this model that arrives now."""
        submission = Submission(CHAT, model, b'{"messages":[]}')
        route = self.supervisor.routes.named(model)
        now = self.clock.monotonic()
        made = Job(f"job{next(self.jobs)}", submission, now, self.clock.wall(), now + 600, route=route.name)
        return replace(made, **changes)

    def submit(self, model: str, **changes: Any) -> Ticket:
        """A job of this model waits, or gets its slot."""
        return self.supervisor.dispatcher.submit(self.job(model, **changes))

    def end(self, ticket: Ticket, *, served: bool = True, failed: bool = False) -> None:
        """The job that got its slot is over."""
        lease: Lease = ticket.lease.result()
        self.supervisor.dispatcher.give_back(lease, served=served, failed=failed)

    async def up(self, name: str) -> Backend:
        """Start a backend as an operator does, and wait until it serves."""
        self.supervisor.placer.insist(name)
        self[name].post(life.StartAsked("a test wants it"))
        await self.clock.advance(3)
        assert self.phase(name) is Phase.READY, (self[name].state, self.supervisor.placer.plan)
        return self[name]

    async def pass_until(self, condition: Callable[[], bool], within_s: float = 60.0) -> None:
        """Let time pass until it is so."""
        end = self.clock.monotonic() + within_s
        await self.clock.rest()
        while not condition():
            assert self.clock.monotonic() < end, {n: b.state for n, b in self.supervisor.backends.items()}
            await self.clock.advance(0.1)


@asynccontextmanager
async def rig(
    *specs: BackendSpec,
    cards: int = 1,
    routes: Sequence[Route] = (),
    default: str | None = None,
    real: bool = False,
    started: bool = True,
    gateway: GatewayPolicy | None = None,
    backlog: int | None = None,
    store: MemoryStore | None = None,
    outputs: OutputChecker | None = None,
    upstream: Callable[[FakeClock, Processes], Upstream] = lambda clock, processes: HttpUpstream(),
    ids: Iterator[str] | None = None,
    examiner: Examiner | None = None,
    prepare: Callable[[Machine, Processes], None] = lambda machine, processes: None,
) -> AsyncIterator[Rig]:
    """`real`: probe and upstream are the real ones. `prepare` is called before anything begins. `store`: that of an
    earlier life. `ids`: those of jobs, which durable work needs to be in the order of time.

    Without `routes` each backend serves its own name.
    """
    with fake_time() as clock:
        machine = Machine(clock, cards)
        processes, manager = Processes(machine), Manager()
        kept = MemoryStore() if store is None else store
        prepare(machine, processes)
        probe: HealthProbe = HttpProbe() if real else Probe(machine)
        ports = Ports(
            clock=clock,
            processes=processes,
            probe=probe,
            memory=machine,
            kernel=machine,
            files=machine,
            store=kept,
            outputs=outputs,
            upstream=upstream(clock, processes),
            notifier=manager,
            examiner=examiner,
        )
        settings = Settings(
            specs,
            routes or [Route(spec.models, (spec.name,)) for spec in specs],
            default,
            placement=PlacementPolicy(linger_s=1.0),
            memory=MemoryLimits(vram=VramLimits(reserve=RESERVE)),
            gateway=gateway or GatewayPolicy(),
            backlog=BacklogPolicy() if backlog is None else BacklogPolicy(backlog),
        )
        jobs = count(1)
        named = ids or (f"job{number}" for number in jobs)
        supervisor = Supervisor(ports, settings, new_id=lambda: next(named))
        made = Rig(supervisor, clock, machine, processes, kept, manager, jobs)
        async with _running(made, started=started):
            yield made


@asynccontextmanager
async def _running(made: Rig, *, started: bool) -> AsyncIterator[Rig]:
    supervisor, failure = made.supervisor, None
    async with asyncio.TaskGroup() as group:
        opening = group.create_task(supervisor.open(group))
        while not opening.done():
            await made.clock.advance(0.1)
        if started:
            await supervisor.start()
        await made.clock.advance(0.5)
        try:
            yield made
        except BaseException as error:  # noqa: BLE001 - raised again below, outside of the group that would wrap it
            failure = error
        await supervisor.close()
        await made.clock.rest()
        for task in set(supervisor.tasks._bounded):
            task.cancel()
    if failure is not None:
        raise failure


@asynccontextmanager
async def beside(work: Coroutine[Any, Any, Result]) -> AsyncIterator[asyncio.Task[Result]]:
    """Something that goes on while the test does, and not beyond it."""
    task = asyncio.get_running_loop().create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait((task,))
