"""What every JobStore promises: the one on disk and the one that stands in for it in tests."""

from collections.abc import Awaitable, Callable

import pytest

from supervisord.core.errors import ConflictError, InvalidRequestError, StateFolderError, StoreUnavailableError
from supervisord.core.job import FailureReason, JobStatus
from supervisord.core.record import EventKind
from supervisord.ports import DayCounts, JobFilter, JobStore
from tests.fakes.records import a_footprint, a_job, a_result, an_attempt, an_event, job_id

# --- the life of a job -----------------------------------------------------------------------------------------------


async def test_a_job_is_queued_when_it_is_put(store: JobStore) -> None:
    store.put_job(a_job(1, body=b'{"x": 1}'))
    found = await store.job(job_id(1))
    assert found is not None
    assert (found.job, found.status, found.result, found.attempts) == (a_job(1, body=b'{"x": 1}'), "queued", None, ())


@pytest.mark.parametrize("apart", [False, True], ids=["in one group", "in groups of their own"])
async def test_a_whole_life_is_read_back_as_it_was_put(store: JobStore, apart: bool) -> None:
    job = a_job(1, body=b"\x00\xff{}")
    first = an_attempt(1, 1, status=JobStatus.FAILED, reason=FailureReason.BACKEND_DIED, detail="signal 9", build=None)
    second = an_attempt(1, 2, backend="right")
    result = a_result(1, attempts=2, backend="right", output=b"hello")
    steps: list[Callable[[], None]] = [
        lambda: store.put_job(job),
        lambda: store.put_attempt_started(job.id, 1, "left", 3),
        lambda: store.put_attempt(first),
        lambda: store.put_attempt_started(job.id, 2, "right", 1),
        lambda: store.put_attempt(second),
        lambda: store.put_result(result),
    ]
    for step in steps:
        step()
        if apart:
            await store.flush()
    found = await store.job(job.id)
    assert found is not None
    assert (found.job, found.status, found.result, found.attempts) == (job, "done", result, (first, second))
    bare = await store.job(job.id, bodies=False)
    (listed,) = await store.jobs(JobFilter())
    assert bare == listed, "as it is listed"


@pytest.mark.parametrize("apart", [False, True], ids=["in one group", "in groups of their own"])
async def test_a_started_job_runs_and_an_earlier_attempt_changes_nothing(store: JobStore, apart: bool) -> None:
    store.put_job(a_job(1))
    for number, backend in ((1, "left"), (2, "right"), (1, "late"), (2, "later")):
        store.put_attempt_started(job_id(1), number, backend, 1)
        if apart:
            await store.flush()
    (found,) = await store.jobs(JobFilter(backend="right"))
    assert found.status == "running"
    assert not await store.jobs(JobFilter(backend="late"))


@pytest.mark.parametrize("apart", [False, True], ids=["in one group", "in groups of their own"])
async def test_the_first_result_stays(store: JobStore, apart: bool) -> None:
    first = a_result(1, JobStatus.FAILED, reason=FailureReason.STREAM_CUT)
    steps: list[Callable[[], None]] = [
        lambda: store.put_job(a_job(1)),
        lambda: store.put_result(first),
        lambda: store.put_result(a_result(1, finished_at=9999.0, output=b"too late")),
        lambda: store.put_attempt_started(job_id(1), 7, "late", 1),
        lambda: store.put_job(a_job(1, model="other", body=b"other")),
    ]
    for step in steps:
        step()
        if apart:
            await store.flush()
    found = await store.job(job_id(1))
    assert found is not None
    assert (found.job, found.status, found.result) == (a_job(1), "failed", first)


async def test_an_attempt_of_a_finished_job_is_recorded_and_the_first_of_a_number_stays(store: JobStore) -> None:
    store.put_job(a_job(1))
    store.put_result(a_result(1))
    await store.flush()
    store.put_attempt(an_attempt(1, 2))
    store.put_attempt(an_attempt(1, 1))
    store.put_attempt(an_attempt(1, 1, backend="other"))
    found = await store.job(job_id(1))
    assert found is not None
    assert found.status == "done"
    assert found.attempts == (an_attempt(1, 1), an_attempt(1, 2))


async def test_news_of_unknown_jobs_change_nothing(store: JobStore) -> None:
    store.put_attempt_started("nobody", 1, "left", 1)
    store.put_result(a_result("nobody", output=b"x"))
    store.put_attempt(an_attempt("nobody"))
    store.put_job(a_job(1))
    await store.flush()
    assert await store.job("nobody") is None
    assert [found.job.id for found in await store.jobs(JobFilter())] == [job_id(1)]


async def test_a_result_that_is_not_final_is_refused(store: JobStore) -> None:
    store.put_job(a_job(1))
    with pytest.raises(ValueError, match="final"):
        store.put_result(a_result(1, JobStatus.RUNNING))


async def test_bodies_are_kept_only_as_configured(store_without_bodies: JobStore) -> None:
    store = store_without_bodies
    store.put_job(a_job(1, body=b"secret"))
    store.put_result(a_result(1, output=b"secret"))
    found = await store.job(job_id(1))
    assert found is not None
    assert found.result is not None
    assert (found.job.body, found.result.output) == (None, None)


