"""Every row of docs/faults.md names tests that are called after it and are collected; no test has another row."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
DOCUMENT = TESTS.parent / "docs" / "faults.md"
ROWS = 34
ROW = re.compile(r"^\| (\d+) \| (.+?) \| (.+?) \| (.+?) \|$", re.MULTILINE)
NAME = re.compile(r"test_row_(\d+)_\w+")


@cache
def documented() -> dict[int, list[str]]:
    """The tests that each row of the document names, as `file: name`."""
    found = {}
    for number, _, _, tests in ROW.findall(DOCUMENT.read_text()):
        named = re.findall(r"`([\w/]+\.py)`((?:,? ?`\w+`)+)", tests)
        found[int(number)] = [f"{file}: {name}" for file, names in named for name in re.findall(r"`(\w+)`", names)]
    return found


@cache
def collected() -> dict[int, set[str]]:
    """The tests of each row that pytest would collect: functions at the top of files called test_*.py."""
    found: dict[int, set[str]] = {}
    for file in TESTS.rglob("test_*.py"):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (match := NAME.fullmatch(node.name)):
                found.setdefault(int(match[1]), set()).add(f"{file.relative_to(TESTS)}: {node.name}")
    return found


def test_there_are_all_rows() -> None:
    assert sorted(documented()) == list(range(1, ROWS + 1))


@pytest.mark.parametrize("number", range(1, ROWS + 1))
def test_every_row_names_tests_that_show_it_and_are_collected(number: int) -> None:
    named = documented()[number]
    assert named, "a fault without a test"
    assert set(named) <= collected().get(number, set())


def test_there_is_no_test_of_a_row_that_does_not_exist() -> None:
    assert set(collected()) <= set(range(1, ROWS + 1))
