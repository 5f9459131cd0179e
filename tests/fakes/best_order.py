"""The fewest loads with which recorded requests could have been served no later than they were: a clairvoyant's."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations


@dataclass(frozen=True, slots=True)
class Served:
    """One request: it came at `arrived`, and its model began to serve it at `started`."""

    model: str
    arrived: float
    started: float


@dataclass(frozen=True, slots=True)
class _State:
    resident: frozenset[str]
    since: tuple[tuple[str, float], ...]  # when a model that is away was there last


def fewest_loads(served: Sequence[Served], sizes: Mapping[str, float], room: float) -> int:
    """Loads take no time here, so nobody can do with less; a load is never worth it before somebody's last moment.

    Walks over those last moments, keeping the cheapest way to each set of residents that could be there.
    """
    states = {_State(frozenset(), ()): 0}
    for one in sorted(served, key=lambda one: one.started):
        following: dict[_State, int] = {}
        for state, loads in states.items():
            for reached, more in _serve(state, one, sizes, room):
                following[reached] = min(loads + more, following.get(reached, loads + more))
        states = following
    return min(states.values(), default=0)


def _serve(state: _State, one: Served, sizes: Mapping[str, float], room: float) -> list[tuple[_State, int]]:
    was_there = dict(state.since).get(one.model)
    if one.model in state.resident or (was_there is not None and was_there >= one.arrived):
        return [(state, 0)]
    return [(_moved(state, stays, one), 1) for stays in _stays(state.resident, room - sizes[one.model], sizes)]


def _stays(resident: Collection[str], room: float, sizes: Mapping[str, float]) -> list[frozenset[str]]:
    """The largest sets of residents that fit beside the new one."""
    fitting = [
        frozenset(chosen)
        for count in range(len(resident), -1, -1)
        for chosen in combinations(sorted(resident), count)
        if sum(sizes[name] for name in chosen) <= room
    ]
    return [chosen for chosen in fitting if not any(chosen < other for other in fitting)]


def _moved(state: _State, stays: frozenset[str], one: Served) -> _State:
    since = dict(state.since) | dict.fromkeys(state.resident - stays, one.started)
    since.pop(one.model, None)
    return _State(stays | {one.model}, tuple(sorted(since.items())))
