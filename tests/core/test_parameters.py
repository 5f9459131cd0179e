"""What is changed in a request before it is sent."""

import json
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisord.core.errors import TokenLimitError
from supervisord.core.parameters import Edits, check, edits, upstream, wants_usage
from supervisord.core.request import LENGTHS
from supervisord.core.routing import Parameters

CHAT, TEXT, EMBED = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
WRITTEN = ("model", "messages")


def applied(change: Edits, body: Mapping[str, object]) -> dict[str, object]:
    """What the engine makes of it."""
    kept = {name: value for name, value in body.items() if name not in change.remove}
    return {**kept, **{name: json.loads(text) for name, text in change.set.items()}}


# --- the limit -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", [None, 0, 1, 4096])
def test_what_is_within_the_limit_passes(asked: int | None) -> None:
    check(Parameters(max_tokens_limit=4096), asked)
    check(Parameters(), 10**9)


@pytest.mark.parametrize(
    ("asked", "told"), [(4097, "4097 tokens were asked for"), (-1, "An answer without an end was asked for")]
)
def test_what_is_above_the_limit_is_refused_and_told_the_limit(asked: int, told: str) -> None:
    with pytest.raises(TokenLimitError) as error:
        check(Parameters(max_tokens_limit=4096), asked)

    assert error.value.param == "max_tokens"
    assert error.value.message == (
        f"{told}, and this model's limit is 4096. Ask for at most 4096, or raise max_tokens.limit."
    )


# --- set, default, strip ---------------------------------------------------------------------------------------------


def test_nothing_configured_is_nothing_to_do() -> None:
    assert not edits(Parameters(), WRITTEN, CHAT, None)
    assert not edits(Parameters(default={"top_p": "1"}), ("top_p",), CHAT, None)
    assert not edits(Parameters(strip=frozenset({"seed"})), WRITTEN, CHAT, None)
    assert edits(Parameters(strip=frozenset({"seed"})), ("seed",), CHAT, None)


def test_set_overrides_and_default_fills_in() -> None:
    parameters = Parameters(set={"seed": "1"}, default={"seed": "2", "top_p": "0.9"})

    assert edits(parameters, WRITTEN, CHAT, None) == Edits({"seed": "1", "top_p": "0.9"})
    assert edits(parameters, ("seed", "top_p"), CHAT, None) == Edits({"seed": "1"})


def test_what_is_stripped_is_as_if_it_had_not_been_written() -> None:
    strip = frozenset({"seed", "top_p", "n"})
    change = edits(
        Parameters(set={"seed": "1"}, default={"top_p": "0.9"}, strip=strip), ("seed", "top_p", "n"), CHAT, 5
    )

    assert change == Edits({"seed": "1", "top_p": "0.9"}, frozenset({"n"}))


# --- a missing limit of the answer -----------------------------------------------------------------------------------


@pytest.mark.parametrize("endpoint", [CHAT, TEXT])
def test_a_missing_limit_is_filled_in(endpoint: str) -> None:
    assert edits(Parameters(max_tokens_default=512), WRITTEN, endpoint, None) == Edits({"max_tokens": "512"})
    assert edits(Parameters(max_tokens_limit=4096), WRITTEN, endpoint, None) == Edits({"max_tokens": "4096"})
    both = Parameters(max_tokens_default=512, max_tokens_limit=4096)
    assert edits(both, WRITTEN, endpoint, None) == Edits({"max_tokens": "512"})
    assert edits(both, ("max_tokens",), endpoint, None) == Edits({"max_tokens": "512"}), "null is no limit"


@pytest.mark.parametrize("name", LENGTHS)
def test_what_the_client_or_the_configuration_says_is_not_filled_in(name: str) -> None:
    assert not edits(Parameters(max_tokens_default=512), (name,), CHAT, 7)
    assert edits(Parameters(max_tokens_default=512, set={name: "9"}), WRITTEN, CHAT, None) == Edits({name: "9"})
    assert edits(Parameters(max_tokens_default=512, strip=frozenset({name})), (name,), CHAT, 7) == Edits(
        {"max_tokens": "512"}, frozenset({name}) - {"max_tokens"}
    )


@pytest.mark.parametrize("name", LENGTHS)
def test_what_is_set_is_not_overruled_by_another_name(name: str) -> None:
    """llama.cpp goes by n_predict where that is written, and by the newer name before the older."""
    set_ = Parameters(set={name: "9"})

    assert edits(set_, (*WRITTEN, *LENGTHS), CHAT, 99) == Edits({name: "9"}, frozenset(LENGTHS) - {name})
    assert edits(set_, WRITTEN, CHAT, None) == Edits({name: "9"})


