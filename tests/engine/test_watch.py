"""What is seen of a backend: that it serves, that it moves, how loaded it is, and what the kernel did to it."""

import pytest

from supervisord.core import life
from supervisord.core.exits import CauseKind
from supervisord.core.job import FailureReason
from supervisord.core.life import LifePolicy, Phase, Want
from supervisord.core.memory import MIB
from supervisord.core.record import EventKind
from supervisord.core.restart import RestartPolicy
from supervisord.engine.backend import NEVER_PARKED
from supervisord.runtimes.base import BackendSpec, HttpAnswer, RuntimeKind
from tests.engine.rig import Rig, command, llama, remote, rig
from tests.fakes.engine import HANGS, LOADING, OK, Process, Site

PORT = 4000


def vllm(name: str = "v", slots: int = 8, **changes: object) -> BackendSpec:
    policy = LifePolicy(slots=slots, progress_s=60.0)
    return BackendSpec(name, RuntimeKind.VLLM, "org/model", (name,), life=policy, autostart=False, **changes)  # type: ignore[arg-type]


def figures(
    work: float = 0, waiting: float = 0, preempted: float = 0, kv_used: float = 0, kv_tokens: int = 0
) -> HttpAnswer:
    """/metrics as vLLM tells them."""
    lines = [
        f'vllm:generation_tokens_total{{engine="0"}} {work}',
        f'vllm:num_requests_waiting{{engine="0"}} {waiting}',
        f'vllm:num_preemptions_total{{engine="0"}} {preempted}',
        f'vllm:kv_cache_usage_perc{{engine="0"}} {kv_used}',
    ]
    if kv_tokens:
        lines.append(f'vllm:cache_config_info{{kv_cache_size_tokens="{kv_tokens}"}} 1.0')
    return HttpAnswer(200, "\n".join(lines).encode() + b"\n")


def posted(it: Rig, name: str, kind: type[life.Event]) -> list[life.Event]:
    """Every event of a kind from now on."""
    seen: list[life.Event] = []
    backend = it[name]
    plain = backend._actor.post

    def noting(event: life.Event) -> None:
        if isinstance(event, kind):
            seen.append(event)
        plain(event)

    backend._actor.post = noting  # type: ignore[method-assign]
    return seen


# --- loading ---------------------------------------------------------------------------------------------------------


async def test_it_is_ready_once_its_own_tree_answers_and_says_who_it_is() -> None:
    async with rig(llama("a")) as it:
        it.processes.on_start = lambda process: process.site.answers.update({"/health": LOADING})
        it["a"].post(life.StartAsked("operator"))
        await it.clock.advance(2)
        assert it.phase("a") is Phase.LOADING
        assert it["a"].generation is not None
        assert it["a"].generation.note == "loading the model"
        it.processes.of("a").site.answers["/health"] = OK
        await it.clock.advance(0.1)
        assert it.phase("a") is Phase.READY, "noticed within 100 ms"
        generation = it["a"].generation
        assert (generation.note, generation.identity.context_length) == ("", 4096)
        assert generation.loaded_in == pytest.approx(2.05, abs=0.1)


async def test_an_answer_of_somebody_else_on_its_port_is_none() -> None:
    async with rig(llama("a", port=9000)) as it:

        def not_listening_yet(process: Process) -> None:
            process.port = 1

        it.processes.on_start = not_listening_yet
        it["a"].post(life.StartAsked("operator"))
        await it.clock.advance(2)
        assert it.phase("a") is Phase.LOADING
        assert it["a"].generation is not None
        assert it["a"].generation.note == "port 9000 is answered by a process that is not ours"
        it.processes.of("a").port = 9000
        await it.clock.advance(0.2)
        assert it.phase("a") is Phase.READY