# --- finding jobs ----------------------------------------------------------------------------------------------------


async def test_a_job_is_found_by_the_beginning_of_its_id(store: JobStore) -> None:
    for known in ("aa1", "aa12", "aa2", "b"):
        store.put_job(a_job(known))
    found = {wanted: await store.job(wanted) for wanted in ("aa1", "aa12", "aa2", "b", "c", "", "bb", "ä\udcff")}
    assert {wanted: None if job is None else job.job.id for wanted, job in found.items()} == {
        "aa1": "aa1",  # a whole id, though another begins with it
        "aa12": "aa12",
        "aa2": "aa2",
        "b": "b",
        "c": None,
        "": None,
        "bb": None,
        "ä\udcff": None,
    }
    with pytest.raises(ConflictError, match="'aa'"):
        await store.job("aa")


async def test_jobs_come_newest_first_page_by_page_without_bodies(store: JobStore) -> None:
    for number in range(10):
        store.put_job(a_job(number, body=b"x"))
        store.put_attempt(an_attempt(number))
        store.put_result(a_result(number, output=b"y"))
    pages = []
    after = None
    while page := await store.jobs(JobFilter(limit=4, after=after)):
        after = page[-1].job.id
        pages.append(page)
    assert [[found.job.id for found in page] for page in pages] == [
        [job_id(number) for number in numbers] for numbers in ((9, 8, 7, 6), (5, 4, 3, 2), (1, 0))
    ]
    listed = pages[0][0]
    assert (listed.job, listed.result, listed.attempts) == (a_job(9), a_result(9), (an_attempt(9),))


async def test_every_filter_alone_and_together(store: JobStore) -> None:
    for number in range(8):
        store.put_job(a_job(number, model="even" if number % 2 == 0 else "odd", submitted_at=1000.0 + number))
    store.put_attempt_started(job_id(0), 1, "left", 1)
    store.put_result(a_result(1, backend="left"))
    store.put_result(a_result(2, backend="right"))
    store.put_result(a_result(3, JobStatus.FAILED, backend="right"))
    store.put_result(a_result(4, JobStatus.CANCELLED, backend=None))

    async def found(**wanted: object) -> list[int]:
        return [int(job.job.id[-1]) for job in await store.jobs(JobFilter(**wanted))]  # type: ignore[arg-type]

    assert await found(status="queued") == [7, 6, 5]
    assert await found(status="running") == [0]
    assert await found(status="done") == [2, 1]
    assert await found(status="failed") == [3]
    assert await found(status="cancelled") == [4]
    assert await found(status="no such") == []
    assert await found(model="even") == [6, 4, 2, 0]
    assert await found(backend="left") == [1, 0]
    assert await found(backend="right", status="done") == [2]
    assert await found(backend="right", model="odd") == [3]
    assert await found(status="done", model="odd") == [1]
    assert await found(since=1005.0) == [7, 6, 5]
    assert await found(since=5000.0) == []
    assert await found(since=1002.0, after=job_id(5), model="odd") == [3]
    assert await found(status="queued", after=job_id(7), since=1006.0, limit=1) == [6]
    assert await found(status="queued", model="even", backend="left") == []


async def test_since_holds_though_the_clock_was_put_back(store: JobStore) -> None:
    for number, submitted_at in enumerate((5000.0, 5001.0, 1000.0, 1001.0)):
        store.put_job(a_job(number, submitted_at=submitted_at))
    assert [found.job.id for found in await store.jobs(JobFilter(since=1001.0))] == [job_id(n) for n in (3, 1, 0)]


@pytest.mark.parametrize("limit", [0, -1, 1001])
async def test_a_limit_out_of_range_is_refused(store: JobStore, limit: int) -> None:
    with pytest.raises(InvalidRequestError, match="limit"):
        await store.jobs(JobFilter(limit=limit))
    with pytest.raises(InvalidRequestError, match="limit"):
        await store.events(after=None, limit=limit)


async def test_counts_tell_what_ended_since(store: JobStore) -> None:
    ends = [JobStatus.DONE, JobStatus.DONE, JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.ABANDONED]
    for number, status in enumerate(ends):
        store.put_job(a_job(number))
        store.put_result(a_result(number, status, finished_at=100.0 + number))
    store.put_job(a_job(99))
    assert await store.counts_since(0.0) == DayCounts(done=2, failed=2)
    assert await store.counts_since(101.0) == DayCounts(done=1, failed=2)
    assert await store.counts_since(105.0) == DayCounts(done=0, failed=0)


# --- events ----------------------------------------------------------------------------------------------------------


async def test_events_are_read_from_either_end(store: JobStore) -> None:
    for number in range(6):
        store.put_event(an_event(str(number), backend="left" if number % 2 == 0 else None))

    async def found(after: int | None, limit: int, backend: str | None = None) -> list[str]:
        return [stored.event.message for stored in await store.events(after=after, limit=limit, backend=backend)]

    last = (await store.events(after=None, limit=1))[0].id
    assert await found(None, 2) == ["4", "5"]
    assert await found(None, 2, "left") == ["2", "4"]
    assert await found(0, 2) == ["0", "1"]
    assert await found(last - 1, 9) == ["5"]
    assert await found(last, 9) == []
    assert await found(last - 4, 1, "left") == ["2"]
    assert await found(None, 9, "nobody") == []


