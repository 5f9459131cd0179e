"""The life of a backend: `step` is the only place where a phase changes."""

from dataclasses import replace
from typing import assert_never

from supervisord.core import hang, leases, life, moves, resizing
from supervisord.core.exits import CauseKind, ExitCause
from supervisord.core.job import FailureReason
from supervisord.core.leases import room
from supervisord.core.life import Outcome
from supervisord.core.state import ALIVE, DOWN, After, BackendState, Doubt, LifePolicy, Phase, StopStep, Want

__all__ = ["BackendState", "LifePolicy", "Phase", "room", "step"]


def step(state: BackendState, event: life.Event, policy: LifePolicy, now: float) -> Outcome:  # noqa: C901, PLR0912 - one arm an event: this is the table
    """The state after `event`, and what is to be done about it. Pure; news of an earlier generation changes nothing."""
    match event:
        case life.LeaseAsked():  # twice for every request: first
            return leases.asked(state, event, policy, now)
        case life.LeaseEnded():
            return leases.ended(state, event, policy, now)
        case life.StartAsked():
            return _start_asked(state, event, policy, now)
        case life.Readmitted():
            return _readmitted(state, event), ()
        case life.WakeAsked():
            return _wake_asked(state, event, policy, now)
        case life.StopAsked():
            return _stop_asked(state, event, policy, now)
        case life.RestartAsked():
            return _restart_asked(state, event, policy, now)
        case life.ResetAsked():
            return _reset_asked(state, event, policy, now)
        case life.ShrinkAsked():
            return resizing.shrink_asked(state, event, policy, now)
        case life.ClimbAsked():
            return resizing.climb_asked(state, event, policy, now)
        case life.Spawned():
            return _spawned(state, event, policy, now)
        case life.SpawnFailed():
            return _spawn_failed(state, event, policy, now)
        case life.Progressed():
            return _progressed(state, event, policy, now)
        case life.Computed():
            return hang.computed(state, event, policy, now)
        case life.Allowed():
            return hang.allowed(state, event, policy, now)
        case life.CanaryMissed():
            return hang.canary_missed(state, event, policy, now)
        case life.Diagnosed():
            return hang.diagnosed(state, event, policy, now)
        case life.Answered():
            return _answered(state, event, policy, now)
        case life.ProbeMissed():
            return _probe_missed(state, event, policy, now)
        case life.Exited():
            return _exited(state, event, policy, now)
        case life.TreeGone():
            return _tree_gone(state, event, now)
        case life.Released():
            return _released(state, event, policy, now)
        case life.Condemned():
            return _condemned(state, event, policy, now)
        case life.DeviceLost():
            return _device_lost(state, event, policy, now)
        case life.Measured():
            return leases.measured(state, event, now)
        case life.DeadlineReached():
            return _deadline_reached(state, policy, now)
        case _ as never:
            assert_never(never)


# --- what operators, requests and the configuration ask for ----------------------------------------------------------


def _start_asked(state: BackendState, event: life.StartAsked, policy: LifePolicy, now: float) -> Outcome:
    wanted = replace(state, want=Want.UP)
    if state.phase in DOWN:
        return moves.start(moves.forgiven(wanted), event.why, policy, now)
    if state.phase in {Phase.DRAINING, Phase.STOPPING, Phase.UNKILLABLE} and state.after is After.STAY:
        return replace(wanted, after=After.AGAIN), ()
    return wanted, ()


def _readmitted(state: BackendState, event: life.Readmitted) -> BackendState:
    if state.want is not Want.DOWN:
        return state
    reason = event.why if state.phase is Phase.STOPPED else state.reason  # on its way there: what it is stopped for
    return replace(state, want=Want.ON_DEMAND, reason=reason)


def _wake_asked(state: BackendState, event: life.WakeAsked, policy: LifePolicy, now: float) -> Outcome:
    if state.want is Want.DOWN:
        return state, ()
    if state.phase is Phase.STOPPED:
        return moves.start(state, event.why, policy, now)
    if state.phase in {Phase.DRAINING, Phase.STOPPING} and state.after is After.STAY:
        return replace(state, after=After.AGAIN), ()
    return state, ()


