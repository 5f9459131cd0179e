"""Jobs and backends as they look to each other: lines, views, who waits for whom, and what a reload does to jobs."""

from dataclasses import replace

import pytest

from supervisord.core import life
from supervisord.core.errors import (
    BackendStoppedError,
    DeadlineExceededError,
    JobCancelledError,
    ModelNotFoundError,
    QueueFullError,
    QueueTimeoutError,
)
from supervisord.core.job import FailureReason, Priority, Submission
from supervisord.core.memory import GIB
from supervisord.core.queue import QueuePolicy
from supervisord.core.routing import Route, Routes, Strategy
from supervisord.core.state import Phase, Want
from supervisord.engine.tickets import retried
from tests.engine.rig import CHAT, llama, remote, rig
from tests.fakes.engine import LOADING

STRANGER = 7


def ranked(model: str, priority: Priority) -> Submission:
    return Submission(CHAT, model, b"{}", priority=priority)


# --- one line for all names of a model -------------------------------------------------------------------------------


async def test_aliases_wait_in_one_line_in_the_order_of_their_arrival() -> None:
    async with rig(llama("a"), routes=[Route(("m", "alias", "other"), ("a",))]) as it:
        await it.up("a")
        running = it.submit("alias")
        waiting = [it.submit("other"), it.submit("m"), it.submit("alias")]
        assert [it.supervisor.dispatcher.position(t.job.id) for t in waiting] == [1, 2, 3]
        for ticket in waiting:
            assert not ticket.lease.done()
            it.end(running)
            assert ticket.lease.done()
            running = ticket
        it.end(running)
        assert it.supervisor.dispatcher.in_flight == 0


async def test_what_waits_for_a_backend_is_counted_over_all_its_models() -> None:
    routes = [Route(("m", "alias"), ("a", "b")), Route(("n",), ("b",)), Route(("z",), ("a",), last_resort=("b",))]
    async with rig(llama("a"), llama("b"), routes=routes, started=False) as it:
        outlook = it.supervisor.dispatcher.outlook
        assert outlook.waiting_for("b") == type(outlook.waiting_for("b"))()
        early = it.submit("m")
        await it.clock.advance(5)
        it.submit("alias")
        it.submit("n", submission=ranked("n", Priority.HIGH))
        it.submit("z")
        now = it.clock.monotonic()
        found = outlook.waiting_for("b")
        assert (found.queued, found.due) == (3, early.job.arrived)
        assert (found.rank, found.rank_since) == (now, now), "the high one is ordered before those that came earlier"
        found = outlook.waiting_for("a")
        assert (found.queued, found.due, found.rank_since) == (3, early.job.arrived, early.job.arrived)


async def test_jobs_count_for_a_last_resort_only_while_nobody_else_could_come() -> None:
    async with rig(llama("a"), llama("b"), routes=[Route(("m",), ("a",), last_resort=("b",))]) as it:
        it.processes.on_start = lambda process: process.site.answers.update({"/health": LOADING})
        outlook = it.supervisor.dispatcher.outlook
        it.submit("m")
        await it.clock.advance(1)
        assert (outlook.waiting_for("a").queued, outlook.waiting_for("b").queued) == (1, 0)
        it.processes.of("a").ends(1)
        await it.pass_until(lambda: it.phase("a") is Phase.BACKOFF)
        assert outlook.waiting_for("b").queued == 1
        assert it.phase("b") is not Phase.STOPPED


async def test_one_in_a_hurry_does_not_make_those_before_it_wait_longer() -> None:
    async with rig(llama("a"), started=False) as it:
        early = it.submit("a")
        await it.clock.advance(25)
        it.submit("a", submission=ranked("a", Priority.HIGH))
        found = it.supervisor.dispatcher.outlook.waiting_for("a")
        assert found.rank_since == it.clock.monotonic()
        assert found.due == early.job.arrived


async def test_whether_another_one_serves_them_is_told() -> None:
    routes = [Route(("m",), ("a", "b"), strategy=Strategy.PRIORITY)]
    async with rig(llama("a"), llama("b"), routes=routes) as it:
        await it.up("a")
        running = it.submit("m")
        it.submit("m")
        outlook = it.supervisor.dispatcher.outlook
        assert outlook.waiting_for("b").others_serve
        assert not outlook.waiting_for("a").others_serve
        it.end(running)


