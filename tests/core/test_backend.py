"""The life of a backend, told in scenarios: times, reasons, the ladder, the budget of failures."""

from dataclasses import dataclass, field, replace

import pytest

from supervisord.core import life
from supervisord.core.backend import room, step
from supervisord.core.exits import CauseKind, ExitCause
from supervisord.core.job import FailureReason
from supervisord.core.life import Effect
from supervisord.core.restart import RestartPolicy
from supervisord.core.state import After, BackendState, LifePolicy, Phase, StopStep, Want

CRASH = ExitCause(CauseKind.CRASH, "ended by signal 11")
OOM = ExitCause(CauseKind.GPU_OOM, "GPU out of memory")
PERMANENT = ExitCause(CauseKind.CONFIGURATION, "no such model", permanent=True)
ASKED = ExitCause(CauseKind.ASKED, "stopped as asked")
EXHAUSTED = ExitCause(CauseKind.EXHAUSTED, "cannot start it: Too many open files")

DRAW = 0.5


@dataclass
class Story:
    """A state that is told one event after another."""

    policy: LifePolicy
    state: BackendState = field(default_factory=BackendState)
    now: float = 100.0

    def tell(self, *events: life.Event) -> tuple[Effect, ...]:
        """The effects of the last of `events`."""
        effects: tuple[Effect, ...] = ()
        for event in events:
            self.state, effects = step(self.state, event, self.policy, self.now)
        return effects

    @property
    def generation(self) -> int:
        return self.state.generation

    def becomes_ready(self) -> None:
        self.tell(life.Spawned(self.generation), life.Answered(self.generation))
        assert self.state.phase is Phase.READY

    def dies(self, cause: ExitCause) -> tuple[Effect, ...]:
        return self.tell(
            life.Exited(self.generation, cause), life.TreeGone(self.generation), life.Released(self.generation, DRAW)
        )

    def passes(self, seconds: float) -> None:
        self.now += seconds

    def deadline_passes(self) -> tuple[Effect, ...]:
        assert self.state.deadline is not None
        self.now = self.state.deadline
        return self.tell(life.DeadlineReached())


@pytest.fixture
def story() -> Story:
    return Story(LifePolicy(slots=2, rungs=2, restart=RestartPolicy(max_failures=3)))


@pytest.fixture
def ready(story: Story) -> Story:
    story.tell(life.StartAsked("the configuration says so"))
    story.becomes_ready()
    return story


# --- starting --------------------------------------------------------------------------------------------------------


def test_a_start_spawns_the_next_generation_and_says_why(story: Story) -> None:
    assert story.tell(life.StartAsked("an operator asked")) == (life.Spawn(1, 0),)
    assert (story.state.phase, story.state.want, story.state.reason) == (Phase.STARTING, Want.UP, "an operator asked")


def test_a_load_may_take_for_ever_as_long_as_it_moves(story: Story) -> None:
    story.tell(life.WakeAsked("job 1"), life.Spawned(1))
    for _ in range(100):
        story.passes(story.policy.load_stall_s - 1)
        story.tell(life.DeadlineReached(), life.Progressed(1))
    assert story.state.phase is Phase.LOADING


def test_a_load_that_stands_still_is_ended_and_counts_as_a_failure(story: Story) -> None:
    story.tell(life.WakeAsked("job 1"), life.Spawned(1))
    story.passes(1)
    assert story.deadline_passes() == (
        life.FailLeases(1, FailureReason.BACKEND_HUNG, "no sign of loading for 300 s"),
        life.Terminate(1),
    )
    story.dies(ExitCause(CauseKind.LOAD_STALL, "killed because loading stood still"))
    assert (story.state.phase, story.state.reason) == (Phase.BACKOFF, "no sign of loading for 300 s")


def test_a_spawn_that_fails_is_judged_at_once(story: Story) -> None:
    story.tell(life.StartAsked("x"), life.SpawnFailed(1, CRASH, DRAW))
    assert (story.state.phase, story.state.cause, len(story.state.failures)) == (Phase.BACKOFF, CRASH, 1)


# --- serving ---------------------------------------------------------------------------------------------------------


def test_slots_bound_what_is_in_flight(ready: Story) -> None:
    assert ready.tell(life.LeaseAsked("a")) == (life.GrantLease("a", 1),)
    assert ready.tell(life.LeaseAsked("b")) == (life.GrantLease("b", 1),)
    assert ready.tell(life.LeaseAsked("c")) == (life.RefuseLease("c"),)
    ready.tell(life.LeaseEnded(1, served=True))
    assert ready.tell(life.LeaseAsked("c")) == (life.GrantLease("c", 1),)


def test_a_second_lease_does_not_lengthen_the_wait_for_the_first(ready: Story) -> None:
    ready.tell(life.LeaseAsked("a"))
    due = ready.state.deadline
    ready.passes(60)
    ready.tell(life.LeaseAsked("b"))
    assert ready.state.deadline == due == 100.0 + ready.policy.progress_s


def test_work_that_moves_is_never_taken_for_a_hang(ready: Story) -> None:
    ready.tell(life.LeaseAsked("a"))
    for _ in range(50):
        ready.passes(ready.policy.progress_s - 1)
        ready.tell(life.DeadlineReached(), life.Progressed(1))
    assert ready.state.phase is Phase.READY


def test_work_that_stands_still_is_a_hang_although_probes_are_answered(ready: Story) -> None:
    ready.tell(life.LeaseAsked("a"))
    ready.passes(60)
    ready.tell(life.Answered(1))
    assert ready.deadline_passes() == (life.Diagnose(1),)
    assert (ready.now, ready.state.phase) == (220.0, Phase.SUSPECT)
    assert ready.tell(life.Answered(1), life.Diagnosed(1, moved=False, evidence=("it sleeps",))) == (
        life.FailLeases(1, FailureReason.BACKEND_HUNG, "work in flight, and nothing moved for 120 s"),
        life.Terminate(1),
    )
    cause = ready.state.cause
    assert cause is not None
    assert (cause.kind, cause.evidence) == (CauseKind.HANG, ("it sleeps",))


def test_an_idle_backend_is_not_hung(ready: Story) -> None:
    ready.tell(life.LeaseAsked("a"), life.LeaseEnded(1, served=True), life.Progressed(1))
    assert ready.state.deadline is None


