"""Which jobs are to blame for the backends that went down under them."""

import pytest

from supervisord.core.exits import CauseKind, ExitCause
from supervisord.core.job import FailureReason
from supervisord.core.poison import Death, cause_of, is_poison, suspicion
from supervisord.core.state import BackendState, Phase

DIED, HUNG, OOM = FailureReason.BACKEND_DIED, FailureReason.BACKEND_HUNG, FailureReason.BACKEND_OUT_OF_MEMORY
CRASH = CauseKind.CRASH

SUSPICIONS = [
    (Death("a", 1, DIED, CRASH), 1.0),
    (Death("a", 1, DIED, CauseKind.EXITED), 1.0),
    (Death("a", 1, DIED, CauseKind.GPU_OOM), 1.0),
    (Death("a", 1, DIED, None), 1.0),
    (Death("a", 1, DIED, None, lives=True), 0.0),
    (Death("a", 1, HUNG, CauseKind.HANG), 1.0),
    (Death("a", 1, OOM, CauseKind.GPU_OOM), 1.0),
    (Death("a", 1, DIED, CauseKind.KERNEL_OOM), 0.5),
    (Death("a", 1, DIED, CRASH, others=1), 0.5),
    (Death("a", 1, DIED, CRASH, others=7), 0.5),
    (Death("a", 1, DIED, CRASH, proven=False), 0.5),
    (Death("a", 1, DIED, CauseKind.KERNEL_OOM, others=1, proven=False), 0.125),
    (Death("a", 1, DIED, CauseKind.KILLED), 0.0),
    (Death("a", 1, DIED, CauseKind.ASKED), 0.0),
    (Death("a", 1, DIED, CauseKind.DEVICE_LOST), 0.0),
    (Death("a", 1, FailureReason.BACKEND_ERROR, CRASH), 0.0),
    (Death("a", 1, FailureReason.BACKEND_UNREACHABLE, CRASH), 0.0),
    (Death("a", 1, DIED, CauseKind.UNREACHABLE), 0.0),
    (Death("a", 1, DIED, CauseKind.EXHAUSTED), 0.0),
    (Death("a", 1, FailureReason.DRAINING, None), 0.0),
]


@pytest.mark.parametrize(("death", "expected"), SUSPICIONS, ids=lambda value: str(value)[:60])
def test_what_a_death_says_of_the_job(death: Death, expected: float) -> None:
    assert suspicion(death) == expected


TWICE = [
    ((Death("a", 1, DIED, CRASH), Death("a", 2, DIED, CRASH)), True),
    ((Death("a", 1, DIED, CRASH), Death("b", 1, HUNG, CauseKind.HANG)), True),
    ((Death("a", 1, DIED, CRASH),), False),
    ((), False),
    ((Death("a", 1, OOM, None), Death("a", 1, DIED, CRASH)), False),  # one start, told twice
    ((Death("a", 1, DIED, CRASH), Death("a", 2, DIED, CauseKind.KILLED)), False),
    ((Death("a", 1, DIED, CRASH), Death("a", 2, DIED, CRASH, others=1)), False),
    ((Death("a", 1, DIED, CRASH), Death("a", 2, DIED, CRASH, others=1), Death("b", 1, DIED, CRASH, others=1)), True),
]


@pytest.mark.parametrize(("deaths", "expected"), TWICE)
def test_two_deaths_that_nothing_speaks_for_make_it_poison(deaths: tuple[Death, ...], expected: bool) -> None:
    assert is_poison(deaths) is expected


KNOWN = ExitCause(CRASH, "it crashed")


@pytest.mark.parametrize(
    ("phase", "at", "told"),
    [
        (Phase.STOPPING, 3, True),
        (Phase.BACKOFF, 3, True),
        (Phase.PARKED, 3, True),
        (Phase.STARTING, 4, True),
        (Phase.READY, 4, True),
        (Phase.READY, 3, False),  # not told yet: what is known is of the one before
        (Phase.SUSPECT, 3, False),
        (Phase.STOPPING, 4, False),  # the next one has ended too
        (Phase.READY, 5, False),
    ],
)
def test_why_a_start_ended_is_told_until_the_next_one_ends(phase: Phase, at: int, told: bool) -> None:
    state = BackendState(phase=phase, generation=at, cause=KNOWN)
    assert cause_of(state, 3) == (KNOWN if told else None)
