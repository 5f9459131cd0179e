"""A streaming client that waits: it is told what for, so that neither it nor a proxy between gives up."""

from collections.abc import Sequence

from supervisord.core.dialect import Dialect, error_event, retold, waiting
from supervisord.core.errors import AttemptFailedError, SupervisorError
from supervisord.core.job import FailureReason
from supervisord.ports import Client

FIRST_AFTER_S = 5.0  # with the first word the status 200 is sent: what fails later can only be said in-band
EVERY_S = 5.0
KEPT_BYTES = 16 * 1024 * 1024  # of an answer that cannot go on as it is; what is told of the rest is the same

EVENTS = "text/event-stream"
_HEAD = (("content-type", EVENTS), ("cache-control", "no-cache"), ("x-accel-buffering", "no"))


class PatientClient:
    """`ports.Client` over another one, that can begin a stream of events before there is anything to relay."""

    def __init__(self, client: Client, dialect: Dialect = Dialect.CHAT) -> None:
        self._client = client
        self._dialect = dialect
        self.begun = False
        self._late: list[bytes] | None = None  # an answer that comes too late for a head of its own
        self._late_size = 0
        self._late_kind = ""  # what it is instead of a stream; empty: an error

    def comment(self, text: str, headers: tuple[tuple[str, str], ...]) -> None:
        """Tell why nothing comes yet."""
        if not self.begun:
            self._client.start(200, (*_HEAD, *headers), length=None)
            self.begun = True
        self._client.write(waiting(self._dialect, text))

    def fail(self, error: SupervisorError) -> None:
        """Tell a failure in-band: the status has been sent."""
        kind = "backend_error" if isinstance(error, AttemptFailedError) else "supervisor_error"
        self._client.write(error_event(self._dialect, error.message, kind, error.code))
        self._client.finish()

    def start(self, status: int, headers: Sequence[tuple[str, str]], *, length: int | None) -> None:
        """See `ports.Client`."""
        kind = next((value for name, value in headers if name == "content-type"), "")
        if not self.begun:
            self._client.start(status, headers, length=length)
        elif status >= 400:
            self._late = []
        elif not kind.startswith(EVENTS):  # amid the events that were announced nobody could read it
            self._late, self._late_kind = [], kind or "no content type"

    def write(self, data: bytes) -> bool:
        """See `ports.Client`."""
        if self._late is None:
            return self._client.write(data)
        if self._late_size < KEPT_BYTES:
            self._late.append(data)
            self._late_size += len(data)
        return True

    async def drained(self) -> None:
        """See `ports.Client`."""
        await self._client.drained()

    def finish(self) -> None:
        """See `ports.Client`."""
        if self._late is not None:
            self._client.write(self._as_event(b"".join(self._late)))
        self._client.finish()

    def _as_event(self, body: bytes) -> bytes:
        if self._late_size < KEPT_BYTES and (event := retold(self._dialect, body)):
            return event
        text = body[:300].decode("utf-8", "replace")
        if not self._late_kind:
            return error_event(self._dialect, f"The backend failed: {text}", "backend_error", "backend_error")
        odd = f"The backend answered with {self._late_kind} where a stream of events was asked for: {text}"
        return error_event(self._dialect, odd, "backend_error", FailureReason.BACKEND_PROTOCOL.value)

    def abort(self) -> None:
        """See `ports.Client`."""
        self._client.abort()
