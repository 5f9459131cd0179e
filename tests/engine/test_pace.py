"""The pace of jobs: what `supctl queue` estimates from."""

from typing import cast

import pytest

from supervisord.core.job import FailureReason, JobStatus
from supervisord.core.record import AttemptRecord, Identity, JobRecord, JobResult, Usage
from supervisord.core.routing import Route, Routes
from supervisord.engine.journal import Journal
from supervisord.engine.pace import GRAIN_S, WINDOW_S, Pace
from supervisord.ports import Clock
from tests.fakes.store import MemoryStore

ROUTES = Routes([Route(("llama", "gpt-4o"), ("a",)), Route(("qwen",), ("b",))])


class Watch:
    """Only looked at: nothing here waits."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    wall = monotonic

    def advance(self, seconds: float) -> None:
        self.now += seconds


class World:
    def __init__(self) -> None:
        self.clock = Watch()
        clock = cast("Clock", self.clock)
        self.journal = Journal(MemoryStore(), clock)
        self.pace = Pace(self.journal, clock, lambda: ROUTES)

    def ends(
        self, model: str = "llama", *, took: float = 1.0, status: JobStatus = JobStatus.DONE, ran: bool = True
    ) -> None:
        job = JobRecord("j", "/v1/completions", model, 1, False, "", 0.0, None, None)
        reason = None if status is JobStatus.DONE else FailureReason.BACKEND_DIED
        attempt = AttemptRecord(
            "j", 1, "a", 1, "llama.cpp", 0, "", Identity(), 0.0, 0.0, took, None, Usage(), 200, status, reason
        )
        result = JobResult("j", status, 0.0, 0.0, 1, reason)
        self.journal.finished(job, result, attempt if ran else None)


@pytest.fixture
def world() -> World:
    return World()


def test_nothing_is_known_before_something_ended(world: World) -> None:
    assert world.pace.per_second("llama") is None
    world.ends("qwen")
    assert world.pace.per_second("llama") is None


def test_it_counts_from_the_beginning_of_the_first(world: World) -> None:
    world.ends(took=10.0)
    assert world.pace.per_second("llama") == pytest.approx(1 / 10.0)
    for _ in range(9):
        world.clock.advance(10.0)
        world.ends(took=10.0)
    assert world.pace.per_second("llama") == pytest.approx(10 / 100.0)


def test_many_at_once_do_not_promise_the_impossible(world: World) -> None:
    for _ in range(50):
        world.ends(took=0.001)
    assert world.pace.per_second("llama") == pytest.approx(50.0)


def test_aliases_count_for_their_model_and_strangers_for_nobody(world: World) -> None:
    world.ends("gpt-4o", took=2.0)
    world.ends("removed by a reload")
    assert world.pace.per_second("llama") == pytest.approx(1 / 2.0)
    assert world.pace.per_second("removed by a reload") is None


def test_what_did_not_run_is_no_pace(world: World) -> None:
    world.ends(ran=False)
    world.ends(status=JobStatus.CANCELLED)
    assert world.pace.per_second("llama") is None
    world.ends(status=JobStatus.FAILED, took=4.0)
    assert world.pace.per_second("llama") == pytest.approx(1 / 4.0)


def test_it_follows_the_last_ten_minutes(world: World) -> None:
    for _ in range(100):
        world.clock.advance(1.0)
        world.ends()
    world.clock.advance(WINDOW_S - 50.0)
    assert world.pace.per_second("llama") == pytest.approx(50 / WINDOW_S, rel=GRAIN_S / 50)
    world.clock.advance(60.0)
    assert world.pace.per_second("llama") is None
    world.ends(took=5.0)
    assert world.pace.per_second("llama") == pytest.approx(1 / 5.0), "the pause is no part of it"


def test_it_stays_small_however_many_jobs_end(world: World) -> None:
    for _ in range(20_000):
        world.clock.advance(0.1)
        world.ends()
    assert world.pace.per_second("llama") == pytest.approx(10.0, rel=0.02)
    assert len(world.pace._models["llama"].counts) <= WINDOW_S / GRAIN_S + 1
