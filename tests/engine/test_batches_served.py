"""Batches whose lines run: the real engine over real sockets, on played time."""

import json

from supervisord.core.record import BatchStatus
from supervisord.engine.batching.batches import Batches, Wanted
from supervisord.engine.batching.files import UPLOADED
from tests.engine.overnight import Night, night
from tests.engine.rig import CHAT


async def begin(n: Night, *texts: str, window: str) -> str:
    """Its id; the custom ids are the texts."""
    batches = n.it.supervisor.batches
    writing = batches.files.begin("me")
    for text in texts:
        body = {"model": "m", "messages": [{"role": "user", "content": text}]}
        written = json.dumps({"custom_id": text, "method": "POST", "url": CHAT, "body": body})
        await writing.write(written.encode() + b"\n")
    file = await writing.finish("input.jsonl", UPLOADED)
    return (await batches.create(Wanted(file.id, CHAT, window, {}, "me")))[0].id


async def read(batches: Batches, file_id: str) -> list[str]:
    file = await batches.files.find(file_id)
    text = b"".join([part async for part in await batches.files.content(file)])
    return [json.loads(each)["custom_id"] for each in text.splitlines()]


async def test_what_runs_when_the_window_is_over_may_finish() -> None:
    async with night() as n:
        batches, service = n.it.supervisor.batches, n.services[0]
        service.slow_s = 100.0
        batch_id = await begin(n, "a", "b", "c", window="60s")
        await n.passes_until(lambda: service.in_flight == 1)
        await n.clock.advance(70)
        await n.socket()
        batch, counts = await batches.find(batch_id)
        assert (counts.running, counts.expired) == (1, 2)
        assert batch.status is BatchStatus.IN_PROGRESS
        await n.clock.advance(40)
        await n.passes_until(lambda: batches._courses.of(batch_id) is None)
        batch, counts = await batches.find(batch_id)
        assert (batch.status, counts.succeeded, counts.expired) == (BatchStatus.EXPIRED, 1, 2)
        assert await read(batches, batch.output_file) == ["a"]
        assert await read(batches, batch.error_file) == ["b", "c"]
        assert len(service.requests) == 1


async def test_a_backlog_that_is_shorter_than_a_batch_is_filled_again_and_again() -> None:
    async with night(limit=3) as n:
        batches = n.it.supervisor.batches
        batch_id = await begin(n, *(f"line {number}" for number in range(10)), window="1h")
        await n.passes_until(lambda: batches._courses.of(batch_id) is None)
        batch, counts = await batches.find(batch_id)
        assert (batch.status, counts.succeeded) == (BatchStatus.COMPLETED, 10)
        assert await read(batches, batch.output_file) == [f"line {number}" for number in range(10)]
