"""Batches whose writes are refused, or not confirmed, or for whose lines there is no room: on played time."""

import asyncio
from dataclasses import replace

import pytest

from supervisord.core.errors import (
    ConflictError,
    IdempotencyMismatchError,
    NotFoundError,
    QueueFullError,
    StoreUnavailableError,
)
from supervisord.core.job import FailureReason, JobStatus
from supervisord.core.record import FILE_PART, BatchCounts, BatchRecord, BatchStatus, JobRecord, KeyRecord
from supervisord.engine.batching import batches
from supervisord.engine.batching import jobs as batch_jobs
from supervisord.engine.batching.batches import Wanted
from supervisord.engine.batching.course import Course
from supervisord.engine.batching.courses import ROOM_S
from supervisord.engine.batching.files import MESSAGES, UPLOADED
from supervisord.engine.work.idempotency import Used
from supervisord.ports import Page
from tests.engine.rig import beside
from tests.engine.test_batches import DAY, EMBEDDINGS, House, house, line, message
from tests.fakes.records import a_batch, a_line
from tests.fakes.store import MemoryStore

LATE = StoreUnavailableError("the store did not confirm a write within 30 s")


async def fates(h: House, batch: BatchRecord) -> dict[str, str]:
    """What each line of an ended batch is told to be, by custom id; each is in one file, once."""
    found: dict[str, str] = {}
    for file_id in filter(None, (batch.output_file, batch.error_file)):
        for each in await h.read(file_id):
            assert each["custom_id"] not in found
            found[each["custom_id"]] = each["error"]["code"] if each["error"] else "answered"
    return found


# --- lines -----------------------------------------------------------------------------------------------------------


async def test_lines_whose_commit_was_not_confirmed_are_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes to its end later: before anything else is written."""
    monkeypatch.setattr(batch_jobs, "CHUNK_JOBS", 2)
    async with house() as h:
        accept, flush, late, asked = h.hands.accept_many, h.store.flush, list[JobRecord](), list[str]()

        async def accept_many(records: list[JobRecord]) -> None:
            asked.extend(job.terms.custom_id for job in records if job.terms)
            if not late:
                late.extend(records)
                raise LATE
            await accept(records)

        async def flushed() -> None:
            if late and late[0] not in h.hands.accepted:
                await accept(late)
            await flush()

        h.hands.accept_many = accept_many  # type: ignore[assignment,method-assign]
        h.store.flush = flushed  # type: ignore[method-assign]
        batch = await h.begin(*(line(name) for name in "abcde"))
        await h.clock.advance(5)
        assert [job.terms.custom_id for job in h.jobs(batch) if job.terms] == asked == list("abcde")


async def test_a_line_that_is_a_job_already_is_not_made_again() -> None:
    async with house() as h:
        counts, lag = h.store.batch_counts, [True]
        batch = await h.begin(line("a"), line("b"))
        course = h.batches._courses.of(batch.id)
        assert course is not None

        async def stale(batch_id: str) -> object:
            return type(await counts(batch_id))() if lag else await counts(batch_id)

        h.store.batch_counts = stale  # type: ignore[assignment,method-assign]
        course.has_jobs = False  # as after a restart
        course.news.set()
        await h.clock.rest()
        assert len(h.jobs(batch)) == 2
        lag.clear()
        await h.clock.advance(3)
        h.hands.answer(*h.jobs(batch))
        await h.clock.rest()
        assert (await h.now(batch.id)).status is BatchStatus.COMPLETED


async def test_as_many_lines_are_made_as_there_is_room_for() -> None:
    async with house() as h:
        h.hands.free = 3
        batch = await h.begin(*(line(str(n)) for n in range(8)))
        assert h.hands.commits == [3]
        h.hands.free = 4
        h.hands.answer(*h.jobs(batch))
        await h.clock.rest()
        assert h.hands.commits == [3, 4]  # at once: nothing of it was left to be done
        h.hands.free = 4
        await h.clock.advance(ROOM_S)
        assert h.hands.commits == [3, 4, 1]
        assert [job.terms.line for job in h.jobs(batch) if job.terms] == [*range(1, 9)]


async def test_what_has_no_room_waits_for_it() -> None:
    async with house() as h:
        h.hands.free = 0
        batch = await h.begin(line("a"), line("b"))
        await h.clock.advance(60)
        assert (h.jobs(batch), batch.status) == ([], BatchStatus.IN_PROGRESS)
        h.hands.free = 2
        await h.clock.advance(ROOM_S)
        assert len(h.jobs(batch)) == 2


@pytest.mark.parametrize("how", ["cancelled", "expired"])
async def test_a_batch_ends_though_there_is_no_room_for_its_lines(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them is told of: those that were made, and those that never were."""
    monkeypatch.setattr(batch_jobs, "CHUNK_JOBS", 2)
    async with house() as h:
        h.hands.free = 2
        batch = await h.begin(*(line(name) for name in "abcdef"), window="1h")
        a, b = h.jobs(batch)
        h.hands.answer(a)
        if how == "cancelled":
            h.hands.begin(b)
            await h.batches.cancel(batch.id)
            await h.clock.rest()
        else:
            await h.clock.advance(3600)
        ended, counts = await h.batches.find(batch.id)
        assert ended.status == how
        assert ended.total == counts.ended == 6
        assert await fates(h, ended) == {"a": "answered"} | dict.fromkeys("bcdef", f"batch_{how}")


