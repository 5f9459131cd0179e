"""Who has to leave for a newcomer, when, and what those behind it in line may do meanwhile."""

from dataclasses import replace

import pytest

from supervisord.core.eviction import choose_victims
from supervisord.core.memory import GIB
from supervisord.core.placement import HOST, PlacementPolicy, Plan, Pool, Standing, Tenant, plan
from supervisord.core.swapping import latest_start

GPU0, GPU1 = "GPU-aaaa", "GPU-bbbb"
NOW = 1000.0
BOTH = frozenset({GPU0, GPU1})


def cards(free0: float = 2.0, free1: float = 24.0) -> dict[str, Pool]:
    return {
        GPU0: Pool(GPU0, "gpu0", 24 * GIB, int(free0 * GIB), 2 * GIB),
        GPU1: Pool(GPU1, "gpu1", 24 * GIB, int(free1 * GIB), 2 * GIB),
    }


def newcomer(name: str = "n", size: float = 10.0, on: str = GPU0, **changes: object) -> Tenant:
    tenant = Tenant(
        name, Standing.WAITING, {on: int(size * GIB)}, turn=frozenset({on}), queued=1, due=NOW, rank=NOW, load_s=5.0
    )
    return replace(tenant, **changes)


def idle(name: str, size: float = 11.0, on: str = GPU0, **changes: object) -> Tenant:
    """A resident without work for long."""
    held = {on: int(size * GIB)}
    tenant = Tenant(
        name, Standing.RESIDENT, held, held, frozenset({on}), idle_since=900.0, ready_since=800.0, load_s=5.0
    )
    return replace(tenant, **changes)


def busy(name: str, size: float = 11.0, on: str = GPU0, **changes: object) -> Tenant:
    return replace(idle(name, size, on, in_flight=1, idle_since=NOW - 0.1), **changes)


# --- how long they may finish -----------------------------------------------------------------------------------------


def pressed(now: float, *, finish_s: float | None = 60.0, **changes: object) -> Plan:
    """What a newcomer whose time is up makes of a victim that has something in flight."""
    policy = PlacementPolicy(finish_s=finish_s)
    return plan([newcomer(insisted=True), busy("a", **changes)], cards(), now, policy)


def test_one_that_was_just_closed_may_finish_for_a_while() -> None:
    made = pressed(NOW)
    assert (set(made.close), made.leave, made.look_again) == ({"a"}, {}, NOW + 60.0)
    made = pressed(NOW + 59.9, closed_since=NOW)
    assert (set(made.close), made.leave, made.look_again) == ({"a"}, {}, NOW + 60.0)


def test_one_that_does_not_finish_leaves_with_what_it_has_in_flight() -> None:
    made = pressed(NOW + 60.0, closed_since=NOW)
    assert made.close == {}
    assert made.leave == {"a": "makes room for n on gpu0, and did not finish in 60 s"}
    assert made.hold == {"n": "waits for a to make room on gpu0"}


def test_without_a_bound_it_may_finish_for_ever() -> None:
    made = pressed(NOW + 1e6, finish_s=None, closed_since=NOW)
    assert (set(made.close), made.leave, made.look_again) == ({"a"}, {}, None)


def test_who_was_closed_long_ago_is_let_alone_once_nobody_needs_its_place() -> None:
    made = plan([busy("a", closed_since=NOW - 100.0)], cards(), NOW)
    assert (made.close, made.leave) == ({}, {})


# --- whom ------------------------------------------------------------------------------------------------------------


def leaving(*residents: Tenant, need: float) -> set[str]:
    made = plan([newcomer(size=need, insisted=True), *residents], cards(2), NOW)
    return {*made.leave, *made.close}


def test_pinned_ones_never_leave() -> None:
    made = plan([newcomer(insisted=True), idle("a", pinned=True)], cards(), NOW)

    assert (made.leave, made.close) == ({}, {})
    assert "a is pinned (11.0 GiB)" in made.hold["n"]


def test_the_least_harm_first() -> None:
    working, dear = busy("w", priority=-5), idle("d", priority=1)
    recent, old = idle("r", idle_since=950.0), idle("o", idle_since=940.0)
    cheap = idle("c", idle_since=940.0, load_s=1.0)

    assert leaving(working, dear, recent, old, cheap, need=10) == {"c"}
    assert leaving(working, dear, recent, old, need=10) == {"o"}
    assert leaving(working, dear, recent, need=10) == {"r"}
    assert leaving(working, dear, need=10) == {"d"}
    assert leaving(working, need=10) == {"w"}


