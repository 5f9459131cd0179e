"""The one thread that writes: it takes everything handed over and commits it in one transaction."""

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Concatenate, Final, ParamSpec

from supervisord.adapters.store.group import Group, Profiles
from supervisord.adapters.store.prune import Pruner
from supervisord.adapters.store.transaction import commit
from supervisord.adapters.store.trouble import Trouble, describe, moved
from supervisord.core.errors import StoreFullError, StoreUnavailableError

_LOG = logging.getLogger(__name__)
_P = ParamSpec("_P")

MOST_RECORDS: Final = 20_000
MOST_BODY_BYTES: Final = 64 * 1024 * 1024

# After a commit the next one waits this long unless somebody waits for it. A commit costs about 50 us of CPU whatever
# is in it; at 15 000 jobs/s this makes groups of 150 jobs. What comes when all is quiet is committed at once.
_PACE_S: Final = 0.01
_RETRY_S: Final = 1.0  # while the disk is full or the file cannot be written


@dataclass(frozen=True, slots=True)
class Limit:
    """How much may wait for the writer when one more record comes."""

    records: int
    body_bytes: int
    in_trouble: bool  # taken also while nothing can be committed


# What is new is refused first, so that what was accepted before can still be told to its end.
NEW_JOB: Final = Limit(MOST_RECORDS * 3 // 4, MOST_BODY_BYTES * 3 // 4, in_trouble=False)
EVENT: Final = Limit(NEW_JOB.records, NEW_JOB.body_bytes, in_trouble=True)
OF_ACCEPTED: Final = Limit(MOST_RECORDS, MOST_BODY_BYTES, in_trouble=True)


@dataclass(frozen=True, slots=True)
class _Waiter:
    durable: bool
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[None]


class Writer:
    """Owns the connection that writes, and everything handed over and not yet committed."""

    def __init__(self, connection: sqlite3.Connection, path: Path, profiles: Profiles, pruner: Pruner) -> None:
        self._connection = connection
        self._path = path
        self._profiles = profiles
        self._pruner = pruner
        self._file = path.stat()
        self._lock = threading.Lock()  # guards the next seven; never held while SQLite runs
        self._open = Group(profiles)
        self._held: Group | None = None  # taken by the thread, and not yet committed
        self._waiters: list[_Waiter] = []
        self._answering: list[_Waiter] = []  # the waiters of the commit in progress
        self._trouble: Trouble | None = None
        self._asleep = False
        self._stopping = False
        self._bell = threading.Event()
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
        """Let `add` put a record with a body of `size` bytes into the open group.

        Raises StoreFullError or StoreUnavailableError, and then nothing was taken.
        """
        with self._lock:
            self._admit(limit, size)
            if not self._open.records:
                self._open.since = monotonic()
            add(self._open, *args, **kwargs)
            asleep, self._asleep = self._asleep, False
        if asleep:
            self._bell.set()

    def _admit(self, limit: Limit, size: int) -> None:
        self._check_running()
        if self._trouble is not None and not limit.in_trouble:
            raise _error(self._trouble)
        records, body_bytes = self._open.records, self._open.body_bytes + size
        if self._held is not None:
            records += self._held.records
            body_bytes += self._held.body_bytes
        if records >= limit.records or body_bytes > limit.body_bytes:
            raise _error(self._trouble or Trouble(self._behind(records, body_bytes), full=False))

    def _check_running(self) -> None:
        if self._stopping:
            raise _error(self._trouble or Trouble("the store is closed", full=False))

    def _behind(self, records: int, body_bytes: int) -> str:
        return (
            f"{records} records with {body_bytes / 2**20:.0f} MiB of bodies wait to be written to {self._path}: the "
            f"disk is slower than the work; try again later"
        )

    async def committed(self, *, durable: bool, timeout: float) -> None:
        """Returns once everything handed over before is committed, and, if `durable`, safe from a power cut.

        Raises StoreFullError or StoreUnavailableError: it is not, though it may become so later.
        """
        loop = asyncio.get_running_loop()
        waiter = _Waiter(durable, loop, loop.create_future())
        with self._lock:
            self._check_running()
            self._waiters.append(waiter)
            self._asleep = False
        self._bell.set()
        try:
            async with asyncio.timeout(timeout):
                await waiter.done
        except TimeoutError:
            raise StoreUnavailableError(f"{self._path} did not confirm a write within {timeout:g} s") from None

    @property
    def pending(self) -> int:
        """Records handed over and not yet committed."""
        with self._lock:
            return self._open.records + (0 if self._held is None else self._held.records)

    @property
    def trouble(self) -> Trouble | None:
        return self._trouble

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    @property
    def oldest_pending_s(self) -> float | None:
        """How long the oldest record waits to be committed; None: none does."""
        with self._lock:
            waiting = [group.since for group in (self._held, self._open) if group is not None and group.records]
        return monotonic() - waiting[0] if waiting else None

    def stop(self, timeout: float) -> None:
        """Commit what is left and end the thread; blocks up to `timeout` s."""
        with self._lock:
            self._stopping = True
        self._bell.set()
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
        self._wait()
        with self._lock:
            waiters = self._answering = self._waiters
            self._waiters = []
            stopping = self._stopping
        # In trouble the mark of a durable commit is the probe that tells when writing works again.
        durable = stopping or self._trouble is not None or any(waiter.durable for waiter in waiters)
        trouble = self._commit_all(durable=durable) or moved(self._path, self._file)
        self._note(trouble)
        _answer(waiters, trouble)
        if trouble is None and not stopping:
            self._prune()
        return not stopping

    def _wait(self) -> None:
        """Until there is something to do, and the pace allows it."""
        with self._lock:
            self._asleep = not (self._open.records or self._waiters or self._stopping or self._trouble)
            asleep = self._asleep
        if asleep:
            self._bell.wait(self._pruner.due_in())
        self._bell.clear()
        with self._lock:
            self._asleep = False
            hurried = bool(self._waiters) or self._stopping
        pause = self._next_commit - monotonic()
        if pause > 0 and not hurried:
            self._bell.wait(pause)

    def _commit_all(self, *, durable: bool) -> Trouble | None:
        """First what is held since a failure, then what came later."""
        while True:
            with self._lock:
                retried = self._held is not None
                if self._held is None:
                    self._held, self._open = self._open, Group(self._profiles)
                group = self._held
            if group.records or (durable and not self._synced) or self._trouble is not None:
                try:
                    commit(self._connection, group, durable=durable)
                except sqlite3.Error as error:
                    return describe(error, self._path)
                self._synced = durable
            with self._lock:
                self._held = None
            if not retried:
                return None

    def _note(self, trouble: Trouble | None) -> None:
        self._next_commit = monotonic() + (_PACE_S if trouble is None else _RETRY_S)
        self._size_bytes = _size(self._path)
        if trouble != self._trouble:
            if trouble is None:
                _LOG.warning("the store takes writes again")
            else:
                _LOG.error("the store takes no new work: %s", trouble.words)
        with self._lock:
            self._trouble = trouble

    def _prune(self) -> None:
        try:
            self._pruner.step(self._connection)
        except sqlite3.Error as error:
            _LOG.warning("old records of the store could not be deleted, trying again later: %s", error)

    def _die(self, trouble: Trouble) -> None:
        with self._lock:
            waiters = self._answering + self._waiters
            self._trouble = trouble
            self._stopping = True
        _answer(waiters, trouble)

    def _close(self) -> None:
        if self.pending:
            _LOG.error("%d records could not be written to the store %s before it closed", self.pending, self._path)
        try:
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            _LOG.warning("the log of the store %s stays, for the next start to take in: %s", self._path, error)
        finally:
            self._connection.close()


def _answer(waiters: Sequence[_Waiter], trouble: Trouble | None) -> None:
    for waiter in waiters:
        with suppress(RuntimeError):  # its loop is closed, and nobody waits any more
            waiter.loop.call_soon_threadsafe(_resolve, waiter.done, trouble)


def _resolve(done: asyncio.Future[None], trouble: Trouble | None) -> None:
    if done.done():
        return
    if trouble is None:
        done.set_result(None)
    else:
        done.set_exception(_error(trouble))


def _error(trouble: Trouble) -> StoreUnavailableError:
    return StoreFullError(trouble.words) if trouble.full else StoreUnavailableError(trouble.words)


def _size(path: Path) -> int:
    total = 0
    for part in (path, path.with_name(f"{path.name}-wal")):
        with suppress(OSError):
            total += part.stat().st_size
    return total
