"""The jobs door of the whole daemon, as its clients use it."""

import asyncio
import json
from typing import Any

import aiohttp

from tests.e2e.conftest import Start
from tests.fakes.daemon import Daemon

CHAT = "/v1/chat/completions"
BODY = {"model": "stub", "messages": [{"role": "user", "content": "hello"}]}


class Jobs:
    """A client of the jobs door."""

    def __init__(self, http: aiohttp.ClientSession, daemon: Daemon) -> None:
        self._http = http
        self._daemon = daemon

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self._http.request(method, self._daemon.url + path, json=body, headers=named) as answer:
            text = await answer.text()
            is_json = answer.content_type == "application/json"
            return (
                answer.status,
                json.loads(text) if is_json else text,
                {k.lower(): v for k, v in answer.headers.items()},
            )

    async def submit(self, **more: Any) -> str:
        status, told, headers = await self.ask("POST", "/v1/jobs", {"endpoint": CHAT, "body": BODY, **more})
        assert status == 202, told
        assert headers["location"] == f"/v1/jobs/{told['id']}"
        return str(told["id"])

    async def ended(self, job_id: str) -> Any:
        _, told, _ = await self.ask("GET", f"/v1/jobs/{job_id}?wait=30")
        return told


async def test_submitted_waited_for_and_read_as_often_as_one_likes(start: Start, http: aiohttp.ClientSession) -> None:
    async with start() as daemon:
        jobs = Jobs(http, daemon)
        job_id = await jobs.submit(priority="batch", metadata={"run": "7"})
        told = await jobs.ended(job_id)
        assert (told["status"], told["attempts"], told["backend"], told["error"]) == ("done", 1, "stub", None)
        assert (told["priority"], told["metadata"], told["origin"]) == ("batch", {"run": "7"}, "job")
        assert told["usage"]["tokens_out"] > 0
        for _ in range(2):
            status, answer, headers = await jobs.ask("GET", f"/v1/jobs/{job_id}/result")
            assert (status, answer["object"]) == (200, "chat.completion")
            assert (headers["x-job-id"], headers["x-backend"]) == (job_id, "stub")
        assert (await jobs.ask("GET", "/v1/jobs/nosuchjob"))[0] == 404
        assert (await jobs.ask("GET", f"/v1/jobs/{job_id[:6]}"))[0] == 404, "the begin of an id is none"


async def test_what_is_accepted_survives_the_daemon(start: Start, http: aiohttp.ClientSession) -> None:
    async with start("--tokens", "3") as daemon:
        jobs = Jobs(http, daemon)
        ids = [await jobs.submit() for _ in range(5)]
        await daemon.kill()
        await daemon.start()
        for job_id in ids:
            assert (await jobs.ended(job_id))["status"] == "done"


async def test_the_same_key_is_the_same_job(start: Start, http: aiohttp.ClientSession) -> None:
    async with start() as daemon:
        jobs = Jobs(http, daemon)
        async with asyncio.TaskGroup() as group:
            asks = [group.create_task(jobs.ask("POST", CHAT, BODY, Idempotency_Key="one")) for _ in range(4)]
        answers = [task.result() for task in asks]
        assert {status for status, _, _ in answers} == {200}
        assert len({headers["x-job-id"] for _, _, headers in answers}) == 1
        assert len({json.dumps(answer) for _, answer, _ in answers}) == 1
        status, told, headers = await jobs.ask("POST", CHAT, {**BODY, "max_tokens": 3}, Idempotency_Key="one")
        assert (status, told["error"]["code"], headers["x-should-retry"]) == (422, "idempotency_mismatch", "false")
        status, told, _ = await jobs.ask("POST", CHAT, {**BODY, "stream": True}, Idempotency_Key="two")
        assert (status, told["error"]["param"]) == (400, "stream")
        status, told, headers = await jobs.ask("POST", CHAT, BODY, Idempotency_Key="one", Prefer="respond-async")
        assert (status, told["status"], headers["preference-applied"]) == (202, "done", "respond-async")
        assert len([job for job in await daemon.jobs() if job["status"] == "done"]) == 1
        assert (await jobs.ask("POST", CHAT, BODY, Idempotency_Key="x" * 256))[0] == 400


