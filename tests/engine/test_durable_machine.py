"""Any interleaving of what can happen to durable work, over the real store: nothing is lost, nothing done twice.

A story is a list of moves. Each life of the daemon has its own copy of the engine; a crash takes the files of the store
as they are in that moment, with its writer in the middle of its work, and goes on with them.
"""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from inspect import getmembers, iscoroutinefunction
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import override

from supervisord.adapters.store import SqliteStore
from supervisord.core.errors import IdempotencyMismatchError
from supervisord.core.job import TERMINAL, FailureReason, JobStatus, Priority, Submission
from supervisord.core.record import JobRecord
from supervisord.core.terms import Origin, Terms
from supervisord.engine.work.durable import End
from supervisord.ports import Receiver, UpstreamFault, UpstreamRequest
from tests.engine.overnight import ids
from tests.engine.rig import CHAT, Rig, llama, rig
from tests.fakes.clock import PATIENCE_S, FakeClock

MODEL = "m"


@dataclass(frozen=True)
class Accept:
    client: str
    key: str = ""
    variant: int = 0  # of the request, for one key
    deadline_s: float | None = None


@dataclass(frozen=True)
class Batch:
    lines: int


@dataclass(frozen=True)
class Answer:
    which: int
    status: int = 200  # 0: the connection breaks


@dataclass(frozen=True)
class Cancel:
    which: int


@dataclass(frozen=True)
class EndBatch:
    which: int
    running: bool


@dataclass(frozen=True)
class Pass:
    seconds: float


@dataclass(frozen=True)
class Pause:
    on: bool


@dataclass(frozen=True)
class Restart:
    crash: bool


Move = Accept | Batch | Answer | Cancel | EndBatch | Pass | Pause | Restart

small = st.integers(0, 7)
moves = st.lists(
    st.one_of(
        st.builds(
            Accept,
            client=st.sampled_from(["ada", "bob"]),
            key=st.sampled_from(["", "", "k1", "k2"]),
            variant=st.integers(0, 1),
            deadline_s=st.sampled_from([None, None, 5.0, 100.0]),
        ),
        st.builds(Batch, st.integers(1, 9)),
        st.builds(Answer, small, st.sampled_from([200, 200, 200, 500, 400, 0])),
        st.builds(Cancel, small),
        st.builds(EndBatch, small, st.booleans()),
        st.builds(Pass, st.sampled_from([0.3, 3.0, 40.0])),
        st.builds(Pause, st.booleans()),
        st.builds(Restart, st.booleans()),
    ),
    min_size=1,
    max_size=25,
)


@dataclass(slots=True)
class _Asked:
    """`ports.Exchange`: one request that a service has, and has not answered."""

    words: str
    receiver: Receiver
    over: bool = False

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def abort(self) -> None:
        self.over = True


@dataclass(slots=True)
class Service:
    """`ports.Upstream`: answers when a story says so, or at once when `eager`."""

    told: "Told"
    eager: bool = False
    asked: list[_Asked] = field(default_factory=list)

    async def start(self, request: UpstreamRequest, receiver: Receiver) -> _Asked:
        words = json.loads(request.body)["messages"][0]["content"]
        self.told.begins(words)
        made = _Asked(words, receiver)
        self.asked.append(made)
        if self.eager:
            asyncio.get_running_loop().call_soon(self.answer, made, 200)
        return made

    def open(self) -> list[_Asked]:
        self.asked = [one for one in self.asked if not one.over]
        return self.asked

    def answer(self, asked: _Asked, status: int) -> None:
        if asked.over:
            return
        asked.over = True
        if status == 0:
            asked.receiver.on_fault(UpstreamFault("reset", "connection reset by peer"))
            return
        body = {"echo": asked.words} if status == 200 else {"error": {"message": "no", "type": "server_error"}}
        asked.receiver.on_head(status, ((b"content-type", b"application/json"),))
        asked.receiver.on_data(json.dumps(body).encode())
        asked.receiver.on_end()

    def forget(self, address: object) -> None:
        """See `ports.Upstream`."""

    async def close(self) -> None:
        """See `ports.Upstream`."""


