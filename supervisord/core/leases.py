"""How much a backend is given to do at once: slots, tokens, the share that its congestion leaves, its breaker.

Used by `core.backend.step`, and by whoever must know beforehand whether a lease would be granted: `room`.
"""

from dataclasses import replace

from supervisord.core import hang, life, moves
from supervisord.core.life import Outcome
from supervisord.core.state import BackendState, LifePolicy, Phase

# The share follows the server's congestion as TCP's window follows the network's: down by a factor, up by a step. What
# waits inside a server might as well wait here, where it can still be put in order or go to another one.
EASE_FACTOR = 0.7  # CUBIC's (RFC 9438, 4.6)
EASE_EVERY_S = 2.0  # two looks at the counters: the step before must have had the time to show in them
CALM_S = 10.0
RECOVERY_STEP = 0.1  # back from the smallest share within a minute and a half
SMALLEST_SHARE = 0.1  # never a standstill: one slot is always given

SERVING = frozenset({Phase.READY, Phase.SUSPECT})


def room(state: BackendState, policy: LifePolicy, tokens: int) -> bool:
    """Whether a lease for a request of that many `tokens` (prompt and longest answer) would be granted now."""
    if state.phase is not Phase.READY or state.open_until is not None or state.trial:
        return False
    if not state.in_flight:
        return True  # alone it may be larger than the whole budget: the server is the judge of that
    if state.in_flight >= int(policy.slots * state.share):
        return False
    budget = state.capacity if policy.token_budget is None else policy.token_budget
    return budget is None or state.tokens + tokens <= budget * state.share


def asked(state: BackendState, event: life.LeaseAsked, policy: LifePolicy, now: float) -> Outcome:
    """Grant or refuse."""
    if not room(state, policy, event.tokens):
        return state, (life.RefuseLease(event.job_id),)
    due = state.work_due if state.in_flight else moves.work_deadline(state, 1, state.stalled_s, policy, now)
    busy = replace(
        state,
        in_flight=state.in_flight + 1,
        tokens=state.tokens + event.tokens,
        trial=event.job_id if state.on_trial else "",
        work_due=due,
        deadline=moves.earliest(due, state.busy_due),  # its breaker is not open
    )
    return busy, (life.GrantLease(event.job_id, state.generation),)


def ended(state: BackendState, event: life.LeaseEnded, policy: LifePolicy, now: float) -> Outcome:
    """Free what the request held, and count how it went."""
    if event.generation != state.generation or state.in_flight == 0:
        return state, ()
    left = state.in_flight - 1
    progress = event.served and state.phase is Phase.READY
    due = moves.work_deadline(state, left, 0.0, policy, now) if progress else state.work_due
    freed = replace(
        state,
        in_flight=left,
        tokens=max(0, state.tokens - event.tokens) if left else 0,
        served=state.served + event.served,
        failed_in_row=0 if event.served else state.failed_in_row + event.failed,
        trial=state.trial if left and event.job_id != state.trial else "",
        stalled_s=0.0 if progress else state.stalled_s,
        toiled_s=0.0 if progress else state.toiled_s,
        work_due=due,
        busy_due=None if progress else state.busy_due,
        deadline=moves.earliest(due, state.open_until) if progress else state.deadline,
    )
    if state.phase is Phase.READY and not left and not progress:
        # A client that gave up is no progress: a hung server must not be kept by clients that leave in time.
        counted = moves.with_stall_counted(freed, policy, now)
        freed = replace(counted, work_due=None, busy_due=None, deadline=state.open_until)
    judged = _judged(freed, event, policy, now)
    if event.served and state.phase is Phase.SUSPECT:  # whatever was doubted, it has answered
        judged = hang.cleared(judged, policy, now)
    if state.phase is Phase.DRAINING and left == 0:
        return moves.terminate(judged, state.reason, policy, now)
    return judged, ()


def _judged(state: BackendState, event: life.LeaseEnded, policy: LifePolicy, now: float) -> BackendState:
    """What the end of a request means to the breaker: whatever succeeds closes it, also what began before."""
    if event.served:
        return moves.closed(state)
    is_open = state.open_until is not None
    if event.failed and not is_open and state.phase in SERVING and _breaks(state, policy):
        return moves.opened(state, event.draw, policy, now)
    return state


def _breaks(state: BackendState, policy: LifePolicy) -> bool:
    return state.on_trial or 0 < policy.breaker <= state.failed_in_row


def measured(state: BackendState, event: life.Measured, now: float) -> Outcome:
    """Learn how much it can hold, and give it less while it is congested."""
    if event.generation != state.generation or state.phase not in SERVING:
        return state, ()
    known = event.capacity is None or event.capacity == state.capacity
    learned = state if known else replace(state, capacity=event.capacity)
    return _eased(learned, now, congested=event.waiting > 0 or event.preempted > 0), ()


def _eased(state: BackendState, now: float, *, congested: bool) -> BackendState:
    since = now - state.eased
    if congested and since >= EASE_EVERY_S:
        return replace(state, share=max(SMALLEST_SHARE, state.share * EASE_FACTOR), eased=now)
    if not congested and state.share < 1.0 and since >= CALM_S:
        return replace(state, share=min(1.0, state.share + RECOVERY_STEP), eased=now)
    return state