async def test_an_event_is_read_back_as_it_was_put(store: JobStore) -> None:
    data = {"samples": [1, 2.5, None], "deep": {"ä": True}}
    event = an_event("grew", backend="left", kind=EventKind.PRESSURE, **data)
    store.put_event(event)
    data["samples"] = "changed later"
    (stored,) = await store.events(after=None, limit=5)
    assert stored.event == an_event(
        "grew", backend="left", kind=EventKind.PRESSURE, samples=[1, 2.5, None], deep={"ä": True}
    )


# --- footprints ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("apart", [False, True], ids=["in one group", "in groups of their own"])
async def test_the_last_footprint_of_a_configuration_is_known(store: JobStore, apart: bool) -> None:
    assert await store.footprints() == []
    unmeasured = a_footprint("b", vram=None, ram=None, load_s=None)
    for footprint in (a_footprint("c"), unmeasured, a_footprint("c", vram=80 * 2**30, at=1001.0), a_footprint("a")):
        store.put_footprint(footprint)
        if apart:
            await store.flush()
    known = [a_footprint("a"), unmeasured, a_footprint("c", vram=80 * 2**30, at=1001.0)]
    assert await store.footprints() == known


async def test_footprints_are_known_in_a_later_life(
    kind: str, make: Callable[[bool], JobStore], store: JobStore
) -> None:
    store.put_footprint(a_footprint("a"))
    await store.close()
    later = store if kind == "memory" else make(True)
    await later.open()
    try:
        assert await later.footprints() == [a_footprint("a")]
    finally:
        await later.close()


# --- open, recover, close --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("apart", [False, True], ids=["in one group", "in groups of their own"])
async def test_what_an_earlier_life_left_unfinished_is_abandoned(
    kind: str, make: Callable[[bool], JobStore], store: JobStore, clock: list[float], apart: bool
) -> None:
    store.put_job(a_job(1))
    store.put_job(a_job(2, submitted_at=1990.0))
    for number, backend in ((1, "right"), (2, "left")):
        store.put_attempt_started(job_id(2), number, backend, 1)
        if apart:
            await store.flush()
        clock[0] += 100.0
    store.put_job(a_job(3))
    store.put_result(a_result(3))
    store.put_event(an_event("before"))
    await store.close()
    later = store if kind == "memory" else make(True)
    recovery = await later.open()
    try:
        assert (recovery.abandoned, recovery.jobs_total) == (2, 3)
        queued, running, done = [await later.job(job_id(number)) for number in (1, 2, 3)]
        assert queued is not None
        assert queued.result is not None
        assert queued.status == queued.result.status == "abandoned"
        assert queued.result.reason is FailureReason.DAEMON_DIED
        assert (queued.result.finished_at, queued.result.queue_wait_s, queued.result.attempts) == (clock[0], 0.0, 0)
        assert running is not None
        assert running.result is not None
        assert (running.status, running.result.backend, running.result.attempts) == ("abandoned", "left", 2)
        assert running.result.queue_wait_s == 10.0  # until the first attempt
        assert done is not None
        assert done.result == a_result(3)
        later.put_event(an_event("after"))
        assert [stored.event.message for stored in await later.events(after=None, limit=9)] == ["before", "after"]
    finally:
        await later.close()


async def test_a_closed_store_refuses_everything_and_may_be_closed_again(store: JobStore) -> None:
    await store.close()
    await store.close()
    puts: list[Callable[[], None]] = [
        lambda: store.put_job(a_job(1)),
        lambda: store.put_attempt_started(job_id(1), 1, "left", 1),
        lambda: store.put_attempt(an_attempt(1)),
        lambda: store.put_result(a_result(1)),
        lambda: store.put_event(an_event("x")),
        lambda: store.put_footprint(a_footprint("x")),
    ]
    for put in puts:
        with pytest.raises(StoreUnavailableError, match="closed"):
            put()
    with pytest.raises(StoreUnavailableError, match="closed"):
        await store.flush()
    queries: list[Awaitable[object]] = [
        store.job("x"),
        store.jobs(JobFilter()),
        store.events(after=None, limit=1),
        store.counts_since(0),
        store.footprints(),
    ]
    for query in queries:
        with pytest.raises(StoreUnavailableError, match="closed"):
            await query
    assert "closed" in store.state().problem


async def test_an_open_store_is_not_opened_twice(store: JobStore) -> None:
    with pytest.raises(StateFolderError, match="open already"):
        await store.open()


async def test_nothing_is_pending_after_a_flush(store: JobStore) -> None:
    for number in range(100):
        store.put_job(a_job(number))
    await store.flush()
    state = store.state()
    assert (state.pending, state.oldest_pending_s, state.problem, state.full) == (0, None, "", False)
