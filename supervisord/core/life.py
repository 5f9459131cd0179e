"""What happens to a backend, and what is to be done about it: the events and effects of its life."""

from dataclasses import dataclass

from supervisord.core.exits import ExitCause
from supervisord.core.job import FailureReason
from supervisord.core.state import BackendState, Want

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
class ShrinkAsked:
    """Its memory is needed for the machine to live on."""

    why: str


@dataclass(frozen=True, slots=True)
class ClimbAsked:
    """There is room for the next larger footprint."""

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
class Computed:
    """Nothing moved, but its processors or its GPUs are at work."""

    generation: int


@dataclass(frozen=True, slots=True)
class Allowed:
    """The longest prompt whose answer has not begun is another one: so much more patience is due."""

    generation: int
    seconds: float


@dataclass(frozen=True, slots=True)
class CanaryMissed:
    """Idle, it was asked for next to nothing, and did not answer for so long."""

    generation: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Diagnosed:
    """What was found of a backend that seems to hang. `moved`: it does not."""

    generation: int
    moved: bool
    evidence: tuple[str, ...] = ()


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
    | ShrinkAsked
    | ClimbAsked
    | Spawned
    | SpawnFailed
    | Progressed
    | Computed
    | Allowed
    | CanaryMissed
    | Diagnosed
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
class Diagnose:
    """Look at what it does, and tell by `Diagnosed`: in a moment it is killed."""

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


Effect = Spawn | Terminate | Kill | Diagnose | GrantLease | RefuseLease | FailLeases

Outcome = tuple[BackendState, tuple[Effect, ...]]
