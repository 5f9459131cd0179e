"""Answers to "why?": the present state of a backend in a sentence, and what became of a job."""

from collections import Counter
from collections.abc import Mapping, Sequence

from supervisord.cli.supctl.figures import count, exact, moment, number, span
from supervisord.cli.supctl.incident_view import paragraph
from supervisord.cli.supctl.screen import Cell, Screen, Style
from supervisord.cli.supctl.wire_incidents import Incident
from supervisord.cli.supctl.wire_records import Attempt, Job
from supervisord.cli.supctl.wire_status import Backend

# By the reasons of core/job.py. One that a later daemon has is told by its name.
REASONS: Mapping[str, str] = {
    "queue_full": "the queue was full when it came",
    "queue_timeout": "it waited longer than a job may (queue.timeout)",
    "deadline_exceeded": "the deadline that its client had set passed, or the window of its batch",
    "client_left": "its client closed the connection",
    "slow_client": "its client stopped reading the answer (limits.client_stall)",
    "cancelled": "an operator or its client cancelled it",
    "draining": "the daemon was going down",
    "backend_parked": "every backend that could serve it had given up: supctl status tells why",
    "backend_stopped": "every backend that could serve it was stopped by an operator",
    "backend_unreachable": "the backend could not be reached",
    "backend_died": "the backend ended while it worked on it",
    "backend_hung": "the backend made no progress with it, and was killed",
    "backend_out_of_memory": "the backend ran out of memory",
    "backend_protocol_error": "the backend's answer was not of the form it has to be",
    "backend_error": "the backend answered with an error of its own",
    "backend_busy": "the backend refused more work",
    "endpoint_missing": "no backend that could serve it has this endpoint",
    "request_rejected": "the backend refused the request itself: sending it again cannot help",
    "context_length_exceeded": "it is longer than the context of any backend that serves the model",
    "stream_cut": "the answer broke off after its beginning had reached the client, so it was not run again",
    "store_unavailable": "its record could not be written",
    "daemon_died": "the daemon ended while it waited or ran",
    "invalid_output": "its answers did not fit the JSON Schema that it asked for",
    "output_truncated": "its answer ended at its limit of tokens, and does not fit its JSON Schema so; raise the limit",
    "answer_too_large": "its answer was longer than is kept",
    "internal_error": "the daemon itself made a mistake: its log has more",
    "poison": "it took down backend after backend, so it is not run again; look at what is in it",
}

_ENDS = {"done": Style.GOOD, "failed": Style.BAD, "abandoned": Style.BAD, "cancelled": Style.FAINT}
_TROUBLED = frozenset({"parked", "unkillable", "backoff", "suspect"})


def present(backend: Backend, screen: Screen) -> list[str]:
    """How a backend is now, in a sentence."""
    reason = backend.held or backend.note or backend.last_reason
    because = f": {reason.rstrip('.')}" if reason else ""
    since = "" if backend.since_s is None else f" for {span(backend.since_s)}"
    again = "" if backend.next_start_in_s is None else f" It is started again in {exact(backend.next_start_in_s)}."
    style = Style.BAD if backend.phase in _TROUBLED else Style.PLAIN
    return [screen.paint(Cell(f"{backend.name} is {backend.phase or 'unknown'}{since} now{because}.{again}", style))]


def overview(incidents: Sequence[Incident], screen: Screen, *, more: bool) -> list[str]:
    """All that went wrong, the newest first, in a line for each backend; nothing where there is only one."""
    if len(incidents) == 1:
        return []
    newest = {each.backend: each for each in reversed(incidents)}
    counts = Counter(each.backend for each in incidents)
    past = " at least" if more else ""
    lines = [f"{number(len(incidents), 'incident')}{past} since {moment(incidents[-1].at)}:"]
    for backend, last in sorted(newest.items(), key=lambda each: each[1].at or 0.0, reverse=True):
        outcome = last.outcome or ("it is still going on" if last.ended_at is None else "")
        so = f" Then: {outcome.rstrip('.')}." if outcome else ""
        lines += paragraph(f"{number(counts[backend], 'time')}  {last.headline}{so}", screen)
    return [*lines, "", "The newest of them:", ""]


def before(incidents: Sequence[Incident], screen: Screen, *, more: bool) -> list[str]:
    """How many of a backend there are before the newest."""
    count_before = len(incidents) - 1
    if not count_before:
        return []
    past = " at least" if more else ""
    told = f"{number(count_before, 'incident')} before that{past}: supctl incidents --backend {incidents[0].backend}"
    return ["", *paragraph(told, screen, "")]


def job_story(job: Job, position: int | None, incidents: Sequence[Incident], screen: Screen) -> list[str]:
    """What became of a job, attempt by attempt, with what hit each of those that failed."""
    head = Cell(f"job {job.id} {_state(job, position)}", _ENDS.get(job.status, Style.PLAIN))
    lines = [screen.paint(head), *paragraph(_asked(job), screen)]
    for attempt in job.attempts:
        lines += ["", *paragraph(_tried(attempt), screen)]
        hit = _incident_of(attempt, incidents)
        if hit is not None:
            lines += paragraph(f"{hit.headline} {hit.summary}. See: supctl why {hit.id}", screen, "    ")
    ended = f"It runs on {job.backend} now." if job.status == "running" and job.backend else _ended(job)
    return [*lines, "", *paragraph(ended, screen)] if ended else lines


def _state(job: Job, position: int | None) -> str:
    if job.status == "queued":
        return "waits" if position is None else f"waits, at position {position}"
    return {"running": "is running", "cancelled": "was cancelled", "abandoned": "was abandoned"}.get(
        job.status, job.status or "is in an unknown state"
    )


def _asked(job: Job) -> str:
    by = f" {job.client}" if job.client else " a client"
    waited = "" if job.queue_wait_s is None else f" It waited {exact(job.queue_wait_s)} for its turn."
    return f"At {moment(job.submitted_at)}{by} asked for {job.model or 'no model'} ({job.endpoint}).{waited}"


def _tried(attempt: Attempt) -> str:
    start = "" if attempt.generation is None else f" (start {attempt.generation})"
    head = f"Attempt {attempt.number} on {attempt.backend}{start}"
    if attempt.status == "done":
        return f"{head} succeeded in {exact(attempt.duration_s)}, with {count(attempt.tokens_out)} tokens."
    detail = f": {attempt.detail}" if attempt.detail else ""
    return f"{head} {attempt.status or 'ended'} after {exact(attempt.duration_s)}: {_reason(attempt.reason)}{detail}."


def _reason(name: str) -> str:
    return REASONS.get(name, name.replace("_", " ")) or "without a reason"


def _incident_of(attempt: Attempt, incidents: Sequence[Incident]) -> Incident | None:
    """Of those that this job was in flight at, the one that hit this attempt."""
    if attempt.status == "done":
        return None
    here = [each for each in incidents if each.backend == attempt.backend]
    return next((each for each in here if each.generation == attempt.generation), None)


def _ended(job: Job) -> str:
    if job.finished_at is None:
        return ""
    took = f" {exact(job.took_s)} after it came"
    if job.status == "done":
        return f"It was done{took}."
    detail = f" ({job.detail})" if job.detail and all(job.detail != each.detail for each in job.attempts) else ""
    return f"It ended{took}: {_reason(job.reason)}{detail}."
