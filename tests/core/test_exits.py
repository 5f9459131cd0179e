"""Why a process ended: the order of certainty, and what counts as proof."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisord.core.exits import (
    CIRCUMSTANCES,
    OUT_OF_MEMORY,
    AskedFor,
    CauseKind,
    ExitCause,
    ExitEvidence,
    GpuRoom,
    Signature,
    Verdict,
    classify,
    describe_status,
    judge,
    out_of_memory,
)
from supervisord.core.memory import GIB, MIB, Pressure

HALF_FREE, FULL = GpuRoom(0, 12 * GIB, 24 * GIB), GpuRoom(0, 9 * MIB, 24 * GIB)

SIGNATURES = (
    Signature(CauseKind.GPU_OOM, "GPU is full", unless="trying again", until=("coped",)),
    Signature(CauseKind.HOST_OOM, "host is full"),
    Signature(CauseKind.DEVICE_LOST, "device lost"),
    Signature(CauseKind.CONFIGURATION, "bad flag"),
)


def told(verdict: Verdict, rule: str) -> str:
    """What one of the rules said."""
    return next(judgement.because for judgement in verdict.rules if judgement.rule == rule)


def proven(log: Sequence[str], *signatures: Signature, **more: object) -> ExitCause:
    return classify(replace(ExitEvidence(1, log=log), **more), signatures)  # type: ignore[arg-type]


def kind(found: ExitEvidence) -> CauseKind:
    return classify(found, SIGNATURES).kind


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (None, "unknown status"),
        (0, "status 0"),
        (143, "status 143"),
        (-9, "signal 9 (SIGKILL)"),
        (-11, "signal 11 (SIGSEGV)"),
        (-35, "signal 35 (unnamed)"),
    ],
)
def test_a_status_in_words(status: int | None, words: str) -> None:
    assert describe_status(status) == words


def test_which_kinds_the_ladder_answers() -> None:
    assert {k for k in CauseKind if ExitCause(k, "x").is_oom} == OUT_OF_MEMORY
    assert {CauseKind.KERNEL_OOM, CauseKind.GPU_OOM, CauseKind.HOST_OOM} == OUT_OF_MEMORY


def test_how_it_ended_is_told_apart_from_why() -> None:
    assert {k for k in CauseKind if k not in CIRCUMSTANCES} == {
        *OUT_OF_MEMORY, CauseKind.DEVICE_LOST, CauseKind.CONFIGURATION, CauseKind.EXHAUSTED,
    }  # fmt: skip


# Each of these alone proves its kind; of two that are true at once the earlier in the list is believed.
CERTAINTY: list[tuple[CauseKind, dict[str, object], str]] = [
    (CauseKind.ASKED, {"asked": AskedFor.STOP}, ""),
    (CauseKind.CRASH, {"spawn_error": "its guardian ended early"}, ""),
    (CauseKind.UNREACHABLE, {"unreachable": "connection refused"}, ""),
    (CauseKind.KERNEL_OOM, {"cgroup_oom_kills": 1}, ""),
    (CauseKind.GPU_OOM, {}, "GPU is full"),
    (CauseKind.HOST_OOM, {}, "host is full"),
    (CauseKind.DEVICE_LOST, {}, "device lost"),
    (CauseKind.CONFIGURATION, {}, "bad flag"),
    (CauseKind.HANG, {"asked": AskedFor.HANG}, ""),
]


@pytest.mark.parametrize(("surer", "less_sure"), list(itertools.combinations(range(len(CERTAINTY)), 2)))
def test_of_two_proofs_the_surer_is_believed(surer: int, less_sure: int) -> None:
    expected, evidence, line = CERTAINTY[surer]
    _, other, other_line = CERTAINTY[less_sure]
    found = ExitEvidence(1, log=(other_line, line), **{**other, **evidence})  # type: ignore[arg-type]

    assert kind(found) is expected


def test_words_are_found_in_any_case_and_anywhere_in_a_line() -> None:
    cause = classify(ExitEvidence(1, log=("loading", "  E 12:00 gpu IS FULL of it  ", "falling")), SIGNATURES)

    assert cause == ExitCause(
        CauseKind.GPU_OOM, "GPU out of memory: E 12:00 gpu IS FULL of it", evidence=("E 12:00 gpu IS FULL of it",)
    )


def test_how_full_the_gpu_was_is_part_of_the_evidence() -> None:
    cause = classify(ExitEvidence(1, log=("GPU is full",), gpus=(GpuRoom(0, 480 * MIB, 24 * GIB),)), SIGNATURES)

    assert cause.evidence == ("GPU is full", "GPU 0 had 480 of 24576 MiB free")


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        (("GPU is full, trying again",), CauseKind.CRASH),
        (("GPU is full", "trying again"), CauseKind.GPU_OOM),
        (("GPU is full", "it coped"), CauseKind.CRASH),
        (("it coped", "GPU is full"), CauseKind.GPU_OOM),
        (("GPU is full", "it coped", "GPU is full"), CauseKind.GPU_OOM),
        (("GPU is full", "it coped", "host is full"), CauseKind.HOST_OOM),
    ],
)
def test_words_that_were_taken_back_prove_nothing(log: tuple[str, ...], expected: CauseKind) -> None:
    assert kind(ExitEvidence(-11, log=log)) is expected


@pytest.mark.parametrize(
    ("status", "kills", "named", "expected"),
    [
        (-9, 1, True, CauseKind.KERNEL_OOM),
        (-9, 1, False, CauseKind.KILLED),
        (-9, 0, True, CauseKind.KILLED),
        (-9, 0, None, CauseKind.KILLED),
        (-9, None, None, CauseKind.KILLED),
        (-9, None, True, CauseKind.KERNEL_OOM),
        (-9, None, False, CauseKind.KILLED),
        (137, 1, None, CauseKind.KERNEL_OOM),
        (137, 0, None, CauseKind.KILLED),
        (143, 1, None, CauseKind.KILLED),
        (-15, 1, None, CauseKind.KILLED),
        (-15, 1, False, CauseKind.KILLED),
        (-11, 1, None, CauseKind.CRASH),
        (0, 1, None, CauseKind.EXITED),
    ],
)
def test_sigkill_alone_is_never_oom(status: int, kills: int | None, named: bool | None, expected: CauseKind) -> None:
    assert kind(ExitEvidence(status, kernel_oom_kills=kills, kernel_named_us=named)) is expected


@pytest.mark.parametrize("status", [0, 1, -15, -11, None])
def test_a_worker_that_the_kernel_killed_is_oom_however_its_leader_ends(status: int | None) -> None:
    cause = classify(ExitEvidence(status, kernel_oom_kills=1, kernel_named_us=True, log=("GPU is full",)), SIGNATURES)

    assert cause.kind is CauseKind.KERNEL_OOM
    assert cause.summary == "a process of it was killed by the kernel: host out of memory"
    assert kind(ExitEvidence(status, kernel_oom_kills=0, kernel_named_us=True)) is not CauseKind.KERNEL_OOM


def test_a_leader_that_the_kernel_killed_is_told_as_that() -> None:
    cause = classify(ExitEvidence(-9, kernel_oom_kills=1, kernel_named_us=True), ())

    assert cause.summary == "killed by the kernel: host out of memory"


def test_the_kernels_proof_is_told() -> None:
    by_name = classify(ExitEvidence(-9, kernel_oom_kills=2, kernel_named_us=True), ())
    by_group = classify(ExitEvidence(0, cgroup_oom_kills=3), ())

    assert by_name.evidence == ("/proc/vmstat oom_kill rose by 2", "the kernel log names it")
    assert by_group.evidence == ("memory.events oom_kill rose by 3",)


def test_without_the_kernels_log_the_verdict_says_so() -> None:
    cause = classify(ExitEvidence(-9, kernel_oom_kills=1, kernel_named_us=None), ())

    assert cause.kind is CauseKind.KERNEL_OOM
    assert cause.evidence[-1] == "it ended by SIGKILL, and the kernel log cannot be read"


@pytest.mark.parametrize(
    ("status", "was_ready", "expected"),
    [
        (1, False, CauseKind.CONFIGURATION),
        (1, True, CauseKind.CRASH),
        (0, False, CauseKind.CONFIGURATION),
        (0, True, CauseKind.EXITED),
        (-6, False, CauseKind.CONFIGURATION),
        (-11, False, CauseKind.CONFIGURATION),
        (-9, False, CauseKind.KILLED),
        (143, False, CauseKind.KILLED),
        (None, False, CauseKind.CRASH),
    ],
)
def test_words_about_the_configuration_count_before_service_and_where_nobody_killed_it(
    status: int | None, was_ready: bool, expected: CauseKind
) -> None:
    cause = classify(ExitEvidence(status, was_ready=was_ready, log=("bad flag --x",)), SIGNATURES)

    assert cause.kind is expected
    assert cause.permanent == (expected is CauseKind.CONFIGURATION)


def test_a_spawn_that_cannot_succeed_is_permanent() -> None:
    assert classify(ExitEvidence(None, spawn_error="no such file", spawn_permanent=True), ()) == ExitCause(
        CauseKind.CONFIGURATION, "no such file", permanent=True
    )
    assert not classify(ExitEvidence(None, spawn_error="it ended early"), ()).permanent


def test_a_spawn_that_found_nothing_left_is_nobodys_failure() -> None:
    evidence = ExitEvidence(None, spawn_error="Too many open files", spawn_shortage=True)
    assert classify(evidence, ()) == ExitCause(CauseKind.EXHAUSTED, "Too many open files")


def test_of_a_server_elsewhere_only_that_is_known() -> None:
    verdict = judge(ExitEvidence(0, unreachable="GET http://h/v1/models: connection refused"), ())
    assert verdict.cause.kind is CauseKind.UNREACHABLE
    assert verdict.cause.summary == told(verdict, "unreachable") == "GET http://h/v1/models: connection refused"
    assert told(judge(ExitEvidence(1), ()), "unreachable") == "it has a process here"


def test_the_last_lines_are_kept_and_the_very_last_is_told() -> None:
    log = tuple(f"line {n}  " for n in range(9))
    cause = classify(ExitEvidence(3, log=log), ())

    assert cause.summary == "ended by status 3: line 8"
    assert cause.evidence == ("line 4", "line 5", "line 6", "line 7", "line 8")


def test_silence_is_told_too() -> None:
    assert classify(ExitEvidence(3), ()).summary == "ended by status 3: it printed nothing"


@pytest.mark.parametrize(
    ("asked", "expected"), [(AskedFor.HANG, CauseKind.HANG), (AskedFor.STALL, CauseKind.LOAD_STALL)]
)
def test_what_the_daemon_ended_is_told_as_that(asked: AskedFor, expected: CauseKind) -> None:
    assert {kind(ExitEvidence(status, asked=asked, log=("x",))) for status in (0, 1, -9, -15)} == {expected}


@given(
    st.builds(
        ExitEvidence,
        status=st.none() | st.integers(-64, 255),
        asked=st.sampled_from(AskedFor),
        was_ready=st.booleans(),
        log=st.lists(st.sampled_from(["GPU is full", "coped", "bad flag", "device lost", "", "x"]), max_size=6),
        kernel_oom_kills=st.none() | st.integers(0, 2),
        kernel_named_us=st.none() | st.booleans(),
    )
)
def test_there_is_always_one_verdict_and_only_a_configuration_is_for_ever(found: ExitEvidence) -> None:
    verdict = judge(found, SIGNATURES)
    cause = verdict.cause

    assert cause == classify(found, SIGNATURES)
    assert any(rule.matched for rule in verdict.rules)
    assert all(rule.because for rule in verdict.rules)
    assert cause.summary
    assert cause.permanent == (cause.kind is CauseKind.CONFIGURATION)
    if cause.kind is CauseKind.KERNEL_OOM:
        assert found.kernel_oom_kills or (found.kernel_oom_kills is None and found.kernel_named_us)
        assert found.kernel_named_us or (found.signal == 9 and found.kernel_named_us is None)


# --- the rules, in words ---------------------------------------------------------------------------------------------

OURS = frozenset({"0000:01:00", "0000:02:00"})
NEIGHBOUR = "NVRM: Xid (PCI:0000:41:00): 79, pid=7, GPU has fallen off the bus."


@pytest.mark.parametrize(
    ("line", "addresses", "lost"),
    [
        (NEIGHBOUR, OURS, False),
        (NEIGHBOUR, frozenset(), True),  # where its GPUs are is not known
        ("NVRM: Xid (PCI:0000:02:00): 79, pid=7, GPU has fallen off the bus.", OURS, True),
        ("NVRM: Xid (PCI:0000:02:00 GPU-I:05): 79, GPU has fallen off the bus.", OURS, True),
        ("NVRM: Xid (PCI:00000000:41:00): 79, GPU has fallen off the bus.", OURS, False),
        ("NVRM: GPU 0000:02:00.0: GPU has fallen off the bus.", OURS, True),
        ("NVRM: GPU 0000:41:00.0: GPU has fallen off the bus.", OURS, False),
        ("NVRM: The GPU has fallen off the bus.", OURS, True),  # it does not say which
        ("amdgpu 0000:41:00.0: amdgpu: GPU reset begin!", OURS, True),  # another driver's, which is asked by nobody
    ],
)
def test_the_gpu_of_a_neighbour_is_not_blamed(line: str, addresses: frozenset[str], *, lost: bool) -> None:
    verdict = judge(ExitEvidence(-6, gpu_errors=(line,), gpu_addresses=addresses), ())
    assert (verdict.cause.kind is CauseKind.DEVICE_LOST) == lost
    assert lost or told(verdict, "device_lost").endswith(f"; of a GPU that it does not use: {line}")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (13, "an application's fault is no lost device"),
        (31, "an application's fault is no lost device"),
        (63, "a failed part of the GPU's memory was put out of use"),
        (94, "a memory error of the GPU, which it contained to the process"),
    ],
)
def test_what_an_error_of_a_gpu_means_that_is_not_lost(number: int, words: str) -> None:
    line = f"NVRM: Xid (PCI:0000:01:00): {number}, pid=79"
    verdict = judge(ExitEvidence(-6, gpu_errors=(NEIGHBOUR, line), gpu_addresses=OURS), ())
    assert verdict.cause.kind is CauseKind.CRASH
    assert f"; {words}: {line}; of a GPU that it does not use: {NEIGHBOUR}" in told(verdict, "device_lost")


RULES = [
    "asked", "spawn", "unreachable", "kernel_oom", "systemd_oomd", "gpu_oom", "host_oom", "device_lost",
    "configuration", "hang", "load_stall", "killed", "exited", "crash",
]  # fmt: skip


def test_every_rule_is_told_in_its_order() -> None:
    verdict = judge(ExitEvidence(-11, log=("GPU is full", "bad flag")), SIGNATURES)

    assert [judgement.rule for judgement in verdict.rules] == RULES
    assert [judgement.rule for judgement in verdict.rules if judgement.matched] == ["gpu_oom", "configuration"]
    assert verdict.cause.kind is CauseKind.GPU_OOM


def test_what_each_rule_missed() -> None:
    found = ExitEvidence(
        -9,
        kernel_oom_kills=0,
        cgroup_oom_kills=0,
        kernel_named_us=False,
        systemd_oomd_named_us=False,
        processes={1: "a", 2: "b", 3: "c"},
        gpus=(GpuRoom(1, 12 * GIB, 24 * GIB),),
        host_available=12 * GIB,
    )
    verdict = judge(found, SIGNATURES)

    assert told(verdict, "asked") == "nobody had asked it to stop"
    assert told(verdict, "kernel_oom") == (
        "memory.events oom_kill did not rise; /proc/vmstat oom_kill did not rise; "
        "the kernel log names none of its 3 processes"
    )
    assert told(verdict, "systemd_oomd") == "its control group has no mark of systemd-oomd"
    assert told(verdict, "gpu_oom") == (
        "no line of its log speaks of GPU memory that was refused; GPU 1 had 12288 of 24576 MiB free"
    )
    assert told(verdict, "device_lost") == "no line of its log speaks of a lost GPU"
    assert told(verdict, "killed") == (
        "SIGKILL, the host had 12.0 GiB available; "
        "if it was earlyoom, for memory, the log says so: journalctl -u earlyoom"
    )
    assert told(verdict, "crash") == "one of the rules above explains it"


@pytest.mark.parametrize(
    ("found", "rule", "words"),
    [
        (ExitEvidence(1), "kernel_oom", "the kernel's counter of such kills cannot be read; the kernel log cannot be"),
        (ExitEvidence(1), "systemd_oomd", "cannot be seen here"),
        (ExitEvidence(1), "gpu_oom", "how full the GPU was is not known"),
        (ExitEvidence(1, gpus=(HALF_FREE,)), "gpu_oom", "GPU 0 had 12288 of 24576 MiB free"),
        (ExitEvidence(1, log=("GPU is full", "it coped")), "gpu_oom", '"GPU is full" was taken back: it coped'),
        (ExitEvidence(1, log=("GPU is full, trying again",)), "gpu_oom", "is harmless"),
        (ExitEvidence(1, log=("prompt: GPU is full",)), "gpu_oom", "is no complaint of its own"),
        (ExitEvidence(1, log=("host is full",), host_available_ratio=0.01), "host_oom", "1% of the host's memory was"),
        (ExitEvidence(1, was_ready=True), "configuration", "it had served already"),
        (ExitEvidence(-15), "configuration", "it was killed before it could complain"),
        (ExitEvidence(0), "killed", "it ended by status 0, and no line of its log tells"),
        (ExitEvidence(134), "crash", "ended by status 134 (SIGABRT)"),
        (ExitEvidence(0, asked=AskedFor.STOP), "asked", "it was asked to stop"),
        (ExitEvidence(0, asked=AskedFor.HANG), "hang", "we ended it for lack of progress"),
        (ExitEvidence(-9, asked=AskedFor.HANG), "killed", "we had set about it"),
    ],
)
def test_what_a_rule_says(found: ExitEvidence, rule: str, words: str) -> None:
    assert words in told(judge(found, SIGNATURES), rule)


# --- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("free", "total", "full"),
    [
        (63 * MIB, 2 * GIB, True),
        (64 * MIB, 2 * GIB, False),
        (480 * MIB, 24 * GIB, True),
        (500 * MIB, 24 * GIB, False),
        (0, 0, False),  # a driver that does not tell
    ],
)
def test_when_a_gpu_is_full(free: int, total: int, full: bool) -> None:
    assert GpuRoom(0, free, total).full is full
    found = ExitEvidence(-6, gpus=(GpuRoom(0, free, total),), log=("widget: failed to allocate 3 MB", "Aborted"))
    assert (kind(found) is CauseKind.GPU_OOM) is full


def test_of_several_gpus_the_fullest_counts() -> None:
    rooms = (GpuRoom(0, 20 * GIB, 24 * GIB), GpuRoom(1, 9 * MIB, 16 * GIB), GpuRoom(2, 30, 0))
    cause = classify(ExitEvidence(-6, gpus=rooms, log=("no block: allocation failed",)), ())

    assert cause.evidence == ("no block: allocation failed", "GPU 1 had 9 of 16384 MiB free")


def test_words_of_refused_memory_prove_nothing_where_there_was_room() -> None:
    log = ("widget: failed to allocate 3 MB",)
    assert proven(log, gpus=(HALF_FREE,)).kind is CauseKind.CRASH
    assert proven(log, gpus=(FULL,)).kind is CauseKind.GPU_OOM
    assert proven(log).kind is CauseKind.CRASH
    assert proven((*log, "it coped"), *SIGNATURES, gpus=(FULL,)).kind is CauseKind.CRASH


def test_a_refusal_of_host_memory_is_the_hosts_on_a_full_gpu_too() -> None:
    line = "host is full: out of memory"
    assert proven((line,), *SIGNATURES, gpus=(FULL,)).kind is CauseKind.HOST_OOM


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("CUDA failed with error out of memory", CauseKind.GPU_OOM),
        ("[TM][ERROR] CUDA runtime error: out of memory /src/x.cu:32", CauseKind.GPU_OOM),
        ("hipMemCreate error 2: out of memory", CauseKind.GPU_OOM),
        ("CUDA graphs take memory. If you are running out of memory, lower it", CauseKind.CRASH),
        ("cuda: error in pinned memory: out of memory", CauseKind.CRASH),
        ("prompt: my CUDA error: out of memory", CauseKind.CRASH),
    ],
)
def test_a_gpus_library_is_believed_in_any_server(line: str, expected: CauseKind) -> None:
    assert proven((line,)).kind is expected


def test_a_process_that_lives_is_judged_by_the_same_words() -> None:
    assert out_of_memory(("fine",), SIGNATURES) is None
    assert out_of_memory(("GPU is full",), SIGNATURES) == ExitCause(
        CauseKind.GPU_OOM, "GPU out of memory: GPU is full", evidence=("GPU is full",)
    )
    host = out_of_memory(("host is full",), SIGNATURES)
    assert host is not None
    assert host.kind is CauseKind.HOST_OOM


GONE = (Signature(CauseKind.CRASH, "child is gone", vanished=True),)


@pytest.mark.parametrize(
    ("log", "kills", "named", "expected"),
    [
        ("child is gone", 1, None, CauseKind.KERNEL_OOM),
        ("child got signal 9", 1, None, CauseKind.KERNEL_OOM),
        ("child is gone", 1, False, CauseKind.CRASH),
        ("child is gone", 0, None, CauseKind.CRASH),
        ("child is gone", None, None, CauseKind.CRASH),
        ("child got signal 9", 0, None, CauseKind.KILLED),
        ("something else", 1, None, CauseKind.CRASH),
        ("GPU is full\nchild is gone", 1, None, CauseKind.GPU_OOM),
        ("host is full\nchild is gone", 1, None, CauseKind.HOST_OOM),
    ],
)
def test_a_process_gone_without_a_word_was_the_kernels_where_its_counter_rose_and_its_log_is_closed(
    log: str, kills: int | None, named: bool | None, expected: CauseKind
) -> None:
    found = ExitEvidence(1, log=log.splitlines(), kernel_oom_kills=kills, kernel_named_us=named)
    assert classify(found, SIGNATURES + GONE).kind is expected


def test_a_victim_called_as_ours_is_ours_where_pids_cannot_be_compared() -> None:
    alike = ExitEvidence(0, kernel_oom_kills=1, kernel_named_alike="VLLM::EngineCor")

    assert kind(alike) is CauseKind.KERNEL_OOM
    assert kind(replace(alike, kernel_named_us=False)) is CauseKind.EXITED
    assert kind(replace(alike, kernel_oom_kills=0)) is CauseKind.EXITED


@pytest.mark.parametrize(
    ("line", "killed"),
    [
        ("runner process has terminated: signal: killed", True),
        ("Shard process was signaled to shutdown with signal 9 rank=0", True),
        ("scheduler died (exit code: -9)", True),
        ("Child process unexpectedly failed with exitcode=-9. pid=7", True),
        ("Failed core proc(s): {'EngineCore': -9}", True),
        ("Failed core proc(s): {'EngineCore': -11}", False),
        ("died with exit code: -90, signal 99", False),
        ("prompt: what is signal 9?", False),
    ],
)
def test_how_a_parent_says_that_a_child_was_killed(line: str, killed: bool) -> None:
    assert (proven((line,)).kind is CauseKind.KILLED) is killed
    assert (proven((line,), kernel_oom_kills=1).kind is CauseKind.KERNEL_OOM) is killed


def test_systemd_oomd_is_believed() -> None:
    cause = classify(ExitEvidence(-9, systemd_oomd_named_us=True), ())

    assert (cause.kind, cause.summary) == (CauseKind.HOST_OOM, "killed by systemd-oomd: host short of memory")
    assert cause.evidence == ("systemd-oomd marked its control group as one that it killed (user.oomd_ooms)",)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (ExitEvidence(-9), "if it was systemd-oomd or earlyoom, for memory"),
        (ExitEvidence(-15), "journalctl -u systemd-oomd -u earlyoom"),
        (ExitEvidence(-9, host_pressure=Pressure.CRITICAL), ", under critical pressure; if it was systemd-oomd or"),
        (
            ExitEvidence(-9, systemd_oomd_named_us=False),
            "; if it was earlyoom, for memory, the log says so: journalctl -u",
        ),
    ],
)
def test_a_kill_that_nothing_explains_names_who_kills_for_memory(found: ExitEvidence, words: str) -> None:
    assert kind(found) is CauseKind.KILLED
    assert words in told(judge(found, ()), "killed")


# --- the device ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("NVRM: Xid (PCI:0000:01:00): 79, pid=7, GPU has fallen off the bus.", CauseKind.DEVICE_LOST),
        ("NVRM: Xid (PCI:0000:01:00): 119, Timeout after 6s of waiting for RPC response", CauseKind.DEVICE_LOST),
        ("NVRM: Xid (PCI:0000:01:00): 48, DBE (double bit error) ECC", CauseKind.DEVICE_LOST),
        ("NVRM: fallen off the bus and is not responding to commands.", CauseKind.DEVICE_LOST),
        ("amdgpu 0000:c4:00.0: GPU reset begin!. Source:  3", CauseKind.DEVICE_LOST),
        ("NVRM: Xid (PCI:0000:01:00): 13, pid=7, Graphics Exception: ESR 0x504730=0x120009", CauseKind.CRASH),
        ("NVRM: Xid (PCI:0000:01:00): 31, pid=79, MMU Fault", CauseKind.CRASH),
        ("NVRM: Xid (PCI:0000:79:00): 43, pid=48, Ch 00000079", CauseKind.CRASH),
        ("amdgpu 0000:c2:00.0: Ring gfx_0.0.0 reset succeeded", CauseKind.CRASH),
    ],
)  # fmt: skip
def test_which_errors_of_a_gpu_lose_it(line: str, expected: CauseKind) -> None:
    verdict = judge(ExitEvidence(-6, gpu_errors=(line,)), ())

    assert verdict.cause.kind is expected
    if "Xid" in line:
        assert line in told(verdict, "device_lost")


def test_what_the_driver_says_is_told_before_the_log() -> None:
    cause = classify(ExitEvidence(-6, gpus_lost=("GPU 0 is lost",), log=("device lost",)), SIGNATURES)

    assert cause.summary == "the GPU was lost: GPU 0 is lost"
    assert cause.evidence == ("GPU 0 is lost", "device lost")


# --- the configuration -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "permanent"), [(-4, True), (132, True), (126, True), (127, True), (-7, False), (2, False)]
)
def test_a_status_that_no_second_start_changes(status: int, permanent: bool) -> None:
    assert classify(ExitEvidence(status), ()).permanent is permanent
    assert not classify(ExitEvidence(status, was_ready=True), ()).permanent


def test_what_heals_with_another_start_is_not_permanent() -> None:
    taken = Signature(CauseKind.CONFIGURATION, "port taken", heals=True)
    cause = proven(("port taken",), taken)

    assert (cause.kind, cause.permanent) == (CauseKind.CONFIGURATION, False)


def test_an_announcement_is_quoted_where_there_is_no_reason() -> None:
    announced = Signature(CauseKind.CONFIGURATION, "failed to load", announces=True)
    reason = Signature(CauseKind.CONFIGURATION, "no such file")

    assert proven(("failed to load x", "no such file: x"), announced, reason).summary == "no such file: x"
    assert proven(("failed to load x", "odd"), announced, reason).summary == "failed to load x"


def test_of_two_signatures_of_one_line_the_one_without_a_doubt_decides() -> None:
    doubtful = Signature(CauseKind.GPU_OOM, "full", unless="is full")
    announcing = Signature(CauseKind.CONFIGURATION, "failed to load", announces=True)
    reason = Signature(CauseKind.CONFIGURATION, "load x: no file")

    assert proven(("GPU is full",), doubtful, SIGNATURES[0]).kind is CauseKind.GPU_OOM
    log = ("failed to load", "failed to load x: no file")
    assert proven(log, announcing, reason).summary == "failed to load x: no file"


# --- which line ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("    raise Full('GPU is full')", "Full: GPU is full"),
        ("[rank0]:     raise Full('GPU is full')", "[rank0]: Full: GPU is full"),
        ("(Core pid=7) ERROR 11-21 07:14:30 [a.py:1]     raise Full('GPU is full')", "(Core pid=7) ERROR GPU is full"),
    ],
)
def test_a_message_is_quoted_rather_than_the_source_line_above_it(source: str, message: str) -> None:
    assert proven((source, message), *SIGNATURES).evidence == (message,)
    assert proven((source,), *SIGNATURES).evidence == (source.strip(),)


@pytest.mark.parametrize(
    "line",
    [
        "prompt: GPU is full",
        "Received request x: prompt: 'GPU is full', params: None",
        'request: {"messages":[{"role":"user","content":"GPU is full"}]}',
        '{"role": "user", "content": "GPU is full"}',
        'level=DEBUG msg="chat request" prompt="GPU is full"',
        "Receive: obj=GenerateReqInput(rid='1', text='GPU is full')",
        '\\"content\\": \\"GPU is full\\"',
        "(APIServer pid=7) INFO 11-21 07:16:00 [x.py:1] GPU is full",
        "DEBUG 11-21 07:16:00 x.py:1] GPU is full",
        "INFO:     GPU is full",
        "0.06.377.734 I srv x: GPU is full",
        "0.06.377.734 D srv x: GPU is full",
        'time=2025-01-01T00:00:00Z level=DEBUG msg="GPU is full"',
        "2026-01-04T15:28:43.904106Z  INFO x: GPU is full",
        "[TensorRT-LLM][INFO] GPU is full",
    ],
)
def test_what_a_client_said_and_ordinary_lines_prove_nothing(line: str) -> None:
    assert proven((line,), *SIGNATURES).kind is CauseKind.CRASH


@pytest.mark.parametrize(
    "line",
    [
        'Error: Warmup(Generation("GPU is full"))',
        'time=2025-01-01T00:00:00Z level=INFO source=runner.go msg="GPU is full"',
        '{"level":"ERROR","fields":{"message":"GPU is full"}}',
        "0.06.377.734 E srv x: GPU is full",
        "(APIServer pid=7) WARNING 11-21 07:16:00 [x.py:1] GPU is full",
        "GPU is full, with prompt: 'hello'",
        "RuntimeError: 'GPU is full'",
    ],
)
def test_what_a_server_says_itself_is_proof(line: str) -> None:
    assert proven((line,), *SIGNATURES).kind is CauseKind.GPU_OOM


# --- how it ended ----------------------------------------------------------------------------------------------------


def test_a_runtime_that_kills_its_own_tree_was_not_killed_from_outside() -> None:
    own = Signature(CauseKind.CRASH, "ends itself", ends_itself=True)
    log = ("bad flag", "ends itself")

    assert proven(log, own, status=-9).summary == "ended by signal 9 (SIGKILL): ends itself"
    assert proven(log, own, *SIGNATURES, status=-9).kind is CauseKind.CONFIGURATION
    assert proven(log, own, status=-9, kernel_oom_kills=1).kind is CauseKind.CRASH
    assert proven(("bad flag",), own, status=-9).kind is CauseKind.KILLED


def test_a_runtimes_own_watchdog_found_a_hang() -> None:
    watchdog = Signature(CauseKind.HANG, "watchdog timeout")
    cause = proven(("watchdog timeout",), watchdog)

    assert (cause.kind, cause.summary) == (CauseKind.HANG, "ended by its own watchdog: watchdog timeout")
    assert "no longer answered" in proven(("watchdog timeout",), watchdog, asked=AskedFor.HANG).summary


def test_a_crash_quotes_the_line_that_its_runtime_is_known_to_die_with() -> None:
    died = Signature(CauseKind.CRASH, "ASSERT")
    assert (
        proven(("ASSERT(x) failed", "bye"), died, status=-6).summary == "ended by signal 6 (SIGABRT): ASSERT(x) failed"
    )
    assert proven(("odd", "bye", " "), died).summary == "ended by status 1: bye"


def test_a_bus_error_is_explained() -> None:
    assert "a mapped file became shorter" in told(judge(ExitEvidence(-7), ()), "crash")
