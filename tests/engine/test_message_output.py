"""The lines of a batch of messages that have no answer: their errors are those that Anthropic's clients know."""

import json

import pytest

from supervisord.core.batch import Fate
from supervisord.core.job import FailureReason, JobStatus
from supervisord.core.record import JobRecord, JobResult
from supervisord.core.terms import Origin, Terms
from supervisord.engine.batching.message_output import in_anthropic_form
from supervisord.ports import StoredJob


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (402, "billing_error"),
        (404, "not_found_error"),
        (418, "invalid_request_error"),
        (429, "overloaded_error"),
        (500, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
        (529, "overloaded_error"),
        (None, "api_error"),
    ],
)
def test_an_error_is_of_the_kind_that_its_status_has_at_the_door(status: int | None, kind: str) -> None:
    terms = Terms(Origin.MESSAGE_BATCH, batch="b", line=1, custom_id="c1")
    job = JobRecord("7", "/v1/messages", "m", 2, False, "", 0.0, None, None, terms=terms)
    result = JobResult("7", JobStatus.FAILED, 1.0, 0.0, 1, FailureReason.BACKEND_ERROR, "no", http_status=status)
    line = json.loads(in_anthropic_form(StoredJob(job, "failed", result), Fate.FAILED))
    assert (line["custom_id"], line["result"]["type"]) == ("c1", "errored")
    assert line["result"]["error"] == {
        "type": "error",
        "error": {"type": kind, "message": "no (backend_error)"},
        "request_id": "7",
    }


def test_an_endpoint_that_no_backend_has_is_told_in_words() -> None:
    terms = Terms(Origin.MESSAGE_BATCH, batch="b", line=1, custom_id="c1")
    job = JobRecord("7", "/v1/messages", "m", 2, False, "", 0.0, None, None, terms=terms)
    missing = FailureReason.ENDPOINT_MISSING
    result = JobResult("7", JobStatus.FAILED, 1.0, 0.0, 1, missing, "status 404", "b", b"no", http_status=404)
    line = json.loads(in_anthropic_form(StoredJob(job, "failed", result), Fate.FAILED))
    words = 'The backend "b" does not offer /v1/messages: it answered 404. (endpoint_missing)'
    assert line["result"]["error"]["error"] == {"type": "not_found_error", "message": words}
