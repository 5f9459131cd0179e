"""The values in the life of a backend: phases, events, effects, and the state between them."""

from dataclasses import dataclass, field
from enum import StrEnum

from supervisord.core.exits import ExitCause
from supervisord.core.job import FailureReason
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


@dataclass(frozen=True, slots=True)
class LifePolicy:
    """Bounds on the life of one backend. Durations in seconds."""

    slots: int = 1
    token_budget: int | None = None  # tokens in flight; None: the capacity that the server reports, if it does
    breaker: int = 0  # consecutive failed requests after which no more are sent for a while; 0: never
    load_stall_s: float = 300.0  # loading without any sign of progress
    probe_hang_s: float = 30.0  # no answer to probes, and no token either
    progress_s: float = 120.0  # work in flight, and nothing moves
    drain_s: float = 30.0
    term_s: float = 10.0
    kill_s: float = 5.0
    rungs: int = 0  # how many smaller footprints there are
    restart: RestartPolicy = field(default_factory=RestartPolicy)


@dataclass(frozen=True, slots=True)
class BackendState:
    """One backend at one moment. Times are monotonic seconds; `deadline` is when DeadlineReached is due."""

    phase: Phase = Phase.STOPPED
    want: Want = Want.ON_DEMAND
    since: float = 0.0
    deadline: float | None = None
    work_due: float | None = None  # while it is ready and works: when something must have moved
    generation: int = 0
    rung: int = 0
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
    stalled_s: float = 0.0  # how long it has had work without any progress, over all requests since the last progress


# --- events: what happened -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StartAsked:
    """By an operator, or by the configuration when the daemon starts."""

    why: str


@dataclass(frozen=True, slots=True)
class Readmitted:
    """It was stopped for good and is to serve again, when a request needs it: it is back in the configuration."""

    why: str


@dataclass(frozen=True, slots=True)
class WakeAsked:
    """By a request that needs the backend."""

    why: str


@dataclass(frozen=True, slots=True)
class StopAsked:
    why: str
    want: Want  # DOWN: stays down; ON_DEMAND: the next request wakes it


@dataclass(frozen=True, slots=True)
class RestartAsked:
    why: str


@dataclass(frozen=True, slots=True)
class ResetAsked:
    """Forget failures and rungs; a parked backend tries again at once."""

    why: str


@dataclass(frozen=True, slots=True)
class Spawned:
    generation: int


@dataclass(frozen=True, slots=True)
class SpawnFailed:
    generation: int
    cause: ExitCause
    draw: float


@dataclass(frozen=True, slots=True)
class Progressed:
    """Log lines or memory moved while loading; tokens or counters moved while serving."""

    generation: int


@dataclass(frozen=True, slots=True)
class Answered:
    """The probe was answered as a server that can serve answers, from a port our own tree listens on."""

    generation: int


@dataclass(frozen=True, slots=True)
class ProbeMissed:
    generation: int
    why: str


@dataclass(frozen=True, slots=True)
class Exited:
    """The leader ended."""

    generation: int
    cause: ExitCause


@dataclass(frozen=True, slots=True)
class TreeGone:
    """No process of the tree is left."""

    generation: int


@dataclass(frozen=True, slots=True)
class Released:
    """Its memory is measured free (or cannot be measured, or was waited for long enough)."""

    generation: int
    draw: float  # uniform in [0, 1), for the jitter of the backoff


@dataclass(frozen=True, slots=True)
class DeadlineReached:
    pass


@dataclass(frozen=True, slots=True)
class Condemned:
    """This generation cannot go on, though its leader has not ended: a worker of it was killed by the kernel."""

    generation: int
    cause: ExitCause


@dataclass(frozen=True, slots=True)
class DeviceLost:
    """A GPU it needs is gone."""

    why: str


@dataclass(frozen=True, slots=True)
class Measured:
    """What the server tells of its load. Counts are of this moment; `preempted` is new since the last time."""

    generation: int
    waiting: float
    preempted: float
    capacity: int | None = None


@dataclass(frozen=True, slots=True)
class LeaseAsked:
    """`tokens`: prompt and longest answer; 0 where nobody counts."""

    job_id: str
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class LeaseEnded:
    """`failed`: the backend is to blame; a client that left is neither served nor failed."""

    generation: int
    served: bool
    tokens: int = 0
    failed: bool = False
    job_id: str = ""
    draw: float = 1.0  # uniform in [0, 1), for the jitter of the breaker's backoff; 1: nobody drew


Event = (
    StartAsked
    | Readmitted
    | WakeAsked
    | StopAsked
    | RestartAsked
    | ResetAsked
    | Spawned
    | SpawnFailed
    | Progressed
    | Answered
    | ProbeMissed
    | Exited
    | TreeGone
    | Released
    | Condemned
    | DeviceLost
    | Measured
    | DeadlineReached
    | LeaseAsked
    | LeaseEnded
)


# --- effects: what is to be done -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spawn:
    generation: int
    rung: int


@dataclass(frozen=True, slots=True)
class Terminate:
    """SIGTERM and SIGCONT to the leader's group."""

    generation: int


@dataclass(frozen=True, slots=True)
class Kill:
    """SIGKILL to the whole tree, until none is left."""

    generation: int


@dataclass(frozen=True, slots=True)
class GrantLease:
    job_id: str
    generation: int


@dataclass(frozen=True, slots=True)
class RefuseLease:
    job_id: str


@dataclass(frozen=True, slots=True)
class FailLeases:
    """End what is in flight at this generation: its process will not answer any more."""

    generation: int
    reason: FailureReason
    detail: str


Effect = Spawn | Terminate | Kill | GrantLease | RefuseLease | FailLeases

Outcome = tuple[BackendState, tuple[Effect, ...]]
