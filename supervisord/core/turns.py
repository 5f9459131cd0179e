"""Who of several clients is next: they take turns, so that none waits for all that another has asked.

Start-time fair queuing (Goyal, Vin and Cheng, 1996) with jobs of equal weight. Each client that waits has a tag; the
lowest goes next, and time in this small world is the tag of whoever went last. A client that comes anew begins at that
time: it has saved up nothing. One that comes again in the round in which it was served begins in the next.
"""

from bisect import bisect_left, insort
from collections.abc import Callable
from dataclasses import dataclass, field

Key = tuple[float, int]

KEPT = 64  # clients that do not wait, and whose turn in this round is remembered; more are looked through first


@dataclass(slots=True)
class _Client:
    tag: int
    keys: list[Key] = field(default_factory=list)


class Turns:
    """The jobs of one class of priority in one line, by the clients that asked for them."""

    def __init__(self) -> None:
        self._now = 0
        self._waiting: dict[str, _Client] = {}
        self._next: dict[str, int] = {}  # of clients that were served and do not wait: where they begin again

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, client: str, key: Key, *, again: bool = False) -> None:
        """A job of `client` waits; `again`: it had its turn, and could not use it."""
        known = self._waiting.get(client)
        if known is None:
            known = self._waiting[client] = _Client(max(self._now, self._next.pop(client, 0)))
        if again:
            known.tag = self._now
        insort(known.keys, key)

    def remove(self, client: str, key: Key, *, served: bool) -> None:
        """It waits no more; `served`: that was its client's turn."""
        known = self._waiting[client]
        del known.keys[bisect_left(known.keys, key)]
        if served:
            self._now = max(self._now, known.tag)
            known.tag += 1
        if not known.keys:
            del self._waiting[client]
            self._remember(client, known.tag)

    def first(self) -> Key:
        """The next job: the oldest of the client whose turn it is. There has to be one."""
        if len(self._waiting) == 1:  # mostly
            return next(iter(self._waiting.values())).keys[0]
        return min((client.tag, client.keys[0]) for client in self._waiting.values())[1]

    def first_but(self, barred: Callable[[Key], bool]) -> Key | None:
        """The same, of those that are not `barred`: a client whose jobs all are lets the next one go before it."""
        for client in sorted(self._waiting.values(), key=lambda client: (client.tag, client.keys[0])):
            for key in client.keys:
                if not barred(key):
                    return key
        return None

    def _remember(self, client: str, tag: int) -> None:
        if tag <= self._now:
            return
        if len(self._next) >= KEPT:
            self._next = {name: next_tag for name, next_tag in self._next.items() if next_tag > self._now}
        self._next[client] = tag
