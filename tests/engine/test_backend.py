"""One backend: what a new description changes, how it is stopped, and what its processes tell."""

import asyncio
from dataclasses import replace

import pytest

from supervisord.core import life
from supervisord.core.exits import CauseKind
from supervisord.core.ladder import Footprint
from supervisord.core.memory import GIB
from supervisord.core.record import EventKind
from supervisord.core.state import LifePolicy, Phase, Want
from supervisord.engine.backend import NEVER_PARKED
from supervisord.runtimes.base import BackendSpec
from tests.engine.rig import Rig, command, llama, remote, rig
from tests.fakes.engine import Process

STRANGER = 7
OTHER = ("--other",)


def argv(it: Rig, name: str = "a") -> tuple[str, ...]:
    return it.processes.of(name).spec.argv


async def out_of_memory(it: Rig, name: str = "a") -> None:
    """It dies of it, and comes back a rung lower."""
    rung = it[name].state.rung
    it.processes.of(name).says("CUDA error: out of memory")
    it.processes.of(name).ends(1)
    await it.pass_until(lambda: it[name].state.rung == rung + 1 and it.phase(name) is Phase.READY)


# --- its ladder ------------------------------------------------------------------------------------------------------


async def test_a_rung_that_the_server_does_not_know_is_left_out_and_the_ladder_goes_on() -> None:
    """Without flash attention there is no quantized V cache: that is no reason to give up."""
    async with rig(llama("a", footprint=Footprint(context=8192))) as it:
        await it.up("a")
        refused: list[Process] = []

        def refuse(process: Process) -> None:
            if "q8_0" in process.spec.argv:
                refused.append(process)
                process.says("E llama_init_from_model: quantized V cache requires flash_attn to be enabled")
                process.ends(1)

        it.processes.on_start = refuse
        it.processes.of("a").says("CUDA error: out of memory")
        it.processes.of("a").ends(1)
        await it.pass_until(lambda: it.processes.count("a") == 3 and it.phase("a") is Phase.READY)
        assert (it["a"].state.rung, it["a"].rung_name) == (1, "context x 0.75")
        assert "q8_0" not in argv(it)
        assert (len(refused), it["a"].policy.rungs) == (1, 2)


# --- another description ---------------------------------------------------------------------------------------------


async def test_what_only_the_daemon_acts_on_holds_at_once_and_the_process_stays() -> None:
    spec = llama("a")
    async with rig(spec) as it:
        await it.up("a")
        it["a"].reconfigure(replace(spec, priority=5, life=LifePolicy(slots=1, drain_s=77)), restart=False)
        assert (it["a"].spec.priority, it["a"].policy.drain_s) == (5, 77)
        await it.clock.advance(3)
        assert (it.phase("a"), it.processes.count("a")) == (Phase.READY, 1)
        assert it["a"].policy.rungs == len(it["a"].rungs)


async def test_one_that_is_kept_running_is_started_again_once_its_requests_are_done() -> None:
    spec = llama("a")
    async with rig(spec) as it:
        await it.up("a")
        running = it.submit("a")
        it["a"].reconfigure(replace(spec, args=OTHER), restart=True)
        await it.clock.advance(2)
        assert (it.phase("a"), it["a"].state.reason) == (Phase.DRAINING, "its configuration changed")
        assert it["a"].spec.args == (), "the old one is what its process was started with"
        it.end(running)
        await it.clock.advance(2)
        assert (it.phase("a"), it.processes.count("a")) == (Phase.READY, 2)
        assert argv(it)[-1:] == OTHER


async def test_one_that_is_started_on_demand_leaves_and_is_started_as_it_is_then() -> None:
    spec = llama("a")
    async with rig(spec) as it:
        ticket = it.submit("a")
        await it.clock.advance(2)
        it.end(ticket)
        it["a"].reconfigure(replace(spec, args=OTHER), restart=True)
        await it.clock.advance(2)
        assert (it.phase("a"), it.processes.count("a")) == (Phase.STOPPED, 1)
        it.submit("a")
        await it.clock.advance(2)
        assert it.phase("a") is Phase.READY
        assert argv(it)[-1:] == OTHER


