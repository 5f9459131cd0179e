"""The way of a request to a backend and of its answer to the client."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from supervisord.runtimes.base import Address


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    """One request to a backend; the body goes out as it is, with its length."""

    address: Address
    method: str
    path: str  # below the address's prefix
    headers: Sequence[tuple[str, str]]  # besides the address's own
    body: bytes
    idle_timeout_s: float  # nothing received for that long: fault "idle"
    connect_timeout_s: float = 5.0


@dataclass(frozen=True, slots=True)
class UpstreamFault:
    """Why an exchange broke off. `kind`: connect, reset, eof, protocol, idle; internal: its receiver raised."""

    kind: str
    detail: str


class Receiver(Protocol):
    """Takes an answer as it arrives; called on the loop from within the read, so it must be quick."""

    def on_head(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Header names come lower-case."""
        ...

    def on_data(self, data: bytes) -> None:
        """A part of the body, transfer coding removed, as one read brought it."""
        ...

    def on_end(self) -> None:
        """The body is whole by its own framing."""
        ...

    def on_fault(self, fault: UpstreamFault) -> None:
        """It will not become whole. Nothing follows."""
        ...


class Exchange(Protocol):
    def pause(self) -> None:
        """Stop reading from the backend: the client is slower."""
        ...

    def resume(self) -> None: ...

    def abort(self) -> None:
        """Close the connection now, so that the backend stops computing. No call follows."""
        ...


class Upstream(Protocol):
    async def start(self, request: UpstreamRequest, receiver: Receiver) -> Exchange:
        """Send a request; the answer goes to `receiver`. A connect failure is an UpstreamFault, not an exception."""
        ...

    def forget(self, address: Address) -> None:
        """Close the kept connections to an address: its process is gone."""
        ...

    async def close(self) -> None: ...


class Client(Protocol):
    """The waiting client of a synchronous job. Nothing has reached it until `start` was called."""

    def start(self, status: int, headers: Sequence[tuple[str, str]], *, length: int | None) -> None:
        """Send the head. `length` None: the body's end is marked by the framing (chunked)."""
        ...

    def write(self, data: bytes) -> bool:
        """Send a part of the body; False when the buffer towards the client is full: wait for `drained`."""
        ...

    async def drained(self) -> None:
        """Returns once the client has taken enough. Unbounded: the caller sets the limit."""
        ...

    def finish(self) -> None:
        """The body is whole."""
        ...

    def abort(self) -> None:
        """Cut the connection so that the client cannot take the answer for a whole one."""
        ...
