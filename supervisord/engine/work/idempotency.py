"""Requests that carry an Idempotency-Key: whatever is sent again makes what it asks for once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NamedTuple


class Used(NamedTuple):
    """A key, and the SHA-256 of all that was asked with it, in hexadecimal."""

    key: str
    digest: str


@dataclass(slots=True)
class _Turn:
    """Whoever uses one key, one after the other."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


class KeyTurns:
    """Who may look whether a key is known, and use it if it is not."""

    def __init__(self) -> None:
        self._turns: dict[tuple[str, str], _Turn] = {}

    @asynccontextmanager
    async def alone(self, client: str, key: str) -> AsyncIterator[None]:
        """Within, nobody else is who uses this key of this client."""
        turn = self._turns.setdefault((client, key), _Turn())
        turn.users += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[client, key]
