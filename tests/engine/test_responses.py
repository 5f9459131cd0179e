"""Responses in the background in the engine: followed from any point on, tried again, cancelled, forgotten."""

import copy
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from supervisord.core.errors import NotFoundError
from supervisord.core.job import FailureReason, JobStatus, Submission
from supervisord.core.record import EventKind
from supervisord.core.response import id_of, job_id_of
from supervisord.core.response_events import OF_A_TRY, decoded
from supervisord.core.terms import Origin, Terms
from supervisord.engine.background import responses as module
from supervisord.engine.background.responses import Responses
from tests.engine.overnight import Night, night
from tests.engine.rig import beside
from tests.fakes.store import MemoryStore

TERMS = Terms(Origin.RESPONSE, metadata={"who": "me"})
ASKED = b'{"model":"m","input":"hello","background":true,"instructions":"Be brief."}'


class Told:
    """What a follower has been told, read beside the test."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.comments: list[bytes] = []
        self.over = False

    async def read(self, events: AsyncIterator[bytes]) -> None:
        async for event in events:
            if event.startswith(b":"):
                self.comments.append(event)
            elif event:
                self.events.append(dict(decoded(event)))
        self.over = True

    @property
    def numbers(self) -> list[int]:
        return [event["sequence_number"] for event in self.events]

    @property
    def text(self) -> str:
        return "".join(event["delta"] for event in self.events if event["type"] == "response.output_text.delta")


@asynccontextmanager
async def following(it: Night, response_id: str, after: int = -1) -> AsyncIterator[Told]:
    told = Told()
    async with beside(told.read(of(it).follow(response_id, after))):
        yield told


def of(it: Night) -> Responses:
    return it.it.supervisor.responses


async def created(it: Night, client: str = "") -> str:
    wanted = Submission("/v1/responses", "m", ASKED, client=client)
    return id_of((await of(it).create(wanted, TERMS)).job_id)


async def all_of(it: Night, response_id: str, after: int = -1) -> Told:
    """Everything that a follower is told, to the end."""
    async with following(it, response_id, after) as told:
        await it.clock.until(lambda: told.over, "the end of its events")
    return told


async def test_it_is_run_as_a_stream_and_kept_as_an_object() -> None:
    async with night() as it:
        response_id = await created(it)
        told = await all_of(it, response_id)
        sent = it.services[0].requests[0]
        assert (sent["stream"], sent["store"], sent["input"]) == (True, False, "hello")
        assert "background" not in sent
        assert told.text == "r0 r1 r2 r3 "
        assert told.numbers == list(range(len(told.events)))
        whole = await of(it).object(response_id)
        assert (whole["id"], whole["status"], whole["metadata"]) == (response_id, "completed", {"who": "me"})
        assert (whole["instructions"], told.events[-1]["response"]) == ("Be brief.", whole)
        assert await of(it).cancel(response_id) == whole
        last = told.numbers[-1]
        for after in (-1, 0, 1, 5, last - 1, last):
            again = await all_of(it, response_id, after)
            assert again.events == told.events[after + 1 :]
        await of(it).delete(response_id)
        with pytest.raises(NotFoundError):
            await of(it).object(response_id)
        assert of(it)._feeds == {}


async def test_one_whose_answer_is_past_its_retention_does_not_look_as_if_it_still_waited() -> None:
    async with night() as it:
        response_id = await created(it)
        await all_of(it, response_id)
        entry = it.store._entries[job_id_of(response_id)]
        assert entry.result is not None
        entry.result = replace(entry.result, output=None)
        for asked in (of(it).object, of(it).cancel, lambda wanted: anext(of(it).follow(wanted))):
            with pytest.raises(NotFoundError, match="is done, and past its retention"):
                await asked(response_id)
        await of(it).delete(response_id)
        assert of(it)._feeds == {}


async def test_it_is_nobody_elses() -> None:
    async with night() as it:
        response_id = await created(it, client="me")
        job = await it.accept(client="me")
        assert (await of(it).object(response_id, "me"))["id"] == response_id
        for wrong, owner in (
            (response_id, "another"),
            (response_id[:-1], None),
            (id_of(job.job_id), None),
            ("resp_", None),
        ):
            for asked in (of(it).object, of(it).cancel, of(it).delete):
                with pytest.raises(NotFoundError, match="There is no response"):
                    await asked(wrong, owner)
        with pytest.raises(NotFoundError):
            await anext(of(it).follow("resp_nothing"))
        await all_of(it, response_id)


async def test_a_try_that_broke_off_is_told_as_such_and_made_good() -> None:
    async with night() as it:
        it.services[0].cut_after = 2
        response_id = await created(it)
        async with following(it, response_id) as told:
            await it.passes_until(lambda: any(n >= OF_A_TRY for n in told.numbers) or len(it.services[0].requests) == 1)
            it.services[0].cut_after = None
            await it.passes_until(lambda: told.over)
        assert told.text == "r0 r1 r0 r1 r2 r3 "
        assert told.numbers == sorted(set(told.numbers))
        begun = [event["type"] for event in told.events].index("response.in_progress", 3)
        assert told.numbers[begun] == OF_A_TRY + 1
        closed = told.events[begun - 1]
        assert (closed["type"], closed["item"]["status"]) == ("response.output_item.done", "incomplete")
        assert closed["item"]["content"][0]["text"] == "r0 r1 "
        indices = [event["output_index"] for event in told.events if event["type"] == "response.output_item.added"]
        assert indices == [0, 1]
        assert told.events[-1]["response"]["output"][0]["content"][0]["text"] == "r0 r1 r2 r3 "
        assert (await all_of(it, response_id)).events == told.events


async def test_one_that_is_cancelled_while_it_waits_has_an_end_too() -> None:
    async with night() as it:
        it.it.supervisor.pause_queue()
        response_id = await created(it)
        async with following(it, response_id) as told:
            await it.clock.until(lambda: len(told.events) == 2, "its acceptance to be told")
            assert (await of(it).object(response_id))["status"] == "queued"
            cancelled = await of(it).cancel(response_id)
            assert (cancelled["status"], cancelled["metadata"]) == ("cancelled", {"who": "me"})
            await it.clock.until(lambda: told.over, "its end to be told")
        assert told.events[-1]["type"] == "response.failed"
        assert told.events[-1]["response"]["status"] == "cancelled"
        assert it.services[0].requests == []


async def test_one_that_is_deleted_while_it_runs_is_cut_off() -> None:
    async with night() as it:
        it.services[0].hangs = True
        response_id = await created(it)
        await it.arrived(1)
        await of(it).delete(response_id)
        assert it.it.supervisor.dispatcher.in_flight == 0
        with pytest.raises(NotFoundError):
            await of(it).object(response_id)


async def test_a_follower_that_waits_is_told_so() -> None:
    async with night() as it:
        it.it.supervisor.pause_queue("somebody wants it")
        response_id = await created(it)
        async with following(it, response_id) as told:
            await it.passes_until(lambda: len(told.comments) >= 2)
        assert told.comments[0].startswith(b": waiting")
        assert told.comments[0].endswith(b"\n")
        assert not told.comments[0].endswith(b"\n\n"), "which a decoder of streams would take for an event"
        assert not told.over


async def test_a_slow_follower_reads_from_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE", 3)
    monkeypatch.setattr("supervisord.engine.background.feed.RECENT_BYTES", 300)
    async with night() as it:
        it.services[0].tokens = 40
        response_id = await created(it)
        told = await all_of(it, response_id)
        assert told.text.split() == [f"r{number}" for number in range(40)]
        assert told.numbers == list(range(len(told.events)))


async def test_row_3_another_life_of_the_daemon_goes_on_with_it() -> None:
    store = MemoryStore()
    async with night(store=store) as it:
        it.services[0].stalls_after = 2
        response_id = await created(it)
        async with following(it, response_id) as told:
            await it.passes_until(lambda: told.text == "r0 r1 ")
        await it.clock.advance(module.CHECKPOINT_S + 0.1)
        crashed = copy.deepcopy(store)
        crashed._is_open = False
    async with night(store=crashed, first=100) as later:
        on = await all_of(later, response_id, after=told.numbers[-1])
        assert on.numbers[0] == OF_A_TRY
        assert (on.events[0]["type"], on.events[0]["item"]["status"]) == ("response.output_item.done", "incomplete")
        assert on.text == "r0 r1 r2 r3 "
        whole = await all_of(later, response_id)
        assert whole.text == "r0 r1 r0 r1 r2 r3 "


async def test_what_the_last_second_of_a_life_took_with_it_is_not_missed() -> None:
    """A follower has seen events that the store never got: the next try's numbers are above them all the same."""
    store = MemoryStore()
    async with night(store=store) as it:
        it.services[0].stalls_after = 3
        response_id = await created(it)
        async with following(it, response_id) as told:
            await it.clock.until(lambda: told.text == "r0 r1 r2 ", "three words")
            crashed = copy.deepcopy(store)
            crashed._is_open = False
    async with night(store=crashed, first=100) as later:
        on = await all_of(later, response_id, after=told.numbers[-1])
        assert on.text == "r0 r1 r2 r3 "


