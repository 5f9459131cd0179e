"""Whether a backend hangs: what its watch sees, and what follows from it before it is killed.

A server that has work may take minutes for one batch of a long prompt, and then nothing that it tells moves. So there
are two bounds: a short one while it also does nothing, and a long one while it visibly computes. Both are longer while
the answer to a long prompt has not begun. Whoever passes one is not killed before it was looked at once more.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from supervisord.core import life, moves
from supervisord.core.exits import CauseKind, ExitCause
from supervisord.core.job import FailureReason
from supervisord.core.life import Outcome
from supervisord.core.memory import GpuReading, GpuSample, SensorState
from supervisord.core.state import BackendState, Doubt, LifePolicy, Phase

DIAGNOSIS_S = 10.0  # then it is killed without one: what is asked hangs too
SLOWEST_TOKEN_S = 2.0  # of an answer that is still of use to somebody
SILENCE_MARGIN_S = 60.0  # a hang is found by looking, now and then
UNKNOWN_CONTEXT = 32_768  # tokens; without a bound a picture would put off the end of a hang for days
BYTES_PER_TOKEN = 4  # of an English prompt
BUSY_CORES = 0.5  # idle servers of both runtimes take less than 0.02, Python's loops less than 0.1
BUSY_GPU = 0.2  # 0..1; a desktop that draws itself stays below
RUNNABLE_CORES = 0.05  # with a thread that wants a processor: on a machine with too few of them this is all it gets
# Of the time, by one thread. One that computes always wants to run. The keenest of an idle server of either runtime did
# so for 0.1 of 5 s at most beside six busy programs on two processors, and for 0.6 where those had the right of way.
WANTS_TO_RUN = 0.7
DEMAND_SPAN_S = 5.0  # within one second the same threads wanted to run for all of it, now and then
SHORTEST_SPAN_S = 0.5  # of CPU time: the kernel counts in ticks of 10 ms


# --- what is seen ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Look:
    """A backend that has work, at one moment (monotonic seconds). None: it does not tell.

    `bytes_at`: when bytes of an answer last came. `kv_used` moves in a prompt that vLLM processes in chunks, where
    `work` does not. `cpu_s`: CPU time of its whole tree since it started; `gpu`: how busy it keeps the busiest of its
    GPUs, 0..1, with all that runs there where the driver does not tell by whom. `demand`: by thread id, the seconds
    that it has run or waited for a processor, as of `demand_at`; read only where nothing else tells that it works.
    """

    at: float
    bytes_at: float
    held_by_client: bool = False  # it may not send: a client does not read
    work: float | None = None
    kv_used: float | None = None
    cpu_s: float | None = None
    gpu: float | None = None
    demand: Mapping[int, float] = field(default_factory=dict)
    demand_at: float = 0.0


class Sign(StrEnum):
    MOVED = "moved"
    COMPUTES = "computes"
    NOTHING = "nothing"


def sign(before: Look, now: Look, *, runnable: bool = False) -> Sign:
    """What happened between two looks. `runnable`: a thread of it was seen to run, or to wait for a processor."""
    if now.held_by_client or now.bytes_at > before.bytes_at or _counted(before, now):
        return Sign.MOVED
    used = cores(before, now) or 0.0
    if used >= BUSY_CORES or (now.gpu or 0.0) >= BUSY_GPU or (runnable and used >= RUNNABLE_CORES):
        return Sign.COMPUTES
    return Sign.COMPUTES if (keenest(before, now) or 0.0) >= WANTS_TO_RUN else Sign.NOTHING


def _counted(before: Look, now: Look) -> bool:
    if before.work is None or now.work is None:
        return False
    return now.work > before.work or now.kv_used != before.kv_used


def cores(before: Look, now: Look) -> float | None:
    """How many processors it kept busy between two looks; None where that is not known, or they are too close."""
    if before.cpu_s is None or now.cpu_s is None or now.at - before.at < SHORTEST_SPAN_S:
        return None
    return max(0.0, now.cpu_s - before.cpu_s) / (now.at - before.at)


def keenest(before: Look, now: Look) -> float | None:
    """The share of the time in which the busiest of its threads ran, or could have, had there been a processor for it.

    None where that is not known, or the looks are too close. More than 1 where a long wait has just come to its end:
    only then the kernel counts it.
    """
    span = now.demand_at - before.demand_at
    if span < SHORTEST_SPAN_S:
        return None
    spent = (seconds - before.demand[thread] for thread, seconds in now.demand.items() if thread in before.demand)
    return max((seconds / span for seconds in spent), default=None)


def demand_is_due(before: Look | None, now: Look, policy: LifePolicy) -> bool:
    """Whether it is to be read what its threads want: often enough for several comparisons within its bound."""
    if before is None or not before.demand:
        return True
    return now.at - before.demand_at >= min(DEMAND_SPAN_S, policy.progress_s / 4)


def busiest(reading: GpuReading, uuids: Collection[str], pids: Collection[int]) -> float | None:
    """How busy these processes keep the busiest of these GPUs, 0..1; None where the driver does not tell now.

    Where it does not tell processes apart, all that runs there counts.
    """
    fresh = [gpu for gpu in reading.gpus if gpu.uuid in uuids and gpu.state is SensorState.OK]
    loads = [_share_of(gpu, pids) for gpu in fresh]
    return max((load for load in loads if load is not None), default=None)


def _share_of(gpu: GpuSample, pids: Collection[int]) -> float | None:
    own = [process.busy for process in gpu.processes if process.pid in pids]
    told = [share for share in own if share is not None]
    if len(told) < len(own) or not own:  # in another PID namespace nobody of its list is known by name
        return gpu.utilization
    is_busy = (gpu.utilization or 0.0) >= BUSY_GPU
    if is_busy and not any(process.busy for process in gpu.processes):  # by whom, it does not say
        return gpu.utilization
    return min(1.0, sum(told))


def within_context(tokens: int, context: int | None) -> int:
    """No more tokens than there is context: a picture is many bytes. `context` is None where nobody knows."""
    return min(tokens, UNKNOWN_CONTEXT if context is None else context)


def prompt_tokens(body_bytes: int, counted: int = 0) -> int:
    """How long a prompt is at most. `counted`: with its longest answer, where somebody did; else 0."""
    by_size = body_bytes // BYTES_PER_TOKEN
    return min(by_size, counted) if counted else by_size


def longest_silence(prompt: int, answer: int, policy: LifePolicy) -> float:
    """Seconds without a byte of an answer, of a backend that works for others all the while; then it is given up.

    `answer`: tokens of one that comes as a whole; 0 for a stream. Whoever hangs is found by looking, and long before:
    this is for a connection that broke without a word.
    """
    patience = max(policy.busy_s, policy.progress_s) + allowance(prompt, policy)
    return patience + answer * SLOWEST_TOKEN_S + DIAGNOSIS_S + SILENCE_MARGIN_S


def allowance(prompt: int, policy: LifePolicy) -> float:
    """Seconds of patience beyond the bounds, until the answer to a prompt of so many tokens has begun."""
    return prompt / 1000 * policy.first_token_s


# --- what follows ----------------------------------------------------------------------------------------------------


def computed(state: BackendState, event: life.Computed, policy: LifePolicy, now: float) -> Outcome:
    """It has more time, up to the bound for one that computes."""
    if event.generation != state.generation:
        return state, ()
    match state.phase:
        case Phase.READY if state.in_flight:
            return _toils(state, policy, now), ()
        case Phase.SUSPECT:  # also without work: a request whose client has left may be computed to its end
            counted = moves.with_stall_counted(state, policy, now)
            if counted.toiled_s >= moves.busy_bound(state, policy):
                return state, ()
            if state.doubt in {Doubt.STALLED, Doubt.MUTE}:
                return _toils(moves.serve(counted, policy, now), policy, now), ()
            due = moves.busy_deadline(state, policy, now) if state.busy_due is None else state.busy_due
            deadline = min(now + policy.probe_hang_s, due)
            return replace(state, doubt=None, stalled_s=0.0, busy_due=due, deadline=deadline), ()
        case _:
            return state, ()


def _toils(state: BackendState, policy: LifePolicy, now: float) -> BackendState:
    """Ready, and at work. Without work (a canary was not answered) nothing is due."""
    fresh = replace(state, stalled_s=0.0)
    if not state.in_flight:
        return fresh
    due = moves.busy_deadline(state, policy, now) if state.busy_due is None else state.busy_due
    work_due = moves.work_deadline(state, state.in_flight, 0.0, policy, now)
    return moves.armed(replace(fresh, work_due=work_due, busy_due=due))


def allowed(state: BackendState, event: life.Allowed, policy: LifePolicy, now: float) -> Outcome:
    """The bounds move, and with them what is due."""
    if event.generation != state.generation:
        return state, ()
    more = event.seconds - state.allowance_s
    moved = replace(state, allowance_s=event.seconds, work_due=_later(state.work_due, moves.QUIET_SHARE * more))
    moved = replace(moved, busy_due=_later(state.busy_due, more))
    if state.doubt is Doubt.STALLED and not _is_over(moved, policy):
        return moves.serve(moved, policy, now), ()
    return moves.armed(moved), ()


def _later(moment: float | None, seconds: float) -> float | None:
    return None if moment is None else moment + seconds


def _is_over(state: BackendState, policy: LifePolicy) -> bool:
    return state.stalled_s >= moves.quiet_bound(state, policy) or state.toiled_s >= moves.busy_bound(state, policy)


def cleared(state: BackendState, policy: LifePolicy, now: float) -> BackendState:
    """A suspect that moves: ready again, but one that answers no probe stays suspect. Slow is not hung."""
    fresh = replace(state, stalled_s=0.0, toiled_s=0.0, busy_due=None)
    if state.doubt in {Doubt.STALLED, Doubt.MUTE}:
        return moves.serve(fresh, policy, now)
    return replace(fresh, doubt=None, deadline=now + policy.probe_hang_s)


# --- the end of patience ---------------------------------------------------------------------------------------------


def stalled(state: BackendState, policy: LifePolicy, now: float) -> Outcome | None:
    """A ready backend whose work is overdue is looked at; None: it is not overdue."""
    if state.work_due is not None and now >= state.work_due:
        why = f"work in flight, and nothing moved for {moves.quiet_bound(state, policy):g} s"
    elif state.busy_due is not None and now >= state.busy_due:
        why = f"work in flight, and nothing moved for {moves.busy_bound(state, policy):g} s, although it computes"
    else:
        return None
    return _doubted(state, Doubt.STALLED, why, policy, now)


def silent(state: BackendState, policy: LifePolicy, now: float) -> Outcome:
    """The time of a suspect is over: it is looked at, and killed when that takes too long."""
    if state.doubt is not None:
        return _condemned(state, (f"its diagnosis did not end within {DIAGNOSIS_S:g} s",), policy, now)
    return _doubted(state, Doubt.SILENT, state.reason, policy, now)


def canary_missed(state: BackendState, event: life.CanaryMissed, policy: LifePolicy, now: float) -> Outcome:
    """It is looked at. Where there is work by now, that will show by itself whether it moves."""
    if event.generation != state.generation or state.phase is not Phase.READY or state.in_flight:
        return state, ()
    why = f"idle, and what it was asked got no answer for {event.seconds:g} s"
    return _doubted(replace(state, toiled_s=state.toiled_s + event.seconds), Doubt.MUTE, why, policy, now)


def _doubted(state: BackendState, doubt: Doubt, why: str, policy: LifePolicy, now: float) -> Outcome:
    counted = moves.with_stall_counted(state, policy, now)
    suspect = moves.enter(counted, Phase.SUSPECT, why, now)
    return replace(suspect, doubt=doubt, deadline=now + DIAGNOSIS_S), (life.Diagnose(state.generation),)


def diagnosed(state: BackendState, event: life.Diagnosed, policy: LifePolicy, now: float) -> Outcome:
    """What was found decides."""
    if event.generation != state.generation or state.phase is not Phase.SUSPECT or state.doubt is None:
        return state, ()
    if event.moved:
        return cleared(state, policy, now), ()
    return _condemned(state, event.evidence, policy, now)


def _condemned(state: BackendState, evidence: tuple[str, ...], policy: LifePolicy, now: float) -> Outcome:
    is_silent = state.doubt is Doubt.SILENT
    why = f"no answer for {policy.probe_hang_s:g} s: {state.reason}" if is_silent else state.reason
    cause = ExitCause(CauseKind.HANG, why, evidence=evidence)
    return moves.condemn(state, cause, FailureReason.BACKEND_HUNG, policy, now)
