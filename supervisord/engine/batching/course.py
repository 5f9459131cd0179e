"""A batch that has not ended, and the one place where it is changed."""

import asyncio
from collections.abc import Callable

from supervisord.core.errors import NotFoundError
from supervisord.core.record import BatchRecord, KeyRecord
from supervisord.ports import Store


class Course:
    """Its `batch` is what the store has, or had until a write was not confirmed: then it is read again.

    `ends_at`: monotonic seconds, so that a clock that is set expires nothing. `news`: there is something to be done.
    `unfinished`: its lines that had not ended when they were last counted; `ended`: those that have since then.
    """

    def __init__(self, batch: BatchRecord, store: Store, ends_at: float) -> None:
        self.batch = batch
        self.ends_at = ends_at
        self.news = asyncio.Event()
        self.unfinished = 0
        self.ended = 0
        self.has_jobs = False  # its input need not be read again
        self._store = store
        self._writing = asyncio.Lock()
        self._is_sure = True  # that the store has `batch`

    async def begin(self, key: KeyRecord | None) -> None:
        """Store it for the first time, before anything else is asked; safe from a power cut on return.

        Raises ConflictError: the key is taken, and there is no batch. After any other error there may be one.
        """
        async with self._writing:
            await self._put(self.batch, key)

    async def change(self, step: Callable[[BatchRecord], BatchRecord]) -> BatchRecord:
        """Change it, one change at a time; safe from a power cut on return.

        Raises what `step` raises, RefusedError, NotFoundError: it never came to be.
        """
        async with self._writing:
            if not await self._learn():
                raise NotFoundError(f'There is no batch "{self.batch.id}".', param="batch_id")
            changed = step(self.batch)
            if changed is not self.batch:
                await self._put(changed, None)
                self.batch = changed
            return changed

    async def exists(self) -> bool:
        """Whether there is such a batch. Raises RefusedError: that cannot be known now."""
        async with self._writing:
            return await self._learn()

    async def _put(self, batch: BatchRecord, key: KeyRecord | None) -> None:
        # Where it is refused, or whoever asked leaves, a commit under way may still come to its end.
        self._is_sure = False
        await self._store.put_batch(batch, key)
        self._is_sure = True

    async def _learn(self) -> bool:
        """Read what the store has, where that is not known. Whether it has the batch."""
        if self._is_sure:
            return True
        await self._store.flush()  # behind this, nothing of what was given up on is under way any more
        found = await self._store.batch(self.batch.id)
        if found is not None:
            self.batch, self._is_sure = found, True
        return self._is_sure