async def test_answered_later(start: Start, http: aiohttp.ClientSession) -> None:
    async with start("--tokens", "5") as daemon:
        jobs = Jobs(http, daemon)
        status, told, headers = await jobs.ask("POST", CHAT, BODY, Prefer="respond-async", X_Client="me")
        assert (status, told["client"], headers["location"]) == (202, "me", f"/v1/jobs/{told['id']}")
        assert (await jobs.ended(told["id"]))["status"] == "done"
        status, answer, headers = await jobs.ask("POST", CHAT, BODY, Prefer="respond-async, wait=20")
        assert (status, answer["object"]) == (200, "chat.completion")
        status, told, _ = await jobs.ask("POST", CHAT, {**BODY, "model": "nobody"}, Prefer="respond-async")
        assert (status, told["error"]["code"]) == (404, "model_not_found")


async def test_lists_are_filtered_and_go_on_where_they_ended(start: Start, http: aiohttp.ClientSession) -> None:
    async with start() as daemon:
        jobs = Jobs(http, daemon)
        ids = [await jobs.submit() for _ in range(5)]
        for job_id in ids:
            await jobs.ended(job_id)
        await jobs.ask("POST", CHAT, BODY)  # a synchronous one is nobody else's to see
        seen, after = [], ""
        while True:
            _, page, _ = await jobs.ask("GET", f"/v1/jobs?limit=2&status=done&model=stub{after}")
            seen += [job["id"] for job in page["data"]]
            if not page["has_more"]:
                break
            after = f"&after={page['last_id']}"
        assert seen == sorted(ids, reverse=True)
        assert (await jobs.ask("GET", "/v1/jobs?status=failed"))[1]["data"] == []
        for wrong in ("statsu=done", "status=fine", "limit=1000", "limit=x", "since=x", "origin=x"):
            assert (await jobs.ask("GET", f"/v1/jobs?{wrong}"))[0] == 400, wrong


async def test_events_tell_it_from_the_begin_to_the_end(start: Start, http: aiohttp.ClientSession) -> None:
    async with start("--prefill-seconds", "0.3") as daemon:
        jobs = Jobs(http, daemon)
        job_id = await jobs.submit()
        events: list[list[str]] = []
        for _ in range(2):
            async with http.get(f"{daemon.url}/v1/jobs/{job_id}/events") as answer:
                assert answer.headers["content-type"] == "text/event-stream"
                text = await answer.text()
            events = [block.split("\n") for block in text.split("\n\n") if block]
            assert events[-1][0] == "event: ended"
            assert json.loads(events[-1][1].removeprefix("data: "))["status"] == "done"
            assert "\nid:" not in text
        assert len(events) == 1, "there is nothing more to tell of one that has ended"


async def test_cancelled_ones_say_so_and_stay_so(start: Start, http: aiohttp.ClientSession) -> None:
    async with start("--prefill-seconds", "30") as daemon:
        jobs = Jobs(http, daemon)
        running, waiting = await jobs.submit(), await jobs.submit()
        status, told, headers = await jobs.ask("GET", f"/v1/jobs/{waiting}/result")
        assert (status, told["error"]["code"], headers["x-should-retry"]) == (409, "conflict", "false")
        for job_id in (waiting, running, running):
            status, told, _ = await jobs.ask("POST", f"/v1/jobs/{job_id}/cancel")
            assert (status, told["status"], told["error"]["code"]) == (200, "cancelled", "cancelled")
        status, told, headers = await jobs.ask("GET", f"/v1/jobs/{running}/result")
        assert (status, told["error"]["code"], headers["x-should-retry"]) == (499, "cancelled", "false")


NO_JOBS: list[tuple[Any, str | None]] = [
    ({}, None),
    ([], None),
    ({"endpoint": "/v1/nothing", "body": {}}, "endpoint"),
    ({"endpoint": CHAT, "body": {}}, "messages"),
    ({"endpoint": CHAT, "body": {**BODY, "stream": True}}, "body.stream"),
    ({"endpoint": CHAT, "body": BODY, "priority": "now"}, "X-Priority"),
    ({"endpoint": CHAT, "body": BODY, "deadline": -1}, "x-deadline"),
    ({"endpoint": CHAT, "body": BODY, "max_attempts": 0}, "max_attempts"),
    ({"endpoint": CHAT, "body": BODY, "metadata": []}, "metadata"),
    ({"endpoint": CHAT, "body": BODY, "whatever": 1}, None),
]


async def test_what_is_no_job_is_refused(start: Start, http: aiohttp.ClientSession) -> None:
    async with start() as daemon:
        for job, param in NO_JOBS:
            status, told, _ = await Jobs(http, daemon).ask("POST", "/v1/jobs", job)
            assert (status, told["error"]["param"]) == (400, param), told
        assert (await Jobs(http, daemon).ask("GET", "/v1/jobs"))[1]["data"] == []