def test_embeddings_have_no_answer_to_limit() -> None:
    assert not edits(Parameters(max_tokens_default=512, max_tokens_limit=4096), ("input",), EMBED, None)


# --- for one backend -------------------------------------------------------------------------------------------------


def test_a_backend_is_asked_for_its_model_by_its_own_name() -> None:
    assert upstream('gpt-"4"') == Edits({"model": '"gpt-\\"4\\""'})
    assert not upstream()


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        (None, {"include_usage": True}),
        ("null", {"include_usage": True}),
        ("{}", {"include_usage": True}),
        ('{"include_usage":false,"x":[1]}', {"x": [1], "include_usage": True}),
        ('{"continuous_usage_stats":true}', {"include_usage": True}),
    ],
)
def test_usage_is_asked_for_and_the_rest_is_kept(written: str | None, sent: Mapping[str, object]) -> None:
    change = upstream(include_usage=True, stream_options=written)

    assert json.loads(change.set["stream_options"]) == sent
    assert not change.remove
    assert not wants_usage(written)


@pytest.mark.parametrize("written", ['{"include_usage": true}', '{"include_usage":true,"continuous_usage_stats":true}'])
def test_who_asks_for_usage_is_left_alone(written: str) -> None:
    assert wants_usage(written)
    assert not upstream(include_usage=True, stream_options=written)


@pytest.mark.parametrize("written", ["[]", '"x"', "5", "true", "{", "", "[" * 100_000])
def test_what_makes_no_sense_is_left_to_the_backend_to_refuse(written: str) -> None:
    assert not wants_usage(written)
    assert not upstream(include_usage=True, stream_options=written)


def test_half_a_surrogate_pair_can_still_be_sent() -> None:
    change = upstream(include_usage=True, stream_options='{"x":"\\ud800"}')

    assert change.set["stream_options"].encode()


# --- one pass over the body ------------------------------------------------------------------------------------------

NAMES = st.sampled_from("abcd")
EDITS = st.builds(
    lambda put, out: Edits(put, out - put.keys()),
    st.dictionaries(NAMES, st.integers(0, 9).map(str)),
    st.frozensets(NAMES),
)


@given(EDITS, EDITS, st.dictionaries(NAMES, st.integers(10, 19)))
def test_two_changes_in_one_pass_are_as_good_as_in_two(one: Edits, two: Edits, body: dict[str, int]) -> None:
    both = one.then(two)

    assert applied(both, body) == applied(two, applied(one, body))
    assert not both.set.keys() & both.remove


@given(
    st.dictionaries(NAMES, st.just("1")),
    st.dictionaries(NAMES, st.just("2")),
    st.frozensets(NAMES),
    st.dictionaries(NAMES, st.just(3)),
)
def test_every_member_ends_up_as_configured(
    put: dict[str, str], fill: dict[str, str], out: frozenset[str], body: dict[str, int]
) -> None:
    told = applied(edits(Parameters(put, fill, out), body, CHAT, None), body)

    for name in "abcd":
        written = None if name in out else body.get(name)
        expected = 1 if name in put else 2 if written is None and name in fill else written
        assert told.get(name) == expected


# --- the other endpoints ---------------------------------------------------------------------------------------------

RESPONSES, MESSAGES, COUNT = "/v1/responses", "/v1/messages", "/v1/messages/count_tokens"


def test_a_missing_limit_is_filled_in_under_the_name_it_has_there() -> None:
    limit = Parameters(max_tokens_limit=4096)

    assert edits(limit, ("model", "input"), RESPONSES, None) == Edits({"max_output_tokens": "4096"})
    assert edits(limit, WRITTEN, MESSAGES, None) == Edits({"max_tokens": "4096"})
    assert not edits(limit, WRITTEN, COUNT, None)
    assert not edits(limit, ("max_output_tokens",), RESPONSES, 7)
    assert edits(limit, ("max_output_tokens",), CHAT, None) == Edits({"max_tokens": "4096"}), "a word for nothing there"


def test_a_length_that_is_set_goes_by_a_name_that_is_read_there() -> None:
    """Seen of llama.cpp: n_predict has no meaning at /v1/messages, and goes before the others at /v1/responses."""
    set_ = Parameters(set={"n_predict": "9", "top_k": "1"})

    assert edits(set_, (*WRITTEN, "max_tokens"), MESSAGES, 99) == Edits({"max_tokens": "9", "top_k": "1"})
    assert edits(set_, ("max_output_tokens",), RESPONSES, 99) == Edits(
        {"n_predict": "9", "top_k": "1"}, frozenset({"max_output_tokens"})
    )
    assert edits(Parameters(default={"max_output_tokens": "9"}), WRITTEN, CHAT, None) == Edits({"max_tokens": "9"})
