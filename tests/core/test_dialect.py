"""The formats of endpoints: how streams end, and what is told within them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisord.core.dialect import Dialect, anthropic_error, ends, error_event, fails, in_shape, retold, waiting

CHAT, RESPONSES, MESSAGES = Dialect.CHAT, Dialect.RESPONSES, Dialect.MESSAGES
STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
COMPLETED = b'event: response.completed\ndata: {"type":"response.completed","response":{"status":"completed"}}\n\n'
FAILED = COMPLETED.replace(b"completed", b"failed")


@pytest.mark.parametrize(
    ("dialect", "end"),
    [
        (CHAT, b"data: [DONE]\n\n"),
        (CHAT, b"data: [DONE]"),
        (RESPONSES, COMPLETED),
        (RESPONSES, COMPLETED.replace(b"completed", b"incomplete")),
        (RESPONSES, COMPLETED.replace(b"\n", b"\r\n")),
        (RESPONSES, COMPLETED.rstrip()),
        (RESPONSES, COMPLETED + b"data: [DONE]\n\n"),
        (MESSAGES, STOP),
        (MESSAGES, STOP.rstrip()),
        (MESSAGES, STOP + b"data: [DONE]\n\n"),
    ],
)
def test_a_stream_is_whole_with_its_last_word(dialect: Dialect, end: bytes) -> None:
    assert ends(dialect, end)
    assert ends(dialect, b'data: {"more":1}\n\n' + end)
    others = set(Dialect) - {dialect} - ({CHAT} if b"[DONE]" in end else set())
    assert not any(ends(other, end) for other in others)


@pytest.mark.parametrize(
    ("dialect", "cut"),
    [
        (CHAT, b'data: {"content":"data: [DONE]"}\n\n'),
        (RESPONSES, b'data: {"delta":"event: response.completed"}\n\n'),
        (RESPONSES, COMPLETED[:-10]),
        (RESPONSES, b"event: response.completed"),
        (RESPONSES, FAILED),
        (MESSAGES, b"event: message_stop\ndata: {"),
        (MESSAGES, b'event: message_delta\ndata: {"text":"event: message_stop"}\n\n'),
        (MESSAGES, b""),
    ],
)
def test_anything_else_is_no_end(dialect: Dialect, cut: bytes) -> None:
    assert not ends(dialect, cut)


@pytest.mark.parametrize("dialect", Dialect)
def test_an_error_of_ours_is_one_that_we_would_notice(dialect: Dialect) -> None:
    event = error_event(dialect, "cut\n\noff: ü \ud800", "backend_error", "backend_died")
    assert fails(dialect, event)
    assert (event.count(b"\n\n"), event.endswith(b"\n\n")) == (1, True)
    told = json.loads(event.splitlines()[-2].removeprefix(b"data: "))
    assert "cut\n\noff: ü ?" in told["error"]["message"]
    assert ("backend_died" in told["error"]["message"]) is (dialect is MESSAGES)
    if dialect is RESPONSES:
        assert (told["type"], told["code"], told["error"]["code"]) == ("error", "backend_died", "backend_died")
    if dialect is MESSAGES:
        assert (told["type"], told["error"]["type"]) == ("error", "api_error")


def test_errors_of_servers_are_seen() -> None:
    assert fails(CHAT, b'data: {"error":{"message":"x"}}\n\n')
    assert fails(MESSAGES, b'event: error\ndata: {"code":500}\n\n')
    assert fails(RESPONSES, FAILED)
    assert not fails(CHAT, FAILED)
    assert not fails(RESPONSES, COMPLETED)
    assert not fails(CHAT, b'data: {"content":"an \\"error\\""}\n\n')
    assert not fails(MESSAGES, b'data: {"text":"event: error"}\n\n')


def test_waiting_is_told_in_one_line_and_pinged_where_there_is_a_ping() -> None:
    comment = b": waiting position=3 a is loading\n"
    assert waiting(CHAT, "waiting position=3 a\nis  loading") == comment
    assert waiting(RESPONSES, "waiting position=3 a is loading") == comment
    assert waiting(MESSAGES, "waiting position=3 a is loading") == comment + b'event: ping\ndata: {"type": "ping"}\n\n'


def test_llama_cpps_errors_get_the_shape_that_anthropics_clients_read() -> None:
    before = b'event: content_block_delta\ndata: {"type":"content_block_delta"}\n\n'
    flat = b'event: error\ndata: {"code":500,"message":"Compute error.","type":"server_error"}\n\n'
    mended = in_shape(MESSAGES, before + flat)
    assert mended.startswith(before + b"event: error\ndata: ")
    assert mended.endswith(b"\n\n")
    told = json.loads(mended.removeprefix(before).splitlines()[1].removeprefix(b"data: "))
    assert told == anthropic_error("api_error", "Compute error.")
    assert in_shape(CHAT, flat) == flat
    nested = b'event: error\ndata: {"error":{"message":"Compute error."}}\n\n'
    assert in_shape(MESSAGES, nested) == mended.removeprefix(before)


@pytest.mark.parametrize(
    "event",
    [
        b'event: error\ndata: {"type":"error","error":{"type":"api_error","message":"x"}}\n\n',
        b"event: error\ndata: no JSON\n\n",
        b"event: error\ndata: [1]\n\n",
        b"event: error",
        STOP,
    ],
)
def test_what_has_its_shape_or_none_stays_as_it_is(event: bytes) -> None:
    assert in_shape(MESSAGES, event) == event


def test_an_error_answer_is_told_again_as_an_event() -> None:
    body = b'{"error":\n{"message":"too long","code":400}}'
    assert retold(CHAT, body) == b'data: {"error": {"message":"too long","code":400}}\n\n'
    ours = json.loads(retold(RESPONSES, body).splitlines()[1].removeprefix(b"data: "))
    assert (ours["type"], ours["message"], ours["error"]["message"]) == ("error", "too long", "too long")
    theirs = retold(MESSAGES, body).splitlines()
    assert theirs[0] == b"event: error"
    assert json.loads(theirs[1].removeprefix(b"data: ")) == anthropic_error("api_error", "too long")
    own = b'{"type":"error","error":{"type":"overloaded_error","message":"later"}}'
    assert retold(MESSAGES, own) == b"event: error\ndata: " + own + b"\n\n"
    odd = json.loads(retold(MESSAGES, b'{"error":{"code":1}}').splitlines()[1].removeprefix(b"data: "))
    assert odd["error"]["message"] == '{"code": 1}'


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"detail":"x"}', b'{"error":"x"}', b"[" * 100_000, b"\xff"])
def test_what_is_no_error_answer_is_not_told_again(body: bytes) -> None:
    assert retold(MESSAGES, body) == b""
    assert retold(RESPONSES, body) == b""
    assert (retold(CHAT, body) == b"") is not body.startswith(b'{"error"')


@given(st.sampled_from(Dialect), st.binary(max_size=80), st.sampled_from([b"event: error\n", b"data:", b"event: "]))
def test_no_bytes_break_it(dialect: Dialect, junk: bytes, start: bytes) -> None:
    data = start + junk
    ends(dialect, data)
    fails(dialect, data)
    retold(dialect, junk)
    in_shape(dialect, data)
