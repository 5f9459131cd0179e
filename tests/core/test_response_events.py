"""The events of a response in the background, as they are numbered and filled in."""

import json
from typing import Any

import pytest

from supervisord.core.response_events import (
    DEEPEST,
    FIRST,
    OF_A_TRY,
    Numbering,
    Outline,
    decoded,
    encoded,
    first_number,
    is_last,
    is_told_by_us,
    members,
    text_of,
)

ITEM = {"id": "msg_1", "type": "message", "status": "in_progress", "content": []}
ADDED = {"type": "response.output_item.added", "item": ITEM}
PART = {"type": "response.content_part.added", "item_id": "msg_1", "part": {"type": "output_text", "text": ""}}
DONE = {"type": "response.output_item.done", "item": {**ITEM, "status": "completed"}}


def delta(text: str, **more: object) -> dict[str, object]:
    return {"type": "response.output_text.delta", "item_id": "msg_1", "delta": text, **more}


def made(numbering: Numbering, event: dict[str, object]) -> dict[str, Any]:
    return dict(decoded(numbering.relay(event)))


def test_an_event_as_it_goes_out_and_comes_back() -> None:
    event = encoded("response.queued", 7, {"response": {"id": "ü"}})
    assert event.startswith(b"event: response.queued\ndata: {")
    assert event.endswith(b"}\n\n")
    assert decoded(event) == {"type": "response.queued", "sequence_number": 7, "response": {"id": "ü"}}


@pytest.mark.parametrize(
    ("read", "written"),
    [
        (b'{"a":[NaN,-Infinity,1e999,1.5]}', b'{"a":[null,null,null,1.5]}'),
        (b'{"a":"\\ud83d","\\ud83d":1}', b'{"a":"?","?":1}'),
        (b'{"a":"\\ud83d\\ude00"}', '{"a":"\U0001f600"}'.encode()),
    ],
)
def test_what_only_a_lenient_reader_takes_is_written_for_every_reader(read: bytes, written: bytes) -> None:
    """Such an answer was kept as it was, and could never be read again."""
    assert text_of(members(read)) == written
    assert encoded("x", 1, members(read)).endswith(written[1:] + b"\n\n")


def test_what_is_nested_as_deeply_as_can_be_read_is_written_so_that_it_can_be_read() -> None:
    nested: object = 1.0
    for _ in range(100_000):
        nested = [nested]
    text = text_of({"a": nested, "b": ({"c": True},)})
    assert members(text)["b"] == [{"c": True}]
    assert text.count(b"[") == DEEPEST
    for _ in range(100_000):  # from the outside in: it would be taken down as deeply as it is nested
        assert isinstance(nested, list)
        nested = nested.pop()


@pytest.mark.parametrize("event", [b"", b": waiting\n", b"data: [DONE]", b"data: {", b"data: 5", b"event: x"])
def test_what_holds_no_object_is_empty(event: bytes) -> None:
    assert decoded(event) == {}


def test_data_in_several_lines_is_one() -> None:
    assert decoded(b'data: {"a":\ndata: 1}\n\n') == {"a": 1}


def test_the_numbers_of_each_try_are_above_those_of_the_one_before() -> None:
    assert [first_number(tried) for tried in range(3)] == [FIRST, OF_A_TRY, 2 * OF_A_TRY]
    numbering = Numbering(first_number(1))
    assert [made(numbering, ADDED)["sequence_number"], made(numbering, PART)["sequence_number"]] == [
        OF_A_TRY,
        OF_A_TRY + 1,
    ]


def test_what_llama_cpp_leaves_out_is_filled_in() -> None:
    numbering = Numbering(FIRST)
    assert made(numbering, ADDED)["output_index"] == 0
    part = made(numbering, PART)
    assert (part["output_index"], part["content_index"], part["part"]["annotations"]) == (0, 0, [])
    said = made(numbering, delta("a"))
    assert (said["output_index"], said["content_index"], said["logprobs"], said["delta"]) == (0, 0, [], "a")
    second = {**ADDED, "item": {"id": "fc_1", "type": "function_call"}}
    assert made(numbering, second)["output_index"] == 1
    assert made(numbering, delta("b"))["output_index"] == 0, "by the id of its item"
    arguments = {"type": "response.function_call_arguments.delta", "delta": "{"}
    assert made(numbering, arguments)["output_index"] == 1, "the newest where it tells of none"
    assert "content_index" not in made(numbering, arguments)


def test_what_a_backend_tells_is_kept_but_for_its_numbers() -> None:
    numbering = Numbering(10, index=2)
    told = made(numbering, {**ADDED, "output_index": 4, "sequence_number": 99})
    assert (told["output_index"], told["sequence_number"]) == (6, 10)
    said = made(numbering, delta("a", output_index=4, content_index=3, logprobs=[1]))
    assert (said["output_index"], said["content_index"], said["logprobs"]) == (6, 3, [1])
    assert made(Numbering(FIRST), delta("a"))["content_index"] == 0, "also before any part was begun"


def test_an_event_of_ours() -> None:
    numbering = Numbering(FIRST)
    assert decoded(numbering.tell("response.in_progress", {"type": "other", "response": {}})) == {
        "type": "response.in_progress",
        "sequence_number": FIRST,
        "response": {},
    }
    assert numbering.number == FIRST + 1


@pytest.mark.parametrize("kind", ["response.created", "response.in_progress", "response.completed", "error", 5, None])
def test_what_is_of_the_whole_is_told_by_us(kind: object) -> None:
    assert is_told_by_us({"type": kind})
    assert not is_told_by_us(ADDED)


def test_the_last_event() -> None:
    assert is_last(encoded("response.failed", 5, {}))
    assert not is_last(encoded("response.queued", 5, {}))
    assert not is_last(b": waiting\n")


def test_an_outline_tells_what_is_there_and_what_is_not_whole() -> None:
    outline, numbering = Outline(), Numbering(FIRST)
    assert (outline.output(), outline.following, list(outline.closing())) == ([], 0, [])
    for event in (ADDED, PART, delta("Hel"), delta("lo")):
        outline.note(made(numbering, event))
    [broken] = outline.output()
    assert (broken["status"], broken["id"]) == ("incomplete", "msg_1")
    assert json.loads(json.dumps(broken["content"])) == [
        {"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []}
    ]
    [closing] = outline.closing()
    assert (closing["type"], closing["output_index"], closing["item"]) == ("response.output_item.done", 0, broken)
    outline.note(made(numbering, DONE))
    assert (outline.output(), outline.following, list(outline.closing())) == ([DONE["item"]], 1, [])


def test_an_outline_takes_what_makes_no_sense() -> None:
    outline = Outline()
    for event in (
        {},
        {"output_index": "0", "type": "response.output_item.added", "item": ITEM},
        {"output_index": 0, "type": "response.output_item.added", "item": None},
        {"output_index": 0, "type": "response.output_item.done"},
        {"output_index": 0, "type": "response.output_text.delta", "delta": "x"},
    ):
        outline.note(event)
    assert outline.output() == []
    outline.note({"output_index": 3, "type": "response.output_item.done", "item": ITEM})
    assert (outline.output(), outline.following) == ([ITEM], 4)
    outline.note({"output_index": 4, "type": "response.output_item.added", "item": {"type": "function_call"}})
    assert outline.output()[1] == {"type": "function_call", "status": "incomplete", "content": ()}
