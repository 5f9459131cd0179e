"""The guard on a workstation in memory: who leaves, who comes back smaller, who is left alone, and who grows again."""

from supervisord.core.ladder import Footprint
from supervisord.core.memory import GIB, MIB, Pressure
from supervisord.core.record import EventKind
from supervisord.core.state import Phase, Want
from supervisord.engine.tickets import Ticket
from tests.engine.rig import Rig, llama, rig

STRANGER = 99_999


def fill(it: Rig, free: int, *, pid: int = STRANGER, card: int = 0) -> None:
    """Somebody takes all of a card but so much."""
    used = it.machine.cards[card].used
    used[pid] = 0
    used[pid] = it.machine.cards[card].total - sum(used.values()) - free


def grow(it: Rig, name: str, free: int) -> None:
    """A backend of ours takes all of the card but so much."""
    pid = it[name].generation.pid  # type: ignore[union-attr]
    assert pid is not None
    fill(it, free, pid=pid)


async def holding(it: Rig, name: str, vram: float) -> None:
    await it.up(name)
    process = it.processes.of(name)
    process.holds(int(vram * GIB))
    await it.clock.advance(5)


async def test_an_idle_one_leaves_under_critical_pressure_and_comes_back_for_a_job() -> None:
    async with rig(llama("a"), llama("b")) as it:
        await holding(it, "a", 4)
        await holding(it, "b", 4)
        it["a"].last_used = it["b"].last_used - 1
        fill(it, 100 * MIB)
        await it.pass_until(lambda: it.phase("a") is Phase.STOPPED)
        assert it["a"].state.want is Want.ON_DEMAND
        assert "gpu0 is short of memory: 100 MiB are free" in it.told(EventKind.EVICTED, "a")[0]
        await it.clock.advance(20)
        assert it.phase("b") is Phase.READY, "the one was enough"
        assert "4096 MiB more are free" in it.told(EventKind.GUARD, "a")[0]
        del it.machine.cards[0].used[STRANGER]
        await it.clock.advance(30)
        ticket = it.submit("a")
        await it.pass_until(ticket.lease.done)


async def test_one_sample_alone_moves_nobody() -> None:
    async with rig(llama("a")) as it:
        await holding(it, "a", 4)
        fill(it, 100 * MIB)
        await it.supervisor.sampler.sample()
        it.supervisor.guard.review()
        del it.machine.cards[0].used[STRANGER]
        await it.clock.advance(60)
        assert it.phase("a") is Phase.READY


async def test_a_busy_one_of_ours_that_fills_the_card_drains_and_comes_back_smaller() -> None:
    async with rig(llama("a", footprint=Footprint(context=8192))) as it:
        await holding(it, "a", 4)
        ticket = it.submit("a")
        await it.clock.rest()
        grow(it, "a", 100 * MIB)
        await it.pass_until(lambda: it.phase("a") is Phase.DRAINING)
        assert it.told(EventKind.SHRUNK, "a")
        waiting = it.submit("a")
        await it.clock.advance(1)
        assert not waiting.lease.done(), "nothing new is sent to it"
        it.end(ticket)
        await it.pass_until(lambda: it.phase("a") is Phase.READY)
        state = it["a"].state
        assert (state.generation, state.rung) == (2, 1)
        assert "gpu0 is short of memory" in state.rung_why
        await it.pass_until(waiting.lease.done)


async def test_ours_are_left_in_peace_on_a_card_that_others_fill() -> None:
    async with rig(llama("a")) as it:
        await holding(it, "a", 4)
        it.submit("a")
        fill(it, 100 * MIB)
        await it.clock.advance(60)
        assert (it.phase("a"), it["a"].state.in_flight) == (Phase.READY, 1)
        told = it.told(EventKind.GUARD)
        assert len(told) == 1, "said once"
        assert f"process {STRANGER} (pid {STRANGER}, " in told[0]


