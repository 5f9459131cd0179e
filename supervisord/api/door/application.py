"""What is behind the door, and what it lets its clients take."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from supervisord.api.door.client import HttpClient
from supervisord.api.door.request import Request
from supervisord.api.door.response import Response
from supervisord.core.errors import SupervisorError

Work = Callable[[HttpClient], Coroutine[Any, Any, Response | None]]
"""What takes time: it answers through the client, or returns the answer. Cancelled when the client leaves."""


@dataclass(frozen=True, slots=True)
class DoorLimits:
    """What one client may take. `body_bytes` of one request; `connections` of all clients together."""

    body_bytes: int = 64 * 1024 * 1024
    header_timeout_s: float = 10.0
    body_timeout_s: float = 60.0
    idle_timeout_s: float = 75.0
    client_stall_s: float = 60.0
    connections: int = 2000


class Application(Protocol):
    """What is behind the door. It runs on the loop and within a read, so all of this must be quick."""

    def answer(self, request: Request) -> Response | Work:
        """The answer, or how it is come by."""
        ...

    def refusal(self, head: Request) -> Response | None:
        """The answer to a request whose body need not be waited for; asked only where the body is late."""
        ...

    def told(self, error: SupervisorError) -> Response:
        """An error as an answer."""
        ...
