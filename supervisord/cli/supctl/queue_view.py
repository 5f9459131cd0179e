"""What waits, on a screen."""

from collections.abc import Sequence

from supervisord.cli.supctl.figures import ABSENT, count, exact, number, span
from supervisord.cli.supctl.screen import Cell, Screen, Style
from supervisord.cli.supctl.table import Column, table
from supervisord.cli.supctl.wire import Doc
from supervisord.cli.supctl.wire_work import Line

_COLUMNS = (
    Column("WAITING"),
    Column("MODEL", floor=12),
    Column("PRIORITY", drop=3),
    Column("CLIENT", floor=8, drop=2),
    Column("KIND", drop=1),
    Column("OLDEST", drop=4),
    Column("PACE", drop=5),
    Column("LEFT"),
    Column("WAITS FOR", floor=16),
)


def queue(doc: Doc, screen: Screen) -> list[str]:
    lines = [Line.read(each) for each in doc.each("lines")]
    waiting = doc.count("waiting")
    head = f"{number(waiting, 'job')} waiting, {count(doc.count('in_flight'))} running"
    paused = doc.text("paused")
    told = [screen.paint(Cell(f"paused: {paused}", Style.BAD)), head] if paused else [head]
    if not lines:
        return told
    more = doc.count("lines_total") - len(lines)
    rest = [f"and {number(more, 'line')} more, each shorter than these"] if more > 0 else []
    return [*told, "", *table(_COLUMNS, [_row(line) for line in lines], screen), *rest]


def _row(line: Line) -> Sequence[Cell]:
    return (
        Cell(count(line.waiting)),
        Cell(line.model or ABSENT),
        Cell(line.priority or ABSENT),
        Cell(line.client or ABSENT),
        Cell("durable" if line.durable else "live"),
        Cell(span(line.oldest_s)),
        Cell(_pace(line.per_s)),
        Cell(ABSENT if line.left_s is None else f"~{span(line.left_s)}"),
        Cell(line.waits_for or ABSENT),
    )


def _pace(per_second: float | None) -> str:
    """3.2/s; what is slower by the time of one: 41 s each."""
    if not per_second:
        return ABSENT
    return f"{per_second:.1f}/s" if per_second >= 1 else f"{exact(1 / per_second)} each"
