"""What the lines of a batch may say."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisord.core.batch_input import LONGEST_CUSTOM_ID, MOST_ERRORS, Input, Line
from supervisord.core.errors import ModelNotFoundError
from supervisord.core.job import Priority, Submission
from supervisord.core.record import LineError
from supervisord.core.request import JsonKind

CHAT = "/v1/chat/completions"
BODY = b'{"model":"m","messages":[]}'
GOOD = Line(1, "a", "POST", CHAT, BODY, {"model": "m", "messages": JsonKind.ARRAY})


def known(wanted: Submission) -> None:
    if wanted.model != "m":
        raise ModelNotFoundError(f'No backend serves the model "{wanted.model}".', param="model")


def input_of(*lines: Line, most: int = 10) -> tuple[Input, list[Submission | None]]:
    made = Input(CHAT, "me", most, known)
    checked = [made.check(line) for line in lines]
    return made, [None if each is None else each.submission for each in checked]


def test_a_good_line_is_a_submission_of_the_batches_client() -> None:
    made, [wanted] = input_of(replace(GOOD, members={**GOOD.members, "max_tokens": 7}))

    assert wanted is not None
    assert (wanted.endpoint, wanted.model, wanted.body, wanted.max_tokens) == (CHAT, "m", BODY, 7)
    assert (wanted.priority, wanted.client) == (Priority.BATCH, "me")
    assert made.verdict() == ()
    assert made.total == 1


@pytest.mark.parametrize(
    ("line", "code", "param"),
    [
        (replace(GOOD, custom_id=None), "invalid_custom_id", "custom_id"),
        (replace(GOOD, custom_id=""), "invalid_custom_id", "custom_id"),
        (replace(GOOD, custom_id="x" * (LONGEST_CUSTOM_ID + 1)), "invalid_custom_id", "custom_id"),
        (replace(GOOD, method=None), "invalid_method", "method"),
        (replace(GOOD, method="GET"), "invalid_method", "method"),
        (replace(GOOD, url="/v1/embeddings"), "mismatched_url", "url"),
        (replace(GOOD, body=None), "invalid_body", "body"),
        (replace(GOOD, members={"model": "m"}), "invalid_request", "body.messages"),
        (replace(GOOD, members={"messages": JsonKind.ARRAY}), "invalid_request", "body.model"),
        (replace(GOOD, members={**GOOD.members, "stream": True}), "invalid_request", "body.stream"),
        (replace(GOOD, members={**GOOD.members, "background": True}), "invalid_request", "body.background"),
        (replace(GOOD, members={**GOOD.members, "validate_output": True}), "invalid_request", "body.validate_output"),
        (replace(GOOD, members={**GOOD.members, "model": "other"}), "model_not_found", "body.model"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(line: Line, code: str, param: str) -> None:
    made, [wanted] = input_of(replace(line, number=7))

    assert wanted is None
    [error] = made.verdict()
    assert (error.code, error.param, error.line) == (code, param, 7)
    assert error.message


def test_an_error_of_a_body_as_a_whole_is_of_the_body() -> None:
    def refuse(wanted: Submission) -> None:
        raise ModelNotFoundError("nothing serves anything")

    made = Input(CHAT, "me", 10, refuse)
    made.check(GOOD)

    assert made.verdict() == (LineError("model_not_found", "nothing serves anything", 1, "body"),)


def test_an_id_is_used_once() -> None:
    made, wanted = input_of(GOOD, replace(GOOD, number=5), replace(GOOD, number=6, custom_id="b"))

    assert [each is not None for each in wanted] == [True, False, True]
    [error] = made.verdict()
    assert (error.code, error.line) == ("duplicate_custom_id", 5)
    assert "line 1" in error.message


def test_an_empty_input_is_no_batch() -> None:
    made, _ = input_of()

    assert [error.code for error in made.verdict()] == ["empty_file"]


def test_more_lines_than_allowed_are_told_first() -> None:
    made, _ = input_of(*(replace(GOOD, number=n, custom_id=str(n), method="PUT" if n == 1 else "POST") for n in (1, 2)))
    assert not made.is_full
    full, _ = input_of(*(replace(GOOD, number=n, custom_id=str(n)) for n in range(1, 4)), most=2)

    assert full.is_full
    assert [error.code for error in full.verdict()] == ["too_many_lines"]


@given(st.integers(0, 3 * MOST_ERRORS))
def test_no_more_errors_are_listed_than_fit_and_the_rest_is_counted(wrong: int) -> None:
    made = Input(CHAT, "me", 10_000, known)
    made.check(GOOD)
    for number in range(2, 2 + wrong):
        made.refuse(LineError("invalid_json", "The line is no JSON object.", number))

    verdict = made.verdict()
    assert len(verdict) <= MOST_ERRORS + 1
    assert [error.line for error in verdict[:MOST_ERRORS]] == list(range(2, 2 + min(wrong, MOST_ERRORS)))
    if wrong > MOST_ERRORS:
        assert verdict[-1].code == "more_errors"
        assert str(wrong - MOST_ERRORS) in verdict[-1].message
