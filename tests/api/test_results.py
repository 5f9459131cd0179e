"""What the result of a job is as an answer over HTTP."""

from dataclasses import replace

import msgspec
import pytest

from supervisord.api.door import Request, Response
from supervisord.api.errors import STATUS
from supervisord.api.results import ERRORS, result_answer
from supervisord.core.errors import ConflictError, NotFoundError
from supervisord.core.job import FailureReason, JobStatus
from supervisord.core.record import JobRecord, JobResult
from supervisord.core.terms import Origin, Terms
from supervisord.ports import StoredJob

RECORD = JobRecord("j1", "/v1/chat/completions", "m", 1, False, "me", 1.0, None, None, terms=Terms(Origin.JOB))
DONE = JobResult("j1", JobStatus.DONE, 9.0, 0.25, 1, None, "", "b", b'{"id": 1}', 200, "application/json")
FAILED = replace(DONE, status=JobStatus.FAILED, output=None, http_status=None, content_type="")


def answered(of: StoredJob, path: str = "/v1/jobs/j1/result") -> Response:
    request = Request("GET", path, "", "", {}, b"", http_1_1=True, keep_alive=True)
    return result_answer(of, request)


def stored(result: JobResult | None, status: JobStatus | None = None) -> StoredJob:
    return StoredJob(RECORD, status or (result.status if result else JobStatus.QUEUED), result)


def test_a_good_answer_is_the_backends_own() -> None:
    answer = answered(stored(DONE))
    assert (answer.status, answer.body) == (200, b'{"id": 1}')
    assert dict(answer.headers) == {
        "content-type": "application/json",
        "x-job-id": "j1",
        "x-request-id": "j1",
        "x-backend": "b",
        "x-queue-wait": "0.250",
    }


def test_a_backends_refusal_is_passed_on_and_is_final() -> None:
    refused = replace(DONE, status=JobStatus.FAILED, reason=FailureReason.BACKEND_ERROR, http_status=500, output=b"no")
    answer = answered(stored(refused))
    assert (answer.status, answer.body) == (500, b"no")
    assert dict(answer.headers)["x-should-retry"] == "false"
    assert "x-should-retry" not in dict(answered(stored(replace(refused, http_status=400))).headers)


@pytest.mark.parametrize("reason", FailureReason)
def test_every_reason_has_an_error_and_none_is_worth_sending_again(reason: FailureReason) -> None:
    answer = answered(stored(replace(FAILED, reason=reason, detail="what was seen")))
    told = msgspec.json.decode(answer.body)["error"]
    assert answer.status == STATUS[ERRORS[reason].code]
    assert (told["code"], "what was seen" in told["message"]) == (ERRORS[reason].code, True)
    headers = dict(answer.headers)
    assert headers["x-job-id"] == "j1"
    assert "retry-after" not in headers
    assert headers.get("x-should-retry") == ("false" if answer.status >= 408 else None)
    assert len(headers) == len(answer.headers), "no header twice"


@pytest.mark.parametrize("reason", [FailureReason.INVALID_OUTPUT, FailureReason.OUTPUT_TRUNCATED])
def test_an_answer_that_does_not_fit_is_never_given_as_the_result(reason: FailureReason) -> None:
    answer = answered(stored(replace(DONE, status=JobStatus.FAILED, reason=reason, detail="a: not a number")))
    assert (answer.status, msgspec.json.decode(answer.body)["error"]["code"]) == (422, reason.value)


def test_an_endpoint_that_no_backend_has_is_told_as_to_who_waits_for_the_answer() -> None:
    refused = replace(DONE, status=JobStatus.FAILED, reason=FailureReason.ENDPOINT_MISSING, output=b"File Not Found")
    answer = answered(stored(replace(refused, http_status=404)))
    assert (answer.status, dict(answer.headers)["x-should-retry"]) == (501, "false")
    told = msgspec.json.decode(answer.body)["error"]
    words = 'The backend "b" does not offer /v1/chat/completions: it answered 404.'
    assert (told["code"], told["message"]) == ("endpoint_missing", words)
    itself = answered(stored(replace(refused, http_status=501, output=b"not with these flags")))
    assert (itself.status, itself.body) == (501, b"not with these flags"), "it says why"


def test_a_cancelled_one_says_so() -> None:
    answer = answered(stored(replace(FAILED, status=JobStatus.CANCELLED)))
    assert (answer.status, msgspec.json.decode(answer.body)["error"]["code"]) == (499, "cancelled")


def test_no_result_yet_and_none_any_more() -> None:
    for status in (JobStatus.QUEUED, JobStatus.RUNNING):
        with pytest.raises(ConflictError, match=f"j1 is {status}: it has no result yet"):
            answered(stored(None, status))
    for gone in (replace(DONE, output=None), replace(DONE, output=None, http_status=None)):
        with pytest.raises(NotFoundError, match="past its retention"):
            answered(stored(gone))


# --- for Anthropic's clients -----------------------------------------------------------------------------------------


def test_a_good_answer_is_told_by_its_job_as_anthropics_clients_read_it() -> None:
    answer = answered(stored(DONE), "/v1/messages")
    assert (answer.status, answer.body) == (200, b'{"id": 1}')
    assert dict(answer.headers)["request-id"] == "j1"


@pytest.mark.parametrize(
    ("status", "as_told", "kind"), [(400, 400, "invalid_request_error"), (503, 529, "overloaded_error")]
)
def test_a_backends_refusal_is_in_anthropics_shape(status: int, as_told: int, kind: str) -> None:
    refused = replace(DONE, status=JobStatus.FAILED, reason=FailureReason.BACKEND_ERROR)
    refused = replace(refused, http_status=status, output=b'{"error": {"message": "no"}}')
    answer = answered(stored(refused), "/v1/messages")
    assert (answer.status, dict(answer.headers)["request-id"]) == (as_told, "j1")
    told = msgspec.json.decode(answer.body)
    assert (told["type"], told["error"], told["request_id"]) == ("error", {"type": kind, "message": "no"}, "j1")


def test_a_failure_of_ours_is_in_anthropics_shape_and_final() -> None:
    answer = answered(stored(replace(FAILED, reason=FailureReason.POISON)), "/v1/messages")
    told = msgspec.json.decode(answer.body)
    assert (answer.status, told["type"], told["error"]["type"]) == (500, "error", "api_error")
    assert dict(answer.headers)["x-should-retry"] == "false"
