"""The one thread that writes: it takes everything handed over and commits it in one transaction."""

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Concatenate, Final, ParamSpec, TypeVar

from supervisord.adapters.store.errands import Errand, run_together
from supervisord.adapters.store.group import Group
from supervisord.adapters.store.inbox import Inbox
from supervisord.adapters.store.limits import NEW_JOB, Limit
from supervisord.adapters.store.prune import Pruner
from supervisord.adapters.store.transaction import commit
from supervisord.adapters.store.trouble import Trouble, describe, moved
from supervisord.adapters.store.waiters import Waiter, answer, as_error
from supervisord.core.errors import StoreFullError, StoreUnavailableError

_LOG = logging.getLogger(__name__)
_P = ParamSpec("_P")
_T = TypeVar("_T")

# After a commit the next one waits this long unless somebody waits for it. A commit costs about 50 us of CPU whatever
# is in it; at 15 000 jobs/s this makes groups of 150 jobs. What comes when all is quiet is committed at once.
_PACE_S: Final = 0.01
_RETRY_S: Final = 1.0  # while the disk is full or the file cannot be written


class Writer:
    """Owns the connection that writes, and everything handed over and not yet committed."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        path: Path,
        pruner: Pruner,
        new_group: Callable[[], Group],
    ) -> None:
        self._connection = connection
        self._path = path
        self._pruner = pruner
        self._file = path.stat()
        self._inbox = Inbox(path, new_group)
        self._synced = True
        self._next_commit = 0.0
        self._size_bytes = self._file.st_size
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    # --- called on the event loop ------------------------------------------------------------------------------------

    def hand_over(
        self,
        limit: Limit,
        size: int,
        add: Callable[Concatenate[Group, _P], None],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> None:
        """See `Inbox.hand_over`."""
        self._inbox.hand_over(limit, size, add, *args, **kwargs)

    async def committed(self, *, durable: bool, timeout: float) -> None:
        """Returns once everything handed over before is committed, and, if `durable`, safe from a power cut.

        Raises StoreFullError or StoreUnavailableError: it is not, though it may become so later.
        """
        loop = asyncio.get_running_loop()
        waiter = Waiter(durable, loop, loop.create_future())
        self._inbox.add_waiter(waiter)
        try:
            async with asyncio.timeout(timeout):
                await waiter.done
        except TimeoutError:
            raise StoreUnavailableError(f"{self._path} did not confirm a write within {timeout:g} s") from None

    async def do(
        self,
        work: Callable[[sqlite3.Connection], _T],
        *,
        size: int = 0,
        limit: Limit = NEW_JOB,
        durable: bool = True,
        bare: bool = False,
        timeout: float,
    ) -> _T:
        """What `work` returns, once everything handed over before it and itself are committed; it is never retried.

        It runs on the writer's thread, in a transaction, unless `bare`. `size`: bytes that it holds. `durable`: safe
        from a power cut, too. Raises what it raises, StoreFullError or StoreUnavailableError, and then nothing of it
        was written; but where it took longer than `timeout`, it may yet be.
        """
        loop = asyncio.get_running_loop()
        errand = Errand(work, size, durable, bare, loop, loop.create_future())
        if limit is NEW_JOB and self._pruner.full:
            raise StoreFullError(self._pruner.full)
        self._inbox.add_errand(errand, limit)
        try:
            async with asyncio.timeout(timeout):
                answer: _T = await errand.done
        except TimeoutError:
            raise StoreUnavailableError(f"{self._path} did not confirm a write within {timeout:g} s") from None
        finally:
            self._inbox.withdraw(errand)
        return answer

    @property
    def pending(self) -> int:
        """Records handed over and not yet committed."""
        return self._inbox.pending

    @property
    def is_behind(self) -> bool:
        """Whether there is something to commit, be it that nobody waits for it any more."""
        return self._inbox.is_behind

    @property
    def trouble(self) -> Trouble | None:
        return self._inbox.trouble

    @property
    def oldest_pending_s(self) -> float | None:
        """How long the oldest record waits to be committed; None: none does."""
        return self._inbox.oldest_pending_s

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    def stop(self, timeout: float) -> None:
        """Commit what is left and end the thread; blocks up to `timeout` s."""
        self._inbox.stop()
        self._thread.join(timeout)
        if self._thread.is_alive():
            _LOG.error("the store %s did not close within %g s; %d records wait", self._path, timeout, self.pending)

    # --- the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._turn():
                pass
        except Exception as error:  # noqa: BLE001 - whatever ends the thread must be told to those who wait for it
            _LOG.exception("the store's writer ended")
            self._die(Trouble(f"the store's writer ended ({error!r}): restart the daemon", full=False))
        finally:
            self._close()

    def _turn(self) -> bool:
        self._inbox.wait(self._pruner.due_in, self._next_commit)
        waiters, errands, stopping = self._inbox.begin()
        # In trouble the mark of a durable commit is the probe that tells when writing works again.
        durable = stopping or self.trouble is not None or any(waiter.durable for waiter in waiters)
        trouble = self._commit_all(durable=durable) or moved(self._path, self._file)
        if errands:
            trouble = self._run_errands(errands, trouble)
        self._note(trouble)
        answer(waiters, trouble)
        if trouble is None and not stopping:
            self._prune()
        return not stopping

    def _run_errands(self, errands: Sequence[Errand], trouble: Trouble | None) -> Trouble | None:
        together = [errand for errand in errands if not errand.bare]
        if together and trouble is None:
            try:
                self._synced = run_together(self._connection, together)
            except sqlite3.Error as error:
                trouble = describe(error, self._path)
        self._tell(together, trouble)
        for errand in errands:
            if errand.bare:
                self._tell([errand], trouble or self._run_bare(errand))
        return trouble

    def _run_bare(self, errand: Errand) -> Trouble | None:
        try:
            errand.run(self._connection)
        except sqlite3.Error as error:
            return describe(error, self._path)
        return None

    def _tell(self, errands: Sequence[Errand], trouble: Trouble | None) -> None:
        self._inbox.done(errands)
        for errand in errands:
            errand.tell(None if trouble is None else as_error(trouble))

    def _commit_all(self, *, durable: bool) -> Trouble | None:
        """First what is held since a failure, then what came later."""
        while True:
            group, retried = self._inbox.group()
            if group.records or (durable and not self._synced) or self.trouble is not None:
                try:
                    commit(self._connection, group, durable=durable)
                except sqlite3.Error as error:
                    return describe(error, self._path)
                self._synced = durable
            self._inbox.committed()
            if not retried:
                return None

    def _note(self, trouble: Trouble | None) -> None:
        self._next_commit = monotonic() + (_PACE_S if trouble is None else _RETRY_S)
        self._size_bytes = _size(self._path)
        if trouble != self.trouble:
            if trouble is None:
                _LOG.warning("the store takes writes again")
            else:
                _LOG.error("the store takes no new work: %s", trouble.words)
        self._inbox.note(trouble)

    def _prune(self) -> None:
        try:
            self._pruner.step(self._connection, self._size_bytes)
        except sqlite3.Error as error:
            _LOG.warning("old records of the store could not be deleted, trying again later: %s", error)

    def _die(self, trouble: Trouble) -> None:
        waiters, errands, _ = self._inbox.die(trouble)
        answer(waiters, trouble)
        for errand in errands:
            errand.tell(as_error(trouble))

    def _close(self) -> None:
        if self.pending:
            _LOG.error("%d records could not be written to the store %s before it closed", self.pending, self._path)
        try:
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            _LOG.warning("the log of the store %s stays, for the next start to take in: %s", self._path, error)
        finally:
            self._connection.close()


def _size(path: Path) -> int:
    total = 0
    for part in (path, path.with_name(f"{path.name}-wal")):
        with suppress(OSError):
            total += part.stat().st_size
    return total
