"""Who is let into memory, by what measurement, and what becomes of those who ask."""

import asyncio
from collections.abc import Callable

import pytest

from supervisord.core import life
from supervisord.core.exits import CauseKind
from supervisord.core.memory import GIB, SensorState
from supervisord.core.placement import HOST, Plan, Standing
from supervisord.core.record import EventKind
from supervisord.core.routing import Route
from supervisord.core.state import Phase, Want
from supervisord.engine import placer as module
from tests.engine.rig import llama, rig
from tests.fakes.engine import LOADING, Machine, Process, Processes

STRANGER = 7


def takes(gib: float) -> Callable[[Process], None]:
    """Servers hold so much from their start on."""
    return lambda process: process.holds(int(gib * GIB))


def loads_for_ever(process: Process) -> None:
    process.site.answers["/health"] = LOADING


def slow_driver(machine: Machine, processes: Processes) -> None:
    del processes
    machine.look_s = 0.2


# --- by what measurement ---------------------------------------------------------------------------------------------


async def test_nobody_is_let_in_by_a_sample_that_is_older_than_the_question() -> None:
    async with rig(llama("a", 14)) as it:
        await it.clock.advance(0.3)
        it.machine.look_s = 0.2
        it.supervisor.sampler.look_now()
        await it.clock.advance(0.1)  # a look is under way, and shows an empty card
        it.machine.cards[0].used[STRANGER] = 18 * GIB
        it.submit("a")
        await it.clock.advance(0.15)
        assert it.supervisor.sampler.sampled_at == pytest.approx(it.clock.monotonic() - 0.05)
        assert it.processes.count("a") == 0
        await it.clock.advance(1)
        assert it.processes.count("a") == 0
        assert "18.0 GiB" in it.supervisor.placer.held("a")
        del it.machine.cards[0].used[STRANGER]
        await it.clock.advance(1)
        assert it.phase("a") is Phase.READY


async def test_who_became_ready_after_the_sample_is_measured_before_the_next_is_let_in() -> None:
    """Otherwise the second is let in by the memory that the first has just taken."""
    async with rig(llama("a", 14), llama("b", 14, pinned=True), prepare=slow_driver) as it:
        it.submit("a")
        await it.clock.advance(0.25)
        assert it.phase("a") is Phase.LOADING or it.phase("a") is Phase.READY
        it.processes.of("a").holds(14 * GIB)
        it.supervisor.placer.insist("b")
        it["b"].post(life.StartAsked("operator"))
        await it.clock.advance(0.15)
        assert it.processes.count("b") == 0


async def test_a_sensor_that_fails_lets_nothing_start_and_says_so() -> None:
    async with rig(llama("a", 14)) as it:
        it.machine.cards[0].state = SensorState.STALE
        it.submit("a")
        await it.clock.advance(1)
        assert it.processes.count("a") == 0
        assert "gpu0: it cannot be measured (stale)" in it.supervisor.placer.held("a")
        it.machine.cards[0].state = SensorState.OK
        await it.clock.advance(3)
        assert it.phase("a") is Phase.READY


async def test_while_somebody_waits_memory_is_looked_at_several_times_a_second() -> None:
    """Also where so much is free that the sampler itself is in no hurry."""
    async with rig(llama("a", 20)) as it:
        it.machine.cards[0].used[STRANGER] = 6 * GIB
        it.submit("a")
        await it.clock.advance(10)
        looks = it.machine.looks
        await it.clock.advance(2)
        assert it.machine.looks - looks >= 7
        it.machine.cards[0].used.clear()
        await it.clock.advance(0.3)
        assert it.processes.count("a") == 1


async def test_a_driver_that_lists_no_process_still_counts_what_is_expected_to_be_held() -> None:
    async with rig(llama("a", 14), llama("b", 6)) as it:
        it.machine.cards[0].lists_processes = False
        it.processes.on_start = takes(14)
        await it.up("a")
        await it.clock.advance(3)
        held = {t.name: t.holds for t in it.supervisor.placer.tenants()}
        assert held["a"]["GPU-0"] == 14 * GIB
        await it.up("b")


async def test_while_it_loads_all_that_it_expects_is_spoken_for() -> None:
    async with rig(llama("a", 14), llama("b", 6)) as it:
        it.processes.on_start = loads_for_ever
        it.submit("a")
        await it.clock.advance(3)
        tenant = next(t for t in it.supervisor.placer.tenants() if t.name == "a")
        assert (tenant.standing, tenant.grows("GPU-0")) == (Standing.STARTING, 14 * GIB)


