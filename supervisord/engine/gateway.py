"""The way of a synchronous request: accepted, queued, tried, tried again, recorded."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from supervisord.core import life
from supervisord.core.errors import (
    DrainingError,
    PoisonError,
    StoreUnavailableError,
    SupervisorError,
)
from supervisord.core.hang import UNKNOWN_CONTEXT, longest_silence, prompt_tokens, within_context
from supervisord.core.job import FailureReason, Job, JobStatus, Submission
from supervisord.core.poison import DEADLY
from supervisord.core.record import AttemptRecord, EventKind
from supervisord.core.routing import Route
from supervisord.engine.body import body_for, shaped
from supervisord.engine.dispatcher import Dispatcher
from supervisord.engine.endings import BLAMED, SUSPICIOUS, as_left, ending, error_of
from supervisord.engine.journal import Journal
from supervisord.engine.outcome import AttemptOutcome
from supervisord.engine.patience import EVERY_S, FIRST_AFTER_S, PatientClient
from supervisord.engine.records import Course, attempt_record, job_result
from supervisord.engine.relay import Attempt, RelayPolicy
from supervisord.engine.sizing import Sizing
from supervisord.engine.suspicion import Suspicion
from supervisord.engine.tickets import Lease, Ticket, retried
from supervisord.ports import Client, Clock, JobStore, Upstream, UpstreamRequest

BUSY_PAUSE_S = 1.0  # before a backend is asked again that was too busy and did not say for how long
LOG_LAG_S = 0.05  # until a line that a server printed before its answer has been read
EXIT_LAG_S = 2.0  # at most, until the exit of a server is told whose connections broke; seen: 2 to 60 ms
EXIT_LOOK_S = 0.02


@dataclass(frozen=True, slots=True)
class GatewayPolicy:
    queue_timeout_s: float = 600.0
    keep_prompts: bool = False
    keep_clients: bool = True
    relay: RelayPolicy = RelayPolicy()  # noqa: RUF009 - a frozen value


class Gateway:
    """Serves submissions. Each call is one job, from acceptance to its record."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        upstream: Upstream,
        store: JobStore,
        journal: Journal,
        clock: Clock,
        *,
        sizing: Sizing,
        new_id: Callable[[], str],
        hardware: Callable[[], str],
        policy: GatewayPolicy,
    ) -> None:
        self._dispatcher = dispatcher
        self._upstream = upstream
        self._store = store
        self._journal = journal
        self._clock = clock
        self._sizing = sizing
        self._new_id = new_id
        self._hardware = hardware
        self._policy = policy
        self.closed = ""  # why nothing new is accepted; empty while everything is

    def serve_by(self, policy: GatewayPolicy) -> None:
        """Another policy for all requests from now on: the configuration was reloaded."""
        self._policy = policy

    async def serve(self, submission: Submission, client: Client, announce: Callable[[str], None]) -> None:
        """Run a submission and answer `client`; `announce` gets the job's id as soon as there is one.

        Raises SupervisorError when nothing has reached the client: the caller answers. Cancelling the call means that
        the client left: the job is withdrawn, or its attempt cut off, at once.
        """
        route = self._dispatcher.outlook.routes.named(submission.model)
        if not route.parameters.changes_nothing:
            submission = shaped(route.parameters, submission)
        job = self._new_job(submission, route)
        announce(job.id)
        course = Course(job, keep_prompt=self._policy.keep_prompts, keep_client=self._policy.keep_clients)
        if self.closed:
            raise DrainingError(self.closed, retry_after_s=5)
        self._store.put_job(course.record)  # raises before anything was accepted
        patient = PatientClient(client) if submission.stream else None
        try:
            course.job = await self._sized(job, route)
            ticket = self._dispatcher.submit(course.job)
            await self._run(course, ticket, client if patient is None else patient)
        except asyncio.CancelledError:
            self._dispatcher.withdraw(job.id)
            self._finish(course, *as_left(course.outcome))
            raise
        except SupervisorError as error:
            self._finish(course, *ending(error, course))
            if patient is None or not patient.begun:
                raise
            patient.fail(error)
        except Exception as error:
            self._dispatcher.drop(job.id)
            self._finish(course, JobStatus.FAILED, FailureReason.INTERNAL, repr(error)[:300])
            raise

    async def _sized(self, job: Job, route: Route) -> Job:
        """The job with its size, where a backend's budget or context makes that matter."""
        backends = self._dispatcher.outlook.backends_of(route)
        if not self._sizing.needed(backends, job.submission):
            return job
        return replace(job, tokens=await self._sizing.tokens(route, backends, job.submission))

    async def _run(self, course: Course, ticket: Ticket, client: Client) -> None:
        attempts = self._dispatcher.outlook.attempts_for(course.job)
        suspicion = Suspicion()
        while True:
            if isinstance(client, PatientClient) and not ticket.lease.done():
                await self._wait_telling(course, ticket, client)
            lease = await self._lease(ticket)
            outcome = await self._try(course, lease, client)
            if outcome.reason in DEADLY:
                suspicion.note(lease, outcome, others=self._dispatcher.others_at(lease))
                if await self._is_poison(suspicion, lease):
                    self._dispatcher.give_back(lease, served=False, failed=True)
                    self._refuse_poison(course, outcome, suspicion.words)
                    return
            if outcome.retriable:
                expires = self._clock.monotonic() + self._policy.queue_timeout_s
                course.job = retried(course.job, lease.backend.name, expires)
            if (
                outcome.retriable
                and not self.closed
                and (course.attempts < attempts or self._holds(course, lease, outcome))
            ):
                self._tell_retry(course, lease, outcome)
                course.queued_at = self._clock.monotonic()
                ticket = await self._queued_again(course, lease, outcome)
                continue
            done = outcome.status is JobStatus.DONE
            self._dispatcher.give_back(lease, served=done, failed=outcome.reason in BLAMED)
            if done:
                self._finish(course, JobStatus.DONE, None, "")
            else:
                self._answer_failure(course, outcome, client)
            return

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

    def _refuse_poison(self, course: Course, outcome: AttemptOutcome, words: str) -> None:
        """Raises PoisonError for the client, if it has had nothing yet; else it has been told of its attempt's end."""
        if not outcome.reached_client:
            raise PoisonError(words)
        self._finish(course, JobStatus.FAILED, FailureReason.POISON, words)

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

        A server of ours that is busy has been given too much by us, or is broken: that is not waited out.
        """
        if outcome.reason is not FailureReason.BACKEND_BUSY or lease.backend.runtime.has_process:
            return False
        if self._clock.monotonic() >= course.patience_ends:
            return False
        return self._dispatcher.outlook.all_tried(course.job)

    async def _queued_again(self, course: Course, lease: Lease, outcome: AttemptOutcome) -> Ticket:
        """Back in line: at once, or after the pause that the only backend asked for."""
        if not self._holds(course, lease, outcome):
            return self._dispatcher.retry(lease, course.job)
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

    def _answer_failure(self, course: Course, outcome: AttemptOutcome, client: Client) -> None:
        """The last attempt failed: pass on what the backend said, or say it ourselves; nothing if it was said."""
        if outcome.answer is not None and not outcome.reached_client:
            # It has been tried as often as is good: the SDK's own retries would only multiply that.
            final = (("x-should-retry", "false"),) if outcome.answer.status >= 408 else ()
            headers = (*outcome.answer.headers, *self._headers_of(course), *final)
            client.start(outcome.answer.status, headers, length=len(outcome.answer.body))
            client.write(outcome.answer.body)
            client.finish()
        elif not outcome.reached_client:
            raise error_of(outcome)
        self._finish(course, outcome.status, outcome.reason, outcome.detail)

    async def _try(self, course: Course, lease: Lease, client: Client) -> AttemptOutcome:
        backend, generation = lease.backend, lease.generation
        course.waited += lease.granted - course.queued_at
        started_at = self._clock.wall()
        course.attempts += 1
        submission = course.job.submission
        with suppress(StoreUnavailableError):  # accepted already: it is served even if its record comes late
            self._store.put_attempt_started(course.job.id, course.attempts, backend.name, generation.number)
        body, hides = body_for(backend, submission)
        attempt = Attempt(
            client,
            generation,
            self._clock,
            self._policy.relay,
            stream=submission.stream,
            hide_usage=hides,
            elsewhere=not backend.runtime.has_process,
            tokens=lease.job.tokens,
        )
        lease.fail = attempt.fail
        attempt.extra_headers = self._headers_of(course, lease)
        request = UpstreamRequest(
            address=generation.address,
            method="POST",
            path=submission.endpoint,
            headers=_REQUEST_HEADERS,
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

    def _headers_of(self, course: Course, lease: Lease | None = None) -> tuple[tuple[str, str], ...]:
        backend = lease.backend.name if lease is not None else course.attempt.backend if course.attempt else ""
        return (
            ("x-job-id", course.job.id),
            ("x-request-id", course.job.id),
            ("x-backend", backend),
            ("x-queue-wait", f"{course.waited:.3f}"),
        )

    # --- records -----------------------------------------------------------------------------------------------------

    def _new_job(self, submission: Submission, route: Route) -> Job:
        now = self._clock.monotonic()
        wait, reason = self._policy.queue_timeout_s, FailureReason.QUEUE_TIMEOUT
        if submission.patience_s is not None:
            wait = min(wait, submission.patience_s)
        if submission.deadline_s is not None and submission.deadline_s < wait:
            wait, reason = submission.deadline_s, FailureReason.DEADLINE_EXCEEDED
        return Job(self._new_id(), submission, now, self._clock.wall(), now + wait, reason, route=route.name)

    def _store_attempt(self, attempt: AttemptRecord) -> None:
        with suppress(StoreUnavailableError):  # the store tells of its trouble itself; the client is served
            self._store.put_attempt(attempt)

    def _finish(self, course: Course, status: JobStatus, reason: FailureReason | None, detail: str) -> None:
        clock = self._clock
        result = job_result(course, status, reason, detail, finished_at=clock.wall(), now=clock.monotonic())
        with suppress(StoreUnavailableError):
            self._store.put_result(result)
        self._journal.finished(course.record, result, course.attempt)

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


def _judge_memory(lease: Lease) -> None:
    lease.backend.lacks_memory(lease.generation)


# What of the client's headers matters to a backend is in the body; identity and credentials stay here.
_REQUEST_HEADERS = (("content-type", "application/json"), ("accept", "*/*"))


def _longest_silence(lease: Lease, submission: Submission, body_bytes: int) -> float:
    context, policy = lease.backend.known_context, lease.backend.policy
    prompt = within_context(prompt_tokens(body_bytes, lease.job.tokens), context)
    if submission.stream:
        return longest_silence(prompt, 0, policy)
    asked = submission.max_tokens
    longest = UNKNOWN_CONTEXT if asked is None or asked < 0 else asked  # below 0: without an end
    return longest_silence(prompt, within_context(longest, context), policy)
