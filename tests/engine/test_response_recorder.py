"""One try of a response in the background, from a backend's bytes to numbered events and the object."""

import asyncio
import json
import time
from typing import Any

import pytest

from supervisord.core.job import FailureReason, JobStatus
from supervisord.core.record import JobRecord, JobResult
from supervisord.core.response import begun
from supervisord.core.response_events import FIRST, OF_A_TRY, decoded
from supervisord.engine.background import recorder as response_recorder
from supervisord.engine.background.feed import RECENT_BYTES, Feed
from supervisord.engine.background.pieces import EventPieces
from supervisord.engine.background.recorder import ResponseRecorder
from tests.engine.rig import beside
from tests.fakes.stub_answers import Counts
from tests.fakes.stub_events import ResponsesWording

SHELL = begun(JobRecord("7", "/v1/responses", "m", 1, True, "c", 100.0, None, None), {})
EVENTS = (("content-type", "text/event-stream"),)
JSON = (("content-type", "application/json"),)


class Bench:
    """A recorder, and where its events go."""

    def __init__(self, tried: int = 0) -> None:
        self.feed = Feed()
        self.stored: dict[int, bytes] = {}
        self.complaints: list[tuple[FailureReason, str]] = []
        self.recorder = ResponseRecorder(
            SHELL,
            tried,
            feed=self.feed,
            put=self._put,
            give_up=lambda reason, words: self.complaints.append((reason, words)),
            wall=lambda: 200.0,
        )

    def _put(self, first: int, events: Any) -> None:
        self.stored |= {first + at: event for at, event in enumerate(events)}

    def told(self) -> list[dict[str, Any]]:
        """All events that the store has, in order."""
        return [dict(decoded(self.stored[number])) for number in sorted(self.stored)]

    def end(self, status: JobStatus = JobStatus.DONE, **more: Any) -> dict[str, Any]:
        """The object at the end of its job."""
        result = self.recorder.ended(JobResult("7", status, 200.0, 1.0, 1, **more))
        assert (result.http_status, result.content_type, result.status) == (200, "application/json", status)
        assert result.output is not None
        made: dict[str, Any] = json.loads(result.output)
        return made


def spoken(words: list[bytes]) -> bytes:
    wording = ResponsesWording(1, "stub", 3)
    counts = Counts(3, len(words), 0.1, 0.1)
    body = b"".join(wording.token(word) for word in words)
    return wording.first() + body + wording.last(b"stop", counts, include_usage=False)


