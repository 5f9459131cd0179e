"""All there is to say of single backends: their size and why, limits and control group, output, whole notes."""

import textwrap
from collections.abc import Sequence

from supervisord.cli.supctl.figures import count, number, size, span
from supervisord.cli.supctl.screen import Cell, Screen, Style
from supervisord.cli.supctl.status_view import phase
from supervisord.cli.supctl.wire_status import Backend, Group, Rung, Status

_LABEL_WIDTH = 16


def details(status: Status, backends: Sequence[Backend], screen: Screen) -> list[str]:
    """A paragraph for each of these. Wrapped, never cut."""
    lines = _field("control groups", _groups(status), screen, indent="")
    if status.store_path:
        lines += _field("store", f"{size(status.store_size)} in {status.store_path}", screen, indent="")
    for backend in backends:
        lines += ["", *_one(backend, status, screen)]
    return lines


def _groups(status: Status) -> str:
    if status.groups_kind in {"", "none"}:
        return f"none: {status.groups_problem}" if status.groups_problem else "none"
    told = f"{status.groups_kind}, with {', '.join(status.groups_controllers) or 'no controllers'}"
    return f"{told}; {status.groups_problem}" if status.groups_problem else told


def _one(backend: Backend, status: Status, screen: Screen) -> list[str]:
    head = f"{screen.paint(Cell(backend.name, Style.STRONG))}  {screen.paint(phase(backend.phase))}"
    rung = backend.rung
    note, ended = backend.held or backend.note, backend.last_reason
    fields = (
        ("models", ", ".join(backend.models)),
        ("note", "" if rung.why and note.endswith(rung.why) else note),  # it is told with its size
        ("start", f"{count(backend.generation)}, {number(backend.restarts, 'failure')}" if backend.generation else ""),
        ("last end", "" if ended in {note, rung.why} else ended),
        ("size", _size(rung)),
        ("larger again", _climb(rung)),
        ("limits", _limits(backend, status)),
        ("control group", _group(backend.group)),
        ("output", _output(backend)),
    )
    lines = [f"{head} for {span(backend.since_s)}"]
    for label, text in fields:
        lines += _field(label, text, screen) if text else []
    return lines


def _field(label: str, text: str, screen: Screen, indent: str = "  ") -> list[str]:
    hanging = " " * (len(indent) + _LABEL_WIDTH)
    first = f"{indent}{label:<{_LABEL_WIDTH}}"
    return textwrap.wrap(
        text,
        max(screen.width, len(hanging) + _LABEL_WIDTH),
        initial_indent=first,
        subsequent_indent=hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _size(rung: Rung) -> str:
    if not rung.number:
        return f"as configured; {number(rung.of, 'smaller one')}" if rung.of else "as configured"
    why = f": {rung.why}" if rung.why else ""
    return f"rung {count(rung.number)} of {count(rung.of)} ({rung.name}){why}"


def _climb(rung: Rung) -> str:
    """It also has to be idle, and to have served somebody: that is told where its time has come."""
    if rung.climb_in_s is None:
        return ""
    if rung.climb_in_s > 0:
        return f"in {span(rung.climb_in_s)} at the earliest, where there is room for it"
    return "when it is idle after a request, and there is room for it"


def _limits(backend: Backend, status: Status) -> str:
    wanted = {"memory": backend.limit_memory, "pids": backend.limit_pids}
    told = _joined(
        "" if wanted["memory"] is None else f"{size(wanted['memory'])} of memory",
        "" if wanted["pids"] is None else number(wanted["pids"], "task"),
    )
    missing = [name for name, value in wanted.items() if value is not None and name not in status.groups_controllers]
    return f"{told}; nothing holds it to its {' and '.join(missing)} here" if missing else told


def _group(group: Group | None) -> str:
    if group is None:
        return ""
    return _joined(
        _held(group),
        "" if group.peak is None else f"{size(group.peak)} at its peak",
        "" if group.pids is None else number(group.pids, "task"),
        f"held at its limit {number(group.at_limit, 'time')}" if group.at_limit else "",
        f"{count(group.oom_kills)} killed for lack of memory" if group.oom_kills else "",
    )


def _held(group: Group) -> str:
    """Page cache is a part of it."""
    if group.memory is None:
        return ""
    return f"{size(group.memory)} of memory" + ("" if group.limit is None else f", of {size(group.limit)}")


def _output(backend: Backend) -> str:
    log = backend.log
    return _joined(
        number(log.lines, "line") if log.lines else "",
        f"{count(log.cut)} of them cut, as too long" if log.cut else "",
        f"{count(log.dropped)} bytes lost, which the disk did not take" if log.dropped else "",
        log.degraded,
    )


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)
