"""What the query of a request asks for."""

import pytest

from supervisord.api import query
from supervisord.core.errors import InvalidRequestError


def test_of_what_is_there_twice_the_last_counts() -> None:
    assert query.asked("a=1&b=%20x&a=2&c=") == {"a": "2", "b": " x"}


def test_a_whole_number_is_written_in_digits_and_no_more_of_them_than_it_may_have() -> None:
    assert [query.whole(text, 7, "limit", 100) for text in (None, "0", "100")] == [7, 0, 100]
    for text in ("", "-1", "101", "0100", "1e1", "1_0", " 1", "\N{ARABIC-INDIC DIGIT TWO}", "0" * 5000):
        with pytest.raises(InvalidRequestError, match="from 0 to 100") as told:
            query.whole(text, 7, "limit", 100)
        assert told.value.param == "limit"


def test_a_moment_is_a_number() -> None:
    assert [query.moment(text, "since") for text in (None, "-1.5", "1e9")] == [None, -1.5, 1e9]
    for text in ("", "nan", "1e999", "noon"):
        with pytest.raises(InvalidRequestError, match="seconds since the epoch"):
            query.moment(text, "since")


def test_a_cursor_is_an_id_of_its_list() -> None:
    assert query.cursor(None, "after") is None
    assert query.cursor("", "after") is None
    assert query.cursor("0123456789abcdef", "after") == "0123456789abcdef"
    assert query.cursor("file-0123456789abcdef", "after", "file-") == "file-0123456789abcdef"
    for text in ("nope", "0123456789abcde", "0123456789abcdefg", "0123456789ABCDEF", "batch_0123456789abcdef"):
        with pytest.raises(InvalidRequestError, match="an id of this list") as told:
            query.cursor(text, "after")
        assert told.value.param == "after"
    with pytest.raises(InvalidRequestError):
        query.cursor("0123456789abcdef", "after", "file-")
