"""A key with a limit has no more durable jobs run at the same time; whoever else waits does not wait for that."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from supervisord.core import life
from supervisord.core.job import FailureReason, JobStatus, Priority, Submission
from supervisord.core.routing import Route
from supervisord.core.state import Want
from supervisord.core.terms import Origin, Terms
from supervisord.engine.backend import Backend
from supervisord.engine.tickets import Ticket
from tests.engine.overnight import Night, night, up
from tests.engine.rig import CHAT, Rig, Wire, beside, llama, rig

ADA, BOB = "ada", "bob"
WORDS = "as many jobs of the key ada run as it may have (keys.ada.concurrency)"


@asynccontextmanager
async def limited(
    limits: Mapping[str, int], services: int = 1, slots: int = 4, models: bool = False
) -> AsyncIterator[Night]:
    """Services that do not answer, with that many slots each; `models`: each has a model of its own, m and n."""
    routes = [Route(("m",), ("r0",)), Route(("n",), ("r1",))] if models else ()
    async with night(services, slots=slots, routes=routes) as it:
        it.it.supervisor.permits.concurrency = limits
        for service in it.services:
            service.hangs = True
        yield it


async def rest(it: Night) -> None:
    for _ in range(3):
        await it.clock.advance(0.1)
        await it.socket()


async def test_no_more_run_at_the_same_time_and_all_are_done() -> None:
    async with limited({ADA: 2}) as it:
        it.services[0].hangs, it.services[0].slow_s = False, 1.0
        lines = await it.lines(9, client=ADA)
        await it.passes_until(lambda: len(it.ends) == len(lines))
        assert it.services[0].peak == 2
        assert {(await it.job(line.id)).status for line in lines} == {"done"}
        assert it.it.supervisor.dispatcher._seats._taken == {}


async def test_others_go_before_them_and_so_does_what_the_same_client_waits_for() -> None:
    async with limited({ADA: 1}) as it:
        lines = await it.lines(4, client=ADA)
        await it.arrived(1)
        standing = it.durable.standing(await it.job(lines[1].id))
        assert (standing.position, standing.waits_for) == (1, WORDS)
        await it.accept("of another", client=BOB)
        await it.arrived(2)
        serve = it.it.supervisor.gateway.serve
        async with beside(serve(it.asked("of the same", client=ADA), Wire(), lambda job_id: None)):
            await it.arrived(3)
            await it.accept("urgent", client=ADA, priority=Priority.HIGH)
            await rest(it)
            assert sorted(it.messages()) == ["line 1", "of another", "of the same"]
            await it.durable.cancel(lines[0].id)
            await it.clock.until(lambda: len(it.messages()) == 4, "the next")
        assert it.messages()[3] == "urgent", "it waits for its own no longer than it has to"


async def test_one_limit_counts_for_all_models() -> None:
    async with limited({ADA: 1}, 2, models=True) as it:
        it.it.supervisor.pause_queue()
        first = await it.accept("m", client=ADA)
        await it.accept("n", model="n", client=ADA)
        await it.accept("beside it", model="n", client=BOB)
        it.it.supervisor.resume_queue()
        await rest(it)
        assert (it.messages(0), it.messages(1)) == (["m"], ["beside it"])
        await it.durable.cancel(first.job_id)
        await it.clock.until(lambda: len(it.messages(1)) == 2, "the other")


async def test_a_limit_that_is_taken_away_holds_nobody_any_more() -> None:
    async with limited({ADA: 1}) as it:
        await it.lines(3, client=ADA)
        await it.arrived(1)
        it.it.supervisor.permits.concurrency = {}
        it.it.supervisor.dispatcher.pump()
        await it.arrived(3)


@pytest.mark.parametrize("how", ["cancelled", "failed", "expired", "stopped"])
async def test_a_seat_is_left_however_its_job_ends(how: str) -> None:
    async with limited({ADA: 1}) as it:
        terms = Terms(Origin.JOB, max_attempts=1, deadline_at=it.clock.wall() + 30 if how == "expired" else None)
        first = await it.accept("first", terms, client=ADA)
        await it.arrived(1)
        second = await it.accept("second", client=ADA)
        match how:
            case "cancelled":
                await it.durable.cancel(first.job_id)
            case "failed":
                it.it.supervisor.dispatcher.leases.break_off(first.job_id, FailureReason.BACKEND_ERROR, "broken")
            case "stopped":
                it.it["r0"].post(life.StopAsked("an operator wants it", Want.DOWN))
                await it.clock.advance(120)
                await it.socket()
                it.services[0].hangs = False
                await up(it.it, "r0")
        it.services[0].hangs = False
        await it.passes_until(lambda: any(end.job.id == second.job_id for end in it.ends))
        assert (await it.job(second.job_id)).status == JobStatus.DONE
        await it.passes_until(lambda: len(it.ends) == 2)
        assert it.it.supervisor.dispatcher._seats._taken == {}


# --- between the question for a slot and its answer ------------------------------------------------------------------


@asynccontextmanager
async def two() -> AsyncIterator[Rig]:
    """Backends with two slots each, and a limit of one."""
    async with rig(llama("a", slots=2), llama("b", slots=2)) as it:
        it.supervisor.permits.concurrency = {ADA: 1}
        for name in ("a", "b"):
            await it.up(name)
        yield it


def submit(it: Rig, model: str = "a") -> Ticket:
    """A durable job of hers."""
    return it.submit(model, submission=Submission(CHAT, model, b"{}", client=ADA), durable=True)


def taken(it: Rig) -> list[str]:
    return sorted(it.supervisor.dispatcher._seats._taken.get(ADA, ()))


async def test_two_that_come_in_the_same_moment_take_one_seat() -> None:
    async with two() as it:
        first, second = submit(it), submit(it)
        assert taken(it) == [first.job.id]
        await it.clock.rest()
        assert (first.lease.done(), second.lease.done()) == (True, False)
        third = submit(it, "b")
        await it.clock.rest()
        assert not third.lease.done(), "not in another line either, where nobody is before it"
        it.end(first)
        await it.clock.rest()
        assert (second.lease.done(), third.lease.done()) == (True, False)


async def test_the_heads_of_two_lines_take_one_seat_and_who_is_behind_goes() -> None:
    async with two() as it:
        dispatcher = it.supervisor.dispatcher
        dispatcher.hold("not yet")
        first, second, other = submit(it, "a"), submit(it, "b"), it.submit("b")
        dispatcher.hold("")
        await it.clock.rest()
        assert [each.lease.done() for each in (first, second, other)] == [True, False, True]


@dataclass(slots=True)
class Mail:
    """What a backend is sent, until it reads it: as when it is in the middle of something else."""

    backend: Backend
    unread: list[life.Event] = field(default_factory=list)

    def read(self) -> None:
        del self.backend.post
        while self.unread:
            self.backend.post(self.unread.pop(0))


def busy(backend: Backend) -> Mail:
    mail = Mail(backend)
    backend.post = mail.unread.append  # type: ignore[method-assign]
    return mail


@pytest.mark.parametrize("how", ["withdrawn", "cancelled", "left"])
async def test_one_that_leaves_while_it_is_asked_for_a_slot_leaves_its_seat(how: str) -> None:
    async with two() as it:
        mail = busy(it["a"])
        first, second = submit(it), submit(it, "b")
        assert taken(it) == [first.job.id]
        match how:
            case "withdrawn":
                it.supervisor.dispatcher.withdraw(first.job.id)
            case "cancelled":
                it.supervisor.dispatcher.cancel(first.job.id)
            case _:
                first.lease.cancel()  # and nobody has been told yet
                mail.read()
        assert taken(it) == [second.job.id]
        assert second.lease.done()


async def test_one_whose_backend_has_no_slot_after_all_leaves_its_seat() -> None:
    async with two() as it:
        mail = busy(it["a"])
        first, second = submit(it), submit(it, "b")
        waits_for = it.supervisor.dispatcher.waits_for
        assert (waits_for(first.job.id), waits_for(second.job.id)) == ("", WORDS)
        mail.unread.insert(0, life.RestartAsked("by hand"))
        mail.read()
        assert (first.lease.done(), second.lease.done()) == (False, True)
        assert taken(it) == [second.job.id]
