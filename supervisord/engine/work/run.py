"""One durable job that is in memory: through the queue, until it has a result or goes back to the store."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

from supervisord.core.errors import (
    BackendParkedError,
    BackendStoppedError,
    DrainingError,
    ModelNotFoundError,
    StoreUnavailableError,
    SupervisorError,
    TokenLimitError,
)
from supervisord.core.job import FailureReason, Job, JobStatus
from supervisord.core.output_check import Fits, Truncated, Wrong
from supervisord.core.record import EventKind, JobResult
from supervisord.core.terms import Flow
from supervisord.engine.body import shaped
from supervisord.engine.endings import BLAMED, ending
from supervisord.engine.records import Course, job_result
from supervisord.engine.tries import EXIT_LAG_S, EXIT_LOOK_S, Ended
from supervisord.engine.work.backlog import flow_of
from supervisord.engine.work.bulletin import News, NewsKind
from supervisord.engine.work.ends import STORE_PAUSE_S
from supervisord.engine.work.hands import Hands, recorder, submission_of
from supervisord.engine.work.kept import Kept, Recorder
from supervisord.engine.work.tally import Tally
from supervisord.ports import StoredJob, Timer

# After these another try is of no use, whatever the answer of the last one looked like.
_FINAL = frozenset({FailureReason.POISON, FailureReason.ENDPOINT_MISSING})

# What is no fault of the job: it waits in the store until somebody has seen to it.
_NOT_NOW = (BackendParkedError, BackendStoppedError, DrainingError, ModelNotFoundError)


class Run:
    """Owned by its task. Its job waits in the store, as far as the store knows, until an attempt begins."""

    def __init__(self, stored: StoredJob, hands: Hands) -> None:
        self._hands = hands
        self._flow: Flow = flow_of(stored.job)
        self.record = replace(stored.job, body=None)
        self._check = stored.job.terms.check if stored.job.terms is not None else None
        self._submission = submission_of(stored.job)
        self.course = self._new_course(stored.attempt)
        self.waits = True  # as far as the store knows
        self._tally = Tally(stored, self.course, hands.deadlines)
        self._recorder: Recorder | None = None
        self._wish: tuple[JobStatus, FailureReason, str] | None = None
        self._instead: tuple[JobStatus, FailureReason, str] | None = None  # of another try
        self.task: asyncio.Task[None] | None = None
        self._begun = False  # a task that is cancelled before it has begun never runs, not even to its end
        self._settled = False  # what becomes of it is decided, and only has to be written down

    def _new_course(self, tried: int) -> Course:
        clock, record = self._hands.clock, self.record
        now = clock.monotonic()
        job = Job(record.id, self._submission, now, record.submitted_at, float("inf"), durable=True)
        course = Course(job, keep_prompt=False, keep_client=True)
        course.record = record
        course.attempts = tried
        course.begun = self._started
        if not tried:
            course.queued_at = now - self._hands.deadlines.age(record)
        return course

    @property
    def job_id(self) -> str:
        return self.record.id

    # --- from outside ------------------------------------------------------------------------------------------------

    def end(self, status: JobStatus, reason: FailureReason, detail: str) -> None:
        """End the job now. What was whole before stays what it was."""
        if self._wish is not None or self._settled:
            return
        self._wish = status, reason, detail
        cancelled = status is JobStatus.CANCELLED
        told = self._hands.dispatcher.leases.break_off(
            self.job_id, FailureReason.CANCELLED if cancelled else reason, detail
        )
        if not told and self._begun and self.task is not None:
            self.task.cancel()

    def try_no_more(self, status: JobStatus, reason: FailureReason, detail: str) -> None:
        """The try that runs may come to its end; where that would not be the last, the job ends like this."""
        self._instead = status, reason, detail

    # --- the way -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Returns once the job has a result that the store has taken, or waits in the store again."""
        self._begun = True
        timer = self._at_its_deadline()
        try:
            result = self._wished() or await self._through()
        except asyncio.CancelledError:
            self._hands.dispatcher.withdraw(self.job_id)
            result = self._wished()
        except Exception as fault:  # noqa: BLE001 - one job is lost to a fault of ours, and told so; the others go on
            self._hands.dispatcher.drop(self.job_id)
            result = self._result(JobStatus.FAILED, FailureReason.INTERNAL, repr(fault)[:300])
        finally:
            if timer is not None:
                timer.cancel()
        self._settled = True
        if result is None:
            await self._back()
        else:
            await self._keep(result)

    def _at_its_deadline(self) -> Timer | None:
        clock, left = self._hands.clock, self._hands.deadlines.left(self.record)
        if left is None:
            return None
        if left <= 0:
            self._wish = JobStatus.FAILED, FailureReason.DEADLINE_EXCEEDED, "It was not done before its deadline."
            return None
        return clock.call_at(clock.monotonic() + left, self._too_late)

    def _too_late(self) -> None:
        why = self._hands.dispatcher.waits_for(self.job_id)
        because = f" ({why})" if why else ""
        self.end(JobStatus.FAILED, FailureReason.DEADLINE_EXCEEDED, f"It was not done before its deadline{because}.")

    async def _through(self) -> JobResult | None:
        """The result; None: it can have none now."""
        while True:
            if self.course.suspicion.is_suspect:
                # One at a time of those under which a backend went down: who is with the culprit suffers once.
                async with self._hands.suspects[self.record.model]:
                    turn = await self._turn()
            else:
                turn = await self._turn()
            if not isinstance(turn, float):
                return turn
            await self._hands.clock.sleep(turn)

    async def _turn(self) -> JobResult | float | None:
        """One try. The result, or the seconds until the next one; None: not now."""
        hands, course = self._hands, self.course
        try:
            route = hands.dispatcher.outlook.routes.named(self.record.model)
            submission = self._submission
            if not route.parameters.changes_nothing:
                submission = shaped(route.parameters, submission)
            job = replace(course.job, submission=submission, route=route.name, arrived=hands.clock.monotonic())
            course.job = await hands.sizing.sized(job, route, hands.dispatcher.outlook.backends_of(route))
            ticket = hands.dispatcher.submit(course.job)
            self._recorder = self._new_recorder()
            ended = await hands.tries.run(course, ticket, self._recorder, most=1)
        except _NOT_NOW:
            return self._wished()
        except TokenLimitError as error:
            return self._result(JobStatus.FAILED, FailureReason.REQUEST_REJECTED, error.message)
        except SupervisorError as error:
            return self._wished() or self._result(*ending(error, course))
        if ended.status is JobStatus.DONE:
            return await self._judged(self._recorder.answer())
        return self._wished() or await self._failed(ended)

    def _new_recorder(self) -> Recorder:
        whole = replace(self.record, body=self._submission.body)
        return recorder(whole, self.course.attempts, self._hands, self._give_up)

    def _give_up(self, reason: FailureReason, words: str) -> None:
        self._hands.dispatcher.leases.break_off(self.job_id, reason, words)

    def _started(self, backend: str) -> None:
        if self.waits:
            self.waits = False
            self._hands.backlog.changed(self._flow, -1)
        self._tell(NewsKind.STARTED, JobStatus.RUNNING, backend=backend)

    # --- what came of it ---------------------------------------------------------------------------------------------

    async def _judged(self, kept: Kept | None) -> JobResult | float:
        """An answer that is whole: whether it is what was asked for."""
        outputs, check, submission = self._hands.outputs, self._check, self.course.job.submission
        if check is None or kept is None or kept.status >= 400:
            return self._result(JobStatus.DONE, None, "", kept)
        verdict: Fits | Wrong | Truncated = Wrong("No output can be checked by this daemon.", again=False)
        if outputs is not None:
            verdict = await outputs.checked(check, submission.endpoint, submission.body, kept.body, submission.client)
        match verdict:
            case Fits():
                return self._result(JobStatus.DONE, None, "", kept)
            case Truncated(message=message):
                return self._result(JobStatus.FAILED, FailureReason.OUTPUT_TRUNCATED, message, kept)
            case Wrong(message=message, again=again):
                self._tally.wrong += 1
                if not again or self._tally.wrong > check.retries or self._instead is not None:
                    return self._result(JobStatus.FAILED, FailureReason.INVALID_OUTPUT, message, kept)
                await self._requeue("the answer does not fit its schema, and is asked for again")
                return 0.0

    async def _failed(self, ended: Ended) -> JobResult | float | None:
        outcome, answer = ended.outcome, ended.outcome.answer
        if outcome.status is JobStatus.CANCELLED:
            return self._result(JobStatus.CANCELLED, FailureReason.CANCELLED, ended.detail)
        broken = ended.reason in BLAMED and self._recorder is not None and self._recorder.may_run_again
        kept = None
        if answer is not None:
            kind = next((value for name, value in answer.headers if name == "content-type"), "")
            kept = Kept(answer.status, kind, answer.body)
        if ended.reason in _FINAL or not (outcome.retriable or broken):
            return self._result(JobStatus.FAILED, ended.reason, ended.detail, kept)
        if self._hands.tries.closed:
            return None
        await self._causes_told()
        self._tally.failed(ended)
        if over := self._tally.is_over(ended):
            return self._result(JobStatus.FAILED, ended.reason, over, kept)
        if self._instead is not None:
            return self._result(*self._instead)
        rest, attempt = self._tally.rest_s(ended), self.course.attempt
        await self._requeue(ended.detail)
        self._hands.journal.tell(
            EventKind.RETRY,
            f"job {self.job_id} is tried again in {rest:.1f} s: it failed ({ended.reason}: {ended.detail})",
            backend=None if attempt is None else attempt.backend,
            generation=None if attempt is None else attempt.generation,
            job_id=self.job_id,
            reason=ended.reason,
            failures=self._tally.failures,
        )
        return rest

    async def _causes_told(self) -> None:
        """A moment for what brought a backend down: not all of it is to be held against the job."""
        clock, suspicion = self._hands.clock, self.course.suspicion
        told_by = clock.monotonic() + EXIT_LAG_S
        while not suspicion.is_certain and clock.monotonic() < told_by:
            await clock.sleep(EXIT_LOOK_S)

    # --- records -----------------------------------------------------------------------------------------------------

    def _wished(self) -> JobResult | None:
        return None if self._wish is None else self._result(*self._wish)

    def _result(
        self, status: JobStatus, reason: FailureReason | None, detail: str, kept: Kept | None = None
    ) -> JobResult:
        clock, course = self._hands.clock, self.course
        result = job_result(course, status, reason, detail, finished_at=clock.wall(), now=clock.monotonic())
        if course.attempt is None:
            result = replace(result, queue_wait_s=self._hands.deadlines.age(self.record))
        if kept is None:
            return replace(result, output=None)
        return replace(result, output=kept.body, http_status=kept.status, content_type=kept.content_type)

    async def _keep(self, result: JobResult) -> None:
        """Hand the result over. What the store cannot take is offered again: only the end of the daemon loses it."""
        hands = self._hands
        try:
            recorder = self._recorder or self._new_recorder()
            await recorder.ready()
            result = recorder.ended(result)
        except Exception as fault:  # noqa: BLE001 - as in `run`
            result = self._result(JobStatus.FAILED, FailureReason.INTERNAL, repr(fault)[:300])
        await self._handed(lambda: hands.store.put_result(result))
        if self.waits:
            hands.backlog.changed(self._flow, -1)
        hands.backlog.left(self.job_id, self._flow)
        quiet = replace(result, detail="") if self._check is not None else result  # a validator quotes the answer
        hands.journal.finished(self.record, quiet, self.course.attempt)
        hands.over(self.record, result)

    async def _back(self) -> None:
        await self._requeue("")
        self._hands.backlog.returned(self.job_id, self._flow)

    async def _requeue(self, detail: str) -> None:
        """It waits again, as far as an attempt had begun."""
        if self.waits:
            return
        number, failures = self.course.attempts, self._tally.failures
        await self._handed(lambda: self._hands.store.put_requeued(self.job_id, number, detail, failures=failures))
        self.waits = True
        self.course.queued_at = self._hands.clock.monotonic()
        self._hands.backlog.changed(self._flow, 1)
        self._tell(NewsKind.REQUEUED, JobStatus.QUEUED, detail=detail)

    async def _handed(self, put: Callable[[], None]) -> None:
        while True:
            try:
                put()
            except StoreUnavailableError:
                await self._hands.clock.sleep(STORE_PAUSE_S)
            else:
                return

    def _tell(self, kind: NewsKind, status: JobStatus, *, backend: str = "", detail: str = "") -> None:
        number, now = self.course.attempts, self._hands.clock.wall()
        self._hands.bulletin.tell(News(self.job_id, kind, now, status, number, backend, detail))