# --- one start at a time ---------------------------------------------------------------------------------------------


async def test_one_start_on_a_pool_at_a_time_and_others_on_other_pools() -> None:
    async with rig(llama("a", gpus=("0",)), llama("b", gpus=("0",)), llama("c", gpus=("1",)), cards=2) as it:
        it.processes.on_start = loads_for_ever
        for name in "abc":
            it.submit(name)
        await it.clock.advance(1)
        started = [name for name in "abc" if it.processes.count(name)]
        assert started == ["a", "c"]
        assert it.supervisor.placer.held("b") == "waits for a to finish starting on gpu0"
        it.processes.of("a").site.answers["/health"] = it.machine.sites[it.processes.of("a").port].answers["/props"]
        await it.clock.advance(1)
        assert it.processes.count("b") == 1


async def test_a_backend_that_has_not_asked_yet_holds_nobodys_turn() -> None:
    async with rig(llama("a"), started=False) as it:
        it["a"].post(life.StartAsked("operator"))
        assert it.phase("a") is Phase.STARTING
        assert it.supervisor.placer.standing_of(it["a"]) is Standing.AWAY
        await it.clock.rest()
        assert it.supervisor.placer.standing_of(it["a"]) is Standing.WAITING
        it.supervisor.placer.review()
        assert it.supervisor.placer.standing_of(it["a"]) is Standing.WAITING, "the sample is older than the question"
        await it.supervisor.sampler.sample()
        it.supervisor.placer.review()
        assert it.supervisor.placer.standing_of(it["a"]) is Standing.STARTING


# --- not needed any more ---------------------------------------------------------------------------------------------


async def test_who_waits_for_its_place_and_is_not_needed_any_more_is_told() -> None:
    async with rig(llama("a", 14)) as it:
        it.machine.cards[0].used[STRANGER] = 20 * GIB
        ticket = it.submit("a")
        await it.clock.advance(1)
        assert it.phase("a") is Phase.STARTING
        it.supervisor.dispatcher.withdraw(ticket.job.id)
        await it.clock.advance(1)
        assert it.phase("a") is Phase.STOPPED
        assert it["a"].state.reason == "nobody needs it any more"
        assert it.processes.count("a") == 0
        assert it.told(EventKind.EXIT) == []
        assert it["a"].state.want is Want.ON_DEMAND


async def test_who_can_never_fit_is_parked_and_its_jobs_are_told_why() -> None:
    async with rig(llama("a", 23.5)) as it:
        ticket = it.submit("a")
        await it.clock.advance(1)
        assert it.phase("a") is Phase.PARKED
        assert (
            "it needs 23.5 GiB on gpu0, which has 24.0 GiB with 1.2 GiB of it kept in reserve" in it["a"].state.reason
        )
        cause = it["a"].state.cause
        assert cause is not None
        assert (cause.kind, cause.permanent) == (CauseKind.CONFIGURATION, True)
        assert it["a"].state.deadline is None, "trying again unchanged cannot help"
        with pytest.raises(Exception, match="kept in reserve"):
            await ticket.lease


async def test_an_operators_stop_ends_the_wait_for_a_place() -> None:
    async with rig(llama("a", 14)) as it:
        it.machine.cards[0].used[STRANGER] = 20 * GIB
        it["a"].post(life.StartAsked("operator"))
        await it.clock.advance(1)
        assert it.supervisor.placer.start_of("a")[0]
        it["a"].post(life.StopAsked("operator", Want.DOWN))
        await it.clock.advance(1)
        assert (it.phase("a"), it.supervisor.placer.start_of("a")) == (Phase.STOPPED, (False, False, ""))
        assert it.supervisor.placer.held("a") == ""


async def test_the_end_of_the_daemon_ends_every_wait() -> None:
    async with rig(llama("a", 14)) as it:
        it.machine.cards[0].used[STRANGER] = 20 * GIB
        it["a"].post(life.StartAsked("operator"))
        await it.clock.advance(1)
        it.supervisor.placer.close()
        await it.clock.rest()
        assert it.processes.count("a") == 0
        assert it.supervisor.placer.held("a") == ""