def test_among_the_working_who_was_there_longest() -> None:
    # Not who was used least recently: that changes with every request, and the choice would with it.
    first, second = busy("f", idle_since=NOW), busy("s", ready_since=850.0, idle_since=NOW - 9.0)

    assert leaving(second, first, need=10) == {"f"}


def test_only_as_many_as_needed() -> None:
    small, large = idle("s", 2, idle_since=10.0), idle("l", 11, idle_since=20.0)

    assert leaving(small, large, need=10) == {"l"}  # the small one came first, and is not needed in the end
    assert leaving(small, large, need=12.5) == {"s", "l"}


def test_who_holds_nothing_of_what_is_missing_stays() -> None:
    assert leaving(idle("x", on=GPU1, idle_since=0.0), idle("a"), need=10) == {"a"}


def test_nobody_is_chosen_when_all_together_would_not_do() -> None:
    assert choose_victims({GPU0: 20 * GIB}, [idle("a")]) == ()
    assert plan([newcomer(size=20, insisted=True), idle("a", 5)], cards(2), NOW).leave == {}


def test_room_is_made_on_all_the_pools_it_needs() -> None:
    wide = newcomer(expects={GPU0: 10 * GIB, GPU1: 10 * GIB}, turn=BOTH, insisted=True)

    made = plan([wide, idle("a"), idle("b", on=GPU1)], cards(2, 2), NOW)

    assert made.leave == {"a": "makes room for n on gpu0 and gpu1", "b": "makes room for n on gpu0 and gpu1"}
    assert made.hold == {"n": "waits for a and b to make room on gpu0 and gpu1"}


def test_one_with_nothing_known_makes_a_full_card_usable() -> None:
    made = plan([newcomer(expects={}, insisted=True), idle("a")], cards(1), NOW)

    assert made.leave == {"a": "makes room for n on gpu0"}


@pytest.mark.parametrize("meek", [{"queued": 0, "lasting": True, "due": None}, {"modest": True, "insisted": True}])
def test_some_never_displace_anybody(meek: dict[str, object]) -> None:
    made = plan([newcomer(**meek), idle("a")], cards(), NOW + 1000.0)

    assert (made.leave, made.close) == ({}, {})
    assert made.hold == {
        "n": "waits for room: it needs 10.0 GiB on gpu0 and 0.0 GiB are free for it: "
        "2.0 GiB free, and 2.0 GiB stay free"
    }


# --- when: idle ones -------------------------------------------------------------------------------------------------


def test_an_idle_one_lingers_for_a_tenth_of_what_the_change_costs() -> None:
    tenants = [newcomer(load_s=2.0), idle("a", idle_since=NOW, load_s=3.0)]

    assert plan(tenants, cards(), NOW) == Plan(
        hold={"n": "waits a moment in case there is new work for a"}, look_again=NOW + 0.5
    )
    assert plan(tenants, cards(), NOW + 0.5) == Plan(
        leave={"a": "makes room for n on gpu0"}, hold={"n": "waits for a to make room on gpu0"}, look_again=NOW + 30.0
    )


def test_an_idle_one_lingers_for_a_second_at_most() -> None:
    tenants = [newcomer(load_s=60.0), idle("a", idle_since=NOW)]

    assert plan(tenants, cards(), NOW).look_again == NOW + 1.0
    assert plan(tenants, cards(), NOW, PlacementPolicy(linger_s=0.0)).leave == {"a": "makes room for n on gpu0"}


@pytest.mark.parametrize("pressing", [{"insisted": True}, {"due": NOW - 30.0}])
def test_nobody_lingers_when_the_newcomer_cannot_wait(pressing: dict[str, object]) -> None:
    assert "a" in plan([newcomer(**pressing), idle("a", idle_since=NOW)], cards(), NOW).leave


def test_after_a_change_the_next_waits_until_the_one_that_came_has_settled() -> None:
    came = busy("c", 6, ready_since=NOW)
    tenants = [newcomer(size=6), idle("a", 6), came]

    assert plan(tenants, cards(3), NOW).look_again == NOW + 10.0  # its residence
    assert plan([newcomer(size=6, load_s=1.0), *tenants[1:]], cards(3), NOW).look_again == NOW + 6.0  # the cost
    assert plan(tenants, cards(3), NOW + 10.0).leave == {"a": "makes room for n on gpu0"}
    assert plan([*tenants[:2], replace(came, in_flight=0)], cards(3), NOW).leave == {"a": "makes room for n on gpu0"}
    assert plan([*tenants[:2], replace(came, holds={}, expects={})], cards(3), NOW).leave != {}  # it lives elsewhere