@pytest.mark.parametrize("fault", ["never_streams", "garbles"])
async def test_a_backend_that_answers_something_else_has_not_answered(fault: str) -> None:
    """It was kept as completed, without a word in it. Another try may meet a backend that has the endpoint."""
    async with night() as it:
        setattr(it.services[0], fault, True)
        response_id = await created(it)
        await it.passes_until(lambda: bool(it.it.told(EventKind.RETRY)))
        setattr(it.services[0], fault, False)
        stored = await it.passes_until_ended(job_id_of(response_id))
        assert stored.status == JobStatus.DONE
        assert (await of(it).object(response_id))["output"][0]["content"][0]["text"] == "r0 r1 r2 r3 "
        first, second = stored.attempts
        assert (first.reason, second.reason) == (FailureReason.BACKEND_PROTOCOL, None)


async def test_a_request_that_cannot_be_read_any_more_is_told_without_its_members() -> None:
    """Calls count like levels of nesting: what could just be read when it was accepted may not be read deeper down."""
    async with night() as it:
        deep = b'{"input":' + b"[" * 5000 + b"]" * 5000 + b"}"
        accepted = await it.durable.accept(Submission("/v1/responses", "m", deep), TERMS)
        stored = await it.passes_until_ended(accepted.job_id)
        told = await of(it).object(id_of(stored.job.id))
        assert (told["status"], told["tools"], told["metadata"]) == ("failed", [], {"who": "me"})
