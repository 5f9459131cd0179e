"""What is seen of a backend: that it serves, that it moves, how loaded it is, and what the kernel did to it."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from supervisord.core import life
from supervisord.core.exits import CauseKind
from supervisord.core.hang import longest_silence
from supervisord.core.job import FailureReason, Submission
from supervisord.core.memory import MIB
from supervisord.core.record import EventKind
from supervisord.core.restart import RestartPolicy
from supervisord.core.state import LifePolicy, Phase, Want
from supervisord.engine.backend import NEVER_PARKED
from supervisord.engine.diagnosis import LIMIT_S
from supervisord.engine.lateness import CATCH_UP_S
from supervisord.engine.relay import Attempt, RelayPolicy
from supervisord.ports import RUNNING, ProcessFinding, Receiver, UpstreamFault, UpstreamRequest
from supervisord.runtimes.base import Address, BackendSpec, HttpAnswer, RuntimeKind
from tests.engine.rig import Rig, Wire, beside, command, llama, remote, rig
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


# --- hung, or at work ------------------------------------------------------------------------------------------------


class Examined:
    """`ports.Examiner`. `threads`: what is found of each process; `asked`: whom it was asked about."""

    def __init__(self, threads: Mapping[str, int] | None = None, takes_s: float = 0.1) -> None:
        self.threads = threads or {"futex_wait_queue": 3}
        self.takes_s = takes_s
        self.asked: list[tuple[int, ...]] = []

    async def examine(self, pids: Sequence[int], timeout: float) -> Sequence[ProcessFinding]:
        """See `ports.Examiner`; it keeps to no limit, as one that hangs itself."""
        del timeout
        self.asked.append(tuple(pids))
        await asyncio.sleep(self.takes_s)
        return tuple(ProcessFinding(pid, "VLLM::EngineCor", "S", 9.0, self.threads, "the stack") for pid in pids)


def computes(it: Rig, cores: float) -> None:
    """The processors that every process uses from now on."""
    it.machine.cores = cores


async def hangs(it: Rig, name: str, within_s: float = 1000.0) -> float:
    """Seconds until it is killed for a hang, while nothing moves."""
    began = it.clock.monotonic()
    await it.pass_until(lambda: bool(it.told(EventKind.EXIT, name)), within_s)
    return it.clock.monotonic() - began


async def test_one_that_does_nothing_is_killed_with_a_diagnosis() -> None:
    seen = Examined()
    async with rig(vllm(), examiner=seen) as it:
        it.processes.on_start = lambda process: process.site.answers.update({"/metrics": figures(work=7)})
        await it.up("v")
        generation = it["v"].generation
        ended: list[tuple[FailureReason, str]] = []
        it.submit("v").lease.result().fail = lambda reason, detail: ended.append((reason, detail))
        took = await hangs(it, "v")
        assert 60.0 <= took <= 60.0 + LIMIT_S
        assert ended == [(FailureReason.BACKEND_HUNG, "work in flight, and nothing moved for 60 s")]
        assert generation is not None
        assert seen.asked == [(generation.pid,)]
        told = generation.diagnosis
        assert (told["moved"], told["work"], told["cores"]) == (False, [7.0, 7.0], 0.0)
        assert told["wanted_ratio"] == 0.0
        assert told["answer"] == {
            "path": "/metrics", "status": 200, "told": figures(work=7).body.decode().splitlines(),
        }  # fmt: skip
        assert told["processes"][0]["stack"] == "the stack"  # type: ignore[index]
        json.dumps(told)
        cause = it["v"].state.cause
        assert cause is not None
        assert cause.kind is CauseKind.HANG
        words = " / ".join(cause.evidence)
        for part in ("used 0.00 cores", "counted 7 before and after", "3 in futex_wait_queue", "status 200"):
            assert part in words


async def test_one_that_computes_has_the_long_bound() -> None:
    """For all that is known of a `command`: it has no counters, and sends nothing until it is done."""
    policy = LifePolicy(progress_s=20.0, busy_s=200.0)
    async with rig(command("c", life=policy)) as it:
        await it.up("c")
        computes(it, 0.9)
        it.submit("c").lease.result().fail = lambda reason, detail: None
        assert 200.0 <= await hangs(it, "c") <= 200.0 + LIMIT_S + 2.0
        assert "although it computes" in it["c"].state.reason


async def test_a_gpu_at_work_is_work() -> None:
    policy = LifePolicy(progress_s=20.0, busy_s=200.0)
    async with rig(llama("a", life=policy)) as it:
        await it.up("a")
        it.machine.cards[0].load = 0.3
        it.submit("a").lease.result().fail = lambda reason, detail: None
        assert 200.0 <= await hangs(it, "a") <= 200.0 + LIMIT_S + 5.0


async def test_one_that_gets_little_of_a_crowded_machine_is_at_work() -> None:
    """Its threads want to run: only the look before the kill can tell."""
    policy = LifePolicy(progress_s=20.0, busy_s=200.0)
    async with rig(llama("a", life=policy), examiner=Examined({RUNNING: 1, "futex_wait_queue": 9})) as it:
        await it.up("a")
        computes(it, 0.1)
        it.submit("a").lease.result().fail = lambda reason, detail: None
        assert await hangs(it, "a") >= 200.0
    async with rig(llama("a", life=policy), examiner=Examined({RUNNING: 1})) as it:
        await it.up("a")
        it.submit("a").lease.result().fail = lambda reason, detail: None
        assert await hangs(it, "a") <= 20.0 + LIMIT_S, "a thread that answers a probe runs too, and uses nothing"


async def test_one_that_is_hardly_let_run_is_at_work_and_gets_work_all_the_time() -> None:
    """What it gets of the processors is next to nothing; the kernel tells how long it waits for them."""
    policy = LifePolicy(slots=2, progress_s=20.0, busy_s=200.0)
    async with rig(llama("a", life=policy)) as it:
        await it.up("a")
        computes(it, 0.01)
        it.machine.crowded = 0.9
        it.submit("a").lease.result().fail = lambda reason, detail: None
        for _ in range(150):
            await it.clock.advance(1.0)
            assert it.phase("a") is Phase.READY
        assert await hangs(it, "a") >= 50.0, "at the long bound"
        it.machine.crowded = 0.3
        await it.pass_until(lambda: it.phase("a") is Phase.READY)
        it.submit("a").lease.result().fail = lambda reason, detail: None
        began = it.clock.monotonic()
        await it.pass_until(lambda: len(it.told(EventKind.EXIT, "a")) == 2, 1000.0)
        assert it.clock.monotonic() - began <= 20.0 + LIMIT_S, "to look around now and then is no work"


async def test_what_its_threads_want_is_asked_only_where_nothing_else_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs a file for each of them."""
    asked: list[float] = []

    async def demand(self: Process) -> Mapping[int, float]:
        asked.append(0.0)
        return {self.pid: 0.0}

    monkeypatch.setattr(Process, "demand", demand)
    async with rig(llama("a", life=LifePolicy(progress_s=60.0))) as it:
        await it.up("a")
        computes(it, 0.9)
        it.submit("a").lease.result().fail = lambda reason, detail: None
        await it.clock.advance(10.0)
        assert len(asked) <= 1, "its work has just begun"
        computes(it, 0.0)
        await it.clock.advance(21.0)
        assert 4 <= len(asked) <= 6, "every 5 s"