# --- when: working ones ----------------------------------------------------------------------------------------------


def test_a_working_one_goes_on_until_the_newcomer_has_waited_for_long() -> None:
    tenants = [newcomer(), busy("a")]

    assert plan(tenants, cards(), NOW + 29.9) == Plan(
        hold={"n": "waits for a to finish its work, until the oldest job has waited for 30 s"}, look_again=NOW + 30.0
    )
    assert plan(tenants, cards(), NOW + 30.0) == Plan(
        close={"a": "finishes what it has begun, and makes room for n on gpu0"},
        hold={"n": "waits for a to make room on gpu0"},
        look_again=NOW + 90.0,
    )


def test_a_closed_one_leaves_as_soon_as_nothing_is_in_flight() -> None:
    made = plan([newcomer(), busy("a", in_flight=0, queued=7)], cards(), NOW + 30.0)

    assert made.leave == {"a": "makes room for n on gpu0"}


def test_queued_jobs_are_work() -> None:
    made = plan([newcomer(), busy("a", in_flight=0, queued=7)], cards(), NOW)

    assert (made.leave, made.close) == ({}, {})


def test_a_victim_has_its_residence_first() -> None:
    tenants = [newcomer(due=NOW - 60.0), busy("a", ready_since=NOW - 4.0)]

    assert plan(tenants, cards(), NOW) == Plan(
        hold={"n": "waits for a to finish its work, or to have served for 10 s"}, look_again=NOW + 6.0
    )
    assert "a" in plan(tenants, cards(), NOW + 6.0).close


def test_an_operator_waits_only_for_what_is_in_flight() -> None:
    asked = newcomer(insisted=True, queued=0, due=None)

    assert "a" in plan([asked, busy("a", ready_since=NOW)], cards(), NOW).close


def test_a_newcomer_that_nobody_is_in_a_hurry_for() -> None:
    made = plan([newcomer(due=None), busy("a")], cards(), NOW + 1000.0)

    assert made == Plan(hold={"n": "waits for a to finish its work"})


def test_nobody_leaves_before_all_that_have_to_can() -> None:
    tenants = [newcomer(size=20), idle("i"), busy("w")]

    assert plan(tenants, cards(2), NOW).leave == {}
    made = plan(tenants, cards(2), NOW + 30.0)
    assert (set(made.leave), set(made.close)) == ({"i"}, {"w"})


# --- what has been released, and what not yet ------------------------------------------------------------------------


def test_memory_that_is_about_to_be_released_is_waited_for() -> None:
    gone = idle("g", standing=Standing.LEAVING)

    assert plan([newcomer(), gone, idle("a")], cards(2), NOW) == Plan(
        hold={"n": "waits for the memory of g to be released"}
    )


def test_what_leaves_gives_back_only_what_it_holds() -> None:
    half_gone = idle("g", standing=Standing.LEAVING, holds={GPU0: 5 * GIB})

    assert plan([newcomer(), half_gone, idle("a")], cards(2), NOW).leave != {}


def test_what_leaves_counts_until_it_is_gone_even_if_the_sample_does_not_show_it() -> None:
    unseen = idle("g", standing=Standing.LEAVING, holds={})  # it grew after the sample was taken

    assert plan([newcomer(), unseen], cards(13), NOW) == Plan(hold={"n": "waits for the memory of g to be released"})


def test_what_was_measured_while_leaving_can_be_used_before_the_rest() -> None:
    half_gone = idle("g", standing=Standing.LEAVING, expects={}, holds={GPU0: 5 * GIB})

    assert plan([newcomer()], cards(12), NOW) == plan([newcomer(), half_gone], cards(12), NOW) == Plan(admit=("n",))


# --- several in line -------------------------------------------------------------------------------------------------


def test_how_long_the_head_of_a_line_may_wait() -> None:
    first, second, third = (newcomer(n, due=d, load_s=4.0) for n, d in [("f", 0.0), ("s", 1.0), ("t", 2.0)])

    assert latest_start([first], 1) == 30.0
    assert latest_start([first, second], 1) == 1.0 + 30.0 - (4.0 + 10.0)
    assert latest_start([first, second, third], 1) == 2.0 + 30.0 - 2 * (4.0 + 10.0)
    assert latest_start([first, second, third], 2) == 2.0 + 30.0 - (4.0 + 4.0 + 10.0)  # two places: less in the way
    assert latest_start([first, second, third], 3) == 2.0 + 30.0 - (4.0 + 4.0)
    assert latest_start([first, replace(second, insisted=True)], 1) == float("-inf")


