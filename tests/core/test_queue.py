"""The queue: who is next, who is turned away, who has waited for too long."""

import random
from dataclasses import replace
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from supervisord.core.errors import QueueFullError
from supervisord.core.job import Job, Priority, Submission
from supervisord.core.queue import RETRY_LONGEST_S, RETRY_SHORTEST_S, JobQueue, QueuePolicy
from supervisord.core.turns import Key

HIGH, NORMAL, BATCH = Priority.HIGH, Priority.NORMAL, Priority.BATCH


def job(
    name: str,
    *,
    arrived: float = 0.0,
    model: str = "m",
    priority: Priority = NORMAL,
    expires: float = 600.0,
    client: str = "",
) -> Job:
    submission = Submission("/v1/completions", model, b"{}", priority=priority, client=client)
    return Job(name, submission, arrived, 0.0, expires)


def order(queue: JobQueue) -> list[str]:
    return [waiting.id for waiting in queue]


def filled(*jobs: Job, limit: int = 1000) -> JobQueue:
    queue = JobQueue(QueuePolicy(limit=limit))
    for one in jobs:
        queue.admit(one, seconds_per_job=None)
    return queue


# --- order -----------------------------------------------------------------------------------------------------------


def test_first_come_first_served() -> None:
    queue = filled(job("a"), job("b"), job("c"))

    assert order(queue) == ["a", "b", "c"]
    assert [queue.position(name) for name in "abc"] == [1, 2, 3]


def test_a_class_goes_before_another_that_came_at_the_same_time() -> None:
    assert order(filled(job("b", priority=BATCH), job("n"), job("h", priority=HIGH))) == ["h", "n", "b"]


def test_what_has_waited_its_handicap_goes_first() -> None:
    queue = filled(
        job("old batch", priority=BATCH, arrived=0.0),
        job("young batch", priority=BATCH, arrived=10.0),
        job("high", priority=HIGH, arrived=3605.0),
    )

    assert order(queue) == ["old batch", "high", "young batch"]


def test_a_new_job_is_told_its_position() -> None:
    queue = filled(job("a"), job("b"))

    assert queue.admit(job("h", priority=HIGH), seconds_per_job=None) == 1
    assert queue.position("b") == 3


def test_a_job_that_is_put_back_gets_the_place_it_had() -> None:
    queue = filled(job("a"), job("b"), job("c"), limit=3)
    taken, key = queue.take("b")
    queue.admit(job("d"), seconds_per_job=None)
    queue.put_back(taken, key)  # beyond the limit: it was accepted long ago

    assert order(queue) == ["a", "b", "c", "d"]
    assert len(queue) == 4


def test_only_the_first_of_each_model_can_run_next() -> None:
    queue = filled(
        job("a1", model="a"), job("b1", model="b"), job("a2", model="a"), job("b0", model="b", priority=HIGH)
    )

    assert [one.id for one in queue.first_of_each_model()] == ["b0", "a1"]
    assert (queue.waiting_for("a"), queue.waiting_for("b"), queue.waiting_for("c")) == (2, 2, 0)
    queue.take("a1")
    queue.take("a2")
    assert [one.id for one in queue.first_of_each_model()] == ["b0"]
    assert queue.waiting_for("a") == 0


def test_aliases_wait_in_one_line() -> None:
    alias = replace(job("3", model="alias", arrived=-1.0), route="a")
    queue = filled(replace(job("1", model="a"), route="a"), replace(job("2", model="b"), route="b"), alias)

    assert [j.id for j in queue.first_of_each_model()] == ["3", "2"]
    assert (queue.waiting_for("a"), queue.waiting_for("alias")) == (2, 0)
    head = queue.head("a")
    assert head is not None
    assert head == queue.take("3")
    assert head[0] == alias
    assert queue.head("alias") is None


def test_another_limit_counts_for_those_that_come_later() -> None:
    queue = filled(job("1"), job("2"), limit=2)
    queue.limit_by(QueuePolicy(limit=1))

    assert (queue.limit, order(queue)) == (1, ["1", "2"])
    with pytest.raises(QueueFullError):
        queue.admit(job("3"), seconds_per_job=None)


def test_a_job_waits_once() -> None:
    queue = filled(job("a"))
    with pytest.raises(ValueError, match="job a waits already"):
        queue.admit(job("a"), seconds_per_job=None)
    assert order(queue) == ["a"]


def test_what_does_not_wait_is_not_found() -> None:
    queue = filled(job("a"))
    with pytest.raises(KeyError):
        queue.take("b")
    with pytest.raises(KeyError):
        queue.position("b")
    assert "a" in queue
    assert "b" not in queue


def test_the_order_can_be_walked_while_jobs_leave() -> None:
    queue = filled(job("a"), job("b"), job("c"))
    for one in queue:
        queue.take(one.id)
    assert len(queue) == 0
    assert queue.oldest() is None