@pytest.mark.parametrize("order", [("n", "m"), ("m", "n")])
async def test_nobody_else_serves_them_while_one_of_the_models_has_nobody_else(order: tuple[str, str]) -> None:
    routes = {"n": Route(("n",), ("b",)), "m": Route(("m",), ("a", "b"))}
    async with rig(llama("a"), llama("b", 23.5), routes=[routes[name] for name in order]) as it:
        await it.up("a")
        it.submit("m")
        it.submit("m")
        assert it.supervisor.dispatcher.outlook.waiting_for("b").others_serve
        it.supervisor.dispatcher.queue.admit(it.job("n"), seconds_per_job=None)
        assert not it.supervisor.dispatcher.outlook.waiting_for("b").others_serve


async def test_one_that_would_help_out_and_is_then_needed_for_another_model_is_made_room_for() -> None:
    routes = [Route(("n",), ("b",)), Route(("m",), ("a", "b"))]
    async with rig(llama("a"), llama("b", 10), llama("other", 18), routes=routes) as it:
        it.processes.on_start = lambda process: process.holds(18 * GIB if process.spec.name == "other" else GIB)
        await it.up("a")
        await it.up("other")
        it.submit("m")
        it.submit("m")  # `b` would help out
        await it.clock.advance(1)
        assert it.supervisor.placer.start_of("b")[:2] == (True, True)
        it.submit("n")
        await it.pass_until(lambda: it.phase("b") is Phase.READY)
        assert it.phase("other") is Phase.STOPPED


# --- views -----------------------------------------------------------------------------------------------------------


async def test_a_view_shows_all_that_the_choice_goes_by() -> None:
    route = Route(("m",), ("a", "gone"), last_resort=("b",))
    async with rig(llama("a", 14, slots=2), llama("b", 14), routes=[route]) as it:
        it.processes.on_start = lambda process: process.holds(14 * GIB)
        await it.up("a")
        ticket = it.submit("m")
        outlook = it.supervisor.dispatcher.outlook
        outlook.paused, outlook.closed = {"a": "the host swaps"}, {"a": "makes room"}
        it["a"].used(first_byte_s=2.0)
        it["a"].used(first_byte_s=1.0)
        it["a"].post(life.LeaseEnded(1, served=False, failed=True))
        views = outlook.views(route, ticket.job)
        assert [v.name for v in views] == ["a", "b"], "what is not there cannot be chosen"
        a = views[0]
        assert (a.phase, a.want, a.slots, a.in_flight, a.room) == (Phase.READY, Want.UP, 2, 0, True)
        assert (a.paused, a.closed, a.failing) == (True, "makes room", True)
        assert a.latency_s == pytest.approx(2.0 + 0.3 * (1.0 - 2.0))
        assert (views[1].phase, views[1].waits_for_place, views[1].held) == (Phase.STOPPED, False, "")


async def test_the_size_of_the_job_decides_whether_there_is_room() -> None:
    async with rig(llama("a", slots=4)) as it:
        await it.up("a")
        it["a"]._actor.state = replace(it["a"].state, capacity=1000)
        it.submit("a", tokens=600)
        large = it.submit("a", tokens=500)
        assert not large.lease.done()
        assert it.supervisor.dispatcher.queue.waiting_for("a") == 1


async def test_small_requests_of_another_model_do_not_take_what_a_large_one_waits_for() -> None:
    async with rig(llama("a", slots=8), routes=[Route(("m",), ("a",)), Route(("n",), ("a",))]) as it:
        await it.up("a")
        it["a"]._actor.state = replace(it["a"].state, capacity=1000)
        first = it.submit("m", tokens=900)
        large = it.submit("m", tokens=800)
        small = it.submit("n", tokens=50)
        assert not large.lease.done()
        assert not small.lease.done()
        it.end(first)
        assert large.lease.done()
        assert small.lease.done(), "both fit now"


