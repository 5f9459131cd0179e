"""The listening address, and all connections to it."""

import asyncio
import socket
from contextlib import suppress
from functools import partial

from supervisord.api.door.application import Application, DoorLimits, Taking
from supervisord.api.door.connection import Connection
from supervisord.api.door.request import Request
from supervisord.api.door.response import Response
from supervisord.ports import Clock

REFUSED_AT_ONCE = 64  # connections beyond the limit that are told so at the same time; others are cut off
CANCEL_S = 1.0  # for the work of clients that left to wind up


class Door:
    """Serves one application on one address. Everything runs on the loop that calls `open`.

    `application` may be replaced while it serves: requests that begin then go to the new one.
    """

    def __init__(self, application: Application, limits: DoorLimits, clock: Clock) -> None:
        self.application = application
        self.limits = limits
        self.clock = clock
        self.closing = False
        self._connections: set[Connection] = set()
        self._leaving: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._all_lost = asyncio.Event()

    async def open(self, listener: socket.socket, backlog: int) -> None:
        """Accept connections from a bound socket from now on."""
        loop = asyncio.get_running_loop()
        making = partial(Connection, self, loop)
        self._server = await loop.create_server(making, sock=listener, backlog=backlog)

    async def close(self, within_s: float) -> None:
        """Accept nothing more, close what is idle, and cut off what is not answered after `within_s` seconds."""
        self.closing = True
        if self._server is not None:
            self._server.close()
        for connection in tuple(self._connections):
            connection.wind_down()
        await self._until_lost(within_s)
        for connection in tuple(self._connections):
            connection.abort()
        await self._until_lost(CANCEL_S)
        if self._leaving:
            await asyncio.wait(self._leaving, timeout=CANCEL_S)

    async def _until_lost(self, seconds: float) -> None:
        self._all_lost.clear()
        if self._connections:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._all_lost.wait()

    # --- connection.Owner -------------------------------------------------------------------------------------------

    def late(self, head: Request) -> Response | Taking | None:
        return self.application.late(head)

    def opened(self, connection: Connection) -> bool:
        room = len(self._connections) < self.limits.connections and not self.closing
        self._connections.add(connection)
        if len(self._connections) > self.limits.connections + REFUSED_AT_ONCE:
            connection.abort()
        return room

    def lost(self, connection: Connection, work: asyncio.Task[None] | None) -> None:
        self._connections.discard(connection)
        if work is not None:
            self._leaving.add(work)
            work.add_done_callback(self._leaving.discard)
        if not self._connections:
            self._all_lost.set()
