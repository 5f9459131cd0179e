"""One backend at one moment: its phase, what is wished for it, and the bounds on its life."""

from dataclasses import dataclass, field
from enum import StrEnum

from supervisord.core.exits import ExitCause
from supervisord.core.restart import RestartPolicy


class Phase(StrEnum):
    STOPPED = "stopped"
    STARTING = "starting"  # the process is being spawned
    LOADING = "loading"  # it runs, and does not serve yet
    READY = "ready"
    SUSPECT = "suspect"  # it was ready and does not answer its probe: no new work until it does
    DRAINING = "draining"  # it finishes what it has and takes nothing new
    STOPPING = "stopping"  # until no process of the tree is left and its memory is measured free
    BACKOFF = "backoff"
    PARKED = "parked"  # gave up, with a reason
    UNKILLABLE = "unkillable"  # survived SIGKILL: stuck in the kernel


ALIVE = frozenset({Phase.LOADING, Phase.READY, Phase.SUSPECT, Phase.DRAINING})
DOWN = frozenset({Phase.STOPPED, Phase.BACKOFF, Phase.PARKED})


class Want(StrEnum):
    """What is wished for a backend, as opposed to the phase it is in."""

    UP = "up"  # keep it running
    ON_DEMAND = "on_demand"  # start it when a request needs it
    DOWN = "down"  # stopped by an operator: only an operator starts it


class StopStep(StrEnum):
    TERM = "term"
    KILL = "kill"
    RELEASE = "release"  # no process left; waiting for its memory to be measured free


class After(StrEnum):
    """What follows when a generation is gone."""

    STAY = "stay"
    AGAIN = "again"
    JUDGE = "judge"  # it ended unasked: the cause decides
    PARK = "park"


class Doubt(StrEnum):
    """Why a suspect backend is to be killed, unless its diagnosis finds that it moves."""

    SILENT = "silent"  # it answers no probe
    STALLED = "stalled"  # it has work, and nothing moves
    MUTE = "mute"  # idle, it did not answer a canary


@dataclass(frozen=True, slots=True)
class LifePolicy:
    """Bounds on the life of one backend. Durations in seconds."""

    slots: int = 1
    token_budget: int | None = None  # tokens in flight; None: the capacity that the server reports, if it does
    breaker: int = 0  # consecutive failed requests after which no more are sent for a while; 0: never
    load_stall_s: float = 300.0  # loading without any sign of progress
    probe_hang_s: float = 30.0  # no answer to probes, and no token either
    progress_s: float = 120.0  # work in flight, nothing moves, and nothing is computed
    busy_s: float = 900.0  # work in flight, and nothing moves, although it computes; never less than progress_s
    first_token_s: float = 200.0  # more of that (a quarter: of progress_s) for each 1000 tokens of a prompt
    drain_s: float = 30.0
    term_s: float = 10.0
    kill_s: float = 5.0
    elsewhere: bool = False  # somebody else runs it: it has no process here that could crash, hang or be killed
    rungs: int = 0  # how many smaller footprints there are
    climb_after_s: float = 1800.0  # of service on a smaller one, before the next larger one is tried again
    restart: RestartPolicy = field(default_factory=RestartPolicy)


@dataclass(frozen=True, slots=True)
class BackendState:
    """One backend at one moment. Times are monotonic seconds; `deadline` is when DeadlineReached is due."""

    phase: Phase = Phase.STOPPED
    want: Want = Want.ON_DEMAND
    since: float = 0.0
    deadline: float | None = None
    work_due: float | None = None  # while it is ready and works: when it must have moved, or computed
    busy_due: float | None = None  # while it only computes: when something must have moved
    doubt: Doubt | None = None  # while it is diagnosed
    generation: int = 0
    rung: int = 0
    rung_why: str = ""  # why it is not as large as configured
    climbing: bool = False  # its size is a larger one than the last that worked
    climbs_failed: int = 0  # in a row
    in_flight: int = 0
    stop: StopStep | None = None
    after: After = After.STAY
    cause: ExitCause | None = None  # why the last generation that ended did so
    reason: str = ""  # why the backend is in this phase, for people
    failures: tuple[float, ...] = ()  # when starts failed, within the window
    streak: int = 0  # failures since the last stable service: the exponent of every backoff
    restarts: int = 0
    ready_since: float | None = None
    served: int = 0  # requests this generation served
    tokens: int = 0  # of the requests in flight: prompt and longest answer
    capacity: int | None = None  # tokens of its KV cache, as this generation reported it
    share: float = 1.0  # of slots and tokens that are given out: less while the server is congested
    eased: float = 0.0  # when `share` last changed
    failed_in_row: int = 0  # requests
    on_trial: bool = False  # since its breaker opened: one request at a time until one succeeds
    open_until: float | None = None  # while its breaker is open: no request at all
    trial: str = ""  # the job that it is tried with
    stalled_s: float = 0.0  # how long it has had work without any sign of life, over all requests since the last one
    toiled_s: float = 0.0  # how long it has computed without any progress, over all requests since the last progress
    allowance_s: float = 0.0  # more patience, for the longest prompt whose answer has not begun
