"""Smaller when memory is needed, larger again when that has gone well for long."""

from dataclasses import replace

import pytest

from supervisord.core import life
from supervisord.core.backend import step
from supervisord.core.exits import CauseKind, ExitCause
from supervisord.core.resizing import MOST_DOUBLINGS, climb_due
from supervisord.core.restart import RestartPolicy
from supervisord.core.state import After, BackendState, LifePolicy, Phase, StopStep, Want

POLICY = LifePolicy(slots=2, rungs=2, drain_s=7.0, climb_after_s=100.0, restart=RestartPolicy(rearm_after_s=900.0))
READY = BackendState(Phase.READY, Want.UP, generation=1, ready_since=0.0, served=1)
OOM = ExitCause(CauseKind.GPU_OOM, "CUDA out of memory")
ALIVE = [Phase.STARTING, Phase.LOADING, Phase.READY, Phase.SUSPECT]


def after(state: BackendState, *events: life.Event, now: float = 0.0, policy: LifePolicy = POLICY) -> BackendState:
    for event in events:
        state, _ = step(state, event, policy, now)
    return state


def ended(generation: int, cause: ExitCause | None = None) -> tuple[life.Event, ...]:
    cause = cause or ExitCause(CauseKind.ASKED, "stopped as asked")
    return life.Exited(generation, cause), life.TreeGone(generation), life.Released(generation, 0.5)


@pytest.mark.parametrize("phase", ALIVE)
def test_it_comes_back_one_rung_smaller_and_says_why(phase: Phase) -> None:
    shrunk = after(replace(READY, phase=phase), life.ShrinkAsked("gpu0 is short of memory"))
    assert (shrunk.phase, shrunk.stop, shrunk.rung) == (Phase.STOPPING, StopStep.TERM, 1)
    again = after(shrunk, *ended(1))
    assert (again.phase, again.generation, again.rung) == (Phase.STARTING, 2, 1)
    assert again.rung_why == "gpu0 is short of memory"
    assert (again.failures, again.restarts) == ((), 0), "it has not failed"


def test_who_is_being_served_may_finish() -> None:
    draining = after(replace(READY, in_flight=1), life.ShrinkAsked("short"), now=3.0)
    assert (draining.phase, draining.deadline) == (Phase.DRAINING, 10.0)
    late, effects = step(draining, life.DeadlineReached(), POLICY, 10.0)
    assert late.phase is Phase.STOPPING
    assert [type(e) for e in effects] == [life.FailLeases, life.Terminate]


@pytest.mark.parametrize("phase", ALIVE)
def test_the_smallest_one_stays_away_for_a_while(phase: Phase) -> None:
    gone = after(replace(READY, phase=phase, rung=2), life.ShrinkAsked("short"))
    assert gone.after is After.PARK
    parked = after(gone, *ended(1), now=5.0)
    assert (parked.phase, parked.deadline, parked.rung) == (Phase.PARKED, 905.0, 2)
    assert parked.reason == "short; no smaller footprint is left"


@pytest.mark.parametrize("phase", sorted(set(Phase) - set(ALIVE)))
def test_one_that_is_not_there_or_leaves_is_left_alone(phase: Phase) -> None:
    state = replace(READY, phase=phase)
    assert step(state, life.ShrinkAsked("short"), POLICY, 0.0) == (state, ())


def test_an_operators_stop_comes_before_its_return() -> None:
    leaving = after(READY, life.ShrinkAsked("short"), life.StopAsked("by hand", Want.DOWN))
    assert after(leaving, *ended(1)).phase is Phase.STOPPED


# --- larger again ----------------------------------------------------------------------------------------------------

SMALL = replace(READY, rung=2, rung_why="CUDA out of memory")


@pytest.mark.parametrize(
    "changes",
    [
        {"rung": 0},
        {"in_flight": 1},
        {"served": 0},
        {"ready_since": 0.1},
        {"ready_since": None},
        {"phase": Phase.SUSPECT},
        {"climbs_failed": 1},
    ],
)
def test_it_is_not_due_before_it_has_served_for_long(changes: dict[str, object]) -> None:
    assert climb_due(SMALL, POLICY, 100.0)
    early = replace(SMALL, **changes)  # type: ignore[arg-type]
    assert not climb_due(early, POLICY, 100.0)
    assert step(early, life.ClimbAsked("room"), POLICY, 100.0) == (early, ())


def test_each_climb_that_fails_doubles_the_wait() -> None:
    for failed, wait in ((1, 200.0), (3, 800.0), (MOST_DOUBLINGS, 6400.0), (99, 6400.0)):
        state = replace(SMALL, climbs_failed=failed)
        assert (climb_due(state, POLICY, wait - 0.1), climb_due(state, POLICY, wait)) == (False, True)


def test_it_climbs_one_rung_at_a_time() -> None:
    one = after(SMALL, life.ClimbAsked("room"), now=100.0)
    assert (one.phase, one.rung, one.rung_why) == (Phase.STOPPING, 1, "CUDA out of memory")
    up = after(after(one, *ended(1), now=101.0), life.Spawned(2), life.Answered(2), now=102.0)
    assert (up.phase, up.rung, up.climbing) == (Phase.READY, 1, True)
    top = after(replace(up, served=1, climbs_failed=3), life.ClimbAsked("room"), now=10_000.0)
    assert (top.rung, top.rung_why, top.climbs_failed) == (0, "", 0), "the climb before it has gone well"


@pytest.mark.parametrize("shrinks", [False, True])
def test_a_climb_that_runs_out_of_memory_is_taken_back(shrinks: bool) -> None:
    up = after(after(SMALL, life.ClimbAsked("room"), now=100.0), *ended(1), now=101.0)
    if shrinks:
        back = after(after(up, life.Spawned(2), life.ShrinkAsked("short"), now=102.0), *ended(2), now=103.0)
    else:
        back = after(after(up, life.Spawned(2), now=102.0), *ended(2, OOM), now=103.0)
    assert (back.phase, back.rung, back.climbing, back.climbs_failed) == (Phase.STARTING, 2, False, 1)
    assert back.rung_why == ("short" if shrinks else "CUDA out of memory")


def test_a_climb_that_had_gone_well_for_long_has_not_failed_when_memory_is_short_at_last() -> None:
    long = POLICY.climb_after_s
    climbed = replace(SMALL, rung=1, climbing=True, climbs_failed=2, ready_since=0.0, served=1)
    assert after(climbed, life.ShrinkAsked("short"), now=long).climbs_failed == 0
    assert after(climbed, life.ShrinkAsked("short"), now=long - 1).climbs_failed == 3
    assert after(replace(climbed, served=0), life.ShrinkAsked("short"), now=long).climbs_failed == 3


def test_a_failure_on_a_size_that_worked_is_no_failed_climb() -> None:
    back = after(after(replace(SMALL, rung=1), *ended(1, OOM)), now=1.0)
    assert (back.rung, back.climbs_failed) == (2, 0)


def test_a_reset_forgets_all_of_it() -> None:
    reset = after(replace(SMALL, climbing=True, climbs_failed=4), life.ResetAsked("by hand"))
    assert (reset.rung, reset.rung_why, reset.climbing, reset.climbs_failed) == (0, "", False, 0)