async def test_a_gpu_that_only_others_keep_busy_hides_no_hang() -> None:
    policy = LifePolicy(progress_s=20.0, busy_s=200.0)
    async with rig(llama("a", life=policy)) as it:
        await it.up("a")
        card = it.machine.cards[0]
        it.processes.of("a").holds(5 * MIB)
        card.used[999], card.load = 5 * MIB, 0.9
        card.busy = {999: 0.9}
        await it.clock.advance(5.0)
        it.submit("a").lease.result().fail = lambda reason, detail: None
        assert await hangs(it, "a") <= 20.0 + LIMIT_S + 2.0


@pytest.mark.parametrize("what", ["bytes", "counters"])
async def test_what_moves_while_it_is_looked_at_saves_it(what: str) -> None:
    async with rig(vllm(probe_interval_s=30.0), examiner=Examined(takes_s=1.0)) as it:
        it.processes.on_start = lambda process: process.site.answers.update({"/metrics": figures(work=7)})
        await it.up("v")
        it.submit("v").lease.result().fail = lambda reason, detail: None
        await it.pass_until(lambda: it.phase("v") is Phase.SUSPECT, within_s=70.0)
        await it.clock.advance(0.5)
        generation = it["v"].generation
        assert generation is not None
        if what == "bytes":
            generation.last_bytes = it.clock.monotonic()
        else:
            it.processes.of("v").site.answers["/metrics"] = figures(work=8)
        await it.clock.advance(LIMIT_S)
        assert (it.phase("v"), it.told(EventKind.EXIT, "v")) == (Phase.READY, [])
        assert generation.diagnosis["moved"] is True
        assert await hangs(it, "v") >= 45.0, "its patience is whole again"