def test_a_missed_probe_stops_new_work_and_an_answer_brings_it_back(ready: Story) -> None:
    ready.tell(life.LeaseAsked("a"), life.ProbeMissed(1, "no answer in 2 s"))
    assert (ready.state.phase, ready.state.reason) == (Phase.SUSPECT, "no answer in 2 s")
    assert ready.tell(life.LeaseAsked("b")) == (life.RefuseLease("b"),)
    ready.tell(life.Answered(1))
    assert (ready.state.phase, ready.state.in_flight) == (Phase.READY, 1)
    assert ready.state.ready_since == 100.0


def test_a_suspect_whose_tokens_flow_is_slow_and_not_hung(ready: Story) -> None:
    ready.tell(life.LeaseAsked("a"), life.ProbeMissed(1, "no answer in 2 s"))
    for _ in range(20):
        ready.passes(ready.policy.probe_hang_s - 1)
        ready.tell(life.DeadlineReached(), life.Progressed(1))
    assert ready.state.phase is Phase.SUSPECT


def test_a_suspect_that_stays_silent_is_ended(ready: Story) -> None:
    ready.tell(life.ProbeMissed(1, "no answer in 2 s"))
    assert ready.deadline_passes() == (life.Diagnose(1),)
    lost, end = ready.tell(life.Diagnosed(1, moved=False))
    assert lost == life.FailLeases(1, FailureReason.BACKEND_HUNG, "no answer for 30 s: no answer in 2 s")
    assert end == life.Terminate(1)


def test_the_leader_dies_and_the_rest_of_its_tree_is_killed(ready: Story) -> None:
    assert ready.tell(life.Exited(1, CRASH)) == (life.Kill(1),)
    assert ready.state.stop is StopStep.KILL


# --- stopping --------------------------------------------------------------------------------------------------------


def test_term_then_kill_then_the_truth(ready: Story) -> None:
    assert ready.tell(life.StopAsked("an operator asked", Want.DOWN)) == (life.Terminate(1),)
    assert ready.state.deadline == ready.now + ready.policy.term_s
    assert ready.deadline_passes() == (life.Kill(1),)
    assert ready.state.deadline == ready.now + ready.policy.kill_s
    assert ready.deadline_passes() == ()
    assert (ready.state.phase, ready.state.reason) == (Phase.UNKILLABLE, "a process of it survives SIGKILL")


def test_a_drain_waits_for_the_last_lease_only(ready: Story) -> None:
    ready.tell(life.LeaseAsked("a"), life.LeaseAsked("b"))
    assert ready.tell(life.StopAsked("for good", Want.DOWN)) == ()
    assert ready.tell(life.LeaseAsked("c")) == (life.RefuseLease("c"),)
    assert ready.tell(life.LeaseEnded(1, served=True)) == ()
    assert ready.tell(life.LeaseEnded(1, served=True)) == (life.Terminate(1),)
    assert ready.state.reason == "for good"


def test_a_drain_is_bounded_and_says_what_it_cost(ready: Story) -> None:
    ready.tell(life.LeaseAsked("a"), life.StopAsked("for good", Want.DOWN))
    assert ready.state.deadline == ready.now + ready.policy.drain_s
    assert ready.deadline_passes() == (life.FailLeases(1, FailureReason.DRAINING, "for good"), life.Terminate(1))


def test_nothing_starts_before_the_memory_is_measured_free(ready: Story) -> None:
    ready.tell(life.RestartAsked("again"), life.Exited(1, ASKED))
    assert ready.tell(life.Released(1, DRAW)) == (), "part of the tree is still there"
    assert ready.tell(life.TreeGone(1)) == ()
    assert (ready.state.phase, ready.state.deadline) == (Phase.STOPPING, None)
    assert ready.tell(life.Released(1, DRAW)) == (life.Spawn(2, 0),)


def test_a_stop_while_it_is_being_spawned_reaches_the_process(story: Story) -> None:
    story.tell(life.StartAsked("x"), life.StopAsked("no", Want.DOWN))
    assert story.tell(life.Spawned(1)) == (life.Terminate(1),)


def test_a_spawn_that_outlives_the_patience_of_a_stop_is_killed_when_it_appears(story: Story) -> None:
    story.tell(life.StartAsked("x"), life.StopAsked("no", Want.DOWN))
    story.deadline_passes()
    assert story.state.stop is StopStep.KILL
    assert story.tell(life.Spawned(1)) == (life.Kill(1),)
    story.deadline_passes()
    assert story.state.phase is Phase.UNKILLABLE
    assert story.tell(life.Spawned(1)) == (life.Kill(1),)
    story.tell(life.TreeGone(1), life.Released(1, DRAW))
    assert story.state.phase is Phase.STOPPED


@pytest.mark.parametrize("deadlines", [0, 1, 2])
def test_a_spawn_that_fails_after_the_stop_leaves_nothing_to_wait_for(story: Story, deadlines: int) -> None:
    story.tell(life.StartAsked("x"), life.StopAsked("no", Want.DOWN))
    for _ in range(deadlines):
        story.deadline_passes()
    story.tell(life.SpawnFailed(1, CRASH, DRAW))
    assert (story.state.phase, story.state.failures) == (Phase.STOPPED, ())


def test_a_start_that_found_nothing_left_is_tried_again_for_ever_and_counts_for_nothing() -> None:
    story = Story(LifePolicy(restart=RestartPolicy(max_failures=2, cap_s=60.0)))
    story.tell(life.StartAsked("x"))
    waits = []
    for _ in range(12):
        assert story.state.phase is Phase.STARTING
        story.tell(life.SpawnFailed(story.generation, EXHAUSTED, DRAW))
        assert (story.state.phase, story.state.failures, story.state.restarts) == (Phase.BACKOFF, (), 0)
        assert story.state.reason == EXHAUSTED.summary
        assert story.state.deadline is not None
        waits.append(story.state.deadline - story.now)
        story.deadline_passes()
    assert waits[:4] == [0.5, 1.0, 2.0, 4.0]
    assert max(waits) == 30.0, "half of the cap, as it was drawn"
    story.becomes_ready()
    story.dies(CRASH)
    assert (story.state.phase, len(story.state.failures)) == (Phase.BACKOFF, 1), "its own failures count as ever"


