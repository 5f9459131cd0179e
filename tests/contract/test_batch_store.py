"""What every store promises of batches: the one on disk and the one that stands in for it in tests."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from supervisord.core.errors import ConflictError
from supervisord.core.job import FailureReason, JobStatus
from supervisord.core.record import BatchCounts, BatchStatus, KeyRecord, LineError
from supervisord.ports import JobFilter, Page, Store
from tests.fakes.records import a_batch, a_durable_job, a_file, a_line, a_result, an_attempt, job_id

MUCH = 10**9


async def test_a_batch_is_read_back_in_its_newest_state(store: Store) -> None:
    at = {BatchStatus.VALIDATING: 1.0, BatchStatus.FAILED: 2.5}
    errors = (LineError("bad", "wörds", 3, "body.model"), LineError("empty", "no line"))
    metadata = {"who": "ä"}
    await store.put_batch(a_batch(1, BatchStatus.VALIDATING))
    failed = a_batch(1, BatchStatus.FAILED, at=at, errors=errors, metadata=metadata, total=7, output_file="o")
    await store.put_batch(failed)
    metadata["who"] = "changed later"
    at.clear()
    known = await store.batch("batch-1")
    assert known == replace(
        failed, at={BatchStatus.VALIDATING: 1.0, BatchStatus.FAILED: 2.5}, metadata={"who": "ä"}, errors=errors
    )
    assert await store.batch("batch-2") is None


async def test_batches_come_page_by_page_by_door(store: Store) -> None:
    for number in range(1, 7):
        await store.put_batch(a_batch(number, door="openai" if number < 6 else "anthropic", client=f"c{number % 2}"))

    async def numbers(door: str = "openai", **page: object) -> list[int]:
        return [int(batch.id[-1]) for batch in await store.batches(Page(**page), door)]  # type: ignore[arg-type]

    assert await numbers() == [5, 4, 3, 2, 1]
    assert await numbers("anthropic") == [6]
    assert await numbers(limit=2, after="batch-4") == [3, 2]
    assert await numbers(limit=2, before="batch-2") == [4, 3]
    assert await numbers(client="c1") == [5, 3, 1]


async def test_the_unfinished_come_oldest_first(store: Store) -> None:
    for number, status in enumerate(BatchStatus, start=1):
        await store.put_batch(a_batch(number, status))
    assert [batch.status for batch in await store.unfinished_batches()] == [
        BatchStatus.VALIDATING,
        BatchStatus.IN_PROGRESS,
        BatchStatus.FINALIZING,
        BatchStatus.CANCELLING,
    ]


async def test_a_batch_is_found_by_its_output(store: Store) -> None:
    await store.put_batch(a_batch(1, output_file="out-1", error_file="err-1"))
    await store.put_batch(a_batch(2))
    assert await store.batch_of_file("out-1") == await store.batch_of_file("err-1") == await store.batch("batch-1")
    assert await store.batch_of_file("file-1") is None
    assert await store.batch_of_file("") is None


async def test_a_batch_and_its_key_are_there_together(store: Store) -> None:
    key = KeyRecord("editor", "k1", "d1", "", 1000.0, batch="batch-1")
    await store.put_batch(a_batch(1), key)
    assert await store.known_key("editor", "k1") == key
    for taken in (key, replace(key, batch="batch-2")):
        with pytest.raises(ConflictError):
            await store.put_batch(a_batch(2), taken)
    with pytest.raises(ConflictError):
        await store.accept([a_durable_job(1)], replace(key, batch="", job_id=job_id(1)))
    assert await store.batch("batch-2") is None
    assert await store.job(job_id(1)) is None
    await store.put_batch(a_batch(1, BatchStatus.COMPLETED))
    assert await store.known_key("editor", "k1") == key
    assert await store.delete_batch("batch-1")
    assert await store.known_key("editor", "k1") is None


async def test_a_line_is_one_job(store: Store) -> None:
    await store.accept([a_line(1), a_line(2)])
    again = replace(a_line(3), terms=a_line(2).terms)
    for lines in ([a_line(4), again], [again]):
        with pytest.raises(ConflictError):
            await store.accept(lines)
    with pytest.raises(ConflictError):
        await store.accept_ended([again], status="cancelled", reason="cancelled", detail="")
    await store.accept([replace(a_line(3), terms=a_line(2, batch="other").terms)])
    found = await store.batch_jobs("batch-1", after_line=0, limit=9, most_bytes=MUCH)
    assert [stored.job.id for stored in found] == [job_id(1), job_id(2)]


async def test_lines_that_never_run_are_there_and_have_ended(store: Store, clock: list[float]) -> None:
    await store.accept([a_line(1), a_line(2)])
    await store.accept_ended(
        [a_line(3, body=b"in"), a_line(4)], status="failed", reason="deadline_exceeded", detail="too late"
    )
    assert await store.batch_counts("batch-1") == BatchCounts(waiting=2, expired=2)
    late = await store.job(job_id(3))
    assert late is not None
    assert late.job == a_line(3, body=None)
    assert late.result is not None
    result = late.result
    assert (result.status, result.reason) == (JobStatus.FAILED, FailureReason.DEADLINE_EXCEEDED)
    assert (result.detail, result.finished_at, result.attempts) == ("too late", clock[0], 0)
    store.put_attempt_started(job_id(4), 1, "left", 1)
    assert await store.batch_counts("batch-1") == BatchCounts(waiting=2, expired=2)
    assert sum((await store.flows()).values()) == 2


async def test_the_results_of_a_batch_are_forgotten_with_it(store: Store) -> None:
    for number in (1, 2):
        await store.put_batch(
            a_batch(number, BatchStatus.COMPLETED, output_file=f"file-{number}", error_file=f"file-{number + 2}")
        )
    for number in (1, 2, 3):
        await store.put_file(a_file(number, purpose="batch_output"))
    assert await store.delete_batch("batch-1")
    assert [await store.file(f"file-{number}") is None for number in (1, 2, 3)] == [True, False, True]


async def test_counts_are_those_of_this_moment(store: Store) -> None:
    await store.put_batch(a_batch(1))
    assert await store.batch_counts("batch-1") == BatchCounts()
    await store.accept([a_line(number) for number in range(1, 10)])
    await store.accept([a_line(10, batch="other"), a_durable_job(11)])
    assert await store.batch_counts("batch-1") == BatchCounts(waiting=9)
    store.put_attempt_started(job_id(1), 1, "left", 1)
    store.put_result(replace(a_result(2), http_status=200))
    store.put_result(replace(a_result(3), http_status=399))
    store.put_result(replace(a_result(4), http_status=400))
    store.put_result(a_result(5))
    store.put_result(a_result(6, JobStatus.FAILED, reason=FailureReason.BACKEND_DIED))
    store.put_result(a_result(7, JobStatus.FAILED, reason=FailureReason.DEADLINE_EXCEEDED))
    store.put_result(a_result(8, JobStatus.CANCELLED, reason=FailureReason.CANCELLED))
    counts = BatchCounts(waiting=1, running=1, succeeded=3, failed=2, cancelled=1, expired=1)
    assert await store.batch_counts("batch-1") == counts
    assert counts.ended == 7
    await store.put_batch(a_batch(1, BatchStatus.FAILED))  # which its lines should not outlive, and do
    assert await store.batch_counts("batch-1") == counts
    store.put_result(a_result(1))
    store.put_result(a_result(9))
    counts = replace(counts, waiting=0, running=0, succeeded=5)
    assert await store.batch_counts("batch-1") == counts
    await store.put_batch(a_batch(1, BatchStatus.COMPLETED))
    assert await store.batch_counts("batch-1") == counts
    assert await store.batch_counts("nobody") == BatchCounts()


async def test_lines_come_in_their_order_with_their_answers(store: Store) -> None:
    await store.accept([a_line(number) for number in (4, 2, 1, 3)])
    await store.accept([a_line(5, batch="other")])
    for number in (1, 2, 4):
        store.put_attempt(an_attempt(number))
        store.put_result(a_result(number, output=b"x" * 100))

    async def lines(after_line: int = 0, limit: int = 100, most_bytes: int = MUCH) -> list[int]:
        found = await store.batch_jobs("batch-1", after_line=after_line, limit=limit, most_bytes=most_bytes)
        return [stored.job.terms.line for stored in found if stored.job.terms is not None]

    assert await lines() == [1, 2, 3, 4]
    assert await lines(after_line=1, limit=2) == [2, 3]
    assert await lines(after_line=4) == []
    assert await lines(most_bytes=0) == [1]
    assert await lines(most_bytes=299) == [1, 2, 3]
    first, *_ = await store.batch_jobs("batch-1", after_line=0, limit=1, most_bytes=MUCH)
    assert (first.job, first.attempts) == (a_line(1, body=None), ())
    assert first.result == a_result(1, output=b"x" * 100)


@pytest.mark.parametrize("lines", [1, 500, 1001])
async def test_a_batch_that_ended_is_forgotten_with_its_lines(store: Store, lines: int) -> None:
    await store.put_batch(a_batch(1))
    await store.accept([a_line(number) for number in range(1, lines + 1)])
    await store.accept([a_line(5000, batch="batch-2")])
    assert not await store.delete_batch("batch-1")
    await store.end_waiting("batch-1", status="cancelled", reason="cancelled", detail="")
    await store.put_batch(a_batch(1, BatchStatus.CANCELLED))
    assert await store.delete_batch("batch-1")
    assert not await store.delete_batch("batch-1")
    assert not await store.delete_batch("nobody")
    assert await store.batch("batch-1") is None
    assert await store.batches(Page(), "openai") == []
    assert await store.batch_counts("batch-1") == BatchCounts()
    assert [stored.job.id for stored in await store.jobs(JobFilter())] == [job_id(5000)]


async def test_batches_and_their_lines_are_known_in_a_later_life(
    kind: str, make: Callable[[bool], Store], store: Store
) -> None:
    await store.put_batch(a_batch(1, total=2))
    await store.accept([a_line(1), a_line(2)])
    store.put_result(a_result(1, output=b"out"))
    await store.close()
    later = store if kind == "memory" else make(True)
    await later.open()
    try:
        assert await later.unfinished_batches() == [a_batch(1, total=2)]
        assert await later.batch_counts("batch-1") == BatchCounts(waiting=1, succeeded=1)
    finally:
        await later.close()
