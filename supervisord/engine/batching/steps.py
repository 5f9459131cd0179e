"""What is done with a batch, from its file to its end, a step at a time.

Each step looks at the store for how far it is: what was done before it was interrupted, by a full disk or a death of
the daemon, it finds there.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from supervisord.core import batch as moves
from supervisord.core.batch import ANTHROPIC, MOST_LINES, MOST_MESSAGES
from supervisord.core.batch_input import Input, Submitted
from supervisord.core.errors import InvalidRequestError
from supervisord.core.job import FailureReason, JobStatus, Submission
from supervisord.core.record import (
    ENDED_BATCH,
    BatchCounts,
    BatchRecord,
    BatchStatus,
    EventKind,
    FileRecord,
    LineError,
)
from supervisord.core.terms import OutputCheck
from supervisord.engine.batching.course import Course
from supervisord.engine.batching.files import RENDERED
from supervisord.engine.batching.jobs import CHUNK_JOBS, chunks
from supervisord.engine.batching.lines import lines_of, submitted
from supervisord.engine.batching.output import bad_lines, good_lines, rendered
from supervisord.engine.journal import Journal
from supervisord.engine.work.durable import Durable
from supervisord.ports import Clock, Store

LOOK_S = 60.0  # after so long each is looked at, whatever was told: that is a hint, the store is the truth
AGAIN_S = 2.0  # to see what was cut short end
AT_ONCE = 4  # batches whose lines are read: each takes a millisecond of the loop at a time

Checkable = Callable[[OutputCheck, str, bytes, str], Awaitable[None]]  # check, endpoint, body, client

_HAVE_JOBS = frozenset({BatchStatus.IN_PROGRESS, BatchStatus.CANCELLING})


class _Verdict(NamedTuple):
    """How all lines of a batch end that have not begun."""

    status: JobStatus
    reason: FailureReason
    detail: str


_CANCELLED = _Verdict(JobStatus.CANCELLED, FailureReason.CANCELLED, "the batch was cancelled")
_TOO_LATE = _Verdict(JobStatus.FAILED, FailureReason.DEADLINE_EXCEEDED, "the completion window of its batch is over")


class Steps:
    """Of all batches. `known` raises InvalidRequestError for what nobody would serve, `checkable` where an answer could
    not be checked.
    """

    def __init__(
        self,
        store: Store,
        durable: Durable,
        journal: Journal,
        clock: Clock,
        *,
        new_id: Callable[[], str],
        known: Callable[[Submission], None],
        checkable: Checkable,
    ) -> None:
        self._store = store
        self._durable = durable
        self._journal = journal
        self._clock = clock
        self._new_id = new_id
        self._known = known
        self._checkable = checkable
        self._reading = asyncio.Semaphore(AT_ONCE)

    async def take_further(self, course: Course) -> float | None:
        """As far as it goes now. The seconds until it is to be looked at again at the latest; None: it has ended.

        Raises RefusedError: the rest is to be taken up again; whoever refused tells of it itself.
        """
        if not await course.exists():
            return None
        if course.batch.status is BatchStatus.VALIDATING:
            async with self._reading:
                await self._validate(course)
        if course.batch.status in _HAVE_JOBS:
            pause = await self._carry_on(course)
            if pause is not None:
                return pause
        if course.batch.status not in ENDED_BATCH:
            async with self._reading:
                await self._conclude(course)
        return None

    # --- its input ---------------------------------------------------------------------------------------------------

    async def _validate(self, course: Course) -> None:
        batch = course.batch
        most = MOST_MESSAGES if batch.door == ANTHROPIC else MOST_LINES
        wanted = Input(batch.endpoint, batch.client, most, self._known)
        if await self._store.file(batch.input_file) is None:
            wanted.refuse(LineError("file_not_found", f"The file {batch.input_file} is gone."))
        async for number, text in lines_of(self._store, batch.input_file, self._clock):
            found = submitted(wanted, number, text)
            if found is not None and found.check is not None:
                await self._look_at_check(wanted, found, found.check)
            if wanted.is_full or course.batch.status is not BatchStatus.VALIDATING:
                break
        errors = wanted.verdict()

        def step(present: BatchRecord) -> BatchRecord:
            if present.status is not BatchStatus.VALIDATING:
                return present
            now = self._clock.wall()
            if errors:
                return replace(moves.moved(present, BatchStatus.FAILED, now), errors=errors)
            return replace(moves.moved(present, BatchStatus.IN_PROGRESS, now), total=wanted.total)

        self._tell(await course.change(step), BatchCounts())

    async def _look_at_check(self, wanted: Input, line: Submitted, check: OutputCheck) -> None:
        try:
            await self._checkable(check, line.submission.endpoint, line.submission.body, line.submission.client)
        except InvalidRequestError as error:
            wanted.refuse(LineError(error.code, error.message, line.number, error.param))

    # --- its jobs ----------------------------------------------------------------------------------------------------

    async def _carry_on(self, course: Course) -> float | None:
        """End those that have no time left, make what is missing. None: all have ended, and the results have names."""
        if not course.has_jobs:
            await self._store.flush()  # lines of an interrupted life of this step may be on their way still
        counts = await self._counted(course)
        verdict = self._verdict(course)
        if verdict is not None and course.unfinished:
            await self._durable.end_batch(course.batch.id, *verdict, running=verdict is _CANCELLED)
        if not course.has_jobs:
            await self._make_jobs(course, _all(counts))
        if verdict is not self._verdict(course):
            return 0.0
        counts = await self._counted(course)
        if course.unfinished:
            return AGAIN_S if verdict is not None else min(_look_s(), course.ends_at - self._clock.monotonic())
        await course.change(lambda present: self._with_results(present, counts))
        return None

    def _verdict(self, course: Course) -> _Verdict | None:
        """What runs out of time may still finish; what is cancelled is cut off. None: all of it may run."""
        if course.batch.status is BatchStatus.CANCELLING:
            return _CANCELLED
        return _TOO_LATE if self._clock.monotonic() >= course.ends_at else None

    async def _counted(self, course: Course) -> BatchCounts:
        course.ended = 0
        counts = await self._store.batch_counts(course.batch.id)
        course.unfinished = counts.waiting + counts.running
        return counts

    async def _make_jobs(self, course: Course, made: int) -> None:
        """All but the first `made`, which are there. Lines for which there is no time any more end as they are made."""
        batch = course.batch
        if made < batch.total:
            async with self._reading:
                room = partial(self._room, course)
                async for chunk in chunks(self._store, batch, made, clock=self._clock, new_id=self._new_id, room=room):
                    verdict = self._verdict(course)
                    if verdict is None:
                        await self._durable.accept_many(chunk)
                    else:
                        status, reason, detail = verdict
                        await self._store.accept_ended(chunk, status=status.value, reason=reason.value, detail=detail)
                    made += len(chunk)
        if made < batch.total:
            lost = LineError("file_lost", f"The input was gone before all of it was read: {made} lines are run.")
            await course.change(lambda present: replace(present, total=made, errors=(*present.errors, lost)))
        if batch.door == ANTHROPIC:
            await self._store.delete_file(batch.input_file)
        course.has_jobs = True

    def _room(self, course: Course) -> int:
        """For how many lines: only those that are to run have to wait for it."""
        return self._durable.free if self._verdict(course) is None else CHUNK_JOBS

    # --- its results -------------------------------------------------------------------------------------------------

    def _with_results(self, present: BatchRecord, counts: BatchCounts) -> BatchRecord:
        """Names the files before they are made, so that one that is made twice is still one."""
        if present.status is BatchStatus.IN_PROGRESS:
            present = moves.moved(present, BatchStatus.FINALIZING, self._clock.wall())
        if present.door == ANTHROPIC:
            return present
        return replace(
            present,
            output_file=present.output_file or self._file_id(counts.succeeded),
            error_file=present.error_file or self._file_id(counts.ended - counts.succeeded),
        )

    def _file_id(self, lines: int) -> str:
        return f"file-{self._new_id()}" if lines else ""

    async def _conclude(self, course: Course) -> None:
        """Its results are complete: from now on they can be read."""
        batch = course.batch
        files = ((batch.output_file, good_lines, "output"), (batch.error_file, bad_lines, "error"))
        for file_id, render, name in files:
            if file_id:
                size = 0
                async for part in rendered(self._store, batch, self._clock, render):
                    size += len(part)
                filename, now = f"{batch.id}_{name}.jsonl", self._clock.wall()
                await self._store.put_file(FileRecord(file_id, filename, RENDERED, size, now, batch.client))
        counts = await self._store.batch_counts(batch.id)
        ended = await course.change(lambda present: moves.concluded(present, counts, self._clock.wall()))
        self._tell(ended, counts)

    def _tell(self, batch: BatchRecord, counts: BatchCounts) -> None:
        words = f"batch {batch.id} is {batch.status}"
        if batch.status is BatchStatus.FAILED:
            words += f": its input has {len(batch.errors)} errors, the first is {batch.errors[0].code}"
        elif batch.status is BatchStatus.IN_PROGRESS:
            words += f": {batch.total} lines for {batch.endpoint}"
        elif batch.status in ENDED_BATCH:
            words += f": {counts.succeeded} of {batch.total} lines succeeded, {counts.failed} failed"
        self._journal.tell(EventKind.BATCH, words, batch=batch.id, status=batch.status.value)


def _look_s() -> float:
    """Spread: what an earlier life left is begun with at one moment, and must not come back so every minute."""
    return LOOK_S * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret


def _all(counts: BatchCounts) -> int:
    return counts.waiting + counts.running + counts.ended
