"""The SQL beside this file, loaded once; statements over many rows in as few steps as possible."""

import sqlite3
from collections.abc import Iterator, Sequence
from importlib.resources import files
from itertools import chain
from typing import Final

_HERE = files("supervisord.adapters.store")

SQL: Final = {
    item.name.removesuffix(".sql"): item.read_text(encoding="utf-8")
    for item in _HERE.joinpath("sql").iterdir()
    if item.name.endswith(".sql")
}

# Each step of a statement gives up the interpreter lock and takes it again, and taking it from a busy loop can cost
# 5 ms. So many rows go with one step. Three fixed sizes keep every statement in sqlite3's cache.
_CHUNKS: Final = (64, 8, 1)

Row = Sequence[object]


def migrations() -> Sequence[tuple[int, str]]:
    """The numbered migrations in order: (number, SQL)."""
    folder = _HERE.joinpath("migrations")
    found = [
        (int(item.name[:4]), item.read_text(encoding="utf-8"))
        for item in folder.iterdir()
        if item.name.endswith(".sql")
    ]
    return sorted(found)


class ManyRows:
    """A statement with `{rows}` in place of its VALUES, for any number of rows of one width."""

    def __init__(self, name: str, width: int) -> None:
        one = f"({', '.join('?' * width)})"
        self._sql = {size: SQL[name].replace("{rows}", ", ".join([one] * size)) for size in _CHUNKS}

    def run(self, connection: sqlite3.Connection, rows: Sequence[Row]) -> None:
        for part in _chunks(rows):
            connection.execute(self._sql[len(part)], tuple(chain.from_iterable(part)))


def _chunks(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    start = 0
    for size in _CHUNKS:
        while len(rows) - start >= size:
            yield rows[start : start + size]
            start += size
