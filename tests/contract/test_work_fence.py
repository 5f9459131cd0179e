"""What every store promises of attempts, answers and deaths: of each job one result counts, and it is kept."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from supervisord.core.job import FailureReason
from supervisord.core.terms import MOST_INTERRUPTIONS, Flow
from supervisord.ports import Store
from tests.fakes.looks import KEY, found
from tests.fakes.records import a_durable_job, a_job, a_line, a_result, job_id

# --- the fence -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("apart", [False, True], ids=["in one group", "in groups of their own"])
async def test_a_late_answer_of_a_dead_attempt_changes_nothing(store: Store, apart: bool) -> None:
    await store.accept([a_durable_job(1)])
    steps: list[Callable[[], None]] = [
        lambda: store.put_attempt_started(job_id(1), 1, "left", 1),
        lambda: store.put_requeued(job_id(1), 1, "left died", failures=1),
        lambda: store.put_attempt_started(job_id(1), 2, "right", 1),
        lambda: store.put_result(a_result(1, attempts=1, output=b"late")),
        lambda: store.put_requeued(job_id(1), 1, "late", failures=9),
        lambda: store.put_attempt_started(job_id(1), 1, "late", 1),
    ]
    for step in steps:
        step()
        if apart:
            await store.flush()
    stored = await found(store, 1)
    assert (stored.status, stored.result, stored.attempt, stored.failures) == ("running", None, 2, 1)
    assert (stored.backend, stored.detail) == ("right", "")
    result = a_result(1, attempts=2, backend="right", output=b"in time")
    store.put_result(result)
    store.put_requeued(job_id(1), 2, "too late")
    store.put_requeued(job_id(1), 9, "much too late")
    stored = await found(store, 1)
    assert (stored.status, stored.result) == ("done", result)


@pytest.mark.parametrize("apart", [False, True], ids=["in one group", "in groups of their own"])
async def test_a_job_waits_again_and_goes_on(store: Store, apart: bool) -> None:
    await store.accept([a_durable_job(1)])
    for number in (1, 2, 3):
        store.put_attempt_started(job_id(1), number, "left", 1)
        if apart:
            await store.flush()
        store.put_requeued(job_id(1), number, f"again {number}", failures=number)
        if apart:
            await store.flush()
    stored = await found(store, 1)
    assert (stored.status, stored.attempt, stored.failures, stored.detail) == ("queued", 3, 3, "again 3")
    assert (stored.backend, stored.started_at) == (None, 2000.0)
    assert await store.flows() == {Flow("qwen", 1, "editor"): 1}


@pytest.mark.parametrize("apart", [False, True], ids=["in one group", "in groups of their own"])
async def test_a_synchronous_job_never_waits_again(store: Store, apart: bool) -> None:
    store.put_job(a_job(1))
    store.put_attempt_started(job_id(1), 1, "left", 1)
    if apart:
        await store.flush()
    store.put_requeued(job_id(1), 1, "again")
    assert (await found(store, 1)).status == "running"


async def test_news_of_unknown_jobs_change_nothing(store: Store) -> None:
    store.put_requeued("nobody", 1, "again")
    store.put_stream("nobody", 0, [b"x"])
    await store.flush()
    assert await store.job("nobody") is None
    assert await store.stream("nobody", after=-1, limit=9) == []


# --- bodies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("apart", [False, True], ids=["in one group", "in groups of their own"])
async def test_the_answer_is_kept_and_the_request_dropped_at_the_end(store_without_bodies: Store, apart: bool) -> None:
    store = store_without_bodies
    await store.accept([a_durable_job(1, body=b"in"), a_line(2, body=b"in")])
    store.put_job(a_job(3, body=b"in"))
    for number in (1, 2, 3):
        store.put_attempt_started(job_id(number), 1, "left", 1)
        if apart:
            await store.flush()
            kept = b"in" if number < 3 else None
            assert (await found(store, number)).job.body == kept
        store.put_result(replace(a_result(number, output=b"out"), http_status=200, content_type="application/json"))
    for number, output in ((1, b"out"), (2, b"out"), (3, None)):
        stored = await found(store, number)
        assert stored.result is not None
        assert (stored.job.body, stored.result.output) == (None, output)
        assert (stored.result.http_status, stored.result.content_type) == (200, "application/json")


async def test_requests_of_durable_jobs_stay_where_all_is_kept(store: Store) -> None:
    await store.accept([a_durable_job(1, body=b"in")])
    store.put_result(a_result(1, output=b"out"))
    assert (await found(store, 1)).job.body == b"in"


async def test_only_the_answer_that_counts_is_kept(store_without_bodies: Store) -> None:
    store = store_without_bodies
    await store.accept([a_durable_job(1, body=b"in")])
    store.put_attempt_started(job_id(1), 1, "left", 1)
    store.put_attempt_started(job_id(1), 2, "left", 1)
    await store.flush()
    store.put_result(a_result(1, attempts=1, output=b"late"))
    await store.flush()
    assert (await found(store, 1)).job.body == b"in"  # the job has not ended
    store.put_result(a_result(1, attempts=2, output=b"in time"))
    await store.flush()
    store.put_result(a_result(1, attempts=2, output=b"twice"))
    stored = await found(store, 1)
    assert stored.result is not None
    assert stored.result.output == b"in time"


# --- the next life ---------------------------------------------------------------------------------------------------


async def test_what_an_earlier_life_left_running_waits_again(
    kind: str, make: Callable[[bool], Store], store: Store, clock: list[float]
) -> None:
    await store.accept([a_durable_job(number) for number in (1, 2, 3, 4)], KEY)
    store.put_attempt_started(job_id(1), 1, "left", 1)
    store.put_attempt_started(job_id(2), 1, "left", 1)
    store.put_requeued(job_id(2), 1, "left was busy", failures=1)
    store.put_result(a_result(3, attempts=0, output=b"out"))
    store.put_job(a_job(5))
    await store.close()
    later = store if kind == "memory" else make(True)
    recovery = await later.open()
    try:
        assert (recovery.abandoned, recovery.requeued, recovery.given_up, recovery.jobs_total) == (1, 1, 0, 5)
        interrupted, again, done, waiting, gone = [await found(later, number) for number in (1, 2, 3, 4, 5)]
        assert (interrupted.status, interrupted.attempt, interrupted.interruptions) == ("queued", 1, 1)
        assert (interrupted.failures, interrupted.backend, interrupted.job.body) == (0, None, b'{"a": 1}')
        assert "daemon ended" in interrupted.detail
        assert (again.status, again.failures, again.interruptions, again.detail) == ("queued", 1, 0, "left was busy")
        assert done.result == a_result(3, attempts=0, output=b"out")
        assert (waiting.status, waiting.attempt, gone.status) == ("queued", 0, "abandoned")
        assert await later.known_key("editor", "k1") == KEY
        later.put_attempt_started(job_id(1), 1, "late", 1)  # the number of the attempt that died
        assert (await found(later, 1)).status == "queued"
        later.put_attempt_started(job_id(1), 2, "right", 1)
        assert (await found(later, 1)).status == "running"
    finally:
        await later.close()


async def test_a_job_that_is_in_flight_at_every_death_is_given_up(
    kind: str, make: Callable[[bool], Store], store_without_bodies: Store
) -> None:
    store = store_without_bodies
    await store.accept([a_durable_job(1), a_durable_job(2)])
    for number in range(1, MOST_INTERRUPTIONS + 2):
        store.put_attempt_started(job_id(1), number, "left", 1)
        await store.close()
        store = store if kind == "memory" else make(False)
        recovery = await store.open()
        assert (recovery.requeued, recovery.given_up) == ((1, 0) if number <= MOST_INTERRUPTIONS else (0, 1))
    stored = await found(store, 1)
    assert stored.result is not None
    assert (stored.status, stored.result.reason, stored.result.attempts) == ("failed", FailureReason.DAEMON_DIED, 11)
    assert (stored.interruptions, stored.job.body) == (MOST_INTERRUPTIONS + 1, None)
    assert "died 11 times" in stored.result.detail
    assert (await found(store, 2)).status == "queued"
    await store.close()