# --- the limit -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pace", "retry"), [(None, RETRY_SHORTEST_S), (0.01, RETRY_SHORTEST_S), (7.5, 7.5), (900.0, RETRY_LONGEST_S)]
)
def test_a_full_queue_says_when_to_come_back(pace: float | None, retry: float) -> None:
    queue = filled(job("a"), job("b"), limit=2)
    assert queue.limit == 2
    with pytest.raises(QueueFullError) as refused:
        queue.admit(job("c", priority=HIGH), seconds_per_job=pace)

    assert (refused.value.depth, refused.value.retry_after_s) == (2, retry)
    assert "raise queue.limit" in refused.value.message
    assert order(queue) == ["a", "b"]


# --- expiry ----------------------------------------------------------------------------------------------------------


def test_jobs_expire_longest_overdue_first_and_stay_until_taken() -> None:
    queue = filled(job("late", expires=30.0), job("later", expires=20.0), job("never", expires=1e9))

    assert queue.next_expiry() == 20.0
    assert queue.expired(19.9) == []
    assert [one.id for one in queue.expired(30.0)] == ["later", "late"]
    assert [one.id for one in queue.expired(30.0)] == ["later", "late"]
    queue.take("later")
    assert queue.next_expiry() == 30.0


def test_a_job_that_was_put_back_expires_once() -> None:
    queue = filled(job("a", expires=5.0))
    for _ in range(3):
        queue.put_back(*queue.take("a"))
    assert [one.id for one in queue.expired(5.0)] == ["a"]
    queue.take("a")
    assert queue.next_expiry() is None


def test_an_expiry_that_was_changed_counts_as_it_is_now() -> None:
    queue = filled(job("a", expires=5.0))
    _, key = queue.take("a")
    queue.put_back(job("a", expires=50.0), key)

    assert queue.expired(10.0) == []
    assert queue.next_expiry() == 50.0


def test_jobs_that_ran_leave_nothing_behind() -> None:
    queue = JobQueue(QueuePolicy())
    for number in range(10_000):
        queue.admit(job(f"j{number}", expires=1e6), seconds_per_job=None)
        if number >= 20:
            queue.take(f"j{number - 20}")

    assert len(queue) == 20
    assert len(queue._expiries) <= 2 * 21 + 65
    assert [one.id for one in queue.expired(1e6)] == sorted(f"j{n}" for n in range(9980, 10_000))


def test_the_oldest_is_the_one_that_waits_longest_whatever_its_class() -> None:
    queue = filled(job("b", priority=BATCH, arrived=1.0), job("h", priority=HIGH, arrived=2.0))

    assert queue.oldest() == 1.0


# --- several clients -------------------------------------------------------------------------------------------------


def served(queue: JobQueue, count: int) -> list[str]:
    """Who is given a slot, one after the other."""
    found = []
    for _ in range(count):
        (first,) = queue.first_of_each_model()
        assert queue.head("m") == queue.take(first.id, served=True)
        found.append(first.id)
    return found


def test_one_client_does_not_wait_for_all_that_another_has_asked() -> None:
    queue = filled(*[job(f"a{n}", client="a") for n in range(4)], job("b0", client="b"), job("b1", client="b"))

    assert served(queue, 6) == ["a0", "b0", "a1", "b1", "a2", "a3"]


def test_a_client_that_asks_one_thing_after_the_other_takes_turns_too() -> None:
    queue = filled(*[job(f"a{n}", client="a") for n in range(4)])
    found = served(queue, 1)
    for n in range(3):
        queue.admit(job(f"b{n}", client="b", arrived=1.0 + n), seconds_per_job=None)
        found += served(queue, 2)

    assert found == ["a0", "b0", "a1", "b1", "a2", "b2", "a3"]


def test_a_higher_class_goes_first_whoever_asks() -> None:
    queue = filled(
        job("a0", client="a"), job("b0", client="b"), job("a1", client="a", priority=HIGH), job("b1", client="b")
    )

    assert served(queue, 4) == ["a1", "a0", "b0", "b1"]


def test_a_class_whose_oldest_job_has_waited_its_handicap_is_due_and_its_clients_take_turns() -> None:
    queue = filled(
        job("a0", client="a", arrived=0.0),
        job("a1", client="a", arrived=0.0),
        job("h", client="h", priority=HIGH, arrived=301.0),
        job("b0", client="b", arrived=301.0),
    )

    assert served(queue, 4) == ["a0", "b0", "a1", "h"]


def test_a_job_whose_attempt_failed_does_not_wait_for_another_turn() -> None:
    queue = filled(job("a0", client="a"), job("a1", client="a"), job("b0", client="b"), job("c0", client="c"))
    a0, key = queue.take("a0", served=True)
    assert served(queue, 1) == ["b0"]
    queue.put_back(a0, key)

    assert served(queue, 3) == ["a0", "c0", "a1"]