async def test_a_cancel_while_lines_are_made_ends_those_that_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_jobs, "CHUNK_JOBS", 2)
    async with house() as h:
        accept, begun, go_on = h.hands.accept_many, asyncio.Event(), asyncio.Event()

        async def slowly(records: list[object]) -> None:
            begun.set()
            await go_on.wait()
            await accept(records)  # type: ignore[arg-type]

        h.hands.accept_many = slowly  # type: ignore[assignment,method-assign]
        batch = await h.begin(*(line(name) for name in "abcdef"))
        assert begun.is_set()
        await h.batches.cancel(batch.id)
        go_on.set()
        await h.clock.rest()
        ended = await h.now(batch.id)
        assert ended.status is BatchStatus.CANCELLED
        assert len(h.jobs(batch)) == 2
        assert await fates(h, ended) == dict.fromkeys("abcdef", "batch_cancelled")


async def test_no_batch_waits_for_another() -> None:
    async with house() as h:
        read, go_on = h.store.file_part, asyncio.Event()
        long = await h.upload(line("a"))

        async def slowly(file_id: str, number: int) -> bytes | None:
            if file_id == long:
                await go_on.wait()
            return await read(file_id, number)

        h.store.file_part = slowly  # type: ignore[method-assign]
        stuck, _ = await h.batches.create(Wanted(long, EMBEDDINGS, "24h"))
        other = await h.begin(line("b"))
        h.hands.answer(*h.jobs(other))
        await h.clock.rest()
        assert (await h.now(other.id)).status is BatchStatus.COMPLETED
        assert (await h.now(stuck.id)).status is BatchStatus.VALIDATING
        go_on.set()
        await h.clock.rest()
        assert (await h.now(stuck.id)).status is BatchStatus.IN_PROGRESS


# --- writes that were not confirmed ----------------------------------------------------------------------------------


async def test_a_batch_whose_first_write_was_not_confirmed_goes_its_way_if_it_is_there() -> None:
    async with house() as h:
        file, plain = await h.upload(line("a")), h.store.put_batch

        async def late(batch: BatchRecord, key: KeyRecord | None = None) -> None:
            await plain(batch, key)
            h.store.put_batch = plain  # type: ignore[method-assign]
            raise LATE

        h.store.put_batch = late  # type: ignore[method-assign]
        with pytest.raises(StoreUnavailableError):
            await h.batches.create(Wanted(file, EMBEDDINGS, "24h"))
        await h.clock.rest()
        [(found, _)] = await h.batches.list(Page())
        h.hands.answer(*h.jobs(found))
        await h.clock.rest()
        assert (await h.now(found.id)).status is BatchStatus.COMPLETED


async def test_a_batch_that_never_came_to_be_is_forgotten() -> None:
    async with house() as h:
        file, plain = await h.upload(line("a")), h.store.put_batch

        async def never(batch: BatchRecord, key: KeyRecord | None = None) -> None:
            raise LATE

        h.store.put_batch = never  # type: ignore[method-assign]
        with pytest.raises(StoreUnavailableError):
            await h.batches.create(Wanted(file, EMBEDDINGS, "24h"))
        h.store.put_batch = plain  # type: ignore[method-assign]
        await h.clock.rest()
        assert len(h.batches._courses) == 0
        await h.batches.files.delete(file)
        assert await h.batches.list(Page()) == []