@pytest.mark.parametrize("size", [1, 7, 1000, 100_000])
def test_a_stream_in_reads_of_any_size(size: int) -> None:
    bench, data = Bench(), spoken([b'"a "', b'"b "'])
    bench.recorder.start(200, EVENTS, length=None)
    for at in range(0, len(data), size):
        assert bench.recorder.write(data[at : at + size])
    bench.recorder.finish()
    kept = bench.recorder.answer()
    assert kept is not None
    whole = json.loads(kept.body)
    assert (whole["id"], whole["status"], whole["output"][0]["content"][0]["text"]) == ("resp_7", "completed", "a b ")
    assert bench.end() == whole
    kinds = [event["type"].removeprefix("response.") for event in bench.told()]
    assert kinds == [
        "in_progress", "output_item.added", "content_part.added", "output_text.delta", "output_text.delta",
        "output_text.done", "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip
    assert [event["sequence_number"] for event in bench.told()] == list(range(FIRST, FIRST + len(kinds)))
    assert bench.told()[-1]["response"] == whole


def test_an_answer_in_one_piece_is_an_answer_too() -> None:
    bench = Bench()
    wording = ResponsesWording(1, "stub", 3)
    body = wording.plain(b'"all of it"', b"stop", Counts(3, 1))
    bench.recorder.start(200, JSON, length=len(body))
    bench.recorder.write(body[:40])
    bench.recorder.write(body[40:])
    bench.recorder.finish()
    assert bench.end()["output"][0]["content"][0]["text"] == "all of it"
    assert [event["type"] for event in bench.told()] == ["response.completed"]


def test_what_came_before_it_broke_off_is_kept() -> None:
    bench, data = Bench(), spoken([b'"a "', b'"b "'])
    bench.recorder.start(200, EVENTS, length=None)
    bench.recorder.write(data[: data.index(b"event: response.output_text.done")])
    bench.recorder.write(b'event: error\ndata: {"type":"error","message":"cut off"}\n\n')
    bench.recorder.abort()
    made = bench.end(JobStatus.FAILED, reason=FailureReason.BACKEND_DIED, detail="eof")
    assert made["status"] == "failed"
    assert made["error"] == {"code": "server_error", "message": "backend_died: eof"}
    assert made["output"][0]["content"][0]["text"] == "a b "
    assert made["output"][0]["status"] == "incomplete"
    assert [event["type"] for event in bench.told()][-1] == "response.failed"
    assert "error" not in {event["type"] for event in bench.told()}


def test_a_backends_own_words_for_its_refusal() -> None:
    bench = Bench()
    error = b'{"error":{"message":"no such tool","code":400}}'
    made = bench.end(
        JobStatus.FAILED, reason=FailureReason.REQUEST_REJECTED, detail="status 400", output=error, http_status=400
    )
    assert made["error"] == {"code": "invalid_prompt", "message": "request_rejected: no such tool"}
    assert made["output"] == []


def test_what_failed_is_told_as_it_was_by_the_backend() -> None:
    bench = Bench()
    failed = {"status": "failed", "error": {"code": "server_error", "message": "theirs"}}
    data = b"event: response.failed\ndata: " + json.dumps({"type": "response.failed", "response": failed}).encode()
    bench.recorder.start(200, EVENTS, length=None)
    bench.recorder.write(data)
    bench.recorder.finish()  # without a blank line behind it
    made = bench.end(JobStatus.FAILED, reason=FailureReason.BACKEND_ERROR, detail="")
    assert made["error"]["message"] == "theirs"
    bare = Bench()
    bare.recorder.start(200, EVENTS, length=None)
    bare.recorder.write(b'event: response.completed\ndata: {"type":"response.completed"}\n\n')
    assert bare.end()["status"] == "completed"


def test_an_end_that_says_nothing_has_what_was_told_before() -> None:
    bench, data = Bench(), spoken([b'"a "', b'"b "'])
    bench.recorder.start(200, EVENTS, length=None)
    bench.recorder.write(data[: data.index(b"event: response.completed")])
    bench.recorder.write(b'event: response.completed\ndata: {"type":"response.completed"}\n\n')
    bench.recorder.finish()
    assert bench.end()["output"][0]["content"][0]["text"] == "a b "


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (JSON, b'{"choices":[{"message":{"content":"of another kind"}}]}'),
        (JSON, b"[]"),
        (JSON, b""),
        ((("content-type", "text/html"),), b"<html>It works!</html>"),
        (EVENTS, b"event: response.completed\ndata: {\n\n"),
        (EVENTS, b""),
    ],
)
def test_what_is_no_response_is_no_answer(headers: tuple[tuple[str, str], ...], body: bytes) -> None:
    bench = Bench()
    bench.recorder.start(200, headers, length=None)
    bench.recorder.write(body)
    bench.recorder.finish()
    bench.recorder.finish()
    assert bench.complaints == [(FailureReason.BACKEND_PROTOCOL, "what it answered is not a Response")]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
def test_events_end_with_a_blank_line_of_any_kind(size: int) -> None:
    """In Server-sent events a line ends with LF, CR LF or CR."""
    data = b"a\nb\n\nc\r\nd\r\n\r\ne\rf\r\rg\n\r\nh\n\n\ni"
    pieces = EventPieces()
    found: list[bytes] = []
    for at in range(0, len(data), size):
        found += pieces.put(data[at : at + size])
    assert found == [b"a\nb", b"c\nd", b"e\nf", b"g", b"h"]
    assert pieces.rest().strip() == b"i"


def test_a_long_event_is_looked_at_once() -> None:
    """It was put together anew with every read: 16 MiB in reads of 4 KiB were 32 GiB of copying, and 10 s."""
    pieces, began = EventPieces(), time.thread_time()
    for _ in range(4096):
        assert not list(pieces.put(b"x" * 4096))
    assert [len(event) for event in pieces.put(b"\n\n")] == [16 * 2**20]
    assert time.thread_time() - began < 1.0


def test_an_answer_without_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(response_recorder, "LARGEST_ANSWER", 100)
    bench = Bench()
    bench.recorder.start(200, JSON, length=None)
    for _ in range(3):
        assert bench.recorder.write(b"x" * 60)
    assert bench.complaints == [(FailureReason.ANSWER_TOO_LARGE, "the answer is longer than 100 bytes")] * 2
    assert bench.end(JobStatus.FAILED, reason=FailureReason.ANSWER_TOO_LARGE)["output"] == []


