"""What went wrong once: an unwanted exit, a hang, an eviction, a refused start, with all that is known of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from supervisord.core.exits import Judgement

LOG_LINES = 200  # of the end of its output that an incident keeps
SAMPLES_BEFORE_S = 120.0  # of memory, before it happened
SAMPLES_AFTER_S = 120.0  # and from then on, whether it was over sooner or not: what a smaller footprint has changed
LONGEST_S = 3600.0  # after that it is closed as it stands: a load of a large model takes many minutes, not an hour


class IncidentKind(StrEnum):
    EXIT = "exit"  # it ended, and nobody had asked
    HANG = "hang"  # it was killed for lack of progress
    LOAD_STALL = "load_stall"
    SHRUNK = "shrunk"  # it had to drain and come back smaller, for memory's sake
    EVICTED = "evicted"  # it had to leave, for memory's sake
    REFUSED = "refused"  # it was to start, and could not
    UNKILLABLE = "unkillable"


@dataclass(frozen=True, slots=True)
class Step:
    """Something that was done about it. `at`: seconds since the epoch."""

    at: float
    what: str


@dataclass(frozen=True, slots=True)
class Cost:
    """`downtime_s`: until it was ready again, or for as long as the incident was followed. `jobs_failed`: of those that
    it was serving, wherever they ended."""

    downtime_s: float = 0.0
    jobs_retried: int = 0
    jobs_failed: int = 0


@dataclass(frozen=True, slots=True)
class Incident:
    """One incident. Times are seconds since the epoch; `facts` and `samples` hold JSON values only.

    `samples`: of memory, oldest first, each with `at`. `ended_at` is None while it is followed: until the backend is
    ready again, is given up, or LONGEST_S have passed. `facts` name, where known: rung, footprint, argv, pids, usage,
    cgroup, diagnosis, phase_before.
    """

    id: str  # sorts by time
    at: float
    backend: str
    kind: IncidentKind
    summary: str
    generation: int | None = None
    cause: str = ""  # the value of a CauseKind
    permanent: bool = False
    status: int | None = None  # as `subprocess` counts: negative for a signal
    verdict: tuple[Judgement, ...] = ()  # the rules in their order, up to and beyond the one that matched
    log: tuple[str, ...] = ()
    in_flight: tuple[str, ...] = ()  # ids of the jobs that it was serving
    facts: Mapping[str, object] = field(default_factory=dict)
    samples: tuple[Mapping[str, object], ...] = ()
    steps: tuple[Step, ...] = ()
    ended_at: float | None = None
    outcome: str = ""  # how it went on, in words: "ready again on rung 1 after 12 s", "parked: …"
    cost: Cost = field(default_factory=Cost)
