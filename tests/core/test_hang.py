"""Hung, slow, or at work: what is seen of a backend, what follows, and how long each of it may last."""

from dataclasses import replace

import pytest

from supervisord.core import life
from supervisord.core.backend import room, step
from supervisord.core.exits import CauseKind
from supervisord.core.hang import (
    DIAGNOSIS_S,
    UNKNOWN_CONTEXT,
    Look,
    Sign,
    allowance,
    busiest,
    cores,
    demand_is_due,
    keenest,
    longest_silence,
    prompt_tokens,
    sign,
    within_context,
)
from supervisord.core.job import FailureReason
from supervisord.core.life import Effect
from supervisord.core.memory import GpuProcess, GpuReading, GpuSample, SensorState
from supervisord.core.state import BackendState, Doubt, LifePolicy, Phase

POLICY = LifePolicy(slots=2, probe_hang_s=30.0, progress_s=120.0, busy_s=900.0, first_token_s=200.0)


class Story:
    """A ready backend of one generation, told one event after another; `working`: with a request in flight."""

    def __init__(self, policy: LifePolicy = POLICY, *, working: bool = True) -> None:
        self.policy, self.now = policy, 1000.0
        self.state = BackendState(phase=Phase.READY, generation=1, ready_since=900.0)
        if working:
            self.tell(life.LeaseAsked("a"))

    def tell(self, *events: life.Event) -> tuple[Effect, ...]:
        """The effects of the last of `events`."""
        effects: tuple[Effect, ...] = ()
        for event in events:
            self.state, effects = step(self.state, event, self.policy, self.now)
        return effects

    def lives(self, seconds: float, *seen: life.Event, every: float = 1.0) -> bool:
        """Let time pass, with these events at every look and each deadline at its own moment.

        Whether it got through it without being killed, or even diagnosed.
        """
        end = self.now + seconds
        looks = self.now + every
        while self.now < end:
            due = self.state.deadline
            self.now = min(end, looks, end if due is None else max(due, self.now))
            if due is not None and self.now >= due and self.tell(life.DeadlineReached()):
                return False
            if self.now >= looks:
                self.tell(*seen)
                looks += every
        return True

    def dies_after(self, *seen: life.Event, every: float = 1.0) -> float:
        """Seconds until it is diagnosed, with these events at every look."""
        began = self.now
        assert not self.lives(100_000, *seen, every=every)
        return self.now - began


# --- what is seen ----------------------------------------------------------------------------------------------------


def look(at: float = 0.0, **changes: object) -> Look:
    return replace(Look(at, 5.0, work=10.0, kv_used=0.5, cpu_s=100.0, gpu=0.0), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Sign.NOTHING),
        ({"bytes_at": 6.0}, Sign.MOVED),
        ({"held_by_client": True}, Sign.MOVED),
        ({"work": 11.0}, Sign.MOVED),
        ({"kv_used": 0.6}, Sign.MOVED),
        ({"work": None, "kv_used": None}, Sign.NOTHING),  # its counters do not answer any more
        ({"work": 9.0}, Sign.NOTHING),
        ({"cpu_s": 101.0}, Sign.COMPUTES),  # half a core of two seconds
        ({"cpu_s": 100.9}, Sign.NOTHING),
        ({"cpu_s": None}, Sign.NOTHING),
        ({"gpu": 0.2}, Sign.COMPUTES),
        ({"gpu": 0.19}, Sign.NOTHING),
        ({"gpu": None}, Sign.NOTHING),
        ({"cpu_s": 900.0, "work": 11.0}, Sign.MOVED),
    ],
)
def test_what_two_looks_tell(changes: dict[str, object], expected: Sign) -> None:
    assert sign(look(), look(2.0, **changes)) is expected