async def test_a_batch_that_never_came_to_be_cannot_be_changed() -> None:
    store = MemoryStore()
    await store.open()
    course = Course(a_batch(1), store, 0.0)
    store.fail()
    with pytest.raises(StoreUnavailableError):
        await course.begin(None)
    store.heal()
    with pytest.raises(NotFoundError):
        await course.change(lambda batch: replace(batch, total=1))
    assert not await course.exists()


@pytest.mark.parametrize("client", ["told", "gone"])
async def test_a_cancel_that_was_not_confirmed_counts_if_it_was_written(client: str) -> None:
    async with house() as h:
        batch, plain, written = await h.begin(line("a")), h.store.put_batch, asyncio.Event()

        async def late(batch: BatchRecord, key: KeyRecord | None = None) -> None:
            await plain(batch, key)
            h.store.put_batch = plain  # type: ignore[method-assign]
            written.set()
            if client == "told":
                raise LATE
            await asyncio.Event().wait()

        h.store.put_batch = late  # type: ignore[method-assign]
        if client == "told":
            with pytest.raises(StoreUnavailableError):
                await h.batches.cancel(batch.id)
        else:
            async with beside(h.batches.cancel(batch.id)):
                await written.wait()
        await h.clock.rest()
        assert (await h.now(batch.id)).status is BatchStatus.CANCELLED


async def test_what_cannot_be_learnt_now_is_learnt_later() -> None:
    async with house() as h:
        batch = await h.begin(line("a"))
        h.store.fail()
        with pytest.raises(StoreUnavailableError):
            await h.batches.cancel(batch.id)
        await h.clock.advance(30)
        h.store.heal()
        assert (await h.batches.cancel(batch.id))[0].status is BatchStatus.CANCELLING
        await h.clock.rest()
        assert (await h.now(batch.id)).status is BatchStatus.CANCELLED


# --- files -----------------------------------------------------------------------------------------------------------


async def test_the_requests_of_messages_that_became_no_batch_go_by_and_by(monkeypatch: pytest.MonkeyPatch) -> None:
    async with house() as h:
        plain = h.store.put_batch

        async def never(batch: BatchRecord, key: KeyRecord | None = None) -> None:
            raise LATE

        h.store.put_batch = never  # type: ignore[method-assign]
        with pytest.raises(StoreUnavailableError):
            await h.batches.create_messages([("one", message())], "me")
        h.store.put_batch = plain  # type: ignore[method-assign]
        [left] = await h.store.files(Page(), {MESSAGES})
        assert left.expires_at == left.created_at + 3600
        monkeypatch.setattr(batches, "MOST_OPEN", 0)
        with pytest.raises(QueueFullError):
            await h.batches.create_messages([("two", message())], "me")
        assert len(h.store._parts) == 1


async def test_pages_of_files_are_full_though_some_are_nobodys() -> None:
    async with house() as h:
        first = await h.upload(line("a"))
        for _ in range(3):
            writing = h.batches.files.begin("me")
            await writing.write(b"x")
            await writing.finish("requests.jsonl", MESSAGES)
        assert [file.id for file in await h.batches.files.list(Page(1), None)] == [first]
        assert [file.id for file in await h.batches.files.list(Page(1), UPLOADED)] == [first]
        assert await h.batches.files.list(Page(1), MESSAGES) == []


async def test_the_results_of_a_batch_that_is_gone_are_not_empty_but_gone() -> None:
    async with house() as h:
        batch = await h.begin(line("a"))
        h.hands.answer(*h.jobs(batch))
        await h.clock.rest()
        file = await h.batches.files.find((await h.now(batch.id)).output_file)
        del h.store._batches[batch.id]
        with pytest.raises(NotFoundError, match="is gone"):
            await h.batches.files.content(file)


# --- keys ------------------------------------------------------------------------------------------------------------

KEY = Used("k1", "d1")


