"""The members of a body: read as far as anybody looks, however wide or deep it is."""

import tracemalloc
from collections.abc import Callable

import pytest

from supervisord.core.errors import InvalidJsonError, InvalidRequestError
from supervisord.core.request import JsonKind
from supervisord.engine.members import LONGEST_VALUE, MOST_MEMBERS, members_of, reader, values_of

SIZE = 8 * 1024 * 1024
WIDE_LIST = b"[" + b"[]," * (SIZE // 3) + b"1]"
WIDE_OBJECT = b"{" + b",".join(b'"%x":0' % n for n in range(SIZE // 9)) + b"}"


def peak(work: Callable[[], object]) -> int:
    """Bytes that Python had at most for it."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_scalars_are_told_by_value_and_all_else_by_kind() -> None:
    told = members_of(b'{"model":"m","stream":true,"n":2,"temperature":0.5,"messages":[1],"prompt":"x","tools":[{}]}')
    assert told == {
        "model": "m",
        "stream": True,
        "n": 2,
        "temperature": 0.5,
        "messages": JsonKind.ARRAY,
        "prompt": JsonKind.STRING,
    }


def test_of_a_member_that_is_there_twice_the_last_counts_however_its_name_is_written() -> None:
    assert members_of(b'{"model":"a","mod\\u0065l":"b"}') == {"model": "b"}


def test_a_check_is_told_by_whether_it_asks_for_something() -> None:
    asked = {b"true": True, b"false": False, b"null": None, b'{"retries":1}': JsonKind.OBJECT}
    assert [members_of(b'{"validate_output":%b}' % text)["validate_output"] for text in asked] == list(asked.values())


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"nothing", b'{"a":}', b'{"a":NaN}', b'{"model":"\xff"}', b'{"model":"\\ud800"}'],
)
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidJsonError, match="The body is not a JSON object"):
        members_of(body)


def test_what_is_nested_too_deeply_is_refused() -> None:
    with pytest.raises(InvalidJsonError, match="nested too deeply"):
        members_of(b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}")


@pytest.mark.parametrize(
    "body", [b'{"messages":%b}' % WIDE_OBJECT, b'{"messages":%b}' % WIDE_LIST, b'{"other":%b}' % WIDE_LIST]
)
def test_nothing_is_built_of_what_nobody_looks_at(body: bytes) -> None:
    assert peak(lambda: members_of(body)) < 64 * 1024


@pytest.mark.parametrize("body", [WIDE_OBJECT, WIDE_OBJECT.replace(b'":', b'" :'), b'{"other":%b}' % WIDE_OBJECT])
def test_too_many_members_are_refused_before_anybody_builds_them(body: bytes) -> None:
    with pytest.raises(InvalidRequestError, match=f"more than {MOST_MEMBERS} members"):
        members_of(body)


def test_values_are_built_up_to_a_length_and_texts_of_any() -> None:
    long = b'"' + b"x" * LONGEST_VALUE + b'"'
    read = reader("tools", "instructions", "user", "text")
    members = read(b'{"tools":%b,"instructions":%b,"user":"\xff","text":{"a":[1]},"top_p":1}' % (WIDE_LIST, long))
    assert sorted(members) == ["instructions", "text", "tools", "user"]
    assert values_of(members) == {"instructions": long.decode()[1:-1], "text": {"a": [1]}}
    assert peak(lambda: values_of(members)) < 2 * SIZE


def test_a_reader_says_what_it_has_read() -> None:
    with pytest.raises(InvalidJsonError, match="The line is not a JSON object"):
        reader("a", of="The line")(b"[]")
