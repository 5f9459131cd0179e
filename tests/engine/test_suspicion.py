"""What the engine knows of the backends that went down under a job, handed to the rule that judges it."""

import asyncio
from dataclasses import replace

import pytest

from supervisord.core import life
from supervisord.core.exits import CauseKind, ExitCause
from supervisord.core.job import FailureReason, JobStatus
from supervisord.engine.outcome import AttemptOutcome
from supervisord.engine.suspicion import Suspicion
from supervisord.engine.tickets import Lease
from supervisord.runtimes.base import RuntimeKind
from supervisord.runtimes.registry import RUNTIMES
from tests.engine.rig import Rig, llama, rig

DIED = AttemptOutcome(JobStatus.FAILED, FailureReason.BACKEND_DIED, "eof", retriable=True)


async def leased(it: Rig, name: str, *, proven: bool = True) -> Lease:
    backend = await it.up(name)
    if proven:
        backend.used(first_byte_s=0.1)
    ticket = it.submit(name)
    await it.clock.rest()
    return ticket.lease.result()


def crash(it: Rig, lease: Lease, kind: CauseKind = CauseKind.CRASH) -> None:
    it[lease.backend.name].post(life.Exited(lease.generation.number, ExitCause(kind, "it ended")))


async def test_two_backends_that_crash_under_it_alone_are_enough() -> None:
    async with rig(llama("a"), llama("b")) as it:
        suspicion = Suspicion()
        for name in ("a", "b"):
            assert not suspicion.is_enough
            lease = await leased(it, name)
            suspicion.note(lease, DIED, others=0)
            crash(it, lease)
            await it.clock.rest()
        assert suspicion.is_enough
        assert suspicion.is_certain
        assert "a (generation 1) and b (generation 1)" in suspicion.words


async def test_what_is_told_of_an_exit_later_counts() -> None:
    """The connection breaks first; that it was killed from outside is told a moment later, and clears the job."""
    async with rig(llama("a"), llama("b")) as it:
        suspicion = Suspicion()
        first, second = await leased(it, "a"), await leased(it, "b")
        suspicion.note(first, DIED, others=0)
        crash(it, first)
        await it.clock.rest()
        suspicion.note(second, DIED, others=0)
        assert (suspicion.is_enough, suspicion.may_be_enough, suspicion.is_certain) == (False, True, False)
        crash(it, second, CauseKind.KILLED)
        await it.clock.rest()
        assert not suspicion.is_enough


async def test_one_that_lives_has_not_gone_down_whatever_became_of_the_connection() -> None:
    async with rig(llama("a"), llama("b")) as it:
        suspicion = Suspicion()
        for name in ("a", "b"):
            suspicion.note(await leased(it, name), DIED, others=0)
        assert (suspicion.is_enough, suspicion.may_be_enough, suspicion.is_certain) == (False, True, False)


async def test_two_that_go_down_before_either_end_is_told_are_waited_for() -> None:
    async with rig(llama("a"), llama("b")) as it:
        suspicion = Suspicion()
        leases = [await leased(it, name) for name in ("a", "b")]
        for lease in leases:
            suspicion.note(lease, DIED, others=0)
        for lease in leases:
            assert (suspicion.may_be_enough, suspicion.is_certain) == (True, False)
            crash(it, lease)
            await it.clock.rest()
        assert (suspicion.is_enough, suspicion.is_certain) == (True, True)


@pytest.mark.parametrize(("proven", "others"), [(False, 0), (True, 1)])
async def test_what_else_may_explain_it_is_taken_into_account(proven: bool, others: int) -> None:
    async with rig(llama("a"), llama("b")) as it:
        suspicion = Suspicion()
        for name in ("a", "b"):
            lease = await leased(it, name, proven=proven)
            suspicion.note(lease, DIED, others=others)
            crash(it, lease)
            await it.clock.rest()
        assert (suspicion.is_certain, suspicion.is_enough) == (True, False)


async def test_other_failures_and_services_elsewhere_are_not_noted() -> None:
    async with rig(llama("a"), llama("b")) as it:
        suspicion = Suspicion()
        there, here = await leased(it, "b"), await leased(it, "a")
        there.backend.runtime = RUNTIMES[RuntimeKind.REMOTE]
        for _ in range(2):
            suspicion.note(there, DIED, others=0)
            suspicion.note(here, replace(DIED, reason=FailureReason.BACKEND_ERROR), others=0)
        assert not suspicion.is_enough


async def test_who_was_there_when_the_first_broke_off_counts_for_all_of_them() -> None:
    async with rig(llama("a", slots=3)) as it:
        first = await leased(it, "a")
        second, third = it.submit("a").lease, it.submit("a").lease
        await it.clock.rest()
        dispatcher = it.supervisor.dispatcher
        assert dispatcher.leases.others_at(first) == 2
        dispatcher.give_back(first, served=False, failed=True)
        assert dispatcher.leases.others_at(second.result()) == 2
        dispatcher.give_back(second.result(), served=False, failed=True)
        assert dispatcher.leases.others_at(third.result()) == 2


class Sure(Suspicion):
    may_be_enough = True  # type: ignore[assignment]
    is_certain = False  # type: ignore[assignment]


async def test_a_client_that_leaves_before_the_verdict_leaves_no_slot_behind() -> None:
    async with rig(llama("a")) as it:
        lease = await leased(it, "a")
        tries = it.supervisor.tries
        judging = asyncio.get_running_loop().create_task(tries._is_poison(Sure(), lease))
        await it.clock.rest()
        judging.cancel()
        with pytest.raises(asyncio.CancelledError):
            await judging
        await it.clock.rest()
        assert it.supervisor.dispatcher.in_flight == 0
        assert it["a"].state.in_flight == 0


async def test_what_is_not_to_be_held_against_a_job_is_pardoned_in_part_or_whole() -> None:
    """Whole where somebody killed it, by half where the job was in company, not at all where it was alone."""
    async with rig(llama("a"), llama("b"), llama("c"), llama("d")) as it:
        suspicion = Suspicion()
        for name, others, kind in (("a", 0, CauseKind.KILLED), ("b", 1, CauseKind.CRASH), ("c", 0, CauseKind.CRASH)):
            lease = await leased(it, name)
            suspicion.note(lease, DIED, others=others)
            assert suspicion.is_suspect
            crash(it, lease, kind)
            await it.clock.rest()
            if name == "a":
                assert not suspicion.is_suspect
        suspicion.note(await leased(it, "d"), DIED, others=0)  # it lives: a failure like any other
        assert suspicion.pardon == 1.0 + 0.5 + 0.0 + 0.0


async def test_a_cause_is_kept_when_its_backend_goes_down_once_more() -> None:
    async with rig(llama("a")) as it:
        suspicion = Suspicion()
        for _ in range(3):
            lease = await leased(it, "a")
            suspicion.look()
            suspicion.note(lease, DIED, others=0)
            crash(it, lease, CauseKind.KILLED)
            await it.clock.advance(5)
        suspicion.look()
        assert (suspicion.pardon, suspicion.is_enough, suspicion.is_certain) == (3.0, False, True)
