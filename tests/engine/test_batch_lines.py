"""Lines out of an uploaded file, however it was cut into parts."""

import asyncio
import itertools
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisord.core.batch_input import Input, Submitted
from supervisord.core.job import Submission
from supervisord.engine.batching import lines as batch_lines
from supervisord.engine.batching.lines import lines_of, submitted
from tests.engine.test_members import SIZE, WIDE_LIST, WIDE_OBJECT, peak
from tests.fakes.clock import FakeClock, fake_time
from tests.fakes.store import MemoryStore

CHAT = "/v1/chat/completions"
GOOD = {"custom_id": "a", "method": "POST", "url": CHAT, "body": {"model": "m", "messages": []}}


async def file_of(*parts: bytes) -> MemoryStore:
    store = MemoryStore()
    await store.open()
    for number, part in enumerate(parts):
        await store.put_file_part("file-1", number, part)
    return store


async def lines(clock: FakeClock, *parts: bytes) -> list[tuple[int, bytes | None]]:
    return [line async for line in lines_of(await file_of(*parts), "file-1", clock)]


@given(st.lists(st.binary(max_size=12), max_size=12).map(b"\n".join), st.lists(st.integers(0, 150), max_size=4))
def test_the_parts_of_a_file_do_not_matter(text: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    splitter = batch_lines._Splitter()
    found = []
    for begin, end in itertools.pairwise(edges):
        found += splitter.lines(text[begin:end])
    found += splitter.rest()

    expected = [(number, line.strip(b" \t\r")) for number, line in enumerate(text.split(b"\n"), 1)]
    assert [line for line in found if line[0] > 1] == [line for line in expected if line[1] and line[0] > 1]


async def test_blank_lines_count_and_are_no_lines() -> None:
    with fake_time() as clock:
        assert await lines(clock, b"\xef\xbb\xbf{}\r\n\r\n  \n", b'{"a"', b":1}\n[]") == [
            (1, b"{}"),
            (4, b'{"a":1}'),
            (5, b"[]"),
        ]
        assert await lines(clock) == []
        assert await lines(clock, b"\n\n") == []


async def test_a_line_that_is_too_long_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_lines, "LONGEST_LINE", 10)
    with fake_time() as clock:
        text = b"x" * 10 + b"\n" + b"x" * 11 + b"\n" + b"short\n" + b"x" * 50
        for size in (1, 4, 200):
            parts = [text[at : at + size] for at in range(0, len(text), size)]
            assert await lines(clock, *parts) == [(1, b"x" * 10), (2, None), (3, b"short"), (4, None)]
        splitter = batch_lines._Splitter()
        for _ in range(100):
            splitter.lines(b"x" * 8)
            assert len(splitter._kept) <= 10


