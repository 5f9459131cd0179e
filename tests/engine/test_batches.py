"""The way of a batch, on played time: its jobs end as the test says."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import msgspec
import pytest

from supervisord.core.errors import (
    ConflictError,
    InvalidRequestError,
    ModelNotFoundError,
    NotFoundError,
    QueueFullError,
    StoreUnavailableError,
)
from supervisord.core.job import FailureReason, JobStatus, Priority, Submission
from supervisord.core.record import FILE_PART, BatchRecord, BatchStatus, EventKind, JobRecord, KeyRecord
from supervisord.core.terms import Origin, OutputCheck
from supervisord.engine.batching import batches
from supervisord.engine.batching import jobs as batch_jobs
from supervisord.engine.batching.batches import Batches, Wanted
from supervisord.engine.batching.courses import ROOM_S
from supervisord.engine.batching.files import MESSAGES, UPLOADED
from supervisord.engine.batching.message_output import in_anthropic_form
from supervisord.engine.batching.output import in_openai_form
from supervisord.engine.journal import Journal
from supervisord.engine.tasks import Tasks
from supervisord.engine.work.durable import End
from supervisord.ports import Page
from tests.engine.rig import beside
from tests.fakes.clock import FakeClock, fake_time
from tests.fakes.hands import Hands
from tests.fakes.store import MemoryStore

EMBEDDINGS = "/v1/embeddings"
DAY = 24 * 3600.0


def known(wanted: Submission) -> None:
    if wanted.model != "m":
        raise ModelNotFoundError(f'No backend serves the model "{wanted.model}".', param="model")


def line(custom_id: str, model: str = "m") -> bytes:
    body = {"model": model, "input": f"text of {custom_id}"}
    return msgspec.json.encode({"custom_id": custom_id, "method": "POST", "url": EMBEDDINGS, "body": body}) + b"\n"


async def checkable(check: OutputCheck, endpoint: str, body: bytes, client: str) -> None:
    del endpoint, body, client
    if check.schema == '"none"':
        raise InvalidRequestError("That is no schema.", param="validate_output")


@dataclass(slots=True)
class House:
    """Batches over a store in memory."""

    clock: FakeClock
    store: MemoryStore
    hands: Hands
    batches: Batches
    journal: Journal

    async def upload(self, *lines: bytes) -> str:
        writing = self.batches.files.begin("me")
        for each in lines:
            await writing.write(each)
        return (await writing.finish("input.jsonl", UPLOADED)).id

    async def begin(self, *lines: bytes, window: str = "24h") -> BatchRecord:
        """A batch of these lines, as far as it gets without its jobs."""
        made, _ = await self.batches.create(Wanted(await self.upload(*lines), EMBEDDINGS, window, {"a": "b"}, "me"))
        await self.clock.rest()
        return await self.now(made.id)

    async def now(self, batch_id: str) -> BatchRecord:
        found = await self.store.batch(batch_id)
        assert found is not None
        return found

    async def read(self, file_id: str) -> list[dict[str, Any]]:
        file = await self.batches.files.find(file_id)
        text = b"".join([part async for part in await self.batches.files.content(file)])
        assert file.bytes == len(text)
        return [json.loads(each) for each in text.splitlines()]

    def jobs(self, batch: BatchRecord) -> list[JobRecord]:
        return [job for job in self.hands.accepted if job.terms is not None and job.terms.batch == batch.id]


@asynccontextmanager
async def house(
    store: MemoryStore | None = None, prepare: Callable[[Hands], None] = lambda hands: None
) -> AsyncIterator[House]:
    with fake_time() as clock:
        kept = MemoryStore(now=clock.wall) if store is None else store
        await kept.open()
        async with asyncio.TaskGroup() as group:
            hands, journal, ids = Hands(kept), Journal(kept, clock), count(1 + max(map(int, kept._entries), default=0))
            prepare(hands)
            made = Batches(
                kept,
                hands,
                journal,
                clock,
                new_id=lambda: f"{next(ids):06}",
                known=known,
                checkable=checkable,  # type: ignore[arg-type]
            )
            tasks = Tasks(group)
            await made.open(tasks)
            loop = tasks.loop(made.run(), "batches")
            await clock.rest()
            yield House(clock, kept, hands, made, journal)
            loop.cancel()
        await kept.close()


async def test_every_line_becomes_a_job_of_the_batch() -> None:
    async with house() as h:
        batch = await h.begin(line("a"), b"\n", line("b"))

        assert batch.status is BatchStatus.IN_PROGRESS
        assert batch.total == 2
        first, second = h.jobs(batch)
        assert first.terms is not None
        assert (first.endpoint, first.model, first.priority) == (EMBEDDINGS, "m", Priority.BATCH)
        assert (first.client, first.stream) == ("me", False)
        assert json.loads(first.body or b"") == {"model": "m", "input": "text of a"}
        assert (first.terms.origin, first.terms.custom_id, first.terms.line) == (Origin.BATCH, "a", 1)
        assert first.terms.deadline_at is None  # the time of the batch is its own
        assert batch.expires_at == batch.created_at + DAY
        assert second.terms is not None
        assert (second.terms.custom_id, second.terms.line) == ("b", 3)
        assert first.id < second.id


async def test_good_and_bad_answers_end_in_two_files() -> None:
    async with house() as h:
        batch = await h.begin(*(line(name) for name in "abcd"))
        a, b, c, d = h.jobs(batch)
        h.hands.answer(d, a)
        h.hands.end(
            b, JobStatus.FAILED, output=b'{"error": {"message": "no"}}', http_status=400,
            reason=FailureReason.REQUEST_REJECTED,
        )  # fmt: skip
        await h.clock.rest()
        assert (await h.now(batch.id)).status is BatchStatus.IN_PROGRESS
        h.hands.end(c, JobStatus.FAILED, reason=FailureReason.BACKEND_DIED, detail="it died three times")
        await h.clock.rest()

        ended, counts = await h.batches.find(batch.id)
        assert ended.status is BatchStatus.COMPLETED
        assert list(ended.at) == [BatchStatus.IN_PROGRESS, BatchStatus.FINALIZING, BatchStatus.COMPLETED]
        assert (counts.succeeded, counts.failed) == (2, 2)
        good, bad = await h.read(ended.output_file), await h.read(ended.error_file)
        assert good == [
            {
                "id": f"batch_req_{job.id}",
                "custom_id": name,
                "response": {"status_code": 200, "request_id": job.id, "body": {"id": "x", "n": 1}},
                "error": None,
            }
            for name, job in (("a", a), ("d", d))
        ]
        assert [each["custom_id"] for each in bad] == ["b", "c"]
        assert bad[0]["response"]["status_code"] == 400
        assert bad[0]["error"] is None
        assert bad[1]["response"] is None
        assert bad[1]["error"] == {"code": "backend_died", "message": "it died three times"}


async def test_a_batch_whose_lines_all_failed_is_complete_and_has_no_output() -> None:
    async with house() as h:
        batch = await h.begin(line("a"))
        h.hands.end(h.jobs(batch)[0], JobStatus.FAILED, reason=FailureReason.POISON)
        await h.clock.rest()

        ended = await h.now(batch.id)
        assert ended.status is BatchStatus.COMPLETED
        assert ended.output_file == ""
        [bad] = await h.read(ended.error_file)
        assert bad["error"] == {"code": "poison", "message": "poison"}


async def test_an_answer_that_did_not_fit_is_told_with_why() -> None:
    async with house() as h:
        batch = await h.begin(line("a"), line("b"))
        a, b = h.jobs(batch)
        h.hands.end(
            a, JobStatus.FAILED, output=b"{}", http_status=200, reason=FailureReason.INVALID_OUTPUT, detail="no name"
        )
        h.hands.end(b, output=b"plain \xff words", http_status=200)
        await h.clock.rest()

        ended = await h.now(batch.id)
        [bad], [good] = await h.read(ended.error_file), await h.read(ended.output_file)
        assert bad["response"]["body"] == {}
        assert bad["error"] == {"code": "invalid_output", "message": "no name"}
        assert good["response"]["body"] == "plain � words"


async def test_an_answer_that_is_kept_no_more_is_told_so() -> None:
    async with house() as h:
        batch = await h.begin(line("a"))
        h.hands.end(h.jobs(batch)[0], http_status=200)
        await h.clock.rest()
        [good] = await h.read((await h.now(batch.id)).output_file)
        assert (good["response"], good["error"]["code"]) == (None, "answer_expired")


async def test_ends_of_other_jobs_are_nobodys() -> None:
    async with house() as h:
        batch = await h.begin(line("a"))
        [job] = h.jobs(batch)
        assert job.terms is not None
        for other in (replace(job, terms=None), replace(job, terms=replace(job.terms, batch="batch_x"))):
            h.hands._listeners[0](End(other, JobStatus.DONE, None))
        await h.clock.rest()
        assert (await h.now(batch.id)).status is BatchStatus.IN_PROGRESS


async def test_nothing_of_a_wrong_input_is_run() -> None:
    async with house() as h:
        batch = await h.begin(line("a"), line("b", model="x"), b"{\n", line("a"))

        assert batch.status is BatchStatus.FAILED
        assert BatchStatus.FAILED in batch.at
        assert [(e.code, e.line) for e in batch.errors] == [
            ("model_not_found", 2),
            ("invalid_json", 3),
            ("duplicate_custom_id", 4),
        ]
        assert batch.total == 0
        assert h.hands.accepted == []
        assert any("model_not_found" in e.message for e in h.journal.recent if e.kind is EventKind.BATCH)


async def test_too_many_lines_are_not_read_to_their_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisord.engine.batching.steps.MOST_LINES", 2)
    async with house() as h:
        batch = await h.begin(*(line(str(n)) for n in range(3)), b"{ never read")

        assert [e.code for e in batch.errors] == ["too_many_lines"]
        assert (await h.begin(line("a"), line("b"))).status is BatchStatus.IN_PROGRESS


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"endpoint": "/v1/models"}, "endpoint"),
        ({"endpoint": "/v1/audio/speech"}, "endpoint"),
        ({"completion_window": "soon"}, "completion_window"),
    ],
)
async def test_what_no_batch_can_be_is_refused(changes: dict[str, str], param: str) -> None:
    async with house() as h:
        file = await h.upload(line("a"))
        asked = {"input_file": file, "endpoint": EMBEDDINGS, "completion_window": "24h", **changes}
        with pytest.raises(InvalidRequestError) as refused:
            await h.batches.create(Wanted(**asked))
        assert refused.value.param == param
        assert await h.batches.list(Page()) == []


async def test_only_an_uploaded_file_of_a_good_size_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    async with house() as h:
        with pytest.raises(NotFoundError):
            await h.batches.create(Wanted("file-x", EMBEDDINGS, "24h"))
        batch = await h.begin(line("a"))
        h.hands.answer(*h.jobs(batch))
        await h.clock.rest()
        with pytest.raises(InvalidRequestError, match="batch_output"):
            await h.batches.create(Wanted((await h.now(batch.id)).output_file, EMBEDDINGS, "24h"))
        monkeypatch.setattr(batches, "LARGEST_FILE", 10)
        with pytest.raises(InvalidRequestError, match="more than 10 bytes"):
            await h.begin(line("a"))


async def test_a_cancelled_batch_keeps_what_was_done() -> None:
    async with house() as h:
        batch = await h.begin(*(line(name) for name in "abc"))
        a, b, _ = h.jobs(batch)
        h.hands.answer(a)
        h.hands.begin(b)
        told, _ = await h.batches.cancel(batch.id)
        assert told.status is BatchStatus.CANCELLING
        await h.clock.rest()

        ended, counts = await h.batches.find(batch.id)
        assert ended.status is BatchStatus.CANCELLED
        assert (counts.succeeded, counts.cancelled) == (1, 2)
        assert [each["custom_id"] for each in await h.read(ended.output_file)] == ["a"]
        bad = await h.read(ended.error_file)
        assert [each["error"]["code"] for each in bad] == ["batch_cancelled"] * 2
        assert (await h.batches.cancel(batch.id))[0] == ended


async def test_what_is_over_is_not_cancelled() -> None:
    async with house() as h:
        batch = await h.begin(b"{")
        with pytest.raises(ConflictError):
            await h.batches.cancel(batch.id)
        with pytest.raises(NotFoundError):
            await h.batches.cancel("batch_x")
        with pytest.raises(NotFoundError):
            await h.batches.cancel(batch.id, door="anthropic")


async def test_a_batch_that_is_cancelled_while_its_input_is_read_runs_nothing() -> None:
    async with house() as h:
        file = await h.upload(*(line(str(n)) for n in range(FILE_PART // 60)))
        made, _ = await h.batches.create(Wanted(file, EMBEDDINGS, "24h"))
        await h.batches.cancel(made.id)
        await h.clock.rest()

        ended = await h.now(made.id)
        assert ended.status is BatchStatus.CANCELLED
        assert (ended.total, ended.output_file, ended.error_file) == (0, "", "")
        assert h.hands.accepted == []


async def test_a_cancel_in_the_middle_of_the_validation_counts() -> None:
    async with house() as h:
        read, go_on = h.store.file_part, asyncio.Event()

        async def slowly(file_id: str, number: int) -> bytes | None:
            await go_on.wait()
            return await read(file_id, number)

        h.store.file_part = slowly  # type: ignore[method-assign]
        batch = await h.begin(line("a"), line("b"))
        assert batch.status is BatchStatus.VALIDATING
        await h.batches.cancel(batch.id)
        go_on.set()
        await h.clock.rest()

        assert (await h.now(batch.id)).status is BatchStatus.CANCELLED
        assert h.hands.accepted == []


async def test_the_results_of_a_cancelled_batch_have_one_name() -> None:
    """However often it takes to make them."""
    async with house() as h:
        batch = await h.begin(line("a"), line("b"))
        h.hands.answer(h.jobs(batch)[0])
        plain = h.store.put_file

        async def refuse(file: object) -> None:
            raise StoreUnavailableError("the disk is full")

        h.store.put_file = refuse  # type: ignore[method-assign]
        await h.batches.cancel(batch.id)
        await h.clock.rest()
        left = await h.now(batch.id)
        assert left.status is BatchStatus.CANCELLING
        assert left.output_file
        h.store.put_file = plain  # type: ignore[method-assign]
        await h.clock.advance(3)
        ended = await h.now(batch.id)
        assert ended.status is BatchStatus.CANCELLED
        assert (ended.output_file, ended.error_file) == (left.output_file, left.error_file)


async def test_out_of_time_what_waits_is_ended_and_what_runs_may_finish() -> None:
    async with house() as h:
        batch = await h.begin(*(line(name) for name in "abc"), window="1h")
        a, b, _ = h.jobs(batch)
        h.hands.answer(a)
        h.hands.begin(b)
        h.clock.jump_wall(7 * DAY)  # somebody set the clock: no reason to end anything
        await h.clock.advance(3590)
        assert (await h.batches.find(batch.id))[1].waiting == 1
        await h.clock.advance(20)
        assert (await h.batches.find(batch.id))[1].expired == 1
        assert (await h.now(batch.id)).status is BatchStatus.IN_PROGRESS
        h.hands.answer(b)
        await h.clock.advance(5)

        ended = await h.now(batch.id)
        assert ended.status is BatchStatus.EXPIRED
        assert [each["custom_id"] for each in await h.read(ended.output_file)] == ["a", "b"]
        [late] = await h.read(ended.error_file)
        assert (late["custom_id"], late["error"]["code"]) == ("c", "batch_expired")


async def test_lines_are_committed_many_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_jobs, "CHUNK_JOBS", 4)
    async with house() as h:
        await h.begin(*(line(str(n)) for n in range(10)))
        assert h.hands.commits == [4, 4, 2]
        monkeypatch.setattr(batch_jobs, "CHUNK_BYTES", 1)
        await h.begin(line("a"), line("b"))
        assert h.hands.commits[3:] == [1, 1]


async def test_after_a_crash_only_the_missing_jobs_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_jobs, "CHUNK_JOBS", 3)

    def breaks(hands: Hands) -> None:
        hands.refuse, hands.refuse_after = StoreUnavailableError("the disk is gone"), 2

    store = MemoryStore()
    async with house(store, breaks) as h:
        batch = await h.begin(*(line(f"c{n}") for n in range(10)))
        assert batch.status is BatchStatus.IN_PROGRESS
        assert len(h.jobs(batch)) == 6
    async with house(store) as h:
        assert [job.terms.custom_id for job in h.jobs(batch) if job.terms] == ["c6", "c7", "c8", "c9"]
        lines = await store.batch_jobs(batch.id, after_line=0, limit=100, most_bytes=10**6)
        assert [each.job.terms.custom_id for each in lines if each.job.terms] == [f"c{n}" for n in range(10)]
        h.hands.answer(*(each.job for each in lines))
        await h.clock.rest()
        assert (await h.now(batch.id)).status is BatchStatus.COMPLETED


async def test_what_the_store_refuses_is_done_later() -> None:
    async with house() as h:
        h.hands.refuse = StoreUnavailableError("the disk is full")
        batch = await h.begin(line("a"))
        assert h.jobs(batch) == []
        h.hands.refuse = None
        await h.clock.advance(3)
        [job] = h.jobs(batch)
        h.store.fail()
        h.hands._store._trouble, trouble = None, h.hands._store._trouble
        h.hands.answer(job)
        h.store._trouble = trouble
        await h.clock.advance(10)
        assert (await h.now(batch.id)).status is BatchStatus.IN_PROGRESS
        h.store.heal()
        await h.clock.advance(3)
        assert (await h.now(batch.id)).status is BatchStatus.COMPLETED


async def test_a_batch_that_cannot_be_stored_is_refused_and_forgotten() -> None:
    async with house() as h:
        file = await h.upload(line("a"))
        h.store.fail()
        with pytest.raises(StoreUnavailableError):
            await h.batches.create(Wanted(file, EMBEDDINGS, "24h"))
        h.store.heal()
        other = await h.begin(line("b"))
        await h.clock.advance(120)
        assert [found.id for found, _ in await h.batches.list(Page())] == [other.id]
        assert len(h.hands.accepted) == 1


async def test_a_client_that_leaves_while_its_batch_is_stored_leaves_a_batch() -> None:
    async with house() as h:
        file, stored, plain = await h.upload(line("a")), asyncio.Event(), h.store.put_batch

        async def slowly(batch: BatchRecord, key: KeyRecord | None = None) -> None:
            await plain(batch, key)
            if batch.status is BatchStatus.VALIDATING:
                stored.set()
                await asyncio.Event().wait()

        h.store.put_batch = slowly  # type: ignore[method-assign]
        async with beside(h.batches.create(Wanted(file, EMBEDDINGS, "24h"))):
            await stored.wait()
        await h.clock.rest()
        [(found, _)] = await h.batches.list(Page())
        assert found.status is BatchStatus.IN_PROGRESS


async def test_a_change_that_cannot_be_stored_did_not_happen() -> None:
    async with house() as h:
        batch = await h.begin(line("a"))
        h.store.fail()
        with pytest.raises(StoreUnavailableError):
            await h.batches.cancel(batch.id)
        h.store.heal()
        await h.clock.advance(120)
        assert (await h.now(batch.id)).status is BatchStatus.IN_PROGRESS


async def test_ends_that_nobody_told_are_found_by_and_by() -> None:
    async with house() as h:
        batch = await h.begin(line("a"))
        h.hands._listeners.clear()
        h.hands.answer(*h.jobs(batch))
        await h.clock.advance(61)
        assert (await h.now(batch.id)).status is BatchStatus.COMPLETED


async def test_a_death_before_the_results_are_files_makes_them_once() -> None:
    store = MemoryStore()
    async with house(store) as h:
        batch = await h.begin(line("a"))
        h.hands._listeners.clear()
        h.hands.answer(*h.jobs(batch))
        plain = store.put_file

        async def refuse(file: object) -> None:
            raise StoreUnavailableError("the disk is full")

        store.put_file = refuse  # type: ignore[method-assign]
        await h.clock.advance(61)
        left = await h.now(batch.id)
        assert left.status is BatchStatus.FINALIZING
        store.put_file = plain  # type: ignore[method-assign]
    async with house(store) as h:
        ended = await h.now(batch.id)
        assert ended.status is BatchStatus.COMPLETED
        assert ended.output_file == left.output_file
        assert len(await h.read(ended.output_file)) == 1


async def test_a_bug_over_one_batch_is_reported_and_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    bugs: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: bugs.append(context["message"]))
    async with house() as h:
        monkeypatch.setattr("supervisord.engine.batching.steps.submitted", lambda *line: 1 / 0)
        stuck = await h.begin(line("a"))
        monkeypatch.undo()
        other = await h.begin(line("a"))
        assert (stuck.status, other.status) == (BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS)
        assert len(bugs) == 1
        assert stuck.id in bugs[0]
        await h.clock.advance(61)
        assert (await h.now(stuck.id)).status is BatchStatus.IN_PROGRESS


async def test_a_file_is_kept_while_it_is_read() -> None:
    async with house() as h:
        h.hands.refuse = QueueFullError("full", depth=1, retry_after_s=1)
        batch = await h.begin(line("a"))
        with pytest.raises(ConflictError):
            await h.batches.files.delete(batch.input_file)
        h.hands.refuse = None
        await h.clock.advance(ROOM_S)
        await h.batches.files.delete(batch.input_file)
        with pytest.raises(NotFoundError):
            await h.batches.files.find(batch.input_file)
        h.hands.answer(*h.jobs(batch))
        await h.clock.rest()
        assert (await h.now(batch.id)).status is BatchStatus.COMPLETED


async def test_what_came_of_a_file_is_left_to_the_next_start_where_the_disk_is_full() -> None:
    async with house() as h:
        writing = h.batches.files.begin("me")
        await writing.write(b"x" * FILE_PART)
        h.store.fail()
        h.batches.files.give_up(writing)
        await h.clock.rest()
        assert h.store._parts
    await h.store.open()
    assert not h.store._parts


async def test_a_file_that_is_lost_takes_no_more_than_its_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_jobs, "CHUNK_JOBS", 1)

    def breaks(hands: Hands) -> None:
        hands.refuse, hands.refuse_after = StoreUnavailableError("the disk is gone"), 1

    async with house(prepare=breaks) as h:
        batch = await h.begin(line("a"), line("b"))
        await h.store.delete_file(batch.input_file)
        h.hands.refuse = None
        await h.clock.advance(3)
        h.hands.answer(*h.jobs(batch))
        await h.clock.rest()

        ended = await h.now(batch.id)
        assert ended.status is BatchStatus.COMPLETED
        assert ended.total == 1
        assert [e.code for e in ended.errors] == ["file_lost"]


async def test_a_file_that_is_gone_fails_its_batch() -> None:
    async with house() as h:
        file = await h.upload(line("a"))
        made, _ = await h.batches.create(Wanted(file, EMBEDDINGS, "24h"))
        await h.store.delete_file(file)
        await h.clock.rest()
        assert [e.code for e in (await h.now(made.id)).errors] == ["file_not_found"]


async def test_only_what_has_ended_is_deleted() -> None:
    async with house() as h:
        batch = await h.begin(line("a"), line("b"))
        with pytest.raises(ConflictError):
            await h.batches.delete(batch.id)
        a, b = h.jobs(batch)
        h.hands.answer(a)
        h.hands.end(b, JobStatus.FAILED, reason=FailureReason.POISON)
        await h.clock.rest()
        ended = await h.now(batch.id)
        await h.batches.delete(batch.id)

        for file_id in (ended.output_file, ended.error_file):
            with pytest.raises(NotFoundError):
                await h.batches.files.find(file_id)
        with pytest.raises(NotFoundError):
            await h.batches.find(batch.id)
        assert await h.store.job(a.id) is None


async def test_no_more_are_open_than_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MOST_OPEN", 1)
    async with house() as h:
        await h.begin(line("a"))
        with pytest.raises(QueueFullError):
            await h.begin(line("b"))


async def test_lines_can_be_read_before_the_end() -> None:
    async with house() as h:
        batch = await h.begin(line("a"), line("b"))
        h.hands.answer(h.jobs(batch)[1])
        part = b"".join([p async for p in h.batches.lines(batch, in_openai_form)])
        assert [json.loads(each)["custom_id"] for each in part.splitlines()] == ["b"]


async def test_a_line_may_ask_for_its_answer_to_be_checked() -> None:
    body = {"model": "m", "input": "x"}
    asked = [True, {"schema": {"type": "object"}, "retries": 1}, False, {"schema": "none"}, 7, None]
    lines = [
        {"custom_id": str(n), "method": "POST", "url": EMBEDDINGS, "body": body, "validate_output": value}
        for n, value in enumerate(asked)
    ]
    async with house() as h:
        good = await h.begin(*(msgspec.json.encode(each) + b"\n" for each in lines[:3]))
        checks = [job.terms.check for job in h.jobs(good) if job.terms]
        assert checks == [OutputCheck(""), OutputCheck('{"type":"object"}', 1), None]
        bad = await h.begin(*(msgspec.json.encode(each) + b"\n" for each in lines[3:]))
        assert [(e.line, e.param) for e in bad.errors] == [(1, "validate_output"), (2, "validate_output")]


# --- Anthropic's -----------------------------------------------------------------------------------------------------


def message(model: str = "m", **changes: object) -> bytes:
    return msgspec.json.encode({"model": model, "max_tokens": 5, "messages": [], **changes})


async def test_a_batch_of_messages_is_checked_before_it_is_accepted() -> None:
    async with house() as h:
        requests = [("one", message()), ("two", b'{\n"model": "m", "max_tokens": 5, "messages": []}')]
        batch, _ = await h.batches.create_messages(requests, "me")
        assert batch.id.startswith("msgbatch_")
        assert (batch.status, batch.total) == (BatchStatus.IN_PROGRESS, 2)
        await h.clock.rest()

        one, two = h.jobs(batch)
        assert one.terms is not None
        assert (one.endpoint, one.max_tokens, one.terms.origin) == ("/v1/messages", 5, Origin.MESSAGE_BATCH)
        assert json.loads(two.body or b"") == {"model": "m", "max_tokens": 5, "messages": []}
        assert await h.store.file(batch.input_file) is None
        assert await h.batches.list(Page()) == []
        assert [found.id for found, _ in await h.batches.list(Page(), "anthropic")] == [batch.id]


async def test_the_requests_of_messages_are_nobodys_file() -> None:
    async with house() as h:
        h.hands.refuse = QueueFullError("full", depth=1, retry_after_s=1)
        batch, _ = await h.batches.create_messages([("one", message())], "me")
        await h.clock.rest()
        file = await h.store.file(batch.input_file)
        assert file is not None
        assert file.purpose == MESSAGES
        assert await h.batches.files.list(Page(), None) == []
        with pytest.raises(NotFoundError):
            await h.batches.files.find(batch.input_file)


@pytest.mark.parametrize(
    ("requests", "param"),
    [
        ([], "requests"),
        ([("a", message()), ("a", message())], "requests.1.custom_id"),
        ([("a b", message())], "requests.0.custom_id"),
        ([("a", message()), ("b", message(model="x"))], "requests.1.params.model"),
        ([("a", message(stream=True))], "requests.0.params.stream"),
        ([("a", b"[]")], "requests.0.params"),
    ],
)
async def test_a_wrong_message_is_told(requests: list[tuple[str, bytes]], param: str) -> None:
    async with house() as h:
        with pytest.raises(InvalidRequestError) as refused:
            await h.batches.create_messages(requests, "me")
        assert refused.value.param == param
        await h.clock.rest()
        assert h.store._parts == {}
        assert await h.batches.list(Page(), "anthropic") == []


async def test_too_many_messages_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisord.engine.batching.message_input.MOST_MESSAGES", 1)
    async with house() as h:
        with pytest.raises(InvalidRequestError, match="more than 1 requests"):
            await h.batches.create_messages([("a", message()), ("b", message())], "me")


async def test_results_of_messages() -> None:
    async with house() as h:
        batch, _ = await h.batches.create_messages([(name, message()) for name in "abcdef"], "me")
        await h.clock.rest()
        a, b, c, d, e, f = h.jobs(batch)
        theirs = {"type": "error", "error": {"type": "invalid_request_error", "message": "no"}}
        failed, rejected = JobStatus.FAILED, FailureReason.REQUEST_REJECTED
        h.hands.end(a, output=b'{"type":"message"}', http_status=200)
        h.hands.end(b, failed, output=json.dumps(theirs).encode(), http_status=400, reason=rejected)
        h.hands.end(c, failed, output=b'{"error": "no"}', http_status=400, reason=rejected, detail="status 400: no")
        h.hands.end(d, failed, reason=FailureReason.BACKEND_DIED, detail="it died")
        h.hands.end(e, failed, reason=FailureReason.DEADLINE_EXCEEDED)
        h.hands.end(f, output=b"[1]", http_status=500)
        await h.clock.rest()

        ended = await h.now(batch.id)
        assert ended.status is BatchStatus.EXPIRED
        assert (ended.output_file, ended.error_file) == ("", "")
        text = b"".join([part async for part in h.batches.lines(ended, in_anthropic_form)])
        results = {each["custom_id"]: each["result"] for each in map(json.loads, text.splitlines())}
        assert results["a"] == {"type": "succeeded", "message": {"type": "message"}}
        assert results["b"] == {"type": "errored", "error": theirs}
        assert results["c"]["error"]["error"] == {
            "type": "invalid_request_error",
            "message": "status 400: no (request_rejected)",
        }
        assert results["d"]["error"]["error"] == {"type": "api_error", "message": "it died (backend_died)"}
        assert results["d"]["error"]["request_id"] == d.id
        assert results["e"] == {"type": "expired"}
        assert results["f"]["type"] == "errored"


async def test_a_cancelled_message_is_told_so() -> None:
    async with house() as h:
        batch, _ = await h.batches.create_messages([("a", message())], "me")
        await h.batches.cancel(batch.id, "anthropic")
        await h.clock.rest()

        ended, counts = await h.batches.find(batch.id, "anthropic")
        assert (ended.status, counts.cancelled) == (BatchStatus.CANCELLED, 1)
        text = b"".join([part async for part in h.batches.lines(ended, in_anthropic_form)])
        assert json.loads(text) == {"custom_id": "a", "result": {"type": "canceled"}}
