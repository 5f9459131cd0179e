"""The newest events of a response in the background, between the try that makes them and whoever follows."""

import asyncio
from collections import deque
from collections.abc import Sequence

Numbered = tuple[int, bytes]

RECENT_BYTES = 512 * 1024  # of events that are in the store already; followers that lag behind read them there


class Feed:
    """Of one response. What is not handed to the store yet is in memory, however much that is: tries have a limit."""

    def __init__(self) -> None:
        self._recent: deque[Numbered] = deque()
        self._bytes = 0
        self._stored = 0  # how many of them are handed to the store
        self._changed: asyncio.Future[None] | None = None
        self.followers = 0
        self.ended = False  # the job has a result, and that is safe from a power cut

    def put(self, number: int, event: bytes) -> None:
        """One more; numbers rise."""
        self._recent.append((number, event))
        self._bytes += len(event)
        self.ring()

    def unstored(self) -> Sequence[Numbered]:
        """What the store is to be given now: it counts as given."""
        fresh = list(self._recent)[self._stored :]
        self._stored = len(self._recent)
        while self._stored > 1 and self._bytes > RECENT_BYTES:
            _, event = self._recent.popleft()
            self._bytes -= len(event)
            self._stored -= 1
        return fresh

    def after(self, number: int) -> Sequence[Numbered] | None:
        """The events behind this one; None where the store may have others before them."""
        if not self._recent or self._recent[0][0] > number + 1:
            return None
        return self.all_after(number)

    def all_after(self, number: int) -> Sequence[Numbered]:
        """The events in memory behind this number."""
        return [event for event in self._recent if event[0] > number]

    def end(self) -> None:
        self.ended = True
        self.ring()

    def ring(self) -> None:
        """Wake whoever waits."""
        changed, self._changed = self._changed, None
        if changed is not None and not changed.done():
            changed.set_result(None)

    def change(self) -> asyncio.Future[None]:
        """Done with the next thing that happens. Asked for before a look at what has happened this far."""
        if self._changed is None:
            self._changed = asyncio.get_running_loop().create_future()
        return self._changed
