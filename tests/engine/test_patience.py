"""A stream that waits is told why, and everything that comes after the early status is said in-band."""

import json

import pytest
from typing_extensions import override

from supervisord.core.dialect import Dialect
from supervisord.core.errors import BackendDiedError, QueueTimeoutError
from supervisord.engine.patience import KEPT_BYTES, PatientClient
from tests.engine import rig


class Wire(rig.Wire):
    """One whose buffer is full after 1000 bytes."""

    @override
    def write(self, data: bytes) -> bool:
        super().write(data)
        return len(self.body) < 1000


def test_a_stream_that_does_not_wait_is_not_touched() -> None:
    wire = Wire()
    client = PatientClient(wire)
    client.start(200, (("content-type", "text/event-stream"), ("x-backend", "a")), length=None)
    assert client.write(b"data: 1\n\n")
    client.finish()
    assert (wire.status, wire.headers) == (200, {"content-type": "text/event-stream", "x-backend": "a"})
    assert (wire.body, wire.finished) == (b"data: 1\n\n", True)


def test_comments_end_in_a_single_newline_and_the_stream_follows() -> None:
    wire = Wire()
    client = PatientClient(wire)
    client.comment("waiting position=3 small is\nloading", (("x-job-id", "7"),))
    client.comment("waiting position=1", (("x-job-id", "7"),))
    client.start(200, (("content-type", "text/event-stream"),), length=None)
    client.write(b"data: 1\n\n")
    client.finish()
    assert wire.status == 200
    assert wire.headers["content-type"] == "text/event-stream"
    assert wire.headers["x-job-id"] == "7"
    assert wire.body == b": waiting position=3 small is loading\n: waiting position=1\ndata: 1\n\n"
    assert wire.finished


def test_an_error_answer_after_the_early_status_becomes_an_event() -> None:
    wire = Wire()
    client = PatientClient(wire)
    client.comment("waiting", ())
    client.start(400, (("content-type", "application/json"),), length=40)
    assert client.write(b'{"error":\n {"message": "too ')
    assert client.write(b'long", "code": 400}}\n')
    client.finish()
    event = wire.body.removeprefix(b": waiting\n")
    assert event.startswith(b"data: ")
    assert event.endswith(b"\n\n")
    assert event.count(b"\n") == 2
    assert json.loads(event[6:]) == {"error": {"message": "too long", "code": 400}}
    assert wire.finished


def test_an_error_that_is_no_json_is_wrapped() -> None:
    wire = Wire()
    client = PatientClient(wire)
    client.comment("waiting", ())
    client.start(502, (), length=None)
    client.write(b"<html>bad gateway</html>")
    client.finish()
    event = json.loads(wire.body.split(b"data: ")[1])
    assert event["error"]["type"] == "backend_error"
    assert "bad gateway" in event["error"]["message"]


@pytest.mark.parametrize("kind", ["application/json", "text/html; charset=utf-8", ""])
def test_an_answer_that_is_no_stream_cannot_stand_in_the_one_that_was_begun(kind: str) -> None:
    wire = Wire()
    client = PatientClient(wire)
    client.comment("waiting", ())
    client.start(200, (("content-type", kind),) if kind else (), length=40)
    for _ in range(3):
        assert client.write(b'{"choices":\n[]}\n\n')
    assert wire.body == b": waiting\n", "nothing of it as it is"
    client.finish()
    event = wire.body.removeprefix(b": waiting\n")
    assert event.startswith(b"data: ")
    assert event.count(b"\n\n") == 1
    told = json.loads(event[6:])["error"]
    assert (told["type"], told["code"]) == ("backend_error", "backend_protocol_error")
    assert f"answered with {kind or 'no content type'} where" in told["message"]
    assert '{"choices"' in told["message"]
    assert wire.finished


def test_what_cannot_go_on_is_kept_within_bounds() -> None:
    wire = Wire()
    client = PatientClient(wire)
    client.comment("waiting", ())
    client.start(500, (), length=None)
    part = b'{"error": "' + b"x" * (KEPT_BYTES // 4)
    for _ in range(9):
        assert client.write(part)
    assert sum(map(len, client._late or ())) < KEPT_BYTES + len(part)
    client.finish()
    assert json.loads(wire.body.split(b"data: ")[1])["error"]["message"].startswith("The backend failed: "), "cut off"


def test_our_own_errors_are_told_in_band_with_their_code_and_origin() -> None:
    for error, origin in (
        (QueueTimeoutError("too late"), "supervisor_error"),
        (BackendDiedError("x"), "backend_error"),
    ):
        wire = Wire()
        client = PatientClient(wire)
        client.comment("waiting", ())
        client.fail(error)
        told = json.loads(wire.body.split(b"data: ")[1])["error"]
        assert (told["message"], told["code"], told["type"]) == (error.message, error.code, origin)
        assert wire.finished


async def test_back_pressure_and_abort_reach_the_client() -> None:
    wire = Wire()
    client = PatientClient(wire)
    client.start(200, (), length=None)
    assert not client.write(b"x" * 2000)
    await client.drained()
    client.abort()
    assert wire.aborted


def test_anthropics_clients_are_pinged_and_told_failures_in_their_shape() -> None:
    wire = Wire()
    client = PatientClient(wire, Dialect.MESSAGES)
    client.comment("waiting position=2", (("x-job-id", "7"),))
    client.fail(QueueTimeoutError("too late"))
    comment, event, data, _, error, told = wire.body.decode().splitlines()[:6]
    assert (comment, event, data, error) == (
        ": waiting position=2",
        "event: ping",
        'data: {"type": "ping"}',
        "event: error",
    )
    assert json.loads(told.removeprefix("data: "))["error"] == {
        "type": "api_error",
        "message": "too late (queue_timeout)",
    }
    assert wire.finished


@pytest.mark.parametrize("dialect", [Dialect.MESSAGES, Dialect.RESPONSES])
def test_a_late_error_answer_is_an_event_of_each_dialect(dialect: Dialect) -> None:
    wire = Wire()
    client = PatientClient(wire, dialect)
    client.comment("waiting", ())
    client.start(400, (("content-type", "application/json"),), length=40)
    client.write(b'{"error": {"message": "too long", "code": 400}}')
    client.finish()
    event = wire.body[wire.body.index(b"event: error") :]
    told = json.loads(event.splitlines()[1].removeprefix(b"data: "))
    assert (told["type"], told["error"]["message"]) == ("error", "too long")
