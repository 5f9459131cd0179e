"""The fewest loads any schedule can do with: exact search over recorded arrivals, knowing the future.

It is allowed more than any real scheduler is: it knows all arrivals, may load before anybody asks, answers take it no
time, and requests that came because an earlier one was answered come to it anyway. It has to obey what the card
dictates: so many places, one start at a time, a place is free for the next start only once the memory is released;
and no request may wait for longer than `bound_s` until its model serves. So its count is a lower bound.
"""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

State = tuple[frozenset[str], tuple[tuple[str, int], ...]]  # resident models; first unserved arrival of the others


@dataclass(frozen=True)
class Card:
    arrivals: Mapping[str, Sequence[float]]  # of each model, in order
    load_s: Mapping[str, float]
    places: int
    release_s: float
    bound_s: float

    def deadline(self, model: str, first: int) -> float:
        """When the model has to serve again at the latest, all before its arrival `first` being served."""
        times = self.arrivals[model]
        return times[first] + self.bound_s if first < len(times) else float("inf")

    def departures(self, victim: str, since: float, until: float) -> Iterator[tuple[float, int]]:
        """When a resident may sensibly go: at once, or as soon as one more of its arrivals is served."""
        times = self.arrivals[victim]
        first = bisect_right(times, since)
        yield since, first
        for served in range(first, len(times)):
            if times[served] > until:
                return
            yield times[served], served + 1

    def after_one_load(self, state: State, time: float) -> Iterator[tuple[State, float]]:
        """Every state in which one more load can end, and when it does."""
        residents, absent = state
        for newcomer, first in absent:
            if first == len(self.arrivals[newcomer]):
                continue
            others = [(name, at) for name, at in absent if name != newcomer]
            until = min(self.deadline(name, at) for name, at in absent)
            load = self.load_s[newcomer]
            if len(residents) < self.places:
                if time + load <= until:
                    yield (residents | {newcomer}, tuple(others)), time + load
                continue
            change = self.release_s + load
            for victim in residents:
                for left_at, at in self.departures(victim, time, until - change):
                    if left_at + change <= until:
                        new = (residents - {victim} | {newcomer}, tuple(sorted([*others, (victim, at)])))
                        yield new, left_at + change


def fewest_loads(card: Card) -> int | None:
    """Layer by layer: the states reachable with n loads, each with the earliest moment; earlier is never worse."""
    start: State = (frozenset(), tuple((name, 0) for name in sorted(card.arrivals)))
    layer: dict[State, float] = {start: 0.0}
    loads = 0
    while layer:
        if any(_all_served(card, state) for state in layer):
            return loads
        following: dict[State, float] = {}
        for state, time in layer.items():
            for new, when in card.after_one_load(state, time):
                if when < following.get(new, float("inf")):
                    following[new] = when
        layer, loads = following, loads + 1
    return None


def _all_served(card: Card, state: State) -> bool:
    return all(first == len(card.arrivals[name]) for name, first in state[1])
