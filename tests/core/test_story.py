"""Stories of incidents: one for every kind and cause, with advice that fits, and golden texts of the usual ones."""

import os
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from supervisord.core import exits
from supervisord.core.exits import CauseKind, ExitEvidence, Judgement
from supervisord.core.incident import Cost, Incident, IncidentKind, Step
from supervisord.core.story import Story, headline, tell, telling_line
from supervisord.core.story_words import CAUSES, KINDS, RULES

GOLDEN = Path(__file__).parent / "stories"
LOADING = ("load_model: loading model 'qwen.gguf'", "ggml_cuda_init: found 1 CUDA devices")


def an_incident(kind: IncidentKind = IncidentKind.EXIT, cause: CauseKind | None = None, **more: object) -> Incident:
    whole = Incident(
        id="i5k2", at=1000.0, backend="qwen", kind=kind, summary="it went wrong", generation=4,
        cause="" if cause is None else cause.value, ended_at=1012.0, outcome="ready again",
        facts={"rung": 0, "phase_before": "ready"}, cost=Cost(downtime_s=12.0),
        steps=(Step(1000.2, "stopping: what is left is killed"), Step(1003.0, "starting"), Step(1012.0, "ready")),
    )  # fmt: skip
    return replace(whole, **more)  # type: ignore[arg-type]


def text(story: Story) -> str:
    lines = [story.headline]
    for part in story.parts:
        lines += ["", part.title, *(f"  {line}" for line in part.lines)]
    return "\n".join(lines) + "\n"


def ruled(matching: str, because: str, **not_matching: str) -> tuple[Judgement, ...]:
    """A verdict: these rules did not match, this one did, and it says nothing of later ones."""
    before = [
        Judgement("asked", False, "nobody had asked it to stop"),
        Judgement("spawn", False, "it could be started"),
    ]
    before += [Judgement(rule, False, why) for rule, why in not_matching.items()]
    return (*before, Judgement(matching, True, because), Judgement("crash", False, "a rule above explains it"))


OOM_LINE = (
    "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 8192.00 MiB on device 0: cudaMalloc failed: out of memory"
)

