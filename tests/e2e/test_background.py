"""Responses in the background with OpenAI's own client, against stub backends that fail."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent

from tests.e2e.conftest import Start
from tests.fakes.daemon import Daemon

pytestmark = pytest.mark.e2e

WORDS = "t0 t1 t2 t3 t4 t5 t6 t7 "


@asynccontextmanager
async def client_of(daemon: Daemon) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=daemon.url + "/v1", api_key="none", max_retries=0, timeout=60) as made:
        yield made


async def over(client: openai.AsyncOpenAI, response_id: str) -> Response:
    """The response once it has ended."""
    async with asyncio.timeout(30):
        while True:
            response = await client.responses.retrieve(response_id)
            if response.status not in {"queued", "in_progress"}:
                return response
            await asyncio.sleep(0.05)


def texts(events: list[ResponseStreamEvent]) -> str:
    return "".join(event.delta for event in events if event.type == "response.output_text.delta")


def numbers(events: list[ResponseStreamEvent]) -> list[int]:
    return [event.sequence_number for event in events]


async def test_created_found_and_deleted(start: Start) -> None:
    async with start() as daemon, client_of(daemon) as client:
        created = await client.responses.create(
            model="stub", input="hello", background=True, metadata={"who": "me"}, temperature=0.5, max_output_tokens=8
        )
        assert created.status in {"queued", "in_progress"}, "an idle backend begins it at once"
        assert (created.background, created.output, created.model) == (True, [], "stub")
        response = await over(client, created.id)
        assert (response.id, response.status, response.output_text) == (created.id, "completed", WORDS)
        assert (response.created_at, response.metadata) == (created.created_at, {"who": "me"})
        assert (response.tools, response.tool_choice, response.parallel_tool_calls) == ([], "auto", True)
        assert response.usage is not None
        assert (response.usage.output_tokens, response.temperature) == (8, 0.5)
        assert (await client.responses.cancel(created.id)).status == "completed", "what is over stays what it was"
        await client.responses.delete(created.id)
        for asked in (client.responses.retrieve, client.responses.delete, client.responses.cancel):
            with pytest.raises(openai.NotFoundError):
                await asked(created.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve("resp_nothing", stream=True)
        with pytest.raises(openai.BadRequestError, match="kept"):
            await client.responses.create(model="stub", input="hello", background=True, store=False)


async def test_a_stream_can_be_left_and_picked_up_anywhere(start: Start) -> None:
    async with start("--token-rate", "20") as daemon, client_of(daemon) as client:
        seen: list[ResponseStreamEvent] = []
        stream = await client.responses.create(model="stub", input="hello", background=True, stream=True)
        async for event in stream:
            seen.append(event)
            if event.type == "response.output_text.delta":
                break
        await stream.close()
        assert seen[0].type == "response.created"
        response_id = seen[0].response.id
        rest = [event async for event in await client.responses.retrieve(
            response_id, stream=True, starting_after=seen[-1].sequence_number
        )]  # fmt: skip
        again = [event async for event in await client.responses.retrieve(response_id, stream=True)]
        assert numbers(again) == list(range(len(again)))
        assert [event.type for event in again] == [event.type for event in [*seen, *rest]]
        assert texts(again) == texts([*seen, *rest]) == WORDS
        assert again[-1].type == "response.completed"
        assert again[-1].response.output_text == WORDS
        last = again[-1].sequence_number
        assert [e async for e in await client.responses.retrieve(response_id, stream=True, starting_after=last)] == []
        async with client.responses.stream(response_id=response_id) as helped:  # it holds events to its own rules
            final = await helped.get_final_response()
        assert final.output_text == WORDS


async def test_cancelled_while_it_runs_and_while_it_waits(start: Start) -> None:
    async with start("--token-rate", "5", "--tokens", "500") as daemon, client_of(daemon) as client:
        running = await client.responses.create(model="stub", input="one", background=True, stream=True)
        async for event in running:
            if event.type == "response.output_text.delta":
                break
        waiting = await client.responses.create(model="stub", input="two", background=True)
        first = (await client.responses.retrieve("resp_" + (await daemon.jobs())[0]["id"])).id
        for response_id in (waiting.id, first):
            cancelled = await client.responses.cancel(response_id)
            assert (cancelled.id, cancelled.status) == (response_id, "cancelled")
            assert (await client.responses.cancel(response_id)).status == "cancelled"
            events = [event async for event in await client.responses.retrieve(response_id, stream=True)]
            assert events[-1].type == "response.failed"
            assert events[-1].response.status == "cancelled"
        assert (await client.responses.retrieve(first)).output_text.startswith("t0 ")
        assert [event async for event in running][-1].type == "response.failed", "its follower is told"
        assert (await daemon.backend("stub"))["in_flight"] == 0


async def test_row_1_killed_in_mid_stream_it_is_tried_again(start: Start, tmp_path: Path) -> None:
    struck = str(tmp_path / "struck")
    async with start("--die-mid-stream", "1", "--once-file", struck) as daemon, client_of(daemon) as client:
        async with client.responses.stream(model="stub", input="hello", background=True) as stream:
            events = [event async for event in stream]
        assert events[-1].type == "response.completed"
        assert events[-1].response.output_text == WORDS
        assert numbers(events) == sorted(set(numbers(events)))
        assert texts(events) == "t0 t1 t2 t3 " + WORDS
        ended = [event.item.status for event in events if event.type == "response.output_item.done"]
        assert ended == ["incomplete", "completed"]
        job = (await daemon.jobs())[0]
        assert [attempt["status"] for attempt in job["attempts"]] == ["failed", "done"]


async def test_row_3_it_survives_the_death_of_the_daemon(start: Start) -> None:
    async with start("--token-rate", "10", "--tokens", "30") as daemon, client_of(daemon) as client:
        stream = await client.responses.create(model="stub", input="hello", background=True, stream=True)
        seen: list[ResponseStreamEvent] = []
        async for event in stream:
            seen.append(event)
            if len(texts(seen).split()) == 15:
                break
        assert seen[0].type == "response.created"
        response_id = seen[0].response.id
        await daemon.kill()
        await daemon.start()
        async with client_of(daemon) as later:
            async with later.responses.stream(response_id=response_id, starting_after=seen[-1].sequence_number) as on:
                rest = [event async for event in on]
            assert rest[-1].type == "response.completed"
            words = rest[-1].response.output_text.split()
            assert words == [f"t{number}" for number in range(30)]
            assert texts(rest).split() == words, "the try that followed, whole"
            assert numbers(rest)[0] > seen[-1].sequence_number


async def test_a_request_that_is_refused_tells_why(start: Start) -> None:
    async with start() as daemon, client_of(daemon) as client:
        created = await client.responses.create(model="stub", input="long " * 5000, background=True)
        response = await over(client, created.id)
        assert (response.status, response.output) == ("failed", [])
        assert response.error is not None
        assert response.error.code == "invalid_prompt"
        assert "exceeds the available context size" in response.error.message
        events = [event async for event in await client.responses.retrieve(created.id, stream=True)]
        assert [event.type for event in events] == ["response.created", "response.queued", "response.failed"]


async def test_a_backend_without_responses_is_told_clearly(start: Start) -> None:
    async with start("--lacks", "/v1/responses") as daemon, client_of(daemon) as client:
        response = await over(client, (await client.responses.create(model="stub", input="x", background=True)).id)
        assert response.error is not None
        assert "endpoint_missing" in response.error.message
        with pytest.raises(openai.InternalServerError, match="does not offer /v1/responses"):
            await client.responses.create(model="stub", input="x")
