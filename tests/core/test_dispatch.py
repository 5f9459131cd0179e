"""Which backend takes a job."""

import itertools
from dataclasses import replace

import pytest

from supervisord.core.dispatch import BackendView, Choice, Reject, Serve, Wait, Wake, choose
from supervisord.core.errors import BackendParkedError, BackendStoppedError, ModelNotFoundError
from supervisord.core.job import Job, Submission
from supervisord.core.life import Phase, Want

JOB = Job("j", Submission("/v1/completions", "m", b"{}"), 0.0, 0.0, 600.0)
READY = BackendView("left", frozenset({"m", "alias"}), Phase.READY, Want.UP, "", slots=1, in_flight=0, order=0)
OTHER = replace(READY, name="right", order=1)


def view(phase: Phase, want: Want = Want.ON_DEMAND, *, paused: bool = False, reason: str = "") -> BackendView:
    return replace(READY, phase=phase, want=want, paused=paused, reason=reason)


def test_a_model_that_nobody_serves() -> None:
    choice = choose(replace(JOB, submission=replace(JOB.submission, model="x")), [READY])

    assert isinstance(choice, Reject)
    assert isinstance(choice.error, ModelNotFoundError)
    assert (choice.error.param, '"x"' in choice.error.message) == ("model", True)


@pytest.mark.parametrize("model", ["m", "alias"])
def test_a_backend_with_room_serves(model: str) -> None:
    job = replace(JOB, submission=replace(JOB.submission, model=model))

    assert choose(job, [READY]) == Serve("left")


def test_of_two_the_less_busy_serves_and_of_equals_the_first() -> None:
    left, right = replace(READY, slots=4, in_flight=2), replace(OTHER, slots=4, in_flight=1)

    assert choose(JOB, [left, right]) == Serve("right")
    assert choose(JOB, [replace(left, in_flight=1), right]) == Serve("left")
    assert choose(JOB, [right, replace(left, in_flight=1)]) == Serve("left")


def test_the_backend_that_failed_a_job_comes_last() -> None:
    burnt = replace(JOB, avoid=frozenset({"left"}))

    assert choose(burnt, [READY, replace(OTHER, slots=2, in_flight=1)]) == Serve("right")
    assert choose(burnt, [READY, replace(OTHER, in_flight=1)]) == Serve("left")
    assert choose(burnt, [READY]) == Serve("left")


def test_the_backend_that_failed_a_job_is_woken_last() -> None:
    burnt = replace(JOB, avoid=frozenset({"left"}))
    left = replace(READY, phase=Phase.STOPPED, want=Want.ON_DEMAND)
    right = replace(OTHER, phase=Phase.STOPPED, want=Want.ON_DEMAND)

    assert choose(JOB, [left, right]) == Wake("left")
    assert choose(burnt, [left, right]) == Wake("right")
    assert choose(burnt, [left]) == Wake("left")


def test_a_busy_backend_is_helped_by_one_that_sleeps() -> None:
    asleep = replace(OTHER, phase=Phase.STOPPED, want=Want.ON_DEMAND)

    assert choose(JOB, [replace(READY, in_flight=1), asleep]) == Wake("right")


# --- every phase, wish and pressure of a single backend --------------------------------------------------------------

EXPECTED: dict[Phase, tuple[type[Choice], type[Choice]]] = {  # wanted, and stopped by an operator
    Phase.STOPPED: (Wake, Reject),
    Phase.STARTING: (Wait, Wait),
    Phase.LOADING: (Wait, Wait),
    Phase.READY: (Serve, Serve),
    Phase.SUSPECT: (Wait, Wait),
    Phase.DRAINING: (Wait, Reject),
    Phase.STOPPING: (Wait, Reject),
    Phase.BACKOFF: (Wait, Wait),
    Phase.PARKED: (Reject, Reject),
    Phase.UNKILLABLE: (Reject, Reject),
}


@pytest.mark.parametrize(("phase", "want", "paused"), list(itertools.product(Phase, Want, [False, True])))
def test_a_single_backend(phase: Phase, want: Want, paused: bool) -> None:
    expected = EXPECTED[phase][want is Want.DOWN]
    choice = choose(JOB, [view(phase, want, paused=paused, reason="why")])

    if paused and expected in {Serve, Wake}:
        assert choice == Wait("left is held back by memory pressure")
    else:
        assert type(choice) is expected


@pytest.mark.parametrize(
    ("backend", "why"),
    [
        (replace(READY, in_flight=1), "left is busy"),
        (view(Phase.LOADING), "left is loading"),
        (view(Phase.BACKOFF, reason="ended by signal 11"), "left is backoff: ended by signal 11"),
        (view(Phase.READY, paused=True), "left is held back by memory pressure"),
    ],
)
def test_a_wait_says_what_for(backend: BackendView, why: str) -> None:
    assert choose(JOB, [backend]) == Wait(why)


def test_a_job_waits_while_any_backend_may_serve_it_again() -> None:
    parked = view(Phase.PARKED)

    assert choose(JOB, [parked, replace(OTHER, phase=Phase.LOADING)]) == Wait("right is loading")
    assert choose(JOB, [parked, OTHER]) == Serve("right")


def test_what_an_operator_stopped_is_told_with_the_way_back() -> None:
    choice = choose(JOB, [view(Phase.STOPPED, Want.DOWN, reason="maintenance")])

    assert isinstance(choice, Reject)
    assert isinstance(choice.error, BackendStoppedError)
    assert choice.error.message == (
        'No backend can serve model "m" right now: left is stopped (maintenance). Start it with: supctl start left'
    )


@pytest.mark.parametrize("phase", [Phase.PARKED, Phase.UNKILLABLE])
def test_what_gave_up_is_told_with_its_reason_and_the_way_back(phase: Phase) -> None:
    stopped = view(Phase.STOPPED, Want.DOWN)
    choice = choose(JOB, [stopped, replace(OTHER, phase=phase, reason="no such model file")])

    assert isinstance(choice, Reject)
    assert isinstance(choice.error, BackendParkedError)
    assert choice.error.message == (
        f'No backend can serve model "m" right now: left is stopped; right is {phase} (no such model file). '
        "See: supctl logs right; try again with: supctl reset right"
    )