async def test_a_start_that_is_held_is_shown_as_such() -> None:
    async with rig(llama("a", 14)) as it:
        it.machine.cards[0].used[STRANGER] = 20 * GIB
        ticket = it.submit("a")
        await it.clock.advance(1)
        route = it.supervisor.routes.named("a")
        view = it.supervisor.dispatcher.outlook.views(route, ticket.job)[0]
        assert (view.phase, view.waits_for_place, view.modest) == (Phase.STARTING, True, False)
        assert "waits for room" in view.held
        assert "a waits for its place: waits for room" in ticket.waits_for


# --- how often -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("backends", "spare", "attempts"), [(1, 0, 2), (2, 0, 2), (1, 1, 2), (2, 1, 3), (5, 2, 3)])
async def test_a_job_is_tried_on_each_of_its_backends_within_bounds(backends: int, spare: int, attempts: int) -> None:
    names = [f"b{n}" for n in range(backends + spare)]
    route = Route(("m", "alias"), tuple(names[:backends]), last_resort=tuple(names[backends:]))
    async with rig(*(llama(name) for name in names), routes=[route], started=False) as it:
        assert it.supervisor.dispatcher.outlook.attempts_for(it.submit("alias").job) == attempts


# --- another configuration -------------------------------------------------------------------------------------------


async def test_jobs_of_a_model_that_is_gone_are_refused_and_the_others_stay() -> None:
    async with rig(llama("a"), llama("b"), started=False) as it:
        gone, stays = it.submit("a"), it.submit("b")
        it.supervisor.dispatcher.route_by(Routes([Route(("b",), ("b",))]))
        with pytest.raises(ModelNotFoundError, match='"a" was removed by a reload'):
            await gone.lease
        assert not stays.lease.done()
        assert len(it.supervisor.dispatcher.queue) == 1


async def test_jobs_whose_name_now_leads_elsewhere_wait_there_at_the_place_they_had() -> None:
    routes = [Route(("m", "alias"), ("a",)), Route(("n",), ("b",))]
    async with rig(llama("a"), llama("b"), routes=routes, started=False) as it:
        moved, stays = it.submit("alias"), it.submit("m")
        it.submit("n")
        it.supervisor.dispatcher.route_by(Routes([Route(("m",), ("a",)), Route(("n", "alias"), ("b",))]))
        assert not moved.lease.done()
        queue = it.supervisor.dispatcher.queue
        assert [job.id for job in queue.first_of_each_model()] == [moved.job.id, stays.job.id]
        assert (moved.job.line, queue.waiting_for("n"), queue.waiting_for("m")) == ("n", 2, 1)
        assert it.supervisor.dispatcher.cancel(moved.job.id)
        with pytest.raises(JobCancelledError):
            await moved.lease


async def test_names_that_nobody_knows_wait_in_the_line_of_the_default() -> None:
    async with rig(llama("a"), default="a", started=False) as it:
        unknown = it.submit("whatever")
        assert unknown.job.line == "a"
        it.supervisor.dispatcher.route_by(Routes(it.supervisor.routes.all, None))
        with pytest.raises(ModelNotFoundError):
            await unknown.lease


async def test_a_job_whose_model_was_removed_while_it_ran_is_not_tried_again_and_gives_its_slot_back() -> None:
    async with rig(llama("a"), llama("b")) as it:
        await it.up("a")
        lease = it.submit("a").lease.result()
        it.supervisor.dispatcher.route_by(Routes([Route(("b",), ("b",))]))
        with pytest.raises(ModelNotFoundError):
            it.supervisor.dispatcher.retry(lease, retried(lease.job, "a", 9999.0))
        assert (it["a"].state.in_flight, it["a"].state.failed_in_row) == (0, 1)
        with pytest.raises(ModelNotFoundError):
            it.supervisor.dispatcher.again(lease.job, lease.key)
        assert len(it.supervisor.dispatcher.queue) == 0


async def test_a_job_that_pauses_before_it_is_tried_again_comes_back_to_its_place() -> None:
    async with rig(llama("a")) as it:
        await it.up("a")
        lease = it.submit("a").lease.result()
        it.supervisor.dispatcher.give_back(lease, served=False)
        other = it.submit("a")
        behind = it.submit("a")
        back = it.supervisor.dispatcher.again(lease.job, lease.key)
        assert it.supervisor.dispatcher.position(lease.job.id) == 1
        it.end(other)
        assert back.lease.done()
        assert not behind.lease.done()