async def test_what_is_asked_may_hang_too() -> None:
    async with rig(llama("a", life=LifePolicy(progress_s=20.0)), examiner=Examined(takes_s=1e6)) as it:
        it.processes.on_start = lambda process: process.site.answers.update({"/slots": HANGS, "/metrics": HANGS})
        await it.up("a")
        generation = it["a"].generation
        it.submit("a").lease.result().fail = lambda reason, detail: None
        assert await hangs(it, "a") <= 20.0 + LIMIT_S + 1.0
        cause = it["a"].state.cause
        assert cause is not None
        assert "/slots: no answer in 4 s" in cause.evidence[0]
        assert cause.evidence[-1] == "the rest of the diagnosis did not end within 8 s"
        assert generation is not None
        assert "problem" in generation.diagnosis["answer"]  # type: ignore[operator]


async def test_no_text_of_a_server_is_kept() -> None:
    """It could be of somebody's prompt."""
    told = {"id": 0, "is_processing": True, "n_ctx": 4096}
    secret = {"prompt": "my secret", "params": {"grammar": "x", "n": 1}}
    slots = json.dumps([told | secret]).encode()
    async with rig(llama("a", life=LifePolicy(progress_s=20.0))) as it:
        it.processes.on_start = lambda process: process.site.answers.update({"/slots": HttpAnswer(200, slots)})
        await it.up("a")
        generation = it["a"].generation
        it.submit("a").lease.result().fail = lambda reason, detail: None
        await hangs(it, "a")
        assert generation is not None
        assert generation.diagnosis["answer"] == {
            "path": "/slots", "status": 200,
            "told": [{**told, "params": {"n": 1}}],
        }  # fmt: skip


@pytest.mark.parametrize("body", [b"[1, 2", b"", b"{" * 100_000])
async def test_an_answer_that_is_none_spoils_no_diagnosis(body: bytes) -> None:
    async with rig(llama("a", life=LifePolicy(progress_s=20.0))) as it:
        it.processes.on_start = lambda process: process.site.answers.update({"/slots": HttpAnswer(200, body)})
        await it.up("a")
        it.submit("a").lease.result().fail = lambda reason, detail: None
        assert await hangs(it, "a") <= 20.0 + LIMIT_S


async def test_a_long_prompt_has_more_time_until_its_answer_begins() -> None:
    policy = LifePolicy(slots=2, progress_s=20.0, first_token_s=100.0)
    async with rig(llama("a", life=policy)) as it:
        await it.up("a")
        generation = it["a"].generation
        assert generation is not None
        it.submit("a").lease.result().fail = lambda reason, detail: None
        generation.unanswered |= {1: 500, 2: 2000}
        await it.clock.advance(60.0)
        assert it.phase("a") is Phase.READY
        assert it["a"].state.allowance_s == 200.0
        del generation.unanswered[2]
        assert await hangs(it, "a") <= LIMIT_S + 2.0, "the longest of those that are left counts: 32.5 s in all"


async def test_a_picture_is_many_bytes_and_no_more_tokens_than_there_is_context() -> None:
    async with rig(llama("a", life=LifePolicy(first_token_s=100.0))) as it:
        await it.up("a")
        assert it["a"].generation is not None
        it.submit("a").lease.result().fail = lambda reason, detail: None
        it["a"].generation.unanswered[1] = 5_000_000
        await it.clock.advance(2.0)
        assert it["a"].state.allowance_s == pytest.approx(409.6)


