"""One upload on a connection: read as fast as it is taken, and given up where its client stands still."""

from typing import Protocol

from supervisord.api.door.application import Taking
from supervisord.api.door.body import Body
from supervisord.api.door.client import HttpClient
from supervisord.api.door.reader import RequestReader
from supervisord.api.door.request import Request
from supervisord.core.errors import RequestTimeoutError

# Bytes that have to come within limits.body_timeout while the door reads: a client that drips would else hold its
# connection for ever. With the default of 60 s that is 1 KiB/s; nginx counts any two bytes as progress.
PROGRESS = 64 * 1024


class Line(Protocol):
    """The connection."""

    def hold(self) -> None:
        """Read nothing more for now."""
        ...

    def release(self) -> None:
        """Read on."""
        ...

    def await_part(self) -> None:
        """Have `late` called when `limits.body_timeout` is over."""
        ...

    def rest(self) -> None:
        """Nothing is awaited any more."""
        ...

    def say_continue(self, head: Request) -> None:
        """Tell the client to send the body, where it asked to be told."""
        ...


class Intake:
    """Between the reader of a connection and the body that a handler iterates over."""

    __slots__ = ("_client", "_due", "_head", "_line", "_reader", "body")

    def __init__(self, line: Line, reader: RequestReader, client: HttpClient, taking: Taking) -> None:
        self._line = line
        self._reader = reader
        self._client = client
        self._head = taking.head
        self._due = PROGRESS
        self.body = Body(self, taking.upload.limit, taking.upload.setting)

    def begin(self) -> None:
        """Hand over what has come along with the head, and from now on all that comes."""
        self._client.keep_alive = False  # before the body is whole it is not known where the next request begins
        self._reader.hand_to(self.body)
        self._look()

    def feed(self, data: bytes) -> None:
        """Take one read; what comes of a body that failed is let go."""
        if self.body.error is None:
            self._reader.feed(data)
            self._look()

    def late(self, seconds: float) -> None:
        """The client stood still."""
        self.body.fail(
            RequestTimeoutError(
                f"Less than {PROGRESS} bytes of the body came within {seconds:g} s (limits.body_timeout), "
                f"after {self.body.received} bytes."
            )
        )

    def _look(self) -> None:
        body, line, problem = self.body, self._line, self.body.error or self._reader.problem
        if body.whole:
            self._client.keep_alive = self._head.keep_alive
            line.rest()
            line.release()
        elif problem is not None:
            line.rest()
            body.fail(problem)
        elif body.received >= self._due and not body.held:
            self._await_more()

    # --- body.Source ------------------------------------------------------------------------------------------------

    def ask(self) -> None:
        self._line.say_continue(self._head)
        if not self.body.held:
            self._await_more()

    def hold(self) -> None:
        self._line.rest()
        self._line.hold()

    def release(self) -> None:
        self._line.release()
        self._await_more()

    def _await_more(self) -> None:
        self._due = self.body.received + PROGRESS
        self._line.await_part()