STORIES: dict[str, Incident] = {
    "gpu_oom": an_incident(
        cause=CauseKind.GPU_OOM,
        summary=f"GPU out of memory: {OOM_LINE}",
        status=-6,
        log=(*LOADING, OOM_LINE, "graph_reserve: failed to allocate compute buffers", "free(): double free detected"),
        verdict=ruled("gpu_oom", OOM_LINE, kernel_oom="the kernel killed nobody", systemd_oomd="it says nothing of us"),
        in_flight=tuple(f"j{number}" for number in range(7)),
        cost=Cost(12.0, jobs_retried=6, jobs_failed=1),
        outcome="ready again on rung 1",
    ),
    "kernel_oom": an_incident(
        cause=CauseKind.KERNEL_OOM,
        summary="killed by the kernel: its memory group was full",
        status=-9,
        log=LOADING,
        verdict=ruled("kernel_oom", "memory.events oom_kill rose by 1"),
        in_flight=("j1",),
        cost=Cost(75.0, jobs_retried=1),
    ),
    "host_oom": an_incident(
        cause=CauseKind.HOST_OOM,
        summary="host out of memory: std::bad_alloc",
        status=-6,
        log=(*LOADING, "terminate called after throwing an instance of 'std::bad_alloc'", "  what():  std::bad_alloc"),
        verdict=ruled("host_oom", "std::bad_alloc", kernel_oom="no kill was counted", gpu_oom="no line speaks of it"),
    ),
    "device_lost": an_incident(
        cause=CauseKind.DEVICE_LOST,
        summary="the GPU was lost: NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus.",
        status=1,
        log=("CUDA error: unspecified launch failure",),
        verdict=ruled("device_lost", "NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus"),
        ended_at=None,
        outcome="",
        cost=Cost(),
    ),
    "configuration": an_incident(
        cause=CauseKind.CONFIGURATION,
        summary="error: invalid argument: --ctx-sise",
        permanent=True,
        status=1,
        generation=1,
        facts={"rung": 0, "phase_before": "loading"},
        log=("error: invalid argument: --ctx-sise", "usage: llama-server [options]"),
        verdict=ruled("configuration", "error: invalid argument: --ctx-sise"),
        steps=(Step(1000.0, "stopping: error: invalid argument: --ctx-sise"), Step(1000.1, "parked: it cannot heal")),
        outcome="parked: error: invalid argument: --ctx-sise",
        cost=Cost(0.1),
    ),
    "hang": an_incident(
        IncidentKind.HANG,
        CauseKind.HANG,
        summary="killed because it no longer answered",
        status=-9,
        facts={"rung": 2, "phase_before": "suspect", "evidence": ["/slots did not answer", "CPU stood still: 0.00 s"]},
        log=("srv  update_slots: all slots are idle",),
        verdict=ruled("hang", "we ended it for lack of progress (SIGKILL); CPU stood still"),
        in_flight=("j1", "j2"),
        cost=Cost(31.0, jobs_failed=2),
    ),
    "load_stall": an_incident(
        IncidentKind.LOAD_STALL,
        CauseKind.LOAD_STALL,
        summary="no sign of loading for 300 s",
        status=-15,
        facts={"rung": 0, "phase_before": "loading", "evidence": ["it read nothing", 5]},
        log=LOADING,
    ),
    "killed": an_incident(
        cause=CauseKind.KILLED,
        summary="killed from outside by signal 9 (SIGKILL)",
        status=-9,
        verdict=ruled(
            "killed",
            "SIGKILL, 24.0 GiB of RAM were available",
            kernel_oom="no kill was counted",
            systemd_oomd="its log has no line of us",
            gpu_oom="no line of its log",
            host_oom="no line of its log",
            device_lost="all GPUs answer",
            configuration="it had served already",
        ),
    ),
    "crash": an_incident(
        cause=CauseKind.CRASH,
        summary="ended by signal 11 (SIGSEGV): srv  update_slots: run slots completed",
        status=-11,
        log=(*LOADING, "srv  update_slots: run slots completed", ""),
        verdict=(Judgement("crash", True, "ended by signal 11 (SIGSEGV)"),),
        in_flight=("j1",),
        ended_at=None,
        outcome="",
        cost=Cost(),
    ),
    "exited": an_incident(
        cause=CauseKind.EXITED, summary="it ended with status 0, unasked", status=0, log=("INFO: Shutting down",)
    ),
    "asked": an_incident(cause=CauseKind.ASKED, summary="stopped as asked", status=0, log=()),
    "unreachable": an_incident(
        cause=CauseKind.UNREACHABLE,
        summary="GET http://127.0.0.1:9/v1/models: connection refused",
        status=0,
        facts={"phase_before": "loading", "rung": True},
        cost=Cost(120.0),
        ended_at=1120.0,
        outcome="it was not over by then: this is as far as it was followed",
    ),
    "unknown": an_incident(summary="it is gone", cause=None, generation=None, log=("x" * 500,), facts={}, steps=()),
    "shrunk": an_incident(
        IncidentKind.SHRUNK,
        summary="gpu0 is short of memory",
        status=-15,
        outcome="ready again on rung 1",
        steps=tuple(Step(1000.0 + number, f"step {number}") for number in range(15)),
    ),
    "given_up": an_incident(
        IncidentKind.SHRUNK,
        summary="gpu0 is short of memory: 100 MiB are free",
        status=-15,
        in_flight=("j1",),
        steps=(
            Step(1000.0, "draining: gpu0 is short of memory: 100 MiB are free; no smaller footprint is left"),
            Step(1002.0, "parked: gpu0 is short of memory: 100 MiB are free; no smaller footprint is left"),
        ),
        outcome="parked: gpu0 is short of memory: 100 MiB are free; no smaller footprint is left",
        cost=Cost(2.0),
    ),
    "parked": an_incident(
        cause=CauseKind.CRASH,
        summary="ended by status 3",
        status=3,
        steps=(
            Step(1000.0, "stopping: ended by status 3"),
            Step(1000.1, "parked: 5 failures within 600 s; the last: ended by status 3"),
        ),
        outcome="parked: 5 failures within 600 s; the last: ended by status 3",
        cost=Cost(0.1),
    ),
    "evicted": an_incident(
        IncidentKind.EVICTED, summary="host is short of memory", outcome="stopped: host is short of memory", cost=Cost()
    ),
    "refused": an_incident(
        IncidentKind.REFUSED,
        summary="the file /opt/llama-server does not exist",
        permanent=True,
        generation=None,
        facts={"phase_before": "starting"},
        outcome="parked: the file /opt/llama-server does not exist",
        cost=Cost(),
    ),
    "refused_configuration": an_incident(
        IncidentKind.REFUSED, CauseKind.CONFIGURATION, summary="port 8080 is taken", permanent=True, cost=Cost()
    ),
    "exhausted": an_incident(
        IncidentKind.REFUSED,
        CauseKind.EXHAUSTED,
        summary=(
            "cannot start small: the system refuses a new process: Too many open files; raise the limit of open files "
            "(LimitNOFILE= in the unit)"
        ),
        generation=7,
        facts={"phase_before": "starting", "rung": 0},
        log=(),
        steps=(Step(1000.0, "backoff: cannot start small"), Step(1001.0, "starting")),
        cost=Cost(31.0),
        outcome="ready again",
    ),
    "unkillable": an_incident(
        IncidentKind.UNKILLABLE,
        CauseKind.HANG,
        summary="pid 4711 survived SIGKILL",
        ended_at=None,
        outcome="",
        cost=Cost(),
        in_flight=("j1",),
        steps=(Step(1005.0, "unkillable: 1 process is left"),),
    ),
}