def test_a_job_that_leaves_without_having_run_costs_its_client_no_turn() -> None:
    queue = filled(job("a0", client="a"), job("a1", client="a"), job("b0", client="b"))
    queue.take("a0")

    assert served(queue, 2) == ["a1", "b0"]


# --- against a model of the utmost simplicity ------------------------------------------------------------------------


class AgainstAList(RuleBasedStateMachine):
    """The same as a list that is sorted each time."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = JobQueue(QueuePolicy(limit=12))
        self.waiting: list[tuple[Key, Job]] = []
        self.out: list[tuple[Key, Job]] = []
        self.now = 0.0
        self.arrivals = 0

    @rule(priority=st.sampled_from(Priority), model=st.sampled_from("ab"), patience=st.floats(0.1, 5000.0))
    def admit(self, priority: Priority, model: str, patience: float) -> None:
        new = job(f"j{self.arrivals}", arrived=self.now, model=model, priority=priority, expires=self.now + patience)
        if len(self.waiting) >= 12:
            with pytest.raises(QueueFullError):
                self.queue.admit(new, seconds_per_job=None)
            return
        self.arrivals += 1
        handicap = QueuePolicy().handicap_s[priority]
        self.waiting.append(((self.now + handicap, self.arrivals), new))
        position = self.queue.admit(new, seconds_per_job=None)
        assert [one.id for _, one in sorted(self.waiting)][position - 1] == new.id

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(entry)
        self.out.append(entry)
        assert self.queue.take(entry[1].id) == (entry[1], entry[0])

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def put_back(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(self.out))
        self.out.remove(entry)
        self.waiting.append(entry)
        self.queue.put_back(entry[1], entry[0])

    @rule(seconds=st.floats(0.0, 4000.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def it_is_the_same(self) -> None:
        jobs = [one for _, one in sorted(self.waiting, key=lambda entry: entry[0])]
        assert list(self.queue) == jobs
        assert self.queue.first_of_each_model() == [
            one for n, one in enumerate(jobs) if one.model not in {earlier.model for earlier in jobs[:n]}
        ]
        overdue = sorted((one.expires, one.id) for one in jobs if one.expires <= self.now)
        assert [(one.expires, one.id) for one in self.queue.expired(self.now)] == overdue
        assert self.queue.next_expiry() == min((one.expires for one in jobs), default=None)
        assert self.queue.oldest() == min((one.arrived for one in jobs), default=None)


TestAgainstAList = AgainstAList.TestCase


@given(st.lists(st.sampled_from(Priority), min_size=2, max_size=30), st.integers(0, 2**32))
def test_within_a_class_nobody_overtakes(priorities: list[Priority], seed: int) -> None:
    clock = random.Random(seed)
    queue = JobQueue(QueuePolicy())
    now = 0.0
    for number, priority in enumerate(priorities):
        now += clock.choice([0.0, 1.0, 400.0])
        queue.admit(job(f"{number:03}", priority=priority, arrived=now), seconds_per_job=None)
    for priority in Priority:
        mine = [one.id for one in queue if one.priority is priority]
        assert mine == sorted(mine)


def test_durable_jobs_do_not_count_against_the_limit_and_need_not_expire() -> None:
    queue = filled(
        replace(job("d1", expires=inf), durable=True), replace(job("d2", expires=inf), durable=True), limit=1
    )
    assert queue.next_expiry() is None
    queue.admit(job("client", expires=9.0), seconds_per_job=None)
    with pytest.raises(QueueFullError, match="1 jobs wait") as refusal:
        queue.admit(job("another"), seconds_per_job=None)
    assert (refusal.value.depth, queue.depth, len(queue)) == (1, 1, 3)
    queue.admit(replace(job("d3", expires=inf), durable=True), seconds_per_job=None)
    assert queue.next_expiry() == 9.0
    assert [late.id for late in queue.expired(1e12)] == ["client"]
    queue.take("d1")
    queue.take("client")
    assert (queue.depth, len(queue), queue.next_expiry()) == (0, 2, None)


def test_who_stands_behind_jobs_that_are_barred_is_at_the_head() -> None:
    queue = filled(
        job("a1", client="a"),
        job("a2", client="a"),
        job("b", client="b"),
        job("late", client="b", priority=BATCH),
        job("alone", model="n", client="a"),
    )

    def heads(*barred: str) -> list[str]:
        return [first.id for first in queue.first_of_each_model(lambda job: job.id in barred)]

    assert heads() == ["a1", "alone"]
    assert heads("a1") == ["a2", "alone"]
    assert heads("a1", "a2") == ["b", "alone"]
    assert heads("a1", "a2", "b", "alone") == ["late"], "another class, and a model less"
    assert heads("a1", "a2", "b", "alone", "late") == []
    assert order(queue)[0] == "a1", "they keep their places"
