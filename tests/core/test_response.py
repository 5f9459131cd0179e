"""A response in the background as an object."""

import pytest

from supervisord.core.job import FailureReason, JobStatus
from supervisord.core.record import JobRecord, JobResult
from supervisord.core.response import answered, as_it_is, begun, event_of, id_of, job_id_of, partly
from supervisord.core.terms import Origin, Terms

JOB = JobRecord(
    id="7",
    endpoint="/v1/responses",
    model="m",
    priority=1,
    stream=True,
    client="c",
    submitted_at=100.7,
    max_tokens=50,
    temperature=0.5,
    terms=Terms(Origin.RESPONSE, metadata={"who": "me"}),
)
SHELL = begun(JOB, {"instructions": "Be brief.", "tools": [{"type": "function"}], "input": "a secret"})


def result(status: JobStatus, reason: FailureReason | None = None, detail: str = "") -> JobResult:
    return JobResult("7", status, 200.0, 1.0, 1, reason, detail)


def test_ids() -> None:
    assert (id_of("7"), job_id_of("resp_7"), job_id_of("7"), job_id_of("msg_7")) == ("resp_7", "7", "", "")


def test_as_it_is_accepted() -> None:
    assert (SHELL["id"], SHELL["object"], SHELL["created_at"], SHELL["model"]) == ("resp_7", "response", 100, "m")
    assert (SHELL["status"], SHELL["output"], SHELL["background"]) == ("queued", (), True)
    assert (SHELL["tool_choice"], SHELL["parallel_tool_calls"]) == ("auto", True)
    assert (SHELL["tools"], SHELL["instructions"]) == ([{"type": "function"}], "Be brief.")
    assert (SHELL["max_output_tokens"], SHELL["temperature"], SHELL["metadata"]) == (50, 0.5, {"who": "me"})
    assert "input" not in SHELL


def test_what_is_known_of_a_request_that_is_not_kept() -> None:
    bare = begun(JobRecord("8", "/v1/responses", "m", 1, True, "c", 5.0, None, None), {})
    assert (bare["tools"], bare["metadata"], "temperature" in bare) == ((), {}, False)


@pytest.mark.parametrize(
    ("told", "status", "completed_at"),
    [
        ({"status": "completed"}, "completed", 150),
        ({"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}, "incomplete", None),
        ({"status": "failed", "error": {"code": "server_error", "message": "x"}}, "failed", None),
        ({}, "completed", 150),
        ({"status": "in_progress"}, "completed", 150),
    ],
)
def test_the_answer_of_a_backend_under_our_name(told: dict[str, object], status: str, completed_at: int | None) -> None:
    theirs = {"id": "resp_x", "model": "embedded.gguf", "created_at": 1, "output": [1], "temperature": None, **told}
    whole = answered(SHELL, theirs, 150.9)
    assert (whole["id"], whole["model"], whole["created_at"]) == ("resp_7", "m", 100)
    assert (whole["status"], whole["completed_at"], whole["output"]) == (status, completed_at, [1])
    assert whole["temperature"] == 0.5, "null is no word against ours"
    assert (whole["metadata"], whole["background"]) == ({"who": "me"}, True)


def test_the_states_of_its_job() -> None:
    part = partly(SHELL, [{"id": "msg_1"}])
    assert part["status"] == "in_progress"
    assert as_it_is(SHELL, JobStatus.QUEUED, None)["status"] == "queued"
    running = as_it_is(part, JobStatus.RUNNING, None)
    assert (running["status"], running["output"]) == ("in_progress", ())
    done = answered(SHELL, {"status": "incomplete"}, 1.0)
    assert as_it_is(done, JobStatus.DONE, result(JobStatus.DONE)) == done
    cancelled = as_it_is(part, JobStatus.CANCELLED, result(JobStatus.CANCELLED, FailureReason.CANCELLED))
    assert (cancelled["status"], cancelled["error"], cancelled["output"]) == ("cancelled", None, ({"id": "msg_1"},))


@pytest.mark.parametrize(
    ("reason", "detail", "said", "code", "message"),
    [
        (FailureReason.BACKEND_DIED, "eof", "", "server_error", "backend_died: eof"),
        (FailureReason.REQUEST_REJECTED, "status 400", "no such tool", "invalid_prompt",
         "request_rejected: no such tool"),
        (FailureReason.CONTEXT_LENGTH_EXCEEDED, "", "", "invalid_prompt", "context_length_exceeded"),
        (None, "", "", "server_error", "it failed"),
    ],
)  # fmt: skip
def test_why_it_failed(reason: FailureReason | None, detail: str, said: str, code: str, message: str) -> None:
    failed = as_it_is(SHELL, JobStatus.FAILED, result(JobStatus.FAILED, reason, detail), said)
    assert (failed["status"], failed["error"]) == ("failed", {"code": code, "message": message})


def test_a_failure_without_a_result_and_one_that_is_told_already() -> None:
    assert as_it_is(SHELL, JobStatus.ABANDONED, None)["error"] == {"code": "server_error", "message": "it failed"}
    told = {**SHELL, "error": {"code": "server_error", "message": "theirs"}}
    assert as_it_is(told, JobStatus.FAILED, result(JobStatus.FAILED))["error"] == told["error"]
    assert as_it_is(SHELL, "something new", None)["status"] == "failed"


def test_the_event_that_ends_its_stream() -> None:
    assert [event_of(status) for status in ("completed", "incomplete", "failed", "cancelled")] == [
        "response.completed",
        "response.incomplete",
        "response.failed",
        "response.failed",
    ]
