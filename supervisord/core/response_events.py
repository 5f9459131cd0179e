"""The events of a response in the background, numbered by us: backends number theirs differently, or not at all.

Event n of try t (from 0) of a job has the number t * 1 000 000 + n. So the numbers rise over all its tries, also over a
crash that took the last second of them with it, and a client that goes on behind a number misses nothing.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import isfinite

DEEPEST = 100  # levels of what cannot be written otherwise: a schema of hundreds is no schema
SPARE = 60  # more of them than calls are between the loop and whoever reads what was written
OF_A_TRY = 1_000_000  # more than an answer has tokens
CREATED, QUEUED, FIRST = 0, 1, 2  # the numbers of the first two, which are told before anything is tried

# Of the response as a whole: told by us.
_OF_THE_WHOLE = frozenset({"response.created", "response.queued", "response.in_progress"})
LAST = frozenset({"response.completed", "response.incomplete", "response.failed"})
# What SDKs read of these, and llama.cpp leaves out (xllamacpp 2026.10).
_FILLED: Mapping[str, Mapping[str, object]] = {
    "response.output_text.delta": {"logprobs": []},
    "response.output_text.done": {"logprobs": []},
    "response.content_part.added": {"part": {"annotations": []}},
    "response.content_part.done": {"part": {"annotations": []}},
}
_OF_PARTS = ("response.content_part.", "response.output_text.", "response.refusal.", "response.reasoning_text.")

Event = Mapping[str, object]


def encoded(kind: str, number: int, members: Event) -> bytes:
    """An event as it goes to clients."""
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), text_of({"type": kind, "sequence_number": number, **members}))


def text_of(value: Event) -> bytes:
    """As JSON that every reader takes, whatever was taken for JSON when it was read: NaN, half a character of two, or
    more levels than are written."""
    try:
        return _written(value)
    except (ValueError, RecursionError):  # UnicodeEncodeError is a ValueError
        return _written(_plain(value, DEEPEST))


def _written(value: object) -> bytes:
    # What could only just be written could not be read by whoever stands deeper in calls: both count as one.
    for _ in range(SPARE):
        value = (value,)
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()[SPARE:-SPARE]


def _plain(value: object, levels: int) -> object:
    """Without what has no form in JSON; what is nested deeper than so many `levels` is null."""
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, float):
        return value if isfinite(value) else None
    if not isinstance(value, (Mapping, list, tuple)):
        return value
    if not levels:
        return None
    if isinstance(value, Mapping):
        return {str(_plain(name, 0)): _plain(each, levels - 1) for name, each in value.items()}
    return [_plain(each, levels - 1) for each in value]


def decoded(event: bytes) -> Event:
    """The members of a server-sent event; empty where it holds no JSON object: a comment, [DONE]."""
    return members(b"\n".join(line[5:].strip() for line in event.splitlines() if line.startswith(b"data:")))


def members(text: bytes) -> Event:
    """Those of a JSON object; none of what is no such thing."""
    try:
        value = json.loads(text) if text else None
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def first_number(tried: int) -> int:
    """The number of the first event of the try that follows `tried` others."""
    return tried * OF_A_TRY if tried else FIRST


def is_last(event: bytes) -> bool:
    """Whether it is the event that ends the stream of a response."""
    return decoded(event).get("type") in LAST


def is_told_by_us(event: Event) -> bool:
    """Whether an event of a backend is of the response as a whole: its words go to no client."""
    return event.get("type") in _OF_THE_WHOLE | LAST | {"error"} or not isinstance(event.get("type"), str)


@dataclass(slots=True)
class _Item:
    members: Event
    text: list[str] = field(default_factory=list)
    done: Event | None = None

    def broken_off(self) -> Event:
        """As it is when nothing more comes."""
        content: tuple[Event, ...] = ()
        if self.members.get("type") == "message" and self.text:
            content = ({"type": "output_text", "text": "".join(self.text), "annotations": [], "logprobs": []},)
        return {**self.members, "status": "incomplete", "content": content}


class Outline:
    """The items of an output, as its events tell of them."""

    def __init__(self) -> None:
        self._items: dict[int, _Item] = {}

    def note(self, event: Event) -> None:
        """Take an event with an `output_index`."""
        index, item = event.get("output_index"), event.get("item")
        if not isinstance(index, int):
            return
        kind = event.get("type")
        if kind == "response.output_item.added" and isinstance(item, dict):
            self._items[index] = _Item(item)
        elif kind == "response.output_item.done" and isinstance(item, dict):
            self._items.setdefault(index, _Item(item)).done = item
        elif kind == "response.output_text.delta" and index in self._items:
            self._items[index].text.append(str(event.get("delta", "")))

    @property
    def following(self) -> int:
        """The index that the next item has."""
        return max(self._items, default=-1) + 1

    def output(self) -> list[Event]:
        """The items, those that are not whole as far as they came."""
        return [item.done or item.broken_off() for _, item in sorted(self._items.items())]

    def closing(self) -> Iterator[Event]:
        """Events that end the items which are not whole: SDKs want each item that was begun to be ended."""
        for index, item in sorted(self._items.items()):
            if item.done is None:
                yield {"type": "response.output_item.done", "output_index": index, "item": item.broken_off()}


class Numbering:
    """Makes the events of one try, from those of its backend. `index`: of its first item."""

    def __init__(self, number: int, index: int = 0) -> None:
        self.number = number  # of the next event
        self.outline = Outline()
        self._offset = index
        self._items = 0
        self._parts = -1
        self._index_of: dict[object, int] = {}

    @property
    def following(self) -> int:
        """The index that the first item of the next try has."""
        return max(self._offset, self.outline.following)

    def tell(self, kind: str, members: Event) -> bytes:
        """An event of ours."""
        number, self.number = self.number, self.number + 1
        return encoded(kind, number, {name: value for name, value in members.items() if name != "type"})

    def relay(self, event: Event) -> bytes:
        """An event of the backend, with our number and whatever it should have and has not."""
        kind = str(event["type"])
        made = {**event, **_filled(kind, event), "output_index": self._index(kind, event)}
        if kind.startswith(_OF_PARTS):
            made["content_index"] = self._part(kind, event)
        made.pop("sequence_number", None)
        self.outline.note(made)
        return self.tell(kind, made)

    def _index(self, kind: str, event: Event) -> int:
        told, item = event.get("output_index"), event.get("item")
        item_id = item.get("id") if isinstance(item, dict) else event.get("item_id")
        if kind == "response.output_item.added":
            self._items, self._parts = self._items + 1, -1
            index = told if isinstance(told, int) else self._items - 1
            self._index_of[item_id] = index
        else:
            index = told if isinstance(told, int) else self._index_of.get(item_id, max(self._items - 1, 0))
        return self._offset + index

    def _part(self, kind: str, event: Event) -> int:
        if kind == "response.content_part.added":
            self._parts += 1
        told = event.get("content_index")
        return told if isinstance(told, int) else max(self._parts, 0)


def _filled(kind: str, event: Event) -> Event:
    """Members that an event of this kind has to have, as far as it lacks them."""
    filled: dict[str, object] = {}
    for name, value in _FILLED.get(kind, {}).items():
        told = event.get(name)
        if isinstance(value, dict) and isinstance(told, dict):
            filled[name] = {**value, **told}
        elif told is None:
            filled[name] = value
    return filled