def test_a_thread_that_wants_a_processor_is_at_work_where_it_gets_any() -> None:
    """On a machine with too few of them half a core is more than it may get."""
    assert sign(look(), look(2.0, cpu_s=100.2), runnable=True) is Sign.COMPUTES
    assert sign(look(), look(2.0, cpu_s=100.2)) is Sign.NOTHING
    assert sign(look(), look(2.0, cpu_s=100.05), runnable=True) is Sign.NOTHING, "that was the answer to a probe"


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({1: 5.0, 2: 1.0}, {1: 5.1, 2: 2.4}, Sign.COMPUTES),  # the second wanted to run for 1.4 s of 2
        ({1: 5.0, 2: 1.0}, {1: 6.3, 2: 2.3}, Sign.NOTHING),  # many that look around now and then are not one at work
        ({1: 5.0}, {1: 5.0, 2: 90.0}, Sign.NOTHING),  # a new one: since when it has done so is not known
        ({1: 5.0, 2: 1.0}, {1: 5.0}, Sign.NOTHING),
        ({}, {1: 5.0}, Sign.NOTHING),
        ({1: 5.0}, {}, Sign.NOTHING),
    ],
)
def test_a_thread_that_always_wants_to_run_is_at_work_although_it_may_not(
    before: dict[int, float], after: dict[int, float], expected: Sign
) -> None:
    """On a crowded machine a server that computes may get a hundredth of a processor."""
    assert sign(look(demand=before), look(2.0, cpu_s=100.02, demand=after, demand_at=2.0)) is expected


def test_what_threads_want_is_compared_over_a_while() -> None:
    assert keenest(look(demand={1: 0.0}), look(0.4, demand={1: 0.4}, demand_at=0.4)) is None
    assert keenest(look(demand={1: 0.0}), look(0.5, demand={1: 0.5}, demand_at=0.5)) == 1.0
    assert keenest(look(), look(0.5, demand={1: 0.5}, demand_at=0.5)) is None
    patient, hasty = replace(POLICY, progress_s=20.0), replace(POLICY, progress_s=4.0)
    read = look(demand={1: 0.0})
    assert [demand_is_due(read, look(at), patient) for at in (4.9, 5.0)] == [False, True]
    assert [demand_is_due(read, look(at), hasty) for at in (0.9, 1.0)] == [False, True]
    assert demand_is_due(None, look(0.1), POLICY)
    assert demand_is_due(look(), look(0.1), POLICY), "the kernel did not tell, or it moved"


def test_cpu_time_is_compared_over_a_while() -> None:
    assert cores(look(), look(0.4, cpu_s=900.0)) is None
    assert cores(look(), look(0.5, cpu_s=101.0)) == 2.0
    assert cores(look(cpu_s=None), look(9.0)) is None
    assert cores(look(), look(1.0, cpu_s=40.0)) == 0.0, "a process of the tree has ended, and is not counted any more"


def gpu(uuid: str, load: float | None, state: SensorState = SensorState.OK) -> GpuSample:
    return GpuSample(0, uuid, "Card", state, 0.0, utilization=load)


def test_its_busiest_gpu_counts_and_what_is_not_known_now_does_not() -> None:
    cards = (gpu("a", 0.1), gpu("b", 0.7), gpu("c", 1.0), gpu("d", None), gpu("e", 1.0, SensorState.STALE))
    reading = GpuReading(SensorState.OK, cards)
    assert busiest(reading, ("a", "b"), ()) == 0.7
    assert busiest(reading, ("d", "e"), ()) is None
    assert busiest(reading, (), ()) is None


def used_by(load: float | None, **busy: float | None) -> GpuReading:
    """One GPU; the processes that hold memory of it are called p1, p2…, and keep it so busy."""
    users = tuple(GpuProcess(int(name[1:]), 1, name, share) for name, share in busy.items())
    return GpuReading(SensorState.OK, (replace(gpu("a", load), processes=users),))


@pytest.mark.parametrize(
    ("reading", "expected"),
    [
        (used_by(0.9, p1=0.0, p7=0.9), 0.0),  # a neighbour's work
        (used_by(0.9, p1=0.3, p2=0.2, p7=0.4), 0.5),
        (used_by(1.0, p1=0.8, p2=0.8), 1.0),
        (used_by(None, p1=0.3), 0.3),
        (used_by(0.9, p7=0.9), 0.9),  # its pids are of another namespace: any of them may be its own
        (used_by(0.9, p1=None, p7=None), 0.9),  # the driver does not tell them apart
        (used_by(0.9, p1=0.3, p2=None), 0.9),
        (used_by(0.9, p1=0.0, p7=0.0), 0.9),  # somebody is at work, and it does not say who
        (used_by(0.1, p1=0.0, p7=0.0), 0.0),
        (used_by(None, p1=0.0), 0.0),
    ],
)
def test_what_its_neighbours_do_on_a_gpu_does_not_count_where_that_is_told(
    reading: GpuReading, expected: float
) -> None:
    """Processes 1 and 2 are its own."""
    assert busiest(reading, ("a",), {1, 2}) == pytest.approx(expected)


