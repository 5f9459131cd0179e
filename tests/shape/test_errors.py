"""Errors, statuses and their documentation agree."""

import re
from collections.abc import Iterator
from pathlib import Path

from supervisord.api.errors import STATUS, WORTH_RETRYING, error_type
from supervisord.core.errors import SupervisorError
from supervisord.core.job import FailureReason

DOCUMENT = (Path(__file__).parents[2] / "docs" / "http.md").read_text()


def tree(root: type[SupervisorError]) -> Iterator[type[SupervisorError]]:
    yield root
    for child in root.__subclasses__():
        yield from tree(child)


OURS = {error for error in tree(SupervisorError) if error.__module__ == "supervisord.core.errors"}


def test_every_error_has_a_status_and_no_status_is_left_over() -> None:
    assert {error.code for error in OURS} == set(STATUS)


def test_every_code_is_of_one_class_only() -> None:
    codes = [error.code for error in OURS]
    assert sorted(codes) == sorted(set(codes))


def test_every_code_is_documented_with_its_status() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (\d+) \|", DOCUMENT, re.MULTILINE))
    assert rows == {code: str(status) for code, status in STATUS.items()}


def test_every_failure_reason_is_documented() -> None:
    listed = DOCUMENT.partition("## Failure reasons")[2].partition("\n## ")[0]
    assert set(re.findall(r"^- `(\w+)`", listed, re.MULTILINE)) == {reason.value for reason in FailureReason}


def test_what_is_worth_retrying_is_a_known_code() -> None:
    assert set(STATUS) >= WORTH_RETRYING


def test_the_origin_is_told() -> None:
    origins = {error_type(error.__new__(error)) for error in OURS}
    assert origins == {"invalid_request_error", "supervisor_error", "backend_error"}