def test_the_head_is_let_in_early_enough_for_the_last() -> None:
    tenants = [newcomer("n"), newcomer("m"), busy("a")]

    assert plan(tenants, cards(), NOW).look_again == NOW + 30.0 - 15.0
    assert "a" in plan(tenants, cards(), NOW + 15.0).close


@pytest.mark.parametrize(
    "unrelated",
    [
        newcomer("m", 30),  # will never fit
        newcomer("m", on=GPU1),  # another card
        newcomer("m", modest=True),
        newcomer("m", expects={GPU0: 10 * GIB, "GPU-lost": GIB}),
        newcomer("m", expects={GPU1: GIB}, turn=BOTH),  # fits where the others do not matter to it
    ],
)
def test_only_rivals_count_in_the_line(unrelated: Tenant) -> None:
    assert plan([newcomer("n"), unrelated, busy("a")], cards(), NOW).look_again == NOW + 30.0


def test_two_newcomers_never_evict_on_the_same_pool() -> None:
    made = plan([newcomer("n"), newcomer("m", rank=NOW + 1), idle("a"), idle("b")], cards(2), NOW)

    assert made.leave == {"a": "makes room for n on gpu0"}
    assert made.hold["m"] == "waits for n to get its place on gpu0 first"


def test_on_different_pools_they_do() -> None:
    made = plan([newcomer("n"), newcomer("m", on=GPU1), idle("a"), idle("b", on=GPU1)], cards(2, 2), NOW)

    assert set(made.leave) == {"a", "b"}


def test_who_leaves_for_the_first_is_not_counted_for_the_second() -> None:
    host = {HOST: Pool(HOST, "host", 64 * GIB, 4 * GIB, 2 * GIB)}
    shared = idle("a", expects={GPU0: 11 * GIB, HOST: 9 * GIB}, holds={GPU0: 11 * GIB, HOST: 9 * GIB})
    second = Tenant("m", Standing.WAITING, {HOST: 8 * GIB}, queued=1, due=NOW, rank=NOW + 1)

    made = plan([newcomer("n"), second, shared], cards(2) | host, NOW)

    assert made.hold["m"] == "waits for the memory of a to be released"


def test_room_that_is_being_made_is_kept() -> None:
    gone = idle("g", standing=Standing.LEAVING, turn=frozenset())
    second = newcomer("m", 3, rank=NOW + 1)

    made = plan([newcomer("n", 14), second, gone], cards(5), NOW)
    assert made.admit == ()
    assert plan([newcomer("n", 10), second, gone], cards(5), NOW).admit == ("m",)  # leaves enough


def test_while_one_only_waits_for_its_time_others_start() -> None:
    tenants = [newcomer("n", 14), newcomer("m", 3, rank=NOW + 1), busy("a", 17)]

    assert plan(tenants, cards(5), NOW).admit == ("m",)
    overdue = plan(tenants, cards(5), NOW + 30.0)
    assert overdue.admit == ()
    assert overdue.hold["m"] == "waits for n to start on gpu0 first"


def test_what_is_kept_for_one_that_cannot_wait_also_covers_the_residence_of_its_victim() -> None:
    tenants = [newcomer("n", 14, due=0.0), newcomer("m", 3, rank=NOW + 1), busy("a", 17, ready_since=NOW)]

    made = plan(tenants, cards(5), NOW)

    assert (made.admit, made.close) == ((), {})


def test_who_will_leave_for_the_first_in_time_is_left_alone_by_the_second() -> None:
    tenants = [newcomer("n", 10), newcomer("m", 10, rank=NOW + 1), busy("a"), busy("b", ready_since=810.0)]

    made = plan(tenants, cards(2), NOW)

    assert made.hold["n"].startswith("waits for a to finish")
    assert made.hold["m"].startswith("waits for b to finish")


def test_while_another_starts_only_who_cannot_wait_has_room_made() -> None:
    starting = Tenant("s", Standing.STARTING, {GPU0: 6 * GIB}, {}, frozenset({GPU0}))
    tenants = [newcomer("n", 6), starting, idle("a", 6)]

    early = plan(tenants, cards(9), NOW)
    assert early.hold == {"n": "waits for s to finish starting on gpu0"}
    assert early.look_again == NOW + 30.0
    assert plan(tenants, cards(9), NOW + 30.0).leave == {"a": "makes room for n on gpu0"}
    assert plan(tenants[:2], cards(3), NOW + 30.0).hold == {"n": "waits for s to finish starting on gpu0"}