def test_a_parked_one_that_found_nothing_left_is_tried_again() -> None:
    story = Story(LifePolicy(restart=RestartPolicy(max_failures=1)))
    story.tell(life.StartAsked("x"))
    story.dies(CRASH)
    assert story.state.phase is Phase.PARKED
    story.deadline_passes()
    story.tell(life.SpawnFailed(story.generation, EXHAUSTED, DRAW))
    assert story.state.phase is Phase.BACKOFF


@pytest.mark.parametrize("kind", [CauseKind.CRASH, CauseKind.HANG, CauseKind.KILLED, CauseKind.EXITED])
def test_a_server_elsewhere_can_only_be_out_of_reach(kind: CauseKind) -> None:
    story = Story(LifePolicy(elsewhere=True))
    story.tell(life.StartAsked("x"))
    story.becomes_ready()
    story.tell(life.Exited(story.generation, ExitCause(kind, "connection refused", evidence=("asked twice",))))
    assert story.state.cause == ExitCause(CauseKind.UNREACHABLE, "connection refused", evidence=("asked twice",))


def test_a_server_elsewhere_that_is_silent_is_out_of_reach_and_not_hung() -> None:
    story = Story(LifePolicy(elsewhere=True))
    story.tell(life.StartAsked("x"))
    story.becomes_ready()
    story.tell(life.ProbeMissed(1, "no answer"))
    story.deadline_passes()
    story.tell(life.Diagnosed(1, moved=False))
    assert story.state.cause is not None
    assert (story.state.phase, story.state.cause.kind) == (Phase.STOPPING, CauseKind.UNREACHABLE)


def test_what_is_wrong_with_a_server_elsewhere_is_kept() -> None:
    story = Story(LifePolicy(elsewhere=True))
    story.tell(life.StartAsked("x"), life.Spawned(1), life.Exited(1, PERMANENT))
    assert story.state.cause == PERMANENT


def test_the_unkillable_one_may_still_go(ready: Story) -> None:
    ready.tell(life.LeaseAsked("a"), life.Exited(1, CRASH))
    ready.deadline_passes()
    assert ready.state.phase is Phase.UNKILLABLE
    assert ready.tell(life.ResetAsked("once more")) == (life.Kill(1),)
    ready.tell(life.TreeGone(1))
    assert (ready.state.phase, ready.state.stop) == (Phase.STOPPING, StopStep.RELEASE)
    ready.tell(life.Released(1, DRAW))
    assert (ready.state.phase, ready.state.in_flight) == (Phase.BACKOFF, 0)


def test_the_verdict_that_was_waited_for_stands_unless_the_exit_says_more(ready: Story) -> None:
    ready.tell(life.LeaseAsked("a"))
    ready.deadline_passes()
    ready.deadline_passes()
    ready.tell(life.Exited(1, ExitCause(CauseKind.HANG, "killed because it no longer answered")))
    assert ready.state.cause
    assert ready.state.cause.summary == "work in flight, and nothing moved for 120 s"
    ready.tell(life.Exited(1, OOM))
    assert ready.state.cause is OOM


def test_what_was_asked_to_go_is_not_blamed_for_what_came_before(ready: Story) -> None:
    ready.dies(CRASH)
    ready.deadline_passes()
    ready.becomes_ready()
    ready.tell(life.StopAsked("enough", Want.DOWN))
    assert ready.state.cause is None


# --- who may start it, and when --------------------------------------------------------------------------------------


def test_a_stop_by_an_operator_outlasts_every_request(ready: Story) -> None:
    ready.tell(life.StopAsked("maintenance", Want.DOWN))
    ready.tell(life.WakeAsked("job 1"), life.StopAsked("memory is tight", Want.ON_DEMAND), life.WakeAsked("job 2"))
    ready.dies(ASKED)
    assert ready.tell(life.WakeAsked("job 3")) == ()
    assert (ready.state.phase, ready.state.want) == (Phase.STOPPED, Want.DOWN)
    assert ready.tell(life.StartAsked("done")) == (life.Spawn(2, 0),)


def test_leaving_for_memory_ends_at_the_next_request(ready: Story) -> None:
    ready.tell(life.StopAsked("memory is tight", Want.ON_DEMAND))
    ready.dies(ASKED)
    assert (ready.state.phase, ready.state.want) == (Phase.STOPPED, Want.ON_DEMAND)
    assert ready.tell(life.WakeAsked("job 1")) == (life.Spawn(2, 0),)


@pytest.mark.parametrize("event", [life.WakeAsked("job 1"), life.StartAsked("an operator asked")])
def test_a_wish_that_comes_while_it_stops_is_kept(ready: Story, event: life.Event) -> None:
    ready.tell(life.LeaseAsked("a"), life.StopAsked("memory is tight", Want.ON_DEMAND), event)
    assert ready.state.after is After.AGAIN
    ready.tell(life.LeaseEnded(1, served=True))
    assert ready.dies(ASKED) == (life.Spawn(2, 0),)


def test_a_wish_does_not_turn_a_crash_into_a_restart_without_a_pause(ready: Story) -> None:
    ready.tell(life.Exited(1, CRASH), life.WakeAsked("job 1"), life.StartAsked("an operator asked"))
    assert ready.state.after is After.JUDGE


def test_a_parked_backend_keeps_its_reason_when_it_only_has_to_make_room(story: Story) -> None:
    story.tell(life.StartAsked("x"), life.SpawnFailed(1, PERMANENT, DRAW))
    parked = story.state
    story.tell(life.StopAsked("memory is tight", Want.ON_DEMAND))
    assert story.state == parked
    story.tell(life.StopAsked("an operator asked", Want.DOWN))
    assert story.state.phase is Phase.STOPPED


def test_a_restart_forgives_and_starts_what_was_stopped(story: Story) -> None:
    story.state = replace(story.state, want=Want.DOWN, failures=(90.0,), streak=1)
    assert story.tell(life.RestartAsked("again")) == (life.Spawn(1, 0),)
    assert (story.state.want, story.state.failures, story.state.streak) == (Want.UP, (), 0)


def test_a_crash_during_a_drain_does_what_the_drain_was_for(ready: Story) -> None:
    ready.tell(life.LeaseAsked("a"), life.RestartAsked("again"))
    lost = life.FailLeases(1, FailureReason.BACKEND_DIED, CRASH.summary)
    assert ready.dies(CRASH) == (lost, life.Spawn(2, 0))
    assert ready.state.failures == ()


