"""The attempts of one job: from its place in the queue to the outcome that counts."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from supervisord.core import life
from supervisord.core.errors import StoreUnavailableError
from supervisord.core.hang import UNKNOWN_CONTEXT, longest_silence, prompt_tokens, within_context
from supervisord.core.job import FailureReason, JobStatus, Submission
from supervisord.core.poison import DEADLY
from supervisord.core.record import AttemptRecord, EventKind
from supervisord.core.request import dialect_of
from supervisord.engine.body import body_for
from supervisord.engine.dispatcher import Dispatcher
from supervisord.engine.endings import BLAMED, EXCUSED, SUSPICIOUS
from supervisord.engine.journal import Journal
from supervisord.engine.outcome import AttemptOutcome
from supervisord.engine.outlook import MOST_IN_A_ROW
from supervisord.engine.patience import EVERY_S, FIRST_AFTER_S, PatientClient
from supervisord.engine.records import Course, attempt_record
from supervisord.engine.relay import Attempt, RelayPolicy
from supervisord.engine.suspicion import Suspicion
from supervisord.engine.tickets import Lease, Ticket, retried
from supervisord.ports import Client, Clock, JobStore, Upstream, UpstreamRequest

BUSY_PAUSE_S = 1.0  # before a backend is asked again that was too busy and did not say for how long
LOG_LAG_S = 0.05  # until a line that a server printed before its answer has been read
EXIT_LAG_S = 2.0  # at most, until the exit of a server is told whose connections broke; seen: 2 to 60 ms
EXIT_LOOK_S = 0.02


@dataclass(frozen=True, slots=True)
class Ended:
    """How the tries of a job ended. `outcome` is that of the last one."""

    status: JobStatus
    reason: FailureReason | None
    detail: str
    outcome: AttemptOutcome


@dataclass(frozen=True, slots=True)
class TriesPolicy:
    queue_timeout_s: float = 600.0  # how long a job that was started once may wait for its next attempt
    relay: RelayPolicy = RelayPolicy()  # noqa: RUF009 - a frozen value


class Tries:
    """Tries jobs on the backends that the dispatcher leases them, again where that does no harm."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        upstream: Upstream,
        store: JobStore,
        journal: Journal,
        clock: Clock,
        *,
        hardware: Callable[[], str],
        broke_off: Callable[[str, int, str], None],
        policy: TriesPolicy,
    ) -> None:
        """`broke_off` is told of each attempt that its backend took down: which, its generation, the id of the job."""
        self._dispatcher = dispatcher
        self._upstream = upstream
        self._store = store
        self._journal = journal
        self._clock = clock
        self._hardware = hardware
        self._broke_off = broke_off
        self.policy = policy
        self.closed = ""  # why nothing is begun any more; empty while everything is

    async def run(self, course: Course, ticket: Ticket, client: Client, *, most: int = MOST_IN_A_ROW) -> Ended:
        """See a queued job through, in `most` attempts at the most; its lease is given back.

        Raises what ended its wait in the queue. On cancellation its attempt is cut off at once.
        """
        attempts = min(most, self._dispatcher.outlook.attempts_for(course.job))
        begun = course.attempts
        suspicion = course.suspicion
        while True:
            if isinstance(client, PatientClient) and not ticket.lease.done():
                await self._wait_telling(course, ticket, client)
            lease = await self._lease(ticket)
            suspicion.look()
            outcome = await self._try(course, lease, client)
            course.failures += outcome.status is JobStatus.FAILED and outcome.reason not in EXCUSED
            if outcome.reason in DEADLY:
                suspicion.note(lease, outcome, others=self._dispatcher.leases.others_at(lease))
                if await self._is_poison(suspicion, lease):
                    self._dispatcher.give_back(lease, served=False, failed=True)
                    return Ended(JobStatus.FAILED, FailureReason.POISON, suspicion.words, outcome)
            if outcome.retriable:
                expires = self._clock.monotonic() + self.policy.queue_timeout_s
                course.job = retried(course.job, lease.backend.name, expires)
            if (
                outcome.retriable
                and not self.closed
                and (course.attempts - begun < attempts or self._holds(course, lease, outcome))
            ):
                self._tell_retry(course, lease, outcome)
                course.queued_at = self._clock.monotonic()
                ticket = await self._queued_again(course, lease, outcome)
                continue
            done = outcome.status is JobStatus.DONE
            self._dispatcher.give_back(lease, served=done, failed=outcome.reason in BLAMED)
            return Ended(outcome.status, None if done else outcome.reason, "" if done else outcome.detail, outcome)

    async def _is_poison(self, suspicion: Suspicion, lease: Lease) -> bool:
        """Whether the job is to blame for all of it; a moment is given to what has still to be told of the last."""
        told_by = self._clock.monotonic() + EXIT_LAG_S
        try:
            while suspicion.may_be_enough and not suspicion.is_certain and self._clock.monotonic() < told_by:
                await self._clock.sleep(EXIT_LOOK_S)
        except asyncio.CancelledError:
            self._dispatcher.give_back(lease, served=False, failed=True)
            raise
        return suspicion.is_enough

    async def _wait_telling(self, course: Course, ticket: Ticket, client: PatientClient) -> None:
        """Returns once the wait is over, however; a stream that waits for long is told why."""
        after = FIRST_AFTER_S
        while True:
            try:
                await asyncio.wait((ticket.lease,), timeout=after)
            except asyncio.CancelledError:
                self._give_back_unused(ticket)
                raise
            if ticket.lease.done():
                return
            after = EVERY_S
            position = self._dispatcher.position(ticket.job.id)
            told = f"waiting position={position} {ticket.waits_for}".rstrip()
            client.comment(told, (("x-job-id", course.job.id), ("x-request-id", course.job.id)))

    def _holds(self, course: Course, lease: Lease, outcome: AttemptOutcome) -> bool:
        """Whether a job waits until its only backend has time for it: a service elsewhere that limits its rate.

        A server of ours that is busy has been given too much by us, or is broken: that is not waited out. A durable job
        rests where it keeps no place, and for longer each time.
        """
        if course.job.durable or outcome.reason is not FailureReason.BACKEND_BUSY or lease.backend.runtime.has_process:
            return False
        if self._clock.monotonic() >= course.patience_ends:
            return False
        return self._dispatcher.outlook.all_tried(course.job)

    async def _queued_again(self, course: Course, lease: Lease, outcome: AttemptOutcome) -> Ticket:
        """Back in line: at once, or after the pause that the only backend asked for."""
        if not self._holds(course, lease, outcome):
            return self._dispatcher.retry(lease, course.job, failed=outcome.reason in BLAMED)
        self._dispatcher.give_back(lease, served=False, failed=True)
        left = course.patience_ends - self._clock.monotonic()
        await self._clock.sleep(max(0.0, min(left, outcome.retry_after_s or BUSY_PAUSE_S)))
        return self._dispatcher.again(course.job, lease.key)

    async def _lease(self, ticket: Ticket) -> Lease:
        try:
            return await ticket.lease
        except asyncio.CancelledError:
            self._give_back_unused(ticket)
            raise

    def _give_back_unused(self, ticket: Ticket) -> None:
        """The client may leave in the very turn in which the slot was given."""
        lease = ticket.lease
        if lease.done() and not lease.cancelled() and lease.exception() is None:
            self._dispatcher.give_back(lease.result(), served=False)

    async def _try(self, course: Course, lease: Lease, client: Client) -> AttemptOutcome:
        backend, generation = lease.backend, lease.generation
        course.waited += lease.granted - course.queued_at
        started_at = self._clock.wall()
        course.attempts += 1
        course.begun(backend.name)
        submission = course.job.submission
        with suppress(StoreUnavailableError):  # accepted already: it is served even if its record comes late
            self._store.put_attempt_started(course.job.id, course.attempts, backend.name, generation.number)
        body, hides = body_for(backend, submission)
        attempt = Attempt(
            client,
            generation,
            self._clock,
            self.policy.relay,
            stream=submission.stream,
            dialect=dialect_of(submission.endpoint),
            hide_usage=hides,
            elsewhere=not backend.runtime.has_process,
            tokens=lease.job.tokens,
        )
        lease.fail = attempt.fail
        attempt.extra_headers = headers_of(course, lease)
        request = UpstreamRequest(
            address=generation.address,
            method="POST",
            path=submission.endpoint,
            headers=_request_headers(submission),
            body=body,
            idle_timeout_s=_longest_silence(lease, submission, len(body)),
        )
        outcome: AttemptOutcome | None = None
        left = True
        try:
            outcome = await attempt.run(self._upstream, request)
            if outcome.reason is FailureReason.BACKEND_ERROR:
                outcome = await self._with_memory_judged(lease, outcome)
            left = False
        finally:
            if outcome is None:
                outcome = attempt.gone()
            course.outcome = outcome
            now = self._clock.monotonic()
            course.attempt = attempt_record(
                course, lease, outcome, started_at=started_at, now=now, hardware=self._hardware()
            )
            self._store_attempt(course.attempt)
            if outcome.reason in DEADLY:
                self._broke_off(backend.name, generation.number, course.job.id)
            first, done = outcome.first_byte, outcome.status is JobStatus.DONE
            backend.used(first_byte_s=first - lease.granted if done and first is not None else None)
            if outcome.reason in SUSPICIOUS:
                # Its exit may not have been told yet: no job is sent to it before it answers a probe again.
                backend.post(life.ProbeMissed(generation.number, outcome.detail))
            if left:
                self._dispatcher.give_back(lease, served=done, failed=outcome.reason in BLAMED)
                if outcome.reason is FailureReason.BACKEND_ERROR:
                    self._clock.call_at(now + LOG_LAG_S, lambda: _judge_memory(lease))
        if outcome.usage.tokens_per_second is not None:
            backend.tokens_per_second = outcome.usage.tokens_per_second
        return outcome

    async def _with_memory_judged(self, lease: Lease, outcome: AttemptOutcome) -> AttemptOutcome:
        """An error of a server that ran out of memory and lives. Its log is another pipe than its answer: a moment."""
        await self._clock.sleep(LOG_LAG_S)
        if not lease.backend.lacks_memory(lease.generation):
            return outcome
        return replace(outcome, reason=FailureReason.BACKEND_OUT_OF_MEMORY)

    def _store_attempt(self, attempt: AttemptRecord) -> None:
        with suppress(StoreUnavailableError):  # the store tells of its trouble itself; the client is served
            self._store.put_attempt(attempt)

    def _tell_retry(self, course: Course, lease: Lease, outcome: AttemptOutcome) -> None:
        reason = outcome.reason.value if outcome.reason else "?"
        self._journal.tell(
            EventKind.RETRY,
            f"job {course.job.id} is tried again: {lease.backend.name} failed it ({reason}: {outcome.detail})",
            backend=lease.backend.name,
            generation=lease.generation.number,
            job_id=course.job.id,
            reason=reason,
        )


