"""Moves that several events in the life of a backend share. Used by `core.backend.step` only."""

from dataclasses import replace
from typing import assert_never

from supervisord.core import life
from supervisord.core.exits import CIRCUMSTANCES, CauseKind, ExitCause
from supervisord.core.job import FailureReason
from supervisord.core.life import Outcome
from supervisord.core.restart import delay, exhausted, within_window
from supervisord.core.state import After, BackendState, LifePolicy, Phase, StopStep

SHORTEST_CHANCE = 0.1  # of a bound: what a request gets even where those before it saw no progress at all
QUIET_SHARE = 0.25  # of the patience with a long prompt, for one that computes nothing: mostly its GPU would show


def quiet_bound(state: BackendState, policy: LifePolicy) -> float:
    """How long it may have work and show no sign of life. Seconds."""
    return policy.progress_s + QUIET_SHARE * state.allowance_s


def busy_bound(state: BackendState, policy: LifePolicy) -> float:
    """How long it may compute without any progress. Seconds."""
    return max(policy.busy_s, policy.progress_s) + state.allowance_s


def work_deadline(
    state: BackendState, in_flight: int, stalled_s: float, policy: LifePolicy, now: float
) -> float | None:
    """The time by which there must be a sign of life, with so many requests and so much lost; none without work."""
    return now + _left(quiet_bound(state, policy), stalled_s) if in_flight else None


def busy_deadline(state: BackendState, policy: LifePolicy, now: float) -> float:
    """The time by which something must move, of one that computes."""
    return now + _left(busy_bound(state, policy), state.toiled_s)


def _left(bound: float, spent: float) -> float:
    return max(SHORTEST_CHANCE * bound, bound - spent)


def with_stall_counted(state: BackendState, policy: LifePolicy, now: float) -> BackendState:
    """`state` with the time that has passed without progress kept, before its deadlines are given up."""
    stalled, toiled = state.stalled_s, state.toiled_s
    if state.work_due is not None:
        stalled = max(stalled, quiet_bound(state, policy) - (state.work_due - now))
    if state.busy_due is not None:
        toiled = max(toiled, busy_bound(state, policy) - (state.busy_due - now))
    return replace(state, stalled_s=stalled, toiled_s=toiled)


def progressed(state: BackendState, policy: LifePolicy, now: float) -> BackendState:
    """`state` with its patience whole again."""
    due = work_deadline(state, state.in_flight, 0.0, policy, now)
    return armed(replace(state, stalled_s=0.0, toiled_s=0.0, busy_due=None, work_due=due))


def enter(state: BackendState, phase: Phase, reason: str, now: float) -> BackendState:
    left = replace(state, deadline=None, work_due=None, busy_due=None, doubt=None, stop=None)
    return replace(left, phase=phase, since=now, reason=reason)


def serve(state: BackendState, policy: LifePolicy, now: float) -> BackendState:
    """Ready, or ready again, with its breaker as it was left."""
    counted = with_stall_counted(state, policy, now)
    ready = enter(counted, Phase.READY, "", now)
    is_open = state.open_until is not None and state.open_until > now
    due = work_deadline(ready, ready.in_flight, ready.stalled_s, policy, now)
    return armed(replace(ready, work_due=due, open_until=state.open_until if is_open else None))


def start(state: BackendState, why: str, policy: LifePolicy, now: float) -> Outcome:
    generation = state.generation + 1
    rung = min(state.rung, policy.rungs)  # the ladder may have become shorter
    starting = enter(state, Phase.STARTING, why, now)
    fresh = replace(
        starting,
        generation=generation,
        rung=rung,
        after=After.STAY,
        ready_since=None,
        served=0,
        stalled_s=0.0,
        toiled_s=0.0,
        allowance_s=0.0,
        capacity=None,
        share=1.0,
        eased=now,
        failed_in_row=state.failed_in_row if state.on_trial else 0,
    )
    return _emptied(fresh), (life.Spawn(generation, rung),)


def _emptied(state: BackendState) -> BackendState:
    return replace(state, in_flight=0, tokens=0, trial="")


def forgiven(state: BackendState) -> BackendState:
    return closed(replace(state, failures=(), streak=0))


# --- the breaker -----------------------------------------------------------------------------------------------------