# --- failures --------------------------------------------------------------------------------------------------------


def test_pauses_grow_and_the_budget_parks(ready: Story) -> None:
    for failures in (1, 2):
        ready.dies(CRASH)
        assert ready.state.phase is Phase.BACKOFF
        assert ready.state.deadline == ready.now + 2 ** (failures - 1) * DRAW
        assert ready.deadline_passes() == (life.Spawn(failures + 1, 0),)
        ready.becomes_ready()
    ready.dies(CRASH)
    assert ready.state.phase is Phase.PARKED
    assert ready.state.reason == "3 failures within 600 s; the last: ended by signal 11"
    assert ready.state.deadline == ready.now + ready.policy.restart.rearm_after_s


def test_exits_one_second_after_ready_are_parked_although_each_served(ready: Story) -> None:
    for _ in range(3):
        ready.tell(life.LeaseAsked("a"), life.LeaseEnded(ready.generation, served=True))
        ready.passes(1)
        ready.dies(CRASH)
        if ready.state.phase is Phase.BACKOFF:
            ready.deadline_passes()
            ready.becomes_ready()
    assert ready.state.phase is Phase.PARKED


def test_a_re_armed_backend_has_one_try(ready: Story) -> None:
    test_pauses_grow_and_the_budget_parks(ready)
    assert len(ready.deadline_passes()) == 1
    ready.becomes_ready()
    ready.dies(CRASH)
    assert ready.state.phase is Phase.PARKED


def test_minutes_of_service_forgive_what_was_before(ready: Story) -> None:
    ready.dies(CRASH)
    ready.deadline_passes()
    ready.becomes_ready()
    ready.tell(life.LeaseAsked("a"), life.LeaseEnded(2, served=True))
    ready.passes(ready.policy.restart.stable_after_s)
    ready.dies(CRASH)
    assert (len(ready.state.failures), ready.state.streak) == (1, 1)


@pytest.mark.parametrize(("served", "seconds"), [(False, 120.0), (True, 119.9)])
def test_minutes_without_service_and_service_without_minutes_do_not(
    ready: Story, *, served: bool, seconds: float
) -> None:
    ready.dies(CRASH)
    ready.deadline_passes()
    ready.becomes_ready()
    ready.tell(life.LeaseAsked("a"), life.LeaseEnded(2, served=served))
    ready.passes(seconds)
    ready.dies(CRASH)
    assert (len(ready.state.failures), ready.state.streak) == (2, 2)


def test_failures_outside_the_window_do_not_count(ready: Story) -> None:
    for _ in range(6):
        ready.dies(CRASH)
        ready.deadline_passes()
        ready.becomes_ready()
        ready.passes(ready.policy.restart.window_s)
    assert len(ready.state.failures) == 1


def test_what_cannot_heal_parks_at_once_and_for_good(ready: Story) -> None:
    ready.dies(PERMANENT)
    assert (ready.state.phase, ready.state.reason) == (Phase.PARKED, "no such model")
    assert ready.state.deadline is None
    assert ready.tell(life.DeadlineReached()) == ()
    assert ready.tell(life.ResetAsked("corrected")) == (life.Spawn(2, 0),)


# --- the ladder ------------------------------------------------------------------------------------------------------


def test_out_of_memory_goes_down_a_rung_at_once_and_parks_below_the_last(ready: Story) -> None:
    assert ready.dies(OOM) == (life.Spawn(2, 1),)
    ready.becomes_ready()
    assert ready.dies(OOM) == (life.Spawn(3, 2),)
    ready.becomes_ready()
    ready.dies(OOM)
    assert ready.state.phase is Phase.PARKED
    assert ready.state.reason == "GPU out of memory; no smaller footprint is left"
    assert ready.deadline_passes() == (life.Spawn(4, 2),)


def test_other_failures_stay_on_their_rung(ready: Story) -> None:
    ready.dies(OOM)
    ready.becomes_ready()
    ready.dies(CRASH)
    assert ready.deadline_passes() == (life.Spawn(3, 1),)


@pytest.mark.parametrize("busy", [True, False])
def test_a_reset_tries_the_full_footprint_now(ready: Story, *, busy: bool) -> None:
    ready.dies(OOM)
    ready.becomes_ready()
    if busy:
        ready.tell(life.LeaseAsked("a"))
    ready.tell(life.ResetAsked("memory was freed"))
    assert ready.state.phase is (Phase.DRAINING if busy else Phase.STOPPING)
    effects = ready.dies(ASKED)
    assert effects[-1] == life.Spawn(3, 0)
    assert [type(effect) for effect in effects[:-1]] == [life.FailLeases] * busy


def test_a_reset_while_a_smaller_footprint_is_being_spawned_does_not_mislabel_it(ready: Story) -> None:
    ready.dies(OOM)
    assert ready.state.phase is Phase.STARTING
    assert ready.tell(life.ResetAsked("memory was freed")) == (life.Terminate(2),)
    ready.tell(life.Spawned(2))
    assert ready.dies(ASKED) == (life.Spawn(3, 0),)


def test_a_reset_at_the_full_footprint_disturbs_nobody(ready: Story) -> None:
    assert ready.tell(life.ResetAsked("x")) == ()
    assert ready.state.phase is Phase.READY


# --- work without progress, over several requests --------------------------------------------------------------------


def _ready_with_stall(policy: LifePolicy) -> BackendState:
    """Ready, idle, after a request that its client gave up after 100 s without progress."""
    busy, _ = step(BackendState(phase=Phase.READY, generation=1), life.LeaseAsked("a"), policy, 0.0)
    idle, _ = step(busy, life.LeaseEnded(1, served=False), policy, 100.0)
    return idle


def test_clients_that_give_up_do_not_keep_a_hung_server_alive() -> None:
    policy = LifePolicy(progress_s=120.0)
    idle = _ready_with_stall(policy)
    assert (idle.deadline, idle.stalled_s) == (None, 100.0)
    again, _ = step(idle, life.LeaseAsked("b"), policy, 500.0)
    assert again.deadline == 520.0
    given_up, _ = step(again, life.LeaseEnded(1, served=False), policy, 515.0)
    last, _ = step(given_up, life.LeaseAsked("c"), policy, 600.0)
    assert last.deadline == 612.0, "every request gets a tenth of the time at the least"
    hung, effects = step(last, life.DeadlineReached(), policy, 612.0)
    assert (hung.phase, effects) == (Phase.SUSPECT, (life.Diagnose(1),))