def test_a_prompt_is_as_long_as_its_bytes_make_it_and_never_longer_than_was_counted() -> None:
    assert prompt_tokens(4000) == 1000
    assert prompt_tokens(4000, counted=300) == 300
    assert prompt_tokens(4000, counted=5000) == 1000
    assert allowance(1500, POLICY) == 300.0
    assert allowance(1500, replace(POLICY, first_token_s=0.0)) == 0.0


def test_a_picture_puts_the_end_of_a_hang_off_by_hours_at_the_most() -> None:
    assert within_context(10**6, 4096) == 4096
    assert within_context(10**6, None) == UNKNOWN_CONTEXT
    assert within_context(10, None) == 10


def test_a_connection_that_is_silent_is_given_up_after_whatever_its_backend_may_take() -> None:
    assert longest_silence(1500, 0, POLICY) == 900.0 + 300.0 + DIAGNOSIS_S + 60.0
    assert longest_silence(0, 1000, POLICY) == 900.0 + 2000.0 + DIAGNOSIS_S + 60.0, "one that comes as a whole"
    assert longest_silence(0, 0, replace(POLICY, busy_s=1.0)) == 120.0 + DIAGNOSIS_S + 60.0


# --- how long it may last --------------------------------------------------------------------------------------------


def test_one_that_does_nothing_is_found_at_the_short_bound() -> None:
    assert Story().dies_after() == 120.0


def test_one_that_spins_is_found_at_the_long_bound_and_no_sooner() -> None:
    assert Story().dies_after(life.Computed(1)) == 901.0, "it has been seen to compute after one second"


def test_a_slow_one_that_moves_once_in_a_long_while_is_never_taken_for_hung() -> None:
    """A batch of a long prompt takes minutes, and meanwhile it only computes."""
    story = Story()
    for _ in range(20):
        assert story.lives(890.0, life.Computed(1))
        story.tell(life.Progressed(1))
    assert (story.state.phase, story.state.toiled_s) == (Phase.READY, 0.0)


def test_it_may_rest_between_two_stretches_of_work() -> None:
    story = Story()
    for _ in range(7):
        assert story.lives(10.0, life.Computed(1))
        assert story.lives(115.0)
    assert story.dies_after() <= 120.0


def test_the_long_bound_is_never_the_shorter_one() -> None:
    story = Story(replace(POLICY, progress_s=600.0, busy_s=60.0))
    assert story.dies_after(life.Computed(1)) >= 600.0


def test_without_work_nothing_is_due_whatever_it_computes() -> None:
    story = Story(working=False)
    story.tell(life.Computed(1))
    assert (story.state.deadline, story.state.busy_due) == (None, None)


def test_clients_that_leave_in_time_do_not_keep_one_that_spins_alive() -> None:
    story = Story()
    asked = 0.0
    while story.lives(300.0, life.Computed(1)):
        asked += 300.0
        story.tell(life.LeaseEnded(1, served=False))
        assert story.state.deadline is None
        story.now += 3600.0  # idle time is no time of work
        story.tell(life.LeaseAsked("again"))
        assert asked < 1200.0
    assert asked == 900.0
    assert story.state.doubt is Doubt.STALLED


def test_a_served_request_forgets_all_of_it() -> None:
    story = Story()
    story.lives(300.0, life.Computed(1))
    story.tell(life.LeaseEnded(1, served=True))
    state = story.state
    assert (state.toiled_s, state.stalled_s, state.busy_due, state.deadline) == (0, 0, None, None)


