"""The lines of a batch become jobs, many in one commit."""

from collections.abc import AsyncIterator, Callable, Sequence

from supervisord.core.batch import ANTHROPIC
from supervisord.core.batch_input import Input
from supervisord.core.errors import QueueFullError
from supervisord.core.job import Submission
from supervisord.core.record import BatchRecord, JobRecord
from supervisord.core.terms import Origin, Terms
from supervisord.engine.batching.lines import lines_of, submitted
from supervisord.ports import Clock, WorkStore

# Of one commit, so that other writes do not wait for all 50 000 lines: 500 small ones take it some 10 ms.
CHUNK_JOBS = 500
CHUNK_BYTES = 8 * 1024 * 1024


async def chunks(
    store: WorkStore,
    batch: BatchRecord,
    made: int,
    *,
    clock: Clock,
    new_id: Callable[[], str],
    room: Callable[[], int],
) -> AsyncIterator[Sequence[JobRecord]]:
    """The jobs of an input that was found good, but for the first `made`, in the order of their lines.

    So their number tells where to go on after a crash. `room`: how many there may be now. Raises QueueFullError where
    that is none, StoreUnavailableError.
    """
    wanted = Input(batch.endpoint, batch.client, batch.total, _anything)
    origin = Origin.MESSAGE_BATCH if batch.door == ANTHROPIC else Origin.BATCH
    chunk: list[JobRecord] = []
    size, seen, most = 0, 0, _most(room)
    async for number, text in lines_of(store, batch.input_file, clock):
        seen += 1
        if seen <= made or (found := submitted(wanted, number, text)) is None:
            continue
        # Its time is that of its batch: what runs when that is over may still finish, and no clock that is set ends it.
        terms = Terms(origin, batch=batch.id, line=number, custom_id=found.custom_id, check=found.check)
        chunk.append(_job(batch, terms, found.submission, job_id=new_id(), now=clock.wall()))
        size += len(found.submission.body)
        if len(chunk) >= most or size >= CHUNK_BYTES:
            yield chunk
            chunk, size, most = [], 0, _most(room)
    if chunk:
        yield chunk


def _most(room: Callable[[], int]) -> int:
    free = room()
    if free < 1:
        raise QueueFullError("No more jobs may wait now.", depth=0, retry_after_s=0)
    return min(free, CHUNK_JOBS)


def _anything(submission: Submission) -> None:
    """A model that was served when the input was looked into may come back: its lines wait for it."""


def _job(batch: BatchRecord, terms: Terms, submission: Submission, *, job_id: str, now: float) -> JobRecord:
    return JobRecord(
        id=job_id,
        endpoint=submission.endpoint,
        model=submission.model,
        priority=int(submission.priority),
        stream=False,
        client=batch.client,
        submitted_at=now,
        max_tokens=submission.max_tokens,
        temperature=submission.temperature,
        body=submission.body,
        terms=terms,
    )
