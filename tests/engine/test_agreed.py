"""What is agreed on besides the work: bounded before any of it is built."""

import json

import msgspec
import pytest

from supervisord.core.errors import InvalidRequestError
from supervisord.core.terms import OutputCheck
from supervisord.engine.agreed import LONGEST_CHECK, LONGEST_METADATA, check_in, metadata_in
from tests.engine.test_members import SIZE, WIDE_LIST, WIDE_OBJECT, peak

WIDE_TEXTS = WIDE_OBJECT.replace(b":0", b':"" ')  # as metadata are, and far too many


def raw(text: str | bytes) -> msgspec.Raw:
    return msgspec.Raw(text.encode() if isinstance(text, str) else text)


def test_what_is_not_there_asks_for_nothing() -> None:
    assert metadata_in(msgspec.Raw()) == {}
    assert metadata_in(raw("null")) == {}
    assert check_in(msgspec.Raw()) is None
    assert [check_in(raw(text)) for text in ("null", "false")] == [None, None]


def test_the_longest_metadata_that_may_be_are_taken_however_they_are_written() -> None:
    longest = {f"{n:02}" + "\N{GRINNING FACE}" * 62: "\N{GRINNING FACE}" * 512 for n in range(16)}
    text = json.dumps(longest, indent=1)  # each character as two escapes of six bytes
    assert len(text) < LONGEST_METADATA
    assert metadata_in(raw(text)) == longest


@pytest.mark.parametrize(
    "text", [b"[]", b'"a"', b'{"a":1}', b'{"a":"\xff"}', WIDE_LIST, WIDE_OBJECT, WIDE_TEXTS, b"[" * 5000 + b"]" * 5000]
)
def test_other_metadata_are_refused_before_they_are_built(text: bytes) -> None:
    def refused() -> None:
        with pytest.raises(InvalidRequestError, match="metadata") as told:
            metadata_in(raw(text))
        assert told.value.param == "metadata"

    assert peak(refused) < 2 * SIZE + 1024 * 1024  # the text itself, and as bytes


def test_a_schema_stays_the_text_that_it_is() -> None:
    assert check_in(raw("true")) == OutputCheck("", retries=2)
    assert check_in(raw('{"schema": {"type" : "object"}, "retries": 0}')) == OutputCheck(
        '{"type" : "object"}', retries=0
    )
    wide = b'{"enum":[' + b"[]," * (LONGEST_CHECK // 4) + b"1]}"
    checks: list[OutputCheck | None] = []
    assert peak(lambda: checks.append(check_in(raw(b'{"schema":%b}' % wide)))) < 6 * LONGEST_CHECK
    assert checks == [OutputCheck(wide.decode())]


@pytest.mark.parametrize("text", ["1", '"yes"', "[]", '{"retry":1}', '{"schema":{},"more":1}', b'{"schema":"\xff"}'])
def test_another_form_is_refused(text: str | bytes) -> None:
    with pytest.raises(InvalidRequestError, match="must be true") as told:
        check_in(raw(text))
    assert told.value.param == "validate_output"


def test_one_that_is_too_long_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="longer than"):
        check_in(raw(b'{"schema":"%b"}' % (b"x" * LONGEST_CHECK)))