def _stop_asked(state: BackendState, event: life.StopAsked, policy: LifePolicy, now: float) -> Outcome:
    # Leaving for memory's sake must not override an operator's stop.
    wanted = replace(state, want=Want.DOWN if state.want is Want.DOWN else event.want, after=After.STAY)
    if state.after is After.JUDGE and event.want is not Want.DOWN and state.phase not in DOWN:
        return replace(state, want=wanted.want), ()  # it is leaving already, and how it ended must still be judged
    if state.phase in DOWN:
        # A parked backend keeps its reason when it only had to leave: it is not there anyway.
        if state.phase is Phase.PARKED and event.want is not Want.DOWN:
            return state, ()
        return moves.enter(wanted, Phase.STOPPED, event.why, now), ()
    return moves.wind_down(wanted, event.why, policy, now)


def _restart_asked(state: BackendState, event: life.RestartAsked, policy: LifePolicy, now: float) -> Outcome:
    wanted = replace(moves.forgiven(state), want=Want.UP, after=After.AGAIN)
    if state.phase in DOWN:
        return moves.start(wanted, event.why, policy, now)
    return moves.wind_down(wanted, event.why, policy, now)


def _reset_asked(state: BackendState, event: life.ResetAsked, policy: LifePolicy, now: float) -> Outcome:
    fresh = replace(moves.forgiven(state), rung=0, rung_why="", climbing=False, climbs_failed=0)
    if state.phase is Phase.UNKILLABLE:
        return fresh, (life.Kill(state.generation),)
    if state.phase in {Phase.PARKED, Phase.BACKOFF}:
        return moves.start(fresh, event.why, policy, now)
    # The full footprint is to be tried now.
    if state.rung and state.phase in {Phase.STARTING, Phase.LOADING, Phase.READY, Phase.SUSPECT}:
        return moves.wind_down(replace(fresh, after=After.AGAIN), event.why, policy, now)
    return fresh, ()


# --- what the process does -------------------------------------------------------------------------------------------


def _spawned(state: BackendState, event: life.Spawned, policy: LifePolicy, now: float) -> Outcome:
    if event.generation != state.generation:
        return state, (life.Kill(event.generation),)
    if state.phase is Phase.STARTING:
        loading = moves.enter(state, Phase.LOADING, state.reason, now)
        return replace(loading, deadline=now + policy.load_stall_s), ()
    if state.phase is Phase.STOPPING and state.stop is StopStep.TERM:  # asked to stop while it was being spawned
        return state, (life.Terminate(state.generation),)
    if state.phase in {Phase.STOPPING, Phase.UNKILLABLE}:  # the time for politeness ran out before it was there
        return state, (life.Kill(state.generation),)
    return state, ()


def _spawn_failed(state: BackendState, event: life.SpawnFailed, policy: LifePolicy, now: float) -> Outcome:
    if event.generation != state.generation:
        return state, ()
    if state.phase is Phase.STARTING:
        return moves.settle(replace(state, cause=event.cause, after=After.JUDGE), event.draw, policy, now)
    if state.phase in {Phase.STOPPING, Phase.UNKILLABLE}:
        return moves.settle(state, event.draw, policy, now)
    return state, ()


def _progressed(state: BackendState, event: life.Progressed, policy: LifePolicy, now: float) -> Outcome:
    if event.generation != state.generation:
        return state, ()
    match state.phase:
        case Phase.LOADING:
            return replace(state, deadline=now + policy.load_stall_s), ()
        case Phase.READY:
            return moves.progressed(state, policy, now), ()
        case Phase.SUSPECT:
            return hang.cleared(state, policy, now), ()
        case _:
            return state, ()


def _answered(state: BackendState, event: life.Answered, policy: LifePolicy, now: float) -> Outcome:
    if event.generation != state.generation:
        return state, ()
    if state.phase is Phase.LOADING:
        return replace(moves.serve(state, policy, now), ready_since=now, served=0), ()
    if state.phase is Phase.SUSPECT and state.doubt in {None, Doubt.SILENT}:  # a hung server may answer its probe
        return moves.serve(state, policy, now), ()
    return state, ()


def _probe_missed(state: BackendState, event: life.ProbeMissed, policy: LifePolicy, now: float) -> Outcome:
    if event.generation != state.generation or state.phase is not Phase.READY:
        return state, ()
    suspect = moves.enter(moves.with_stall_counted(state, policy, now), Phase.SUSPECT, event.why, now)
    return replace(suspect, deadline=now + policy.probe_hang_s), ()


