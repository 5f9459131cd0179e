"""What operators are told of everything that waits, on the whole engine."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from supervisord.api.control_queue import LINES, Queue
from supervisord.core.errors import InvalidRequestError
from supervisord.core.job import Priority, Submission
from tests.engine.overnight import Night, night
from tests.engine.rig import CHAT, beside


def asking(body: bytes = b"") -> web.Request:
    request = make_mocked_request("POST", "/v1/queue")
    request._read_bytes = body
    return request


def told(response: web.Response) -> Any:
    assert isinstance(response.body, bytes)
    return json.loads(response.body)


async def shown(queue: Queue) -> Mapping[str, Any]:
    found: Mapping[str, Any] = told(await queue.shown(asking()))
    return found


def live(it: Night, client: str, priority: Priority = Priority.NORMAL, model: str = "m") -> None:
    """A request whose client waits for it."""
    submission = Submission(CHAT, model, b"{}", client=client, priority=priority)
    it.it.submit("m", submission=submission)


async def test_nothing_waits() -> None:
    async with night() as it:
        assert await shown(Queue(it.it.supervisor)) == {
            "paused": None, "in_flight": 0, "waiting": 0, "lines": [], "lines_total": 0,
        }  # fmt: skip


async def test_what_waits_stands_in_lines_the_longest_first() -> None:
    async with night() as it:
        queue = Queue(it.it.supervisor)
        it.it.supervisor.pause_queue("for a moment")
        await it.lines(40, client="night")
        await it.accept(client="night", priority=Priority.HIGH)
        live(it, "editor")
        live(it, "editor")
        await it.clock.advance(7.0)
        now = await shown(queue)
        lines = [(each["client"], each["priority"], each["durable"], each["waiting"]) for each in now["lines"]]
        assert lines == [("night", "batch", True, 40), ("editor", "normal", False, 2), ("night", "high", True, 1)]
        assert (now["waiting"], now["lines_total"]) == (43, 3)
        assert {round(each["oldest_s"]) for each in now["lines"]} == {7}
        assert now["lines"][0]["in_memory"] < 40, "a batch does not come into memory as a whole"
        assert {each["waits_for"] for each in now["lines"]} == {"for a moment"}
        assert {each["left_s"] for each in now["lines"]} == {None}, "nothing has ended yet: nobody knows"


async def test_who_goes_first_is_ahead_of_the_others_in_what_is_left() -> None:
    async with night() as it:
        queue = Queue(it.it.supervisor)
        accepted = await it.accept()
        await it.ended(accepted.job_id)
        it.it.supervisor.pause_queue("a new disk")
        await it.lines(10, client="a")
        await it.lines(20, client="b", batch="b2", model="alias")
        await it.accept(client="c", priority=Priority.HIGH)
        await it.clock.advance(4.0)
        now = await shown(queue)
        assert {each["waits_for"] for each in now["lines"]} == {"a new disk"}
        pace = now["lines"][0]["per_s"]
        assert pace > 0
        left = {each["client"]: each["left_s"] for each in now["lines"]}
        assert left["c"] == pytest.approx(1 / pace)
        assert left["a"] == left["b"] == pytest.approx(31 / pace), "clients take turns, and an alias is the same model"


async def test_jobs_of_a_model_that_a_reload_removed_say_so() -> None:
    async with night() as it:
        queue = Queue(it.it.supervisor)
        it.it.supervisor.pause_queue("for a moment")
        await it.lines(3)
        settings = it.it.supervisor.settings
        await it.it.supervisor.reload(replace(settings, backends=(), routes=()))
        it.it.supervisor.resume_queue()
        await it.clock.advance(1.0)
        [line] = (await shown(queue))["lines"]
        assert (line["model"], line["waiting"], line["per_s"]) == ("m", 3, None)
        assert 'No backend serves the model "m"' in line["waits_for"]


async def test_of_very_many_lines_the_longest_are_told() -> None:
    async with night(ready=False) as it:
        it.it.supervisor.pause_queue("for a moment")
        for number in range(LINES + 5):
            await it.accept(client=f"client {number}")
        await it.accept(client="client 77")
        now = await shown(Queue(it.it.supervisor))
        assert (len(now["lines"]), now["lines_total"], now["waiting"]) == (LINES, LINES + 5, LINES + 6)
        assert now["lines"][0]["client"] == "client 77"


async def test_pause_and_resume() -> None:
    async with night() as it:
        queue, supervisor = Queue(it.it.supervisor), it.it.supervisor
        assert told(await queue.resumed(asking()))["message"] == "it was not paused"
        assert told(await queue.paused(asking(b'{"why": " a\\n new  disk "}')))["paused"] == "a new disk"
        assert supervisor.dispatcher.held == "a new disk"
        assert told(await queue.paused(asking()))["paused"] == "a new disk", "without a reason, that of before stays"
        async with beside(it.accept()) as accepting:
            await it.clock.until(accepting.done, "the job to be taken, paused or not")
        assert (await shown(queue))["waiting"] == 1
        assert told(await queue.resumed(asking()))["message"] == "resumed"
        await it.ended(accepting.result().job_id)


@pytest.mark.parametrize("body", [b"[]", b'{"why": 3}', b"{", b"[" * 100_000])
async def test_a_reason_that_is_no_text_is_refused(body: bytes) -> None:
    async with night(0) as it:
        with pytest.raises(InvalidRequestError, match="an object like"):
            await Queue(it.it.supervisor).paused(asking(body))
        assert not it.it.supervisor.dispatcher.held
