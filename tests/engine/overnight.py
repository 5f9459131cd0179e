"""Durable work in the engine, over real sockets to services that fail as they are told, on played time."""

import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from itertools import count

from supervisord.core import life
from supervisord.core.job import TERMINAL, JobStatus, Priority, Submission
from supervisord.core.record import JobRecord
from supervisord.core.routing import Route, Strategy
from supervisord.core.state import Phase
from supervisord.core.terms import Origin, Terms
from supervisord.engine.work.durable import Accepted, Durable, End
from supervisord.ports import StoredJob
from supervisord.ports.outputs import OutputChecker
from tests.engine.rig import CHAT, Rig, rig
from tests.engine.rig import remote as described
from tests.fakes.remote import KEY, Remote, remote
from tests.fakes.store import MemoryStore

JOB = Terms(Origin.JOB)


class Night:
    """Work that nobody waits for, and who does it."""

    def __init__(self, it: Rig, services: Sequence[Remote]) -> None:
        self.it = it
        self.clock = it.clock
        self.store = it.store
        self.services = services
        self.ends: list[End] = []
        it.supervisor.durable.on_ended(self.ends.append)

    @property
    def durable(self) -> Durable:
        return self.it.supervisor.durable

    def asked(self, text: str = "hello", *, model: str = "m", client: str = "", **more: object) -> Submission:
        body = json.dumps({"model": model, "messages": [{"role": "user", "content": text}]}).encode()
        return Submission(CHAT, model, body, client=client, **more)  # type: ignore[arg-type]

    async def accept(self, text: str = "hello", terms: Terms = JOB, *, key: str = "", **more: object) -> Accepted:
        return await self.durable.accept(self.asked(text, **more), terms, key)  # type: ignore[arg-type]

    def line(self, number: int, *, batch: str = "b1", model: str = "m", client: str = "") -> JobRecord:
        """A line of a batch, as a job."""
        terms = Terms(Origin.BATCH, batch=batch, line=number, custom_id=f"c{number}")
        body = self.asked(f"line {number}", model=model).body
        now, job_id = self.clock.wall(), self.it.supervisor.new_id()
        return JobRecord(job_id, CHAT, model, int(Priority.BATCH), False, client, now, None, None, body, terms)

    async def lines(self, count: int, **more: str) -> list[JobRecord]:
        """A batch is accepted."""
        records = [self.line(number, **more) for number in range(1, count + 1)]
        await self.durable.accept_many(records)
        return records

    async def job(self, job_id: str) -> StoredJob:
        """What the store has of a job."""
        found = await self.store.job(job_id)
        assert found is not None
        return found

    async def ended(self, *job_ids: str) -> list[StoredJob]:
        """The jobs, once each of them has ended and that has been told."""
        told = {end.job.id for end in self.ends}

        def all_told() -> bool:
            told.update(end.job.id for end in self.ends)
            return told >= set(job_ids)

        await self.clock.until(all_told, f"the end of {job_ids}")
        stored = [await self.job(job_id) for job_id in job_ids]
        assert all(each.status in TERMINAL for each in stored)
        return stored

    async def passes_until_ended(self, job_id: str, within_s: float = 300.0) -> StoredJob:
        """The same, where time has to pass for it."""
        await self.passes_until(lambda: any(each.job.id == job_id for each in self.ends), within_s)
        return await self.job(job_id)

    async def in_the_end(self, records: Sequence[JobRecord]) -> list[StoredJob]:
        """The jobs, once each of them has ended: in this life of the daemon, or in one before."""
        ended: list[StoredJob] = []
        while len(ended) < len(records):
            await self.clock.advance(0.5)
            await self.socket()
            ended = [stored for record in records if (stored := await self.job(record.id)).status in TERMINAL]
        return ended

    async def passes_until(self, condition: Callable[[], object], within_s: float = 300.0) -> None:
        """Let time pass until it is so."""
        end = self.clock.monotonic() + within_s
        while not condition():
            assert self.clock.monotonic() < end
            await self.clock.advance(0.05)
            await self.socket()

    async def socket(self) -> None:
        """A little real time for what is on its way through sockets."""
        for _ in range(20):
            await self.clock.rest()

    async def arrived(self, requests: int, number: int = 0) -> None:
        """So many requests are at a service now."""
        await self.clock.until(lambda: self.services[number].in_flight == requests, "the requests at the service")

    def messages(self, number: int = 0) -> list[str]:
        """What a service was asked, in order."""
        return [request["messages"][0]["content"] for request in self.services[number].requests]


@asynccontextmanager
async def night(
    services: int = 1,
    *,
    slots: int = 1,
    ready: bool = True,
    routes: Sequence[Route] = (),
    limit: int | None = None,
    store: MemoryStore | None = None,
    outputs: OutputChecker | None = None,
    first: int = 1,
) -> AsyncIterator[Night]:
    """Services r0, r1 … that serve the model `m`, in this order, and are up where `ready`. `first`: the number of the
    first job, in the order of whose ids durable work is done."""
    async with _stack(services) as remotes:
        names = tuple(f"r{number}" for number in range(services))
        specs = [described(name, one.url, KEY, slots=slots) for name, one in zip(names, remotes, strict=True)]
        known = routes or [Route(("m", "alias"), names, strategy=Strategy.PRIORITY)]
        world = rig(
            *specs, routes=known, real=True, cards=0, backlog=limit, store=store, outputs=outputs, ids=ids(first)
        )
        async with world as it:
            made = Night(it, remotes)
            if ready:
                for name in names:
                    await up(it, name)
            yield made


def ids(first: int = 1) -> Iterator[str]:
    """In the order of time, as the daemon's are."""
    return (f"job{number:06}" for number in count(first))


@asynccontextmanager
async def _stack(count: int) -> AsyncIterator[list[Remote]]:
    if count == 0:
        yield []
        return
    async with remote() as service, _stack(count - 1) as others:
        yield [service, *others]


async def up(it: Rig, name: str) -> None:
    """Have a service asked over its real socket."""
    it[name].post(life.StartAsked("a test wants it"))
    await it.clock.until(lambda: it.phase(name) is Phase.READY, f"{name} ready")


def done(stored: StoredJob) -> str:
    """What the answer of a job says; it has one."""
    assert stored.status == JobStatus.DONE, stored
    assert stored.result is not None
    assert stored.result.output is not None
    text: str = json.loads(stored.result.output)["choices"][0]["message"]["content"]
    return text
