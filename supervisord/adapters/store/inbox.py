"""What was handed over to the writer and is not yet committed: bounded, and refused where it is too much."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic
from typing import Concatenate, Final, NamedTuple, ParamSpec

from supervisord.adapters.store.errands import Errand
from supervisord.adapters.store.group import Group
from supervisord.adapters.store.limits import Limit
from supervisord.adapters.store.trouble import Trouble
from supervisord.adapters.store.waiters import Waiter, as_error

_P = ParamSpec("_P")

_CLOSED: Final = Trouble("the store is closed", full=False)


class Taken(NamedTuple):
    """Who waits for the turn that begins."""

    waiters: Sequence[Waiter]
    errands: Sequence[Errand]
    stopping: bool


class Inbox:
    """Filled on the event loop, emptied by the writer's thread. Its lock is never held while SQLite runs."""

    def __init__(self, path: Path, new_group: Callable[[], Group]) -> None:
        self._path = path
        self._new_group = new_group
        self._lock = threading.Lock()  # guards the rest, but for the bell
        self._open = new_group()
        self._held: Group | None = None  # taken by the thread, and not yet committed
        self._waiters: list[Waiter] = []
        self._answering: Sequence[Waiter] = ()  # the waiters of the turn in progress
        self._errands: list[Errand] = []
        self._doing: list[Errand] = []  # the errands of the turn in progress
        self._errand_count = 0  # of both
        self._errand_bytes = 0
        self._trouble: Trouble | None = None
        self._asleep = False
        self._stopping = False
        self._bell = threading.Event()

    # --- filling -----------------------------------------------------------------------------------------------------

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

    def add_errand(self, errand: Errand, limit: Limit) -> None:
        """Raises StoreFullError or StoreUnavailableError: it was not taken."""
        with self._lock:
            self._admit(limit, errand.size)
            self._errands.append(errand)
            self._errand_count += 1
            self._errand_bytes += errand.size
            self._asleep = False
        self._bell.set()

    def withdraw(self, errand: Errand) -> None:
        """One that nobody waits for any more, unless it has begun."""
        with self._lock:
            if errand in self._errands:
                self._errands.remove(errand)
                self._forget([errand])

    def add_waiter(self, waiter: Waiter) -> None:
        """Raises StoreUnavailableError: nothing will be committed any more."""
        with self._lock:
            self._check_running()
            self._waiters.append(waiter)
            self._asleep = False
        self._bell.set()

    def stop(self) -> None:
        """Take nothing any more."""
        with self._lock:
            self._stopping = True
        self._bell.set()

    def _admit(self, limit: Limit, size: int) -> None:
        self._check_running()
        if self._trouble is not None and not limit.in_trouble:
            raise as_error(self._trouble)
        records = self._open.records + self._errand_count
        body_bytes = self._open.body_bytes + self._errand_bytes + size
        if self._held is not None:
            records += self._held.records
            body_bytes += self._held.body_bytes
        if records >= limit.records or limit.body_bytes < body_bytes > size:  # one alone may have any size
            raise as_error(self._trouble or Trouble(self._behind(records, body_bytes), full=False))

    def _check_running(self) -> None:
        if self._stopping:
            raise as_error(self._trouble or _CLOSED)

    def _behind(self, records: int, body_bytes: int) -> str:
        return (
            f"{records} records with {body_bytes / 2**20:.0f} MiB of bodies wait to be written to {self._path}: the "
            f"disk is slower than the work; try again later"
        )

    def _forget(self, errands: Sequence[Errand]) -> None:
        self._errand_count -= len(errands)
        self._errand_bytes -= sum(errand.size for errand in errands)

    # --- looking -----------------------------------------------------------------------------------------------------

    @property
    def pending(self) -> int:
        """Records handed over and not yet committed."""
        with self._lock:
            return self._open.records + (0 if self._held is None else self._held.records)

    @property
    def is_behind(self) -> bool:
        """Whether there is something to commit, be it that nobody waits for it any more."""
        with self._lock:
            held = self._held is not None and self._held.records
            return bool(self._open.records or held) or any(not each.bare for each in self._errands + self._doing)

    @property
    def trouble(self) -> Trouble | None:
        return self._trouble

    @property
    def oldest_pending_s(self) -> float | None:
        """How long the oldest record waits to be committed; None: none does."""
        with self._lock:
            waiting = [group.since for group in (self._held, self._open) if group is not None and group.records]
        return monotonic() - waiting[0] if waiting else None

    # --- emptying, by the writer's thread ----------------------------------------------------------------------------

    def wait(self, due_in: Callable[[], float], earliest: float) -> None:
        """Until there is something to do, or `due_in` seconds are over; not before `earliest`, monotonic, unless
        somebody waits for it.
        """
        with self._lock:
            busy = self._open.records or self._waiters or self._errands
            self._asleep = not (busy or self._stopping or self._trouble)
            asleep = self._asleep
        if asleep:
            self._bell.wait(due_in())
        self._bell.clear()
        with self._lock:
            self._asleep = False
            hurried = bool(self._waiters or self._errands) or self._stopping
        pause = earliest - monotonic()
        if pause > 0 and not hurried:
            self._bell.wait(pause)

    def begin(self) -> Taken:
        """A turn."""
        with self._lock:
            self._answering, self._doing = self._waiters, self._errands
            self._waiters, self._errands = [], []
            return Taken(self._answering, self._doing, self._stopping)

    def group(self) -> tuple[Group, bool]:
        """What is to be committed now; whether it was tried before. It is held until `committed`."""
        with self._lock:
            retried = self._held is not None
            if self._held is None:
                self._held, self._open = self._open, self._new_group()
            return self._held, retried

    def committed(self) -> None:
        """The group that was held."""
        with self._lock:
            self._held = None

    def done(self, errands: Sequence[Errand]) -> None:
        """They were made, or cannot be."""
        with self._lock:
            self._forget(errands)
            self._doing = [errand for errand in self._doing if errand not in errands]

    def note(self, trouble: Trouble | None) -> None:
        """What keeps the writer from writing; None: nothing does."""
        with self._lock:
            self._trouble = trouble

    def die(self, trouble: Trouble) -> Taken:
        """Take nothing any more. Everybody who waits, to be told why."""
        with self._lock:
            self._trouble = trouble
            self._stopping = True
            return Taken([*self._answering, *self._waiters], self._doing + self._errands, stopping=True)
