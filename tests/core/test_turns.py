"""Clients take turns, whatever they do."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from supervisord.core.turns import KEPT, Turns


@given(st.lists(st.one_of(st.sampled_from("abc"), st.none()), max_size=120), st.integers(0, 2))
def test_while_two_wait_neither_is_served_twice_more_than_the_other(steps: list[str | None], watched: int) -> None:
    """A letter: that client asks. None: whoever is next is served."""
    turns, waiting, arrived = Turns(), Counter[str](), 0
    one, other = (("a", "b"), ("a", "c"), ("b", "c"))[watched]
    owner: dict[int, str] = {}
    had = Counter[str]()  # since both have waited without a break
    for step in steps:
        if step is not None:
            arrived += 1
            owner[arrived] = step
            turns.add(step, (0.0, arrived))
            waiting[step] += 1
        elif turns:
            key = turns.first()
            client = owner[key[1]]
            turns.remove(client, key, served=True)
            waiting[client] -= 1
            had[client] += 1
        if not (waiting[one] and waiting[other]):
            had.clear()
        assert abs(had[one] - had[other]) <= 2
    assert bool(turns) == any(waiting.values())


def test_nobody_waits_for_more_than_one_round() -> None:
    turns = Turns()
    for number, client in enumerate("abcd" * 3):
        turns.add(client, (0.0, number))
    rounds = []
    for _ in range(12):
        key = turns.first()
        rounds.append("abcd"[key[1] % 4])
        turns.remove(rounds[-1], key, served=True)

    assert "".join(rounds) == "abcd" * 3


def test_clients_that_left_are_forgotten_with_their_round() -> None:
    turns = Turns()
    for number in range(3 * KEPT):
        turns.add("often", (0.0, 2 * number))
        turns.add(f"once {number}", (0.0, 2 * number + 1))
        for _ in range(2):
            key = turns.first()
            turns.remove("often" if key[1] % 2 == 0 else f"once {number}", key, served=True)

    assert len(turns._next) <= KEPT


def test_whose_jobs_are_barred_keeps_the_turn_and_others_go_meanwhile() -> None:
    turns = Turns()
    for number, client in enumerate("aabb"):
        turns.add(client, (0.0, number))
    assert turns.first_but(lambda key: False) == turns.first() == (0.0, 0)
    assert turns.first_but(lambda key: key == (0.0, 0)) == (0.0, 1), "another of the same client"
    assert turns.first_but(lambda key: key[1] < 2) == (0.0, 2)
    assert turns.first_but(lambda key: True) is None
    turns.remove("b", (0.0, 2), served=True)
    assert turns.first_but(lambda key: False) == (0.0, 0)