def test_progress_or_a_served_request_forgets_the_stall() -> None:
    policy = LifePolicy(progress_s=120.0)
    busy, _ = step(_ready_with_stall(policy), life.LeaseAsked("b"), policy, 500.0)
    moved, _ = step(busy, life.Progressed(1), policy, 510.0)
    assert (moved.deadline, moved.stalled_s) == (630.0, 0.0)
    served, _ = step(busy, life.LeaseEnded(1, served=True), policy, 510.0)
    assert (served.deadline, served.stalled_s) == (None, 0.0)


def test_a_flapping_probe_does_not_renew_the_time_without_progress() -> None:
    policy = LifePolicy(progress_s=120.0)
    busy, _ = step(BackendState(phase=Phase.READY, generation=1), life.LeaseAsked("a"), policy, 0.0)
    suspect, _ = step(busy, life.ProbeMissed(1, "late"), policy, 90.0)
    ready, _ = step(suspect, life.Answered(1), policy, 91.0)
    assert ready.deadline == 121.0


def test_room_asked_for_while_a_failure_is_being_cleared_keeps_the_verdict() -> None:
    policy = LifePolicy()
    cause = ExitCause(CauseKind.CRASH, "it crashed")
    dying, _ = step(BackendState(phase=Phase.READY, want=Want.UP, generation=1), life.Exited(1, cause), policy, 0.0)
    asked, _ = step(dying, life.StopAsked("left", Want.ON_DEMAND), policy, 0.1)
    assert (asked.after, asked.want) == (After.JUDGE, Want.ON_DEMAND)


def test_who_waits_on_a_server_that_ran_out_of_memory_is_told_so(ready: Story) -> None:
    ready.tell(life.LeaseAsked("a"))
    lost = life.FailLeases(1, FailureReason.BACKEND_OUT_OF_MEMORY, OOM.summary)
    assert ready.dies(OOM)[0] == lost


# --- tokens in flight ------------------------------------------------------------------------------------------------


@pytest.fixture
def roomy() -> Story:
    """Ready, with more slots than tokens for them."""
    story = Story(LifePolicy(slots=10, token_budget=1000))
    story.tell(life.StartAsked("x"))
    story.becomes_ready()
    return story


def granted(story: Story, tokens: int) -> bool:
    foreseen = room(story.state, story.policy, tokens)
    (effect,) = story.tell(life.LeaseAsked("job", tokens))
    assert isinstance(effect, life.GrantLease) is foreseen
    return foreseen


def test_tokens_bound_what_is_in_flight(roomy: Story) -> None:
    assert granted(roomy, 600)
    assert not granted(roomy, 401)
    assert granted(roomy, 400)
    assert not granted(roomy, 1)
    assert granted(roomy, 0), "nobody counted its tokens"
    roomy.tell(life.LeaseEnded(1, served=True, tokens=600))
    assert roomy.state.tokens == 400
    assert granted(roomy, 600)


def test_a_request_beyond_the_whole_budget_goes_alone(roomy: Story) -> None:
    assert granted(roomy, 5000)
    assert not granted(roomy, 1)
    roomy.tell(life.LeaseEnded(1, served=False, tokens=5000))
    assert (roomy.state.tokens, granted(roomy, 1), granted(roomy, 5000)) == (0, True, False)


def test_nothing_stays_held_when_nothing_is_in_flight(roomy: Story) -> None:
    granted(roomy, 600)
    roomy.tell(life.LeaseEnded(1, served=True, tokens=100))
    assert roomy.state.tokens == 0
    granted(roomy, 100)
    granted(roomy, 100)
    roomy.tell(life.LeaseEnded(1, served=True, tokens=900))
    assert roomy.state.tokens == 0


def test_the_servers_own_capacity_is_the_budget_where_none_is_configured(ready: Story) -> None:
    granted(ready, 900)
    assert granted(ready, 900), "nothing is known"
    ready.tell(life.LeaseEnded(1, served=True, tokens=900))
    ready.tell(life.Measured(1, waiting=0, preempted=0, capacity=1000))
    assert not granted(ready, 101)
    ready.tell(life.Measured(1, waiting=0, preempted=0))
    assert ready.state.capacity == 1000, "it said nothing this time"
    ready.tell(life.Measured(1, waiting=0, preempted=0, capacity=1001))
    assert granted(ready, 101)


def test_a_configured_budget_beats_what_the_server_reports(roomy: Story) -> None:
    roomy.tell(life.Measured(1, waiting=0, preempted=0, capacity=100_000))
    granted(roomy, 600)
    assert not granted(roomy, 401)


def test_a_new_generation_holds_nothing_and_has_told_nothing(roomy: Story) -> None:
    granted(roomy, 600)
    roomy.tell(life.Measured(1, waiting=0, preempted=0, capacity=500))
    roomy.passes(5)
    granted(roomy, 100)
    roomy.tell(life.Measured(1, waiting=3, preempted=0), life.LeaseEnded(1, served=False, tokens=100, failed=True))
    roomy.tell(life.RestartAsked("again"))
    roomy.dies(CRASH)
    told = roomy.state
    assert (told.tokens, told.capacity, told.share, told.eased, told.failed_in_row) == (0, None, 1.0, roomy.now, 0)


# --- congestion ------------------------------------------------------------------------------------------------------


def measured(story: Story, after: float, *, waiting: float = 0.0, preempted: float = 0.0) -> float:
    story.passes(after)
    story.tell(life.Measured(story.generation, waiting, preempted))
    return story.state.share


@pytest.mark.parametrize("sign", ["waiting", "preempted"])
def test_a_congested_server_gets_less_at_once_and_more_again_slowly(roomy: Story, sign: str) -> None:
    assert measured(roomy, 2.0, **{sign: 1.0}) == pytest.approx(0.7)
    assert measured(roomy, 1.9, **{sign: 1.0}) == pytest.approx(0.7), "the step before has not shown yet"
    assert measured(roomy, 0.1, **{sign: 1.0}) == pytest.approx(0.49)
    assert measured(roomy, 9.9) == pytest.approx(0.49)
    assert measured(roomy, 0.1) == pytest.approx(0.59)
    assert measured(roomy, 9.9) == pytest.approx(0.59)
    assert measured(roomy, 0.1) == pytest.approx(0.69)
    for _ in range(4):
        measured(roomy, 10.0)
    assert roomy.state.share == 1.0