async def test_on_the_host_ours_make_room_whoever_is_to_blame() -> None:
    async with rig(llama("a", footprint=Footprint(context=8192)), cards=0) as it:
        await it.up("a")
        pid = it["a"].generation.pid  # type: ignore[union-attr]
        assert pid is not None
        it.machine.rss[pid] = 8 * GIB
        it.submit("a")
        await it.clock.advance(5)
        it.machine.stall = 60.0
        await it.pass_until(lambda: it["a"].state.rung == 1)
        it.machine.stall = 0.0


async def test_tight_costs_idle_ones_their_place_only_where_it_was_not_so_from_the_beginning() -> None:
    async with rig(llama("a"), llama("b", vram=0.5), cards=1) as it:
        it.machine.cards[0].used[STRANGER] = 0
        await holding(it, "a", 4)
        fill(it, 900 * MIB)
        await it.pass_until(lambda: it.phase("a") is Phase.STOPPED)
    async with rig(llama("a")) as it:
        it.processes.on_start = lambda process: process.holds(it.machine.cards[0].total - 900 * MIB)
        await it.up("a")
        await it.clock.advance(120)
        assert it.supervisor.sampler.level("GPU-0") is Pressure.TIGHT
        assert it.phase("a") is Phase.READY, "the card is full by design"


async def test_no_new_work_for_one_that_takes_more_and_more_of_a_tight_card() -> None:
    async with rig(llama("a", slots=4)) as it:
        await holding(it, "a", 4)
        first = it.submit("a")
        await it.clock.advance(1)
        assert first.lease.done()
        for step in range(1, 6):
            it.processes.of("a").holds(int(23 * GIB) + step * 20 * MIB)
            await it.clock.advance(3)
        second = it.submit("a")
        await it.clock.advance(1)
        assert not second.lease.done()
        assert "takes more and more" in it.told(EventKind.DISPATCH_PAUSED)[-1]
        await it.clock.advance(70)  # it has stopped growing
        assert second.lease.done()
        assert it.phase("a") is Phase.READY


async def test_after_long_service_on_a_smaller_size_the_larger_one_is_tried() -> None:
    async with rig(llama("a", footprint=Footprint(context=8192))) as it:
        await holding(it, "a", 4)
        it.machine.rss[it.processes.of("a").pid] = GIB
        ticket = it.submit("a")
        await it.clock.advance(5)
        it.machine.stall = 60.0
        await it.pass_until(lambda: it["a"].state.rung == 1)
        it.machine.stall = 0.0
        it.end(ticket)
        await it.pass_until(lambda: it.phase("a") is Phase.READY)
        it.processes.of("a").holds(3 * GIB)
        it.end(await served(it, "a"))
        await it.clock.advance(it["a"].policy.climb_after_s - 60)
        assert it["a"].state.rung == 1
        busy = await served(it, "a")
        await it.clock.advance(90)
        assert it["a"].state.rung == 1, "not while it works"
        fill(it, 2 * GIB)
        it.end(busy)
        await it.clock.advance(120)
        assert it["a"].state.rung == 1, "not where there is no room for it"
        del it.machine.cards[0].used[STRANGER]
        await it.pass_until(lambda: it["a"].state.rung == 0)
        assert "tries rung 0 again" in it.told(EventKind.CLIMBED, "a")[0]
        await it.pass_until(lambda: it.phase("a") is Phase.READY)


async def served(it: Rig, name: str) -> Ticket:
    ticket = it.submit(name)
    await it.pass_until(ticket.lease.done)
    return ticket


async def test_what_fills_fast_is_looked_at_sooner() -> None:
    """At the rate that was just seen, whatever is assumed of others."""
    async with rig() as it:
        sampler = it.supervisor.sampler
        for free, wait in ((23 * GIB, 0.2), (13 * GIB, 0.01)):  # 50 GiB/s
            fill(it, free)
            sampler.look_now()
            await it.clock.advance(wait)
        looks = it.machine.looks
        await it.clock.advance(0.3)
        assert it.machine.looks == looks + 1, "at an assumed 4 GiB/s it would be 1.6 s"
        await it.clock.advance(5.0)
        looks = it.machine.looks
        await it.clock.advance(4.0)
        assert it.machine.looks - looks <= 4, "it stands still again"
