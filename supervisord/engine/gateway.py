"""The way of a synchronous request: accepted, queued, tried, answered, recorded."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from supervisord.core.errors import DrainingError, PoisonError, StoreUnavailableError, SupervisorError
from supervisord.core.job import FailureReason, Job, JobStatus, Submission
from supervisord.core.request import ENDPOINTS
from supervisord.core.routing import Route
from supervisord.engine.body import shaped
from supervisord.engine.dispatcher import Dispatcher
from supervisord.engine.endings import as_left, ending, error_of, lacks
from supervisord.engine.journal import Journal
from supervisord.engine.patience import PatientClient
from supervisord.engine.permits import Permits
from supervisord.engine.records import Course, job_result
from supervisord.engine.sizing import Sizing
from supervisord.engine.tries import Ended, Tries, TriesPolicy, headers_of
from supervisord.ports import Client, Clock, JobStore


@dataclass(frozen=True, slots=True)
class GatewayPolicy:
    keep_prompts: bool = False
    keep_clients: bool = True
    tries: TriesPolicy = field(default_factory=TriesPolicy)


class Gateway:
    """Serves submissions whose clients wait. Each call is one job, from acceptance to its record."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        tries: Tries,
        store: JobStore,
        journal: Journal,
        clock: Clock,
        *,
        sizing: Sizing,
        new_id: Callable[[], str],
        permits: Permits,
        policy: GatewayPolicy,
    ) -> None:
        self._dispatcher = dispatcher
        self._tries = tries
        self._store = store
        self._journal = journal
        self._clock = clock
        self._sizing = sizing
        self._new_id = new_id
        self._permits = permits
        self._policy = policy

    def serve_by(self, policy: GatewayPolicy) -> None:
        """Another policy for all requests from now on: the configuration was reloaded."""
        self._policy = policy
        self._tries.policy = policy.tries

    async def serve(self, submission: Submission, client: Client, announce: Callable[[str], None]) -> None:
        """Run a submission and answer `client`; `announce` gets the job's id as soon as there is one.

        Raises SupervisorError when nothing has reached the client: the caller answers. Cancelling the call means that
        the client left: the job is withdrawn, or its attempt cut off, at once.
        """
        route = self._dispatcher.outlook.routes.named(submission.model)
        if self._permits.models:
            self._permits.check(submission.client, route.name)
        if not route.parameters.changes_nothing:
            submission = shaped(route.parameters, submission)
        job = self._new_job(submission, route)
        announce(job.id)
        course = Course(job, keep_prompt=self._policy.keep_prompts, keep_client=self._policy.keep_clients)
        if self._tries.closed:
            raise DrainingError(self._tries.closed, retry_after_s=5)
        self._store.put_job(course.record)  # raises before anything was accepted
        patient = PatientClient(client, ENDPOINTS[submission.endpoint].dialect) if submission.stream else None
        try:
            course.job = await self._sizing.sized(job, route, self._dispatcher.outlook.backends_of(route))
            ticket = self._dispatcher.submit(course.job)
            ended = await self._tries.run(course, ticket, client if patient is None else patient)
            self._answer(course, ended, client if patient is None else patient)
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

    def _answer(self, course: Course, ended: Ended, client: Client) -> None:
        """Where the last attempt failed: pass on what the backend said, or say it ourselves; nothing if it was said."""
        outcome = ended.outcome
        if ended.status is not JobStatus.DONE and not outcome.reached_client:
            if ended.reason is FailureReason.POISON:
                raise PoisonError(ended.detail)
            if outcome.answer is None:
                raise error_of(outcome)
            missing = outcome.reason is FailureReason.ENDPOINT_MISSING
            if missing and outcome.answer.status != 501:  # with that a server says why itself
                raise lacks(course, outcome.answer)
            # It has been tried as often as is good: the SDK's own retries would only multiply that.
            final = (("x-should-retry", "false"),) if outcome.answer.status >= 408 else ()
            headers = (*outcome.answer.headers, *headers_of(course), *final)
            client.start(outcome.answer.status, headers, length=len(outcome.answer.body))
            client.write(outcome.answer.body)
            client.finish()
        self._finish(course, ended.status, ended.reason, ended.detail)

    # --- records -----------------------------------------------------------------------------------------------------

    def _new_job(self, submission: Submission, route: Route) -> Job:
        now = self._clock.monotonic()
        wait, reason = self._policy.tries.queue_timeout_s, FailureReason.QUEUE_TIMEOUT
        if submission.patience_s is not None:
            wait = min(wait, submission.patience_s)
        if submission.deadline_s is not None and submission.deadline_s < wait:
            wait, reason = submission.deadline_s, FailureReason.DEADLINE_EXCEEDED
        return Job(self._new_id(), submission, now, self._clock.wall(), now + wait, reason, route=route.name)

    def _finish(self, course: Course, status: JobStatus, reason: FailureReason | None, detail: str) -> None:
        clock = self._clock
        result = job_result(course, status, reason, detail, finished_at=clock.wall(), now=clock.monotonic())
        with suppress(StoreUnavailableError):
            self._store.put_result(result)
        self._journal.finished(course.record, result, course.attempt)
