"""What is changed in a body, and that all the rest stays as it came, byte for byte."""

import json
from collections.abc import AsyncIterator

import pytest

from supervisord.core.errors import TokenLimitError
from supervisord.core.job import Form, Submission
from supervisord.core.parameters import Edits
from supervisord.core.routing import Parameters
from supervisord.engine.backend import Backend
from supervisord.engine.body import body_for, edited, shaped
from supervisord.runtimes.base import BackendSpec, RuntimeKind
from tests.engine.rig import CHAT, llama, remote, rig

# What a decoder would not give back: spaces, number forms, escapes, digits beyond a double.
ODD = (
    b'{ "model":"m",\t"x": 1.0e0, "big": 12345678901234567890123, '
    b'"t": "\\u00e9\\/\\ud83d\\ude00",\n "list": [ 1,2 , {"a" : null} ] }'
)


@pytest.fixture
async def backends() -> AsyncIterator[dict[str, Backend]]:
    vllm = BackendSpec("v", RuntimeKind.VLLM, "/models/v", ("served", "alias"), autostart=False)
    specs = (
        llama("plain"),
        llama("renamed", upstream_model="upstream/name"),
        vllm,
        remote("remote"),
        remote("renamed-remote", upstream_model="gpt"),
    )
    async with rig(*specs, started=False) as it:
        yield it.supervisor.backends


def chat(body: bytes, *, stream: bool = False, model: str = "m", max_tokens: int | None = None) -> Submission:
    return Submission(CHAT, model, body, stream=stream, max_tokens=max_tokens)


def test_a_form_stays_as_it_came_but_for_the_name_of_its_model(backends: dict[str, Backend]) -> None:
    body = b"--x\r\n...\r\n\r\nm\r\n--x--"
    at = body.index(b"m\r")
    asked = Submission("/v1/audio/transcriptions", "m", body, form=Form("multipart/form-data", at, at + 1))
    named = {name: body_for(backend, asked)[0] for name, backend in backends.items()}
    assert named["plain"] is body
    assert named["renamed"] == body.replace(b"m\r", b"upstream/name\r")
    assert named["v"] == body.replace(b"m\r", b"served\r")
    assert shaped(Parameters(set={"temperature": "0"}, max_tokens_limit=4), asked) is asked


# --- editing ---------------------------------------------------------------------------------------------------------


def test_values_that_are_not_touched_keep_their_bytes_and_their_order() -> None:
    done = edited(ODD, Edits({"model": '"other"'}, frozenset({"x"})))
    assert done == (
        b'{"model":"other","big":12345678901234567890123,"t":"\\u00e9\\/\\ud83d\\ude00","list":[ 1,2 , {"a" : null} ]}'
    )


def test_new_members_come_last_and_what_is_set_and_removed_is_set() -> None:
    done = edited(b'{"a":1,"b":2}', Edits({"a": "[ 3 ]", "c": '"\\u00e9"'}, frozenset({"b"})))
    assert done == b'{"a":[ 3 ],"c":"\\u00e9"}'


def test_a_member_that_stands_there_twice_counts_as_the_servers_count_it() -> None:
    assert edited(b'{"a":1,"a":2}', Edits({"b": "3"})) == b'{"a":2,"b":3}'


# --- a model's parameters --------------------------------------------------------------------------------------------


def test_a_request_that_needs_no_change_is_the_very_same() -> None:
    submission = chat(ODD)
    assert shaped(Parameters(strip=frozenset({"absent"})), submission) is submission


def test_parameters_are_set_filled_in_and_stripped() -> None:
    wanted = Parameters(
        set={"temperature": "0"}, default={"top_p": "0.9", "x": "7"}, strip=frozenset({"list"}), max_tokens_default=64
    )
    done = shaped(wanted, chat(ODD))
    members = json.loads(done.body)
    assert (members["temperature"], members["top_p"], members["x"], members["max_tokens"]) == (0, 0.9, 1.0, 64)
    assert "list" not in members
    assert b"1.0e0" in done.body
    assert done.max_tokens == 64, "the sizing goes by what is sent"


