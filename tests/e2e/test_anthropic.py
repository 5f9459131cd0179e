"""The Anthropic door with Anthropic's own client, against stub backends that fail."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import anthropic
import pytest
from anthropic.types import MessageParam

from tests.e2e.conftest import Start
from tests.fakes.daemon import Daemon, Json

pytestmark = pytest.mark.e2e

ASKED: list[MessageParam] = [{"role": "user", "content": "hello"}]


@asynccontextmanager
async def client_of(daemon: Daemon) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=daemon.url, api_key="none", max_retries=0, timeout=60) as made:
        yield made


async def ended(daemon: Daemon, count: int = 1) -> list[Json]:
    """The records, once so many have ended."""

    async def reached() -> list[Json]:
        jobs = await daemon.jobs()
        return jobs if sum(job["finished_at"] is not None for job in jobs) >= count else []

    found: list[Json] = await daemon.until(reached, f"{count} jobs to end")
    return found


async def at_work(daemon: Daemon, *, queued: int = 0) -> None:
    """Returns once one request is in flight, and so many wait."""

    async def reached() -> bool:
        status = await daemon.status()
        return bool(status["backends"][0]["in_flight"]) and status["queue"]["depth"] >= queued

    await daemon.until(reached, "requests in flight and in the queue")


async def test_messages_plain_and_streamed_and_their_record(start: Start) -> None:
    async with start("--tokens", "5") as daemon, client_of(daemon) as client:
        raw = await client.messages.with_raw_response.create(model="stub", max_tokens=9, messages=ASKED)
        message = await raw.parse()
        assert [block.text for block in message.content if block.type == "text"] == ["t0 t1 t2 t3 t4 "]
        assert (message.stop_reason, message.usage.output_tokens) == ("end_turn", 5)
        assert message._request_id == raw.headers["x-job-id"]
        async with client.messages.stream(model="stub", max_tokens=3, messages=ASKED) as stream:
            assert [text async for text in stream.text_stream] == ["t0 ", "t1 ", "t2 "]
            final = await stream.get_final_message()
        assert (final.stop_reason, final.usage.output_tokens) == ("max_tokens", 3)
        counted = await client.messages.count_tokens(model="stub", messages=ASKED)
        assert counted.input_tokens == message.usage.input_tokens
        jobs = await ended(daemon, 3)
        assert [job["endpoint"] for job in jobs] == ["/v1/messages", "/v1/messages", "/v1/messages/count_tokens"]
        streamed = jobs[1]["attempts"][0]
        assert (streamed["tokens_in"], streamed["tokens_out"]) == (final.usage.input_tokens, 3)


async def test_models_are_told_by_the_header(start: Start) -> None:
    async with start(aliases=["one", "org/two"]) as daemon, client_of(daemon) as client:
        await daemon.until_phase("ready")
        assert [model.id async for model in client.models.list(limit=2)] == ["stub", "one", "org/two"]
        known = await client.models.retrieve("org/two")
        assert (known.type, known.id, known.max_input_tokens) == ("model", "org/two", 4096)
        with pytest.raises(anthropic.NotFoundError) as refused:
            await client.models.retrieve("nobody")
        assert refused.value.type == "not_found_error"


async def test_errors_are_in_anthropics_shape(start: Start, http: aiohttp.ClientSession) -> None:
    async with start(
        top={"queue": {"limit": 1}, "limits": {"body": "1MiB"}}, environment={"STUB_FAULTS": "--prefill-seconds 3"}
    ) as daemon:
        async with client_of(daemon) as client:
            with pytest.raises(anthropic.NotFoundError, match="nobody"):
                await client.messages.create(model="nobody", max_tokens=5, messages=ASKED)
            with pytest.raises(anthropic.BadRequestError, match="array") as bad:
                await client.messages.create(model="stub", max_tokens=5, messages="hello")  # type: ignore[arg-type]
            assert bad.value.type == "invalid_request_error"
            with pytest.raises(anthropic.BadRequestError, match="context") as long:
                await client.messages.create(
                    model="stub", max_tokens=5, messages=[{"role": "user", "content": "long " * 5000}]
                )
            assert long.value.type == "invalid_request_error"
            async with asyncio.TaskGroup() as group:
                waiting = [
                    group.create_task(client.messages.create(model="stub", max_tokens=1, messages=ASKED))
                    for _ in range(2)
                ]
                await at_work(daemon, queued=1)
                with pytest.raises(anthropic.APIStatusError) as busy:
                    await client.messages.create(model="stub", max_tokens=1, messages=ASKED)
                for task in waiting:
                    task.cancel()
            assert (busy.value.status_code, busy.value.type) == (529, "overloaded_error")
            assert int(busy.value.response.headers["retry-after"]) <= 60
            assert busy.value.response.headers["x-should-retry"] == "true"
            with pytest.raises(anthropic.RequestTooLargeError) as large:
                await client.messages.create(
                    model="stub", max_tokens=5, messages=[{"role": "user", "content": "x" * 2_000_000}]
                )
            assert large.value.type == "request_too_large"
        async with http.post(daemon.url + "/v1/messages/nothing", json={}) as answer:
            told = await answer.json()
            assert (answer.status, told["type"], told["error"]["type"]) == (404, "error", "not_found_error")


async def test_a_backend_without_the_endpoint_is_told_clearly(start: Start) -> None:
    async with start("--lacks", "/v1/messages") as daemon, client_of(daemon) as client:
        with pytest.raises(anthropic.APIStatusError) as missing:
            await client.messages.create(model="stub", max_tokens=5, messages=ASKED)
        assert missing.value.status_code == 501
        assert 'The backend "stub" does not offer /v1/messages: it answered 404' in str(missing.value)
        assert missing.value.response.headers["x-should-retry"] == "false"
        assert (await daemon.backend("stub"))["phase"] == "ready", "which is nothing it is to blame for"
        assert (await ended(daemon))[0]["reason"] == "endpoint_missing"


async def test_row_1_killed_in_mid_stream_the_client_is_told_in_its_own_format(start: Start) -> None:
    async with start("--tokens", "20", "--die-mid-stream", "1") as daemon, client_of(daemon) as client:
        texts = []
        with pytest.raises(anthropic.APIStatusError, match="cut off") as cut:  # noqa: PT012 - read until it breaks
            async with client.messages.stream(model="stub", max_tokens=20, messages=ASKED) as stream:
                async for text in stream.text_stream:
                    texts.append(text)  # noqa: PERF401 - what came before it broke counts
        assert len(texts) == 10
        assert json.loads(json.dumps(cut.value.body))["error"]["type"] == "api_error"
        assert (await ended(daemon))[0]["reason"] == "backend_died"


async def test_row_2_killed_before_the_first_byte_the_client_does_not_notice(start: Start, tmp_path: Path) -> None:
    struck = str(tmp_path / "struck")
    async with start("--die-before-first-byte", "1", "--once-file", struck) as daemon, client_of(daemon) as client:
        async with client.messages.stream(model="stub", max_tokens=4, messages=ASKED) as stream:
            assert (await stream.get_final_message()).usage.output_tokens == 4
        assert len((await ended(daemon))[0]["attempts"]) == 2


async def test_a_client_that_waits_is_pinged(start: Start, http: aiohttp.ClientSession) -> None:
    async with start("--prefill-seconds", "5.6") as daemon, client_of(daemon) as client:
        body = {"model": "stub", "max_tokens": 2, "messages": ASKED, "stream": True}
        async with asyncio.TaskGroup() as group:
            group.create_task(client.messages.create(model="stub", max_tokens=1, messages=ASKED))
            await at_work(daemon)
            async with http.post(daemon.url + "/v1/messages", json=body) as answer:
                text = await answer.text()
        assert text.startswith(": waiting position=1")
        assert 'event: ping\ndata: {"type": "ping"}\n\n' in text
        assert text.rstrip().endswith('data: {"type":"message_stop"}')
