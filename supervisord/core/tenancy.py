"""Pools of memory, the backends that live or want to live in them, and what a plan says about them: plain values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from supervisord.core.memory import GIB

HOST = "host"


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that is not ours, and the bytes of a pool it holds (None: the driver does not say)."""

    pid: int
    name: str
    used: int | None


@dataclass(frozen=True, slots=True)
class Pool:
    """One pool at one moment, in bytes. `problem`: why its figures cannot be trusted; then nothing starts on it."""

    key: str  # "host", or the UUID of a GPU
    label: str  # for people: host, gpu0
    total: int
    free: int
    reserve: int
    problem: str = ""
    foreign: tuple[Holder, ...] = ()
    unexplained: int = 0  # used, and by no process that can be seen


class Standing(StrEnum):
    AWAY = "away"  # it has no process and asks for none
    WAITING = "waiting"  # it asks for a place
    STARTING = "starting"  # it was given its place, and does not serve yet
    RESIDENT = "resident"
    LEAVING = "leaving"  # until its memory is measured free


PRESENT = frozenset({Standing.STARTING, Standing.RESIDENT, Standing.LEAVING})


@dataclass(frozen=True, slots=True)
class Tenant:
    """A backend, as placement sees it. Times are monotonic seconds; bytes by the key of a pool.

    `expects` is what it takes at its peak, `holds` what was measured with the pools' own sample (a missing pool was not
    measured yet). `turn` are the pools on which nobody else may start while it does: its GPUs, or the host for a
    backend without any.

    The sample may be older than what a backend took since, also for one that is leaving, whose process may not have
    died yet. So all that it expects counts until it is gone; once it was measured while it left, it may be handed in
    with nothing in `expects`, and what it has released so far can be used already.
    """

    name: str
    standing: Standing
    expects: Mapping[str, int] = field(default_factory=dict)
    holds: Mapping[str, int] = field(default_factory=dict)
    turn: frozenset[str] = frozenset({HOST})
    in_flight: int = 0
    queued: int = 0  # jobs that wait and that it could serve
    due: float | None = None  # when the oldest of them arrived; None: nobody is in a hurry
    rank: float | None = None  # the queue's key of the first of them: priority and age
    rank_since: float | None = None  # when that one arrived; None: it is the oldest
    lasting: bool = False  # it is to run whether or not anybody asks: configured so, or started by an operator
    insisted: bool = False  # an operator asked, and it has not run since: others make room for it
    modest: bool = False  # it only helps out others that serve the same: nobody makes room for it
    closed_since: float | None = None  # since when it gets no new work, to make room; None: it gets some
    pinned: bool = False
    priority: int = 0  # the higher stays longer
    idle_since: float = 0.0  # when its last request ended, or it became ready; known also after it has left
    ready_since: float = 0.0
    load_s: float = 0.0  # how long its start takes, learned or estimated
    max_wait_s: float = 30.0
    min_residence_s: float = 10.0
    ttl_s: float | None = None

    @property
    def idle(self) -> bool:
        return self.in_flight == 0 and self.queued == 0

    @property
    def displaces(self) -> bool:
        """Whether others have to make room for it."""
        return (self.queued > 0 or self.insisted) and not self.modest

    @property
    def deadline(self) -> float:
        """When it has to be started at the latest, were it alone."""
        if self.insisted:
            return float("-inf")
        return float("inf") if self.due is None else max(self.due, self.idle_since) + self.max_wait_s

    @property
    def standing_in_line(self) -> float:
        """The smaller goes first: its rank, as if its first job had come when the last one was answered.

        Otherwise a batch that had to make room would come first again, as old as its jobs are.
        """
        since = self.due if self.rank_since is None else self.rank_since
        if self.rank is None or since is None:
            return float("inf") if self.rank is None else self.rank
        return self.rank + max(0.0, self.idle_since - since)

    def takes(self, pool: str) -> int:
        """Bytes of a pool that are spoken for by it while it is there."""
        return max(self.expects.get(pool, 0), self.holds.get(pool, 0))

    def grows(self, pool: str) -> int:
        """Bytes it may still take beyond what was measured."""
        return max(0, self.expects.get(pool, 0) - self.holds.get(pool, 0))


@dataclass(frozen=True, slots=True)
class PlacementPolicy:
    """Durations in seconds.

    `linger_s`: an idle backend is let go for another only after that long, in case its clients come right back.
    `finish_s`: one that gets no new work may finish what it has begun for that long; None: for as long as it takes.
    """

    linger_s: float = 1.0  # at the most, and never more than a tenth of what the change of places costs
    linger_share: float = 0.1
    finish_s: float | None = 60.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now. Names of backends; texts are for people."""

    admit: tuple[str, ...] = ()  # start these
    leave: Mapping[str, str] = field(default_factory=dict)  # stop these, and why: idle, or out of time to finish
    close: Mapping[str, str] = field(default_factory=dict)  # give these no new work, so that they become idle, and why
    hold: Mapping[str, str] = field(default_factory=dict)  # these wait for their place, and what for
    withdraw: Mapping[str, str] = field(default_factory=dict)  # these need no place any more, and why
    blocked: frozenset[str] = frozenset()  # of those held: nobody makes room for them, so others should serve instead
    never: Mapping[str, str] = field(default_factory=dict)  # these cannot fit however empty the pool is, and why
    look_again: float | None = None  # monotonic: when time alone could change the plan


def gib(size: int) -> str:
    """Bytes, for people."""
    return f"{size / GIB:.1f} GiB"


def listed(names: list[str]) -> str:
    """a; a and b; a, b and c."""
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)
