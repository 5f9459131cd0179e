"""Batches, through the official client."""

import json
from dataclasses import replace
from typing import Any

import aiohttp
import openai
import pytest
from openai.types import Batch

from supervisord.core.job import FailureReason, JobStatus
from supervisord.core.keys import Key, digest_of
from tests.api.batch_house import BatchHouse, batch_house, until

EMBEDDINGS = "/v1/embeddings"


def lines(*ids: str, **changes: Any) -> bytes:
    text = ""
    for each in ids:
        body = {"model": "m", "input": each}
        text += json.dumps({"custom_id": each, "method": "POST", "url": EMBEDDINGS, "body": body, **changes}) + "\n"
    return text.encode()


async def begin(client: openai.AsyncOpenAI, data: bytes, **changes: Any) -> Batch:
    file = await client.files.create(file=("in.jsonl", data), purpose="batch")
    asked = {"input_file_id": file.id, "endpoint": EMBEDDINGS, "completion_window": "24h", **changes}
    return await client.batches.create(**asked)


async def ended(house: BatchHouse, client: openai.AsyncOpenAI, batch_id: str, status: str) -> Batch:
    await until(lambda: house.store._batches[batch_id].status == status)
    return await client.batches.retrieve(batch_id)


async def test_from_a_file_to_its_answers() -> None:
    async with batch_house() as house, house.client() as client:
        made = await begin(client, lines("a", "b", "c"), metadata={"night": "1"})
        assert (made.object, made.status, made.endpoint) == ("batch", "validating", EMBEDDINGS)
        assert (made.completion_window, made.metadata) == ("24h", {"night": "1"})
        assert made.expires_at == made.created_at + 24 * 3600
        assert made.request_counts is not None
        assert made.request_counts.to_dict() == {"total": 0, "completed": 0, "failed": 0}

        await house.jobs(3)
        house.hands.answer(house.hands.accepted[0])
        now = await client.batches.retrieve(made.id)
        assert (now.status, now.output_file_id, now.errors) == ("in_progress", None, None)
        assert now.request_counts is not None
        assert now.request_counts.to_dict() == {"total": 3, "completed": 1, "failed": 0}

        house.hands.answer(house.hands.accepted[2])
        house.hands.end(house.hands.accepted[1], JobStatus.FAILED, reason=FailureReason.POISON, detail="it kills")
        last = await ended(house, client, made.id, "completed")
        assert last.request_counts is not None
        assert last.request_counts.to_dict() == {"total": 3, "completed": 2, "failed": 1}
        assert last.in_progress_at
        assert last.finalizing_at
        assert last.completed_at
        assert not last.failed_at
        assert last.output_file_id
        assert last.error_file_id
        good = [json.loads(line) for line in (await client.files.content(last.output_file_id)).iter_lines()]
        bad = [json.loads(line) for line in (await client.files.content(last.error_file_id)).iter_lines()]
        assert [line["custom_id"] for line in good] == ["a", "c"]
        assert [line["response"]["body"] for line in good] == [{"id": "x", "n": 1}] * 2
        assert [(line["custom_id"], line["error"]["code"]) for line in bad] == [("b", "poison")]
        output = await client.files.retrieve(last.output_file_id)
        assert (output.purpose, output.filename) == ("batch_output", f"{made.id}_output.jsonl")
        assert {file.purpose async for file in client.files.list()} == {"batch", "batch_output"}


async def test_a_batch_is_begun_once_for_a_key() -> None:
    async with batch_house() as house, house.client() as client:
        file = await client.files.create(file=("in.jsonl", lines("a")), purpose="batch")
        headers = {"Idempotency-Key": "night-1"}
        made = [
            await client.batches.create(
                input_file_id=file.id, endpoint=EMBEDDINGS, completion_window="24h", extra_headers=headers
            )
            for _ in range(2)
        ]
        assert made[0].id == made[1].id
        with pytest.raises(openai.UnprocessableEntityError):
            await client.batches.create(
                input_file_id=file.id,
                endpoint=EMBEDDINGS,
                completion_window="2d",
                extra_headers=headers,  # type: ignore[arg-type]
            )
        assert len([batch async for batch in client.batches.list()]) == 1


async def test_what_is_wrong_in_the_file_is_told_by_line() -> None:
    async with batch_house() as house, house.client() as client:
        made = await begin(client, lines("a") + b"{\n" + lines("a") + lines("b", url="/v1/completions"))
        last = await ended(house, client, made.id, "failed")
        assert last.errors is not None
        assert last.errors.data is not None
        assert last.errors.object == "list"
        assert [(e.line, e.code, e.param) for e in last.errors.data] == [
            (2, "invalid_json", None),
            (3, "duplicate_custom_id", "custom_id"),
            (4, "mismatched_url", "url"),
        ]
        assert all(e.message for e in last.errors.data)
        assert last.failed_at
        assert house.hands.accepted == []