async def test_one_that_is_down_is_described_anew_and_stays_down() -> None:
    spec = llama("a")
    async with rig(spec) as it:
        it["a"].post(life.StopAsked("operator", Want.DOWN))
        it["a"].reconfigure(replace(spec, args=OTHER), restart=True)
        await it.clock.advance(2)
        assert (it.phase("a"), it["a"].state.want, it.processes.count("a")) == (Phase.STOPPED, Want.DOWN, 0)
        assert it["a"].spec.args == OTHER


async def test_one_that_is_parked_is_tried_again_as_it_is_described_now() -> None:
    spec = llama("a")
    async with rig(spec) as it:
        it.processes.missing.add(spec.model)
        it["a"].post(life.StartAsked("operator"))
        await it.clock.advance(1)
        assert it.phase("a") is Phase.PARKED
        it["a"].reconfigure(replace(spec, model="/models/b.gguf"), restart=True)
        await it.clock.advance(2)
        assert it.phase("a") is Phase.READY
        assert "/models/b.gguf" in argv(it)


async def test_one_on_demand_that_is_parked_serves_the_next_request() -> None:
    spec = llama("a")
    async with rig(spec) as it:
        it.processes.missing.add(spec.model)
        it.submit("a")
        await it.clock.advance(1)
        assert it.phase("a") is Phase.PARKED
        it["a"].reconfigure(replace(spec, model="/models/b.gguf"), restart=True)
        await it.clock.advance(1)
        assert it.phase("a") is Phase.STOPPED
        assert it["a"].state.failures == ()
        it.submit("a")
        await it.clock.advance(2)
        assert it.phase("a") is Phase.READY


async def test_a_start_that_waits_for_its_place_waits_as_described_now() -> None:
    spec = llama("a", 14)
    async with rig(spec) as it:
        it.machine.cards[0].used[STRANGER] = 20 * GIB
        it["a"].post(life.StartAsked("operator"))
        await it.clock.advance(1)
        it["a"].reconfigure(replace(llama("a", 2), args=OTHER), restart=True)
        await it.clock.advance(2)
        assert it.phase("a") is Phase.READY
        assert argv(it)[-1:] == OTHER


async def test_another_runtime_is_another_runtime() -> None:
    async with rig(llama("a")) as it:
        await it.up("a")
        it["a"].reconfigure(command("a", "other", "--port", "${port}"), restart=True)
        await it.clock.advance(3)
        assert it.phase("a") is Phase.READY
        assert argv(it)[0] == "other"


@pytest.mark.parametrize("want", [Want.UP, pytest.param(Want.ON_DEMAND)])
async def test_a_new_description_that_needs_a_restart_begins_on_the_first_rung(want: Want) -> None:
    spec = llama("a", footprint=Footprint(context=8192))
    async with rig(spec) as it:
        ticket = it.submit("a")
        if want is Want.UP:
            await it.up("a")
        await it.clock.advance(2)
        it.processes.of("a").says("CUDA error: out of memory")
        it.processes.of("a").ends(1)
        await it.pass_until(lambda: it["a"].state.rung == 1)
        it.end(ticket)
        await it.clock.advance(2)
        it["a"].reconfigure(replace(spec, footprint=Footprint(context=4096)), restart=True)
        await it.clock.advance(2)
        assert it["a"].state.rung == 0


async def test_a_change_that_needs_no_restart_forgets_nothing_of_what_was_learned() -> None:
    """Otherwise the rung that it is on means something else, or is one that there is not."""
    spec = llama("a")
    async with rig(spec) as it:
        await it.up("a")
        await out_of_memory(it)
        await out_of_memory(it)
        before = it["a"].footprint_on(2)
        assert (before.context, it["a"].state.rung) == (3072, 2)
        it["a"].reconfigure(replace(spec, priority=5), restart=False)
        assert it["a"].footprint_on(2) == before
        assert it["a"].policy.rungs == 3