def earliest(*moments: float | None) -> float | None:
    return min((moment for moment in moments if moment is not None), default=None)


def armed(state: BackendState) -> BackendState:
    """`state`, if it is ready, with the deadline and the reason that its work and its breaker give it."""
    if state.phase is not Phase.READY:
        return state
    due = earliest(state.work_due, state.busy_due, state.open_until)
    return replace(state, deadline=due, reason=_why_not_all(state))


def _why_not_all(state: BackendState) -> str:
    if not state.on_trial:
        return ""
    failed = "a request failed" if state.failed_in_row == 1 else f"{state.failed_in_row} requests failed in a row"
    return f"{failed}: " + ("tried with one at a time" if state.open_until is None else "no more are sent for a while")


def opened(state: BackendState, draw: float, policy: LifePolicy, now: float) -> BackendState:
    """No more requests for a while; those in flight go on. Then one at a time, until one succeeds."""
    streak = state.streak + 1
    until = now + delay(streak, draw, policy.restart)
    return armed(replace(state, on_trial=True, trial="", streak=streak, open_until=until))


def half_opened(state: BackendState) -> BackendState:
    return armed(replace(state, open_until=None))


def closed(state: BackendState) -> BackendState:
    if not state.on_trial:
        return state
    return armed(replace(state, on_trial=False, trial="", streak=0, failed_in_row=0, open_until=None))


# --- ending a generation ---------------------------------------------------------------------------------------------


def wind_down(state: BackendState, why: str, policy: LifePolicy, now: float) -> Outcome:
    """Stop a backend that has a process: drain it first where it serves somebody."""
    if state.phase in {Phase.DRAINING, Phase.STOPPING, Phase.UNKILLABLE}:
        return state, ()
    blameless = replace(state, cause=None)  # the generation that is asked to go has not failed yet
    if state.phase in {Phase.READY, Phase.SUSPECT} and state.in_flight:
        draining = enter(blameless, Phase.DRAINING, why, now)
        return replace(draining, deadline=now + policy.drain_s), ()
    return terminate(blameless, why, policy, now)


def terminate(state: BackendState, why: str, policy: LifePolicy, now: float) -> Outcome:
    stopping = enter(state, Phase.STOPPING, why, now)
    return replace(stopping, stop=StopStep.TERM, deadline=now + policy.term_s), (life.Terminate(state.generation),)


def kill_rest(state: BackendState, policy: LifePolicy, now: float) -> Outcome:
    """SIGKILL whatever is left of the tree: workers outlive their leader with all its memory."""
    if state.stop is StopStep.RELEASE:
        return state, ()
    return replace(state, stop=StopStep.KILL, deadline=now + policy.kill_s), (life.Kill(state.generation),)


def as_known(cause: ExitCause, policy: LifePolicy) -> ExitCause:
    """Of a server that is run elsewhere only that can be known: that it did not answer as it should."""
    if not policy.elsewhere or cause.kind not in _OF_A_PROCESS:
        return cause
    return replace(cause, kind=CauseKind.UNREACHABLE)


_OF_A_PROCESS = CIRCUMSTANCES - {CauseKind.ASKED}


def condemn(state: BackendState, cause: ExitCause, reason: FailureReason, policy: LifePolicy, now: float) -> Outcome:
    lost = life.FailLeases(state.generation, reason, cause.summary)
    judged = replace(state, cause=as_known(cause, policy), after=After.JUDGE)
    stopping, effects = terminate(judged, cause.summary, policy, now)
    return stopping, (lost, *effects)


def destroy(state: BackendState, cause: ExitCause, policy: LifePolicy, now: float) -> Outcome:
    """Kill a tree that is broken already: being polite to it only takes time."""
    lost = life.FailLeases(state.generation, _reason(cause), cause.summary)
    stopping = enter(replace(state, cause=cause), Phase.STOPPING, cause.summary, now)
    killed, effects = kill_rest(stopping, policy, now)
    return killed, (lost, *effects)


def blamed(state: BackendState, cause: ExitCause) -> BackendState:
    """`state`, stopping, with the better known of two causes: a proof beats a circumstance, of equals the earlier."""
    if state.cause is not None and (cause.kind in CIRCUMSTANCES or state.cause.kind not in CIRCUMSTANCES):
        return state
    return replace(state, cause=cause)


