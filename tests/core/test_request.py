"""What a request may say."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisord.core.errors import InvalidRequestError
from supervisord.core.job import Priority, Submission
from supervisord.core.request import CHOICES, ENDPOINTS, LENGTHS, LONGEST_WAIT_S, JsonKind, Value, submission

CHAT, TEXT, EMBED = (ENDPOINTS[f"/v1/{name}"] for name in ("chat/completions", "completions", "embeddings"))
BODY = b'{"model":"m"}'
LEAST: Mapping[str, Value] = {"model": "m", "messages": JsonKind.ARRAY}


def check(headers: Mapping[str, str] | None = None, **members: Value) -> Submission:
    return submission(CHAT, BODY, {**LEAST, **members}, headers or {})


def refused(headers: Mapping[str, str] | None = None, **members: Value) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as error:
        check(headers, **members)
    assert error.value.code == "invalid_request"
    return error.value


def test_the_least_there_can_be() -> None:
    assert check() == Submission("/v1/chat/completions", "m", BODY)


def test_all_there_can_be() -> None:
    headers = {
        "x-priority": " High ",
        "x-client": "batch-7",
        "x-stainless-read-timeout": "600",
        "x-deadline": "30",
    }

    assert check(headers, stream=True, max_tokens=5, n=3, temperature=0.5) == Submission(
        "/v1/chat/completions",
        "m",
        BODY,
        stream=True,
        priority=Priority.HIGH,
        client="batch-7",
        max_tokens=5,
        choices=3,
        temperature=0.5,
        patience_s=600.0,
        deadline_s=30.0,
    )


@pytest.mark.parametrize(
    ("path", "member", "value"),
    [
        ("/v1/chat/completions", "messages", JsonKind.ARRAY),
        ("/v1/completions", "prompt", JsonKind.ARRAY),
        ("/v1/completions", "prompt", JsonKind.STRING),
        ("/v1/completions", "prompt", "short"),
        ("/v1/embeddings", "input", "short"),
        ("/v1/embeddings", "input", JsonKind.ARRAY),
        ("/v1/responses", "input", "short"),
        ("/v1/responses", "input", JsonKind.ARRAY),
        ("/v1/messages", "messages", JsonKind.ARRAY),
        ("/v1/messages/count_tokens", "messages", JsonKind.ARRAY),
        ("/v1/rerank", "documents", JsonKind.ARRAY),
        ("/v1/audio/speech", "input", "short"),
    ],
)
def test_each_endpoint_takes_its_payload(path: str, member: str, value: Value) -> None:
    assert submission(ENDPOINTS[path], BODY, {"model": "m", member: value}, {}).endpoint == path


@pytest.mark.parametrize("value", [None, "text", JsonKind.STRING, JsonKind.OBJECT, 5, 1.5, True])
def test_messages_must_be_an_array(value: Value) -> None:
    error = refused(messages=value)

    assert (error.message, error.param) == ('"messages" must be an array.', "messages")


@pytest.mark.parametrize("value", [None, JsonKind.OBJECT, 5])
def test_a_prompt_must_be_text_or_a_list(value: Value) -> None:
    with pytest.raises(InvalidRequestError, match='"prompt" must be a string or an array'):
        submission(TEXT, BODY, {"model": "m", "prompt": value}, {})


@pytest.mark.parametrize("value", [None, "", JsonKind.STRING, JsonKind.OBJECT, 5, False])
def test_a_model_must_be_named(value: Value) -> None:
    assert refused(model=value).param == "model"


def test_a_name_has_a_limit() -> None:
    assert check(model="m" * 256).model == "m" * 256
    assert "longer than 256" in refused(model="m" * 257).message


@pytest.mark.parametrize("value", ["true", 1, 0.0, JsonKind.OBJECT])
def test_stream_must_be_true_or_false(value: Value) -> None:
    assert refused(stream=value).message == '"stream" must be true or false.'


def test_embeddings_do_not_stream() -> None:
    members: Mapping[str, Value] = {"model": "m", "input": "x"}
    with pytest.raises(InvalidRequestError, match="/v1/embeddings does not stream"):
        submission(EMBED, BODY, {**members, "stream": True}, {})
    assert not submission(EMBED, BODY, {**members, "stream": False}, {}).stream


@pytest.mark.parametrize("name", [*LENGTHS, *CHOICES])
@pytest.mark.parametrize("value", ["5", 5.0, True, JsonKind.ARRAY, 2**63, -(2**63), 10**400])
def test_a_limit_must_be_a_whole_number_that_can_be_stored(name: str, value: Value) -> None:
    assert refused(**{name: value}).param == name


def test_the_most_that_any_name_of_the_limit_asks_for_counts() -> None:
    """Which of them a server goes by is its own affair: llama.cpp by n_predict, before OpenAI's two."""
    assert check(max_tokens=5, max_completion_tokens=7).max_tokens == 7
    assert check(max_tokens=5, max_completion_tokens=0).max_tokens == 5
    assert check(max_tokens=5, n_predict=60).max_tokens == 60
    assert check(max_tokens=60, n_predict=5).max_tokens == 60
    assert check(max_tokens=None, n_predict=60).max_tokens == 60
    assert check(n_predict=0).max_tokens == 0
    assert check(n_predict=None, max_tokens=None).max_tokens is None