def test_a_share_is_of_slots_and_of_tokens(roomy: Story) -> None:
    measured(roomy, 2.0, waiting=1)
    assert granted(roomy, 600)
    assert not granted(roomy, 101)
    assert granted(roomy, 100)
    roomy.tell(life.LeaseEnded(1, served=True, tokens=100), life.LeaseEnded(1, served=True, tokens=600))
    assert [granted(roomy, 0) for _ in range(8)] == [True] * 7 + [False]


def test_congestion_never_brings_it_to_a_standstill(roomy: Story) -> None:
    for _ in range(20):
        measured(roomy, 2.0, preempted=5)
    assert roomy.state.share == pytest.approx(0.1)
    assert granted(roomy, 1000)
    assert not granted(roomy, 0)
    measured(roomy, 9.0, waiting=1)
    assert measured(roomy, 9.0) == pytest.approx(0.1), "calm counts from the last sign of congestion"


def test_a_suspect_is_measured_too_and_others_are_not(roomy: Story) -> None:
    roomy.tell(life.ProbeMissed(1, "late"))
    assert measured(roomy, 2.0, waiting=1) == pytest.approx(0.7)
    roomy.tell(life.StopAsked("enough", Want.DOWN))
    assert measured(roomy, 2.0, waiting=1) == pytest.approx(0.7)


# --- back in the configuration ---------------------------------------------------------------------------------------

REMOVED = life.StopAsked("removed from the configuration", Want.DOWN)
READMITTED = life.Readmitted("added to the configuration again")


def test_what_comes_back_on_demand_waits_for_a_request(ready: Story) -> None:
    ready.tell(REMOVED)
    ready.dies(ASKED)
    assert ready.tell(READMITTED) == ()
    assert (ready.state.phase, ready.state.want) == (Phase.STOPPED, Want.ON_DEMAND)
    assert ready.state.reason == READMITTED.why
    assert ready.tell(life.WakeAsked("job")) == (life.Spawn(2, 0),)


@pytest.mark.parametrize("drains", [True, False])
@pytest.mark.parametrize("wish", [life.WakeAsked("job"), life.StartAsked("an operator asked")])
def test_what_comes_back_while_it_still_leaves_can_be_asked_for(ready: Story, wish: life.Event, drains: bool) -> None:
    if drains:
        ready.tell(life.LeaseAsked("a"))
    ready.tell(REMOVED)
    assert ready.state.phase is (Phase.DRAINING if drains else Phase.STOPPING)
    assert ready.tell(READMITTED) == ()
    assert (ready.state.want, ready.state.after) == (Want.ON_DEMAND, After.STAY)
    assert ready.state.reason == REMOVED.why, "that is still why it ends what it does"
    ready.tell(wish)
    assert ready.dies(ASKED)[-1] == life.Spawn(2, 0)


@pytest.mark.parametrize("phase", [Phase.DRAINING, Phase.STOPPING, Phase.UNKILLABLE])
def test_an_operator_brings_back_what_was_stopped_for_good(ready: Story, phase: Phase) -> None:
    ready.tell(life.LeaseAsked("a"), REMOVED)
    while ready.state.phase is not phase:
        ready.deadline_passes()
    ready.tell(life.StartAsked("an operator asked"))
    assert (ready.state.want, ready.state.after) == (Want.UP, After.AGAIN)
    if phase is Phase.UNKILLABLE:
        ready.tell(life.TreeGone(1))
        effects = ready.tell(life.Released(1, DRAW))
    else:
        effects = ready.dies(ASKED)
    assert effects[-1] == life.Spawn(2, 0)


@pytest.mark.parametrize("want", [Want.UP, Want.ON_DEMAND])
def test_nothing_else_is_changed_by_it(want: Want) -> None:
    state = BackendState(want=want, reason="as it was")
    assert step(state, READMITTED, LifePolicy(), 100.0) == (state, ())


# --- a ladder that became shorter ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rungs", "rung"), [(1, 1), (0, 0), (9, 2)])
def test_a_start_is_never_on_a_rung_that_is_not_there(story: Story, rungs: int, rung: int) -> None:
    story.state = replace(story.state, rung=2)
    story.policy = replace(story.policy, rungs=rungs)
    assert story.tell(life.WakeAsked("job")) == (life.Spawn(1, rung),)
    assert story.state.rung == rung


# --- the breaker -----------------------------------------------------------------------------------------------------

FAILED = life.LeaseEnded(1, served=False, failed=True, draw=DRAW)
LEFT = life.LeaseEnded(1, served=False)
SERVED = life.LeaseEnded(1, served=True)


def ended(job: str, event: life.LeaseEnded) -> life.LeaseEnded:
    return replace(event, job_id=job)


@pytest.fixture
def remote() -> Story:
    story = Story(LifePolicy(slots=4, breaker=3, restart=RestartPolicy(max_failures=9)))
    story.tell(life.WakeAsked("job 1"))
    story.becomes_ready()
    return story


def opens(remote: Story) -> Story:
    remote.tell(*[life.LeaseAsked("a"), FAILED] * 3)
    assert remote.state.open_until == remote.now + DRAW
    return remote


def on_trial(remote: Story) -> Story:
    opens(remote).deadline_passes()
    assert (remote.state.on_trial, remote.state.open_until) == (True, None)
    return remote


def test_failures_in_a_row_open_the_breaker_and_what_is_in_flight_goes_on(remote: Story) -> None:
    for job in "abcd":
        remote.tell(life.LeaseAsked(job))
    remote.passes(1)
    remote.tell(FAILED, FAILED)
    assert remote.tell(FAILED) == ()
    assert (remote.state.phase, remote.state.in_flight) == (Phase.READY, 1)
    assert remote.state.reason == "3 requests failed in a row: no more are sent for a while"
    assert (remote.state.deadline, remote.state.open_until) == (remote.now + DRAW, remote.now + DRAW)
    assert remote.tell(life.LeaseAsked("e")) == (life.RefuseLease("e"),)
    assert remote.deadline_passes() == ()
    assert remote.state.reason == "3 requests failed in a row: tried with one at a time"
    assert (remote.state.phase, remote.state.deadline) == (Phase.READY, 100.0 + remote.policy.progress_s)


