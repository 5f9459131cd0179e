"""Writes that somebody waits for: each is made once, and succeeds or is told; those that wait together share a sync."""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from supervisord.adapters.store.statements import SQL
from supervisord.adapters.store.transaction import OF_ONE_RECORD, synchronous, transaction
from supervisord.core.errors import StoreUnavailableError, SupervisorError


@dataclass(slots=True, eq=False)
class Errand:
    """`work` runs on the writer's thread; what it returns or raises is the answer of `done`."""

    work: Callable[[sqlite3.Connection], Any]
    size: int  # bytes of bodies that it holds
    durable: bool
    bare: bool  # outside of any transaction
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[Any]
    answer: Any = None
    error: Exception | None = field(default=None)

    def run(self, connection: sqlite3.Connection) -> bool:
        """Whether it succeeded. Raises sqlite3.Error where the store is the problem, not what was asked."""
        try:
            self.answer = self.work(connection)
        except SupervisorError as error:
            self.error = error
        except OF_ONE_RECORD as error:
            self.error = StoreUnavailableError(f"the store cannot hold this ({error})")
        return self.error is None

    def tell(self, trouble: Exception | None) -> None:
        """Answer whoever waits; `trouble`: it was not written."""
        with suppress(RuntimeError):  # its loop is closed, and nobody waits any more
            self.loop.call_soon_threadsafe(self._resolve, trouble or self.error)

    def _resolve(self, error: Exception | None) -> None:
        if self.done.done():
            return
        if error is None:
            self.done.set_result(self.answer)
        else:
            self.done.set_exception(error)


def run_together(connection: sqlite3.Connection, errands: Sequence[Errand]) -> bool:
    """In one transaction; one that fails for what it asked leaves the others alone. Raises sqlite3.Error.

    Whether everything that is committed is safe from a power cut now.
    """
    durable = any(errand.durable for errand in errands)
    with synchronous(connection, full=durable), transaction(connection):
        for errand in errands:
            connection.execute("SAVEPOINT errand")
            if not errand.run(connection):
                connection.execute("ROLLBACK TO errand")
            connection.execute("RELEASE errand")
        if durable:
            connection.execute(SQL["mark_sync"])
    return durable
