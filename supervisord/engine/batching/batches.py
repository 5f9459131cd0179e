"""Batches, as clients ask for them."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from supervisord.core import batch as moves
from supervisord.core.batch import ANTHROPIC, LARGEST_FILE, MESSAGE_WINDOW_S, OPENAI
from supervisord.core.errors import (
    ConflictError,
    IdempotencyMismatchError,
    InvalidRequestError,
    NotFoundError,
    QueueFullError,
)
from supervisord.core.job import Submission
from supervisord.core.record import ENDED_BATCH, BatchCounts, BatchRecord, BatchStatus, KeyRecord
from supervisord.core.request import ENDPOINTS
from supervisord.engine.batching.courses import Courses
from supervisord.engine.batching.files import UPLOADED, Files
from supervisord.engine.batching.message_input import MESSAGES_ENDPOINT, written
from supervisord.engine.batching.output import Render, rendered
from supervisord.engine.batching.steps import Checkable, Steps
from supervisord.engine.journal import Journal
from supervisord.engine.tasks import Tasks
from supervisord.engine.work.durable import Durable
from supervisord.engine.work.idempotency import KeyTurns, Used
from supervisord.ports import Clock, Page, Store

ANSWERED_IN_JSON = ENDPOINTS.keys() - {"/v1/audio/speech", "/v1/messages/count_tokens"}  # and worth a place in a queue
MOST_OPEN = 1000  # batches that have not ended: each is in memory, and counted every minute

Told = tuple[BatchRecord, BatchCounts]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A batch as a client asks for it. `completion_window`: a number and a unit, such as "24h"."""

    input_file: str
    endpoint: str
    completion_window: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    client: str = ""


