"""What is behind the door, and what it lets its clients take."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from supervisord.api.door.body import Body, too_large
from supervisord.api.door.client import HttpClient
from supervisord.api.door.request import Request
from supervisord.api.door.response import Response
from supervisord.core.errors import SupervisorError

Work = Callable[[HttpClient], Coroutine[Any, Any, Response | None]]
"""What takes time: it answers through the client, or returns the answer. Cancelled when the client leaves."""


@dataclass(frozen=True, slots=True)
class Upload:
    """How a path takes bodies in parts. It stands in a table as any handler does.

    `begin` gets the request without its body. Both it and the work that it returns may raise SupervisorError. More than
    `limit` bytes are refused; `setting` names what sets that.
    """

    begin: Callable[[Request, Body], Work]
    limit: int
    setting: str

    def __call__(self, request: Request) -> Work:
        """Take a request whose body came along with its head. Raises SupervisorError."""
        if len(request.body) > self.limit:
            raise too_large(self.limit, self.setting)
        return self.begin(msgspec.structs.replace(request, body=b""), Body.of(request.body))


@dataclass(frozen=True, slots=True)
class Taking:
    """An upload that a request's head asks for; `head` has what its path names."""

    upload: Upload
    head: Request


@dataclass(frozen=True, slots=True)
class DoorLimits:
    """What one client may take. `body_bytes` of one request; `connections` of all clients together.

    `body_timeout_s`: for a whole body; for each 64 KiB of one that is taken in parts.
    """

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

    def late(self, head: Request) -> Response | Taking | None:
        """What becomes of a request whose body is not whole yet, or larger than is kept.

        The answer where the body need not be waited for; who takes it in parts; None: the whole of it is waited for.
        """
        ...

    def told(self, error: SupervisorError, head: Request | None = None) -> Response:
        """An error as an answer; to the client of `head`, as far as that has come."""
        ...