async def test_a_status_that_is_not_the_configured_one_is_told_while_it_loads() -> None:
    async with rig(command("c")) as it:
        it.processes.on_start = lambda process: process.site.answers.clear()
        it["c"].post(life.StartAsked("operator"))
        await it.clock.advance(1)
        assert it.phase("c") is Phase.LOADING
        assert it["c"].generation is not None
        assert it["c"].generation.note == "answers /health with status 404"


async def test_loading_goes_on_while_memory_grows_or_lines_come_and_stalls_when_neither_does() -> None:
    policy = LifePolicy(load_stall_s=10.0, restart=RestartPolicy(base_s=1000.0, cap_s=1000.0))
    async with rig(llama("a", life=policy)) as it:
        it.processes.on_start = lambda process: process.site.answers.update({"/health": HANGS})
        it["a"].post(life.StartAsked("operator"))
        await it.clock.advance(1)
        for step in range(4):
            it.machine.rss[it.processes.of("a").pid] = (step + 1) * 100 * MIB
            await it.clock.advance(8)
        assert it.phase("a") is Phase.LOADING
        for _ in range(4):
            it.processes.of("a").says("still at it")
            await it.clock.advance(8)
        assert it.phase("a") is Phase.LOADING
        await it.clock.advance(8)
        assert it.phase("a") in {Phase.STOPPING, Phase.BACKOFF}
        cause = it["a"].state.cause
        assert cause is not None
        assert cause.kind is CauseKind.LOAD_STALL


# --- the kernel ------------------------------------------------------------------------------------------------------


async def test_a_worker_that_the_kernel_killed_condemns_the_whole_backend() -> None:
    async with rig(llama("a")) as it:
        it.processes.on_start = lambda process: setattr(process, "workers", (process.pid + 500,))
        await it.up("a")
        ended: list[FailureReason] = []
        it.submit("a").lease.result().fail = lambda reason, detail: ended.append(reason)
        await it.clock.advance(3)
        process = it.processes.of("a")
        it.machine.kills = 1
        it.machine.killed = frozenset({process.pid + 500})
        await it.clock.advance(1.1)
        assert set(ended) == {FailureReason.BACKEND_OUT_OF_MEMORY}
        assert process.gone
        cause = it["a"].state.cause
        assert cause is not None
        assert cause.kind is CauseKind.KERNEL_OOM
        assert cause.evidence[0] == "/proc/vmstat oom_kill rose by 1"
        await it.pass_until(lambda: it.phase("a") is Phase.READY)
        assert it["a"].state.rung == 1


async def test_what_the_kernel_did_to_others_changes_nothing() -> None:
    async with rig(llama("a")) as it:
        await it.up("a")
        for killed in (frozenset({1}), None):
            it.machine.killed = killed
            assert it.machine.kills is not None
            it.machine.kills += 1
            await it.clock.advance(3)
        it.machine.kills = None
        await it.clock.advance(3)
        assert (it.phase("a"), it.processes.count("a")) == (Phase.READY, 1)


# --- an address elsewhere --------------------------------------------------------------------------------------------


async def test_an_address_that_answers_is_ready_and_is_asked_no_more_than_it_has_to_be() -> None:
    async with rig(remote("r", key="k3y", probe_interval_s=15.0)) as it:
        site = it.machine.sites[PORT] = Site({"/v1/models": HttpAnswer(200, b'{"data":[{"id":"gpt"}]}')})
        await it.up("r")
        assert it["r"].generation is not None
        assert it["r"].generation.identity.model == "gpt"
        assert it["r"].generation.pid is None
        asked = len(site.asked)
        await it.clock.advance(60)
        assert len(site.asked) - asked == 4
        assert {path for path, _ in site.asked} == {"/v1/models"}


