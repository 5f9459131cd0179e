"""What every store promises of durable jobs: the one on disk and the one that stands in for it in tests."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from supervisord.core.errors import ConflictError, InvalidRequestError, StoreUnavailableError
from supervisord.core.job import FailureReason, JobStatus
from supervisord.core.terms import Flow, Origin, OutputCheck, Terms
from supervisord.ports import JobFilter, Page, Store
from tests.fakes.looks import KEY, MUCH, found, ids_waiting
from tests.fakes.records import a_durable_job, a_file, a_job, a_line, a_result, an_attempt, job_id

# --- accepting -------------------------------------------------------------------------------------------------------


async def test_a_durable_job_waits_with_its_terms_and_its_body(store: Store) -> None:
    terms = Terms(
        Origin.BATCH,
        deadline_at=5000.5,
        max_attempts=7,
        batch="b",
        line=3,
        custom_id="mine ä",
        metadata={"team": "night", "ü": "\u2028"},
        check=OutputCheck('{"type": "object"}', retries=0),
    )
    job = replace(a_job(1, body=b'{"a": 1}'), terms=terms)
    await store.accept([job])
    stored = await found(store, 1)
    assert (stored.job, stored.status, stored.result) == (job, "queued", None)
    assert (stored.attempt, stored.failures, stored.interruptions, stored.attempts) == (0, 0, 0, ())


async def test_the_least_of_terms(store: Store) -> None:
    job = replace(a_job(1), terms=Terms(Origin.RESPONSE))
    await store.accept([job])
    assert (await found(store, 1)).job == job


async def test_all_are_taken_or_none(store: Store) -> None:
    await store.accept([a_durable_job(2)])
    with pytest.raises(ConflictError):
        await store.accept([a_durable_job(1), a_durable_job(2), a_durable_job(3)])
    assert [stored.job.id for stored in await store.jobs(JobFilter())] == [job_id(2)]
    await store.accept([])


async def test_synchronous_and_durable_jobs_have_doors_of_their_own(store: Store) -> None:
    with pytest.raises(ValueError, match="accepted"):
        store.put_job(a_durable_job(1))
    with pytest.raises(ValueError, match="terms"):
        await store.accept([a_durable_job(1), a_job(2)])
    assert not await store.jobs(JobFilter())


async def test_a_key_is_known_with_its_job_and_only_its_client(store: Store) -> None:
    await store.accept([a_durable_job(1)], KEY)
    assert await store.known_key("editor", "k1") == KEY
    assert await store.known_key("other", "k1") is None
    assert await store.known_key("editor", "k2") is None
    with pytest.raises(ConflictError):
        await store.accept([a_durable_job(2)], replace(KEY, job_id=job_id(2)))
    assert await store.job(job_id(2)) is None
    assert await store.known_key("editor", "k1") == KEY
    store.put_result(a_result(1))
    assert await store.delete_job(job_id(1))
    assert await store.known_key("editor", "k1") is None


# --- in the order in which they wait ---------------------------------------------------------------------------------


async def test_flows_count_what_waits(store: Store) -> None:
    assert await store.flows() == {}
    await store.accept([a_durable_job(number, model="qwen" if number % 2 else "gemma") for number in range(1, 6)])
    await store.accept([a_durable_job(6, priority=2), a_durable_job(7, client="other")])
    store.put_job(a_job(8))
    store.put_attempt_started(job_id(1), 1, "left", 1)
    assert await store.flows() == {
        Flow("qwen", 1, "editor"): 2,
        Flow("gemma", 1, "editor"): 2,
        Flow("qwen", 2, "editor"): 1,
        Flow("qwen", 1, "other"): 1,
    }


async def test_what_waits_comes_by_its_ids_with_bodies_and_attempts(store: Store) -> None:
    flow = Flow("qwen", 1, "editor")
    await store.accept([a_durable_job(number, body=b"%d" % number) for number in (5, 1, 3, 2, 4)])
    await store.accept(
        [a_durable_job(6, client="other"), a_durable_job(7, model="gemma"), a_durable_job(8, priority=0)]
    )
    store.put_job(a_job(9))
    store.put_attempt_started(job_id(2), 1, "left", 1)
    store.put_attempt(an_attempt(2, 1, status=JobStatus.FAILED, reason=FailureReason.BACKEND_DIED))
    store.put_requeued(job_id(2), 1, "left died", failures=1)
    assert await ids_waiting(store, flow) == [job_id(number) for number in (1, 2, 3, 4, 5)]
    assert await ids_waiting(store, flow, after=job_id(2), limit=2) == [job_id(3), job_id(4)]
    assert await ids_waiting(store, flow, after=job_id(5)) == []
    assert await ids_waiting(store, Flow("nobody", 1, "editor")) == []
    _, again, third, *_ = await store.waiting(flow, after="", limit=10, most_bytes=MUCH)
    assert third.job == a_durable_job(3, body=b"3")
    assert (again.job.body, again.attempt, again.failures, again.detail) == (b"2", 1, 1, "left died")
    assert [attempt.number for attempt in again.attempts] == [1]


async def test_bodies_are_bounded_but_one_always_comes(store: Store) -> None:
    flow = Flow("qwen", 1, "editor")
    await store.accept([a_durable_job(number, body=b"x" * 100) for number in range(1, 6)])
    assert await ids_waiting(store, flow, most_bytes=0) == [job_id(1)]
    assert await ids_waiting(store, flow, most_bytes=299) == [job_id(1), job_id(2)]
    assert await ids_waiting(store, flow, most_bytes=300) == [job_id(1), job_id(2), job_id(3)]


async def test_the_overdue_come_by_their_deadline(store: Store) -> None:
    deadlines = {1: 300.0, 2: None, 3: 100.0, 4: 200.0, 5: 100.0}
    await store.accept([a_durable_job(number, deadline_at=at) for number, at in deadlines.items()])
    store.put_attempt_started(job_id(4), 1, "left", 1)
    late = await store.overdue(300.0, 10)
    assert [stored.job.id for stored in late] == [job_id(3), job_id(5)]
    assert late[0].job == a_durable_job(3, deadline_at=100.0, body=None)
    assert [stored.job.id for stored in await store.overdue(300.1, 2)] == [job_id(3), job_id(5)]
    assert len(await store.overdue(300.1, 3)) == 3


# --- an end for all --------------------------------------------------------------------------------------------------


async def test_what_waits_of_a_batch_is_ended_in_one_go(store_without_bodies: Store) -> None:
    store = store_without_bodies
    await store.accept([a_line(number, model="qwen" if number % 3 else "gemma") for number in range(1, 7)])
    await store.accept([a_line(7, batch="other"), a_durable_job(8)])
    store.put_attempt_started(job_id(1), 1, "left", 1)
    store.put_attempt_started(job_id(2), 1, "left", 1)
    store.put_requeued(job_id(2), 1, "again")
    store.put_result(a_result(4))
    reason, detail = FailureReason.CANCELLED, "its batch was cancelled"
    ended = await store.end_waiting("batch-1", status=JobStatus.CANCELLED, reason=reason, detail=detail)
    assert ended == {Flow("gemma", 2, "editor"): 2, Flow("qwen", 2, "editor"): 2}
    statuses = {number: (await found(store, number)).status for number in range(1, 9)}
    assert statuses == {
        **dict.fromkeys((2, 3, 5, 6), "cancelled"),
        **dict.fromkeys((7, 8), "queued"),
        1: "running",
        4: "done",
    }
    again = (await found(store, 2)).result
    assert again is not None
    assert (again.attempts, again.reason, again.detail, again.finished_at) == (1, reason, detail, 2000.0)
    assert again.queue_wait_s == 1000.0  # until it was started for the first time
    assert (await found(store, 5)).job.body is None
    assert await store.end_waiting("batch-1", status="failed", reason="cancelled", detail="") == {}
    store.put_attempt_started(job_id(5), 1, "late", 1)
    assert (await found(store, 5)).status == "cancelled"


async def test_a_job_that_ended_is_forgotten_and_no_other(store: Store) -> None:
    await store.accept([a_durable_job(1), a_durable_job(2)])
    store.put_stream(job_id(1), 0, [b"a"])
    assert not await store.delete_job(job_id(1))
    store.put_attempt(an_attempt(1))
    store.put_result(a_result(1, output=b"x"))
    assert await store.delete_job(job_id(1))
    assert not await store.delete_job(job_id(1))
    assert not await store.delete_job("nobody")
    assert await store.job(job_id(1)) is None
    assert await store.stream(job_id(1), after=-1, limit=9) == []
    assert (await found(store, 2)).status == "queued"
    store.put_stream(job_id(1), 5, [b"late"])
    await store.flush()
    assert store.state().problem == ""


# --- streams ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("apart", [False, True], ids=["in one group", "in groups of their own"])
async def test_a_stream_is_read_from_anywhere_and_the_last_event_of_a_number_counts(store: Store, apart: bool) -> None:
    await store.accept([a_durable_job(1, origin=Origin.RESPONSE), a_durable_job(2)])
    pieces: tuple[tuple[int, list[bytes]], ...] = (
        (0, [b"zero", b"one"]),
        (2, [b"two"]),
        (1, [b"ONE", b"TWO", b"three"]),
    )
    for first, events in pieces:
        store.put_stream(job_id(1), first, events)
        events.append(b"later")  # what it holds may change after it was put
        if apart:
            await store.flush()
    store.put_stream(job_id(2), 0, [])
    whole = [(0, b"zero"), (1, b"ONE"), (2, b"TWO"), (3, b"three")]
    assert await store.stream(job_id(1), after=-1, limit=100) == whole
    assert await store.stream(job_id(1), after=0, limit=2) == whole[1:3]
    assert await store.stream(job_id(1), after=3, limit=2) == []
    assert await store.stream(job_id(2), after=-1, limit=2) == []


# --- finding them ----------------------------------------------------------------------------------------------------


async def test_filters_of_durable_jobs(store: Store) -> None:
    await store.accept([a_line(number, client="night") for number in (1, 2, 3)])
    await store.accept([a_durable_job(4), a_durable_job(5, origin=Origin.RESPONSE), a_line(6, batch="other")])
    store.put_job(a_job(7, client="night"))
    store.put_result(a_result(2))

    async def numbers(**wanted: object) -> list[int]:
        return [int(job.job.id[-1]) for job in await store.jobs(JobFilter(**wanted))]  # type: ignore[arg-type]

    assert await numbers(origin="batch") == [6, 3, 2, 1]
    assert await numbers(origin="response") == [5]
    assert await numbers(batch="batch-1") == [3, 2, 1]
    assert await numbers(batch="batch-1", status="queued") == [3, 1]
    assert await numbers(batch="batch-1", status="done") == [2]
    assert await numbers(batch="batch-1", after=job_id(3), limit=1) == [2]
    assert await numbers(batch="") == []
    assert await numbers(client="night") == [7, 3, 2, 1]
    assert await numbers(client="night", origin="batch", status="done") == [2]
    assert await numbers(client="nobody") == []
    assert await numbers(status="queued", client="editor") == [6, 5, 4]


@pytest.mark.parametrize("limit", [0, 1001])
async def test_a_limit_out_of_range_is_refused(store: Store, limit: int) -> None:
    asked: list[Awaitable[object]] = [
        store.waiting(Flow("qwen", 1, ""), after="", limit=limit, most_bytes=1),
        store.overdue(0.0, limit),
        store.stream("x", after=0, limit=limit),
        store.batch_jobs("b", after_line=0, limit=limit, most_bytes=1),
        store.files(Page(limit=limit), {"batch"}),
        store.batches(Page(limit=limit), "openai"),
    ]
    for query in asked:
        with pytest.raises(InvalidRequestError, match="limit"):
            await query


async def test_a_closed_store_refuses_durable_work(store: Store) -> None:
    await store.close()
    asked: list[Callable[[], Awaitable[object]]] = [
        lambda: store.accept([a_durable_job(1)]),
        lambda: store.known_key("a", "b"),
        store.flows,
        lambda: store.waiting(Flow("qwen", 1, ""), after="", limit=1, most_bytes=1),
        lambda: store.end_waiting("b", status="failed", reason="cancelled", detail=""),
        lambda: store.delete_job("x"),
        lambda: store.stream("x", after=0, limit=1),
        lambda: store.put_file_part("f", 0, b""),
        lambda: store.put_file(a_file(1)),
        lambda: store.batch("b"),
        lambda: store.backup("/nowhere/at/all"),
        store.vacuum,
    ]
    for ask in asked:
        with pytest.raises(StoreUnavailableError, match="closed"):
            await ask()
    with pytest.raises(StoreUnavailableError, match="closed"):
        store.put_requeued("x", 1, "")
    with pytest.raises(StoreUnavailableError, match="closed"):
        store.put_stream("x", 1, [b""])
