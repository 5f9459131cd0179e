"""The jobs door over the engine, on played time: what followers are told while nothing happens, and what is gone."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from supervisord.api.door import HttpClient, Request, Response, Work
from supervisord.api.jobs import TELL_EVERY_S, JobsDoor
from supervisord.api.later import Later
from supervisord.core.errors import DrainingError, NotFoundError, StoreUnavailableError
from supervisord.engine.work.durable import Accepted
from supervisord.ports import StoredJob
from tests.engine.overnight import Night, night
from tests.engine.rig import Wire, beside

STALL_S = 5.0


class Asked:
    """The handlers of the door, asked as the public door asks them."""

    def __init__(self, it: Night) -> None:
        self.it = it
        self.door = JobsDoor(it.it.supervisor, stall_s=STALL_S)

    async def __call__(self, template: str, job_id: str, wire: Wire | None = None) -> Response | None:
        params = {"job_id": job_id}
        request = Request("GET", template, "", "", {}, b"", http_1_1=True, keep_alive=True, params=params)
        work = self.door.table[template]["GET"](request)
        assert not isinstance(work, Response)
        return await work(cast("HttpClient", wire or Wire()))


@asynccontextmanager
async def waiting() -> AsyncIterator[tuple[Night, Asked, str]]:
    """A job that waits, for the queue is paused."""
    async with night() as it:
        it.it.supervisor.pause_queue("for the test")
        yield it, Asked(it), (await it.accept()).job_id


def events(wire: Wire) -> list[tuple[str, Any]]:
    blocks = [block.split("\n") for block in wire.body.decode().split("\n\n") if block]
    named = [[line for line in lines if not line.startswith(":")] for lines in blocks]
    return [(kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for kind, data in named]


async def test_whoever_follows_is_told_that_it_still_waits_and_then_all_that_happens() -> None:
    async with waiting() as (it, asked, job_id):
        wire = Wire()
        async with beside(asked("/v1/jobs/{job_id}/events", job_id, wire)) as following:
            await it.clock.advance(TELL_EVERY_S + 1)
            assert wire.headers["content-type"] == "text/event-stream"
            assert wire.body.endswith(b"for the test\n"), "one line, a single newline"
            assert wire.body.count(b": waiting position=") == 1
            it.it.supervisor.resume_queue()
            await it.ended(job_id)
            await it.clock.until(following.done, "the end of the events")
        assert wire.finished
        assert [kind for kind, _ in events(wire)] == ["status", "started", "ended"]
        assert [told["status"] for _, told in events(wire)] == ["queued", "running", "done"]


async def gone(_job_id: str, *, bodies: bool = True) -> None:
    raise StoreUnavailableError("the disk went away")


async def test_while_it_runs_and_where_the_store_does_not_answer_the_connection_is_kept_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with waiting() as (it, asked, job_id):
        it.services[0].hangs = True
        it.it.supervisor.resume_queue()
        await it.arrived(1)
        wire = Wire()
        async with beside(asked("/v1/jobs/{job_id}/events", job_id, wire)):
            await it.clock.advance(TELL_EVERY_S + 1)
            assert wire.body.endswith(b"\n\n: running\n")
            monkeypatch.setattr(it.store, "job", gone)
            await it.clock.advance(TELL_EVERY_S)
            assert wire.body.endswith(b": running\n: waiting\n")
            assert not wire.finished
            monkeypatch.undo()


async def test_events_end_without_an_end_of_the_job_where_the_daemon_goes_down() -> None:
    async with waiting() as (it, asked, job_id):
        wire = Wire()
        async with beside(asked("/v1/jobs/{job_id}/events", job_id, wire)) as following:
            await it.clock.rest()
            it.durable.bulletin.close()
            await it.clock.until(following.done, "the end of the events")
        assert (wire.finished, [kind for kind, _ in events(wire)]) == (True, ["status"])


async def test_the_output_is_what_the_backend_said_and_of_others_there_is_none() -> None:
    async with waiting() as (it, asked, job_id):
        with pytest.raises(NotFoundError, match="it is queued"):
            await asked("/v1/jobs/{job_id}/output", job_id)
        it.it.supervisor.resume_queue()
        (stored,) = await it.ended(job_id)
        answer = await asked("/v1/jobs/{job_id}/output", job_id)
        assert answer is not None
        assert stored.result is not None
        assert (answer.status, answer.body) == (200, stored.result.output)
        assert dict(answer.headers)["x-content-type-options"] == "nosniff"


async def test_whoever_only_looks_has_no_bodies_read_however_long_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred looks at a request of 50 MB kept every other client from looking for 10 s."""
    async with waiting() as (it, asked, job_id):
        read, whole = it.store.job, list[str]()

        async def noted(wanted: str, *, bodies: bool = True) -> StoredJob | None:
            if bodies:
                whole.append(wanted)
            return await read(wanted, bodies=bodies)

        monkeypatch.setattr(it.store, "job", noted)
        assert await asked("/v1/jobs/{job_id}", job_id) is not None
        async with beside(asked("/v1/jobs/{job_id}/events", job_id)) as following:
            await it.clock.advance(4 * TELL_EVERY_S)
            assert whole == []
            it.it.supervisor.resume_queue()
            await it.clock.until(following.done, "the end of the events")
        assert whole == []
        assert await asked("/v1/jobs/{job_id}/result", job_id) is not None
        assert whole == [job_id]