def test_a_stream_that_began_before_never_notices(remote: Story) -> None:
    remote.tell(life.LeaseAsked("stream"))
    for _ in range(8):
        granted(remote, 0)
        remote.tell(FAILED)
        while remote.state.open_until is not None:
            assert remote.deadline_passes() == ()
            remote.tell(life.Progressed(1))
    assert (remote.state.phase, remote.state.in_flight) == (Phase.READY, 1)


def test_work_that_stands_still_is_ended_also_while_the_breaker_is_open(remote: Story) -> None:
    remote.tell(life.LeaseAsked("stream"))
    opens(remote)
    remote.passes(remote.policy.progress_s)
    assert remote.tell(life.DeadlineReached()) == (life.Diagnose(1),)
    lost, _ = remote.tell(life.Diagnosed(1, moved=False))
    assert isinstance(lost, life.FailLeases)
    assert (remote.state.phase, remote.state.open_until) == (Phase.STOPPING, 100.0 + DRAW)
    remote.dies(ASKED)
    remote.deadline_passes()
    remote.becomes_ready()
    assert (remote.state.on_trial, remote.state.open_until, remote.state.deadline) == (True, None, None)
    assert remote.state.reason == "3 requests failed in a row: tried with one at a time"


def test_to_stop_and_to_wake_it_does_not_end_the_pause(remote: Story) -> None:
    until = opens(remote).state.open_until
    remote.tell(life.StopAsked("unloaded", Want.ON_DEMAND))
    remote.dies(ASKED)
    remote.tell(life.WakeAsked("job"))
    remote.becomes_ready()
    assert (remote.state.open_until, remote.state.deadline) == (until, until)
    assert not granted(remote, 0)


def test_progress_does_not_put_off_the_end_of_the_pause(remote: Story) -> None:
    remote.tell(life.LeaseAsked("stream"))
    opens(remote).passes(DRAW / 2)
    remote.tell(life.Progressed(1))
    assert remote.state.deadline == remote.state.open_until
    assert remote.state.work_due == remote.now + remote.policy.progress_s


def test_of_requests_that_fail_together_one_opens_the_breaker_and_the_rest_changes_nothing(remote: Story) -> None:
    for job in "abcd":
        remote.tell(life.LeaseAsked(job))
    remote.tell(FAILED, FAILED, FAILED)
    until = remote.state.open_until
    remote.passes(0.1)
    remote.tell(FAILED)
    assert (remote.state.open_until, remote.state.deadline, remote.state.streak) == (until, until, 1)


@pytest.mark.parametrize("answers_after", [0.0, 10.0])
def test_a_suspect_opens_it_too_and_it_is_open_when_it_answers_again(remote: Story, answers_after: float) -> None:
    remote.tell(*[life.LeaseAsked("a"), FAILED] * 2, life.LeaseAsked("a"), life.ProbeMissed(1, "late"))
    remote.tell(FAILED)
    assert (remote.state.phase, remote.state.reason) == (Phase.SUSPECT, "late")
    assert remote.state.deadline == remote.now + remote.policy.probe_hang_s
    remote.passes(answers_after)
    remote.tell(life.Answered(1))
    assert remote.state.on_trial
    assert (remote.state.open_until is None) == bool(answers_after)
    assert remote.state.deadline == remote.state.open_until


def test_a_success_between_them_closes_the_count_and_a_client_that_left_is_neither(remote: Story) -> None:
    for last in (SERVED, LEFT, FAILED):
        remote.tell(*[life.LeaseAsked("a"), FAILED] * 2, life.LeaseAsked("a"), last)
        if last is LEFT:
            assert (remote.state.open_until, remote.state.failed_in_row) == (None, 2)
            remote.tell(life.LeaseAsked("a"), SERVED)
    assert remote.state.open_until is not None


def test_after_its_breaker_one_request_at_a_time_until_one_succeeds(remote: Story) -> None:
    trial = on_trial(remote)
    assert granted(trial, 0)
    assert not granted(trial, 0)
    trial.tell(LEFT)
    assert trial.state.on_trial, "a client that left has proved nothing"
    granted(trial, 0)
    trial.tell(SERVED)
    assert (trial.state.reason, trial.state.streak, trial.state.failed_in_row) == ("", 0, 0)
    assert [granted(trial, 0) for _ in range(5)] == [True] * 4 + [False]


def test_it_is_tried_beside_what_began_before_and_with_one_at_a_time(remote: Story) -> None:
    remote.tell(life.LeaseAsked("old"), life.LeaseAsked("older"))
    trial = on_trial(remote)
    assert trial.tell(life.LeaseAsked("tried")) == (life.GrantLease("tried", 1),)
    trial.tell(ended("old", LEFT))
    assert trial.tell(life.LeaseAsked("next")) == (life.RefuseLease("next"),)
    trial.tell(ended("tried", LEFT))
    assert trial.tell(life.LeaseAsked("next")) == (life.GrantLease("next", 1),)


def test_slots_bound_a_trial_too(remote: Story) -> None:
    remote.policy = replace(remote.policy, slots=1)
    trial = on_trial(remote)
    assert granted(trial, 0)
    trial.state = replace(trial.state, trial="")
    assert not granted(trial, 0)


@pytest.mark.parametrize("is_open", [True, False])
def test_what_began_before_and_succeeds_closes_it(remote: Story, is_open: bool) -> None:
    remote.tell(life.LeaseAsked("old"))
    trial = opens(remote) if is_open else on_trial(remote)
    trial.tell(ended("old", SERVED))
    assert (trial.state.on_trial, trial.state.open_until, trial.state.deadline) == (False, None, None)


def test_a_failure_on_trial_is_enough_and_pauses_grow(remote: Story) -> None:
    trial = on_trial(remote)
    for doubled in (2, 4, 8):
        granted(trial, 0)
        assert trial.tell(FAILED) == ()
        assert trial.state.open_until == trial.now + doubled * DRAW
        trial.deadline_passes()
    assert trial.state.reason == "6 requests failed in a row: tried with one at a time"