async def test_another_try_ends_what_the_one_before_left_and_begins_anew() -> None:
    bench, data = Bench(tried=1), spoken([b'"a "'])
    assert bench.recorder.may_run_again
    bench.recorder.start(200, EVENTS, length=None)
    bench.recorder.write(data[:600])
    bench.recorder.checkpoint()
    assert bench.stored == {}, "what was before has to be known first"
    left = {"type": "response.output_item.done", "output_index": 0, "item": {"id": "old", "status": "incomplete"}}
    bench.recorder.go_on((left,), 1)
    bench.recorder.write(data[600:])
    await bench.recorder.drained()
    bench.recorder.finish()
    bench.end()
    first, second, third = bench.told()[:3]
    assert (first["type"], first["sequence_number"], first["item"]["id"]) == (left["type"], OF_A_TRY, "old")
    assert (second["type"], second["sequence_number"]) == ("response.in_progress", OF_A_TRY + 1)
    assert (third["type"], third["output_index"]) == ("response.output_item.added", 1)


def begun_after(before: Bench) -> Bench:
    """The next try of the same response."""
    after = Bench(tried=1)
    after.feed = after.recorder._feed = before.feed
    after.stored = before.stored
    after.recorder._put = before._put
    return after


async def test_the_next_try_knows_at_once_what_the_one_before_left() -> None:
    """It was looked up in the store, which took longer than the whole of a quick try: its items got the same index."""
    first, data = Bench(), spoken([b'"a "', b'"b "'])
    first.recorder.start(200, EVENTS, length=None)
    first.recorder.write(data[: data.index(b"event: response.output_text.done")])
    second = begun_after(first)
    first.recorder.then(second.recorder)
    second.recorder.start(200, EVENTS, length=None)
    second.recorder.write(data)
    second.recorder.finish()
    await second.recorder.ready()
    assert second.end()["status"] == "completed"
    added = [event["output_index"] for event in second.told() if event["type"] == "response.output_item.added"]
    ended = [event["output_index"] for event in second.told() if event["type"] == "response.output_item.done"]
    assert (added, ended) == ([0, 1], [0, 1])
    assert [*second.stored] == sorted(second.stored)


async def test_a_try_that_told_nothing_passes_on_what_was_left_to_it() -> None:
    """And in its turn, where it has to be found out first what another life of the daemon left."""
    first, data = Bench(tried=1), spoken([b'"a "'])
    second = begun_after(first)
    second.recorder._tried = 2
    first.recorder.then(second.recorder)
    second.recorder.start(200, EVENTS, length=None)
    second.recorder.write(data)
    second.recorder.finish()
    left = {"type": "response.output_item.done", "output_index": 3, "item": {"id": "old", "status": "incomplete"}}
    async with beside(second.recorder.ready()) as ready:
        await asyncio.sleep(0)
        assert not ready.done()
        first.recorder.go_on((left,), 4)
        await ready
    second.end()
    kinds = [(event["type"], event.get("output_index")) for event in second.told()]
    assert kinds[0] == (left["type"], 3)
    assert ("response.output_item.added", 4) in kinds


def test_one_that_ends_before_the_tries_before_are_known() -> None:
    bench = Bench(tried=2)
    made = bench.end(JobStatus.CANCELLED, reason=FailureReason.CANCELLED)
    assert made["status"] == "cancelled"
    assert list(bench.stored) == [2 * OF_A_TRY]


# --- the feed --------------------------------------------------------------------------------------------------------


def test_a_feed_gives_the_store_each_event_once() -> None:
    feed = Feed()
    assert list(feed.unstored()) == []
    feed.put(2, b"a")
    feed.put(3, b"b")
    assert list(feed.unstored()) == [(2, b"a"), (3, b"b")]
    feed.put(4, b"c")
    assert list(feed.unstored()) == [(4, b"c")]
    assert list(feed.unstored()) == []


def test_a_feed_lets_go_of_what_the_store_has() -> None:
    feed, event = Feed(), b"x" * (RECENT_BYTES // 4)
    for number in range(2, 12):
        feed.put(number, event)
    assert feed.after(1) is not None, "nothing may go that the store does not have"
    feed.unstored()
    assert feed.after(1) is None
    kept = feed.all_after(1)
    assert [number for number, _ in kept] == [8, 9, 10, 11]
    assert feed.after(8) == kept[1:]
    feed.put(12, event)
    assert [number for number, _ in feed.unstored()] == [12]


async def test_a_feed_wakes_who_waits() -> None:
    feed = Feed()
    change = feed.change()
    assert feed.change() is change
    assert not change.done()
    feed.put(2, b"a")
    assert change.done()
    last = feed.change()
    feed.end()
    assert last.done()
    assert feed.ended
    left = feed.change()
    left.cancel()
    feed.ring()