class Slow:
    """`ports.Upstream` and its exchange: an answer that is sent by the test."""

    def __init__(self) -> None:
        self.receiver: Receiver | None = None
        self.request: UpstreamRequest | None = None

    async def start(self, request: UpstreamRequest, receiver: Receiver) -> "Slow":
        """See `ports.Upstream`."""
        self.request, self.receiver = request, receiver
        return self

    def forget(self, address: Address) -> None: ...

    async def close(self) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def abort(self) -> None: ...


@pytest.mark.parametrize("ends", ["first byte", "fault", "client leaves"])
async def test_a_prompt_is_awaited_until_the_first_byte_or_the_end(ends: str) -> None:
    async with rig(llama("a")) as it:
        await it.up("a")
        generation = it["a"].generation
        assert generation is not None
        slow = Slow()
        attempt = Attempt(Wire(), generation, it.clock, RelayPolicy(), stream=True, tokens=300)
        request = UpstreamRequest(generation.address, "POST", "/v1/completions", (), b" " * 4000, 60.0)
        async with beside(attempt.run(slow, request)) as running:
            await it.clock.rest()
            assert list(generation.unanswered.values()) == [300], "1000 by its bytes, and 300 were counted"
            assert slow.receiver is not None
            slow.receiver.on_head(200, [(b"content-type", b"text/event-stream")])
            slow.receiver.on_data(b": ping\n\n")
            assert generation.unanswered, "a comment is no answer"
            if ends == "first byte":
                slow.receiver.on_data(b'data: {"choices":[]}\n\n')
            elif ends == "fault":
                slow.receiver.on_fault(UpstreamFault("eof", "it closed"))
            else:
                running.cancel()
            await it.clock.rest()
            assert generation.unanswered == {}


@pytest.mark.parametrize(
    ("stream", "max_tokens", "seconds"),
    [
        (True, 500, 0.0),
        (False, 500, 1000.0),
        (False, 10**9, 2 * 4096.0),
        (False, -1, 2 * 4096.0),
        (False, None, 2 * 4096.0),
    ],
)
async def test_an_answer_that_comes_as_a_whole_is_awaited_for_as_long_as_its_tokens_may_take(
    stream: bool, max_tokens: int | None, seconds: float
) -> None:
    """Whether its server hangs is seen elsewhere: a slow one is not cut off."""
    async with rig(llama("a")) as it:
        backend = await it.up("a")
        slow = Slow()
        it.supervisor.tries._upstream = slow
        submission = Submission("/v1/completions", "a", b"{}", stream=stream, max_tokens=max_tokens)
        async with beside(it.supervisor.gateway.serve(submission, Wire(), lambda job: None)) as asking:
            await it.clock.rest()
            assert slow.request is not None
            assert slow.request.idle_timeout_s == longest_silence(0, 0, backend.policy) + seconds
            asking.cancel()


class Broken(Slow):
    """A fault of our own."""

    async def start(self, request: UpstreamRequest, receiver: Receiver) -> Slow:
        """See `ports.Upstream`."""
        raise ZeroDivisionError("a bug")


async def test_a_fault_of_our_own_holds_no_slot() -> None:
    async with rig(llama("a")) as it:
        await it.up("a")
        it.supervisor.tries._upstream = Broken()
        submission = Submission("/v1/completions", "a", b"{}", stream=False)
        with pytest.raises(ZeroDivisionError):
            await it.supervisor.gateway.serve(submission, Wire(), lambda job: None)
        assert (it["a"].state.in_flight, it.supervisor.dispatcher.in_flight) == (0, 0)
        assert it.submit("a").lease.done()


# --- the canary ------------------------------------------------------------------------------------------------------


def canaries(it: Rig, name: str = "a") -> int:
    return len([path for path, _ in it.processes.of(name).site.asked if path == "/v1/completions"])


