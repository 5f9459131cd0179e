"""Events on a screen: one line each."""

from supervisord.cli.supctl.figures import moment
from supervisord.cli.supctl.screen import Cell, Screen, Style
from supervisord.cli.supctl.wire_records import Event

_KIND_WIDTH = 18
_KINDS = {
    "backend.exit": Style.BAD,
    "backend.orphans_killed": Style.BAD,
    "backend.rung": Style.BUSY,
    "memory.pressure": Style.BUSY,
    "memory.evicted": Style.BUSY,
    "placement.held": Style.BUSY,
    "queue.paused": Style.BUSY,
    "job.retry": Style.BUSY,
    "store": Style.BUSY,
    "sensor": Style.BUSY,
}


def line(event: Event, screen: Screen) -> str:
    """Time, kind, whom it is about, and what happened. Never cut: the end tells what was done."""
    kind = screen.paint(Cell(event.kind, _KINDS.get(event.kind, Style.PLAIN)), max(_KIND_WIDTH, len(event.kind)))
    return f"{moment(event.at)}  {kind}  {_subject(event)}{_job(event)}"


def _subject(event: Event) -> str:
    """Backend and generation, as a log names a program and its process, and what happened to it."""
    if not event.backend:
        return event.message
    name = event.backend if event.generation is None else f"{event.backend}[{event.generation}]"
    if event.message.startswith(f"{event.backend} "):  # it names the backend itself
        return name + event.message.removeprefix(event.backend)
    return f"{name}: {event.message}"


def _job(event: Event) -> str:
    return f" (job {event.job_id})" if event.job_id and event.job_id not in event.message else ""
