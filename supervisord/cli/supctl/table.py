"""Tables that never wrap: texts are cut, and columns left out, as the screen gets narrower."""

from collections.abc import Sequence
from dataclasses import dataclass

from supervisord.cli.supctl.screen import Cell, Screen, Style, columns

_GAP = "  "


@dataclass(frozen=True, slots=True)
class Column:
    """`floor`: how far it may be cut, in columns (0: not at all); `drop`: left out in ascending order (0: never)."""

    title: str
    floor: int = 0
    drop: int = 0


def table(heads: Sequence[Column], rows: Sequence[Sequence[Cell]], screen: Screen) -> list[str]:
    """The lines of a table, its title first."""
    widths = [_natural(at, head, rows) for at, head in enumerate(heads)]
    kept = _kept(heads, widths, screen.width)
    shown = _shrunk(heads, widths, kept, screen.width)
    titles = [Cell(head.title, Style.STRONG) for head in heads]
    return [_line(row, kept, shown, screen) for row in (titles, *rows)]


def _natural(at: int, head: Column, rows: Sequence[Sequence[Cell]]) -> int:
    return max(columns(head.title), *(columns(row[at].text) for row in rows), 0)


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _least(head: Column, width: int) -> int:
    return min(width, max(head.floor, columns(head.title))) if head.floor else width


def _kept(heads: Sequence[Column], widths: Sequence[int], width: int) -> list[int]:
    """The columns that find room when all are cut to their floors."""
    kept = list(range(len(heads)))
    for at in sorted((at for at in kept if heads[at].drop), key=lambda at: heads[at].drop):
        if _total([_least(heads[here], widths[here]) for here in kept]) <= width:
            break
        kept.remove(at)
    return kept


def _shrunk(heads: Sequence[Column], widths: Sequence[int], kept: Sequence[int], width: int) -> list[int]:
    """The widths, taken from the last column first: notes are cut before names are."""
    shown = list(widths)
    excess = _total([shown[at] for at in kept]) - width
    for at in reversed(kept):
        if excess <= 0:
            break
        taken = min(excess, shown[at] - _least(heads[at], shown[at]))
        shown[at] -= taken
        excess -= taken
    last = kept[-1]
    shown[last] = max(1, shown[last] - max(0, excess))  # the narrowest screens: what is left goes to the last
    return shown


def _line(row: Sequence[Cell], kept: Sequence[int], shown: Sequence[int], screen: Screen) -> str:
    return _GAP.join(screen.paint(row[at], shown[at]) for at in kept).rstrip()
