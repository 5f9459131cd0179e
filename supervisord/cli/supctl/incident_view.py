"""Incidents on a screen: a table of them, the story of one, and all its evidence."""

import json
import textwrap
from collections.abc import Sequence

from supervisord.cli.supctl.figures import ABSENT, count, exact, moment
from supervisord.cli.supctl.screen import Cell, Screen, Style
from supervisord.cli.supctl.table import Column, table
from supervisord.cli.supctl.wire import clean
from supervisord.cli.supctl.wire_incidents import Incident, Rule

_COLUMNS = (
    Column("INCIDENT"),
    Column("WHEN", drop=5),
    Column("BACKEND", floor=12),
    Column("KIND"),
    Column("CAUSE", drop=3),
    Column("DOWN", drop=2),
    Column("RETRIED", drop=1),
    Column("LOST", drop=4),
    Column("SUMMARY", floor=16),
)

_GOING_ON = "going on"
_PARKED = "parked"
_MINOR = frozenset({"shrunk", "evicted"})  # the daemon's own doing, for the sake of the rest
_LABEL_WIDTH = 16


def listing(incidents: Sequence[Incident], screen: Screen) -> list[str]:
    if not incidents:
        return ["no incidents"]
    return table(_COLUMNS, [_row(incident) for incident in incidents], screen)


def _row(incident: Incident) -> Sequence[Cell]:
    down = _GOING_ON if incident.ended_at is None else exact(incident.downtime_s)
    if incident.outcome.startswith(_PARKED):
        down = _PARKED  # for as long as nobody starts it
    return (
        Cell(incident.id),
        Cell(moment(incident.at)),
        Cell(incident.backend or ABSENT),
        Cell(incident.kind or ABSENT, _style(incident)),
        Cell(incident.cause or ABSENT),
        Cell(down, Style.BUSY if incident.ended_at is None else Style.PLAIN),
        Cell(count(incident.jobs_retried)),
        Cell(count(incident.jobs_failed), Style.BAD if incident.jobs_failed else Style.PLAIN),
        Cell(incident.summary or incident.headline),
    )


def _style(incident: Incident) -> Style:
    return Style.BUSY if incident.kind in _MINOR else Style.BAD


def story(incident: Incident, screen: Screen) -> list[str]:
    """What a person wants to know of it. Wrapped, never cut."""
    head = Cell(incident.headline or incident.summary, _style(incident))
    lines = [screen.paint(head), f"  {moment(incident.at)}  incident {incident.id}"]
    for part in incident.story:
        lines += ["", screen.paint(Cell(part.title, Style.STRONG)), *_paragraphs(part.lines, screen)]
    return lines


def record(incident: Incident, screen: Screen) -> list[str]:
    """Its story, and all the evidence that is told in words."""
    facts = [
        f"  {clean(name):<{_LABEL_WIDTH - 1}} {clean(json.dumps(value, ensure_ascii=False))}"
        for name, value in incident.facts.values.items()
    ]
    width = max((len(rule.name) for rule in incident.verdict), default=0)
    return [
        *story(incident, screen),
        *_section("Rules", [_rule(rule, width) for rule in incident.verdict], screen),
        *_section("Facts", facts, screen),
        *_section("Samples of memory", [_samples(incident)] if incident.samples else [], screen),
        *_section("Log", [f"  {line}" for line in incident.log], screen),
    ]


def _section(title: str, lines: Sequence[str], screen: Screen) -> list[str]:
    return ["", screen.paint(Cell(title, Style.STRONG)), *lines] if lines else []


def _rule(rule: Rule, width: int) -> str:
    return f"  {'yes' if rule.matched else 'no':<4} {rule.name:<{width}}  {rule.because}"


def _samples(incident: Incident) -> str:
    span = f"{moment(incident.first_sample)} to {moment(incident.last_sample)}"
    return f"  {count(incident.samples)}, {span}; --json has them"


def _paragraphs(lines: Sequence[str], screen: Screen) -> list[str]:
    told: list[str] = []
    for line in lines:
        told += paragraph(line, screen)
    return told


def paragraph(text: str, screen: Screen, indent: str = "  ") -> list[str]:
    """A text in as many lines as it needs; a word that is wider than the screen stays whole, to be copied."""
    return textwrap.wrap(
        text,
        screen.width,
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
