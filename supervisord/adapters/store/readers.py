"""A few threads that only read, each query bounded in time; who feeds the backends does not wait for who lists."""

import asyncio
import queue
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from pathlib import Path
from time import monotonic
from typing import Final, TypeVar

from supervisord.adapters.store.schema import connect
from supervisord.adapters.store.trouble import damaged
from supervisord.core.errors import StoreUnavailableError

_T = TypeVar("_T")

# A bound for the memory alone, some 2 KB each: a query takes 0.1 ms, and one that cannot have its turn is told after
# 10 s. Thousands of clients may ask at the same moment, as all do whose connections were cut at once.
_MOST_WAITING: Final = 10_000
_LONGEST_QUERY_S: Final = 5.0
_STEPS_BETWEEN_LOOKS: Final = 10_000  # of SQLite's virtual machine: well below a millisecond


class Lane(Enum):
    """What is asked: no kind stands behind another."""

    FEED = "feed"  # what the engine does next
    LOOK = "look"  # at one thing, by its name
    LIST = "list"  # through many, which may take as long as a query can


_AT_ONCE: Final = {Lane.FEED: 1, Lane.LOOK: 2, Lane.LIST: 2}


class Readers:
    """All lanes."""

    def __init__(self, path: Path) -> None:
        """Raises sqlite3.Error."""
        self._lanes: dict[Lane, _Lane] = {}
        try:
            for lane in Lane:
                self._lanes[lane] = _Lane(path, lane)
        except sqlite3.Error:
            self.close()
            raise

    async def run(self, query: Callable[[sqlite3.Connection], _T], lane: Lane = Lane.LOOK) -> _T:
        """The answer of `query`, all of whose reads see the same state. Raises StoreUnavailableError."""
        return await self._lanes[lane].run(query)

    def close(self) -> None:
        """End the queries in progress and those that wait, and close."""
        for lane in self._lanes.values():
            lane.stop()
        for lane in self._lanes.values():
            lane.close()


class _Lane:
    """Connections that cannot write. In WAL mode they see the last commit and never wait for the writer."""

    def __init__(self, path: Path, lane: Lane) -> None:
        self._path = path
        self._all: list[_Reader] = []
        try:
            for _ in range(_AT_ONCE[lane]):
                self._all.append(_Reader(path))
        except sqlite3.Error:
            self._close_all()
            raise
        self._free: queue.SimpleQueue[_Reader] = queue.SimpleQueue()
        for reader in self._all:
            self._free.put(reader)
        self._threads = ThreadPoolExecutor(_AT_ONCE[lane], thread_name_prefix=f"store-{lane.value}")
        self._waiting = 0
        self._closed = False

    async def run(self, query: Callable[[sqlite3.Connection], _T]) -> _T:
        if self._closed:
            raise StoreUnavailableError("the store is closed")
        if self._waiting >= _MOST_WAITING:
            raise StoreUnavailableError(f"{self._waiting} queries of {self._path} wait already: try again later")
        self._waiting += 1
        try:
            async with asyncio.timeout(2 * _LONGEST_QUERY_S):
                return await asyncio.get_running_loop().run_in_executor(self._threads, self._run, query)
        except TimeoutError:
            raise StoreUnavailableError(f"{self._path} is busy with other queries: try again later") from None
        finally:
            self._waiting -= 1

    def _run(self, query: Callable[[sqlite3.Connection], _T]) -> _T:
        reader = self._free.get_nowait()  # there are as many as threads
        try:
            return reader.run(query)
        except sqlite3.Error as error:
            if self._closed:
                raise StoreUnavailableError("the store is closed") from error
            raise self._refusal(error) from error
        finally:
            self._free.put(reader)

    def _refusal(self, error: sqlite3.Error) -> StoreUnavailableError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_INTERRUPT:
            words = f"the query took longer than {_LONGEST_QUERY_S:g} s and was ended: ask for less"
        elif code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
            words = damaged(self._path, str(error))
        else:
            words = f"{self._path} cannot be read ({error})"
        return StoreUnavailableError(words)

    def stop(self) -> None:
        self._closed = True
        for reader in self._all:
            reader.stop()

    def close(self) -> None:
        self._threads.shutdown()  # cancelling what waits would look like a cancellation of the asking task
        self._close_all()

    def _close_all(self) -> None:
        for reader in self._all:
            reader.close()


class _Reader:
    def __init__(self, path: Path) -> None:
        self._connection = connect(path)
        self._connection.execute("PRAGMA query_only = ON")
        self._deadline = 0.0
        self._stopped = False
        self._connection.set_progress_handler(self._is_late, _STEPS_BETWEEN_LOOKS)

    def _is_late(self) -> bool:
        return self._stopped or monotonic() > self._deadline

    def run(self, query: Callable[[sqlite3.Connection], _T]) -> _T:
        self._deadline = monotonic() + _LONGEST_QUERY_S
        self._connection.execute("BEGIN")
        try:
            return query(self._connection)
        finally:
            self._connection.execute("ROLLBACK")

    def stop(self) -> None:
        self._stopped = True

    def close(self) -> None:
        self._connection.close()