async def test_an_idle_one_is_asked_for_a_token_now_and_then_and_that_is_no_use_of_it() -> None:
    async with rig(llama("a", canary_token=True, canary_every_s=300.0, ttl_s=1000.0)) as it:
        backend = await it.up("a")
        used = backend.last_used
        await it.clock.advance(290.0)
        assert canaries(it) == 0
        await it.clock.advance(20.0)
        assert canaries(it) == 1
        await it.clock.advance(600.0)
        assert canaries(it) == 3
        assert (backend.last_used, backend.latency_s, backend.state.served) == (used, None, 0)
        await it.clock.advance(120.0)
        assert it.phase("a") is Phase.STOPPED, "unloaded as if nobody had asked"


async def test_a_real_answer_makes_it_wait_and_off_is_off() -> None:
    asked = llama("a", canary_token=True, canary_every_s=300.0)
    async with rig(asked, llama("b", canary_token=True, canary_every_s=None)) as it:
        await it.up("a")
        await it.up("b")
        for _ in range(10):
            await it.clock.advance(200.0)
            assert it["a"].generation is not None
            it["a"].generation.last_bytes = it.clock.monotonic()
        assert (canaries(it), canaries(it, "b")) == (0, 0)


async def test_it_is_never_asked_while_it_works_or_while_jobs_wait() -> None:
    async with rig(llama("a", canary_token=True, canary_every_s=30.0)) as it:
        await it.up("a")
        ticket = it.submit("a")
        for _ in range(10):
            await it.clock.advance(20.0)
            it["a"].post(life.Progressed(1))
        assert canaries(it) == 0
        it.supervisor.dispatcher.pause({"a": "the host is short of memory"})
        it.submit("a")
        it.end(ticket)
        await it.clock.advance(100.0)
        assert canaries(it) == 0
        it.supervisor.dispatcher.pause({})


async def test_a_canary_that_is_not_answered_is_a_hang() -> None:
    async with rig(llama("a", canary_token=True, canary_every_s=30.0, life=LifePolicy(progress_s=20.0))) as it:
        it.processes.on_start = lambda process: process.site.answers.update({"/v1/completions": HANGS})
        await it.up("a")
        took = await hangs(it, "a")
        assert 45.0 <= took <= 30.0 + 20.0 + LIMIT_S + 2.0
        cause = it["a"].state.cause
        assert cause is not None
        assert cause.summary == "idle, and what it was asked got no answer for 20 s"


async def test_a_llama_cpp_is_asked_for_its_counters_and_keeps_the_prompts_it_has_cached() -> None:
    async with rig(llama("a", canary_every_s=30.0, life=LifePolicy(progress_s=20.0))) as it:
        await it.up("a")
        site = it.processes.of("a").site
        await it.clock.advance(20.0)
        before = [path for path, _ in site.asked].count("/metrics")
        assert before == 1, "when it had become ready: with one slot and no work, nobody else asks"
        await it.clock.advance(20.0)
        assert [path for path, _ in site.asked].count("/metrics") == 2
        assert canaries(it) == 0
        site.answers["/metrics"] = HANGS
        assert await hangs(it, "a") <= 30.0 + 20.0 + LIMIT_S + 2.0


async def test_work_that_comes_ends_the_canary_at_once_and_counts_alone() -> None:
    async with rig(llama("a", canary_token=True, canary_every_s=30.0, life=LifePolicy(progress_s=50.0))) as it:
        it.processes.on_start = lambda process: process.site.answers.update({"/v1/completions": HANGS})
        await it.up("a")
        await it.clock.advance(32.0)
        assert canaries(it) == 1
        ticket = it.submit("a")
        assert ticket.lease.done(), "it takes no slot"
        await it.clock.rest()
        assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("canary ")]
        await it.clock.advance(30.0)
        assert it.phase("a") is Phase.READY
        it.end(ticket)


