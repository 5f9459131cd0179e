"""The measure that swapping is measured by, against hand-made cases."""

from tests.fakes.best_order import Served, fewest_loads

SIZES = {"a": 14, "b": 14, "c": 8, "d": 8}


def loads(*requests: tuple[str, float, float]) -> int:
    return fewest_loads([Served(*one) for one in requests], SIZES, 23)


def test_what_fits_together_is_loaded_once() -> None:
    assert loads(("a", 0, 1), ("c", 0, 1), ("a", 5, 5), ("c", 6, 6)) == 2


def test_taking_turns_for_every_request_is_not_the_best() -> None:
    """a1 b1 a2 b2 a3 b3, one after the other, although all had come at the beginning."""
    assert loads(*((model, 0, turn) for turn, model in enumerate("ababab"))) == 2


def test_who_has_to_be_served_at_once_has_to_be_loaded() -> None:
    assert loads(("a", 0, 0), ("b", 1, 1), ("a", 2, 2), ("b", 3, 3)) == 4


def test_the_one_that_is_needed_next_stays() -> None:
    """c and d beside each other, a for a moment beside one of them: the one that comes back sooner stays."""
    assert loads(("c", 0, 0), ("d", 0, 0), ("a", 1, 1), ("d", 2, 2), ("a", 3, 3)) == 3


def test_nothing_asked_nothing_loaded() -> None:
    assert loads() == 0
