"""Anthropic's door and responses in the background on a real llama.cpp and a real model, with the official clients."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import anthropic
import openai
import pytest
from anthropic.types import MessageParam

from tests.fakes.daemon import Daemon, running

pytestmark = [pytest.mark.e2e, pytest.mark.engine]

LOAD_S = 60.0
FRANCE = "What is the capital of France?"
GREEDY = {"temperature": 0}  # Anthropic's client has no parameter for it any more
ASKED: list[MessageParam] = [{"role": "user", "content": FRANCE}]


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    backend = {"model": "embedded", "context": 2048, "probe_interval": "300ms", "timeouts": {"probe": "500ms"}}
    async with running(Daemon(tmp_path, {"backends": {"gemma": backend}})) as started:
        await started.until_phase("ready", "gemma", within=LOAD_S)
        yield started


async def test_anthropics_client_gets_sensible_answers(daemon: Daemon) -> None:
    """Plain, streamed, counted, in a batch; each with its record."""
    async with anthropic.AsyncAnthropic(base_url=daemon.url, api_key="none", max_retries=0, timeout=90) as client:
        plain = await client.messages.create(model="gemma", max_tokens=24, messages=ASKED, extra_body=GREEDY)
        text = "".join(block.text for block in plain.content if block.type == "text")
        assert "Paris" in text
        async with client.messages.stream(model="gemma", max_tokens=24, messages=ASKED, extra_body=GREEDY) as stream:
            assert "".join([piece async for piece in stream.text_stream]) == text
        counted = await client.messages.count_tokens(model="gemma", messages=ASKED)
        used = plain.usage
        assert counted.input_tokens == used.input_tokens + (used.cache_read_input_tokens or 0)
        batch = await client.messages.batches.create(
            requests=[
                {
                    "custom_id": f"id-{number}",
                    "params": {"model": "gemma", "max_tokens": 24, "messages": ASKED, **GREEDY},  # type: ignore[typeddict-item]
                }
                for number in range(4)
            ]
        )
        async with asyncio.timeout(60):
            while (await client.messages.batches.retrieve(batch.id)).processing_status != "ended":  # noqa: ASYNC110
                await asyncio.sleep(0.2)
        lines = [line async for line in await client.messages.batches.results(batch.id)]
        assert sorted(line.custom_id for line in lines) == [f"id-{number}" for number in range(4)]
        for line in lines:
            assert line.result.type == "succeeded"
            assert "Paris" in "".join(block.text for block in line.result.message.content if block.type == "text")
    jobs = await daemon.jobs()
    streamed = next(job for job in jobs if job["stream"])["attempts"][0]
    assert (streamed["tokens_in"], streamed["tokens_out"]) == (counted.input_tokens, used.output_tokens)


async def test_openais_client_gets_responses_at_once_and_in_the_background(daemon: Daemon) -> None:
    async with openai.AsyncOpenAI(base_url=daemon.url + "/v1", api_key="none", max_retries=0, timeout=90) as client:
        plain = await client.responses.create(model="gemma", input=FRANCE, max_output_tokens=24, temperature=0)
        assert "Paris" in plain.output_text
        raw = await client.responses.create(
            model="gemma", input=FRANCE, max_output_tokens=24, temperature=0, stream=True
        )
        assert [event.type async for event in raw][-1] == "response.completed"
        async with client.responses.stream(
            model="gemma", input=FRANCE, max_output_tokens=24, temperature=0, background=True
        ) as stream:
            final = await stream.get_final_response()
        assert final.output_text == plain.output_text
        assert final.usage is not None
        assert final.usage.output_tokens > 0
        assert (await client.responses.retrieve(final.id)).output_text == plain.output_text
        long = await client.responses.create(
            model="gemma", input="Count from 1 to 1000.", background=True, extra_body={"ignore_eos": True}
        )
        cancelled = await client.responses.cancel(long.id)
        assert cancelled.status == "cancelled"
        await client.responses.delete(long.id)
    assert (await daemon.backend("gemma"))["in_flight"] == 0
