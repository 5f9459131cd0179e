"""Whether a job is to blame for the backends that went down under it."""

from collections.abc import Iterable
from dataclasses import dataclass

from supervisord.core.exits import CauseKind, ExitCause
from supervisord.core.job import FailureReason
from supervisord.core.state import ALIVE, BackendState, Phase

# Attempts that ended because their backend went down, or could not go on.
DEADLY = frozenset(
    {FailureReason.BACKEND_DIED, FailureReason.BACKEND_HUNG, FailureReason.BACKEND_OUT_OF_MEMORY},
)

ENOUGH = 2.0  # of suspicion, over all deaths: two that nothing speaks for

# No request does that: somebody stopped or killed it, or it never came to serve.
_INNOCENT = frozenset(
    {
        CauseKind.ASKED,
        CauseKind.KILLED,
        CauseKind.DEVICE_LOST,
        CauseKind.CONFIGURATION,
        CauseKind.LOAD_STALL,
        CauseKind.UNREACHABLE,
        CauseKind.EXHAUSTED,
    }
)


@dataclass(frozen=True, slots=True)
class Death:
    """One backend that went down while it served the job.

    `cause` is None while nobody has told. `others`: jobs that it was serving besides. `proven`: it has served some
    other job well, in this life of the daemon. `lives`: its process runs; it has broken off a connection, no more.
    """

    backend: str
    generation: int
    reason: FailureReason
    cause: CauseKind | None = None
    others: int = 0
    proven: bool = True
    lives: bool = False


def suspicion(death: Death) -> float:
    """How much a death speaks against the job, from 0 to 1.

    Half each: for company, as any of them may have done it; for a backend that has served nobody well, as it may be
    what is broken; and for a kill by the kernel, as the host's memory is used by everybody.
    """
    if death.lives or death.reason not in DEADLY or is_innocent(death):
        return 0.0
    doubts = (death.others > 0, not death.proven, death.cause is CauseKind.KERNEL_OOM)
    return float(0.5 ** sum(doubts))


def is_innocent(death: Death) -> bool:
    """Whether it is known that no job can have done it."""
    return death.cause in _INNOCENT


def is_poison(deaths: Iterable[Death]) -> bool:
    """Whether they are the job's doing, and it must not be given to another backend.

    Each start of a backend dies once, however many attempts it took along.
    """
    worst: dict[tuple[str, int], float] = {}
    for death in deaths:
        key = death.backend, death.generation
        worst[key] = max(worst.get(key, 0.0), suspicion(death))
    return len(worst) > 1 and sum(worst.values()) >= ENOUGH


def lives(state: BackendState, generation: int) -> bool:
    """Whether that start of a backend still has its process, as far as is known."""
    return state.generation == generation and state.phase in ALIVE


def cause_of(state: BackendState, generation: int) -> ExitCause | None:
    """Why that start of a backend ended, as far as its state still tells; None: it runs, or nobody knows."""
    ended = state.phase not in ALIVE and state.phase is not Phase.STARTING
    last = state.generation if ended else state.generation - 1
    return state.cause if last == generation else None
