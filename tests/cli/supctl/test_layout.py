"""Figures, widths and tables at their edges."""

import pytest

from supervisord.cli.supctl import figures
from supervisord.cli.supctl.screen import Cell, Screen, Style, columns, shortened
from supervisord.cli.supctl.sockets import SYSTEM_SOCKET, places
from supervisord.cli.supctl.table import Column, table

PLAIN = Screen(width=40, height=24, terminal=False, colour=False)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, figures.ABSENT), (-1, "0 s"), (0.9, "0 s"), (59.9, "59 s"), (60, "1m"), (3599, "59m"), (3600, "1h"),
     (7800, "2h 10m"), (86399, "23h 59m"), (86400, "1d"), (273_600, "3d 4h")],
)  # fmt: skip
def test_span(seconds, text):
    assert figures.span(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, figures.ABSENT), (-1, "0.00 s"), (0.824, "0.82 s"), (9.99, "9.99 s"), (9.996, "10.0 s"), (59.94, "59.9 s"),
     (59.96, "1m"), (92, "1m 32s"), (3600, "1h")],
)  # fmt: skip
def test_exact(seconds, text):
    assert figures.exact(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, figures.ABSENT), (0, "0"), (512, "512"), (1024, "1k"), (12288, "12k"), (131072, "128k"), (100_000, "100k"),
     (12032, "11.8k"), (1048576, "1M")],
)  # fmt: skip
def test_tokens(value, text):
    assert figures.tokens(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(None, figures.ABSENT), (0.04, "0.0"), (99.94, "99.9"), (99.96, "100"), (1234.5, "1\u00a0234")]
)
def test_rate(value, text):
    assert figures.rate(value) == text


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [
        ("abc", 3, "abc"),
        ("abcd", 3, "ab…"),
        ("ab cd", 4, "ab…"),
        ("日本語", 5, "日本…"),
        ("日本語", 4, "日…"),
        ("ab", 0, "…"),
    ],
)
def test_shortened(text, width, shown):
    assert shortened(text, width) == shown


def test_columns_of_letters():
    assert [columns(text) for text in ("ab", "é", "e\u0301", "日本")] == [2, 1, 1, 4]


class TestTable:
    HEADS = (Column("NAME", floor=4), Column("RIGID"), Column("EXTRA", drop=1), Column("NOTE", floor=6))

    def lines(self, width, *row):
        screen = Screen(width=width, height=24, terminal=False, colour=False)
        return table(self.HEADS, [[Cell(text) for text in row]], screen)

    def test_natural(self):
        assert self.lines(40, "name", "x", "y", "a note") == ["NAME  RIGID  EXTRA  NOTE", "name  x      y      a note"]

    def test_note_is_cut_before_names(self):
        assert self.lines(32, "longname", "x", "y", "a long note")[1] == "longname  x      y      a long…"

    def test_names_are_cut_before_columns_go(self):
        assert self.lines(26, "longname", "x", "y", "a long note")[1] == "lon…  x      y      a lon…"

    def test_column_goes_when_nothing_can_be_cut(self):
        assert self.lines(25, "longname", "x", "y", "a long note") == [
            "NAME      RIGID  NOTE",
            "longname  x      a long…",
        ]

    def test_narrower_than_anything(self):
        assert all(len(line) <= 14 for line in self.lines(14, "longname", "x", "y", "a long note"))

    def test_colour_is_outside_the_width(self):
        screen = Screen(width=40, height=24, terminal=False, colour=True)
        assert table((Column("A"), Column("B")), [[Cell("x", Style.GOOD), Cell("y")]], screen) == [
            "\x1b[1mA\x1b[0m  \x1b[1mB\x1b[0m",
            "\x1b[32mx\x1b[0m  y",
        ]


def test_flow_indents_what_does_not_fit():
    cells = [Cell("a" * 30), Cell("b" * 20), Cell("c" * 60)]
    assert PLAIN.flow(cells, gap="   ") == ["a" * 30, "  " + "b" * 20, "  " + "c" * 37 + "…"]


class TestPlaces:
    def test_option_before_environment(self):
        assert places("/a", {"LLM_SUPERVISORD_SOCKET": "/b"}).paths == ("/a",)

    def test_environment_before_defaults(self):
        assert places(None, {"LLM_SUPERVISORD_SOCKET": "/b", "HOME": "/h"}).paths == ("/b",)

    def test_defaults(self):
        assert places(None, {"XDG_RUNTIME_DIR": "/r", "XDG_STATE_HOME": "/s", "HOME": "/h"}).paths == (
            SYSTEM_SOCKET,
            "/r/llm-supervisord/control.sock",
            "/s/llm-supervisord/control.sock",
        )
        assert places(None, {"HOME": "/h"}).paths == (SYSTEM_SOCKET, "/h/.local/state/llm-supervisord/control.sock")
        assert places(None, {}).paths == (SYSTEM_SOCKET,)


def test_terminal_without_a_size(supctl, peer):
    """A serial console does not know its width: 80."""
    with supctl.running("status", "--no-color", terminal=(0, 0)) as running:
        assert max(map(len, running.rest().splitlines())) <= 80


def test_nonsense_in_columns_is_ignored(supctl, peer):
    assert supctl("status", COLUMNS="many").out == supctl("status").out


def test_narrowest_screen_is_40(supctl, peer):
    assert supctl("status", COLUMNS="1").out == supctl("status", COLUMNS="40").out
