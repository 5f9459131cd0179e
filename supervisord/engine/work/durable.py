"""Durable work: accepted for good, run in its turn, its result kept until somebody asks for it."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from supervisord.core.errors import StateFolderError, StoreUnavailableError
from supervisord.core.job import TERMINAL, FailureReason, JobStatus, Submission
from supervisord.core.record import AttemptRecord, JobRecord, JobResult
from supervisord.core.terms import Origin, Terms
from supervisord.engine.dispatcher import Dispatcher
from supervisord.engine.journal import Journal
from supervisord.engine.permits import Permits
from supervisord.engine.sizing import Sizing
from supervisord.engine.tasks import Tasks
from supervisord.engine.tries import Tries
from supervisord.engine.work.acceptance import Acceptance, Accepted
from supervisord.engine.work.backlog import Backlog, BacklogPolicy, flow_of
from supervisord.engine.work.backlog_line import FlowView
from supervisord.engine.work.bulletin import Bulletin, News, NewsKind
from supervisord.engine.work.deadlines import Deadlines
from supervisord.engine.work.early_ends import SETTLE_S, EarlyEnds
from supervisord.engine.work.ends import End, Ends
from supervisord.engine.work.hands import Hands
from supervisord.engine.work.kept import MakeRecorder, kept_answer
from supervisord.engine.work.run import Run
from supervisord.ports import Clock, Store, StoredJob
from supervisord.ports.outputs import OutputChecker

CLOSE_S = 2.0  # for jobs that are cut off to be given back to the store

__all__ = ["Accepted", "Durable", "End", "Standing"]


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a job stands that waits. `position`: in the queue, from 1; None: it is not in it yet."""

    position: int | None
    waits_for: str