def _exited(state: BackendState, event: life.Exited, policy: LifePolicy, now: float) -> Outcome:
    if event.generation != state.generation:
        return state, ()
    cause = moves.as_known(event.cause, policy)
    if state.phase is Phase.STOPPING:
        return moves.kill_rest(moves.blamed(state, cause), policy, now)
    if state.phase in ALIVE or state.phase is Phase.STARTING:
        after = state.after if state.phase is Phase.DRAINING else After.JUDGE
        stopping = moves.enter(state, Phase.STOPPING, cause.summary, now)
        return moves.kill_rest(replace(stopping, cause=cause, after=after), policy, now)
    return state, ()


def _tree_gone(state: BackendState, event: life.TreeGone, now: float) -> Outcome:
    if event.generation != state.generation:
        return state, ()
    if state.phase is Phase.UNKILLABLE:
        return replace(moves.enter(state, Phase.STOPPING, state.reason, now), stop=StopStep.RELEASE), ()
    if state.phase is Phase.STOPPING:
        return replace(state, stop=StopStep.RELEASE, deadline=None), ()
    return state, ()


def _released(state: BackendState, event: life.Released, policy: LifePolicy, now: float) -> Outcome:
    if event.generation != state.generation or state.stop is not StopStep.RELEASE:
        return state, ()
    return moves.settle(state, event.draw, policy, now)


def _condemned(state: BackendState, event: life.Condemned, policy: LifePolicy, now: float) -> Outcome:
    if event.generation != state.generation:
        return state, ()
    if state.phase is Phase.STOPPING and state.stop is StopStep.TERM:
        return moves.kill_rest(moves.blamed(state, event.cause), policy, now)
    if state.phase in ALIVE or state.phase is Phase.STARTING:
        after = state.after if state.phase is Phase.DRAINING else After.JUDGE
        return moves.destroy(replace(state, after=after), event.cause, policy, now)
    return state, ()


def _device_lost(state: BackendState, event: life.DeviceLost, policy: LifePolicy, now: float) -> Outcome:
    if state.phase is Phase.PARKED or (state.want is Want.DOWN and state.phase is Phase.STOPPED):
        return state, ()
    cause = ExitCause(CauseKind.DEVICE_LOST, event.why)
    if state.phase in DOWN:
        return moves.park(replace(state, cause=cause), event.why, policy, now), ()
    # Whatever was to follow needs the device, but for an operator's stop.
    judged = replace(state, cause=cause, after=state.after if state.want is Want.DOWN else After.JUDGE)
    if state.phase is Phase.STOPPING and state.stop is StopStep.TERM:
        return moves.kill_rest(judged, policy, now)
    if state.phase in {Phase.STOPPING, Phase.UNKILLABLE}:
        return judged, ()
    return moves.destroy(judged, cause, policy, now)


# --- time ------------------------------------------------------------------------------------------------------------


def _deadline_reached(state: BackendState, policy: LifePolicy, now: float) -> Outcome:  # noqa: C901 - one arm a phase
    if state.deadline is None or now < state.deadline:
        return state, ()
    match state.phase:
        case Phase.LOADING:
            cause = ExitCause(CauseKind.LOAD_STALL, f"no sign of loading for {policy.load_stall_s:g} s")
            return moves.condemn(state, cause, FailureReason.BACKEND_HUNG, policy, now)
        case Phase.READY:
            return hang.stalled(state, policy, now) or (moves.half_opened(state), ())
        case Phase.SUSPECT:
            return hang.silent(state, policy, now)
        case Phase.DRAINING:
            lost = life.FailLeases(state.generation, FailureReason.DRAINING, state.reason)
            stopping, effects = moves.terminate(state, state.reason, policy, now)
            return stopping, (lost, *effects)
        case Phase.STOPPING if state.stop is StopStep.TERM:
            return moves.kill_rest(state, policy, now)
        case Phase.STOPPING:
            return moves.enter(state, Phase.UNKILLABLE, "a process of it survives SIGKILL", now), ()
        case Phase.BACKOFF:
            return moves.start(state, state.reason, policy, now)
        case Phase.PARKED:
            # Re-armed for one try: the next failure parks it again.
            spent = replace(state, failures=(now,) * (policy.restart.max_failures - 1))
            return moves.start(spent, "tried again after being parked", policy, now)
        case Phase.STOPPED | Phase.STARTING | Phase.UNKILLABLE:
            return replace(state, deadline=None), ()
        case _ as never:
            assert_never(never)
