"""What an attempt makes of a backend's errors and of its headers."""

from email.utils import formatdate

import pytest

from supervisord.core.job import FailureReason, JobStatus
from supervisord.core.ladder import Footprint
from supervisord.engine.generation import Generation
from supervisord.engine.outcome import LONGEST_RETRY_AFTER_S, Answer, AttemptOutcome
from supervisord.engine.relay import Attempt, RelayPolicy
from supervisord.ports import Receiver, UpstreamRequest
from supervisord.runtimes.base import Address
from tests.engine.rig import CHAT, Wire, remote
from tests.fakes.clock import fake_time
from tests.fakes.garbage import no_garbage

NOW = 1_700_000_000.0
HOST = Address("127.0.0.1", 1)
REQUEST = UpstreamRequest(address=HOST, method="POST", path=CHAT, headers=(), body=b"{}", idle_timeout_s=1.0)

Headers = tuple[tuple[bytes, bytes], ...]


class Told:
    """`ports.Upstream` and its exchange: one answer, at once."""

    def __init__(self, status: int, headers: Headers = (), body: bytes = b"{}") -> None:
        self._answer = status, headers, body

    async def start(self, request: UpstreamRequest, receiver: Receiver) -> "Told":
        """See `ports.Upstream`."""
        del request
        status, headers, body = self._answer
        receiver.on_head(status, headers)
        receiver.on_data(body)
        receiver.on_end()
        return self

    def forget(self, address: Address) -> None: ...

    async def close(self) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def abort(self) -> None: ...


class Held(Told):
    """Knows whom it told, as an exchange does."""

    receiver: Receiver | None = None

    async def start(self, request: UpstreamRequest, receiver: Receiver) -> "Held":
        """See `ports.Upstream`."""
        self.receiver = receiver
        await super().start(request, receiver)
        return self


async def test_an_attempt_that_is_over_is_freed_at_once() -> None:
    """With the bodies it and its exchange hold."""
    async with no_garbage(Attempt, Held):
        outcome, _ = await attempted(Held(200))
        assert outcome.status is JobStatus.DONE


async def attempted(told: Told, *, elsewhere: bool = False) -> tuple[AttemptOutcome, Wire]:
    wire = Wire()
    with fake_time(epoch=NOW) as clock:
        generation = Generation(1, 0, Footprint(), HOST, remote("a"))
        attempt = Attempt(wire, generation, clock, RelayPolicy(), stream=False, elsewhere=elsewhere)
        return await attempt.run(told, REQUEST), wire


async def test_the_errors_of_our_account_with_a_service_are_not_the_clients() -> None:
    ours, wire = await attempted(Told(401), elsewhere=True)
    assert (ours.status, ours.reason, ours.retriable) == (JobStatus.FAILED, FailureReason.BACKEND_ERROR, True)
    assert wire.status is None, "another may do better"
    theirs, _ = await attempted(Told(401))
    assert (theirs.reason, theirs.retriable) == (FailureReason.REQUEST_REJECTED, False)


async def test_cookies_of_a_backend_reach_no_client() -> None:
    headers = ((b"content-type", b"application/json"), (b"set-cookie", b"account=7; Path=/"), (b"x-trace", b"9"))
    done, wire = await attempted(Told(200, headers))
    assert done.status is JobStatus.DONE
    assert wire.headers == {"content-type": "application/json", "x-trace": "9"}
    failed, _ = await attempted(Told(500, headers))
    assert failed.answer is not None
    assert dict(failed.answer.headers) == wire.headers


@pytest.mark.parametrize(
    ("text", "wait"),
    [
        ("7", 7.0),
        (" 7 ", 7.0),
        ("59", 59.0),
        ("86400", LONGEST_RETRY_AFTER_S),
        ("9" * 500, LONGEST_RETRY_AFTER_S),
        (formatdate(NOW + 20, usegmt=True), 20.0),
        (formatdate(NOW + 9000, usegmt=True), LONGEST_RETRY_AFTER_S),
        (formatdate(NOW - 20, usegmt=True), None),
        ("0", None),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("Thu, 99 Foo 99999999999999999999 00:00:00 GMT", None),
    ],
)
def test_how_long_a_backend_asks_to_be_left_alone(text: str, wait: float | None) -> None:
    assert Answer(429, (("retry-after", text),), b"").retry_after_s(NOW) == wait


@pytest.mark.parametrize(("status", "wait"), [(429, 3.0), (503, 3.0), (529, 3.0), (500, None), (400, None)])
async def test_it_is_asked_of_those_that_are_busy(status: int, wait: float | None) -> None:
    assert (await attempted(Told(status, ((b"retry-after", b"3"),))))[0].retry_after_s == wait
    assert (await attempted(Told(status)))[0].retry_after_s is None