def test_the_clients_own_limit_stays_and_one_beyond_the_models_is_refused() -> None:
    wanted = Parameters(max_tokens_default=64, max_tokens_limit=100)
    asked = chat(b'{"max_completion_tokens":99}', max_tokens=99)
    assert shaped(wanted, asked) == asked
    with pytest.raises(TokenLimitError, match="101 tokens were asked for, and this model's limit is 100"):
        shaped(wanted, chat(b'{"max_tokens":101}', max_tokens=101))


def test_a_limit_that_stands_there_twice_is_sent_once_as_it_was_checked() -> None:
    done = shaped(Parameters(max_tokens_limit=100), chat(b'{"max_tokens":9999,"max_tokens":5}', max_tokens=5))
    assert done.body == b'{"max_tokens":5}'


def test_a_limit_that_the_configuration_sets_is_the_one_that_counts() -> None:
    done = shaped(Parameters(set={"max_tokens": "32"}), chat(b'{"max_tokens":999}', max_tokens=999))
    assert (json.loads(done.body)["max_tokens"], done.max_tokens) == (32, 32)
    unlimited = shaped(Parameters(set={"max_tokens": "null"}), chat(b'{"max_tokens":999}', max_tokens=999))
    assert json.loads(unlimited.body)["max_tokens"] is None


# --- what one backend needs ------------------------------------------------------------------------------------------


def test_mostly_the_body_goes_out_as_it_came(backends: dict[str, Backend]) -> None:
    for stream in (False, True):
        body, hides = body_for(backends["plain"], chat(ODD, stream=stream))
        assert body is not None
        assert (body, hides) == (ODD, False)


def test_the_model_is_called_as_its_server_calls_it(backends: dict[str, Backend]) -> None:
    body, hides = body_for(backends["renamed"], chat(ODD))
    assert (json.loads(body)["model"], hides) == ("upstream/name", False)
    assert b"1.0e0" in body
    same = chat(ODD, model="upstream/name")
    assert body_for(backends["renamed"], same)[0] is same.body


def test_vllm_knows_its_own_names_and_is_told_the_main_one_for_any_other(backends: dict[str, Backend]) -> None:
    for known in ("served", "alias"):
        assert body_for(backends["v"], chat(b"{}", model=known))[0] == b"{}"
    assert json.loads(body_for(backends["v"], chat(b'{"model":"route"}', model="route"))[0]) == {"model": "served"}


@pytest.mark.parametrize(
    ("options", "sent", "hides"),
    [
        (None, {"include_usage": True}, True),
        ("null", {"include_usage": True}, True),
        ('{"include_usage":false,"x":1}', {"include_usage": True, "x": 1}, True),
        ('{"include_usage":true}', {"include_usage": True}, False),
    ],
)
def test_usage_is_asked_for_in_streams_and_hidden_from_who_did_not_ask(
    backends: dict[str, Backend], options: str | None, sent: object, *, hides: bool
) -> None:
    told = b"{}" if options is None else b'{"stream_options":' + options.encode() + b"}"
    body, hidden = body_for(backends["remote"], chat(told, stream=True))
    assert (json.loads(body)["stream_options"], hidden) == (sent, hides)


def test_usage_is_asked_for_only_where_it_has_to_be(backends: dict[str, Backend]) -> None:
    assert body_for(backends["remote"], chat(ODD)) == (ODD, False), "plain answers always tell it"
    assert body_for(backends["plain"], chat(ODD, stream=True)) == (ODD, False), "llama-server tells it unasked"
    asked = b'{"stream_options":{"include_usage":true}}'
    assert body_for(backends["remote"], chat(asked, stream=True)) == (asked, False)


def test_options_that_are_no_object_are_the_servers_to_refuse(backends: dict[str, Backend]) -> None:
    odd = b'{"stream_options":[1]}'
    assert body_for(backends["remote"], chat(odd, stream=True))[0] == odd


def test_both_changes_are_made_in_one(backends: dict[str, Backend]) -> None:
    body, hides = body_for(backends["renamed-remote"], chat(b'{"model":"m","z":1}', stream=True))
    assert body == b'{"model":"gpt","z":1,"stream_options":{"include_usage":true}}'
    assert hides