async def test_a_line_that_got_another_backend_is_served_by_it() -> None:
    async with rig(llama("a"), llama("b"), routes=[Route(("m",), ("a",))]) as it:
        await it.up("b")
        it["a"].post(life.StopAsked("operator", Want.DOWN))
        with pytest.raises(BackendStoppedError):
            it.submit("m")
        it["a"].post(life.StartAsked("operator"))
        it.processes.on_start = lambda process: process.site.answers.update({"/health": LOADING})
        waiting = it.submit("m")
        it.supervisor.dispatcher.route_by(Routes([Route(("m",), ("a", "b"))]))
        assert waiting.lease.result().backend.name == "b"


# --- the queue's own ends --------------------------------------------------------------------------------------------


async def test_a_job_that_waited_too_long_is_told_what_for() -> None:
    async with rig(llama("a", 14)) as it:
        it.machine.cards[0].used[STRANGER] = 20 * GIB
        late = it.submit("a", expires=it.clock.monotonic() + 5)
        hurried = it.submit("a", expires=it.clock.monotonic() + 3, expiry_reason=FailureReason.DEADLINE_EXCEEDED)
        await it.clock.advance(4)
        with pytest.raises(DeadlineExceededError, match=r"waited 3\.0 s .* before its deadline"):
            await hurried.lease
        assert not late.lease.done()
        await it.clock.advance(2)
        with pytest.raises(QueueTimeoutError, match=r"waited 5\.0 s .*a waits for its place: waits for room"):
            await late.lease


async def test_a_full_queue_refuses_and_a_cancelled_job_is_gone() -> None:
    async with rig(llama("a"), started=False) as it:
        it.supervisor.dispatcher.queue.limit_by(QueuePolicy(limit=1))
        waiting = it.submit("a")
        with pytest.raises(QueueFullError):
            it.submit("a")
        assert it.supervisor.dispatcher.cancel(waiting.job.id)
        with pytest.raises(JobCancelledError):
            await waiting.lease
        assert not it.supervisor.dispatcher.cancel(waiting.job.id)
        it.submit("a")


async def test_a_job_that_is_tried_again_keeps_its_place_and_avoids_who_failed_it() -> None:
    async with rig(llama("a"), llama("b"), routes=[Route(("m",), ("a", "b"))]) as it:
        await it.up("a")
        await it.up("b")
        first, second = it.submit("m"), it.submit("m")
        behind = it.submit("m")
        lease = first.lease.result()
        again = it.supervisor.dispatcher.retry(lease, retried(first.job, lease.backend.name, 9999.0))
        assert it[lease.backend.name].state.failed_in_row == 1
        assert again.lease.result().backend is lease.backend, "the other one is busy, and this one has the room"
        assert not behind.lease.done(), "what came later comes later"
        once_more = it.supervisor.dispatcher.retry(second.lease.result(), retried(second.job, "b", 9999.0))
        assert once_more.lease.done()
        assert not behind.lease.done()


async def test_a_slot_for_a_client_that_has_left_goes_to_the_next() -> None:
    async with rig(llama("a")) as it:
        await it.up("a")
        running, left, next_one = it.submit("a"), it.submit("a"), it.submit("a")
        left.lease.cancel()
        it.end(running)
        assert next_one.lease.done()
        assert it["a"].state.in_flight == 1
        it.supervisor.dispatcher.withdraw(left.job.id)


async def test_leases_of_a_generation_that_is_gone_are_ended_each_by_its_own_attempt() -> None:
    async with rig(llama("a", slots=2), remote("r")) as it:
        await it.up("a")
        told: list[tuple[FailureReason, str]] = []
        one, other = it.submit("a").lease.result(), it.submit("a").lease.result()
        one.fail = lambda reason, detail: told.append((reason, detail))
        other.fail = lambda reason, detail: told.append((reason, detail))
        it.supervisor.dispatcher.leases.fail("a", 7, FailureReason.BACKEND_DIED, "another generation")
        it.supervisor.dispatcher.leases.fail("r", 1, FailureReason.BACKEND_DIED, "another backend")
        assert not told
        it.processes.of("a").ends(1)
        await it.clock.advance(1)
        assert [reason for reason, _ in told] == [FailureReason.BACKEND_DIED] * 2
