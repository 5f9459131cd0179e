"""Smaller for memory's sake, and larger again once that has gone well for long."""

from dataclasses import replace

from supervisord.core import life, moves
from supervisord.core.life import Outcome
from supervisord.core.state import After, BackendState, LifePolicy, Phase

MOST_DOUBLINGS = 6  # of the wait for the next climb: 32 hours where it began with half an hour


def shrink_asked(state: BackendState, event: life.ShrinkAsked, policy: LifePolicy, now: float) -> Outcome:
    """Drain, and come back one rung smaller; without a smaller one, drain and stay away for a while."""
    match state.phase:
        case Phase.STARTING | Phase.LOADING | Phase.READY | Phase.SUSPECT if state.rung < policy.rungs:
            smaller = replace(moves.outgrown(state, event.why, policy, now), after=After.AGAIN)
            return moves.wind_down(smaller, event.why, policy, now)
        case Phase.STARTING | Phase.LOADING | Phase.READY | Phase.SUSPECT:
            why = f"{event.why}; no smaller footprint is left"
            return moves.wind_down(replace(state, after=After.PARK), why, policy, now)
        case _:
            return state, ()


def climb_at(state: BackendState, policy: LifePolicy) -> float | None:
    """When it has been ready on a smaller rung for long enough to try the one above it (monotonic); None: not on one.

    Each climb that failed doubles the wait for the next one.
    """
    if state.phase is not Phase.READY or state.rung == 0 or state.ready_since is None:
        return None
    return state.ready_since + policy.climb_after_s * 2.0 ** min(state.climbs_failed, MOST_DOUBLINGS)


def climb_due(state: BackendState, policy: LifePolicy, now: float) -> bool:
    """Whether it is time for that, it has served somebody since, and is idle."""
    at = climb_at(state, policy)
    return at is not None and now >= at and state.served > 0 and not state.in_flight


def climb_asked(state: BackendState, event: life.ClimbAsked, policy: LifePolicy, now: float) -> Outcome:
    """Come back one rung larger, where it is still due: the question was asked of an earlier moment."""
    if not climb_due(state, policy, now):
        return state, ()
    failed = 0 if state.climbing else state.climbs_failed  # the climb before this one has gone well
    rung = state.rung - 1
    why = state.rung_why if rung else ""
    larger = replace(state, rung=rung, rung_why=why, climbing=True, climbs_failed=failed, after=After.AGAIN)
    return moves.wind_down(larger, event.why, policy, now)
