"""Jobs on a screen: a table of them, and the whole record of one."""

from collections.abc import Sequence

from supervisord.cli.supctl.figures import ABSENT, count, exact, moment, rate
from supervisord.cli.supctl.screen import Cell, Screen, Style
from supervisord.cli.supctl.table import Column, table
from supervisord.cli.supctl.wire import clean
from supervisord.cli.supctl.wire_records import Attempt, Job

_STATUSES = {
    "done": Style.GOOD,
    "running": Style.BUSY,
    "failed": Style.BAD,
    "abandoned": Style.BAD,
    "cancelled": Style.FAINT,
}

_COLUMNS = (
    Column("JOB"),
    Column("SUBMITTED", drop=5),
    Column("STATUS"),
    Column("MODEL", floor=12),
    Column("BACKEND", floor=12),
    Column("ATTEMPTS", drop=1),
    Column("WAIT", drop=3),
    Column("TOOK", drop=4),
    Column("IN", drop=2),
    Column("OUT", drop=2),
    Column("TOK/S", drop=2),
    Column("REASON", floor=24),
)

_LABEL_WIDTH = 16


def listing(jobs: Sequence[Job], screen: Screen) -> list[str]:
    if not jobs:
        return ["no jobs"]
    return table(_COLUMNS, [_row(job) for job in jobs], screen)


def _row(job: Job) -> Sequence[Cell]:
    last = job.attempts[-1] if job.attempts else None
    return (
        Cell(job.id),
        Cell(moment(job.submitted_at)),
        Cell(job.status or ABSENT, _STATUSES.get(job.status, Style.PLAIN)),
        Cell(job.model or ABSENT),
        Cell(job.backend or ABSENT),
        Cell(count(job.attempts_count)),
        Cell(exact(job.queue_wait_s)),
        Cell(exact(job.took_s)),
        Cell(count(last.tokens_in if last else None)),
        Cell(count(last.tokens_out if last else None)),
        Cell(rate(last.tokens_per_second if last else None)),
        Cell(_outcome(job.reason, job.detail)),
    )


def _outcome(*parts: str) -> str:
    return ": ".join(part for part in parts if part)


def record(job: Job, screen: Screen) -> list[str]:
    """Everything known about a job. Details are told whole, however long."""
    head = Cell(f"job {job.id}  {_outcome(job.status, job.reason)}", _STATUSES.get(job.status, Style.PLAIN))
    fields = (
        *_told(("detail", job.detail), ("waits for", _waits_for(job)), ("batch", _place(job))),
        ("endpoint", job.endpoint),
        ("model", job.model),
        ("backend", job.backend),
        ("client", job.client),
        ("priority", job.priority),
        ("stream", "yes" if job.stream else "no"),
        ("max tokens", count(job.max_tokens)),
        ("temperature", ABSENT if job.temperature is None else f"{job.temperature:g}"),
        ("submitted", moment(job.submitted_at)),
        *_told(("deadline", "" if job.deadline_at is None else moment(job.deadline_at))),
        ("finished", moment(job.finished_at)),
        ("took", exact(job.took_s)),
        ("queue wait", exact(job.queue_wait_s)),
        ("attempts", count(job.attempts_count)),
        *((clean(name), job.metadata.text(name)) for name in job.metadata.values),
    )
    lines = [screen.paint(head), *_fields(fields)]
    for attempt in job.attempts:
        lines += ["", *_attempt(attempt, screen)]
    return lines


def _attempt(attempt: Attempt, screen: Screen) -> list[str]:
    generation = "" if attempt.generation is None else f" generation {attempt.generation}"
    head = f"attempt {attempt.number} on {attempt.backend or ABSENT}{generation}"
    outcome = _outcome(attempt.status, attempt.reason)
    fields = (
        *_told(("detail", attempt.detail)),
        ("runtime", _with(attempt.runtime, attempt.build)),
        ("model", _with(attempt.model, attempt.quantization)),
        ("context", f"{count(attempt.context_tokens)} tokens"),
        ("template", attempt.template_hash),
        ("rung", rung(attempt.rung, attempt.rung_name, attempt.rung_why)),
        ("hardware", attempt.hardware),
        ("started", moment(attempt.started_at)),
        ("queue wait", exact(attempt.queue_wait_s)),
        ("first token", exact(attempt.ttft_s)),
        ("took", exact(attempt.duration_s)),
        ("tokens in", f"{count(attempt.tokens_in)} ({count(attempt.tokens_cached)} cached)"),
        ("tokens out", f"{count(attempt.tokens_out)} ({rate(attempt.tokens_per_second)} tok/s)"),
        ("HTTP status", ABSENT if attempt.http_status is None else str(attempt.http_status)),
    )
    return [screen.paint(Cell(f"{head}  {outcome}", _STATUSES.get(attempt.status, Style.PLAIN))), *_fields(fields)]


def rung(number: int | None, name: str, why: str) -> str:
    """Of the ladder, in words: 1 (context x 0.5): it ran out of GPU memory."""
    told = f"{count(number)} ({name})" if name else count(number)
    return f"{told}: {why}" if why else told


def _with(first: str, second: str) -> str:
    return " ".join(part for part in (first, second) if part)


def _waits_for(job: Job) -> str:
    place = "" if job.position is None else f"position {job.position}"
    return ", ".join(part for part in (job.waits_for, place) if part) if job.status == "queued" else ""


def _place(job: Job) -> str:
    """batch_1, line 7: invoice-0042"""
    return _outcome(f"{job.batch}, line {count(job.line)}", job.custom_id) if job.batch else ""


def _told(*fields: tuple[str, str]) -> list[tuple[str, str]]:
    """Those that there are: every other field is always shown, so that absence shows."""
    return [field for field in fields if field[1]]


def _fields(fields: Sequence[tuple[str, str]]) -> list[str]:
    return [f"  {label:<{_LABEL_WIDTH}}{text or ABSENT}" for label, text in fields]