class Batches:
    """All of them. `known` and `checkable`: see `Steps`."""

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
        self._clock = clock
        self._new_id = new_id
        self._known = known
        steps = Steps(store, durable, journal, clock, new_id=new_id, known=known, checkable=checkable)
        self._courses = Courses(store, durable, clock, steps)
        self._turns = KeyTurns()
        self.files = Files(store, clock, new_id=new_id, needed=self._courses.read)

    async def open(self, tasks: Tasks) -> None:
        """Know what an earlier life left unfinished."""
        self.files.open(tasks)
        for unfinished in await self._store.unfinished_batches():
            self._courses.add(unfinished)

    async def run(self) -> None:
        """Take them forward, for ever."""
        await self._courses.run()

    async def create(self, wanted: Wanted, client: str | None = None, *, used: Used | None = None) -> Told:
        """A new batch, safe from a power cut; its file is looked into afterwards. `client`: whose file it has to be.
        `used`: the client's Idempotency-Key: where it is known, the batch that it made.

        Raises InvalidRequestError, NotFoundError (the file), QueueFullError, StoreUnavailableError,
        IdempotencyMismatchError (the key was used for something else).
        """
        return await self._once(wanted.client, OPENAI, used, partial(self._create, wanted, client, used))

    async def _create(self, wanted: Wanted, client: str | None, used: Used | None) -> BatchRecord:
        if wanted.endpoint not in ANSWERED_IN_JSON:
            known = ", ".join(sorted(ANSWERED_IN_JSON))
            raise InvalidRequestError(f'"endpoint" must be one of {known}.', param="endpoint")
        seconds = moves.window(wanted.completion_window)
        file = await self.files.find(wanted.input_file, client)
        if file.purpose != UPLOADED:
            raise InvalidRequestError(
                f'The file {file.id} was made for "{file.purpose}", not for "{UPLOADED}".', param="input_file_id"
            )
        if file.bytes > LARGEST_FILE:
            raise InvalidRequestError(
                f"The file {file.id} has more than {LARGEST_FILE} bytes. Make several of it.", param="input_file_id"
            )
        now = self._clock.wall()
        return await self._begin(
            BatchRecord(
                id=f"batch_{self._new_id()}",
                door=OPENAI,
                endpoint=wanted.endpoint,
                client=wanted.client,
                created_at=now,
                expires_at=now + seconds,
                status=BatchStatus.VALIDATING,
                input_file=file.id,
                completion_window=wanted.completion_window,
                metadata=wanted.metadata,
            ),
            used,
        )

    async def create_messages(
        self, requests: Iterable[tuple[str, bytes]], client: str, *, used: Used | None = None
    ) -> Told:
        """A new batch of Anthropic's door: pairs of custom id and JSON object. It is safe from a power cut, and good.

        Raises InvalidRequestError, which tells the first request that is wrong, and what `create` raises.
        """
        return await self._once(client, ANTHROPIC, used, partial(self._create_messages, requests, client, used))

    async def _create_messages(
        self, requests: Iterable[tuple[str, bytes]], client: str, used: Used | None
    ) -> BatchRecord:
        self._check_room()
        file, total = await written(self.files, self._known, requests, client, self._clock)
        now = self._clock.wall()
        return await self._begin(
            BatchRecord(
                id=f"msgbatch_{self._new_id()}",
                door=ANTHROPIC,
                endpoint=MESSAGES_ENDPOINT,
                client=client,
                created_at=now,
                expires_at=now + MESSAGE_WINDOW_S,
                status=BatchStatus.IN_PROGRESS,
                at={BatchStatus.IN_PROGRESS: now},
                input_file=file.id,
                total=total,
            ),
            used,
        )

    async def _once(
        self, client: str, door: str, used: Used | None, make: Callable[[], Awaitable[BatchRecord]]
    ) -> Told:
        if used is None:
            return await make(), BatchCounts()
        async with self._turns.alone(client, used.key):
            known = await self._store.known_key(client, used.key)
            if known is None:
                return await make(), BatchCounts()
        if known.digest != used.digest or not known.batch:
            raise IdempotencyMismatchError(
                f"This Idempotency-Key was used for another request, which made {known.batch or known.job_id}. "
                "Use a new key for a new request.",
                param="Idempotency-Key",
            )
        return await self.find(known.batch, door)

    async def _begin(self, batch: BatchRecord, used: Used | None) -> BatchRecord:
        self._check_room()
        key = None if used is None else KeyRecord(batch.client, *used, "", batch.created_at, batch=batch.id)
        course = self._courses.add(batch)
        try:
            await course.begin(key)
        finally:  # also where it was refused, or its client has left by now: it may be stored
            course.news.set()
        return batch

    def _check_room(self) -> None:
        if len(self._courses) >= MOST_OPEN:
            words = f"{MOST_OPEN} batches have not ended yet, and that is the limit."
            raise QueueFullError(words, depth=MOST_OPEN, retry_after_s=60)

    async def find(self, batch_id: str, door: str = OPENAI, client: str | None = None) -> Told:
        """As it is now. `client`: only one of this client. Raises NotFoundError."""
        found = await self._store.batch(batch_id)
        if found is None or found.door != door or client not in {None, found.client}:
            raise NotFoundError(f'There is no batch "{batch_id}".', param="batch_id")
        return found, await self._store.batch_counts(batch_id)

    async def list(self, page: Page, door: str = OPENAI) -> Sequence[Told]:
        """Newest first."""
        found = await self._store.batches(page, door)
        return [(each, await self._store.batch_counts(each.id)) for each in found]

    async def cancel(self, batch_id: str, door: str = OPENAI, client: str | None = None) -> Told:
        """Soon what waits is ended, and what runs cut off. Raises NotFoundError, ConflictError where it is over."""
        found, counts = await self.find(batch_id, door, client)
        course = self._courses.of(batch_id)
        if course is None:
            return moves.cancelled(found, self._clock.wall()), counts
        return await self._courses.cancel(course), counts

    async def delete(self, batch_id: str, door: str = OPENAI, client: str | None = None) -> None:
        """Forget a batch that has ended, with its lines and their answers. Raises NotFoundError, ConflictError."""
        found, _ = await self.find(batch_id, door, client)
        if found.status not in ENDED_BATCH:
            raise ConflictError(f"The batch {batch_id} is {found.status}: cancel it first, or wait for its end.")
        await self._store.delete_batch(batch_id)

    def lines(self, batch: BatchRecord, render: Render) -> AsyncIterator[bytes]:
        """What came of it this far, as JSON lines; several at a time."""
        return rendered(self._store, batch, self._clock, render)