# --- stopping --------------------------------------------------------------------------------------------------------


def stoppable(**changes: object) -> BackendSpec:
    spec = command("a", stop=("docker", "stop", "it"), env={"DOCKER_HOST": "x"})
    return replace(spec, life=LifePolicy(term_s=8.0, kill_s=4.0), **changes)  # type: ignore[arg-type]


async def test_the_stop_command_runs_before_the_signal() -> None:
    async with rig(stoppable()) as it:
        await it.up("a")
        it.processes.run_takes_s = 3.0
        it["a"].post(life.StopAsked("operator", Want.DOWN))
        await it.clock.advance(2)
        process = it.processes.of("a")
        assert [(ran[0], ran[1]["DOCKER_HOST"], ran[2]) for ran in it.processes.ran] == [
            (("docker", "stop", "it"), "x", 8.0)
        ]
        assert process.terms == 0
        await it.clock.advance(2)
        assert process.terms == 1
        await it.clock.advance(1)
        assert it.phase("a") is Phase.STOPPED


async def test_a_stop_command_that_fails_is_told_and_the_signal_follows() -> None:
    async with rig(stoppable()) as it:
        await it.up("a")
        it.processes.run_problem = "docker ended with status 1: no such container"
        it["a"].post(life.StopAsked("operator", Want.DOWN))
        await it.clock.advance(1)
        assert it.phase("a") is Phase.STOPPED
        told = "the stop command of a failed: docker ended with status 1: no such container"
        assert told in it.told(EventKind.PHASE, "a")


async def test_a_stop_command_that_hangs_costs_no_more_time_than_a_signal() -> None:
    async with rig(stoppable()) as it:
        await it.up("a")
        it.processes.run_takes_s = 3600.0
        it.processes.of("a").obeys = False
        it["a"].post(life.StopAsked("operator", Want.DOWN))
        await it.clock.advance(7.5)
        assert it.processes.of("a").kills == 0
        await it.clock.advance(1)
        assert it.processes.of("a").kills
        assert it.processes.of("a").gone
        await it.clock.advance(1)
        assert it.phase("a") is Phase.STOPPED


async def test_a_process_without_a_stop_command_gets_the_signal_at_once() -> None:
    async with rig(llama("a")) as it:
        await it.up("a")
        it["a"].post(life.StopAsked("operator", Want.DOWN))
        assert it.processes.of("a").terms == 1
        assert it.processes.ran == []


# --- places ----------------------------------------------------------------------------------------------------------


async def test_a_place_given_up_while_it_is_waited_for_leads_to_stopped_without_a_word_of_failure() -> None:
    async with rig(llama("a", 14)) as it:
        it.machine.cards[0].used[STRANGER] = 20 * GIB
        it["a"].post(life.StartAsked("operator"))
        await it.clock.advance(1)
        it["a"].post(life.StopAsked("operator", Want.DOWN))
        await it.clock.rest()
        assert it.phase("a") is Phase.STOPPED
        assert (it["a"].state.failures, it["a"].state.cause) == ((), None)


async def test_a_stop_that_comes_before_the_place_was_asked_for_is_as_quick() -> None:
    """Its model's files are looked at first, which may take a while."""
    async with rig(llama("a")) as it:
        it["a"].post(life.StartAsked("operator"))
        it["a"].post(life.StopAsked("operator", Want.DOWN))
        await it.clock.advance(1)
        assert it.phase("a") is Phase.STOPPED
        assert it.processes.count("a") == 0


async def test_what_is_missing_is_told_before_a_place_is_asked_for() -> None:
    async with rig(llama("a", 14)) as it:
        it.machine.cards[0].used[STRANGER] = 20 * GIB
        it.processes.missing.add("/models/a.gguf")
        it["a"].post(life.StartAsked("operator"))
        await it.clock.advance(1)
        assert (it.phase("a"), it["a"].state.deadline) == (Phase.PARKED, None)
        assert "Correct backends.a.model" in it["a"].state.reason


