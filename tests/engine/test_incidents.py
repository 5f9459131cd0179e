"""What is kept of the unwanted things that happen to backends, and how their stories end."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from supervisord.core import life
from supervisord.core.errors import SpawnError
from supervisord.core.exits import CauseKind, ExitCause
from supervisord.core.incident import LONGEST_S, SAMPLES_AFTER_S, SAMPLES_BEFORE_S, Incident, IncidentKind
from supervisord.core.job import JobStatus, Submission
from supervisord.core.ladder import Footprint
from supervisord.core.memory import GIB, MIB, GroupUsage
from supervisord.core.record import EventKind, EventRecord, JobResult
from supervisord.core.restart import RestartPolicy
from supervisord.core.state import LifePolicy, Phase, Want
from supervisord.core.terms import Origin, Terms
from supervisord.ports import IncidentFilter
from supervisord.runtimes.base import HttpAnswer
from tests.engine.overnight import ids
from tests.engine.rig import CHAT, Rig, Wire, llama, remote, rig
from tests.fakes.clock import FakeClock
from tests.fakes.engine import Processes, Site
from tests.fakes.records import a_job
from tests.fakes.told_servers import ToldServers

STRANGER = 99_999
CUDA = "alloc_buffer: allocating 4096.00 MiB on device 0: cudaMalloc failed: out of memory"


async def kept(it: Rig, backend: str = "a") -> list[Incident]:
    """The newest first, whole."""
    found = await it.store.incidents(IncidentFilter(backend=backend))
    whole = [await it.store.incident(each.id) for each in found]
    return [incident for incident in whole if incident is not None]


async def the_one(it: Rig, backend: str = "a") -> Incident:
    (incident,) = await kept(it, backend)
    return incident


async def test_an_unasked_exit_is_kept_with_all_that_is_known_and_how_it_went_on() -> None:
    async with rig(llama("a")) as it:
        await it.up("a")
        await it.clock.advance(130)
        job = it.submit("a")
        await it.clock.rest()
        process = it.processes.of("a")
        process.says(*(f"line {number}" for number in range(300)))
        process.ends(-11)
        await it.clock.advance(0.01)
        begun = await the_one(it)
        assert (begun.kind, begun.cause, begun.status, begun.generation) == (IncidentKind.EXIT, "crash", -11, 1)
        assert (begun.log[0], begun.log[-1], len(begun.log)) == ("line 100", "line 299", 200)
        assert begun.in_flight == (job.job.id,)
        assert (begun.facts["phase_before"], begun.facts["was_ready"], begun.facts["pids"]) == (
            "ready",
            True,
            [process.pid],
        )
        assert begun.ended_at is None
        first, last = begun.samples[0], begun.samples[-1]
        assert last["at"] - first["at"] > SAMPLES_BEFORE_S - 5  # type: ignore[operator]
        await it.pass_until(lambda: it.phase("a") is Phase.READY)
        over = await the_one(it)
        assert (over.id, over.outcome) == (begun.id, "ready again")
        assert over.ended_at is not None
        assert over.cost.downtime_s == pytest.approx(over.ended_at - over.at, abs=1e-3)
        assert over.cost.downtime_s > 0.5
        assert [step.what.partition(":")[0] for step in over.steps] == [
            "stopping",
            "backoff",
            "starting",
            "loading",
            "ready",
        ]
        assert len(over.samples) > len(begun.samples)
        assert over.log == begun.log
        assert it.told(EventKind.INCIDENT, "a") == [f"incident {over.id}: a: {over.summary}"]


async def test_its_samples_go_on_after_it_is_over() -> None:
    async with rig(llama("a")) as it:
        await it.up("a")
        await it.clock.advance(130)
        it.processes.of("a").ends(-11)
        await it.pass_until(lambda: it.phase("a") is Phase.READY)
        over = await the_one(it)
        await it.clock.advance(SAMPLES_AFTER_S + 1)
        whole = await the_one(it)
        assert replace(whole, samples=over.samples) == over
        assert len(whole.samples) > len(over.samples)
        last = whole.samples[-1]["at"]
        assert isinstance(last, float)
        assert SAMPLES_AFTER_S - 5 < last - whole.at <= SAMPLES_AFTER_S


async def test_a_daemon_that_goes_down_waits_for_no_samples() -> None:
    async with rig(llama("a")) as it:
        await it.up("a")
        it.processes.of("a").ends(-11)
        await it.pass_until(lambda: it.phase("a") is Phase.READY)
        over = await the_one(it)
        it.supervisor.incidents.close()
        await it.clock.advance(SAMPLES_AFTER_S + 1)
        assert await the_one(it) == over


async def test_out_of_memory_tells_the_smaller_size_it_came_back_with() -> None:
    async with rig(llama("a", footprint=Footprint(context=8192))) as it:
        await it.up("a")
        it.processes.of("a").says(CUDA)
        it.processes.of("a").ends(1)
        await it.pass_until(lambda: it.phase("a") is Phase.READY)
        incident = await the_one(it)
        assert (incident.cause, incident.outcome) == ("gpu_oom", "ready again on rung 1")
        assert any("goes to rung 1" in step.what for step in incident.steps)


async def test_a_shortage_that_keeps_it_from_starting_is_told_once() -> None:
    async with rig(llama("a", life=LifePolicy(restart=RestartPolicy(max_failures=3, cap_s=2.0)))) as it:
        await it.up("a")
        it.processes.problem = SpawnError("Too many open files", permanent=False, shortage=True)
        it.processes.of("a").ends(-11)
        await it.pass_until(lambda: it["a"].state.generation > 7)
        assert it.phase("a") in {Phase.STARTING, Phase.BACKOFF}
        it.processes.problem = None
        await it.pass_until(lambda: it.phase("a") is Phase.READY)
        refused, crashed = await kept(it)
        assert (refused.kind, refused.cause, refused.outcome) == (IncidentKind.REFUSED, "exhausted", "ready again")
        assert crashed.cause == "crash"

        it.processes.of("a").ends(-11)
        await it.clock.advance(0.01)
        it.processes.problem = SpawnError("Too many open files", permanent=False, shortage=True)
        await it.pass_until(lambda: it["a"].state.cause is not None and it["a"].state.cause.kind == "exhausted")
        assert [one.cause for one in await kept(it)] == ["exhausted", "crash", "exhausted", "crash"], "another one"


async def test_a_server_elsewhere_that_falls_silent_is_out_of_reach() -> None:
    async with rig(remote("a")) as it:
        it.machine.sites[4000] = site = Site({"/v1/models": HttpAnswer(200, b'{"data": []}')})
        it["a"].post(life.StartAsked("by hand"))
        await it.pass_until(lambda: it.phase("a") is Phase.READY)
        site.answers["/v1/models"] = HttpAnswer(502, b"")
        await it.pass_until(lambda: it.phase("a") is Phase.BACKOFF)
        silent = await the_one(it)
        assert (silent.kind, silent.cause, silent.status) == (IncidentKind.EXIT, "unreachable", 0)
        assert "status 502" in silent.summary
        assert next(rule.rule for rule in silent.verdict if rule.matched) == "unreachable"


@pytest.mark.parametrize(("kills", "cause"), [(1, "host_oom"), (0, "killed"), (None, "killed")])
async def test_a_kill_by_systemd_oomd_is_one_for_memory(kills: int | None, cause: str) -> None:
    async with rig(llama("a")) as it:
        await it.up("a")
        it.processes.of("a").group = GroupUsage(oomd_kills=kills)
        it.processes.of("a").ends(-9)
        await it.clock.advance(0.01)
        assert (await the_one(it)).cause == cause


XID = "NVRM: Xid (PCI:0000:02:00): 79, GPU has fallen off the bus."


@pytest.mark.parametrize(("told", "causes"), [(True, ["crash", "device_lost"]), (False, ["device_lost"] * 2)])
async def test_a_gpu_that_failed_is_blamed_for_the_ends_of_those_who_used_it(*, told: bool, causes: list[str]) -> None:
    async with rig(llama("a", gpus=("0",)), llama("b", gpus=("1",)), cards=2) as it:
        for card in it.machine.cards:
            card.on_the_bus = told
        for name in ("a", "b"):
            await it.up(name)
        it.machine.gpu_lines = (XID,)
        for name in ("a", "b"):
            it.processes.of(name).ends(-6)
        await it.clock.advance(0.01)
        assert [(await the_one(it, name)).cause for name in ("a", "b")] == causes


async def test_what_was_asked_for_is_no_incident() -> None:
    async with rig(llama("a")) as it:
        await it.up("a")
        it["a"].post(life.RestartAsked("by hand"))
        await it.clock.advance(5)
        it["a"].post(life.StopAsked("by hand", Want.DOWN))
        await it.clock.advance(5)
        assert await kept(it) == []


async def test_a_hang_is_kept_with_the_signal_that_ended_it() -> None:
    async with rig(llama("a")) as it:
        await it.up("a")
        it.submit("a")
        process = it.processes.of("a")
        process.obeys = False
        it["a"].post(life.Condemned(1, ExitCause(CauseKind.HANG, "nothing moved for 120 s")))
        await it.pass_until(lambda: it["a"].state.generation == 2 and it.phase("a") is Phase.READY)
        incident = await the_one(it)
        assert (incident.kind, incident.status, incident.summary) == (IncidentKind.HANG, -9, "nothing moved for 120 s")


async def test_what_it_said_as_it_ended_may_tell_more_than_what_it_was_ended_for() -> None:
    """A server that stood still for want of memory: its story is that, and not that of a hang."""
    async with rig(llama("a", footprint=Footprint(context=8192), life=LifePolicy(progress_s=20.0))) as it:
        await it.up("a")
        it.submit("a").lease.result().fail = lambda reason, detail: None
        it.processes.of("a").says(CUDA)
        await it.pass_until(lambda: it.phase("a") is Phase.SUSPECT)
        await it.pass_until(lambda: it.phase("a") is Phase.READY)
        incident = await the_one(it)
        assert (incident.kind, incident.cause) == (IncidentKind.EXIT, "gpu_oom")
        assert "out of memory" in incident.summary
        assert str(incident.facts["ended_for"]).startswith("work in flight, and nothing moved")
        assert incident.facts["evidence"] == list(it["a"].state.cause.evidence)  # type: ignore[union-attr]


async def test_a_long_load_after_it_is_part_of_its_cost() -> None:
    async with rig(llama("a")) as it:
        await it.up("a")
        it.processes.on_start = lambda process: process.site.answers.update({"/health": HttpAnswer(503, b"")})
        it.processes.of("a").ends(-11)
        for _ in range(100):
            await it.clock.advance(5.0)
            if it.phase("a") is Phase.LOADING:
                it["a"].post(life.Progressed(it["a"].state.generation))
        half = await the_one(it)
        assert (half.ended_at, len(half.samples) > 50) == (None, True), "the time around it has been kept by now"
        it.processes.of("a").site.answers["/health"] = HttpAnswer(200, b"")
        await it.pass_until(lambda: it.phase("a") is Phase.READY)
        over = await the_one(it)
        assert over.samples == half.samples
        assert over.cost.downtime_s > 500.0


async def test_a_job_that_is_lost_on_another_backend_was_lost_by_this() -> None:
    async with rig(llama("a"), llama("b")) as it:
        await it.up("a")
        ticket = it.submit("a")
        await it.clock.rest()
        it.processes.of("a").ends(-11)
        await it.clock.advance(0.01)
        lost = JobResult(ticket.job.id, JobStatus.FAILED, it.clock.wall(), 0.0, 2, backend="b")
        it.supervisor.journal.finished(a_job(ticket.job.id), lost, None)
        it.supervisor.journal.finished(a_job("another"), replace(lost, job_id="another"), None)
        await it.pass_until(lambda: it.phase("a") is Phase.READY)
        assert (await the_one(it)).cost.jobs_failed == 1


@asynccontextmanager
async def serving(slots: int = 4) -> AsyncIterator[tuple[Rig, ToldServers]]:
    """A backend that answers within 10 s, and is up."""
    made: list[ToldServers] = []

    def servers(clock: FakeClock, processes: Processes) -> ToldServers:
        made.append(ToldServers(clock, processes, takes_s=10.0))
        return made[0]

    async with rig(llama("a", slots=slots), upstream=servers, ids=ids()) as it:
        await it.up("a")
        yield it, made[0]


def asked(text: str) -> Submission:
    body = json.dumps({"model": "a", "messages": [{"role": "user", "content": text}]}).encode()
    return Submission(CHAT, "a", body)


@pytest.mark.parametrize("sooner_s", [0.0, 0.06, 1.5], ids=lambda each: f"{each} s before its exit is told")
async def test_an_incident_names_the_durable_jobs_whose_connections_it_broke(sooner_s: float) -> None:
    async with serving() as (it, servers):
        accept = it.supervisor.durable.accept
        once = Terms(Origin.JOB, max_attempts=1)
        retried = [(await accept(asked(text), Terms(Origin.JOB))).job_id for text in ("one", "two")]
        alone = await accept(asked("three"), once)
        await it.clock.advance(1)
        address = servers.serving()[0].address
        servers.breaks(address)
        await it.clock.advance(sooner_s)
        it.processes.of("a").ends(-11)
        await it.pass_until(lambda: it.phase("a") is Phase.READY)
        incident = await the_one(it)
        assert incident.in_flight == (*retried, alone.job_id)
        assert all(backend == "a" for backend in (e.backend for e in of_kind(it, EventKind.RETRY)))
        assert [event.generation for event in of_kind(it, EventKind.RETRY)] == [1] * incident.cost.jobs_retried
        assert (incident.cost.jobs_retried, incident.cost.jobs_failed) == (3, 0), "half a death is no whole failure"


def of_kind(it: Rig, kind: EventKind) -> list[EventRecord]:
    return [event for event in it.supervisor.journal.recent if event.kind is kind]


async def test_a_job_that_broke_off_counts_once_whatever_is_told_of_it() -> None:
    async with serving() as (it, servers):
        wire, other = Wire(), Wire()
        tasks = asyncio.get_running_loop()
        names: list[str] = []
        serve = it.supervisor.gateway.serve
        both = [tasks.create_task(serve(asked(text), each, names.append)) for text, each in (("x", wire), ("y", other))]
        await it.clock.advance(1)
        servers.breaks(servers.serving()[0].address)
        await it.clock.advance(0.06)
        it.processes.of("a").ends(-9)
        await it.clock.advance(0.01)
        assert (await the_one(it)).in_flight == tuple(names)
        await it.pass_until(lambda: all(each.done() for each in both))
        incident = await the_one(it)
        assert (incident.cost.jobs_retried, incident.cost.jobs_failed) == (2, 0)


async def test_a_start_that_is_refused() -> None:
    async with rig(llama("a")) as it:
        it.processes.problem = SpawnError("cannot start a: no such program", permanent=True)
        it["a"].post(life.StartAsked("by hand"))
        await it.pass_until(lambda: it.phase("a") is Phase.PARKED)
        incident = await the_one(it)
        assert (incident.kind, incident.permanent, incident.cause) == (IncidentKind.REFUSED, True, "configuration")
        assert incident.outcome == "parked: cannot start a: no such program"
        assert incident.cost.downtime_s == 0


async def test_one_that_cannot_be_killed_is_one_story() -> None:
    async with rig(llama("a", life=LifePolicy(kill_s=5.0))) as it:
        await it.up("a")
        process = it.processes.of("a")
        process.workers = (777,)
        process._go = lambda: None  # type: ignore[method-assign]  # stuck in the kernel
        process.ends(-11)
        await it.pass_until(lambda: it.phase("a") is Phase.UNKILLABLE)
        assert (await the_one(it)).kind is IncidentKind.EXIT, "as it was first told"
        await it.clock.advance(LONGEST_S + 1)
        incident = await the_one(it)
        assert incident.kind is IncidentKind.UNKILLABLE
        assert incident.outcome.startswith("it was not over by then")


async def test_crashes_in_a_row_are_one_incident_each() -> None:
    restart = RestartPolicy(max_failures=3)
    async with rig(llama("a", life=LifePolicy(restart=restart))) as it:
        it.processes.on_start = lambda process: process.ends(1)
        it["a"].post(life.StartAsked("by hand"))
        await it.pass_until(lambda: it.phase("a") is Phase.PARKED)
        last, middle, first = await kept(it)
        assert first.outcome.startswith("it went on with: ended by status 1")
        assert middle.outcome.startswith("it went on with: ")
        assert last.outcome.startswith("parked: 3 failures")
        assert all(each.ended_at is not None for each in (first, middle, last))


async def test_who_had_to_leave_for_the_machines_sake() -> None:
    async with rig(llama("a")) as it:
        await it.up("a")
        it.processes.of("a").holds(4 * GIB)
        await it.clock.advance(5)
        it.machine.cards[0].used[STRANGER] = 20 * GIB - 100 * MIB
        await it.pass_until(lambda: it.phase("a") is Phase.STOPPED)
        incident = await the_one(it)
        assert (incident.kind, incident.cause) == (IncidentKind.EVICTED, "")
        assert incident.summary == "gpu0 is short of memory: 100 MiB are free"
        assert incident.outcome == "stopped: left: gpu0 is short of memory: 100 MiB are free"


async def test_who_had_to_come_back_smaller() -> None:
    async with rig(llama("a", footprint=Footprint(context=8192))) as it:
        await it.up("a")
        it.machine.rss[it.processes.of("a").pid] = GIB
        ticket = it.submit("a")
        await it.clock.advance(5)
        it.machine.stall = 60.0
        await it.pass_until(lambda: it["a"].state.rung == 1)
        it.machine.stall = 0.0
        it.end(ticket)
        await it.pass_until(lambda: it.phase("a") is Phase.READY)
        incident = await the_one(it)
        assert (incident.kind, incident.in_flight) == (IncidentKind.SHRUNK, (ticket.job.id,))
        assert incident.outcome == "ready again on rung 1"


async def test_a_story_that_the_daemon_does_not_live_to_see_the_end_of() -> None:
    async with rig(llama("a")) as it:
        await it.up("a")
        it.processes.of("a").ends(-11)
        await it.clock.advance(0.01)
        it.supervisor.incidents.close()
        incident = await the_one(it)
        assert incident.outcome == "the daemon went down"
    assert replace(incident, id="") != incident
