"""Durable jobs that wait in the store, and the few of them that are in memory: in the queue, or running.

A flow is fed by the order of its ids, a few jobs ahead of what its backends can serve at once, so that a batch of any
size costs as much memory as a small one, and jobs that come later for other clients or models do not stand behind it.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter

from supervisord.core.errors import QueueFullError, StoreUnavailableError
from supervisord.core.record import JobRecord
from supervisord.core.terms import Flow
from supervisord.engine.dispatcher import Dispatcher
from supervisord.engine.work.backlog_gate import Gate
from supervisord.engine.work.backlog_line import FlowView, Line
from supervisord.engine.work.backlog_room import Room, Share
from supervisord.engine.work.ends import STORE_PAUSE_S
from supervisord.ports import Clock, Store, StoredJob

FEWEST_FED = 4  # of a flow: what a client or a backend wins by more is lost in the noise of single jobs
FED_PER_SLOT = 2  # one runs, the next is there when it ends
LONGEST_READ = 1000  # jobs at once: the store's own limit
FULL_RETRY_S = 60.0  # both SDKs ignore a longer Retry-After
_CROWDED = "the jobs before it take all the memory there is for requests of its class and model"


@dataclass(frozen=True, slots=True)
class BacklogPolicy:
    """`limit`: durable jobs that may wait, in all."""

    limit: int = 1_000_000


class Backlog:
    """Knows what waits, and begins as many of them as make sense. It alone reads them from the store."""

    def __init__(
        self,
        store: Store,
        dispatcher: Dispatcher,
        clock: Clock,
        policy: BacklogPolicy,
        *,
        begin: Callable[[StoredJob], None],
    ) -> None:
        """`begin` takes a job into the queue; whoever does so tells by `left` or `returned` when it is over."""
        self._store = store
        self._gate = Gate(store, dispatcher)
        self._clock = clock
        self.policy = policy
        self._begin = begin
        self._lines: dict[Flow, Line] = {}
        self._hungry: dict[tuple[int, str], dict[Flow, None]] = {}  # by class and model: lines that may take more
        self._bell = asyncio.Event()
        self.waiting = 0  # in all: in the store, and in the queue
        self.promised = 0  # jobs that are being accepted
        self._in_memory = Room()

    # --- what there is -----------------------------------------------------------------------------------------------

    @property
    def held(self) -> int:
        """Jobs in memory."""
        return len(self._in_memory)

    async def open(self) -> None:
        """Learn what an earlier life of the daemon has left. Raises StoreUnavailableError."""
        for flow, count in (await self._store.flows()).items():
            self._line(flow).waiting += count
            self.waiting += count
            self._grown(flow)

    def reserve(self, count: int) -> None:
        """Make room for jobs that are being accepted; `promised` is the caller's to lower. Raises QueueFullError."""
        depth = self.waiting + self.promised
        if depth + count > self.policy.limit:
            raise QueueFullError(
                f"The backlog is full: {depth} jobs wait, the limit is {self.policy.limit}. "
                "Try again later, or raise queue.backlog.",
                depth=depth,
                retry_after_s=FULL_RETRY_S,
            )
        self.promised += count

    def added(self, job: StoredJob) -> None:
        """A job was accepted: it is begun now if there is nothing before it, and room."""
        flow = flow_of(job.job)
        line = self._line(flow)
        self._count(line, 1)
        alone = not line.more and line.ended is None and job.job.id > line.after
        share = self._share(flow.priority, flow.model)
        if alone and share is not None and self._room(line, share) and not self._gate.why_not(flow.model):
            line.after = job.job.id
            self._take(line, job, share)
        else:
            self._back_to(line, job.job.id)

    def added_many(self, flow: Flow, count: int, first: str) -> None:
        """So many jobs of a flow were accepted, more perhaps; `first` is the lowest of their ids."""
        line = self._line(flow)
        self._count(line, count)
        self._back_to(line, first)

    def changed(self, flow: Flow, by: int) -> None:
        """A job of a flow began to run (-1), waits again (1), or ended while it waited (-1)."""
        line = self._lines.get(flow)
        if line is not None:
            self._count(line, by)

    def left(self, job_id: str, flow: Flow) -> None:
        """A job is over."""
        line = self._lines.get(flow)
        if line is None:
            return
        if line.ended is not None:
            line.ended.add(job_id)
        self._let_go(line, job_id)
        if line.more:
            self._grown(flow)
        self._drop_if_empty(line)
        self.touch()

    def returned(self, job_id: str, flow: Flow) -> None:
        """A job could not be run, and waits in the store again."""
        line = self._line(flow)
        if line.ended is not None:
            line.ended.add(job_id)
        self._let_go(line, job_id)
        self._back_to(line, job_id)

    def _line(self, flow: Flow) -> Line:
        line = self._lines.get(flow)
        if line is None:
            line = self._lines[flow] = Line(flow)
        return line

    def _count(self, line: Line, by: int) -> None:
        by = max(by, -line.waiting)
        line.waiting += by
        self.waiting += by

    def _let_go(self, line: Line, job_id: str) -> None:
        line.held.discard(job_id)
        self._in_memory.let_go(job_id)

    def _back_to(self, line: Line, job_id: str) -> None:
        """Look in the store again from this job on. Those in memory that are met there once more are passed over."""
        if line.ended is not None:
            line.back_to = min(line.back_to or job_id, job_id)
        elif job_id <= line.after:
            line.rewind()
        self._grown(line.flow)
        self.touch()

    def _grown(self, flow: Flow) -> None:
        self._lines[flow].more = True
        self._hungry.setdefault((flow.priority, flow.model), {})[flow] = None

    def _drop_if_empty(self, line: Line) -> None:
        if line.is_over:
            self._count(line, -line.waiting)
            del self._lines[line.flow]

    # --- feeding -----------------------------------------------------------------------------------------------------

    def touch(self) -> None:
        """Something changed that could matter: a job left, a backend came, the configuration, an operator."""
        if self._hungry:
            self._bell.set()

    def close(self, why: str) -> None:
        """Begin nothing any more."""
        self._gate.closed = why

    async def run(self) -> None:
        """Begin jobs as room comes, until cancelled."""
        while True:
            await self._bell.wait()
            self._bell.clear()
            try:
                await self._feed()
            except StoreUnavailableError:
                await self._clock.sleep(STORE_PAUSE_S)
                self._bell.set()

    async def _feed(self) -> None:
        """Serve every line once, class by class, then again, until nobody has room."""
        if problem := self._gate.problem:
            raise StoreUnavailableError(problem)
        progress = True
        while progress:
            progress = False
            for key in sorted(self._hungry, key=itemgetter(0)):  # in a class, who was not served for the longest time
                share = self._share(*key)
                if share is not None and self._in_memory.jobs(share) and not self._gate.why_not(key[1]):
                    progress = await self._feed_one(key, share) or progress

    async def _feed_one(self, key: tuple[int, str], share: Share) -> bool:
        """The line of a model that was not served for the longest time; whether there was one with room."""
        hungry = self._hungry.get(key)
        if not hungry:
            self._hungry.pop(key, None)
            return False
        flow = next(iter(hungry))
        del hungry[flow]
        line = self._lines[flow]
        room = self._room(line, share)
        if room == 0:
            return True  # it comes back as soon as one of its jobs has left
        if await self._read(line, room, share):
            lines = self._hungry.pop(key, {})
            lines[flow] = None
            self._hungry[key] = lines
        else:
            self._drop_if_empty(line)
        return True

    async def _read(self, line: Line, room: int, share: Share) -> bool:
        """Begin the next jobs of a line; whether there may be more."""
        before = set(line.held)
        line.more, line.ended, line.back_to = False, set(), ""
        try:
            if line.anew:
                await self._store.flush()
                line.anew = False
            found = await self._store.waiting(
                line.flow,
                after=line.after,
                limit=min(LONGEST_READ, room + len(before)),
                most_bytes=max(1, self._in_memory.size(share)),
            )
            passed = before | line.ended
            for job in found:
                if job.job.id not in passed:
                    if room == 0:
                        break
                    room -= 1
                    self._take(line, job, share)
                line.after = job.job.id
        except BaseException:
            self._grown(line.flow)
            raise
        finally:
            line.ended = None
            if line.back_to and line.back_to <= line.after:
                line.rewind()
        line.more = line.more or bool(found)
        return line.more

    def _take(self, line: Line, job: StoredJob, share: Share) -> None:
        line.held.add(job.job.id)
        self._in_memory.take(job.job.id, share, len(job.job.body or b""))
        self._begin(job)

    def _share(self, priority: int, model: str) -> Share | None:
        """None: nobody serves the model."""
        name = self._gate.name(model)
        return None if name is None else (priority, name)

    def _room(self, line: Line, share: Share) -> int:
        if self._gate.closed:
            return 0
        window = max(FEWEST_FED, FED_PER_SLOT * self._gate.slots(share[1]))
        return max(0, min(window - len(line.held), self._in_memory.jobs(share)))

    # --- looking -----------------------------------------------------------------------------------------------------

    def flows(self) -> Sequence[FlowView]:
        """What waits, and for what; the longest line first."""
        why: Mapping[str, str] = {model: self._gate.why_not(model) for _, model in self._hungry}
        views = [self._view(line, why.get(line.flow.model, "")) for line in self._lines.values()]
        return sorted(views, key=lambda view: (-view.waiting, view.flow))

    def _view(self, line: Line, why: str) -> FlowView:
        oldest = min(line.held, default="")
        told = why or self._gate.waits_for(oldest) or self._crowded(line.flow)
        return FlowView(line.flow, line.waiting, len(line.held), told, oldest)

    def why_not(self, flow: Flow) -> str:
        """Why no job of a flow is begun now; empty: it is its turn that they wait for."""
        if problem := self._gate.problem:
            return f"the store takes no writes: {problem}"
        return self._gate.why_not(flow.model) or self._crowded(flow)

    def _crowded(self, flow: Flow) -> str:
        """Said where there is no room for it in memory, and none of its jobs is there."""
        line, share = self._lines.get(flow), self._share(flow.priority, flow.model)
        if line is None or line.held or share is None or self._in_memory.jobs(share):
            return ""
        return _CROWDED


def flow_of(job: JobRecord) -> Flow:
    """Whose line a durable job waits in."""
    return Flow(job.model, job.priority, job.client)