async def test_one_that_is_stopped_while_it_is_spawned_ends_once_it_is_there() -> None:
    async with rig(llama("a")) as it:
        it.processes.spawn_gate = asyncio.Event()
        it["a"].post(life.StartAsked("operator"))
        await it.clock.advance(1)
        it["a"].post(life.StopAsked("operator", Want.DOWN))
        await it.clock.advance(1)
        assert it.phase("a") is Phase.STOPPING
        it.processes.spawn_gate.set()
        await it.clock.advance(1)
        assert it.phase("a") is Phase.STOPPED
        assert it.processes.of("a").gone


# --- what processes tell ---------------------------------------------------------------------------------------------


async def test_memory_is_waited_for_until_it_is_measured_free() -> None:
    async with rig(llama("a")) as it:
        await it.up("a")
        pid = it.processes.of("a").pid
        it["a"].post(life.StopAsked("operator", Want.DOWN))
        it.machine.cards[0].used[pid] = GIB
        await it.clock.rest()
        it.machine.cards[0].used[pid] = GIB
        await it.clock.advance(5)
        assert it.phase("a") is Phase.STOPPING
        assert it["a"].generation is not None
        assert it["a"].generation.note == "waits for its VRAM to be measured free"
        it.machine.forget(pid)
        await it.clock.advance(1)
        assert it.phase("a") is Phase.STOPPED


async def test_a_driver_that_never_gives_it_back_is_not_waited_for_for_ever() -> None:
    async with rig(llama("a")) as it:
        await it.up("a")
        pid = it.processes.of("a").pid
        it["a"].post(life.StopAsked("operator", Want.DOWN))
        await it.clock.rest()
        it.machine.cards[0].used[pid] = GIB
        await it.clock.advance(29)
        assert it.phase("a") is Phase.STOPPING
        await it.clock.advance(2)
        assert it.phase("a") is Phase.STOPPED


async def test_workers_that_outlive_their_leader_are_killed() -> None:
    async with rig(llama("a")) as it:
        await it.up("a")
        process = it.processes.of("a")
        process.workers = (901, 902)
        process.ends(0)
        await it.clock.advance(2)
        assert process.gone
        cause = it["a"].state.cause
        assert cause is not None
        assert cause.kind is CauseKind.EXITED


async def test_a_log_is_followed_and_its_end_is_kept_until_the_next_one_says_something() -> None:
    async with rig(llama("a")) as it:
        heard: list[str] = []
        it["a"].log_followers.add(heard.append)
        await it.up("a")
        it.processes.of("a").says("one", "two")
        await it.clock.rest()
        assert heard == ["one", "two"]
        it["a"].post(life.RestartAsked("operator"))
        await it.clock.advance(2)
        assert it.processes.count("a") == 2
        assert it["a"].tail(1) == ["two"]
        it.processes.of("a").says("three")
        assert it["a"].tail(5) == ["three"]


async def test_a_server_that_lives_but_got_no_memory_is_condemned_by_what_it_said_since() -> None:
    async with rig(llama("a")) as it:
        it.processes.on_start = lambda process: process.says("unable to allocate CUDA0 buffer", "model loaded")
        await it.up("a")
        generation = it["a"].generation
        assert generation is not None
        assert not it["a"].lacks_memory(generation), "what it met while loading it coped with"
        it.processes.of("a").says("CUDA error: out of memory")
        assert it["a"].lacks_memory(generation)
        await it.pass_until(lambda: it.phase("a") is Phase.READY)
        assert it["a"].state.rung == 1
        assert not it["a"].lacks_memory(generation), "a generation that is gone"


async def test_an_address_elsewhere_is_never_given_up() -> None:
    async with rig(remote("r")) as it:
        assert it["r"].policy.restart.max_failures == NEVER_PARKED
        assert it["r"].rungs == ()
