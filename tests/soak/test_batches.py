"""The judgement over a batch finds what it is there to find."""

from typing import Any

import pytest

from tests.soak.batches import Tally, judge_output, judge_requests, judge_store, told_of


def answer(number: int, text: str = "yes") -> dict[str, Any]:
    return {"custom_id": f"line-{number}", "response": {"body": {"text": text}}}


def tally_of(lines: int) -> Tally:
    """Line 0 was seen in a store at 10.0."""
    tally = Tally(lines)
    judge_store({"line-0": b'{"text": "yes"}'}, 10.0, tally)
    return tally


def test_what_is_as_it_should_be_is_not_blamed() -> None:
    tally = tally_of(2)
    judge_store({"line-0": b'{"text": "yes"}', "line-1": b'{"text": "yes"}'}, 20.0, tally)
    judge_requests([{"prompt": "line-0", "received": 9.0}, {"prompt": "line-1", "received": 15.0}], tally)
    judge_output([answer(0), answer(1)], tally)

    assert tally.wrong == []
    assert tally.tries == 2
    assert "wrong      0" in told_of(tally, 1)


@pytest.mark.parametrize("results", [{}, {"line-0": b'{"text": "no"}'}])
def test_a_result_that_was_lost_or_changed(results: dict[str, bytes]) -> None:
    tally = tally_of(1)
    judge_store(results, 20.0, tally)
    assert tally.wrong == ["the committed result of line-0 is another, or gone"]


def test_a_line_that_was_run_again() -> None:
    tally = tally_of(1)
    judge_requests([{"prompt": "line-0", "received": 10.1}], tally)
    assert tally.wrong == ["line-0 was run again after its result was committed"]


def test_lines_that_are_missing_double_or_answered_otherwise() -> None:
    tally = tally_of(3)
    judge_output([answer(0, "no"), answer(1), answer(1)], tally)
    assert tally.wrong == [
        "line-1 is there 2 times",
        "line-2 is missing",
        "the answer to line-0 is not the one that was committed first",
    ]
