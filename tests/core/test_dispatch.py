"""Which backend takes a job."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisord.core.dispatch import BackendView, Choice, Outlook, Reject, Serve, Wait, Wake, choose
from supervisord.core.errors import BackendParkedError, BackendStoppedError, ModelNotFoundError
from supervisord.core.job import Job, Submission
from supervisord.core.routing import Route, Strategy
from supervisord.core.state import Phase, Want

JOB = Job("j", Submission("/v1/completions", "m", b"{}"), 0.0, 0.0, 600.0)
BURNT = replace(JOB, avoid=frozenset({"left"}))
READY = BackendView("left", Phase.READY, Want.UP, "", slots=1, in_flight=0, room=True)
OTHER = replace(READY, name="right")
THIRD = replace(READY, name="third")
ONE = Route(("m",), ("left",))
SPREAD = Route(("m",), ("left", "right", "third"))
ORDER = replace(SPREAD, strategy=Strategy.PRIORITY)
FASTEST = replace(SPREAD, strategy=Strategy.LATENCY)
CLOUD = Route(("m",), ("left", "right"), last_resort=("cloud",), strategy=Strategy.PRIORITY)


def busy(view: BackendView) -> BackendView:
    return replace(view, in_flight=view.slots, room=False)


def asleep(view: BackendView) -> BackendView:
    return replace(view, phase=Phase.STOPPED, want=Want.ON_DEMAND, room=False)


def at(phase: Phase, view: BackendView = READY, want: Want = Want.ON_DEMAND, reason: str = "") -> BackendView:
    return replace(view, phase=phase, want=want, reason=reason, room=phase is Phase.READY)


def placing(view: BackendView, held: str = "", *, modest: bool = False) -> BackendView:
    return replace(at(Phase.STARTING, view), waits_for_place=True, held=held, modest=modest)


# --- one backend -----------------------------------------------------------------------------------------------------


def test_a_route_without_backends() -> None:
    choice = choose(JOB, Route(("m",), ("gone",)), [READY])

    assert isinstance(choice, Reject)
    assert isinstance(choice.error, ModelNotFoundError)
    assert (choice.error.param, '"m"' in choice.error.message) == ("model", True)


def test_a_backend_with_room_serves() -> None:
    assert choose(JOB, ONE, [READY]) == Serve("left")
    assert choose(BURNT, ONE, [READY]) == Serve("left")


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


@pytest.mark.parametrize("strategy", Strategy)
@pytest.mark.parametrize(("phase", "want", "paused"), list(itertools.product(Phase, Want, [False, True])))
def test_a_single_backend(phase: Phase, want: Want, paused: bool, strategy: Strategy) -> None:
    expected = EXPECTED[phase][want is Want.DOWN]
    view = replace(at(phase, READY, want, "why"), paused=paused)
    choice = choose(JOB, replace(ONE, strategy=strategy), [view])

    if paused and expected in {Serve, Wake}:
        assert choice == Wait("left is held back by memory pressure")
    else:
        assert type(choice) is expected


@pytest.mark.parametrize(
    ("backend", "why"),
    [
        (busy(READY), "left is busy"),
        (replace(busy(READY), failing=True), "left is busy"),
        (at(Phase.LOADING), "left is loading"),
        (at(Phase.BACKOFF, reason="ended by signal 11"), "left is backoff: ended by signal 11"),
        (replace(READY, paused=True), "left is held back by memory pressure"),
        (replace(READY, closed="big needs its memory"), "left takes no new work: big needs its memory"),
        (replace(asleep(READY), held="too little VRAM"), "left is not started: too little VRAM"),
        (placing(READY), "left waits for its place"),
        (placing(READY, "python (pid 7) holds 20 GiB"), "left waits for its place: python (pid 7) holds 20 GiB"),
    ],
)
@pytest.mark.parametrize("strategy", Strategy)
def test_a_wait_says_what_for(backend: BackendView, why: str, strategy: Strategy) -> None:
    assert choose(JOB, replace(ONE, strategy=strategy), [backend]) == Wait(why)


@pytest.mark.parametrize("strategy", Strategy)
def test_a_job_waits_while_any_backend_may_serve_it_again(strategy: Strategy) -> None:
    route, parked = replace(SPREAD, strategy=strategy), at(Phase.PARKED)

    assert choose(JOB, route, [parked, at(Phase.LOADING, OTHER)]) == Wait("right is loading")
    assert choose(JOB, route, [parked, at(Phase.BACKOFF, OTHER)]) == Wait("right is backoff")
    assert choose(JOB, route, [parked, OTHER]) == Serve("right")


def test_a_wait_names_the_one_that_may_serve_soonest() -> None:
    views = [at(Phase.BACKOFF), at(Phase.SUSPECT, OTHER), placing(THIRD, "no memory")]

    assert choose(JOB, SPREAD, views) == Wait("third waits for its place: no memory")
    assert choose(BURNT, SPREAD, [at(Phase.LOADING), at(Phase.BACKOFF, OTHER)]) == Wait("left is loading")


def test_what_an_operator_stopped_is_told_with_the_way_back() -> None:
    choice = choose(JOB, ONE, [at(Phase.STOPPED, READY, Want.DOWN, "maintenance")])

    assert isinstance(choice, Reject)
    assert isinstance(choice.error, BackendStoppedError)
    assert choice.error.message == (
        'No backend can serve model "m" right now: left is stopped (maintenance). Start it with: supctl start left'
    )


@pytest.mark.parametrize("phase", [Phase.PARKED, Phase.UNKILLABLE])
def test_what_gave_up_is_told_with_its_reason_and_the_way_back(phase: Phase) -> None:
    stopped = at(Phase.STOPPED, READY, Want.DOWN)
    choice = choose(JOB, SPREAD, [stopped, at(phase, OTHER, reason="no such model file")])

    assert isinstance(choice, Reject)
    assert isinstance(choice.error, BackendParkedError)
    assert choice.error.message == (
        f'No backend can serve model "m" right now: left is stopped; right is {phase} (no such model file). '
        "See: supctl logs right; try again with: supctl reset right"
    )


def test_every_parked_backend_of_a_route_is_named_the_last_resort_too() -> None:
    cloud = at(Phase.PARKED, replace(READY, name="cloud"), reason="wrong key")
    choice = choose(JOB, CLOUD, [at(Phase.PARKED, reason="Xid 79"), at(Phase.PARKED, OTHER, reason="no file"), cloud])

    assert isinstance(choice, Reject)
    assert "left is parked (Xid 79); right is parked (no file); cloud is parked (wrong key)" in choice.error.message


# --- least_busy ------------------------------------------------------------------------------------------------------


def test_of_two_the_less_busy_serves_and_of_equals_the_first() -> None:
    left, right = replace(READY, slots=4, in_flight=2), replace(OTHER, slots=4, in_flight=1)

    assert choose(JOB, SPREAD, [left, right]) == Serve("right")
    assert choose(JOB, SPREAD, [replace(left, in_flight=1), right]) == Serve("left")
    assert choose(JOB, SPREAD, [right, replace(left, in_flight=1)]) == Serve("left")
    assert choose(JOB, SPREAD, [left, replace(right, slots=1, in_flight=0, room=False)]) == Serve("left")


def test_busy_is_counted_by_the_slot() -> None:
    assert choose(JOB, SPREAD, [replace(READY, slots=4, in_flight=2), replace(OTHER, slots=64, in_flight=20)]) == Serve(
        "right"
    )


@pytest.mark.parametrize("route", [SPREAD, FASTEST])
def test_what_fails_fast_attracts_nothing(route: Route) -> None:
    failing = replace(READY, failing=True, latency_s=0.001)

    assert choose(JOB, route, [failing, replace(OTHER, slots=4, in_flight=3, latency_s=5.0)]) == Serve("right")
    assert choose(JOB, route, [failing, busy(OTHER)]) == Serve("left")


def test_the_backend_that_failed_a_job_comes_last() -> None:
    assert choose(BURNT, SPREAD, [READY, replace(OTHER, slots=2, in_flight=1)]) == Serve("right")
    assert choose(BURNT, SPREAD, [READY, replace(OTHER, failing=True)]) == Serve("right")
    assert choose(BURNT, SPREAD, [READY, busy(OTHER)]) == Serve("left")


@pytest.mark.parametrize("route", [SPREAD, ORDER, FASTEST])
def test_the_backend_that_failed_a_job_is_woken_last(route: Route) -> None:
    assert choose(JOB, route, [asleep(READY), asleep(OTHER)]) == Wake("left")
    assert choose(BURNT, route, [asleep(READY), asleep(OTHER)]) == Wake("right")
    assert choose(BURNT, route, [asleep(READY)]) == Wake("left")


def test_a_busy_backend_is_helped_by_one_that_sleeps_where_that_costs_nobody_anything() -> None:
    assert choose(JOB, SPREAD, [busy(READY), asleep(OTHER)]) == Wake("right", modest=True)
    assert choose(JOB, SPREAD, [busy(READY), placing(OTHER, modest=True)]) == Wait("left is busy")
    assert choose(JOB, SPREAD, [busy(READY), placing(OTHER, modest=True), asleep(THIRD)]) == Wake("third", modest=True)
    assert choose(JOB, SPREAD, [busy(READY), replace(asleep(OTHER), held="no memory")]) == Wait("left is busy")


def test_one_is_woken_in_earnest_when_none_is_there() -> None:
    for gone in (at(Phase.PARKED), at(Phase.BACKOFF), at(Phase.SUSPECT), replace(READY, closed="big needs it")):
        assert choose(JOB, SPREAD, [gone, asleep(OTHER), asleep(THIRD)]) == Wake("right")
    assert choose(BURNT, SPREAD, [busy(READY), asleep(OTHER)]) == Wake("right"), "the busy one failed it"


def test_what_was_woken_to_help_out_is_wanted_in_earnest_once_it_is_the_only_hope() -> None:
    assert choose(JOB, SPREAD, [at(Phase.BACKOFF), placing(OTHER, modest=True)]) == Wake("right")
    assert choose(JOB, SPREAD, [at(Phase.BACKOFF), placing(OTHER)]) == Wait("right waits for its place")


@pytest.mark.parametrize("coming", [at(Phase.LOADING), at(Phase.STARTING), placing(READY)])
def test_while_one_is_coming_nobody_else_is_woken(coming: BackendView) -> None:
    assert isinstance(choose(JOB, SPREAD, [coming, asleep(OTHER)]), Wait)
    assert isinstance(choose(JOB, SPREAD, [busy(THIRD), coming, asleep(OTHER)]), Wait)
    assert choose(BURNT, SPREAD, [coming, asleep(OTHER)]) == Wake("right"), "the one that is coming failed it"


def test_one_that_is_held_for_memory_is_not_coming() -> None:
    assert choose(JOB, SPREAD, [placing(READY, "python holds 20 GiB"), asleep(OTHER)]) == Wake("right")


# --- latency ---------------------------------------------------------------------------------------------------------


def test_the_fastest_serves_while_it_has_room() -> None:
    slow, fast = replace(READY, latency_s=2.0), replace(OTHER, latency_s=0.2, slots=8, in_flight=7)

    assert choose(JOB, FASTEST, [slow, fast]) == Serve("right")
    assert choose(JOB, FASTEST, [slow, busy(fast)]) == Serve("left")
    assert choose(JOB, FASTEST, [slow, replace(fast, latency_s=2.0)]) == Serve("left")


def test_who_was_never_measured_gets_one_request_to_be_measured_by() -> None:
    known, unknown = replace(READY, latency_s=0.2), replace(OTHER, slots=4)

    assert choose(JOB, FASTEST, [known, unknown]) == Serve("right")
    assert choose(JOB, FASTEST, [known, replace(unknown, in_flight=1)]) == Serve("left")
    assert choose(JOB, FASTEST, [busy(known), replace(unknown, in_flight=1)]) == Serve("right")


# --- priority --------------------------------------------------------------------------------------------------------

BROKEN = [
    at(Phase.BACKOFF),
    at(Phase.PARKED),
    at(Phase.SUSPECT),
    at(Phase.STOPPING),
    at(Phase.DRAINING),
    at(Phase.UNKILLABLE),
    at(Phase.STOPPED, want=Want.DOWN),
    replace(asleep(READY), held="no memory"),
    placing(READY, "no memory"),
    replace(READY, paused=True),
    replace(READY, closed="big needs it"),
    replace(busy(READY), failing=True),
]


def test_the_first_that_works_serves_however_busy() -> None:
    assert choose(JOB, ORDER, [replace(READY, slots=4, in_flight=3), OTHER]) == Serve("left")
    assert choose(JOB, ORDER, [OTHER, replace(READY, failing=True)]) == Serve("left")


def test_a_busy_one_is_waited_for() -> None:
    assert choose(JOB, ORDER, [busy(READY), OTHER]) == Wait("left is busy")
    assert choose(JOB, ORDER, [busy(READY), asleep(OTHER)]) == Wait("left is busy")
    assert choose(JOB, ORDER, [at(Phase.BACKOFF), busy(OTHER), THIRD]) == Wait("right is busy")


@pytest.mark.parametrize("broken", BROKEN)
def test_what_does_not_work_is_passed_over(broken: BackendView) -> None:
    assert choose(JOB, ORDER, [broken, OTHER]) == Serve("right")
    assert choose(JOB, ORDER, [broken, asleep(OTHER), asleep(THIRD)]) == Wake("right")
    assert choose(JOB, ORDER, [broken, at(Phase.LOADING, OTHER), THIRD]) == Serve("third")


def test_what_failed_the_job_is_passed_over_and_comes_back_in_the_end() -> None:
    assert choose(BURNT, ORDER, [READY, OTHER]) == Serve("right")
    assert choose(BURNT, ORDER, [READY, busy(OTHER)]) == Wait("right is busy")
    assert choose(BURNT, ORDER, [READY, asleep(OTHER)]) == Wake("right")
    assert choose(BURNT, ORDER, [READY, at(Phase.PARKED, OTHER)]) == Serve("left")


def test_while_an_earlier_one_is_coming_a_later_one_serves_and_none_is_woken() -> None:
    coming = at(Phase.LOADING)

    assert choose(JOB, ORDER, [coming, OTHER]) == Serve("right")
    assert choose(JOB, ORDER, [coming, asleep(OTHER)]) == Wait("left is loading")
    assert choose(JOB, ORDER, [coming, busy(OTHER), THIRD]) == Wait("left is loading")
    assert choose(JOB, ORDER, [coming, asleep(OTHER), THIRD]) == Serve("third")
    assert choose(JOB, ORDER, [asleep(READY), at(Phase.LOADING, OTHER)]) == Wait("right is loading")


def test_an_earlier_one_that_sleeps_is_woken_besides() -> None:
    assert choose(JOB, ORDER, [asleep(READY), OTHER]) == Serve("right", wake="left")
    assert choose(JOB, ORDER, [asleep(READY), asleep(OTHER), THIRD]) == Serve("third", wake="left")
    assert choose(JOB, ORDER, [replace(asleep(READY), held="no memory"), OTHER]) == Serve("right")
    assert choose(JOB, ORDER, [asleep(READY), busy(OTHER), THIRD]) == Wake("left")


def test_strict_order_asks_in_earnest_of_one_that_was_to_help_out() -> None:
    assert choose(JOB, ORDER, [placing(READY, modest=True), asleep(OTHER)]) == Wake("left")


# --- the last resort -------------------------------------------------------------------------------------------------

REMOTE = replace(READY, name="cloud", slots=16)


@pytest.mark.parametrize("strategy", Strategy)
def test_the_last_resort_serves_when_all_others_fail(strategy: Strategy) -> None:
    route = replace(CLOUD, strategy=strategy)
    failing = [at(Phase.BACKOFF), at(Phase.PARKED), at(Phase.UNKILLABLE), at(Phase.STOPPED, want=Want.DOWN)]
    for left in [*failing, replace(busy(READY), failing=True)]:
        assert choose(JOB, route, [left, at(Phase.BACKOFF, OTHER), REMOTE]) == Serve("cloud")
        assert choose(JOB, route, [left, at(Phase.BACKOFF, OTHER), asleep(REMOTE)]) == Wake("cloud")
        assert choose(JOB, route, [left, at(Phase.BACKOFF, OTHER), busy(REMOTE)]) == Wait("cloud is busy")


@pytest.mark.parametrize("strategy", Strategy)
@pytest.mark.parametrize(
    "left",
    [
        READY, busy(READY), asleep(READY), at(Phase.LOADING), at(Phase.STARTING), at(Phase.SUSPECT), placing(READY),
        placing(READY, "no memory"), replace(READY, closed="big"), replace(READY, paused=True), at(Phase.STOPPING),
        replace(READY, failing=True),
    ],
)  # fmt: skip
def test_the_last_resort_is_not_for_busyness_nor_for_loading(left: BackendView, strategy: Strategy) -> None:
    choice = choose(JOB, replace(CLOUD, strategy=strategy), [left, at(Phase.BACKOFF, OTHER), REMOTE])

    assert choice not in (Serve("cloud"), Wake("cloud"), Wake("cloud", modest=True))


@pytest.mark.parametrize("strategy", Strategy)
def test_a_job_that_failed_everywhere_goes_to_the_last_resort_and_then_back(strategy: Strategy) -> None:
    route = replace(CLOUD, strategy=strategy)
    twice = replace(JOB, avoid=frozenset({"left", "right"}))
    thrice = replace(JOB, avoid=frozenset({"left", "right", "cloud"}))

    assert choose(BURNT, route, [READY, OTHER, REMOTE]) == Serve("right")
    assert choose(twice, route, [READY, OTHER, REMOTE]) == Serve("cloud")
    assert choose(twice, route, [READY, OTHER, at(Phase.BACKOFF, REMOTE)]) == Serve("left")
    assert choose(thrice, route, [READY, OTHER, REMOTE]) == Serve("left")
    assert choose(thrice, route, [at(Phase.PARKED), at(Phase.BACKOFF, OTHER), REMOTE]) == Serve("cloud")


def test_while_the_last_resort_is_down_the_job_waits_for_any_of_them() -> None:
    backoff = [at(Phase.BACKOFF), at(Phase.PARKED, OTHER)]

    assert choose(JOB, CLOUD, [*backoff, at(Phase.PARKED, REMOTE)]) == Wait("left is backoff")
    assert choose(JOB, CLOUD, [at(Phase.PARKED), at(Phase.PARKED, OTHER), at(Phase.BACKOFF, REMOTE)]) == Wait(
        "cloud is backoff"
    )


# --- whatever the backends are like ----------------------------------------------------------------------------------

NAMES = ("left", "right", "third", "cloud")


def a_view(name: str) -> st.SearchStrategy[BackendView]:
    return st.builds(
        BackendView,
        name=st.just(name),
        phase=st.sampled_from(Phase) | st.sampled_from([Phase.READY, Phase.STOPPED]),
        want=st.sampled_from([Want.UP, Want.ON_DEMAND, Want.DOWN]),
        reason=st.sampled_from(["", "why"]),
        slots=st.sampled_from([1, 4]),
        in_flight=st.integers(0, 4),
        room=st.booleans(),
        paused=st.sampled_from([False, False, True]),
        held=st.sampled_from(["", "no memory"]),
        waits_for_place=st.booleans(),
        modest=st.booleans(),
        closed=st.sampled_from(["", "", "big needs it"]),
        failing=st.booleans(),
        latency_s=st.none() | st.floats(0.0, 10.0),
    )


VIEWS = st.tuples(*(a_view(name) for name in NAMES))
JOBS = st.sets(st.sampled_from(NAMES)).map(lambda names: replace(JOB, avoid=frozenset(names)))
ROUTES = st.sampled_from(Strategy).map(lambda s: Route(("m",), NAMES[:3], last_resort=NAMES[3:], strategy=s))


def named(views: Sequence[BackendView], name: str) -> BackendView:
    return next(view for view in views if view.name == name)


@given(JOBS, ROUTES, VIEWS)
def test_what_is_chosen_can_do_it(job: Job, route: Route, views: Sequence[BackendView]) -> None:
    match choose(job, route, views):
        case Serve(backend=name, wake=besides):
            assert named(views, name).has_room
            assert not besides or named(views, besides).wakes
        case Wake(backend=name, modest=modest):
            view = named(views, name)
            assert view.wakes
            assert not (modest and view.phase is Phase.STARTING), "it would be asked for ever"
        case Wait(why=why):
            assert why
            assert any(view.outlook is not Outlook.GONE for view in views)
        case Reject():
            assert all(view.outlook is Outlook.GONE for view in views)


@given(JOBS, ROUTES, VIEWS)
def test_the_last_resort_is_the_last(job: Job, route: Route, views: Sequence[BackendView]) -> None:
    choice = choose(job, route, views)
    if isinstance(choice, Serve | Wake) and choice.backend == "cloud":
        assert all(view.name in job.avoid or view.outlook >= Outlook.FAILING for view in views[:3])


@given(JOBS, ROUTES, VIEWS)
def test_the_order_of_the_views_does_not_matter(job: Job, route: Route, views: Sequence[BackendView]) -> None:
    there, back = choose(job, route, views), choose(job, route, views[::-1])

    assert there == back or (isinstance(there, Reject) and isinstance(back, Reject))


@given(JOBS, ROUTES, VIEWS, st.sampled_from(NAMES[:3]))
def test_room_at_a_backend_never_takes_service_from_a_job(
    job: Job, route: Route, views: Sequence[BackendView], better: str
) -> None:
    had = choose(job, route, views)
    improved = [replace(READY, name=better) if view.name == better else view for view in views]
    choice = choose(job, route, improved)

    assert not isinstance(choice, Reject)
    if isinstance(had, Serve):
        assert isinstance(choice, Serve)
    if route.strategy is not Strategy.PRIORITY and better not in job.avoid:
        assert isinstance(choice, Serve)


@given(JOBS, VIEWS)
def test_in_strict_order_nothing_serves_behind_one_that_works(job: Job, views: Sequence[BackendView]) -> None:
    choice = choose(job, Route(("m",), NAMES, strategy=Strategy.PRIORITY), views)
    if isinstance(choice, Serve) and choice.backend not in job.avoid:
        earlier = list(itertools.takewhile(lambda view: view.name != choice.backend, views))
        assert not [v for v in earlier if v.outlook <= Outlook.BUSY and v.name not in job.avoid]
