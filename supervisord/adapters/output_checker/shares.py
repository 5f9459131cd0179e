"""Who is looked at next: whoever has had the least time this far.

Start-time fair queuing (Goyal, Vin and Cheng, 1996), weighed by seconds: nobody knows before how long a look takes, so
each is charged once it is over. A client that comes anew begins where the others are: it has saved up nothing.
"""

from collections import deque
from typing import Generic, TypeVar

Who = tuple[str, bool]  # a client, and whether it waits for its acceptance: that is not behind its own answers
Item = TypeVar("Item")

KEPT = 64  # that do not wait, and whose time is remembered; where there are more, all of theirs is forgiven


class Shares(Generic[Item]):
    """What waits, in one line for each who."""

    def __init__(self) -> None:
        self._now = 0.0  # in seconds of looks, as they are for whoever was taken last
        self._lines: dict[Who, deque[Item]] = {}
        self._begins: dict[Who, float] = {}

    def __bool__(self) -> bool:
        return bool(self._lines)

    def add(self, who: Who, item: Item) -> None:
        """It waits, behind what waits of the same."""
        self._begins[who] = max(self._now, self._begins.get(who, 0.0))
        self._lines.setdefault(who, deque()).append(item)

    def remove(self, who: Who, item: Item) -> None:
        """It waits no more, if it did."""
        line = self._lines.get(who, deque())
        if item in line:
            line.remove(item)
        if not line:
            self._lines.pop(who, None)

    def take(self) -> tuple[Who, Item]:
        """The next. There has to be one; what it took is told by `spent`, before the next is taken."""
        who = min(self._lines, key=self._begins.__getitem__)
        self._now = self._begins[who]
        item = self._lines[who].popleft()
        if not self._lines[who]:
            del self._lines[who]
        return who, item

    def spent(self, who: Who, seconds: float) -> None:
        """What was taken last is over."""
        self._begins[who] = self._begins.get(who, self._now) + seconds
        if not self._lines:
            self._begins.clear()  # nobody waited for it
        elif len(self._begins) > len(self._lines) + KEPT:
            self._begins = {each: self._begins[each] for each in self._lines}
