"""Who gives up memory, in what order, and what is awaited before anybody else has to."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisord.core.guard import (
    Decision,
    GuardPolicy,
    GuardState,
    Move,
    Resident,
    Strait,
    decide,
)
from supervisord.core.memory import GIB, MIB, Pressure

OK, TIGHT, CRITICAL = Pressure.OK, Pressure.TIGHT, Pressure.CRITICAL
POLICY = GuardPolicy()
CARD, RAM = "GPU-1", "host"


def strait(pressure: Pressure, began: float, *, key: str = CARD, free: float = 100 * MIB) -> Strait:
    return Strait(key, "gpu0" if key == CARD else key, pressure, int(free), began)


def resident(name: str, *, idle: bool = True, holds: Mapping[str, int] | None = None, **changes: object) -> Resident:
    held = {CARD: 4 * GIB} if holds is None else holds
    made = Resident(name, idle=idle, moving=False, smaller=True, priority=0, last_used=0.0, holds=held)
    return replace(made, **changes)  # type: ignore[arg-type]


class Story:
    """A guard that samples once a second."""

    def __init__(self, *residents: Resident) -> None:
        self.state = GuardState()
        self.residents = {r.name: r for r in residents}
        self.now = 0.0

    def sample(self, *straits: tuple[Pressure, str, float] | Pressure, began: float | None = None) -> Decision:
        self.now += 1.0
        at = self.now - 0.1 if began is None else began
        seen = [strait(s, at) if isinstance(s, Pressure) else strait(s[0], at, key=s[1], free=s[2]) for s in straits]
        made = decide(self.state, seen, list(self.residents.values()), self.now, POLICY)
        self.state = made.state
        return made

    def order(self, *straits: tuple[Pressure, str, float] | Pressure) -> tuple[Move, str] | None:
        made = self.sample(*straits).order
        return None if made is None else (made.move, made.name)

    def change(self, name: str, **changes: object) -> None:
        self.residents[name] = replace(self.residents[name], **changes)  # type: ignore[arg-type]


def test_where_nothing_is_short_nothing_is_done() -> None:
    story = Story(resident("a"))
    for _ in range(3):
        assert story.sample(OK) == Decision(GuardState())


def test_a_need_is_looked_at_twice() -> None:
    story = Story(resident("a"))
    assert story.order(CRITICAL) is None
    assert story.sample(CRITICAL, began=0.9).order is None, "the same sample proves nothing new"
    assert story.order(CRITICAL) == (Move.EVICT, "a")


def test_a_need_that_passed_is_forgotten() -> None:
    story = Story(resident("a"))
    story.sample(CRITICAL)
    story.sample(OK)
    assert story.order(CRITICAL) is None


def test_idle_ones_leave_first_by_priority_and_use() -> None:
    story = Story(
        resident("busy", idle=False, priority=-9),
        resident("pinned", pinned=True, priority=-9),
        resident("dear", priority=1),
        resident("late", last_used=2.0),
        resident("early", last_used=1.0),
    )
    left = []
    for _ in range(3):
        order = story.order(CRITICAL) or story.order(CRITICAL)
        assert order is not None
        left.append(order)
        story.change(order[1], holds={})
        story.sample(CRITICAL)
    assert left == [(Move.EVICT, "early"), (Move.EVICT, "late"), (Move.EVICT, "dear")]


def test_then_a_busy_one_comes_back_smaller_and_pinned_ones_last() -> None:
    story = Story(
        resident("pinned", pinned=True, priority=-9),
        resident("small", idle=False, holds={CARD: GIB}),
        resident("large", idle=False),
        resident("dear", idle=False, priority=1),
    )
    moved = []
    for _ in range(4):
        order = story.order(CRITICAL) or story.order(CRITICAL)
        assert order is not None
        moved.append(order)
        story.change(order[1], holds={})
        story.sample(CRITICAL)
    assert moved == [(Move.SHRINK, "large"), (Move.SHRINK, "small"), (Move.SHRINK, "dear"), (Move.SHRINK, "pinned")]


def test_one_that_loads_serves_nobody_yet_and_is_what_fills_the_pool() -> None:
    story = Story(resident("low", idle=False, priority=-9), resident("loads", idle=False, loading=True, priority=9))
    story.sample(CRITICAL)
    assert story.order(CRITICAL) == (Move.SHRINK, "loads")


def test_one_without_a_smaller_size_is_parked() -> None:
    story = Story(resident("a", idle=False, smaller=False))
    story.sample(CRITICAL)
    assert story.order(CRITICAL) == (Move.PARK, "a")


@pytest.mark.parametrize("pressure", [TIGHT, CRITICAL])
def test_nobody_moves_who_holds_nothing_worth_mentioning_there(pressure: Pressure) -> None:
    """Memory that others hold is not ours to free."""
    story = Story(
        resident("elsewhere", holds={RAM: GIB}),
        resident("a trace", holds={CARD: POLICY.worth - 1}),
        resident("busy", idle=False, holds={CARD: 0}),
    )
    story.sample(pressure)
    for _ in range(4):
        made = story.sample(pressure)
        assert (made.order, made.helpless) == (None, ()), "what they hold may not have been measured yet"
    story.sample(pressure)
    made = story.sample(pressure)
    assert made.order is None
    assert made.helpless == ((CARD,) if pressure is CRITICAL else ())


def test_nothing_else_moves_while_one_is_on_its_way() -> None:
    story = Story(resident("gone", moving=True), resident("a"))
    story.sample(CRITICAL)
    assert story.order(CRITICAL) is None
    story.change("gone", moving=False, holds={})
    assert story.order(CRITICAL) == (Move.EVICT, "a")


def test_what_moves_elsewhere_is_not_waited_for() -> None:
    story = Story(resident("gone", moving=True, holds={RAM: GIB}), resident("a"))
    story.sample(CRITICAL)
    assert story.order(CRITICAL) == (Move.EVICT, "a")


def test_the_effect_is_measured_before_the_next_move() -> None:
    story = Story(resident("a"), resident("b", last_used=1.0))
    story.sample(CRITICAL)
    assert story.order((CRITICAL, CARD, 100)) == (Move.EVICT, "a")
    story.change("a", moving=True)
    for _ in range(5):
        made = story.sample(CRITICAL)
        assert (made.order, made.effect) == (None, None)
    story.change("a", moving=False, holds={})
    assert story.sample((CRITICAL, CARD, 700), began=0.0).effect is None, "it was begun before the move"
    made = story.sample((CRITICAL, CARD, 700))
    assert made.effect is not None
    assert (made.effect.pending.name, made.effect.freed, made.effect.late) == ("a", 600, False)
    assert made.effect.took_s == pytest.approx(7.0)
    assert made.order is None, "the need is looked at twice, now that something has changed"
    assert story.order(CRITICAL) == (Move.EVICT, "b")


def test_what_a_sample_still_shows_of_the_time_before_the_effect_moves_nobody() -> None:
    """Rates are means over a while: the relief is not seen at once, and it must not cost another its place."""
    story = Story(resident("a"), resident("b", last_used=1.0))
    lagging = Strait(CARD, "card", CRITICAL, 100, 0.0, lag_s=2.5)

    def sample() -> Decision:
        story.now += 1.0
        now = replace(lagging, began=story.now - 0.1)
        made = decide(story.state, [now], list(story.residents.values()), story.now, POLICY)
        story.state = made.state
        return made

    sample()
    assert sample().order is not None
    story.change("a", holds={})
    assert sample().effect is not None
    for _ in range(3):
        made = sample()
        assert (made.order, made.helpless) == (None, ())
    made = sample()
    assert made.order is not None, "it lasts: the first sample that is all of afterwards, and the one that agrees"
    assert made.order.name == "b"


def test_one_that_does_not_get_away_is_not_waited_for_for_ever() -> None:
    story = Story(resident("stuck"), resident("b", last_used=1.0))
    story.sample(CRITICAL)
    story.sample(CRITICAL)
    story.change("stuck", moving=True)
    story.now += POLICY.effect_s
    made = story.sample(CRITICAL)
    assert made.effect is not None
    assert made.effect.late
    assert made.order is None
    assert story.order(CRITICAL) is None, "it is still on its way: nobody pays twice"
    story.change("stuck", moving=False, holds={})
    assert story.order(CRITICAL) == (Move.EVICT, "b")


def test_a_pool_that_is_gone_ends_what_was_awaited_of_it() -> None:
    story = Story(resident("a"))
    story.sample(CRITICAL)
    story.sample(CRITICAL)
    assert story.sample().effect is None
    story.now += POLICY.effect_s
    made = story.sample()
    assert made.effect is not None
    assert made.effect.freed == 0


def test_on_a_card_that_others_fill_ours_are_left_in_peace() -> None:
    story = Story(resident("busy", idle=False))
    full = Strait(CARD, "gpu0", CRITICAL, 0, 1.0, theirs=9 * GIB, short=GIB, who="game (pid 7)")
    story.state = decide(story.state, [replace(full, began=0.5)], list(story.residents.values()), 0.6, POLICY).state
    made = decide(story.state, [replace(full, began=6.0)], list(story.residents.values()), 6.1, POLICY)
    assert (made.order, made.helpless) == (None, (CARD,))
    for changed in (replace(full, theirs=0, short=0), replace(full, theirs=GIB - 1)):
        order = decide(story.state, [changed], list(story.residents.values()), 1.1, POLICY).order
        assert order is not None
        assert order.move is Move.SHRINK
    story.change("busy", idle=True)
    order = decide(story.state, [full], list(story.residents.values()), 1.1, POLICY).order
    assert order is not None
    assert order.move is Move.EVICT, "who idles makes room for anybody"


# --- tight -----------------------------------------------------------------------------------------------------------


def test_tight_moves_idle_ones_only() -> None:
    story = Story(resident("busy", idle=False, settled={CARD: 2 * GIB}), resident("a", settled={CARD: 2 * GIB}))
    story.sample(TIGHT)
    assert story.order(TIGHT) == (Move.EVICT, "a")
    story.change("a", holds={})
    for _ in range(3):
        assert story.order(TIGHT) is None


def test_a_card_that_is_full_by_design_costs_nobody_its_place() -> None:
    full = 500 * MIB
    story = Story(resident("a", settled={CARD: full}), resident("unknown"))
    for _ in range(3):
        assert story.order((TIGHT, CARD, full - POLICY.slack)) is None
    assert story.order((TIGHT, CARD, full - POLICY.slack - 1)) == (Move.EVICT, "a")
    story = Story(resident("a", settled={CARD: full}))
    story.sample(CRITICAL)
    assert story.order((CRITICAL, CARD, full)) == (Move.EVICT, "a"), "critical is nobody's design"


def test_the_worst_pool_comes_first() -> None:
    story = Story(resident("ram", holds={RAM: GIB}, settled={RAM: 9 * GIB}), resident("card"))
    story.sample((TIGHT, RAM, 1), (CRITICAL, CARD, 2))
    assert story.order((TIGHT, RAM, 1), (CRITICAL, CARD, 2)) == (Move.EVICT, "card")


def test_a_pool_where_nothing_can_be_done_does_not_hide_another() -> None:
    story = Story(resident("ram", holds={RAM: GIB}, settled={RAM: 9 * GIB}))
    story.sample((TIGHT, RAM, 1), (CRITICAL, CARD, 2))
    made = story.sample((TIGHT, RAM, 1), (CRITICAL, CARD, 2))
    assert made.order is not None
    assert made.order.name == "ram"


# --- always ----------------------------------------------------------------------------------------------------------

_residents = st.builds(
    Resident,
    name=st.sampled_from("abc"),
    idle=st.booleans(),
    moving=st.booleans(),
    smaller=st.booleans(),
    priority=st.integers(-1, 1),
    last_used=st.floats(0, 9),
    pinned=st.booleans(),
    holds=st.dictionaries(st.sampled_from([CARD, RAM]), st.integers(0, 2 * POLICY.worth)),
    settled=st.dictionaries(st.sampled_from([CARD, RAM]), st.integers(0, 9 * POLICY.slack)),
)
_straits = st.lists(
    st.tuples(st.sampled_from([OK, TIGHT, CRITICAL]), st.sampled_from([CARD, RAM]), st.integers(0, 9 * POLICY.slack)),
    max_size=2,
    unique_by=lambda s: s[1],
)


@given(st.lists(st.tuples(st.lists(_residents, max_size=3, unique_by=lambda r: r.name), _straits), max_size=8))
def test_whatever_happens(steps: list[tuple[list[Resident], list[tuple[Pressure, str, float]]]]) -> None:
    """Never two at a time, never one that holds nothing there, nobody who works while one that idles is left."""
    story = Story()
    for residents, straits in steps:
        story.residents = {r.name: r for r in residents}
        waiting = story.state.pending
        made = story.sample(*straits)
        order = made.order
        if order is None:
            continue
        assert waiting is None or made.effect is not None
        pressure = next(p for p, key, _ in straits if key == order.pool)
        here = [r for r in residents if r.holds.get(order.pool, 0) >= POLICY.worth]
        chosen = story.residents[order.name]
        assert chosen in here
        assert not any(r.moving for r in here)
        if order.move is Move.EVICT:
            assert chosen.idle
            assert not chosen.pinned
        else:
            assert pressure is CRITICAL
            assert not any(r.idle and not r.pinned for r in here)
            assert order.move is (Move.SHRINK if chosen.smaller else Move.PARK)