async def test_one_that_does_not_answer_is_asked_again_later_and_never_given_up() -> None:
    async with rig(remote("r")) as it:
        it["r"].post(life.StartAsked("configured"))
        await it.pass_until(lambda: it.phase("r") is Phase.BACKOFF)
        assert "connection refused" in it["r"].state.reason
        await it.clock.advance(3600)
        assert it.phase("r") is not Phase.PARKED
        assert len(it["r"].state.failures) < NEVER_PARKED
        assert it["r"].state.restarts < 200, "with pauses that grow"
        it.machine.sites[PORT] = Site({"/v1/models": OK})
        await it.pass_until(lambda: it.phase("r") is Phase.READY, within_s=65)


async def test_one_that_is_overloaded_is_asked_again_later() -> None:
    async with rig(remote("r")) as it:
        it.machine.sites[PORT] = Site({"/v1/models": HttpAnswer(503, b"")})
        it["r"].post(life.StartAsked("configured"))
        await it.pass_until(lambda: it.phase("r") is Phase.BACKOFF)
        assert (it.phase("r"), it["r"].state.reason) == (Phase.BACKOFF, "answers /v1/models with status 503")


async def test_one_that_refuses_the_key_waits_for_somebody_to_mend_it() -> None:
    async with rig(remote("r")) as it:
        it.machine.sites[PORT] = Site({"/v1/models": HttpAnswer(401, b"")})
        it["r"].post(life.StartAsked("configured"))
        await it.clock.advance(1)
        assert (it.phase("r"), it["r"].state.deadline) == (Phase.PARKED, None)
        assert it["r"].state.reason == "answers /v1/models with status 401"
        await it.clock.advance(3600)
        assert it.phase("r") is Phase.PARKED


async def test_one_that_falls_silent_gets_no_work_until_it_answers_again() -> None:
    async with rig(remote("r", probe_interval_s=5.0)) as it:
        site = it.machine.sites[PORT] = Site({"/v1/models": OK})
        await it.up("r")
        site.answers["/v1/models"] = HANGS
        await it.pass_until(lambda: it.phase("r") is Phase.SUSPECT)
        assert not it.submit("r").lease.done()
        site.answers["/v1/models"] = OK
        await it.clock.advance(3.5)
        assert it.phase("r") is Phase.READY


async def test_one_that_stays_silent_ends_and_is_asked_again_later() -> None:
    async with rig(remote("r")) as it:
        site = it.machine.sites[PORT] = Site({"/v1/models": OK})
        await it.up("r")
        site.answers["/v1/models"] = HANGS
        await it.clock.advance(35)
        assert it.phase("r") is not Phase.SUSPECT
        assert it.told(EventKind.EXIT, "r")
        site.answers["/v1/models"] = OK
        await it.pass_until(lambda: it.phase("r") is Phase.READY)


async def test_an_operator_stops_one_at_once() -> None:
    async with rig(remote("r")) as it:
        it.machine.sites[PORT] = Site({"/v1/models": OK})
        await it.up("r")
        it["r"].post(life.StopAsked("operator", Want.DOWN))
        await it.clock.rest()
        assert it.phase("r") is Phase.STOPPED


# --- load and progress -----------------------------------------------------------------------------------------------


async def test_how_loaded_it_is_decides_how_much_it_is_given() -> None:
    async with rig(vllm()) as it:
        it.processes.on_start = lambda process: process.site.answers.update({"/metrics": figures(kv_tokens=16384)})
        await it.up("v")
        assert it["v"].state.capacity == 16384, "known with the first request"
        it.submit("v")
        measured = posted(it, "v", life.Measured)
        it.processes.of("v").site.answers["/metrics"] = figures(work=5, waiting=3, preempted=2, kv_tokens=16384)
        await it.clock.advance(1)
        it.processes.of("v").site.answers["/metrics"] = figures(work=9, waiting=0, preempted=2, kv_tokens=16384)
        await it.clock.advance(1)
        assert measured == [life.Measured(1, 3.0, 2.0, 16384), life.Measured(1, 0.0, 0.0, 16384)]
        assert it["v"].state.share == pytest.approx(0.7)


