"""Why a process ended: the order of certainty, and what counts as proof."""

import itertools

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
    Signature,
    classify,
    describe_status,
)

SIGNATURES = (
    Signature(CauseKind.GPU_OOM, "GPU is full", unless="trying again", until=("coped",)),
    Signature(CauseKind.HOST_OOM, "host is full"),
    Signature(CauseKind.DEVICE_LOST, "device lost"),
    Signature(CauseKind.CONFIGURATION, "bad flag"),
)


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
        *OUT_OF_MEMORY, CauseKind.DEVICE_LOST, CauseKind.CONFIGURATION,
    }  # fmt: skip


# Each of these alone proves its kind; of two that are true at once the earlier in the list is believed.
CERTAINTY: list[tuple[CauseKind, dict[str, object], str]] = [
    (CauseKind.ASKED, {"asked": AskedFor.STOP}, ""),
    (CauseKind.CRASH, {"spawn_error": "too many open files"}, ""),
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
    cause = classify(ExitEvidence(1, log=("GPU is full",), vram_free_ratio=0.02), SIGNATURES)

    assert cause.evidence == ("GPU is full", "2% of the GPU's memory was free")


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
        (-9, None, True, CauseKind.KILLED),
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

    assert "the kernel log cannot be read" in cause.evidence or cause.kind is CauseKind.KILLED


@pytest.mark.parametrize(
    ("status", "was_ready", "expected"),
    [
        (1, False, CauseKind.CONFIGURATION),
        (1, True, CauseKind.CRASH),
        (0, False, CauseKind.EXITED),
        (-6, False, CauseKind.CRASH),
        (None, False, CauseKind.CRASH),
    ],
)
def test_words_about_the_configuration_count_before_service_and_with_a_failing_status(
    status: int | None, was_ready: bool, expected: CauseKind
) -> None:
    cause = classify(ExitEvidence(status, was_ready=was_ready, log=("bad flag --x",)), SIGNATURES)

    assert cause.kind is expected
    assert cause.permanent == (expected is CauseKind.CONFIGURATION)


def test_a_spawn_that_cannot_succeed_is_permanent() -> None:
    assert classify(ExitEvidence(None, spawn_error="no such file", spawn_permanent=True), ()) == ExitCause(
        CauseKind.CONFIGURATION, "no such file", permanent=True
    )
    assert not classify(ExitEvidence(None, spawn_error="no memory"), ()).permanent


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
    cause = classify(found, SIGNATURES)

    assert cause.summary
    assert cause.permanent == (cause.kind is CauseKind.CONFIGURATION)
    if cause.kind is CauseKind.KERNEL_OOM:
        assert found.kernel_oom_kills
        assert found.kernel_named_us or (found.status == -9 and found.kernel_named_us is None)
