"""Anthropic's Message Batches with Anthropic's own client, against stub backends."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anthropic
import pytest
from anthropic.types.messages import MessageBatch
from anthropic.types.messages.batch_create_params import Request

from tests.e2e.conftest import Start
from tests.fakes.daemon import Daemon

pytestmark = pytest.mark.e2e


@asynccontextmanager
async def client_of(daemon: Daemon) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=daemon.url, api_key="none", max_retries=0, timeout=60) as made:
        yield made


def asked(custom_id: str, words: str = "hello") -> Request:
    messages = [{"role": "user", "content": words}]
    return {"custom_id": custom_id, "params": {"model": "stub", "max_tokens": 3, "messages": messages}}  # type: ignore[typeddict-item]


async def over(client: anthropic.AsyncAnthropic, batch_id: str) -> MessageBatch:
    async with asyncio.timeout(40):
        while (batch := await client.messages.batches.retrieve(batch_id)).processing_status != "ended":  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    return batch


async def test_a_batch_from_its_creation_to_its_deletion(start: Start) -> None:
    async with start("--slots", "4", slots=4) as daemon, client_of(daemon) as client:
        batches = client.messages.batches
        created = await batches.create(requests=[asked(f"id-{n}") for n in range(20)] + [asked("long", "long " * 5000)])
        assert (created.type, created.processing_status, created.results_url) == ("message_batch", "in_progress", None)
        assert created.request_counts.processing == 21
        assert (created.expires_at - created.created_at).total_seconds() == 24 * 3600
        with pytest.raises(anthropic.ConflictError):
            await client.messages.batches.delete(created.id)
        batch = await over(client, created.id)
        counts = batch.request_counts
        assert (counts.succeeded, counts.errored, counts.canceled, counts.expired, counts.processing) == (
            20,
            1,
            0,
            0,
            0,
        )
        assert batch.ended_at is not None
        results = {line.custom_id: line.result async for line in await batches.results(batch.id)}
        assert len(results) == 21
        good, bad = results["id-7"], results["long"]
        assert good.type == "succeeded"
        assert [block.text for block in good.message.content if block.type == "text"] == ["t0 t1 t2 "]
        assert bad.type == "errored"
        assert bad.error.error.type == "invalid_request_error"
        other = await batches.create(requests=[asked("only")])
        assert [each.id async for each in batches.list(limit=1)] == [other.id, created.id]
        await over(client, other.id)
        assert (await batches.delete(created.id)).type == "message_batch_deleted"
        with pytest.raises(anthropic.NotFoundError) as gone:
            await batches.retrieve(created.id)
        assert gone.value.type == "not_found_error"


async def test_cancelled_and_told_line_by_line(start: Start) -> None:
    async with start("--token-rate", "2", "--tokens", "100") as daemon, client_of(daemon) as client:
        batch = await client.messages.batches.create(requests=[asked(f"id-{n}") for n in range(50)])
        cancelled = await client.messages.batches.cancel(batch.id)
        assert cancelled.processing_status in {"canceling", "ended"}
        assert cancelled.cancel_initiated_at is not None
        ended = await over(client, batch.id)
        assert ended.request_counts.processing == 0
        assert ended.request_counts.canceled >= 48
        kinds = [line.result.type async for line in await client.messages.batches.results(batch.id)]
        assert (len(kinds), kinds.count("canceled")) == (50, ended.request_counts.canceled)


async def test_what_is_wrong_with_a_batch_is_told_with_its_place(start: Start) -> None:
    async with start() as daemon, client_of(daemon) as client:
        for wrong, told in (
            ([asked("a"), asked("a")], "requests.1"),
            ([asked("a"), asked("not allowed!")], "requests.1.custom_id"),
            ([{"custom_id": "a", "params": {"model": "stub"}}], "requests.0"),
            ([{"custom_id": "a"}], "params"),
            ([], "at least one request"),
        ):
            with pytest.raises(anthropic.BadRequestError, match=told) as refused:
                await client.messages.batches.create(requests=wrong)  # type: ignore[arg-type]
            assert refused.value.type == "invalid_request_error"
        assert [each async for each in client.messages.batches.list()] == []


async def test_row_3_a_batch_survives_the_death_of_the_daemon(start: Start) -> None:
    async with start("--token-rate", "60") as daemon, client_of(daemon) as client:
        batch = await client.messages.batches.create(requests=[asked(f"id-{n}") for n in range(40)])
        async with asyncio.timeout(30):
            while (await client.messages.batches.retrieve(batch.id)).request_counts.succeeded < 5:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        await daemon.kill()
        await daemon.start()
        async with client_of(daemon) as later:
            ended = await over(later, batch.id)
            assert ended.request_counts.succeeded == 40
            ids = [line.custom_id async for line in await later.messages.batches.results(batch.id)]
            assert sorted(ids) == sorted(f"id-{n}" for n in range(40))