async def test_cancel_ends_with_what_was_done() -> None:
    async with batch_house() as house, house.client() as client:
        made = await begin(client, lines("a", "b"))
        await house.jobs(2)
        house.hands.answer(house.hands.accepted[0])
        assert (await client.batches.cancel(made.id)).status == "cancelling"
        last = await ended(house, client, made.id, "cancelled")
        assert last.output_file_id
        assert last.cancelling_at
        assert last.cancelled_at
        assert (await client.batches.cancel(made.id)).status == "cancelled"
        other = await begin(client, b"{")
        await ended(house, client, other.id, "failed")
        with pytest.raises(openai.ConflictError) as refused:
            await client.batches.cancel(other.id)
        assert refused.value.response.headers["x-should-retry"] == "false"


async def test_a_list_goes_page_by_page() -> None:
    async with batch_house() as house, house.client() as client:
        made = [(await begin(client, lines("a"))).id for _ in range(5)]
        assert [batch.id async for batch in client.batches.list(limit=2)] == made[::-1]
        page = await client.batches.list(limit=5)
        assert [batch.id for batch in page.data] == made[::-1]
        assert page.data[0].request_counts is not None


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"endpoint": "/v1/images"}, "endpoint"),
        ({"endpoint": 7}, "endpoint"),
        ({"completion_window": "1 day"}, "completion_window"),
        ({"input_file_id": ""}, "input_file_id"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 3600}}, "output_expires_after"),
    ],
)
async def test_what_cannot_be_asked_for(changes: dict[str, Any], param: str) -> None:
    async with batch_house() as house, house.client() as client:
        with pytest.raises(openai.BadRequestError) as refused:
            await begin(client, lines("a"), **changes)
        assert refused.value.param == param
        assert house.store._batches == {}


async def test_a_body_that_is_no_object_is_refused() -> None:
    async with batch_house() as house, aiohttp.ClientSession() as http:
        for body in (b"", b"[]", b'{"a":', b"[" * 5000, b'"\xff"'):
            async with http.post(house.url + "/v1/batches", data=body) as answer:
                assert (answer.status, (await answer.json())["error"]["code"]) == (400, "invalid_json")


async def test_what_is_not_there_is_not_found() -> None:
    async with batch_house() as house, house.client() as client:
        for ask in (client.batches.retrieve, client.batches.cancel):
            with pytest.raises(openai.NotFoundError):
                await ask("batch_x")
        with pytest.raises(openai.NotFoundError):
            await client.batches.create(input_file_id="file-x", endpoint=EMBEDDINGS, completion_window="24h")


async def test_a_batch_that_has_ended_can_be_deleted() -> None:
    async with batch_house() as house, house.client() as client, aiohttp.ClientSession() as http:
        made = await begin(client, lines("a"))
        await house.jobs(1)
        async with http.delete(f"{house.url}/v1/batches/{made.id}") as answer:
            assert answer.status == 409
        house.hands.answer(*house.hands.accepted)
        last = await ended(house, client, made.id, "completed")
        async with http.delete(f"{house.url}/v1/batches/{made.id}") as answer:
            assert await answer.json() == {"id": made.id, "object": "batch", "deleted": True}
        assert last.output_file_id
        for gone in (client.files.retrieve(last.output_file_id), client.batches.retrieve(made.id)):
            with pytest.raises(openai.NotFoundError):
                await gone


async def test_answers_past_their_retention_are_gone_and_said_to_be() -> None:
    async with batch_house() as house, house.client() as client:
        made = await begin(client, lines("a"))
        await house.jobs(1)
        house.hands.answer(*house.hands.accepted)
        last = await ended(house, client, made.id, "completed")
        house.store._batches[made.id] = replace(house.store._batches[made.id], answers_kept=False)
        assert last.output_file_id
        with pytest.raises(openai.NotFoundError, match=r"store\.answers"):
            await client.files.content(last.output_file_id)


ANN, BOB = "secret-of-ann", "secret-of-bob"


async def test_keys_keep_batches_apart() -> None:
    keys = [Key("ann", digest_of(ANN)), Key("bob", digest_of(BOB))]
    async with batch_house(keys=keys) as house, house.client(ANN) as ann, house.client(BOB) as bob:
        made = await begin(ann, lines("a"))
        assert [batch.id async for batch in bob.batches.list()] == []
        for ask in (bob.batches.retrieve, bob.batches.cancel):
            with pytest.raises(openai.NotFoundError):
                await ask(made.id)
        with pytest.raises(openai.NotFoundError):
            await bob.batches.create(input_file_id=made.input_file_id, endpoint=EMBEDDINGS, completion_window="24h")
        await house.jobs(1)
        assert house.hands.accepted[0].client == "ann"
