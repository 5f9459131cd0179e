"""Who keeps the connections."""

import asyncio
from typing import TYPE_CHECKING, Protocol

from supervisord.api.door.application import Application, DoorLimits, Taking
from supervisord.api.door.request import Request
from supervisord.api.door.response import Response
from supervisord.ports import Clock

if TYPE_CHECKING:
    from supervisord.api.door.connection import Connection


class Owner(Protocol):
    """Who keeps the connections."""

    application: Application
    limits: DoorLimits
    clock: Clock
    closing: bool

    def late(self, head: Request) -> Response | Taking | None:
        """See `Application.late`."""
        ...

    def opened(self, connection: "Connection") -> bool:
        """Whether there is room for it."""
        ...

    def lost(self, connection: "Connection", work: asyncio.Task[None] | None) -> None:
        """`work` is being cancelled: it was to answer a client that left."""
        ...