@pytest.mark.parametrize("event", [life.ResetAsked("corrected"), life.RestartAsked("corrected")])
@pytest.mark.parametrize("is_open", [True, False])
def test_an_operator_who_has_corrected_it_closes_its_breaker(remote: Story, event: life.Event, is_open: bool) -> None:
    trial = opens(remote) if is_open else on_trial(remote)
    trial.tell(event)
    assert (trial.state.on_trial, trial.state.open_until, trial.state.failed_in_row) == (False, None, 0)
    assert trial.state.phase is Phase.STOPPING or (trial.state.deadline, trial.state.reason) == (None, "")


def test_what_drains_has_no_breaker(remote: Story) -> None:
    for job in "abcd":
        remote.tell(life.LeaseAsked(job))
    remote.tell(FAILED, FAILED, life.StopAsked("x", Want.ON_DEMAND), FAILED)
    assert (remote.state.phase, remote.state.open_until) == (Phase.DRAINING, None)
    assert remote.tell(SERVED) == (life.Terminate(1),)


def test_without_a_breaker_failures_are_only_counted(ready: Story) -> None:
    ready.tell(*[life.LeaseAsked("a"), FAILED] * 50)
    assert (ready.state.phase, ready.state.failed_in_row) == (Phase.READY, 50)
    ready.tell(life.LeaseAsked("a"), life.LeaseEnded(1, served=True))
    assert ready.state.failed_in_row == 0


# --- a broken tree, a lost device ------------------------------------------------------------------------------------

WORKER = ExitCause(CauseKind.KERNEL_OOM, "VLLM::Worker was killed by the kernel: host out of memory")
KILLED = ExitCause(CauseKind.KILLED, "killed from outside by signal 9 (SIGKILL)")


def test_a_tree_that_lost_a_worker_is_killed_at_once_and_goes_down_the_ladder(ready: Story) -> None:
    ready.tell(life.LeaseAsked("a"))
    assert ready.tell(life.Condemned(1, WORKER)) == (
        life.FailLeases(1, FailureReason.BACKEND_OUT_OF_MEMORY, WORKER.summary),
        life.Kill(1),
    )
    ready.tell(life.LeaseEnded(1, served=False, failed=True))
    assert ready.dies(KILLED) == (life.Spawn(2, 1),)
    assert ready.state.cause == WORKER


def test_a_tree_that_is_broken_otherwise_died(ready: Story) -> None:
    lost, _ = ready.tell(life.Condemned(1, CRASH))
    assert lost == life.FailLeases(1, FailureReason.BACKEND_DIED, CRASH.summary)
    ready.dies(KILLED)
    assert (ready.state.phase, ready.state.reason) == (Phase.BACKOFF, CRASH.summary)


def test_a_worker_lost_while_it_stops_ends_the_politeness_and_nothing_else(ready: Story) -> None:
    ready.tell(life.StopAsked("enough", Want.DOWN))
    assert ready.tell(life.Condemned(1, WORKER)) == (life.Kill(1),)
    assert ready.tell(life.Condemned(1, WORKER)) == ()
    ready.dies(KILLED)
    assert (ready.state.phase, ready.state.cause) == (Phase.STOPPED, WORKER)


def test_a_drain_whose_tree_breaks_does_what_it_was_for(ready: Story) -> None:
    ready.tell(life.LeaseAsked("a"), life.RestartAsked("again"), life.Condemned(1, CRASH))
    assert ready.dies(KILLED)[-1] == life.Spawn(2, 0)


def test_a_lost_device_parks_and_burns_no_backoff(ready: Story) -> None:
    ready.tell(life.LeaseAsked("a"))
    assert ready.tell(life.DeviceLost("gpu0 is lost")) == (
        life.FailLeases(1, FailureReason.BACKEND_DIED, "gpu0 is lost"),
        life.Kill(1),
    )
    ready.tell(life.LeaseEnded(1, served=False))
    ready.dies(OOM)
    assert (ready.state.phase, ready.state.reason, ready.state.failures) == (Phase.PARKED, "gpu0 is lost", ())
    assert ready.state.cause == ExitCause(CauseKind.DEVICE_LOST, "gpu0 is lost")
    assert ready.state.deadline == ready.now + ready.policy.restart.rearm_after_s
    parked = ready.state
    ready.tell(life.DeviceLost("gpu0 is still lost"))
    assert ready.state is parked


def test_the_word_of_the_process_on_its_device_counts_the_same(ready: Story) -> None:
    ready.dies(ExitCause(CauseKind.DEVICE_LOST, "the GPU was lost: Xid 79"))
    assert (ready.state.phase, ready.state.failures) == (Phase.PARKED, ())


@pytest.mark.parametrize("want", [Want.UP, Want.ON_DEMAND])
def test_what_sleeps_is_parked_too_when_its_device_is_lost(story: Story, want: Want) -> None:
    story.state = replace(story.state, want=want)
    story.tell(life.DeviceLost("gpu0 is lost"))
    assert (story.state.phase, story.state.deadline) == (Phase.PARKED, story.now + story.policy.restart.rearm_after_s)
    assert story.tell(life.WakeAsked("job 1")) == ()


def test_what_an_operator_stopped_stays_stopped_whatever_happens_to_its_device(ready: Story) -> None:
    ready.tell(life.LeaseAsked("a"), life.StopAsked("enough", Want.DOWN), life.DeviceLost("gpu0 is lost"))
    ready.dies(KILLED)
    assert ready.state.phase is Phase.STOPPED
    stopped = ready.state
    ready.tell(life.DeviceLost("gpu0 is lost"))
    assert ready.state is stopped


def test_a_device_lost_during_a_stop_ends_the_politeness_and_the_way_back(ready: Story) -> None:
    ready.tell(life.RestartAsked("again"))
    assert ready.tell(life.DeviceLost("gpu0 is lost")) == (life.Kill(1),)
    assert ready.tell(life.DeviceLost("gpu0 is lost")) == ()
    ready.dies(KILLED)
    assert ready.state.phase is Phase.PARKED


def test_a_process_stuck_in_the_driver_is_parked_once_it_is_gone(ready: Story) -> None:
    ready.tell(life.Exited(1, CRASH))
    ready.deadline_passes()
    ready.tell(life.DeviceLost("gpu0 is lost"))
    assert ready.state.phase is Phase.UNKILLABLE
    ready.tell(life.TreeGone(1), life.Released(1, DRAW))
    assert (ready.state.phase, ready.state.reason) == (Phase.PARKED, "gpu0 is lost")