class Durable:
    """Every durable job of the daemon, from its acceptance to its result."""

    def __init__(
        self,
        store: Store,
        dispatcher: Dispatcher,
        tries: Tries,
        journal: Journal,
        clock: Clock,
        *,
        sizing: Sizing,
        outputs: OutputChecker | None,
        permits: Permits,
        new_id: Callable[[], str],
        policy: BacklogPolicy,
    ) -> None:
        self._store = store
        self._dispatcher = dispatcher
        self._journal = journal
        self._clock = clock
        self.bulletin = Bulletin()
        self._ends = Ends(store, self.bulletin, clock)
        self.backlog = Backlog(store, dispatcher, clock, policy, begin=self._begin)
        self._acceptance = Acceptance(store, dispatcher, tries, self.backlog, clock, permits=permits, new_id=new_id)
        self._recorders: dict[Origin, MakeRecorder] = dict.fromkeys(Origin, kept_answer)
        self._hands = Hands(
            dispatcher=dispatcher,
            tries=tries,
            sizing=sizing,
            store=store,
            backlog=self.backlog,
            bulletin=self.bulletin,
            journal=journal,
            clock=clock,
            deadlines=Deadlines(clock),
            outputs=outputs,
            recorders=self._recorders,
            over=self._ends.add,
        )
        self._runs: dict[str, Run] = {}
        self._early = EarlyEnds(self._hands, self._ends, self._runs)
        self._tasks: Tasks | None = None
        self._loops: list[asyncio.Task[None]] = []
        journal.on_finished(self._finished)

    # --- acceptance --------------------------------------------------------------------------------------------------

    async def accept(self, submission: Submission, terms: Terms, key: str = "", job_id: str = "") -> Accepted:
        """Take a job; on return it is safe from a power cut. `key`: the client's Idempotency-Key. `job_id`: as it is to
        be called, made after every id before; empty: it gets one.

        Raises ModelNotFoundError, ModelForbiddenError, TokenLimitError, IdempotencyMismatchError (the key was used for
        another request), QueueFullError (queue.backlog), StoreUnavailableError, DrainingError: it was not taken.
        """
        return await self._acceptance.accept(self._open_tasks, submission, terms, key, job_id)

    async def accept_many(self, records: Sequence[JobRecord]) -> None:
        """Take jobs of a batch, all or none, in one commit; each has `terms` and a `body`. Their models are not looked
        up: a job without one waits until there is one. Raises QueueFullError, StoreUnavailableError, DrainingError."""
        await self._acceptance.accept_many(self._open_tasks, records)

    # --- ending ------------------------------------------------------------------------------------------------------

    async def cancel(self, job_id: str, detail: str = "the job was cancelled") -> StoredJob | None:
        """End a job, whether it waits or runs: its backend is cut off. What it is afterwards, at once and durably; one
        that has ended stays as it is. None: there is no such job. A synchronous job is cancelled too.

        Raises ConflictError for an ambiguous id, StoreUnavailableError.
        """
        stored = await self._early.cancel(job_id, detail)
        return None if stored is None else await self.wait(stored.job.id, SETTLE_S)

    async def end_batch(
        self, batch: str, status: JobStatus, reason: FailureReason, detail: str, *, running: bool = False
    ) -> int:
        """End every job of a batch that waits, and with `running` those that run too; how many there were.

        Returns when that is durable; `on_ended` is told of those that were in memory only. Nothing may be accepted
        for the batch any more. Raises StoreUnavailableError: some are not ended, and it can be asked for again.
        """
        count = await self._early.end_batch(batch, status, reason, detail, running=running)
        await self._tell_followers()
        return count

    # --- looking -----------------------------------------------------------------------------------------------------

    async def wait(self, job_id: str, seconds: float, *, bodies: bool = True) -> StoredJob | None:
        """The job as soon as it has ended, or as it is after `seconds`. None: there is none. `bodies`: with its own,
        which are read once, at the end: who looks at long ones all the time would keep everybody else from looking.

        Raises ConflictError for an ambiguous id, TooManyConnectionsError, StoreUnavailableError.
        """
        stored = await self._store.job(job_id, bodies=False)
        if stored is None:
            return None
        if not self._is_settled(stored) and (seconds > 0 or stored.status in TERMINAL):
            await self._end_of(stored.job.id, seconds)
        elif not bodies:
            return stored
        return await self._store.job(stored.job.id, bodies=bodies)

    async def _end_of(self, job_id: str, seconds: float) -> None:
        """Returns once the job has ended, or after `seconds`."""
        with self.bulletin.follow(job_id) as follower:
            stored = await self._store.job(job_id, bodies=False)
            if stored is None or self._is_settled(stored):
                return
            left = max(seconds, SETTLE_S) if stored.status in TERMINAL else seconds
            until = self._clock.monotonic() + left
            while left > 0:
                news = await follower.next(left)
                if news is None or news.kind is NewsKind.ENDED:
                    break
                left = until - self._clock.monotonic()

    def _is_settled(self, stored: StoredJob) -> bool:
        return stored.status in TERMINAL and stored.job.id not in self._ends

    def standing(self, stored: StoredJob) -> Standing:
        """Of a job that waits: its place, and what for."""
        job_id = stored.job.id
        told = self._dispatcher.waits_for(job_id) or (stored.detail if job_id in self._runs else "")
        return Standing(self._dispatcher.position(job_id), told or self.backlog.why_not(flow_of(stored.job)))

    def flows(self) -> Sequence[FlowView]:
        """What waits, and for what; the longest line first."""
        return self.backlog.flows()

    @property
    def waiting(self) -> int:
        """Durable jobs that do not run yet."""
        return self.backlog.waiting

    @property
    def free(self) -> int:
        """How many more may wait, now."""
        return max(0, self.backlog.policy.limit - self.backlog.waiting - self.backlog.promised)

    @property
    def closed(self) -> bool:
        """Whether no wait is of any use any more: the daemon is going down, and `wait` returns at once."""
        return self.bulletin.closed

    # --- for other parts ---------------------------------------------------------------------------------------------

    def record_with(self, origin: Origin, recorder: MakeRecorder) -> None:
        """Have the answers of jobs of this origin kept in another way. Called before the daemon starts to serve."""
        self._recorders[origin] = recorder

    def on_ended(self, listener: Callable[[End], None]) -> None:
        """Call `listener` with every durable job that ends, once that is durable. It must not wait, nor raise."""
        self._ends.listen(listener)

    # --- life --------------------------------------------------------------------------------------------------------

    async def open(self, tasks: Tasks) -> None:
        """Learn what waits. The store is open, and has put back what an earlier life had in flight.

        Raises StateFolderError.
        """
        self._tasks = tasks
        try:
            await self.backlog.open()
        except StoreUnavailableError as error:
            raise StateFolderError(f"The work that waits cannot be read: {error.message}") from error

    def start(self) -> None:
        """Begin to run what waits."""
        tasks = self._open_tasks
        self._loops = [
            tasks.loop(self._early.run(), "deadlines"),
            tasks.loop(self.backlog.run(), "backlog"),
            tasks.loop(self._ends.run(), "ends"),
        ]
        self.backlog.touch()

    def stop(self, why: str) -> None:
        """Begin nothing any more; what runs may come to its end."""
        self.backlog.close(why)

    async def close(self) -> None:
        """Give back to the store what has not come to its end, and end every wait. A second call does nothing."""
        self.backlog.close("the daemon is going down")
        tasks = {run.task for run in self._runs.values() if run.task is not None}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_S)
        await self._ends.last()
        self.bulletin.close()
        for loop in self._loops:
            loop.cancel()
        self._loops = []

    @property
    def _open_tasks(self) -> Tasks:
        if self._tasks is None:
            raise StoreUnavailableError("The daemon is still starting.", retry_after_s=1)
        return self._tasks

    def _begin(self, stored: StoredJob) -> None:
        """A job comes into memory."""
        job_id = stored.job.id
        if self._early.bars(stored):
            self.backlog.left(job_id, flow_of(stored.job))
            return
        run = self._runs[job_id] = Run(stored, self._hands)
        run.task = self._open_tasks.loop(self._see_through(run), f"job {job_id}")

    async def _see_through(self, run: Run) -> None:
        try:
            await run.run()
        finally:
            del self._runs[run.job_id]

    # --- telling -----------------------------------------------------------------------------------------------------

    def _finished(self, job: JobRecord, result: JobResult, attempt: AttemptRecord | None) -> None:
        """A listener for the journal: synchronous jobs can be waited for too."""
        del attempt
        if job.terms is None and self.bulletin.is_followed(job.id):
            self.bulletin.tell(News(job.id, NewsKind.ENDED, result.finished_at, result.status, result.attempts))

    async def _tell_followers(self) -> None:
        """Many jobs have ended at once, without a word of each: who waits for one of them is told."""
        for job_id in self.bulletin.followed():
            stored = await self._store.job(job_id, bodies=False)
            if stored is not None and self._is_settled(stored):
                status, now = JobStatus(stored.status), self._clock.wall()
                self.bulletin.tell(News(job_id, NewsKind.ENDED, now, status, stored.attempt))
