"""Background tasks with an owner: all of them live in the supervisor's TaskGroup, named and counted."""

import asyncio
from collections.abc import Coroutine
from typing import Any


class Tasks:
    """A door to a TaskGroup. A task that fails by a bug ends the group, and so the daemon: it never limps on silently.

    Tasks told apart as `bounded` end by themselves; `settled` waits for them, which is how tests follow what happens.
    """

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        self._bounded: set[asyncio.Task[None]] = set()

    def bounded(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Start work that ends by itself."""
        task = self._group.create_task(work, name=name)
        self._bounded.add(task)
        task.add_done_callback(self._bounded.discard)
        return task

    def loop(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Start work that goes on until it is cancelled."""
        return self._group.create_task(work, name=name)

    def close(self) -> None:
        """End what is left: what somebody sleeps for does not matter any more."""
        for task in self._bounded:
            task.cancel()

    async def settled(self) -> None:
        """Returns once no bounded task is left, those included that they started."""
        while self._bounded:
            await asyncio.wait(set(self._bounded))
