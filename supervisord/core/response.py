"""A response of OpenAI's Responses API that runs in the background, as an object: whatever has become of it.

Its id is the job's, so that it is known by one name from its acceptance on, whichever backend answers.
"""

from collections.abc import Mapping, Sequence

from supervisord.core.job import FailureReason, JobStatus
from supervisord.core.record import JobRecord, JobResult

PREFIX = "resp_"

# What of the request an object repeats. Not `input`, which may be long and has a retention of its own.
ECHOED = (
    "instructions", "max_output_tokens", "max_tool_calls", "metadata", "parallel_tool_calls", "previous_response_id",
    "reasoning", "service_tier", "temperature", "text", "tool_choice", "tools", "top_logprobs", "top_p", "truncation",
    "user",
)  # fmt: skip
_REQUIRED: Mapping[str, object] = {"parallel_tool_calls": True, "tool_choice": "auto", "tools": (), "metadata": None}

Object = Mapping[str, object]

_STATUS: Mapping[str, str] = {
    JobStatus.QUEUED: "queued",
    JobStatus.RUNNING: "in_progress",
    JobStatus.CANCELLED: "cancelled",
    JobStatus.FAILED: "failed",
    JobStatus.ABANDONED: "failed",
    JobStatus.DONE: "completed",
}
# OpenAI's list of codes is closed, and read by typed clients: what is the request's fault, and all else.
_OF_THE_REQUEST = frozenset({FailureReason.REQUEST_REJECTED, FailureReason.CONTEXT_LENGTH_EXCEEDED})


def id_of(job_id: str) -> str:
    """What a client calls the response of a job."""
    return PREFIX + job_id


def job_id_of(response_id: str) -> str:
    """The job of a response; empty for what is no id of one."""
    return response_id.removeprefix(PREFIX) if response_id.startswith(PREFIX) else ""


def begun(job: JobRecord, asked: Object) -> Object:
    """The object as it is accepted. `asked`: the members of the request that an object repeats."""
    metadata = dict(job.terms.metadata) if job.terms is not None else {}
    known = {"temperature": job.temperature, "max_output_tokens": job.max_tokens, "metadata": metadata}
    return {
        **_REQUIRED,
        **{name: asked[name] for name in ECHOED if name in asked},
        **{name: value for name, value in known.items() if value is not None},
        "id": id_of(job.id),
        "object": "response",
        "created_at": int(job.submitted_at),
        "model": job.model,
        "background": True,
        "status": "queued",
        "output": (),
        "error": None,
        "incomplete_details": None,
        "usage": None,
    }


def is_response(told: Object) -> bool:
    """Whether what a backend answered is one, whatever it leaves out of it."""
    return told.get("object") == "response" or isinstance(told.get("output"), list)


def answered(shell: Object, told: Object, finished_at: float) -> Object:
    """The whole answer of a backend, with what its client knows the response by, and what OpenAI's always have."""
    ours = {name: shell[name] for name in ("id", "object", "created_at", "model", "background", "metadata")}
    status = told.get("status")
    whole = status if status in {"completed", "incomplete", "failed"} else "completed"
    kept = {name: value for name, value in told.items() if value is not None}
    completed_at = int(finished_at) if whole == "completed" else None
    return {**shell, **kept, **ours, "status": whole, "completed_at": completed_at}


def as_it_is(kept: Object, status: str, result: JobResult | None, said: str = "") -> Object:
    """`kept`, the object as far as it came, as it is now: in the state of its job. `said`: a backend's words for why
    it failed."""
    if status == JobStatus.DONE:
        return kept
    error = kept.get("error")
    if status in {JobStatus.FAILED, JobStatus.ABANDONED} and not error:
        error = _error(result, said)
    output = kept.get("output") if result is not None else ()
    return {**kept, "status": _STATUS.get(status, "failed"), "error": error, "output": output}


def _error(result: JobResult | None, said: str) -> Object:
    reason = result.reason if result is not None else None
    told = said or (result.detail if result is not None else "")
    message = ": ".join(part for part in (reason.value if reason else "", told) if part) or "it failed"
    return {"code": "invalid_prompt" if reason in _OF_THE_REQUEST else "server_error", "message": message}


def event_of(status: object) -> str:
    """The event that ends the stream of a response: OpenAI has none of its own for one that was cancelled."""
    return {"completed": "response.completed", "incomplete": "response.incomplete"}.get(str(status), "response.failed")


def partly(shell: Object, output: Sequence[Object]) -> Object:
    """The object of a response that came only so far."""
    return {**shell, "status": "in_progress", "output": tuple(output)}
