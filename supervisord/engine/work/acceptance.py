"""Durable work on its way in: what is answered with an id is safe from a power cut."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, TypeVar

from supervisord.core import parameters
from supervisord.core.errors import DrainingError, IdempotencyMismatchError, StoreUnavailableError
from supervisord.core.job import JobStatus, Submission
from supervisord.core.record import JobRecord, KeyRecord
from supervisord.core.terms import Flow, Terms
from supervisord.engine.dispatcher import Dispatcher
from supervisord.engine.permits import Permits
from supervisord.engine.tasks import Tasks
from supervisord.engine.tries import Tries
from supervisord.engine.work.backlog import Backlog, flow_of
from supervisord.engine.work.idempotency import KeyTurns, Used
from supervisord.ports import Clock, Store, StoredJob

HASHED_AT_ONCE = 1024 * 1024  # bytes: 2 ms; the digest of more is made on a thread, which does without the interpreter
UNSURE_S = 60.0  # until a commit that was not confirmed has come or never will

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Accepted:
    """`known`: the key was used before, with the same request: this is the job it made then. `stored`: any other, as it
    was accepted: it can be told of also where the store cannot be read just now."""

    job_id: str
    known: bool = False
    stored: StoredJob | None = None


class Acceptance:
    """Puts jobs into the store, and tells the backlog of them."""

    def __init__(
        self,
        store: Store,
        dispatcher: Dispatcher,
        tries: Tries,
        backlog: Backlog,
        clock: Clock,
        *,
        permits: Permits,
        new_id: Callable[[], str],
    ) -> None:
        self._permits = permits
        self._store = store
        self._dispatcher = dispatcher
        self._tries = tries
        self._backlog = backlog
        self._clock = clock
        self._new_id = new_id
        self._turns = KeyTurns()
        self._doubts: dict[Flow, tuple[str, bool]] = {}  # the lowest id of a flow, and whether others came to it

    async def accept(self, tasks: Tasks, submission: Submission, terms: Terms, key: str, job_id: str) -> Accepted:
        """See `Durable.accept`."""
        if key:
            return await _to_its_end(tasks, self._accept_once(submission, terms, key, job_id))
        self._check(submission)
        return await _to_its_end(tasks, self._commit(submission, terms, job_id, None))

    async def accept_many(self, tasks: Tasks, records: Sequence[JobRecord]) -> None:
        """See `Durable.accept_many`."""
        self._check_open()
        if records:
            await _to_its_end(tasks, self._commit_many(records))

    def _check_open(self) -> None:
        if self._tries.closed:
            raise DrainingError(self._tries.closed, retry_after_s=5)

    def _check(self, submission: Submission) -> None:
        """Raises what makes a new job impossible now."""
        self._check_open()
        route = self._dispatcher.outlook.routes.named(submission.model)
        self._permits.check(submission.client, route.name)
        parameters.check(route.parameters, submission.max_tokens)

    async def _accept_once(self, submission: Submission, terms: Terms, key: str, job_id: str) -> Accepted:
        """What a key has made is told whatever became impossible since: whoever asks again did not hear the answer."""
        client, digest = submission.client, await _digest(submission, terms)
        async with self._turns.alone(client, key):
            known = await self._store.known_key(client, key)
            if known is None:
                self._check(submission)
                return await self._commit(submission, terms, job_id, Used(key, digest))
        if known.digest != digest or known.batch:
            made = f"the batch {known.batch}" if known.batch else f"the job {known.job_id}"
            raise IdempotencyMismatchError(
                f"This Idempotency-Key was used for another request, which made {made}. "
                "Use a new key for a new request.",
                param="Idempotency-Key",
            )
        return Accepted(known.job_id, known=True)

    async def _commit(self, submission: Submission, terms: Terms, job_id: str, used: Used | None) -> Accepted:
        now = self._clock.wall()
        record = _record(submission, terms, job_id or self._new_id(), now)
        key = None if used is None else KeyRecord(record.client, *used, record.id, now)
        await self._stored((record,), key)
        stored = StoredJob(record, JobStatus.QUEUED.value, None)
        self._backlog.added(stored)
        return Accepted(record.id, stored=stored)

    async def _commit_many(self, records: Sequence[JobRecord]) -> None:
        await self._stored(records, None)
        counts, firsts = Counter(flow_of(record) for record in records), _firsts(records)
        for flow, count in counts.items():
            self._backlog.added_many(flow, count, firsts[flow])

    async def _stored(self, records: Sequence[JobRecord], key: KeyRecord | None) -> None:
        self._backlog.reserve(len(records))
        try:
            await self._store.accept(records, key)
        except StoreUnavailableError:  # it may yet come to pass, where it was the confirmation that took too long
            for flow, first in _firsts(records).items():
                self._doubt(flow, first)
            raise
        finally:
            self._backlog.promised -= len(records)

    def _doubt(self, flow: Flow, first: str) -> None:
        """Its jobs are looked for later, from this one on: one timer for each flow, however often its commits fail."""
        lowest, _ = self._doubts.get(flow, (first, False))
        if flow not in self._doubts:
            self._clock.call_at(self._clock.monotonic() + UNSURE_S, lambda: self._make_sure(flow))
        self._doubts[flow] = min(lowest, first), flow in self._doubts

    def _make_sure(self, flow: Flow) -> None:
        first, others = self._doubts.pop(flow)
        self._backlog.added_many(flow, 0, first)
        if others:  # the last of them had less time
            self._doubt(flow, first)


async def _digest(submission: Submission, terms: Terms) -> str:
    """Of all that was asked for. When it came is no part of that, nor how urgent it was: its class of priority may be
    another after a reload.
    """
    asked = (
        submission.endpoint,
        terms.origin.value,
        submission.deadline_s,
        terms.max_attempts,
        sorted(terms.metadata.items()),
        None if terms.check is None else (terms.check.schema, terms.check.retries),
    )
    told = sha256(json.dumps(asked).encode() + b"\n")
    if len(submission.body) <= HASHED_AT_ONCE:
        told.update(submission.body)
    else:
        await asyncio.to_thread(told.update, submission.body)
    return told.hexdigest()


def _firsts(records: Sequence[JobRecord]) -> Mapping[Flow, str]:
    """The lowest id of each flow."""
    firsts: dict[Flow, str] = {}
    for record in records:
        flow = flow_of(record)
        firsts[flow] = min(firsts.get(flow, record.id), record.id)
    return firsts


def _record(submission: Submission, terms: Terms, job_id: str, now: float) -> JobRecord:
    return JobRecord(
        id=job_id,
        endpoint=submission.endpoint,
        model=submission.model,
        priority=int(submission.priority),
        stream=submission.stream,
        client=submission.client,
        submitted_at=now,
        max_tokens=submission.max_tokens,
        temperature=submission.temperature,
        body=submission.body,
        terms=terms,
    )


async def _to_its_end(tasks: Tasks, work: Coroutine[Any, Any, _T]) -> _T:
    """Also where the caller is cancelled meanwhile: what has been written has to be known of."""
    done: list[_T] = []
    failed: list[Exception] = []

    async def run() -> None:
        try:
            done.append(await work)
        except Exception as error:  # noqa: BLE001 - raised again where it is waited for
            failed.append(error)

    await asyncio.shield(tasks.bounded(run(), "accept"))
    if failed:
        raise failed[0]
    return done[0]
