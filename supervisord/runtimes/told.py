"""Reading what servers answer: nothing of it is trusted to have the shape that it should have."""

import json
from collections.abc import Mapping
from typing import cast

from supervisord.runtimes.base import HttpAnswer


def members(answer: HttpAnswer | None) -> Mapping[str, object]:
    """The members of the object in a successful answer; none for anything else."""
    if answer is None or answer.status != 200:
        return {}
    try:
        return mapping(json.loads(answer.body))
    except (ValueError, RecursionError):
        return {}


def mapping(value: object) -> Mapping[str, object]:
    """`value` if it is an object, else an empty one."""
    return cast("Mapping[str, object]", value) if isinstance(value, dict) else {}


def text(value: object) -> str | None:
    """`value` if it is a text that says something."""
    return value if isinstance(value, str) and value else None


def whole(value: object) -> int | None:
    """`value` if it is a whole number."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None
