"""What clients saw, and what must be true of it: no IO, no clock of its own."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median
from typing import Any

TERMINAL = frozenset({"done", "failed", "cancelled", "abandoned"})

# Refused before they were accepted: there is no record of them, or one that says the same.
NOT_ACCEPTED = frozenset({"draining", "store_unavailable", "store_full", "model_not_found", "too_many_connections"})

# Records are committed in groups: what ended so shortly before a kill of the daemon may not be in the store.
UNCOMMITTED_S = 1.5


class View(StrEnum):
    """How a request ended, as its client saw it."""

    WHOLE = "whole"
    ERROR = "error"  # an answer that says what went wrong
    CUT = "cut"  # an answer that ended too early, with or without an error event
    LOST = "lost"  # no answer at all, and a broken connection
    LEFT = "left"  # the client closed the connection itself
    GAVE_UP = "gave up"  # the client waited for as long as any answer may take


@dataclass(frozen=True, slots=True)
class Sight:
    """One request. Times are monotonic seconds; `code` is of an error that was told."""

    view: View
    ended: float
    job: str = ""
    status: int = 0
    code: str = ""
    model: str = ""


# What the record of a job may say, by what its client saw. A client may leave when all has been said.
_FITTING: Mapping[View, frozenset[str]] = {
    View.WHOLE: frozenset({"done"}),
    View.ERROR: frozenset({"failed", "cancelled"}),
    View.CUT: frozenset({"failed", "cancelled"}),
    View.LOST: frozenset({"failed", "cancelled"}),
    View.LEFT: TERMINAL - {"abandoned"},
    View.GAVE_UP: frozenset(),
}

_WORDS: Mapping[View, str] = {
    View.LOST: "a connection for {} broke without an answer",
    View.GAVE_UP: "a request for {} was never answered",
}


def contradictions(sights: Sequence[Sight], records: Mapping[str, Any], kills: Sequence[float]) -> list[str]:
    """Where the clients' views and the records disagree. `records` by id; `kills`: when the daemon was killed."""
    found = [text for sight in sights if (text := _contradiction(sight, records, kills))]
    seen = [sight.job for sight in sights if sight.job]
    twice = {job for job in seen if seen.count(job) > 1} if len(seen) != len(set(seen)) else set()
    found += [f"job {job} was told to two clients" for job in sorted(twice)]
    found += [f"job {job} has not ended: {record['status']}" for job, record in records.items() if _runs(record)]
    return found


def _runs(record: Mapping[str, Any]) -> bool:
    return record["status"] not in TERMINAL


def _contradiction(sight: Sight, records: Mapping[str, Any], kills: Sequence[float]) -> str:
    if any(kill - UNCOMMITTED_S <= sight.ended <= kill + UNCOMMITTED_S for kill in kills):
        return ""
    if not sight.job:
        return _WORDS[sight.view].format(sight.model) if sight.view in _WORDS else ""
    record = records.get(sight.job)
    if record is None and sight.view is View.ERROR and sight.code in NOT_ACCEPTED:
        return ""
    if record is None:
        return f"job {sight.job} has no record; its client saw {sight.view} {sight.status} {sight.code}".rstrip()
    if record["status"] in _FITTING[sight.view]:
        return ""
    said = f"{record['status']} ({record.get('reason')})"
    return f"job {sight.job} is {said} by its record; its client saw {sight.view} {sight.status} {sight.code}".rstrip()


def told_twice(log: Sequence[str]) -> list[str]:
    """Jobs whose end the daemon's log tells more than once."""
    ids = [line.partition(" id=")[2].partition(" ")[0] for line in log if 'event="job ' in line and " id=" in line]
    return [f"job {job} ended more than once" for job in sorted({job for job in ids if ids.count(job) > 1})]


@dataclass(frozen=True, slots=True)
class Cost:
    """What the daemon takes, at `at` (monotonic seconds)."""

    at: float
    descriptors: int
    threads: int
    rss: int  # bytes


WARM_UP_S = 20.0
SHORTEST_S = 60.0  # of a life of the daemon that growth can be told from


@dataclass(frozen=True, slots=True)
class _Margin:
    """`noise`: growth that may be chance. `warm_up_s`: what of a life does not count, though never more than half."""

    noise: float
    warm_up_s: float = WARM_UP_S


# Measured over 40 minutes of load and faults. Connections come and go: within two minutes their low moved by 6.5, and
# over ten by none. A pool of threads grows when so much is asked for at once: by 2, once. Memory settles within five
# minutes: the store's three caches fill (3 MiB), and the allocator keeps what it took when a log flooded a full disk (4
# MiB of each backend wait for it). That was 7 MiB, and 1 MiB in the 14 minutes after; in two minutes 3 MiB at most.
_MARGINS: Mapping[str, _Margin] = {
    "descriptors": _Margin(10),
    "threads": _Margin(4),
    "rss": _Margin(6 * 2**20, warm_up_s=300.0),
}


def growth(costs: Sequence[Cost]) -> list[str]:
    """What grows over one life of the daemon: its low in the last third against its low in the first, after warm-up.

    Lows, because load is random and a leak lifts them all the same.
    """
    if not costs or costs[-1].at - costs[0].at < SHORTEST_S + WARM_UP_S:
        return []
    return [text for name, margin in _MARGINS.items() if (text := _grown(costs, name, margin))]


def _grown(costs: Sequence[Cost], name: str, margin: _Margin) -> str:
    lasted = costs[-1].at - costs[0].at
    begin, end = costs[0].at + min(margin.warm_up_s, lasted / 2), costs[-1].at
    third = (end - begin) / 3
    before = low([cost for cost in costs if begin <= cost.at <= begin + third], name)
    after = low([cost for cost in costs if cost.at >= end - third], name)
    if after <= before + margin.noise:
        return ""
    return f"{name} of the daemon grew from {before:g} to {after:g} within {end - begin:.0f} s"


def low(costs: Collection[Cost], name: str) -> float:
    """The median of the lowest fifth."""
    values = sorted(getattr(cost, name) for cost in costs)
    return float(median(values[: max(1, len(values) // 5)]))