async def test_giving_up_what_was_not_asked_for_does_nothing() -> None:
    async with rig(llama("a")) as it:
        it.supervisor.placer.give_up("a")
        await it.up("a")


# --- making room -----------------------------------------------------------------------------------------------------


async def test_an_idle_one_leaves_for_a_job_and_can_be_woken_again() -> None:
    async with rig(llama("a", 14), llama("b", 14)) as it:
        it.processes.on_start = takes(14)
        await it.up("a")
        it.submit("b")
        await it.pass_until(lambda: it.phase("b") is Phase.READY)
        assert it.phase("a") is Phase.STOPPED
        assert it["a"].state.reason == "makes room for b on gpu0"
        assert it.told(EventKind.SWAP) == ["a leaves: makes room for b on gpu0"]
        it.submit("a")
        await it.clock.advance(1)
        assert it["a"].state.want is not Want.DOWN


async def test_a_busy_one_gets_no_new_work_once_its_time_is_up_and_goes_when_it_is_done() -> None:
    async with rig(llama("a", 14, slots=2, max_wait_s=5.0, min_residence_s=0.0), llama("b", 14, max_wait_s=5.0)) as it:
        it.processes.on_start = takes(14)
        await it.up("a")
        first = it.submit("a")
        it.submit("b")
        await it.clock.advance(4)
        assert it.supervisor.placer.plan.close == {}
        await it.clock.advance(2)
        assert "makes room for b" in it.supervisor.placer.plan.close["a"]
        late = it.submit("a")
        assert not late.lease.done()
        assert "takes no new work" in late.waits_for
        assert it.phase("a") is Phase.READY
        it.end(first)
        await it.clock.advance(2)
        assert it.phase("b") is Phase.READY
        assert not late.lease.done()


async def test_one_without_work_for_long_leaves() -> None:
    async with rig(llama("a", ttl_s=20.0)) as it:
        await it.up("a")
        await it.clock.advance(16)
        assert it.phase("a") is Phase.READY
        await it.clock.advance(4)
        assert (it.phase("a"), it["a"].state.reason) == (Phase.STOPPED, "no work for 20 s")


async def test_a_start_that_only_helps_out_makes_nobody_leave() -> None:
    route = Route(("m",), ("a", "b"))
    specs = llama("a", 10), llama("b", 10), llama("other", 10, pinned=False)
    async with rig(*specs, routes=[route, Route(("other",), ("other",))]) as it:
        it.processes.on_start = takes(10)
        await it.up("other")
        await it.up("a")
        running = it.submit("m")
        waiting = it.submit("m")
        await it.clock.advance(20)
        assert it.phase("other") is Phase.READY
        assert it.processes.count("b") == 0
        waits, modest, held = it.supervisor.placer.start_of("b")
        assert (waits, modest) == (True, True)
        assert held
        it.end(running)
        await it.clock.advance(1)
        assert waiting.lease.done()
        assert it.phase("b") is Phase.STOPPED


# --- operators -------------------------------------------------------------------------------------------------------


async def test_what_an_operator_insists_on_is_forgotten_once_it_came_true() -> None:
    async with rig(llama("a")) as it:
        wishes = it.supervisor.placer._wishes
        it.supervisor.placer.insist("a")
        it["a"].post(life.StartAsked("operator"))
        assert wishes.insisted == {"a"}
        await it.clock.advance(3)
        assert (it.phase("a"), wishes.insisted, wishes.admitted) == (Phase.READY, set(), set())
        it.supervisor.placer.insist("a")  # it runs already
        await it.clock.advance(1)
        assert wishes.insisted == set()


async def test_what_an_operator_insists_on_is_forgotten_when_it_cannot_come_true() -> None:
    async with rig(llama("a", 23.5)) as it:
        it.supervisor.placer.insist("a")
        it["a"].post(life.StartAsked("operator"))
        await it.clock.advance(1)
        assert it.phase("a") is Phase.PARKED
        assert it.supervisor.placer._wishes.insisted == set()


async def test_an_operator_need_not_wait_for_a_busy_one_to_have_had_its_time() -> None:
    async with rig(llama("a", 14), llama("b", 14)) as it:
        it.processes.on_start = takes(14)
        await it.up("a")
        busy = it.submit("a")
        it.supervisor.placer.insist("b")
        it["b"].post(life.StartAsked("operator"))
        await it.clock.advance(0.5)
        assert "a" in it.supervisor.placer.plan.close
        it.end(busy)
        await it.clock.advance(2)
        assert it.phase("b") is Phase.READY


