"""The pause before a start, and the budget of failures."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisord.core.restart import RestartPolicy, delay, exhausted, within_window

POLICY = RestartPolicy()


@given(failures=st.integers(-5, 10_000), draw=st.floats(0, 1, exclude_max=True))
def test_a_pause_is_never_none_and_never_above_the_cap(failures: int, draw: float) -> None:
    assert 0.1 * POLICY.base_s <= delay(failures, draw, POLICY) <= POLICY.cap_s


@pytest.mark.parametrize(
    ("failures", "draw", "expected"),
    [(1, 0.5, 0.5), (2, 0.5, 1.0), (4, 0.5, 4.0), (7, 0.5, 30.0), (1000, 0.5, 30.0), (1, 0.0, 0.1), (7, 0.0, 6.0)],
)
def test_the_ceiling_doubles_up_to_the_cap(failures: int, draw: float, expected: float) -> None:
    assert delay(failures, draw, POLICY) == pytest.approx(expected)


def test_what_died_together_does_not_come_back_together() -> None:
    assert len({delay(6, draw / 10, POLICY) for draw in range(1, 10)}) == 9


def test_only_failures_within_the_window_count() -> None:
    assert within_window((0.0, 0.1, 599.0, 600.0), 600.0, POLICY) == (0.1, 599.0, 600.0)


def test_the_budget() -> None:
    assert not exhausted((1.0,) * 4, POLICY)
    assert exhausted((1.0,) * 5, POLICY)
