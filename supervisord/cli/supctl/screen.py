"""The terminal, or what stands in for one: its width, and whether it shows colours."""

import codecs
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TextIO

from supervisord.cli.supctl.wire import clean

PIPED_WIDTH = 120  # columns; the width the layout is made for
_NARROWEST = 40


class Style(StrEnum):
    """What a text means; each value is the SGR parameter that shows it. Never needed to understand."""

    PLAIN = ""
    GOOD = "32"
    BUSY = "33"
    BAD = "31"
    FAINT = "2"
    STRONG = "1"


@dataclass(frozen=True, slots=True)
class Cell:
    text: str
    style: Style = Style.PLAIN


@dataclass(frozen=True, slots=True)
class Screen:
    width: int  # columns
    height: int  # lines; only asked for when `terminal`
    terminal: bool
    colour: bool

    def paint(self, cell: Cell, width: int = 0) -> str:
        """The text, cut or padded to `width` columns if given, in its colour where colours are shown."""
        text = fitted(cell.text, width) if width else cell.text
        if not self.colour or not cell.style:
            return text
        bare = text.rstrip()
        return f"\x1b[{cell.style}m{bare}\x1b[0m{text[len(bare) :]}"

    def flow(self, cells: Sequence[Cell], *, gap: str, indent: str = "  ") -> list[str]:
        """Cells side by side, on further indented lines where the screen is narrow."""
        lines: list[str] = []
        line, used = "", 0
        for cell in cells:
            extra = columns(gap) + columns(cell.text)
            if line and used + extra > self.width:
                lines.append(line)
                line, used = "", 0
            lead = gap if line else (indent if lines else "")
            room = self.width - used - columns(lead)
            shown = Cell(shortened(cell.text, room), cell.style)
            line += lead + self.paint(shown)
            used += columns(lead) + columns(shown.text)
        return [*lines, line]


def detect(stream: TextIO, *, colour: bool | None) -> Screen:
    """The screen behind `stream`; `colour` overrides NO_COLOR, TERM and what the stream is."""
    terminal = stream.isatty()
    size = _size(stream) if terminal else os.terminal_size((PIPED_WIDTH, 0))
    named = os.environ.get("COLUMNS", "")
    width = int(named) if named.isdecimal() and int(named) > 0 else size.columns
    if colour is None:
        colour = terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return Screen(max(_NARROWEST, width), size.lines or 24, terminal, colour)


def _size(stream: TextIO) -> os.terminal_size:
    try:
        size = os.get_terminal_size(stream.fileno())
    except OSError:
        return os.terminal_size((PIPED_WIDTH, 0))
    return size if size.columns else os.terminal_size((80, 24))  # a serial line does not know its size


def show(lines: Iterable[str]) -> None:
    """Print whole lines, at once."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def show_bytes(body: bytes) -> None:
    """Print a document as the daemon sent it."""
    sys.stdout.flush()
    sys.stdout.buffer.write(body.rstrip(b"\n") + b"\n")
    sys.stdout.buffer.flush()


def show_parts(parts: Iterable[bytes]) -> None:
    """Print an answer in the parts in which it comes; JSON with the end of its line.

    It may hold any bytes: a terminal gets no control characters of it.
    """
    sys.stdout.flush()
    last = b""
    for part in _printable(parts) if sys.stdout.isatty() else parts:
        sys.stdout.buffer.write(part)
        last = part[-1:] or last
    if last == b"}":
        sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()


def _printable(parts: Iterable[bytes]) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for part in parts:
        yield "\n".join(clean(line) for line in decoder.decode(part).split("\n")).encode()


def note(text: str) -> None:
    """Say something that is no part of the output."""
    print(f"supctl: {text}", file=sys.stderr, flush=True)


def columns(text: str) -> int:
    """The terminal columns a text takes: wide letters two, combining marks none."""
    if text.isascii():
        return len(text)
    import unicodedata  # noqa: PLC0415 - a megabyte of tables, and most names are ASCII

    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    marks = sum(unicodedata.combining(letter) != 0 for letter in text)
    return len(text) + wide - marks


def shortened(text: str, width: int) -> str:
    """`text`, cut with `…` where it takes more than `width` columns."""
    if columns(text) <= width:
        return text
    while text and columns(text) >= width:
        text = text[:-1]
    return f"{text.rstrip()}…"


def fitted(text: str, width: int) -> str:
    text = shortened(text, width)
    return text + " " * (width - columns(text))