async def test_one_with_a_single_slot_is_not_asked_for_its_load() -> None:
    async with rig(vllm(slots=1)) as it:
        it.processes.on_start = lambda process: process.site.answers.update({"/metrics": figures()})
        await it.up("v")
        measured = posted(it, "v", life.Measured)
        it.submit("v")
        await it.clock.advance(5)
        assert measured == []


async def test_without_work_nobody_asks_for_counters() -> None:
    async with rig(llama("a")) as it:
        await it.up("a")
        asked = len([path for path, _ in it.processes.of("a").site.asked if path == "/metrics"])
        await it.clock.advance(20)
        assert len([path for path, _ in it.processes.of("a").site.asked if path == "/metrics"]) == asked


@pytest.mark.parametrize("moving", ["work", "kv_used", "bytes", "nothing"])
async def test_what_counts_as_progress(moving: str) -> None:
    """A long prompt sends nothing for minutes, and in chunks moves no counter but that of the cache."""
    async with rig(vllm()) as it:
        it.processes.on_start = lambda process: process.site.answers.update({"/metrics": figures(work=1)})
        await it.up("v")
        it.submit("v").lease.result().fail = lambda reason, detail: None
        for second in range(90):
            generation = it["v"].generation
            assert generation is not None
            match moving:
                case "work":
                    it.processes.of("v").site.answers["/metrics"] = figures(work=second)
                case "kv_used":
                    it.processes.of("v").site.answers["/metrics"] = figures(work=1, kv_used=second / 100)
                case "bytes":
                    generation.last_bytes = it.clock.monotonic()
                case _:
                    pass
            await it.clock.advance(1)
        hung = it.told(EventKind.EXIT, "v")
        assert bool(hung) == (moving == "nothing"), hung


async def test_a_client_that_reads_slowly_is_no_hang() -> None:
    async with rig(vllm()) as it:
        await it.up("v")
        it.submit("v").lease.result().fail = lambda reason, detail: None
        assert it["v"].generation is not None
        it["v"].generation.slow_clients = 1
        await it.clock.advance(90)
        assert not it.told(EventKind.EXIT, "v")


async def test_counters_that_cannot_be_read_are_no_progress_and_no_fault() -> None:
    async with rig(vllm()) as it:
        it.processes.on_start = lambda process: process.site.answers.update({"/metrics": HttpAnswer(500, b"")})
        await it.up("v")
        assert it["v"].state.capacity is None
        it.submit("v").lease.result().fail = lambda reason, detail: None
        await it.clock.advance(30)
        assert it.phase("v") is Phase.READY
        it.processes.of("v").site.answers["/metrics"] = HANGS
        await it.clock.advance(20)
        assert it.phase("v") is Phase.READY
        await it.clock.advance(40)
        assert it.told(EventKind.EXIT, "v"), "a hang is a hang"


async def test_it_gets_no_work_between_a_missed_probe_and_the_next_answer() -> None:
    async with rig(llama("a")) as it:
        await it.up("a")
        it.processes.of("a").site.answers["/health"] = HttpAnswer(500, b"")
        await it.clock.advance(1.1)
        assert (it.phase("a"), it["a"].state.reason) == (Phase.SUSPECT, "answered its probe with status 500")
        it.processes.of("a").site.answers["/health"] = OK
        await it.clock.advance(1.1)
        assert it.phase("a") is Phase.READY


# --- what a tree uses ------------------------------------------------------------------------------------------------


async def test_every_process_that_was_ever_seen_in_the_tree_is_one_of_it() -> None:
    async with rig(llama("a")) as it:
        await it.up("a")
        process = it.processes.of("a")
        process.workers = (901,)
        await it.clock.advance(3)
        process.workers = (902,)
        it.machine.rss[902] = 7 * MIB
        await it.clock.advance(3)
        generation = it["a"].generation
        assert generation is not None
        assert generation.pids == {process.pid, 901, 902}
        assert generation.usage is not None
        assert generation.usage.rss == 7 * MIB