def test_a_served_request_forgets_what_the_one_before_it_lost() -> None:
    story = Story()
    story.lives(300.0, life.Computed(1))
    story.tell(life.LeaseEnded(1, served=False))
    assert story.state.toiled_s == 299.0
    story.tell(life.LeaseAsked("b"), life.LeaseEnded(1, served=True))
    assert story.state.toiled_s == 0.0


def test_a_second_request_of_one_that_spins_gets_no_more_time() -> None:
    story = Story()
    story.lives(890.0, life.Computed(1))
    due = story.state.deadline
    story.tell(life.LeaseAsked("b"))
    assert story.state.deadline == due == story.state.busy_due
    assert story.dies_after(life.Computed(1)) == pytest.approx(11.0)


# --- a long prompt ---------------------------------------------------------------------------------------------------


def test_until_the_answer_to_a_long_prompt_begins_both_bounds_are_longer() -> None:
    story = Story()
    story.tell(life.Allowed(1, 400.0))
    assert story.dies_after() == 220.0, "a quarter of it: one that is at work mostly shows it"
    assert story.state.reason == "work in flight, and nothing moved for 220 s"
    toiling = Story()
    toiling.tell(life.Allowed(1, 400.0))
    assert toiling.dies_after(life.Computed(1)) == 1301.0
    assert toiling.state.reason == "work in flight, and nothing moved for 1300 s, although it computes"


def test_once_it_has_begun_the_bounds_are_what_they_were() -> None:
    story = Story()
    story.tell(life.Allowed(1, 400.0), life.Computed(1))
    story.lives(60.0)
    story.tell(life.Allowed(1, 0.0))
    assert story.dies_after() == 60.0


def test_a_patience_that_comes_late_still_saves_it() -> None:
    """The watch was held up: the prompt was told of only when its time seemed to be over."""
    story = Story()
    assert story.dies_after() == 120.0
    story.tell(life.Allowed(1, 240.0))
    assert (story.state.phase, story.state.doubt) == (Phase.READY, None)
    assert story.dies_after() == 60.0
    story.tell(life.Allowed(1, 120.0))
    assert story.state.doubt is Doubt.STALLED, "less is no reason"


@pytest.mark.parametrize("doubt", list(Doubt))
def test_whatever_was_doubted_an_answer_clears_it(doubt: Doubt) -> None:
    story = Story()
    story.dies_after()
    story.state = replace(story.state, doubt=doubt)
    story.tell(life.LeaseEnded(1, served=True))
    assert (story.state.doubt, story.state.stalled_s) == (None, 0.0)
    assert story.state.phase is (Phase.SUSPECT if doubt is Doubt.SILENT else Phase.READY)


# --- the diagnosis ---------------------------------------------------------------------------------------------------


def test_while_it_is_diagnosed_it_gets_no_work_and_its_clients_still_wait() -> None:
    story = Story()
    story.dies_after()
    assert (story.state.phase, story.state.in_flight) == (Phase.SUSPECT, 1)
    assert not room(story.state, POLICY, 0)


@pytest.mark.parametrize("event", [life.Progressed(1), life.Diagnosed(1, moved=True)])
def test_what_moves_after_all_is_not_killed(event: life.Event) -> None:
    story = Story()
    story.dies_after()
    assert story.tell(event) == ()
    assert (story.state.phase, story.state.doubt) == (Phase.READY, None)
    assert story.dies_after() == 120.0, "its patience is whole again"


def test_a_diagnosis_that_hangs_too_does_not_keep_it_alive() -> None:
    story = Story()
    story.dies_after()
    began = story.now
    assert not story.lives(60.0)
    assert story.now - began == DIAGNOSIS_S
    assert story.state.phase is Phase.STOPPING
    assert story.state.cause is not None
    assert story.state.cause.evidence == ("its diagnosis did not end within 10 s",)


def test_a_diagnosis_that_comes_late_kills_nobody() -> None:
    story = Story()
    story.dies_after()
    story.tell(life.Progressed(1))
    assert story.tell(life.Diagnosed(1, moved=False)) == ()
    assert story.state.phase is Phase.READY