async def test_one_that_refuses_or_is_gone_is_not_taken_for_hung() -> None:
    asked = llama("a", canary_token=True, canary_every_s=30.0, probe_interval_s=1000.0)
    async with rig(asked, remote("r", canary_every_s=30.0)) as it:
        it.processes.on_start = lambda process: process.site.answers.update({"/v1/completions": HttpAnswer(500, b"no")})
        site = it.machine.sites[PORT] = Site({"/v1/models": OK})
        await it.up("a")
        await it.up("r")
        await it.clock.advance(100.0)
        assert canaries(it) == 3
        assert {path for path, _ in site.asked} == {"/v1/models"}, "a token of somebody else costs money"
        generation = it["a"].generation
        assert generation is not None
        missed = posted(it, "a", life.CanaryMissed)
        generation.address = replace(generation.address, port=1)
        await it.clock.advance(40.0)
        assert (missed, it.phase("a")) == ([], Phase.READY), "the probe will see that too"


# --- the daemon itself is late ---------------------------------------------------------------------------------------


async def test_a_probe_that_was_late_because_the_daemon_was_is_asked_again() -> None:
    """Its answer may have been there for long. Twice in a row it counts: a machine like that hides no hang."""
    async with rig(llama("a", probe_timeout_s=2.0, probe_interval_s=1.0)) as it:
        await it.up("a")
        site = it.processes.of("a").site
        for missed in range(3):
            site.answers["/health"] = HANGS
            await it.clock.advance(1.5)
            await it.clock.gap(2.9)
            assert it.phase("a") is Phase.READY, f"{missed} before"
            site.answers["/health"] = OK
            await it.clock.advance(3.0)
        site.answers["/health"] = HANGS
        for _ in range(2):
            await it.clock.advance(1.5)
            await it.clock.gap(2.9)
        assert it.phase("a") is Phase.SUSPECT
        assert not it.told(EventKind.EXIT, "a")


async def test_work_is_looked_at_before_it_is_overdue_by_the_daemons_own_fault() -> None:
    policy = LifePolicy(slots=2, progress_s=3.0)
    async with rig(llama("a", life=policy)) as it:
        await it.up("a")
        it.submit("a").lease.result().fail = lambda reason, detail: None
        answers = it.processes.of("a").site.answers
        for step in range(1, 4):
            answers["/metrics"] = HttpAnswer(200, b"llamacpp:n_decode_total %d\n" % step)
            await it.clock.advance(1.5)
            await it.clock.gap(4.0)
            assert it.phase("a") is Phase.READY
        assert await hangs(it, "a") <= 3.0 + CATCH_UP_S + LIMIT_S, "nothing moved any more"
        assert len([told for told in it.told(EventKind.PHASE, "a") if "nothing moved" in told]) == 2, (
            "suspect, and then killed"
        )


async def test_a_daemon_that_is_always_late_finds_hangs_too() -> None:
    async with rig(llama("a", life=LifePolicy(progress_s=3.0))) as it:
        await it.up("a")
        it.submit("a").lease.result().fail = lambda reason, detail: None
        for _ in range(2):
            await it.clock.gap(4.0)
        assert it.phase("a") is Phase.SUSPECT


async def test_one_that_was_silent_while_the_daemon_did_not_run_is_asked_once_more() -> None:
    async with rig(llama("a", life=LifePolicy(probe_hang_s=10.0))) as it:
        await it.up("a")
        site = it.processes.of("a").site
        site.answers["/health"] = HttpAnswer(500, b"")
        await it.clock.advance(1.1)
        assert it.phase("a") is Phase.SUSPECT
        site.answers["/health"] = OK
        await it.clock.gap(20.0)
        await it.clock.advance(1.1)
        assert it.phase("a") is Phase.READY
        assert it["a"].generation is not None
        assert it["a"].generation.diagnosis == {}, "nobody doubted it any further"


async def test_a_canary_that_was_late_because_the_daemon_was_is_asked_again() -> None:
    async with rig(llama("a", canary_every_s=30.0, life=LifePolicy(progress_s=5.0), probe_interval_s=100.0)) as it:
        await it.up("a")
        missed = posted(it, "a", life.CanaryMissed)
        site = it.processes.of("a").site
        site.answers["/metrics"] = HANGS
        await it.clock.advance(32.0)
        await it.clock.gap(6.0)
        assert (missed, it.phase("a")) == ([], Phase.READY)
        await it.clock.advance(8.0)
        assert len(missed) == 1, "asked again at once"


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
