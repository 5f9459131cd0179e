"""Responses in the background: accepted as durable jobs, told as objects, followed as events, from any point on."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

import msgspec

from supervisord.core.errors import ConflictError, InvalidRequestError, NotFoundError, StoreUnavailableError
from supervisord.core.job import TERMINAL, JobStatus, Submission
from supervisord.core.parameters import Edits
from supervisord.core.record import JobRecord
from supervisord.core.response import ECHOED, Object, as_it_is, begun, event_of, id_of, job_id_of
from supervisord.core.response_events import CREATED, FIRST, QUEUED, Outline, decoded, encoded, is_last
from supervisord.core.terms import Origin, Terms
from supervisord.engine.background.feed import Feed, Numbered
from supervisord.engine.background.recorder import ResponseRecorder
from supervisord.engine.body import edited
from supervisord.engine.members import reader, values_of
from supervisord.engine.tasks import Tasks
from supervisord.engine.work.durable import Accepted, Durable, End
from supervisord.engine.work.kept import GiveUp, Recorder
from supervisord.ports import Clock, Store, StoredJob, Timer

CHECKPOINT_S = 1.0  # between what a crash can take of a stream; it is made anew then, by another try
PAGE = 256  # events read from the store at once
KEEP_ALIVE_S = 15.0  # between comments to a follower to whom nothing happens

_echoed = reader(*ECHOED)
# It always streams, so that it can be followed; whether it is kept is for us to see to, and not for a backend.
_FOR_A_BACKEND = Edits({"stream": "true", "store": "false"}, frozenset({"background", "validate_output"}))


class Responses:
    """Every response in the background. `tasks` owns what has to be looked up for a try."""

    def __init__(self, durable: Durable, store: Store, clock: Clock, tasks: Callable[[], Tasks]) -> None:
        self._durable = durable
        self._store = store
        self._clock = clock
        self._tasks = tasks
        self._feeds: dict[str, Feed] = {}
        self._recorders: dict[str, ResponseRecorder] = {}
        self._timer: Timer | None = None
        durable.record_with(Origin.RESPONSE, self._record)
        durable.on_ended(self._ended)

    # --- what clients ask for ----------------------------------------------------------------------------------------

    async def create(self, wanted: Submission, terms: Terms, key: str = "") -> Accepted:
        """Take a response; on return it is safe from a power cut. Raises what `Durable.accept` does."""
        body = edited(wanted.body, _FOR_A_BACKEND)
        return await self._durable.accept(replace(wanted, body=body, stream=True), terms, key)

    async def taken(self, accepted: Accepted) -> Object:
        """What is told of one that `create` took. Of a new one nothing is read: that could fail, and it is taken."""
        return await self.object(id_of(accepted.job_id)) if accepted.stored is None else _object(accepted.stored)

    # `owner`: whose it has to be; None: anybody's.

    async def object(self, response_id: str, owner: str | None = None) -> Object:
        """The response as it is now. Raises NotFoundError."""
        return _object(await self._known(response_id, owner))

    async def cancel(self, response_id: str, owner: str | None = None) -> Object:
        """End it, unless it has ended; what it is then. Raises NotFoundError."""
        stored = await self._known(response_id, owner)
        return _object(await self._durable.cancel(stored.job.id) or stored)

    async def delete(self, response_id: str, owner: str | None = None) -> None:
        """Forget it; one that has not ended is cancelled first. Raises NotFoundError."""
        stored = await self._known(response_id, owner)
        if stored.status not in TERMINAL:
            await self._durable.cancel(stored.job.id)
        if not await self._store.delete_job(stored.job.id):
            raise _unknown(response_id)

    async def follow(self, response_id: str, after: int = -1, stored: StoredJob | None = None) -> AsyncIterator[bytes]:
        """Its events behind the number `after`, up to the last one, and comments while nothing happens. `stored`: as it
        was accepted, where that was just now.

        Raises NotFoundError before the first of them.
        """
        stored = stored or await self._known(response_id)
        _check_kept(stored)
        job_id = stored.job.id
        feed = self._feed(job_id)
        feed.ended = feed.ended or stored.status in TERMINAL
        feed.followers += 1
        try:
            for number, event in _opening(stored):
                if number > after:
                    yield event
            async for event in self._events(stored, feed, max(after, QUEUED)):
                yield event
        finally:
            feed.followers -= 1
            self._drop(job_id)

    async def _events(self, stored: StoredJob, feed: Feed, after: int) -> AsyncIterator[bytes]:
        job_id = stored.job.id
        while True:
            change, ended = feed.change(), feed.ended
            events = await self._after(job_id, feed, after)
            for number, event in events:
                yield event
                after = number
            if ended and not events:
                yield await self._missing_end(job_id, after)
            if ended and (not events or is_last(events[-1][1])):
                return
            if not events and not await _done_within(change, KEEP_ALIVE_S):
                yield self._comment(stored)

    async def _known(self, response_id: str, owner: str | None = None) -> StoredJob:
        job_id = job_id_of(response_id)
        try:
            stored = await self._durable.wait(job_id, 0) if job_id else None
        except ConflictError:  # the beginning of several ids, and so none
            stored = None
        terms = stored.job.terms if stored is not None and stored.job.id == job_id else None
        if stored is None or terms is None or terms.origin is not Origin.RESPONSE:
            raise _unknown(response_id)
        if owner not in {None, stored.job.client}:
            raise _unknown(response_id)
        return stored

    async def _after(self, job_id: str, feed: Feed, number: int) -> Sequence[Numbered]:
        if feed.ended:  # its last event is in the store only
            return await self._store.stream(job_id, after=number, limit=PAGE)
        if (recent := feed.after(number)) is not None:
            return recent
        if older := await self._store.stream(job_id, after=number, limit=PAGE):
            return older
        await self._store.flush()  # what the feed has let go of was handed over, and may not be there yet
        return await self._store.stream(job_id, after=number, limit=PAGE) or feed.all_after(number)

    async def _missing_end(self, job_id: str, after: int) -> bytes:
        """The last event of a response that ended where nobody recorded it; nothing if its client has had it."""
        seen = await self._store.stream(job_id, after=after - 1, limit=1)
        if seen and seen[0][0] == after and is_last(seen[0][1]):
            return b""
        told = await self.object(id_of(job_id))
        return encoded(event_of(told["status"]), max(after + 1, FIRST), {"response": told})

    def _comment(self, stored: StoredJob) -> bytes:
        standing = self._durable.standing(stored)
        place = f" position={standing.position}" if standing.position else ""
        return f": waiting{place} {standing.waits_for}".rstrip().encode() + b"\n"

    # --- tries -------------------------------------------------------------------------------------------------------

    def _record(self, job: JobRecord, tried: int, give_up: GiveUp) -> Recorder:
        """The `MakeRecorder` of responses."""
        before = self._recorders.pop(job.id, None)
        feed = self._feed(job.id)
        put = partial(self._put, job.id)
        wall = self._clock.wall
        recorder = ResponseRecorder(_shell(job), tried, feed=feed, put=put, give_up=give_up, wall=wall)
        self._recorders[job.id] = recorder
        if before is not None:
            before.then(recorder)
        elif tried:
            self._tasks().bounded(self._go_on(job.id, recorder), f"response {job.id}")
        self._arm()
        return recorder

    async def _go_on(self, job_id: str, recorder: ResponseRecorder) -> None:
        """Find out what the tries in lives of the daemon before this one left behind."""
        outline, number = Outline(), -1
        try:
            with suppress(StoreUnavailableError):
                while events := await self._store.stream(job_id, after=number, limit=PAGE):
                    for _, event in events:
                        outline.note(decoded(event))
                    number = events[-1][0]
        finally:
            recorder.go_on(tuple(outline.closing()), outline.following)

    def _put(self, job_id: str, first: int, events: Sequence[bytes]) -> None:
        with suppress(StoreUnavailableError):  # the response itself matters more, and is offered until it is taken
            self._store.put_stream(job_id, first, events)

    def _arm(self) -> None:
        if self._timer is None and self._recorders:
            self._timer = self._clock.call_at(self._clock.monotonic() + CHECKPOINT_S, self._checkpoint)

    def _checkpoint(self) -> None:
        self._timer = None
        for recorder in self._recorders.values():
            recorder.checkpoint()
        self._arm()

    def _ended(self, end: End) -> None:
        """A listener for `Durable`: the result is safe now."""
        self._recorders.pop(end.job.id, None)
        feed = self._feeds.get(end.job.id)
        if feed is not None:
            feed.end()
            self._drop(end.job.id)

    def _feed(self, job_id: str) -> Feed:
        return self._feeds.setdefault(job_id, Feed())

    def _drop(self, job_id: str) -> None:
        feed = self._feeds.get(job_id)
        if feed is not None and not feed.followers and job_id not in self._recorders:
            del self._feeds[job_id]


def _unknown(response_id: str) -> NotFoundError:
    return NotFoundError(f"There is no response {response_id!r} that runs, or ran, in the background.", param="id")


def _shell(job: JobRecord) -> Object:
    return begun(job, _asked(job.body))


def _asked(body: bytes | None) -> Mapping[str, object]:
    """What of a request its object repeats; nothing where it is not kept any more."""
    if body is None:
        return {}
    try:
        return values_of(_echoed(body))
    except InvalidRequestError:  # it is nested as deeply as could just be read when it was accepted
        return {}


def _object(stored: StoredJob) -> Object:
    """The object of a response as it is now. Raises NotFoundError."""
    _check_kept(stored)
    result = stored.result
    if result is not None and result.output is not None:
        kept: Object = msgspec.json.decode(result.output, type=dict[str, object])
    else:
        kept = _shell(stored.job)
    return as_it_is(kept, stored.status, result)


def _check_kept(stored: StoredJob) -> None:
    """Raises NotFoundError: without its answer a response would look as if it had never begun, for ever."""
    if stored.status == JobStatus.DONE and (stored.result is None or stored.result.output is None):
        words = f"The response {id_of(stored.job.id)} is done, and past its retention (store.answers)."
        raise NotFoundError(words, param="id")


def _opening(stored: StoredJob) -> Sequence[tuple[int, bytes]]:
    """The events of its acceptance: always the same, and so not kept."""
    shell = _shell(stored.job)
    return (
        (CREATED, encoded("response.created", CREATED, {"response": shell})),
        (QUEUED, encoded("response.queued", QUEUED, {"response": shell})),
    )


async def _done_within(change: asyncio.Future[None], seconds: float) -> bool:
    done, _ = await asyncio.wait((change,), timeout=seconds)
    return bool(done)
