"""What takes the place of a client where nobody waits: it keeps the whole answer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from supervisord.core.job import FailureReason
from supervisord.core.record import JobRecord, JobResult
from supervisord.ports import Client

LARGEST_ANSWER = 64 * 1024 * 1024  # bytes; 2048 embeddings of 4096 floats are some 100 MB as text, 45 MB as base64


@dataclass(frozen=True, slots=True)
class Kept:
    """A backend's answer to one request, whole."""

    status: int
    content_type: str
    body: bytes


class Recorder(Client, Protocol):
    """A `ports.Client` of a durable job. A new one is made for each run of the job through the queue."""

    @property
    def may_run_again(self) -> bool:
        """Whether an answer that broke off can be made good by another: nobody has seen it, or it can be taken back."""
        ...

    def answer(self) -> Kept | None:
        """What is stored as the job's answer; None: there is none."""
        ...

    async def ready(self) -> None:
        """Returns once it can be told that the job is over."""
        ...

    def ended(self, result: JobResult) -> JobResult:
        """The job is over: what is returned is handed to the store next, behind whatever is handed over now."""
        ...


GiveUp = Callable[[FailureReason, str], None]  # ends the attempt whose answer is none, or cannot be kept; why, in words
MakeRecorder = Callable[[JobRecord, int, GiveUp], Recorder]  # a job with its body, and the number of its tries before


class KeptAnswer:
    """Keeps an answer of up to `limit` bytes. `give_up` is called once, as soon as it turns out longer."""

    def __init__(self, give_up: GiveUp, limit: int = LARGEST_ANSWER) -> None:
        self._give_up = give_up
        self._limit = limit
        self._status = 0
        self._content_type = ""
        self._parts: list[bytes] = []
        self._size = 0
        self.overflowed = False
        self.finished = False

    @property
    def may_run_again(self) -> bool:
        """See `Recorder`: nobody has seen anything of it."""
        return True

    def start(self, status: int, headers: Sequence[tuple[str, str]], *, length: int | None) -> None:
        """See `ports.Client`."""
        del length
        self._status = status
        self._content_type = next((value for name, value in headers if name == "content-type"), "")

    def write(self, data: bytes) -> bool:
        """See `ports.Client`."""
        if self.overflowed:
            return True
        self._parts.append(data)
        self._size += len(data)
        if self._size > self._limit:
            self.overflowed = True
            self._parts.clear()
            self._give_up(FailureReason.ANSWER_TOO_LARGE, f"the answer is longer than {self._limit} bytes")
        return True

    async def drained(self) -> None:
        """See `ports.Client`: it is never full."""

    def finish(self) -> None:
        """See `ports.Client`."""
        self.finished = True

    def abort(self) -> None:
        """See `ports.Client`."""

    def answer(self) -> Kept | None:
        """See `Recorder`: what came of it, whole or not; nothing of one that was too long."""
        if not self._status or self.overflowed:
            return None
        return Kept(self._status, self._content_type, b"".join(self._parts))

    async def ready(self) -> None:
        """See `Recorder`: at any time."""

    def ended(self, result: JobResult) -> JobResult:
        """See `Recorder`."""
        return result


def kept_answer(job: JobRecord, tried: int, give_up: GiveUp) -> Recorder:
    """The `MakeRecorder` of jobs that nobody watches."""
    del job, tried
    return KeptAnswer(give_up)