async def test_what_is_sent_again_is_the_same_batch() -> None:
    async with house() as h:
        wanted, known = Wanted(await h.upload(line("a")), EMBEDDINGS, "24h", {}, "me"), h.store.known_key

        async def slowly(client: str, key: str) -> KeyRecord | None:
            found = await known(client, key)
            await asyncio.sleep(0)
            return found

        h.store.known_key = slowly  # type: ignore[method-assign]
        async with asyncio.TaskGroup() as group:
            both = [group.create_task(h.batches.create(wanted, used=KEY)) for _ in range(2)]
        first, again = (task.result()[0] for task in both)
        assert again.id == first.id
        await h.clock.rest()
        await h.batches.files.delete(wanted.input_file)  # which is no reason to say no, the second time
        told, counts = await h.batches.create(wanted, used=KEY)
        assert (told.id, told.status, counts.waiting) == (first.id, BatchStatus.IN_PROGRESS, 1)
        assert len(await h.batches.list(Page())) == 1
        with pytest.raises(IdempotencyMismatchError, match=first.id):
            await h.batches.create(wanted, used=Used("k1", "d2"))
        other, _ = await h.batches.create(Wanted(await h.upload(line("a")), EMBEDDINGS, "24h", {}, "you"), used=KEY)
        assert other.id != first.id


async def test_messages_that_are_sent_again_are_not_even_read() -> None:
    async with house() as h:
        first, _ = await h.batches.create_messages([("one", message())], "me", used=KEY)
        again, counts = await h.batches.create_messages(iter(()), "me", used=KEY)
        assert (again.id, counts.ended) == (first.id, 0)


async def test_a_key_that_another_request_is_using_is_a_conflict_and_leaves_nothing() -> None:
    """Through a door of its own, whose turns are others."""
    async with house() as h:
        file, known = await h.upload(line("a")), h.store.known_key

        async def meanwhile(client: str, key: str) -> KeyRecord | None:
            found = await known(client, key)
            h.store._keys["me", "k1"] = KeyRecord("me", "k1", "d1", "job", 1.0)
            return found

        h.store.known_key = meanwhile  # type: ignore[method-assign]
        with pytest.raises(ConflictError):
            await h.batches.create(Wanted(file, EMBEDDINGS, "24h", {}, "me"), used=KEY)
        await h.clock.rest()
        assert (len(h.batches._courses), await h.batches.list(Page())) == (0, [])
        with pytest.raises(IdempotencyMismatchError, match="made job"):
            await h.batches.create(Wanted(file, EMBEDDINGS, "24h", {}, "me"), used=Used("k1", "d1"))


async def test_a_long_input_that_expires_while_it_is_read_is_read_to_its_end() -> None:
    store = MemoryStore()
    async with house(store) as h:
        store._now = h.clock.wall
        read, go_on = store.file_part, asyncio.Event()

        async def slowly(file_id: str, number: int) -> bytes | None:
            if number:
                await go_on.wait()
            return await read(file_id, number)

        store.file_part = slowly  # type: ignore[method-assign]
        writing = h.batches.files.begin("me")
        count, blanks = 12, b" " * (FILE_PART // 5)
        for number in range(count):
            await writing.write(blanks + line(str(number)))
        file = await writing.finish("input.jsonl", UPLOADED, 60.0)
        made, _ = await h.batches.create(Wanted(file.id, EMBEDDINGS, "24h"))
        await h.clock.advance(61)
        assert await h.batches.files.find(file.id) == file
        go_on.set()
        await h.clock.rest()
        assert (await h.now(made.id)).total == count
        h.hands.end(h.jobs(made)[0], JobStatus.FAILED, reason=FailureReason.POISON)
        await h.clock.advance(DAY)
        assert (await h.now(made.id)).status is BatchStatus.EXPIRED


async def test_what_was_begun_with_together_is_not_looked_at_together_for_ever() -> None:
    """A thousand looks at one moment are a tenth of a second that all streams stand still."""
    store = MemoryStore()
    await store.open()
    for number in range(60):
        at = {BatchStatus.IN_PROGRESS: 1.0}
        await store.put_batch(
            a_batch(number, BatchStatus.IN_PROGRESS, at=at, total=1, expires_at=9e9, input_file="file-x")
        )
        await store.accept([replace(a_line(1, batch=f"batch-{number}"), id=f"{number:06}")])
    await store.close()
    counts, looks = store.batch_counts, list[float]()
    async with house(store) as h:

        async def counted(batch_id: str) -> BatchCounts:
            looks.append(h.clock.monotonic())
            return await counts(batch_id)

        store.batch_counts = counted  # type: ignore[method-assign]
        began = h.clock.monotonic()
        for _ in range(60):
            await h.clock.advance(1)
        assert len(looks) >= 60
        assert max(looks.count(at) for at in looks) < 20
        assert {round(at - began) // 10 for at in looks} >= {3, 4, 5}
