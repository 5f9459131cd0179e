"""Bodies that are too large to be kept: they are handed over in parts, and whoever takes them sets the pace."""

import asyncio
import sys
from typing import Protocol

from supervisord.core.errors import RequestTooLargeError, SupervisorError

MOST_KEPT = 256 * 1024  # bytes that wait to be taken; a read that is under way adds one more of that size (uvloop)


class Source(Protocol):
    """The connection that a body comes on."""

    def ask(self) -> None:
        """Somebody wants the body: the client may send it."""
        ...

    def hold(self) -> None:
        """Read nothing more for now."""
        ...

    def release(self) -> None:
        """Read on."""
        ...


class Body:
    """The body of one request, in parts: `async for part in body`. Only one may iterate, and only once.

    A part has at least one byte, and at most about 512 KiB. Raises RequestTooLargeError, RequestTimeoutError or
    InvalidRequestError where the rest does not come as it should.
    """

    __slots__ = ("_kept", "_limit", "_parts", "_setting", "_source", "_waiting", "error", "held", "received", "whole")

    def __init__(self, source: Source | None = None, limit: int = sys.maxsize, setting: str = "") -> None:
        self.received = 0  # bytes
        self.whole = False  # all of it has come, taken or not
        self.held = False  # so much waits to be taken that nothing more is read
        self._source = source
        self._limit = limit
        self._setting = setting
        self._parts: list[bytes] = []
        self._kept = 0
        self.error: SupervisorError | None = None  # why the rest will not come
        self._waiting: asyncio.Future[None] | None = None

    @classmethod
    def of(cls, data: bytes) -> "Body":
        """One that has come already."""
        body = cls()
        if data:
            body.put(data)
        body.end()
        return body

    def __aiter__(self) -> "Body":
        if self._source is not None:
            self._source.ask()
        return self

    async def __anext__(self) -> bytes:
        while not self._parts:
            if self.error is not None:
                raise self.error
            if self.whole:
                raise StopAsyncIteration
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        return self._taken()

    def _taken(self) -> bytes:
        parts = self._parts
        part = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        self._kept = 0
        if self.held and self._source is not None:
            self.held = False
            self._source.release()
        return part

    # --- the connection's side --------------------------------------------------------------------------------------

    def put(self, data: bytes) -> None:
        """A part has come."""
        if self.error is not None:
            return
        self.received += len(data)
        if self.received > self._limit:
            self.fail(too_large(self._limit, self._setting))
            return
        self._parts.append(data)
        self._kept += len(data)
        if self._kept > MOST_KEPT and not self.held and self._source is not None:
            self.held = True
            self._source.hold()
        self._wake()

    def end(self) -> None:
        """It is whole."""
        self.whole = self.error is None
        self._source = None
        self._wake()

    def fail(self, error: SupervisorError) -> None:
        """The rest will not come."""
        if self.error is None:
            self.error = error
            self._source = None
            self._wake()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


def too_large(limit: int, setting: str) -> RequestTooLargeError:
    """What is said of a body beyond its limit."""
    return RequestTooLargeError(f"The body is larger than {limit} bytes ({setting}).")