@pytest.mark.parametrize("name", LENGTHS)
def test_an_answer_without_an_end_is_longer_than_any(name: str) -> None:
    assert check(**({"max_tokens": 5, "max_completion_tokens": 7, "n_predict": 9} | {name: -1})).max_tokens == -1
    assert check(**{name: -2}).max_tokens == -2


@pytest.mark.parametrize("name", CHOICES)
def test_how_many_answers_are_asked_for(name: str) -> None:
    assert check(**{name: 8}).choices == 8
    assert check(**{name: None}).choices == 1
    assert check(**({"n": 2, "best_of": 2, "n_cmpl": 2} | {name: 5})).choices == 5, "the most of them"


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize(
    ("value", "told"), [(0, "above 0"), (-1, "above 0"), ("2", "below 2"), (1.5, "below"), (True, "")]
)
def test_nonsense_for_answers_is_refused(name: str, value: Value, told: str) -> None:
    error = refused(**{name: value})

    assert error.param == name
    assert f'"{name}" must be a whole number' in error.message
    assert told in error.message


@pytest.mark.parametrize("value", ["0.5", True, JsonKind.STRING, 10**400, float("inf"), float("nan")])
def test_a_temperature_must_be_a_number(value: Value) -> None:
    assert refused(temperature=value).message == '"temperature" must be a number.'


def test_a_whole_temperature_is_a_number() -> None:
    assert check(temperature=1).temperature == 1.0


@pytest.mark.parametrize("word", ["", "urgent", "0", "HIGHER"])
def test_a_priority_must_be_known(word: str) -> None:
    assert refused({"x-priority": word}).param == "X-Priority"


@pytest.mark.parametrize("value", ["", "soon", "0", "-5", "nan", "inf", "1e400"])
def test_a_deadline_must_make_sense(value: str) -> None:
    assert refused({"x-deadline": value}).param == "x-deadline"


@pytest.mark.parametrize("value", ["", "soon", "0", "-5", "nan", "inf"])
def test_what_an_sdk_sends_of_itself_may_be_nonsense(value: str) -> None:
    assert check({"x-stainless-read-timeout": value}).patience_s is None


def test_no_wait_is_longer_than_a_week() -> None:
    told = check({"x-deadline": "1e9", "x-stainless-read-timeout": "1e9"})

    assert told.deadline_s == told.patience_s == LONGEST_WAIT_S


@pytest.mark.parametrize(
    ("headers", "client"),
    [
        ({}, ""),
        ({"user-agent": "OpenAI/Python 1.99"}, "OpenAI/Python"),
        ({"user-agent": "curl/8.0", "x-client": "night batch"}, "night batch"),
        ({"x-client": "a\r\nb\x1b[31m"}, "ab[31m"),
        ({"x-client": "x" * 100}, "x" * 64),
    ],
)
def test_who_asks(headers: Mapping[str, str], client: str) -> None:
    assert check(headers).client == client


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(JsonKind)
MEMBERS = st.dictionaries(st.sampled_from(["model", "messages", "stream", "temperature", *LENGTHS, *CHOICES]), VALUES)
HEADERS = st.dictionaries(
    st.sampled_from(["x-priority", "x-deadline", "x-stainless-read-timeout", "x-client", "user-agent"]),
    st.text(max_size=12),
)


@given(MEMBERS, HEADERS)
def test_whatever_it_says_it_is_accepted_or_refused(members: Mapping[str, Value], headers: Mapping[str, str]) -> None:
    try:
        told = submission(CHAT, BODY, {**LEAST, **members}, headers)
    except InvalidRequestError as error:
        assert error.param  # noqa: PT017 - which of the two it is, is what this is about
        return
    assert told.model
    assert told.body is BODY
    assert told.deadline_s is None or 0 < told.deadline_s <= LONGEST_WAIT_S


def test_the_longest_answer_goes_by_the_names_of_its_endpoint() -> None:
    lengths: Mapping[str, Value] = {"n_predict": 9, "max_tokens": 3, "max_output_tokens": 5, "model": "m"}
    responses, messages = ENDPOINTS["/v1/responses"], ENDPOINTS["/v1/messages"]

    assert submission(responses, BODY, {**lengths, "input": "x"}, {}).max_tokens == 9
    assert submission(messages, BODY, {**lengths, "messages": JsonKind.ARRAY}, {}).max_tokens == 3
    assert submission(EMBED, BODY, {**lengths, "input": "x"}, {}).max_tokens is None
    assert submission(CHAT, BODY, {"max_output_tokens": 5, **LEAST}, {}).max_tokens is None