@dataclass(slots=True)
class Told:
    """What the daemon has promised, over all its lives."""

    accepted: dict[str, str] = field(default_factory=dict)  # job -> its words
    keys: dict[tuple[str, str], tuple[str, int]] = field(default_factory=dict)  # -> job, variant
    ended: dict[str, JobStatus] = field(default_factory=dict)
    batches: list[str] = field(default_factory=list)
    lives: int = 0

    def begins(self, words: str) -> None:
        over = {self.accepted[job_id] for job_id in self.ended}
        assert words not in over, f"{words} is run again after its result was told"

    def ends(self, end: End) -> None:
        assert end.job.id not in self.ended, f"{end.job.id} has ended twice"
        self.ended[end.job.id] = end.status


class RealStore(SqliteStore):
    """The real one, which takes real time: the played one stands still while it works."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, keep_bodies=False, retention_s=None, now=lambda: 1_700_000_000.0)
        self.working = 0

    @override
    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        return partial(self._counted, found) if name in _SLOW else found

    async def _counted(self, call: Callable[..., Coroutine[Any, Any, Any]], *args: Any, **more: Any) -> Any:
        self.working += 1
        try:
            task = asyncio.get_running_loop().create_task(call(*args, **more))
            # An event would let the loop sleep, and think that everything waits for time to pass.
            while not task.done():  # noqa: ASYNC110
                await asyncio.sleep(0)
            return task.result()
        finally:
            self.working -= 1

    def stops(self, clock: FakeClock) -> None:
        """Have a clock wait for this store."""
        loop: Any = asyncio.get_running_loop()

        async def rest() -> None:
            give_up = monotonic() + 10 * PATIENCE_S
            while True:
                await asyncio.sleep(0)
                idle = not self.working and not (self._parts is not None and self.state().pending)
                if idle and not loop._ready:
                    return
                assert monotonic() < give_up, "it never comes to rest"

        clock.rest = rest  # type: ignore[method-assign] - for all who let time pass


_SLOW = frozenset(name for name, made in getmembers(SqliteStore, iscoroutinefunction) if not name.startswith("_"))


class Life:
    """One life of the daemon."""

    def __init__(self, it: Rig, store: RealStore, service: Service, told: Told) -> None:
        self.it = it
        self.store = store
        self.service = service
        self.told = told
        self.durable = it.supervisor.durable
        self.durable.on_ended(told.ends)

    async def settle(self) -> None:
        """Until nothing moves any more without time, an answer, or a hand."""
        await self.it.clock.rest()

    async def make(self, move: Move) -> None:
        """Make a move, and let come of it what comes without time, or soon."""
        if isinstance(move, Pass):
            await self.it.clock.advance(move.seconds)
            return
        making = asyncio.get_running_loop().create_task(self._make(move))
        for _ in range(50):
            await self.settle()
            if making.done():
                break
            await self.it.clock.advance(0.1)
        making.result()

    async def _make(self, move: Move) -> None:  # noqa: C901 - one case for each kind
        match move:
            case Accept():
                await self.accept(move)
            case Batch(lines=count):
                await self.batch(count)
            case Answer(which=which, status=status):
                if waiting := self.service.open():
                    self.service.answer(waiting[which % len(waiting)], status)
            case Cancel(which=which):
                if self.told.accepted:
                    await self.cancel(sorted(self.told.accepted)[which % len(self.told.accepted)])
            case EndBatch(which=which, running=running):
                if self.told.batches:
                    await self.end_batch(self.told.batches[which % len(self.told.batches)], running=running)
            case Pause(on=on):
                self.it.supervisor.pause_queue() if on else self.it.supervisor.resume_queue()
            case Pass() | Restart():
                raise AssertionError("that is done elsewhere")

    async def accept(self, move: Accept) -> None:
        number = len(self.told.accepted) + 1
        words = f"{move.key} {move.variant}" if move.key else f"words {number}"
        body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": f"{move.client} {words}"}]})
        submission = Submission(CHAT, MODEL, body.encode(), client=move.client)
        deadline = None if move.deadline_s is None else self.it.clock.wall() + move.deadline_s
        known = self.told.keys.get((move.client, move.key)) if move.key else None
        try:
            accepted = await self.durable.accept(submission, Terms(Origin.JOB, deadline_at=deadline), move.key)
        except IdempotencyMismatchError:
            assert known is not None
            assert known[1] != move.variant
            return
        assert accepted.known == (known is not None)
        if known is not None:
            assert (accepted.job_id, move.variant) == known
            return
        assert accepted.job_id not in self.told.accepted
        self.told.accepted[accepted.job_id] = f"{move.client} {words}"
        if move.key:
            self.told.keys[move.client, move.key] = accepted.job_id, move.variant

    async def batch(self, count: int) -> None:
        name = f"b{len(self.told.batches) + 1}"
        records = []
        for line in range(1, count + 1):
            words = f"{name} line {line}"
            body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": words}]}).encode()
            terms = Terms(Origin.BATCH, batch=name, line=line, custom_id=str(line))
            now, job_id = self.it.clock.wall(), self.it.supervisor.new_id()
            records.append(
                JobRecord(job_id, CHAT, MODEL, int(Priority.BATCH), False, "batch", now, None, None, body, terms)
            )
        await self.durable.accept_many(records)
        self.told.batches.append(name)
        for record, line in zip(records, range(1, count + 1), strict=True):
            self.told.accepted[record.id] = f"{name} line {line}"

    async def cancel(self, job_id: str) -> None:
        before = await self.store.job(job_id)
        stored = await self.durable.cancel(job_id)
        assert before is not None
        assert stored is not None
        assert stored.status in TERMINAL
        if before.status in TERMINAL:
            assert (stored.status, stored.result) == (before.status, before.result)

    async def end_batch(self, name: str, *, running: bool) -> None:
        detail = "the batch was cancelled"
        await self.durable.end_batch(name, JobStatus.CANCELLED, FailureReason.CANCELLED, detail, running=running)
        for job_id, words in self.told.accepted.items():
            if words.startswith(f"{name} "):
                stored = await self.store.job(job_id)
                assert stored is not None
                assert stored.status in TERMINAL or (stored.status == "running" and not running)

    async def finish(self) -> None:
        """Whatever is left is done now."""
        self.it.supervisor.resume_queue()
        self.service.eager = True
        for asked in list(self.service.open()):
            self.service.answer(asked, 200)
        for _ in range(300):
            await self.settle()
            if not self.durable.backlog.held and not self.durable.waiting:
                break
            await self.it.clock.advance(1.0)
        await self.settle()
        await self.check()

    async def check(self) -> None:
        assert await self.store.flows() == {}
        for job_id, words in self.told.accepted.items():
            stored = await self.store.job(job_id)
            assert stored is not None, f"{words} is lost"
            assert stored.result is not None, (words, stored, self.durable.flows())
            assert self.told.ended.get(job_id, stored.status) == stored.status, "what was told is what is kept"
            if stored.status == "done":
                assert json.loads(stored.result.output or b"{}") == {"echo": words}
            numbers = [attempt.number for attempt in stored.attempts]
            assert numbers == sorted(set(numbers))
            assert max(numbers, default=0) <= stored.result.attempts


@asynccontextmanager
async def life(path: Path, told: Told) -> AsyncIterator[Life]:
    store = RealStore(path)
    service = Service(told)
    told.lives += 1
    world = rig(
        llama(MODEL, slots=2),
        store=store,  # type: ignore[arg-type] - the real one
        upstream=lambda clock, processes: service,  # type: ignore[arg-type, return-value] - enough of one
        prepare=lambda machine, processes: store.stops(machine.clock),  # type: ignore[arg-type] - it is the played one
        ids=(f"{told.lives:02}{name}" for name in ids()),
    )
    async with world as it:
        await it.up(MODEL)
        yield Life(it, store, service, told)


async def tell(story: Sequence[Move], folder: Path) -> None:
    told, path, rest = Told(), folder / "1.sqlite3", list(story)
    while True:
        crashed = False
        async with life(path, told) as now:
            await now.settle()
            while rest:
                move = rest.pop(0)
                if isinstance(move, Restart):
                    crashed = move.crash
                    break
                await now.make(move)
            else:
                await now.finish()
                return
            if crashed:
                path = taken(path, folder / f"{told.lives + 1}.sqlite3")
                told_then = dict(told.ended)
        if crashed:
            told.ended = told_then  # whoever was told after the files were taken was told by another world


def taken(path: Path, copy: Path) -> Path:
    """The files of a store as they are now: the database first, for its log is only ever added to."""
    shutil.copy(path, copy)
    log = path.with_name(f"{path.name}-wal")
    if log.exists():
        shutil.copy(log, copy.with_name(f"{copy.name}-wal"))
    return copy


@given(moves)
@settings(max_examples=25, deadline=None)
def test_whatever_happens_each_accepted_job_ends_once(story: list[Move]) -> None:
    with TemporaryDirectory() as folder:
        asyncio.run(tell(story, Path(folder)))
