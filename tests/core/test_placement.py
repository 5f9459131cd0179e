"""Who may start: room, turns, problems, order; nobody is made to leave here."""

from dataclasses import replace

import pytest

from supervisord.core.memory import GIB
from supervisord.core.placement import HOST, Holder, Plan, Pool, Standing, Tenant, plan

GPU0, GPU1 = "GPU-aaaa", "GPU-bbbb"
NOW = 1000.0


def gpu0(free: float = 24.0, **changes: object) -> Pool:
    return replace(Pool(GPU0, "gpu0", 24 * GIB, int(free * GIB), 2 * GIB), **changes)


def pools(*some: Pool) -> dict[str, Pool]:
    return {pool.key: pool for pool in some}


def waiting(name: str, size: float = 10.0, on: str = GPU0, **changes: object) -> Tenant:
    tenant = Tenant(
        name, Standing.WAITING, {on: int(size * GIB)}, turn=frozenset({on}), queued=1, due=NOW, rank=NOW, load_s=5.0
    )
    return replace(tenant, **changes)


def there(name: str, size: float = 10.0, on: str = GPU0, **changes: object) -> Tenant:
    """A resident that is idle and takes what it expects."""
    held = {on: int(size * GIB)}
    tenant = Tenant(name, Standing.RESIDENT, held, held, frozenset({on}), idle_since=900.0, ready_since=800.0)
    return replace(tenant, **changes)


def test_nobody_waits_and_nothing_is_done() -> None:
    assert plan([there("a"), Tenant("b", Standing.AWAY)], pools(gpu0(14)), NOW) == Plan()


def test_what_fits_is_admitted() -> None:
    assert plan([waiting("a")], pools(gpu0()), NOW) == Plan(admit=("a",))


@pytest.mark.parametrize(("free", "fits"), [(12.0, True), (11.9, False)])
def test_the_reserve_is_left_alone(free: float, fits: bool) -> None:
    assert (plan([waiting("a", 10)], pools(gpu0(free)), NOW).admit == ("a",)) is fits


@pytest.mark.parametrize("standing", [Standing.STARTING, Standing.RESIDENT])
def test_what_others_will_still_grow_to_is_not_given_away(standing: Standing) -> None:
    growing = there("b", 8, standing=standing, holds={GPU0: 2 * GIB}, pinned=True, turn=frozenset())

    assert plan([waiting("a", 10), growing], pools(gpu0(18)), NOW).admit == ("a",)
    assert plan([waiting("a", 10), growing], pools(gpu0(17.9)), NOW).admit == ()


def test_who_takes_more_than_expected_is_charged_what_was_measured() -> None:
    greedy = there("b", 8, holds={GPU0: 12 * GIB}, pinned=True)

    assert plan([waiting("a", 10), greedy], pools(gpu0(12)), NOW).admit == ("a",)


def test_one_start_on_a_pool_at_a_time() -> None:
    made = plan(
        [waiting("a", 4), waiting("b", 4), waiting("c", 4, GPU1)],
        pools(gpu0(), Pool(GPU1, "gpu1", 24 * GIB, 24 * GIB, 0)),
        NOW,
    )

    assert made.admit == ("a", "c")
    assert made.hold == {"b": "waits for a to finish starting on gpu0"}


def test_a_start_that_is_under_way_has_the_turn() -> None:
    starting = there("b", 4, standing=Standing.STARTING, holds={})

    assert plan([waiting("a", 4), starting], pools(gpu0()), NOW).hold == {"a": "waits for b to finish starting on gpu0"}


def test_room_is_kept_for_who_only_waits_for_its_turn() -> None:
    host = Pool(HOST, "host", 64 * GIB, 12 * GIB, 2 * GIB)
    starting = there("x", 1, standing=Standing.STARTING)
    first = waiting("a", 4, expects={GPU0: 4 * GIB, HOST: 8 * GIB}, rank=1.0)
    second = Tenant("b", Standing.WAITING, {HOST: 4 * GIB}, turn=frozenset({HOST}), queued=1, due=NOW, rank=2.0)

    made = plan([starting, first, second], pools(gpu0(), host), NOW)

    assert made.admit == ()
    assert "b" in made.hold
    assert plan([starting, replace(first, standing=Standing.AWAY), second], pools(gpu0(), host), NOW).admit == ("b",)


def test_a_problem_of_a_pool_holds_all_starts_on_it() -> None:
    made = plan([waiting("a", 4), waiting("b", 4, GPU1)], pools(gpu0(problem="the last sample is 12 s old")), NOW)

    assert made.hold == {
        "a": "gpu0: the last sample is 12 s old",
        "b": f"{GPU1}: there is no such memory, or it is not measured",
    }


def test_a_problem_of_the_pool_of_its_turn_counts_too() -> None:
    blind = waiting("a", expects={})

    assert plan([blind], pools(gpu0(problem="lost")), NOW).hold == {"a": "gpu0: lost"}


def test_who_cannot_fit_into_an_empty_pool_never_will() -> None:
    made = plan([waiting("a", 23)], pools(gpu0()), NOW)

    assert made.never == {"a": "it needs 23.0 GiB on gpu0, which has 24.0 GiB with 2.0 GiB of it kept in reserve"}


def test_the_host_counts_as_any_other_pool() -> None:
    host = Pool(HOST, "host", 32 * GIB, 20 * GIB, 2 * GIB)
    both = {GPU0: 4 * GIB, HOST: 31 * GIB}

    assert "31.0 GiB on host" in plan([waiting("a", expects=both)], pools(gpu0(), host), NOW).never["a"]
    assert (
        "needs 19.0 GiB on host"
        in plan([waiting("a", expects=both | {HOST: 19 * GIB})], pools(gpu0(), host), NOW).hold["a"]
    )