@pytest.mark.parametrize("name", STORIES)
def test_stories_as_they_were_seen_to_be_good(name: str) -> None:
    """STORY_WRITE_GOLDEN=1 writes them anew, to be read over."""
    path = GOLDEN / f"{name}.txt"
    told = text(tell(STORIES[name]))
    if os.environ.get("STORY_WRITE_GOLDEN"):
        path.write_text(told)
    assert told == path.read_text()


def test_there_is_a_story_of_every_kind_and_of_every_cause() -> None:
    told = set()
    for kind, cause in product(IncidentKind, (None, *CauseKind)):
        for status in (None, 0, 1, -9):
            incident = an_incident(kind, cause, status=status)
            story = tell(incident)
            told.add(story.headline)
            assert story.headline == headline(incident)
            assert story.headline.startswith("qwen ")
            assert story.parts[-1].title == "What to do"
            assert story.parts[-1].lines
            assert "{" not in text(story)
    assert {CAUSES[cause].headline.replace("{backend}", "qwen") for cause in CauseKind} <= told
    assert {words.headline.replace("{backend}", "qwen") for words in KINDS.values()} <= told


def test_no_two_causes_are_told_alike() -> None:
    every = [*CAUSES.values(), *(KINDS[kind] for kind in KINDS if kind.value not in set(CauseKind))]
    assert len({words.headline for words in every}) == len({words.advice for words in every}) == len(every)


def test_every_rule_of_the_verdict_has_its_words() -> None:
    verdict = exits.judge(ExitEvidence(1), ())
    assert {judgement.rule for judgement in verdict.rules} == set(RULES)


def test_a_rule_and_a_cause_of_a_later_version_are_told_by_their_names() -> None:
    incident = an_incident(verdict=(Judgement("cosmic_ray", True, "a bit was flipped"),))
    story = tell(replace(incident, cause="cosmic_ray"))
    assert story.headline == "qwen ended unexpectedly."
    assert "It shows cosmic ray: a bit was flipped." in text(story)


def test_a_story_is_told_of_what_a_list_knows() -> None:
    """Without log, samples and facts."""
    bare = replace(STORIES["gpu_oom"], log=(), samples=(), facts={})
    assert tell(bare).headline == tell(STORIES["gpu_oom"]).headline
    assert "It shows GPU memory that was refused" in text(tell(bare))
    assert "The last it wrote" not in text(tell(replace(STORIES["kernel_oom"], log=())))


@pytest.mark.parametrize(
    ("log", "because", "line"),
    [
        ((), "", ""),
        (("", "  "), "", ""),
        (("first", "last"), "", "last"),
        (("ERROR: it broke", "cleaning up"), "", "ERROR: it broke"),
        (("loading", "it broke", "error: and then all"), "its log says: it broke", "it broke"),
        (("a", "b"), "a b c", "b"),  # a line of a letter is in any words
    ],
)
def test_the_most_telling_line(log: tuple[str, ...], because: str, line: str) -> None:
    verdict = (Judgement("crash", True, because),)
    assert telling_line(an_incident(log=log, summary="", verdict=verdict)) == line


@pytest.mark.parametrize(
    ("jobs", "cost", "told"),
    [
        (("j1",), Cost(), "It did not fail by this."),
        (("j1",), Cost(jobs_failed=1), "It failed."),
        (("j1", "j2"), Cost(), "None of them failed by this."),
        (("j1", "j2"), Cost(jobs_retried=1), "1 was run again."),
        (("j1", "j2"), Cost(jobs_retried=2, jobs_failed=1), "2 were run again and 1 failed."),
    ],
)
def test_what_became_of_the_jobs(jobs: tuple[str, ...], cost: Cost, told: str) -> None:
    assert f"  {told}\n" in text(tell(an_incident(in_flight=jobs, cost=cost)))


def test_an_end_without_an_outcome_is_not_told_to_go_on() -> None:
    assert "going on" not in text(tell(an_incident(outcome="")))
