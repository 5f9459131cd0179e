"""step(), the queue and the choice of a backend together, against a small model of the world, in any order of events.

The world knows what is true: which processes exist, which jobs are where. It performs the effects as they come and
objects when one of them must not be. At the end of each story the world becomes kind, and every job has to end.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from supervisord.core import life
from supervisord.core.backend import room, step
from supervisord.core.dispatch import BackendView, Outlook, Reject, Serve, Wait, Wake, choose
from supervisord.core.errors import QueueFullError
from supervisord.core.exits import CauseKind, ExitCause
from supervisord.core.job import TERMINAL, Job, JobEvent, JobStatus, Priority, Submission, advance
from supervisord.core.queue import JobQueue, Key, QueuePolicy
from supervisord.core.restart import RestartPolicy
from supervisord.core.routing import Route, Strategy
from supervisord.core.state import BackendState, LifePolicy, Phase, Want

CAUSES = [
    ExitCause(CauseKind.CRASH, "crash"),
    ExitCause(CauseKind.GPU_OOM, "out of memory"),
    ExitCause(CauseKind.CONFIGURATION, "cannot heal", permanent=True),
    ExitCause(CauseKind.ASKED, "stopped as asked"),
    ExitCause(CauseKind.EXHAUSTED, "nothing left to start it with"),
]
ROUTES = {
    "a": Route(("a",), ("left",)),
    "b": Route(("b",), ("left", "right")),
    "c": Route(("c",), ("right",), last_resort=("left",)),
}
BACKENDS = ("left", "right")
POLICIES = {
    "left": LifePolicy(slots=1, rungs=1, restart=RestartPolicy(max_failures=2)),
    "right": LifePolicy(slots=3, token_budget=100, breaker=1, restart=RestartPolicy(max_failures=3)),
}
QUEUE_LIMIT = 4
BEGINNINGS = ["asleep", "started", "ready", "working", "on trial", "working"]

causes = st.sampled_from(CAUSES)
names = st.sampled_from(BACKENDS)
draws = st.floats(0.0, 0.999)


@dataclass
class Process:
    """What is really there of one generation."""

    generation: int
    placed: bool = True  # placement has let it begin
    spawning: bool = True
    leader: bool = False
    tree: bool = False
    ends: bool = False  # it was told to, politely or not


def spawning(process: Process) -> bool:
    return process.spawning and (process.placed or process.ends)  # a start that is given up may still be on its way


def leading(process: Process) -> bool:
    return process.leader


def orphaned(process: Process) -> bool:
    return process.tree and not process.leader


def gone(process: Process) -> bool:
    return not process.spawning and not process.tree


@dataclass
class Side:
    """One backend and the truth about it."""

    name: str
    state: BackendState = field(default_factory=BackendState)
    process: Process | None = None
    paused: bool = False
    crowded: bool = False  # there is no place for it
    held: str = ""  # and nobody makes room
    modest: bool = False
    latency_s: float | None = None
    stopped_by_operator: bool = False

    def told_to_end(self, generation: int) -> None:
        if self.process is not None and self.process.generation == generation and self.process.tree:
            self.process.ends = True


@dataclass(frozen=True)
class Running:
    job: Job
    key: Key
    backend: str
    generation: int


class World(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.sides = {name: Side(name) for name in BACKENDS}
        self.queue = JobQueue(QueuePolicy(limit=QUEUE_LIMIT))
        self.status: dict[str, JobStatus] = {}  # of every job that was accepted
        self.running: dict[str, Running] = {}
        self.arrivals = 0
        self.inbox: deque[tuple[str, life.Event]] = deque()
        self.seen: set[Phase] = set()
        self.breaker_seen: set[str] = set()
        self.routes = ROUTES

    # --- the engine, in small ----------------------------------------------------------------------------------------

    def post(self, name: str, event: life.Event) -> None:
        """One event is handled to its end before the next, also when an effect posts it."""
        self.inbox.append((name, event))
        if len(self.inbox) > 1:
            return
        while self.inbox:
            self.handle(*self.inbox[0])
            self.inbox.popleft()

    def handle(self, name: str, event: life.Event) -> None:
        side = self.sides[name]
        before = side.state
        side.state, effects = step(before, event, POLICIES[name], self.now)
        after = side.state
        self.seen.add(after.phase)
        self.check_breaker(before, event, after, effects)
        if after.deadline != before.deadline and after.deadline is not None:
            assert after.deadline >= self.now, "a deadline in the past"
        assert after.generation - before.generation == sum(isinstance(e, life.Spawn) for e in effects)
        for effect in effects:
            if isinstance(effect, life.GrantLease):
                self.check_room(name, before, after)
            self.perform(side, effect)

    def check_room(self, name: str, before: BackendState, after: BackendState) -> None:
        """One is always served; more only within what there is of slots and tokens."""
        policy = POLICIES[name]
        assert before.phase is Phase.READY
        assert before.open_until is None
        assert not before.trial
        assert bool(after.trial) is before.on_trial
        if before.in_flight:
            assert after.in_flight <= policy.slots * before.share
            assert after.tokens <= (policy.token_budget or before.capacity or 10**9) * before.share

    def check_breaker(
        self, before: BackendState, event: life.Event, after: BackendState, effects: tuple[life.Effect, ...]
    ) -> None:
        """It keeps new requests away, and cuts nobody off."""
        if isinstance(event, life.LeaseEnded) and before.phase in {Phase.READY, Phase.SUSPECT}:
            answered = event.served and before.phase is Phase.SUSPECT
            assert effects == ()
            assert after.phase is before.phase or (answered and after.phase is Phase.READY)
        if after.open_until is not None and before.open_until is None:
            self.breaker_seen.add("opened again" if before.on_trial else "opened")
        if before.on_trial and not after.on_trial:
            self.breaker_seen.add("closed")

    def perform(self, side: Side, effect: life.Effect) -> None:
        match effect:
            case life.Spawn(generation=number):
                assert side.process is None, "a generation starts while there is a process of an earlier one"
                assert not side.stopped_by_operator, "started although an operator stopped it"
                side.process = Process(number, placed=not side.crowded)
            case life.Terminate() | life.Kill():
                side.told_to_end(effect.generation)
                if side.process is not None and not side.process.placed:
                    side.process.ends = True
            case life.GrantLease(job_id=job_id, generation=number):
                self.granted(side, job_id, number)
            case life.RefuseLease():
                pass
            case life.FailLeases(generation=number):
                self.fail_leases(side, number)

    def fail_leases(self, side: Side, number: int) -> None:
        for lease in [r for r in self.running.values() if (r.backend, r.generation) == (side.name, number)]:
            self.end_lease(lease, served=False, failed=True, again=True)

    def granted(self, side: Side, job_id: str, number: int) -> None:
        assert side.process is not None
        assert side.process.leader, "a job is sent to a process that is not there"
        assert side.process.generation == number
        job, key = self.queue.take(job_id)
        self.move(job_id, JobEvent.STARTED)
        self.running[job_id] = Running(job, key, side.name, number)

    def end_lease(self, lease: Running, *, served: bool, failed: bool = False, again: bool = False) -> None:
        del self.running[lease.job.id]
        if served:
            self.move(lease.job.id, JobEvent.SUCCEEDED)
        elif again and lease.job.attempts < 2:
            self.move(lease.job.id, JobEvent.REQUEUED)
            tried = lease.job.avoid | {lease.backend}
            self.queue.put_back(replace(lease.job, attempts=lease.job.attempts + 1, avoid=tried), lease.key)
        else:
            self.move(lease.job.id, JobEvent.FAILED)
        ended = life.LeaseEnded(lease.generation, served, lease.job.tokens, failed, lease.job.id, draw=0.5)
        self.post(lease.backend, ended)

    def move(self, job_id: str, event: JobEvent) -> None:
        self.status[job_id] = advance(self.status[job_id], event)

    def pump(self) -> None:
        again = True
        while again:
            again = False
            for job in self.queue.first_of_each_model():
                again = self.place(job) or again

    def place(self, job: Job) -> bool:
        """Whether the queue moved."""
        match choose(job, self.routes[job.model], [self.view(side, job.tokens) for side in self.sides.values()]):
            case Serve(backend=name, wake=besides):
                if besides:
                    self.wake(besides, modest=True)
                self.post(name, life.LeaseAsked(job.id, job.tokens))
                assert job.id in self.running, "a backend with room refuses"
                return True
            case Wake(backend=name, modest=modest):
                self.wake(name, modest=modest)
                return False
            case Wait():
                return False
            case Reject():
                self.queue.take(job.id)
                self.move(job.id, JobEvent.FAILED)
                return True

    def wake(self, name: str, *, modest: bool) -> None:
        side = self.sides[name]
        assert modest or side.modest or side.state.phase is Phase.STOPPED, "it would be asked for ever"
        if side.state.phase is Phase.STOPPED or not modest:
            side.modest = modest
        self.post(name, life.WakeAsked("a job"))
        assert side.state.phase is Phase.STARTING, "a wake that does nothing would be asked for ever"

    def view(self, side: Side, tokens: int) -> BackendView:
        state = side.state
        waits = state.phase is Phase.STARTING and side.process is not None and not side.process.placed
        return BackendView(
            name=side.name,
            phase=state.phase,
            want=state.want,
            reason=state.reason,
            slots=POLICIES[side.name].slots,
            in_flight=state.in_flight,
            room=room(state, POLICIES[side.name], tokens),
            paused=side.paused,
            held=side.held if waits else "",
            waits_for_place=waits,
            modest=side.modest and waits,
            failing=state.failed_in_row > 0 or state.on_trial,
            latency_s=side.latency_s,
        )

    # --- clients -----------------------------------------------------------------------------------------------------

    @rule(
        model=st.sampled_from(sorted(ROUTES)),
        priority=st.sampled_from(Priority),
        patience=st.sampled_from([5.0, 900.0]),
        tokens=st.sampled_from([0, 40, 60, 500]),
    )
    def submit(self, model: str, priority: Priority, patience: float, tokens: int) -> None:
        self.arrivals += 1
        job = Job(
            id=f"job-{self.arrivals}",
            submission=Submission("/v1/completions", model, b"{}", priority=priority),
            arrived=self.now,
            submitted_at=0.0,
            expires=self.now + patience,
            tokens=tokens,
        )
        if len(self.queue) >= QUEUE_LIMIT:  # what is put back counts too, and is never turned away
            with pytest.raises(QueueFullError):
                self.queue.admit(job, seconds_per_job=1.0)
            return
        self.queue.admit(job, seconds_per_job=1.0)
        self.status[job.id] = JobStatus.QUEUED
        self.pump()

    @precondition(lambda self: len(self.queue))
    @rule(data=st.data())
    def a_waiting_client_leaves(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(list(self.queue)))
        self.queue.take(job.id)
        self.move(job.id, JobEvent.CANCELLED)
        self.pump()

    @precondition(lambda self: len(self.queue))
    @rule(name=names)
    def a_lease_is_asked_out_of_turn(self, name: str) -> None:
        """The choice was made by a look at the past."""
        first = [job for job in self.queue.first_of_each_model() if name in self.routes[job.model].backends]
        if first:
            self.tell(name, life.LeaseAsked(first[0].id, first[0].tokens))

    @rule(name=names)
    def a_wake_comes_late(self, name: str) -> None:
        self.tell(name, life.WakeAsked("a job that is gone"))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), served=st.booleans(), failed=st.booleans(), again=st.booleans())
    def an_attempt_ends(self, data: st.DataObject, *, served: bool, failed: bool, again: bool) -> None:
        lease = data.draw(st.sampled_from(list(self.running.values())))
        side = self.sides[lease.backend]
        alive = side.process is not None and side.process.leader and side.process.generation == lease.generation
        served = served and alive
        self.end_lease(lease, served=served, failed=failed and not served, again=again)
        self.pump()

    @precondition(lambda self: self.running)
    @rule(name=names, again=st.booleans())
    def all_its_attempts_fail(self, name: str, *, again: bool) -> None:
        for lease in [r for r in self.running.values() if r.backend == name]:
            self.end_lease(lease, served=False, failed=True, again=again)
        self.pump()

    # --- processes ---------------------------------------------------------------------------------------------------

    def process(self, name: str) -> Process:
        process = self.sides[name].process
        assert process is not None
        return process

    def tell(self, name: str, event: life.Event) -> None:
        self.post(name, event)
        self.pump()

    @precondition(lambda self: self.where(spawning))
    @rule(data=st.data())
    def one_is_spawned(self, data: st.DataObject) -> None:
        self.spawned(data.draw(st.sampled_from(self.where(spawning))))

    def spawned(self, name: str) -> None:
        process = self.process(name)
        process.spawning, process.leader, process.tree = False, True, True
        self.tell(name, life.Spawned(process.generation))
        assert self.sides[name].state.phase is Phase.LOADING or process.ends, "a process nobody will end"

    @precondition(lambda self: self.where(spawning))
    @rule(data=st.data())
    def one_becomes_ready(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.where(spawning)))
        self.spawned(name)
        self.tell(name, life.Answered(self.process(name).generation))

    @precondition(lambda self: self.where(spawning))
    @rule(data=st.data(), cause=causes, draw=draws)
    def a_spawn_fails(self, data: st.DataObject, cause: ExitCause, draw: float) -> None:
        name = data.draw(st.sampled_from(self.where(spawning)))
        generation = self.process(name).generation
        self.sides[name].process = None
        self.tell(name, life.SpawnFailed(generation, cause, draw))

    @precondition(lambda self: self.where(leading))
    @rule(data=st.data(), what=st.sampled_from([life.Progressed, life.Computed, life.Answered, life.ProbeMissed]))
    def a_watch_tells(self, data: st.DataObject, what: type) -> None:
        name = data.draw(st.sampled_from(self.where(leading)))
        number = self.process(name).generation
        self.tell(name, life.ProbeMissed(number, "late") if what is life.ProbeMissed else what(number))

    @precondition(lambda self: self.where(leading))
    @rule(data=st.data(), seconds=st.sampled_from([0.0, 60.0, 1000.0]))
    def a_prompt_is_long(self, data: st.DataObject, seconds: float) -> None:
        name = data.draw(st.sampled_from(self.where(leading)))
        self.tell(name, life.Allowed(self.process(name).generation, seconds))

    @precondition(lambda self: self.serving())
    @rule(data=st.data(), seconds=st.sampled_from([60.0, 1000.0]))
    def a_canary_is_not_answered(self, data: st.DataObject, seconds: float) -> None:
        name = data.draw(st.sampled_from(self.serving()))
        self.tell(name, life.CanaryMissed(self.process(name).generation, seconds))

    @precondition(lambda self: self.doubted())
    @rule(data=st.data(), moved=st.booleans())
    def a_diagnosis_is_made(self, data: st.DataObject, *, moved: bool) -> None:
        name = data.draw(st.sampled_from(self.doubted()))
        self.tell(name, life.Diagnosed(self.process(name).generation, moved, ("it was looked at",)))
        assert self.sides[name].state.doubt is None

    def doubted(self) -> list[str]:
        return [name for name, side in self.sides.items() if side.state.doubt is not None]

    @precondition(lambda self: self.serving())
    @rule(data=st.data())
    def a_ready_one_does_not_answer(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.serving()))
        self.tell(name, life.ProbeMissed(self.process(name).generation, "late"))

    def serving(self) -> list[str]:
        return [name for name, side in self.sides.items() if side.state.phase is Phase.READY]

    @precondition(lambda self: self.where(leading))
    @rule(data=st.data(), waiting=st.booleans(), preempted=st.booleans(), capacity=st.sampled_from([None, 50, 80]))
    def its_counters_tell(self, data: st.DataObject, *, waiting: bool, preempted: bool, capacity: int | None) -> None:
        name = data.draw(st.sampled_from(self.where(leading)))
        self.tell(name, life.Measured(self.process(name).generation, waiting, preempted, capacity))

    @precondition(lambda self: self.where(leading))
    @rule(data=st.data(), cause=st.sampled_from(CAUSES[:2]))
    def a_worker_is_killed(self, data: st.DataObject, cause: ExitCause) -> None:
        name = data.draw(st.sampled_from(self.where(leading)))
        self.tell(name, life.Condemned(self.process(name).generation, cause))
        assert self.process(name).ends or self.sides[name].state.phase is Phase.UNKILLABLE

    @rule(name=names)
    def its_device_is_lost(self, name: str) -> None:
        self.tell(name, life.DeviceLost("gpu0 is lost"))
        process = self.sides[name].process
        assert process is None or process.ends or not process.tree or self.sides[name].state.phase is Phase.UNKILLABLE

    @precondition(lambda self: self.where(leading))
    @rule(data=st.data(), cause=causes)
    def a_leader_ends(self, data: st.DataObject, cause: ExitCause) -> None:
        self.leader_ends(data.draw(st.sampled_from(self.where(leading))), cause)

    def leader_ends(self, name: str, cause: ExitCause) -> None:
        process = self.process(name)
        process.leader = process.ends = False
        self.tell(name, life.Exited(process.generation, cause))
        assert process.ends or self.sides[name].state.phase is Phase.UNKILLABLE, "workers outlive their leader"

    @precondition(lambda self: self.where(orphaned))
    @rule(data=st.data())
    def a_tree_is_gone(self, data: st.DataObject) -> None:
        self.tree_gone(data.draw(st.sampled_from(self.where(orphaned))))

    def tree_gone(self, name: str) -> None:
        process = self.process(name)
        process.tree = False
        self.tell(name, life.TreeGone(process.generation))

    @precondition(lambda self: self.where(gone))
    @rule(data=st.data(), draw=draws)
    def its_memory_is_free(self, data: st.DataObject, draw: float) -> None:
        self.released(data.draw(st.sampled_from(self.where(gone))), draw)

    def released(self, name: str, draw: float) -> None:
        generation = self.process(name).generation
        self.sides[name].process = None
        self.tell(name, life.Released(generation, draw))

    def where(self, holds: Callable[[Process], bool]) -> list[str]:
        return [name for name, side in self.sides.items() if side.process is not None and holds(side.process)]

    @rule(name=names, data=st.data(), cause=causes)
    def old_news_arrives(self, name: str, data: st.DataObject, cause: ExitCause) -> None:
        state = self.sides[name].state
        old = data.draw(st.integers(-1, state.generation - 1))
        news: list[life.Event] = [
            life.Spawned(old),
            life.SpawnFailed(old, cause, 0.5),
            life.Progressed(old),
            life.Computed(old),
            life.Allowed(old, 60.0),
            life.CanaryMissed(old, 60.0),
            life.Diagnosed(old, moved=False),
            life.Answered(old),
            life.ProbeMissed(old, "late"),
            life.Exited(old, cause),
            life.TreeGone(old),
            life.Released(old, 0.5),
            life.Condemned(old, cause),
            life.Measured(old, waiting=1.0, preempted=1.0, capacity=1),
            life.LeaseEnded(old, served=False, tokens=40, failed=True),
        ]
        self.post(name, data.draw(st.sampled_from(news)))
        assert self.sides[name].state is state

    # --- operators, memory, time -------------------------------------------------------------------------------------

    @rule(name=names)
    def an_operator_starts_it(self, name: str) -> None:
        self.sides[name].stopped_by_operator = False
        self.post(name, life.StartAsked("an operator asked"))
        self.pump()

    @rule(name=names)
    def it_is_configured_again(self, name: str) -> None:
        side = self.sides[name]
        side.stopped_by_operator = False
        self.post(name, life.Readmitted("configured again"))
        assert side.state.want is not Want.DOWN
        self.pump()

    @rule(name=names)
    def an_operator_stops_it(self, name: str) -> None:
        self.sides[name].stopped_by_operator = True
        self.post(name, life.StopAsked("an operator asked", Want.DOWN))
        assert self.sides[name].state.want is Want.DOWN
        self.pump()

    @rule(name=names)
    def an_operator_restarts_it(self, name: str) -> None:
        self.sides[name].stopped_by_operator = False
        self.post(name, life.RestartAsked("an operator asked"))
        self.pump()

    @rule(name=names)
    def an_operator_resets_it(self, name: str) -> None:
        self.post(name, life.ResetAsked("an operator asked"))
        self.pump()

    @rule(name=names)
    def memory_is_tight(self, name: str) -> None:
        self.post(name, life.StopAsked("memory is tight", Want.ON_DEMAND))
        self.pump()

    @rule(name=names, paused=st.booleans())
    def its_dispatch_is_paused(self, name: str, *, paused: bool) -> None:
        self.sides[name].paused = paused
        self.pump()

    @precondition(lambda self: not any(side.crowded for side in self.sides.values()))
    @rule(name=names, held=st.sampled_from(["", "another program holds the memory"]))
    def there_is_no_place(self, name: str, held: str) -> None:
        self.sides[name].crowded, self.sides[name].held = True, held
        self.pump()

    @precondition(lambda self: any(side.crowded for side in self.sides.values()))
    @rule(name=names)
    def there_is_a_place(self, name: str) -> None:
        side = self.sides[name]
        side.crowded, side.held = False, ""
        if side.process is not None:
            side.process.placed = True
        self.pump()

    @rule(name=names, latency_s=st.sampled_from([None, 0.1, 2.0]))
    def its_latency_is_known(self, name: str, latency_s: float | None) -> None:
        self.sides[name].latency_s = latency_s
        self.pump()

    @rule(seconds=st.sampled_from([0.1, 1.0, 10.0, 60.0, 1000.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        for name, side in self.sides.items():
            if side.state.deadline is not None and side.state.deadline <= self.now:
                self.post(name, life.DeadlineReached())
        for job in self.queue.expired(self.now):
            self.queue.take(job.id)
            self.move(job.id, JobEvent.FAILED)
        self.pump()

    @initialize(begin=st.sampled_from(BEGINNINGS), strategy=st.sampled_from(Strategy))
    def the_daemon_starts(self, begin: str, strategy: Strategy) -> None:
        """Most stories begin where most can happen."""
        self.routes = {name: replace(route, strategy=strategy) for name, route in ROUTES.items()}
        for name in BACKENDS if begin != "asleep" else ():
            self.post(name, life.StartAsked("the configuration says so"))
        for name in BACKENDS if begin in {"ready", "working", "on trial"} else ():
            self.spawned(name)
            self.tell(name, life.Answered(self.process(name).generation))
        for model in ROUTES if begin == "working" else ():
            self.submit(model, Priority.NORMAL, 900.0, 40)
        if begin == "on trial":
            self.submit("c", Priority.NORMAL, 900.0, 40)
            self.all_its_attempts_fail("right", again=False)
            self.time_passes(1.0)
            self.submit("c", Priority.NORMAL, 900.0, 40)

    # --- what must always hold ---------------------------------------------------------------------------------------

    @invariant()
    def no_job_is_lost_or_doubled(self) -> None:
        waiting = [job.id for job in self.queue]
        assert len(waiting) == len(set(waiting)) == len(self.queue)
        assert not set(waiting) & set(self.running)
        where = {JobStatus.QUEUED: set(waiting), JobStatus.RUNNING: set(self.running)}
        for status, found in where.items():
            assert {job_id for job_id, is_now in self.status.items() if is_now is status} == found
        assert all(status in {*where, *TERMINAL} for status in self.status.values())

    @invariant()
    def slots_are_never_exceeded(self) -> None:
        counts: dict[tuple[str, int], int] = {}
        for lease in self.running.values():
            place = (lease.backend, lease.generation)
            counts[place] = counts.get(place, 0) + 1
        for (name, _), count in counts.items():
            assert count <= POLICIES[name].slots
        for name, side in self.sides.items():
            if side.process is not None and side.process.tree:
                assert side.state.in_flight == counts.get((name, side.state.generation), 0)
                held = [r.job.tokens for r in self.running.values() if r.backend == name]
                assert side.state.tokens == sum(held)

    @invariant()
    def what_the_state_says_of_the_process_is_true(self) -> None:
        for side in self.sides.values():
            phase, process = side.state.phase, side.process
            if phase in {Phase.STOPPED, Phase.BACKOFF, Phase.PARKED}:
                assert process is None
            elif phase is Phase.STARTING:
                assert process is not None
                assert process.spawning
            elif phase in {Phase.LOADING, Phase.READY, Phase.SUSPECT, Phase.DRAINING}:
                assert process is not None
                assert process.leader
            assert process is None or process.generation == side.state.generation

    @invariant()
    def parked_for_good_is_parked_for_good(self) -> None:
        for side in self.sides.values():
            if side.state.phase is Phase.PARKED:
                assert side.state.cause is not None
                assert side.state.cause.permanent == (side.state.deadline is None)

    @invariant()
    def a_ready_backend_is_woken_for_its_work_and_for_its_breaker(self) -> None:
        for side in self.sides.values():
            state = side.state
            if state.phase is Phase.READY:
                dues = (state.work_due, state.busy_due, state.open_until)
                due = [moment for moment in dues if moment is not None]
                assert state.deadline == min(due, default=None)
                assert (state.work_due is not None) is (state.in_flight > 0)
                assert bool(state.reason) is state.on_trial
                assert state.open_until is None or state.on_trial
                assert not state.trial or state.trial in self.running

    @invariant()
    def nobody_waits_in_front_of_a_free_slot(self) -> None:
        for job in self.queue.first_of_each_model():
            route = self.routes[job.model]
            fresh = [name for name in route.backends if name not in job.avoid]
            # Strict order has a job wait for a busy backend although the next one has room.
            for name in fresh[:1] if route.strategy is Strategy.PRIORITY else fresh:
                assert not self.view(self.sides[name], job.tokens).has_room

    @invariant()
    def nobody_waits_for_what_sleeps(self) -> None:
        for job in self.queue.first_of_each_model():
            outlooks = {self.view(self.sides[n], job.tokens).outlook for n in self.routes[job.model].backends}
            assert Outlook.ASLEEP not in outlooks or outlooks & {Outlook.COMING, Outlook.BUSY} or job.avoid

    # --- the end -----------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        """Once the world is kind every job ends."""
        for name in BACKENDS:
            self.its_dispatch_is_paused(name, paused=False)
            self.there_is_a_place(name)
            self.an_operator_starts_it(name)
        for _ in range(40):
            if not len(self.queue) and not self.running:
                break
            for name in BACKENDS:
                self.be_kind(name)
        assert not len(self.queue), "a job waits for ever"
        assert not self.running, "a job runs for ever"
        self.no_job_is_lost_or_doubled()

    def be_kind(self, name: str) -> None:
        if self.sides[name].state.phase in {Phase.STOPPED, Phase.PARKED, Phase.BACKOFF}:
            self.an_operator_starts_it(name)
        if name in self.where(spawning):
            self.spawned(name)
        if self.sides[name].state.phase in {Phase.LOADING, Phase.SUSPECT}:
            self.tell(name, life.Answered(self.process(name).generation))
        for lease in [r for r in self.running.values() if r.backend == name]:
            self.end_lease(lease, served=True)
            self.pump()
        if (pause_ends := self.sides[name].state.open_until) is not None:
            self.now = max(self.now, pause_ends)
            self.tell(name, life.DeadlineReached())
        if self.sides[name].state.phase in {Phase.STOPPING, Phase.UNKILLABLE}:
            self.let_it_go(name)

    def let_it_go(self, name: str) -> None:
        if name in self.where(leading):
            self.leader_ends(name, CAUSES[-1])
        if name in self.where(orphaned):
            self.tree_gone(name)
        self.released(name, 0.5)


def test_no_order_of_events_breaks_a_promise() -> None:
    seen: set[Phase] = set()
    done: set[JobStatus] = set()
    breaker_seen: set[str] = set()

    class Watched(World):
        def teardown(self) -> None:
            super().teardown()
            seen.update(self.seen)
            done.update(self.status.values())
            breaker_seen.update(self.breaker_seen)

    run_state_machine_as_test(Watched, settings=settings(max_examples=400, stateful_step_count=70))

    assert seen == set(Phase), "the stories never got there"
    assert done == TERMINAL - {JobStatus.ABANDONED}
    assert breaker_seen == {"opened", "opened again", "closed"}