async def test_answers_of_requests_that_were_waited_for_are_nobody_elses() -> None:
    async with night() as it:
        ids: list[str] = []
        await it.it.supervisor.gateway.serve(it.asked(), Wire(), ids.append)
        shown = await Asked(it)("/v1/jobs/{job_id}", ids[0])
        assert shown is not None
        assert json.loads(shown.body)["origin"] is None
        for part in ("result", "output"):
            with pytest.raises(NotFoundError, match="went to its client"):
                await Asked(it)(f"/v1/jobs/{{job_id}}/{part}", ids[0])


def keyed(it: Night, asked: Asked) -> Work:
    """A request with a key, as the OpenAI door has it answered."""
    headers = {"idempotency-key": "k"}
    request = Request("POST", "/", "", "", headers, b"", http_1_1=True, keep_alive=True)
    work = Later(it.it.supervisor, asked.door).work(request, it.asked("again"), {})
    assert work is not None
    return work


async def made(it: Night) -> str:
    """The job of that key, once it is there."""
    while (known := await it.store.known_key("", "k")) is None:
        await it.clock.advance(0.1)
    return known.job_id


async def test_whoever_waits_by_a_key_waits_for_as_long_as_it_takes() -> None:
    async with waiting() as (it, asked, _):
        async with beside(keyed(it, asked)(cast("HttpClient", Wire()))) as answering:
            job_id = await made(it)
            await it.clock.advance(200)
            assert not answering.done()
            it.it.supervisor.resume_queue()
            await it.ended(job_id)
            await it.clock.until(answering.done, "the answer")
            answer = answering.result()
        assert answer is not None
        assert (answer.status, dict(answer.headers)["x-job-id"]) == (200, job_id)


async def test_where_the_daemon_goes_down_it_is_told_to_ask_again() -> None:
    async with waiting() as (it, asked, _), beside(keyed(it, asked)(cast("HttpClient", Wire()))) as answering:
        job_id = await made(it)
        it.it.supervisor.draining = True
        it.durable.bulletin.close()
        await it.clock.until(answering.done, "the answer")
        with pytest.raises(DrainingError, match=f"Job {job_id} goes on when it is up again"):
            answering.result()
        it.it.supervisor.draining = False


async def test_a_job_that_was_deleted_under_who_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with waiting() as (it, asked, _):
        with pytest.raises(NotFoundError, match="was deleted"):
            await asked.door.accepted(Accepted("nobody", known=True))
        async with beside(keyed(it, asked)(cast("HttpClient", Wire()))) as answering:
            job_id = await made(it)
            monkeypatch.setattr(it.store, "job", deleted)
            await it.clock.advance(61)
            with pytest.raises(NotFoundError, match=f"{job_id}.* was deleted"):
                answering.result()


async def deleted(_job_id: str, *, bodies: bool = True) -> None:
    return None
