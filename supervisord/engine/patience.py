"""A streaming client that waits: it is told what for, so that neither it nor a proxy between gives up."""

from collections.abc import Sequence

from supervisord.core.answer import error_event
from supervisord.core.errors import AttemptFailedError, SupervisorError
from supervisord.ports import Client

FIRST_AFTER_S = 5.0  # with the first comment the status 200 is sent: what fails later can only be said in-band
EVERY_S = 5.0

_HEAD = (("content-type", "text/event-stream"), ("cache-control", "no-cache"), ("x-accel-buffering", "no"))


class PatientClient:
    """`ports.Client` over another one, that can begin a stream of events before there is anything to relay."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.begun = False
        self._error: list[bytes] | None = None  # an error answer that comes too late for a status of its own

    def comment(self, text: str, headers: tuple[tuple[str, str], ...]) -> None:
        """Tell why nothing comes yet. One line that ends in a single newline: a blank line behind a comment makes
        openai-python's decoder fail in streams that carry ids."""
        if not self.begun:
            self._client.start(200, (*_HEAD, *headers), length=None)
            self.begun = True
        self._client.write(b": " + " ".join(text.split()).encode() + b"\n")

    def fail(self, error: SupervisorError) -> None:
        """Tell a failure in-band: the status has been sent."""
        kind = "backend_error" if isinstance(error, AttemptFailedError) else "supervisor_error"
        self._client.write(error_event(error.message, kind, error.code))
        self._client.finish()

    def start(self, status: int, headers: Sequence[tuple[str, str]], *, length: int | None) -> None:
        """See `ports.Client`."""
        if not self.begun:
            self._client.start(status, headers, length=length)
        elif status >= 400:
            self._error = []

    def write(self, data: bytes) -> bool:
        """See `ports.Client`."""
        if self._error is None:
            return self._client.write(data)
        self._error.append(data)
        return True

    async def drained(self) -> None:
        """See `ports.Client`."""
        await self._client.drained()

    def finish(self) -> None:
        """See `ports.Client`."""
        if self._error is not None:
            body = b"".join(self._error)
            if body.lstrip().startswith(b'{"error"'):
                self._client.write(b"data: " + b" ".join(body.split(b"\n")).strip() + b"\n\n")
            else:
                text = body[:300].decode("utf-8", "replace")
                self._client.write(error_event(f"The backend failed: {text}", "backend_error", "backend_error"))
        self._client.finish()

    def abort(self) -> None:
        """See `ports.Client`."""
        self._client.abort()