def test_one_that_computes_after_all_has_the_time_of_one_that_does() -> None:
    """The watch may see too little of it: a machine with too few processors, a probe that takes all of its time."""
    story = Story()
    began, diagnoses = story.now, 0
    while story.state.doubt is None:
        story.dies_after()
        story.tell(life.Computed(1))
        diagnoses += 1
    assert diagnoses == 9
    assert 900.0 <= story.now - began <= 120.0 + 900.0 + 90.0, "its first stretch, and the shortest chance"
    assert story.tell(life.Diagnosed(1, moved=False)) != ()


def test_a_silent_one_that_moves_stays_suspect_and_one_that_answers_is_ready() -> None:
    story = Story(working=False)
    story.tell(life.ProbeMissed(1, "no answer in 2 s"))
    assert story.dies_after() == 30.0
    assert (story.state.doubt, story.state.reason) == (Doubt.SILENT, "no answer in 2 s")
    story.tell(life.Diagnosed(1, moved=True))
    assert (story.state.phase, story.state.doubt) == (Phase.SUSPECT, None)
    assert story.dies_after() == 30.0
    story.tell(life.Answered(1))
    assert story.state.phase is Phase.READY


def test_one_that_answers_no_probe_while_it_computes_has_the_time_of_one_that_computes() -> None:
    """A server of one thread, as many scripts are."""
    story = Story()
    story.tell(life.ProbeMissed(1, "no answer in 2 s"))
    assert story.dies_after(life.Computed(1)) == pytest.approx(901.0)
    assert story.tell(life.Computed(1)) == ()
    assert story.state.doubt is Doubt.SILENT, "that time is over"
    assert story.tell(life.Diagnosed(1, moved=False, evidence=("spins",)))[0] == life.FailLeases(
        1, FailureReason.BACKEND_HUNG, "no answer for 30 s: no answer in 2 s"
    )


def test_one_that_is_silent_and_computes_for_a_client_that_has_left_has_the_long_bound() -> None:
    story = Story(working=False)
    story.tell(life.ProbeMissed(1, "no answer in 2 s"))
    assert story.dies_after(life.Computed(1)) == 901.0
    story = Story(working=False)
    story.tell(life.ProbeMissed(1, "no answer in 2 s"))
    assert story.dies_after() == 30.0, "and one that does nothing is found as ever"


def test_a_hung_server_that_answers_its_probe_is_hung() -> None:
    story = Story()
    story.dies_after()
    story.tell(life.Answered(1))
    assert story.state.doubt is Doubt.STALLED


# --- the canary ------------------------------------------------------------------------------------------------------


def test_an_idle_one_that_answers_no_canary_is_diagnosed_and_killed() -> None:
    story = Story(working=False)
    assert story.tell(life.CanaryMissed(1, 120.0)) == (life.Diagnose(1),)
    story.tell(life.Answered(1))
    assert story.state.doubt is Doubt.MUTE
    story.tell(life.Diagnosed(1, moved=False, evidence=("it sleeps",)))
    assert story.state.phase is Phase.STOPPING
    assert story.state.cause is not None
    assert story.state.cause.kind is CauseKind.HANG
    assert story.state.cause.summary == "idle, and what it was asked got no answer for 120 s"


def test_a_canary_says_nothing_of_one_that_works_or_is_not_ready() -> None:
    story = Story()
    assert story.tell(life.CanaryMissed(1, 120.0)) == ()
    story.tell(life.ProbeMissed(1, "late"))
    before = story.state
    assert story.tell(life.CanaryMissed(1, 120.0)) == ()
    assert story.state is before


def test_one_that_computes_instead_of_answering_its_canaries_is_excused_for_the_long_bound() -> None:
    story, missed = Story(working=False), 0
    while True:
        story.tell(life.CanaryMissed(1, 120.0))
        missed += 1
        story.tell(life.Computed(1))
        if story.state.doubt is not None:
            break
        assert (story.state.phase, story.state.deadline) == (Phase.READY, None)
    assert missed == 8, "900 s of 120 s each"


def test_a_canary_that_is_answered_forgets_those_that_were_not() -> None:
    story = Story(working=False)
    story.tell(life.CanaryMissed(1, 120.0), life.Computed(1), life.Progressed(1))
    assert (story.state.toiled_s, story.state.deadline) == (0.0, None)