def _reason(cause: ExitCause | None) -> FailureReason:
    oom = cause is not None and cause.is_oom
    return FailureReason.BACKEND_OUT_OF_MEMORY if oom else FailureReason.BACKEND_DIED


def settle(state: BackendState, draw: float, policy: LifePolicy, now: float) -> Outcome:
    """What follows now that nothing is left of the generation."""
    settled, effects = _what_follows(state, draw, policy, now)
    if not state.in_flight:
        return settled, effects
    # Whoever still waits for its answer waits for nobody.
    lost = life.FailLeases(state.generation, _reason(state.cause), state.reason or "its process is gone")
    return settled, (lost, *effects)


def _what_follows(state: BackendState, draw: float, policy: LifePolicy, now: float) -> Outcome:
    match state.after:
        case After.STAY:
            return enter(_emptied(state), Phase.STOPPED, state.reason, now), ()
        case After.AGAIN:
            return start(state, state.reason, policy, now)
        case After.JUDGE:
            return _judge(state, draw, policy, now)
        case After.PARK:
            blameless = replace(_emptied(state), cause=None)  # it was asked to go: how it did so is no verdict
            return park(blameless, state.reason, policy, now), ()
        case _ as never:
            assert_never(never)


def _judge(state: BackendState, draw: float, policy: LifePolicy, now: float) -> Outcome:
    """A generation ended unasked: once more, smaller, later, or not at all."""
    cause = state.cause or ExitCause(CauseKind.CRASH, "it ended, and nothing tells why")
    if cause.kind is CauseKind.EXHAUSTED:
        return _wait_for_room(replace(_emptied(state), streak=state.streak + 1), cause, draw, policy, now), ()
    ended = replace(_emptied(state), restarts=state.restarts + 1, cause=cause)
    if cause.kind is CauseKind.DEVICE_LOST:  # no pause brings a GPU back within seconds, and no budget is to blame
        return park(ended, cause.summary, policy, now), ()
    counted = _counted(ended, policy, now)
    if cause.permanent:
        return enter(counted, Phase.PARKED, cause.summary, now), ()
    if cause.is_oom:
        if state.rung < policy.rungs:
            return start(outgrown(counted, cause.summary, policy, now), cause.summary, policy, now)
        return park(counted, f"{cause.summary}; no smaller footprint is left", policy, now), ()
    if exhausted(counted.failures, policy.restart):
        why = f"{len(counted.failures)} failures within {policy.restart.window_s:g} s; the last: {cause.summary}"
        return park(counted, why, policy, now), ()
    waiting = enter(counted, Phase.BACKOFF, cause.summary, now)
    return replace(waiting, deadline=now + delay(counted.streak, draw, policy.restart)), ()


def _wait_for_room(state: BackendState, cause: ExitCause, draw: float, policy: LifePolicy, now: float) -> BackendState:
    """The machine could not start it: no failure of its own. Tried again, ever less often, however long that lasts."""
    waiting = enter(state, Phase.BACKOFF, cause.summary, now)
    return replace(waiting, deadline=now + delay(state.streak, draw, policy.restart))


def outgrown(state: BackendState, why: str, policy: LifePolicy, now: float) -> BackendState:
    """`state` on the next smaller rung. A climb that had served for as long as the wait for it has not failed."""
    ready = state.ready_since
    proven = state.climbing and ready is not None and state.served > 0 and now - ready >= policy.climb_after_s
    failed = 0 if proven else state.climbs_failed + state.climbing
    return replace(state, rung=state.rung + 1, rung_why=why, climbing=False, climbs_failed=failed)


def _counted(state: BackendState, policy: LifePolicy, now: float) -> BackendState:
    """`state` with this failure counted; those before a stable service are forgotten."""
    stable = (
        state.ready_since is not None and state.served > 0 and now - state.ready_since >= policy.restart.stable_after_s
    )
    earlier = () if stable else within_window(state.failures, now, policy.restart)
    return replace(state, failures=(*earlier, now), streak=1 if stable else state.streak + 1)


def park(state: BackendState, why: str, policy: LifePolicy, now: float) -> BackendState:
    parked = enter(state, Phase.PARKED, why, now)
    return replace(parked, deadline=now + policy.restart.rearm_after_s)