def headers_of(course: Course, lease: Lease | None = None) -> tuple[tuple[str, str], ...]:
    """What the head of an answer says of its job."""
    backend = lease.backend.name if lease is not None else course.attempt.backend if course.attempt else ""
    return (
        ("x-job-id", course.job.id),
        ("x-request-id", course.job.id),
        ("x-backend", backend),
        ("x-queue-wait", f"{course.waited:.3f}"),
    )


def _judge_memory(lease: Lease) -> None:
    lease.backend.lacks_memory(lease.generation)


# What of the client's headers matters to a backend is in the body; identity and credentials stay here.
_REQUEST_HEADERS = (("content-type", "application/json"), ("accept", "*/*"))


def _request_headers(submission: Submission) -> tuple[tuple[str, str], ...]:
    form = submission.form
    return _REQUEST_HEADERS if form is None else (("content-type", form.content_type), ("accept", "*/*"))


def _longest_silence(lease: Lease, submission: Submission, body_bytes: int) -> float:
    context, policy = lease.backend.known_context, lease.backend.policy
    prompt = within_context(prompt_tokens(body_bytes, lease.job.tokens), context)
    if submission.stream:
        return longest_silence(prompt, 0, policy)
    asked = submission.max_tokens
    longest = UNKNOWN_CONTEXT if asked is None or asked < 0 else asked  # below 0: without an end
    return longest_silence(prompt, within_context(longest, context), policy)
