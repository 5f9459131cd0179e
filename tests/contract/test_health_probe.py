"""What every HealthProbe promises: the one over HTTP, and the one that stands in for it in tests."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest

from supervisord.adapters.health import HttpProbe
from supervisord.core.errors import ProbeError
from supervisord.ports import HealthProbe
from supervisord.runtimes.base import Address, HttpAnswer
from tests.fakes.clock import fake_time
from tests.fakes.engine import HANGS, Machine, Probe, Site
from tests.fakes.raw_server import Peer, raw_server

ANSWERS = {
    "/health": HttpAnswer(200, b"fine"),
    "/busy": HttpAnswer(503, b"wait"),
    "/hangs": HANGS,
}


@dataclass(frozen=True, slots=True)
class Asked:
    """A probe, a server that it can ask, and what the server heard."""

    probe: HealthProbe
    here: Address
    nobody: Address
    posted: Callable[[], list[bytes]]
    passes: Callable[[float], Awaitable[None]]


@pytest.fixture(params=["http", "memory"])
async def asked(request: pytest.FixtureRequest) -> AsyncIterator[Asked]:
    if request.param == "memory":
        with fake_time() as clock:
            machine = Machine(clock, cards=0)
            site = machine.sites[8000] = Site(dict(ANSWERS))
            posted = lambda: [body for _, body in site.asked if body is not None]  # noqa: E731 - as short as it is
            local = "127.0.0.1"
            yield Asked(Probe(machine), Address(local, 8000), Address(local, 8001), posted, clock.advance)
        return
    bodies: list[bytes] = []

    async def answering(peer: Peer) -> None:
        while text := await peer.request():
            head, _, body = text.partition(b"\r\n\r\n")
            method, path = head.split(b" ")[:2]
            if method == b"POST":
                bodies.append(body)
            answer = ANSWERS.get(path.decode(), HttpAnswer(404, b""))
            if answer is None:
                await peer.closed_by_client()
                return
            peer.send(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%b" % (answer.status, len(answer.body), answer.body))

    probe = HttpProbe()
    async with raw_server(answering) as gone:
        nobody = Address("127.0.0.1", gone.port)
    async with raw_server(answering) as server:
        yield Asked(probe, Address("127.0.0.1", server.port), nobody, lambda: bodies, asyncio.sleep)
        await probe.close()


async def test_every_status_is_an_answer(asked: Asked) -> None:
    assert await asked.probe.get(asked.here, "/health", 5) == HttpAnswer(200, b"fine")
    assert await asked.probe.get(asked.here, "/busy", 5) == HttpAnswer(503, b"wait")
    assert (await asked.probe.get(asked.here, "/nothing", 5)).status == 404


async def test_a_body_is_posted(asked: Asked) -> None:
    assert await asked.probe.post(asked.here, "/health", b'{"a":1}', 5) == HttpAnswer(200, b"fine")
    assert asked.posted() == [b'{"a":1}']


async def test_where_nobody_listens_is_told_with_the_address(asked: Asked) -> None:
    with pytest.raises(ProbeError, match=rf"GET http://127\.0\.0\.1:{asked.nobody.port}/health: .*refused"):
        await asked.probe.get(asked.nobody, "/health", 5)


async def test_a_server_that_hangs_costs_the_time_it_was_given(asked: Asked) -> None:
    async def asks() -> None:
        with pytest.raises(ProbeError, match=r"/hangs: no answer in 0\.1 s"):
            await asked.probe.get(asked.here, "/hangs", 0.1)

    async with asyncio.TaskGroup() as group:
        asking = group.create_task(asks())
        await asked.passes(0.05)
        assert not asking.done()
        await asked.passes(0.2)
        assert asking.done()