# --- telling ---------------------------------------------------------------------------------------------------------


async def test_a_hold_is_told_once_although_its_figures_change() -> None:
    async with rig(llama("a", 14)) as it:
        it.machine.cards[0].used[STRANGER] = 20 * GIB
        it.submit("a")
        for more in range(4):
            it.machine.cards[0].used[STRANGER] = (18 + more) * GIB
            await it.clock.advance(1)
            assert f"{18 + more}.0 GiB" in it.supervisor.placer.held("a"), "the status shows the latest figures"
        assert len(it.told(EventKind.HELD)) == 1
        it.machine.cards[0].state = SensorState.STALE
        await it.clock.advance(1)
        assert len(it.told(EventKind.HELD)) == 2


async def test_a_place_is_told_with_what_it_was_given_for() -> None:
    async with rig(llama("a", 2)) as it:
        await it.up("a")
        event = next(e for e in it.supervisor.journal.recent if e.kind is EventKind.PLACED)
        assert event.data["expected_vram_bytes"] == 2 * GIB
        assert event.data["sources"] == ["configured", "configured"]
        assert event.data["free"] == {"host": 64 * GIB, "gpu0": 24 * GIB}


async def test_a_lost_gpu_takes_its_own_backends_with_it_and_is_told_once() -> None:
    async with rig(llama("a", gpus=("0",)), llama("b", gpus=("1",)), cards=2) as it:
        await it.up("a")
        await it.up("b")
        it.machine.cards[0].state = SensorState.LOST
        await it.clock.advance(3)
        assert (it.phase("a"), it.phase("b")) == (Phase.PARKED, Phase.READY)
        assert it["a"].state.reason == "gpu0 is lost"
        it["a"].post(life.StartAsked("operator, who knows better"))
        await it.clock.advance(3)
        assert it.phase("a") is Phase.STARTING, "lost once is told once"
        assert "gpu0: it cannot be measured (lost)" in it.supervisor.placer.held("a")
        it.machine.cards[0].state = SensorState.OK
        await it.clock.advance(3)
        assert it.phase("a") is Phase.READY
        it.machine.cards[0].state = SensorState.LOST
        await it.clock.advance(3)
        assert it.phase("a") is Phase.PARKED, "lost again is told again"


# --- planning --------------------------------------------------------------------------------------------------------


async def test_a_burst_of_changes_is_planned_once(monkeypatch: pytest.MonkeyPatch) -> None:
    plans = 0

    def counting(*args: object) -> Plan:
        nonlocal plans
        plans += 1
        return Plan()

    monkeypatch.setattr(module, "plan", counting)
    async with rig(llama("a")) as it:
        await it.clock.advance(0.1)
        plans = 0
        for _ in range(100):
            it.supervisor.placer.touch()
            await asyncio.sleep(0)
        await it.clock.advance(0.01)
        assert plans <= 2


async def test_requests_that_come_and_go_plan_nothing_while_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    async with rig(llama("a", slots=4)) as it:
        await it.up("a")
        plans = 0

        def counting(*args: object) -> Plan:
            nonlocal plans
            plans += 1
            return Plan()

        monkeypatch.setattr(module, "plan", counting)
        for _ in range(20):
            it.end(it.submit("a"))
        await it.clock.advance(0.05)
        assert plans == 0


async def test_a_backend_on_the_host_needs_ram_for_what_it_would_hold_on_a_gpu() -> None:
    async with rig(llama("a", 14), cards=0) as it:
        tenant = it.supervisor.placer.tenants()[0]
        assert tenant.expects == {HOST: 14 * GIB}
        assert tenant.turn == {HOST}


async def test_shares_of_the_gpus_decide_what_each_of_them_has_to_hold() -> None:
    async with rig(llama("a", 12, tensor_split=(3, 1)), llama("b", 12), cards=2) as it:
        expects = {t.name: t.expects for t in it.supervisor.placer.tenants()}
        assert expects["a"] == {"GPU-0": 9 * GIB, "GPU-1": 3 * GIB}
        assert expects["b"] == {"GPU-0": 6 * GIB, "GPU-1": 6 * GIB}