@pytest.mark.parametrize(("free", "starts"), [(2.0, True), (1.9, False)])
@pytest.mark.parametrize("expects", [{}, {GPU0: 0}])
def test_who_needs_nothing_known_starts_above_the_reserve(free: float, starts: bool, expects: dict[str, int]) -> None:
    growing = there("b", 20, holds={GPU0: 1 * GIB}, pinned=True)  # what it may still take is its own affair

    made = plan([waiting("a", expects=expects), growing], pools(gpu0(free)), NOW)

    assert (made.admit == ("a",)) is starts
    if not starts:
        assert made.hold["a"] == (
            "waits for room: gpu0 is below its reserve: 1.9 GiB free, and 2.0 GiB stay free (b is pinned (20.0 GiB))"
        )


def test_nobody_needs_it_any_more() -> None:
    made = plan([waiting("a", queued=0), waiting("b", queued=0, lasting=True)], pools(gpu0()), NOW)

    assert made.withdraw == {"a": "nobody needs it any more"}
    assert made.admit == ("b",)


# --- order -----------------------------------------------------------------------------------------------------------


def test_the_order_of_those_that_wait() -> None:
    line = [
        waiting("kept", queued=0, lasting=True, rank=None, due=None, priority=1),
        waiting("dear", queued=0, lasting=True, rank=None, due=None, priority=2),
        waiting("nobody knows"),
        waiting("helps out", rank=0.0, modest=True),
        waiting("later", rank=7.0, due=1.0),
        waiting("first", rank=5.0, due=9.0),
        waiting("second", rank=5.0, due=10.0),
        waiting("asked", queued=0, insisted=True, rank=None, due=None),
    ]
    line[2] = replace(line[2], rank=None, due=None)
    order = []
    while line:
        (name,) = plan(line, pools(gpu0()), NOW).admit
        order.append(name)
        line = [t for t in line if t.name != name]

    assert order == ["asked", "first", "second", "later", "nobody knows", "helps out", "dear", "kept"]


def test_who_was_served_while_another_waited_comes_after_it() -> None:
    batch = waiting("batch", rank=0.0, due=0.0, idle_since=NOW)
    other = waiting("other", rank=NOW - 30.0, due=NOW - 30.0)

    assert plan([batch, other], pools(gpu0()), NOW).admit == ("other",)
    urgent = replace(batch, rank=NOW - 60.0, rank_since=NOW - 1.0)  # a first job that came late, with a high priority
    assert plan([urgent, other], pools(gpu0()), NOW).admit == ("batch",)


def test_others_go_ahead_where_there_is_no_room_for_the_first() -> None:
    made = plan([waiting("big", 20, rank=1.0), waiting("small", 4, rank=2.0)], pools(gpu0(16)), NOW)

    assert made.admit == ("small",)


# --- why there is no room --------------------------------------------------------------------------------------------


def test_what_is_in_the_way_is_named() -> None:
    foreign = tuple(Holder(pid, "python", size * GIB) for pid, size in [(1, 1), (2, 4), (3, 2), (4, 3)])
    pool = gpu0(3, foreign=(*foreign, Holder(5, "Xorg", None)), unexplained=GIB // 2)
    residents = [there("p", 6, pinned=True), there("s", 5, standing=Standing.STARTING, turn=frozenset())]

    assert plan([waiting("a", 12), *residents], pools(pool), NOW).hold["a"] == (
        "waits for room: it needs 12.0 GiB on gpu0 and 1.0 GiB are free for it: 3.0 GiB free, and 2.0 GiB stay "
        "free (p is pinned (6.0 GiB); s is starting (5.0 GiB); pid 2 (python) holds 4.0 GiB; pid 4 (python) holds "
        "3.0 GiB; pid 3 (python) holds 2.0 GiB; 2 more processes hold some; "
        "0.5 GiB are held by no process that can be seen; not released yet?)"
    )


def test_a_holder_of_unknown_size() -> None:
    made = plan([waiting("a", 12)], pools(gpu0(3, foreign=(Holder(5, "Xorg", None),))), NOW)

    assert made.hold["a"].endswith(
        "1.0 GiB are free for it: 3.0 GiB free, and 2.0 GiB stay free (pid 5 (Xorg) holds an unknown share)"
    )


def test_no_room_and_nobody_to_name() -> None:
    assert plan([waiting("a", 12)], pools(gpu0(1)), NOW).hold == {
        "a": "waits for room: it needs 12.0 GiB on gpu0 and 0.0 GiB are free for it: "
        "1.0 GiB free, and 2.0 GiB stay free"
    }


# --- time to live ----------------------------------------------------------------------------------------------------


def test_who_has_had_no_work_for_its_ttl_leaves() -> None:
    resident = there("a", idle_since=970.0, ttl_s=30.0)

    assert plan([resident], pools(gpu0(14)), 999.0) == Plan(look_again=1000.0)
    assert plan([resident], pools(gpu0(14)), 1000.0) == Plan(leave={"a": "no work for 30 s"})


@pytest.mark.parametrize("busy", [{"in_flight": 1}, {"queued": 1}, {"pinned": True}, {"ttl_s": None}])
def test_who_has_work_or_is_pinned_stays(busy: dict[str, object]) -> None:
    resident = there("a", idle_since=0.0, **({"ttl_s": 30.0} | busy))

    assert plan([resident], pools(gpu0(14)), NOW) == Plan()


def test_room_that_a_ttl_makes_is_waited_for() -> None:
    made = plan([there("a", idle_since=0.0, ttl_s=30.0), waiting("b")], pools(gpu0(4)), NOW)

    assert made.leave == {"a": "no work for 30 s"}
    assert made.hold == {"b": "waits for the memory of a to be released"}
