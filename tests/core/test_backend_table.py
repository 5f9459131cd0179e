"""Every phase against every event: what may follow, and what must hold wherever a backend can get to.

The table is written by hand; `scripts.transitions` walks through every reachable state and tells what really follows.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import pytest

from scripts.transitions import CRASH, EVENTS, GENERATION, NOW, OOM, PERMANENT, POLICY, essence, moves, reachable
from supervisord.core import life
from supervisord.core.backend import room, step
from supervisord.core.moves import earliest
from supervisord.core.state import ALIVE, DOWN, After, BackendState, Phase, StopStep, Want

# One string for each thing that can follow: the next phase, then the effects in order.
SETTLED = {
    "stopped", "starting Spawn", "backoff", "parked",
    # the same where somebody still waits for its answer
    "stopped FailLeases", "starting FailLeases Spawn", "backoff FailLeases", "parked FailLeases",
}  # fmt: skip

TABLE: dict[Phase, dict[type, set[str]]] = {
    Phase.STOPPED: {
        life.StartAsked: {"starting Spawn"},
        life.Readmitted: {"stopped"},
        life.WakeAsked: {"starting Spawn", "stopped"},  # stopped: an operator wants it down
        life.StopAsked: {"stopped"},
        life.RestartAsked: {"starting Spawn"},
        life.ResetAsked: {"stopped"},
        life.ShrinkAsked: {"stopped"},
        life.ClimbAsked: {"stopped"},
        life.Spawned: {"stopped"},
        life.SpawnFailed: {"stopped"},
        life.Progressed: {"stopped"},
        life.Computed: {"stopped"},
        life.Allowed: {"stopped"},
        life.CanaryMissed: {"stopped"},
        life.Diagnosed: {"stopped"},
        life.Answered: {"stopped"},
        life.ProbeMissed: {"stopped"},
        life.Exited: {"stopped"},
        life.TreeGone: {"stopped"},
        life.Released: {"stopped"},
        life.Condemned: {"stopped"},
        life.DeviceLost: {"stopped", "parked"},  # stopped: an operator wants it down
        life.Measured: {"stopped"},
        life.DeadlineReached: {"stopped"},
        life.LeaseAsked: {"stopped RefuseLease"},
        life.LeaseEnded: {"stopped"},
    },
    Phase.STARTING: {
        life.StartAsked: {"starting"},
        life.Readmitted: {"starting"},
        life.WakeAsked: {"starting"},
        life.StopAsked: {"stopping Terminate"},
        life.RestartAsked: {"stopping Terminate"},
        life.ResetAsked: {"starting", "stopping Terminate"},  # stopping: below its full footprint
        life.ShrinkAsked: {"stopping Terminate"},
        life.ClimbAsked: {"starting"},
        life.Spawned: {"loading"},
        life.SpawnFailed: {"backoff", "parked"},
        life.Progressed: {"starting"},
        life.Computed: {"starting"},
        life.Allowed: {"starting"},
        life.CanaryMissed: {"starting"},
        life.Diagnosed: {"starting"},
        life.Answered: {"starting"},
        life.ProbeMissed: {"starting"},
        life.Exited: {"stopping Kill"},
        life.TreeGone: {"starting"},
        life.Released: {"starting"},
        life.Condemned: {"stopping FailLeases Kill"},
        life.DeviceLost: {"stopping FailLeases Kill"},
        life.Measured: {"starting"},
        life.DeadlineReached: {"starting"},
        life.LeaseAsked: {"starting RefuseLease"},
        life.LeaseEnded: {"starting"},
    },
    Phase.LOADING: {
        life.StartAsked: {"loading"},
        life.Readmitted: {"loading"},
        life.WakeAsked: {"loading"},
        life.StopAsked: {"stopping Terminate"},
        life.RestartAsked: {"stopping Terminate"},
        life.ResetAsked: {"loading", "stopping Terminate"},
        life.ShrinkAsked: {"stopping Terminate"},
        life.ClimbAsked: {"loading"},
        life.Spawned: {"loading"},
        life.SpawnFailed: {"loading"},
        life.Progressed: {"loading"},
        life.Computed: {"loading"},
        life.Allowed: {"loading"},
        life.CanaryMissed: {"loading"},
        life.Diagnosed: {"loading"},
        life.Answered: {"ready"},
        life.ProbeMissed: {"loading"},
        life.Exited: {"stopping Kill"},
        life.TreeGone: {"loading"},
        life.Released: {"loading"},
        life.Condemned: {"stopping FailLeases Kill"},
        life.DeviceLost: {"stopping FailLeases Kill"},
        life.Measured: {"loading"},
        life.DeadlineReached: {"stopping FailLeases Terminate"},
        life.LeaseAsked: {"loading RefuseLease"},
        life.LeaseEnded: {"loading"},
    },
    Phase.READY: {
        life.StartAsked: {"ready"},
        life.Readmitted: {"ready"},
        life.WakeAsked: {"ready"},
        life.StopAsked: {"draining", "stopping Terminate"},
        life.RestartAsked: {"draining", "stopping Terminate"},
        life.ResetAsked: {"ready", "draining", "stopping Terminate"},
        life.ShrinkAsked: {"stopping Terminate", "draining"},
        life.ClimbAsked: {"ready", "stopping Terminate"},
        life.Spawned: {"ready"},
        life.SpawnFailed: {"ready"},
        life.Progressed: {"ready"},
        life.Computed: {"ready"},
        life.Allowed: {"ready"},
        life.CanaryMissed: {"ready", "suspect Diagnose"},  # ready: there is work, which will show whether it moves
        life.Diagnosed: {"ready"},
        life.Answered: {"ready"},
        life.ProbeMissed: {"suspect"},
        life.Exited: {"stopping Kill"},
        life.TreeGone: {"ready"},
        life.Released: {"ready"},
        life.Condemned: {"stopping FailLeases Kill"},
        life.DeviceLost: {"stopping FailLeases Kill"},
        life.Measured: {"ready"},
        life.DeadlineReached: {"ready", "suspect Diagnose"},  # ready: the pause of its breaker is over
        life.LeaseAsked: {"ready GrantLease", "ready RefuseLease"},
        life.LeaseEnded: {"ready"},  # too many that failed keep others away, and nothing in flight is cut
    },
    Phase.SUSPECT: {
        life.StartAsked: {"suspect"},
        life.Readmitted: {"suspect"},
        life.WakeAsked: {"suspect"},
        life.StopAsked: {"draining", "stopping Terminate"},
        life.RestartAsked: {"draining", "stopping Terminate"},
        life.ResetAsked: {"suspect", "draining", "stopping Terminate"},
        life.ShrinkAsked: {"stopping Terminate", "draining"},
        life.ClimbAsked: {"suspect"},
        life.Spawned: {"suspect"},
        life.SpawnFailed: {"suspect"},
        life.Progressed: {"suspect", "ready"},  # suspect: it answers no probe
        life.Computed: {"suspect", "ready"},  # ready: it did answer its probe
        life.Allowed: {"suspect", "ready"},
        life.CanaryMissed: {"suspect"},
        life.Diagnosed: {"suspect", "ready", "stopping FailLeases Terminate"},
        life.Answered: {"ready", "suspect"},  # suspect: a hung server may answer its probe
        life.ProbeMissed: {"suspect"},
        life.Exited: {"stopping Kill"},
        life.TreeGone: {"suspect"},
        life.Released: {"suspect"},
        life.Condemned: {"stopping FailLeases Kill"},
        life.DeviceLost: {"stopping FailLeases Kill"},
        life.Measured: {"suspect"},
        life.DeadlineReached: {"suspect Diagnose", "stopping FailLeases Terminate"},
        life.LeaseAsked: {"suspect RefuseLease"},
        life.LeaseEnded: {"suspect", "ready"},  # what has answered moves, whatever was doubted
    },
    Phase.DRAINING: {
        life.StartAsked: {"draining"},
        life.Readmitted: {"draining"},
        life.WakeAsked: {"draining"},
        life.StopAsked: {"draining"},
        life.RestartAsked: {"draining"},
        life.ResetAsked: {"draining"},
        life.ShrinkAsked: {"draining"},
        life.ClimbAsked: {"draining"},
        life.Spawned: {"draining"},
        life.SpawnFailed: {"draining"},
        life.Progressed: {"draining"},
        life.Computed: {"draining"},
        life.Allowed: {"draining"},
        life.CanaryMissed: {"draining"},
        life.Diagnosed: {"draining"},
        life.Answered: {"draining"},
        life.ProbeMissed: {"draining"},
        life.Exited: {"stopping Kill"},
        life.TreeGone: {"draining"},
        life.Released: {"draining"},
        life.Condemned: {"stopping FailLeases Kill"},
        life.DeviceLost: {"stopping FailLeases Kill"},
        life.Measured: {"draining"},
        life.DeadlineReached: {"stopping FailLeases Terminate"},
        life.LeaseAsked: {"draining RefuseLease"},
        life.LeaseEnded: {"draining", "stopping Terminate"},
    },
    Phase.STOPPING: {
        life.StartAsked: {"stopping"},
        life.Readmitted: {"stopping"},
        life.WakeAsked: {"stopping"},
        life.StopAsked: {"stopping"},
        life.RestartAsked: {"stopping"},
        life.ResetAsked: {"stopping"},
        life.ShrinkAsked: {"stopping"},
        life.ClimbAsked: {"stopping"},
        life.Spawned: {"stopping Terminate", "stopping Kill"},  # kill: the time for a polite end is over
        life.SpawnFailed: SETTLED,
        life.Progressed: {"stopping"},
        life.Computed: {"stopping"},
        life.Allowed: {"stopping"},
        life.CanaryMissed: {"stopping"},
        life.Diagnosed: {"stopping"},
        life.Answered: {"stopping"},
        life.ProbeMissed: {"stopping"},
        life.Exited: {"stopping", "stopping Kill"},
        life.TreeGone: {"stopping"},
        life.Released: {"stopping", *SETTLED},  # stopping: part of the tree is still there
        life.Condemned: {"stopping", "stopping Kill"},
        life.DeviceLost: {"stopping", "stopping Kill"},
        life.Measured: {"stopping"},
        life.DeadlineReached: {"stopping", "stopping Kill", "unkillable"},
        life.LeaseAsked: {"stopping RefuseLease"},
        life.LeaseEnded: {"stopping"},
    },
    Phase.BACKOFF: {
        life.StartAsked: {"starting Spawn"},
        life.Readmitted: {"backoff"},
        life.WakeAsked: {"backoff"},
        life.StopAsked: {"stopped"},
        life.RestartAsked: {"starting Spawn"},
        life.ResetAsked: {"starting Spawn"},
        life.ShrinkAsked: {"backoff"},
        life.ClimbAsked: {"backoff"},
        life.Spawned: {"backoff"},
        life.SpawnFailed: {"backoff"},
        life.Progressed: {"backoff"},
        life.Computed: {"backoff"},
        life.Allowed: {"backoff"},
        life.CanaryMissed: {"backoff"},
        life.Diagnosed: {"backoff"},
        life.Answered: {"backoff"},
        life.ProbeMissed: {"backoff"},
        life.Exited: {"backoff"},
        life.TreeGone: {"backoff"},
        life.Released: {"backoff"},
        life.Condemned: {"backoff"},
        life.DeviceLost: {"parked"},
        life.Measured: {"backoff"},
        life.DeadlineReached: {"starting Spawn"},
        life.LeaseAsked: {"backoff RefuseLease"},
        life.LeaseEnded: {"backoff"},
    },
    Phase.PARKED: {
        life.StartAsked: {"starting Spawn"},
        life.Readmitted: {"parked"},
        life.WakeAsked: {"parked"},
        life.StopAsked: {"parked", "stopped"},  # parked: it was only to make room
        life.RestartAsked: {"starting Spawn"},
        life.ResetAsked: {"starting Spawn"},
        life.ShrinkAsked: {"parked"},
        life.ClimbAsked: {"parked"},
        life.Spawned: {"parked"},
        life.SpawnFailed: {"parked"},
        life.Progressed: {"parked"},
        life.Computed: {"parked"},
        life.Allowed: {"parked"},
        life.CanaryMissed: {"parked"},
        life.Diagnosed: {"parked"},
        life.Answered: {"parked"},
        life.ProbeMissed: {"parked"},
        life.Exited: {"parked"},
        life.TreeGone: {"parked"},
        life.Released: {"parked"},
        life.Condemned: {"parked"},
        life.DeviceLost: {"parked"},
        life.Measured: {"parked"},
        life.DeadlineReached: {"parked", "starting Spawn"},  # parked: the cause cannot heal
        life.LeaseAsked: {"parked RefuseLease"},
        life.LeaseEnded: {"parked"},
    },
    Phase.UNKILLABLE: {
        life.StartAsked: {"unkillable"},
        life.Readmitted: {"unkillable"},
        life.WakeAsked: {"unkillable"},
        life.StopAsked: {"unkillable"},
        life.RestartAsked: {"unkillable"},
        life.ResetAsked: {"unkillable Kill"},
        life.ShrinkAsked: {"unkillable"},
        life.ClimbAsked: {"unkillable"},
        life.Spawned: {"unkillable Kill"},
        life.SpawnFailed: SETTLED,  # there was no process after all
        life.Progressed: {"unkillable"},
        life.Computed: {"unkillable"},
        life.Allowed: {"unkillable"},
        life.CanaryMissed: {"unkillable"},
        life.Diagnosed: {"unkillable"},
        life.Answered: {"unkillable"},
        life.ProbeMissed: {"unkillable"},
        life.Exited: {"unkillable"},
        life.TreeGone: {"stopping"},
        life.Released: {"unkillable"},
        life.Condemned: {"unkillable"},
        life.DeviceLost: {"unkillable"},
        life.Measured: {"unkillable"},
        life.DeadlineReached: {"unkillable"},
        life.LeaseAsked: {"unkillable RefuseLease"},
        life.LeaseEnded: {"unkillable"},
    },
}

GENERATIONAL = [event for event in EVENTS.values() if hasattr(event, "generation")]


def found(phase: Phase, kind: type) -> set[str]:
    names = [name for name, event in EVENTS.items() if type(event) is kind]
    return {" ".join([after, *effects]) for name in names for after, effects in moves().get((phase, name), ())}


def test_the_table_names_every_phase_and_every_event() -> None:
    everything = set(get_args(life.Event))

    assert set(TABLE) == set(Phase)
    assert {phase: set(row) for phase, row in TABLE.items()} == dict.fromkeys(Phase, everything)
    assert {type(event) for event in EVENTS.values()} == everything, "scripts/transitions.py must post every event"


@pytest.mark.parametrize("phase", Phase)
def test_what_follows_is_what_the_table_says(phase: Phase) -> None:
    assert {kind.__name__: found(phase, kind) for kind in TABLE[phase]} == {
        kind.__name__: expected for kind, expected in TABLE[phase].items()
    }


@pytest.mark.parametrize("event", GENERATIONAL, ids=lambda event: type(event).__name__)
@pytest.mark.parametrize("age", [-1, 1])
def test_news_of_another_generation_changes_nothing(event: life.Event, age: int) -> None:
    assert hasattr(event, "generation")
    stale = replace(event, generation=GENERATION + age)
    for state in reachable():
        after, effects = step(state, stale, POLICY, NOW)
        assert after is state
        if isinstance(stale, life.Spawned):  # nobody else will ever end that process
            assert effects == (life.Kill(GENERATION + age),)
        else:
            assert effects == ()


def test_every_event_that_could_carry_a_generation_is_tried() -> None:
    carrying = {kind for kind in get_args(life.Event) if "generation" in kind.__dataclass_fields__}

    assert {type(event) for event in GENERATIONAL} == carrying
    assert carrying == {
        life.Spawned, life.SpawnFailed, life.Progressed, life.Answered, life.ProbeMissed, life.Exited, life.TreeGone,
        life.Released, life.Condemned, life.Measured, life.LeaseEnded, life.Computed, life.Allowed, life.CanaryMissed,
        life.Diagnosed,
    }  # fmt: skip


# --- what holds in every state that can be reached -------------------------------------------------------------------


def holds_everywhere(promise: Callable[[BackendState], bool]) -> None:
    broken = [state for state in reachable() if not promise(state)]
    assert not broken, broken[0]


def test_every_wait_for_a_process_has_an_end() -> None:
    holds_everywhere(
        lambda s: s.phase not in {Phase.LOADING, Phase.SUSPECT, Phase.DRAINING, Phase.BACKOFF} or s.deadline is not None
    )
    holds_everywhere(lambda s: s.stop not in {StopStep.TERM, StopStep.KILL} or s.deadline is not None)


def test_a_ready_backend_has_a_deadline_exactly_while_it_works_or_its_breaker_is_open() -> None:
    ready = [s for s in reachable() if s.phase is Phase.READY]
    assert all((s.work_due is not None) == (s.in_flight > 0) for s in ready)
    assert all(s.deadline == earliest(s.work_due, s.busy_due, s.open_until) for s in ready)
    assert all(s.busy_due is None or s.in_flight for s in ready)
    holds_everywhere(lambda s: s.phase is Phase.READY or s.work_due is None)


def test_an_open_breaker_lets_nothing_in_and_one_on_trial_a_single_job() -> None:
    holds_everywhere(lambda s: s.open_until is None or (s.on_trial and not room(s, POLICY, 0)))
    holds_everywhere(lambda s: not s.trial or (s.on_trial and s.in_flight > 0 and not room(s, POLICY, 0)))
    holds_everywhere(lambda s: not s.on_trial or s.failed_in_row > 0)
    assert {(s.open_until is None, bool(s.trial), s.in_flight) for s in reachable() if s.on_trial} >= {
        (False, False, 0), (False, False, 1), (True, False, 0), (True, False, 1), (True, True, 1), (True, True, 2),
    }  # fmt: skip


def test_a_ready_backend_says_why_it_does_not_get_all_it_could() -> None:
    def breaker(state: BackendState) -> tuple[Phase, bool, float | None]:
        return state.phase, state.on_trial, state.open_until

    for state in reachable():
        for event in EVENTS.values():
            after, _ = step(state, event, POLICY, NOW)
            if after.phase is Phase.READY and breaker(after) != breaker(state):
                assert bool(after.reason) is after.on_trial
                assert ("for a while" in after.reason) is (after.open_until is not None)


def test_what_waits_for_an_operator_or_for_the_kernel_has_no_deadline() -> None:
    holds_everywhere(lambda s: s.phase not in {Phase.STOPPED, Phase.UNKILLABLE} or s.deadline is None)
    holds_everywhere(lambda s: s.stop is not StopStep.RELEASE or s.deadline is None)


def test_a_parked_backend_tries_again_unless_its_cause_cannot_heal() -> None:
    parked = [s for s in reachable() if s.phase is Phase.PARKED]
    assert {s.cause is not None and s.cause.permanent for s in parked} == {True, False}
    for state in parked:
        assert (state.deadline is None) == (state.cause is not None and state.cause.permanent)


def test_a_step_of_stopping_belongs_to_the_phase_stopping() -> None:
    holds_everywhere(lambda s: (s.stop is not None) == (s.phase is Phase.STOPPING))


def test_no_more_is_in_flight_than_there_are_slots_and_nothing_where_nothing_runs() -> None:
    holds_everywhere(lambda s: 0 <= s.in_flight <= POLICY.slots)
    holds_everywhere(lambda s: s.phase not in DOWN | {Phase.STARTING, Phase.LOADING} or s.in_flight == 0)


def test_nothing_is_held_for_requests_that_are_not_there() -> None:
    ending = [e for e in EVENTS.values() if isinstance(e, life.LeaseEnded | life.Released | life.SpawnFailed)]
    for state in reachable():
        if not state.in_flight:
            continue
        for event in ending:
            after, _ = step(replace(state, tokens=100 * state.in_flight), event, POLICY, NOW)
            assert after.in_flight or not after.tokens, (state, event)


def test_a_lease_is_granted_exactly_where_there_is_room() -> None:
    for state in reachable():
        _, effects = step(state, life.LeaseAsked("job"), POLICY, NOW)
        assert isinstance(effects[0], life.GrantLease) == room(state, POLICY, 0)


def test_a_lost_device_leaves_nothing_running_and_nothing_that_starts_by_itself_soon() -> None:
    for state in reachable():
        after, effects = step(state, life.DeviceLost("gpu0 is lost"), POLICY, NOW)
        assert not any(isinstance(effect, life.Spawn) for effect in effects)
        assert after.phase in {Phase.STOPPED, Phase.PARKED, Phase.STOPPING, Phase.UNKILLABLE}
        if after.phase in {Phase.STOPPING, Phase.UNKILLABLE}:
            assert after.after is (state.after if state.want is Want.DOWN else After.JUDGE)
            assert after.stop is not StopStep.TERM, "politeness needs a driver that answers"


def test_what_an_operator_stopped_is_down_or_on_its_way_there() -> None:
    going = {Phase.DRAINING, Phase.STOPPING, Phase.UNKILLABLE}
    holds_everywhere(
        lambda s: s.want is not Want.DOWN or s.phase is Phase.STOPPED or (s.phase in going and s.after is After.STAY)
    )


def test_only_an_operator_starts_what_an_operator_stopped() -> None:
    may = (life.StartAsked, life.RestartAsked)
    for state in reachable():
        if state.want is not Want.DOWN:
            continue
        for event in EVENTS.values():
            after, effects = step(state, event, POLICY, NOW)
            if not isinstance(event, may):
                assert after.want is (Want.ON_DEMAND if isinstance(event, life.Readmitted) else Want.DOWN)
                assert not any(isinstance(effect, life.Spawn) for effect in effects), (state, event)


def test_a_generation_starts_only_when_nothing_is_left_of_the_one_before() -> None:
    gone = {life.Released, life.SpawnFailed}
    for state in reachable():
        for event in EVENTS.values():
            after, effects = step(state, event, POLICY, NOW)
            spawned = [effect for effect in effects if isinstance(effect, life.Spawn)]
            assert (after.generation - state.generation) == len(spawned) <= 1
            if spawned:
                assert after.phase is Phase.STARTING
                assert state.phase in DOWN or type(event) in gone, (state, event)
                assert type(event) is not life.Released or state.stop is StopStep.RELEASE


def test_a_process_that_was_there_is_always_asked_or_made_to_go() -> None:
    for state in reachable():
        for event in EVENTS.values():
            after, effects = step(state, event, POLICY, NOW)
            if after.phase is Phase.STOPPING and state.phase in ALIVE | {Phase.STARTING}:
                assert any(isinstance(e, life.Terminate | life.Kill) for e in effects), (state, event)
            if isinstance(event, life.Spawned) and state.phase in {Phase.STOPPING, Phase.UNKILLABLE}:
                assert any(isinstance(e, life.Terminate | life.Kill) for e in effects), (state, event)


def test_no_deadline_that_is_set_lies_in_the_past_and_time_in_a_phase_starts_with_it() -> None:
    later = NOW + 0.5
    for state in reachable():
        for event in EVENTS.values():
            after, _ = step(state, event, POLICY, later)
            if after.deadline != state.deadline and after.deadline is not None:
                assert after.deadline >= later
            if after.phase is not state.phase:
                assert after.since == later


def test_nothing_happens_before_its_deadline() -> None:
    for state in reachable():
        if state.deadline is not None:
            assert step(state, life.DeadlineReached(), POLICY, NOW - 0.001) == (state, ())


def test_a_deadline_left_where_none_belongs_is_dropped() -> None:
    for phase in (Phase.STOPPED, Phase.STARTING, Phase.UNKILLABLE):
        after, effects = step(BackendState(phase=phase, deadline=NOW), life.DeadlineReached(), POLICY, NOW)
        assert (after.phase, after.deadline, effects) == (phase, None, ())


def test_the_walk_covers_what_it_should() -> None:
    states = reachable()

    assert {s.phase for s in states} == set(Phase)
    assert {s.rung for s in states} == {0, POLICY.rungs}
    assert {s.stop for s in states} == {None, *StopStep}
    assert {s.after for s in states} == set(After)
    assert {s.cause.kind for s in states if s.cause} >= {CRASH.kind, OOM.kind, PERMANENT.kind}
    assert all(essence(s) == s for s in states)