class _Busy:
    """A clock on which each look at it takes 0.4 ms."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 0.0004
        return self.now


async def test_others_get_their_turn_every_millisecond() -> None:
    clock, turns, done = _Busy(), [0.0], asyncio.Event()

    async def other() -> None:
        while not done.is_set():
            turns.append(clock.now)
            await asyncio.sleep(0)

    store = await file_of(b"{}\n" * 1000)
    async with asyncio.TaskGroup() as group:
        group.create_task(other())
        await asyncio.sleep(0)
        async for _ in lines_of(store, "file-1", clock):  # type: ignore[arg-type]
            pass
        done.set()

    assert len(turns) > 100
    assert max(later - earlier for earlier, later in itertools.pairwise(turns)) < 0.003


# --- what they say ---------------------------------------------------------------------------------------------------


def check(text: bytes | None) -> tuple[Input, Submitted | None]:
    wanted = Input(CHAT, "me", 10, lambda submission: None)
    return wanted, submitted(wanted, 3, text)


def line(**changes: object) -> bytes:
    return msgspec.json.encode({name: value for name, value in {**GOOD, **changes}.items() if value is not ...})


def test_a_line_is_submitted_with_its_body_as_it_came() -> None:
    text = (
        b'{"url":"/v1/chat/completions","custom_id":"a\\u00e4","method":"POST", "body": {"messages":  [],"model":"m"}}'
    )
    wanted, found = check(text)

    assert found is not None
    assert found.custom_id == "aä"
    assert found.submission.body == b'{"messages":  [],"model":"m"}'
    assert wanted.verdict() == ()


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"{", "invalid_json"),
        (b"[]", "invalid_json"),
        (b'"text"', "invalid_json"),
        (b"{} {}", "invalid_json"),
        (b"\xff\xfe", "invalid_json"),
        (b'{"custom_id":"\xff"}', "invalid_json"),
        (b'{"custom_id":"\\ud800"}', "invalid_json"),
        (b'{"body":' + b"[" * 100_000, "invalid_json"),
        (b'{"a":' * 100_000, "invalid_json"),
        (None, "line_too_long"),
        (line(custom_id=...), "invalid_custom_id"),
        (line(custom_id=7), "invalid_custom_id"),
        (line(custom_id=["a"]), "invalid_custom_id"),
        (line(custom_id="x" * 10_000), "invalid_custom_id"),
        (line(method=None), "invalid_method"),
        (line(url=...), "mismatched_url"),
        (line(body=...), "invalid_body"),
        (line(body=[1]), "invalid_body"),
        (line(body="text"), "invalid_body"),
        (line(body={"model": "m"}), "invalid_request"),
        (line(validate_output=7), "invalid_request"),
        (line(validate_output="X").replace(b'"X"', b'"\xff"'), "invalid_request"),
        (line(body={"model": "m", "messages": [], "stream": True}), "invalid_request"),
    ],
)
def test_what_cannot_be_run_is_told_with_its_line(text: bytes | None, code: str) -> None:
    wanted, found = check(text)

    assert found is None
    [error] = wanted.verdict()
    assert (error.code, error.line) == (code, 3)


def test_a_body_that_is_no_json_inside_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, found = check(line(body={"model": "m", "messages": []}).replace(b'"m"', b'"\xff"'))

    assert found is None
    assert [(e.code, e.line, e.param) for e in wanted.verdict()] == [("invalid_json", 3, "body")]


def test_values_of_a_line_are_not_changed_by_the_checks() -> None:
    wanted, found = check(line(body={"model": "m", "messages": [], "max_tokens": 7, "temperature": 0.5}))

    assert found is not None
    assert replace(found.submission, body=b"") == Submission(
        CHAT, "m", b"", priority=found.submission.priority, client="me", max_tokens=7, temperature=0.5
    )
    assert found.submission.priority.label == "batch"
    assert wanted.total == 1


PIECES = (
    b'"',
    b"\\",
    b"\xff",
    b"{",
    b"[",
    b"}",
    b"]",
    b":",
    b",",
    b"\\ud800",
    b"1e999",
    b"-",
    b"\x00",
    b"null",
    b"9" * 400,
)


@given(st.data())
def test_no_line_can_be_more_than_wrong(data: st.DataObject) -> None:
    """A good line, with pieces of it replaced by what JSON is not made of, or in another place."""
    text = line(validate_output={"schema": {}, "retries": 1})
    for _ in range(data.draw(st.integers(1, 4))):
        at, length = data.draw(st.integers(0, len(text))), data.draw(st.integers(0, 12))
        text = text[:at] + data.draw(st.sampled_from(PIECES)) + text[at + length :]
    wanted, found = check(text)

    assert (found is None) == bool(wanted.verdict())


@pytest.mark.parametrize(
    "text",
    [
        b'{"custom_id":"a","other":' + WIDE_LIST + b"}",
        b'{"custom_id":"a","body":' + WIDE_OBJECT + b"}",
        WIDE_OBJECT,
    ],
)
def test_nothing_wide_is_built_of_a_line(text: bytes) -> None:
    wanted = Input(CHAT, "", 10, lambda _submission: None)
    assert peak(lambda: submitted(wanted, 1, text)) < 2 * SIZE + 64 * 1024  # its body, as bytes
    assert len(wanted.errors) == 1
