"""What the query of a request asks for."""

import math
from collections.abc import Mapping
from contextlib import suppress
from urllib.parse import parse_qs

from supervisord.core.errors import InvalidRequestError
from supervisord.core.ids import is_id


def asked(query: str) -> Mapping[str, str]:
    """By name; of what is there twice the last counts."""
    return {name: values[-1] for name, values in parse_qs(query).items()}


def whole(text: str | None, default: int, name: str, most: int) -> int:
    """A whole number from 0 to `most`. Raises InvalidRequestError."""
    if text is None:
        return default
    value = digits(text, 0, most)
    if value is None:
        raise InvalidRequestError(f'"{name}" must be a whole number from 0 to {most}.', param=name)
    return value


def digits(text: str, least: int, most: int) -> int | None:
    """A figure written in ASCII digits, no more of them than `most` has; None: it is none from `least` to `most`."""
    if not (text.isascii() and text.isdecimal()) or len(text) > len(str(most)):
        return None
    value = int(text)
    return value if least <= value <= most else None


def cursor(text: str | None, name: str, prefix: str = "") -> str | None:
    """The id behind or before which a page of a list is; of something that is gone it is a place, too.

    Raises InvalidRequestError for what is no id of these: the page would begin anywhere.
    """
    if not text:
        return None
    if not text.startswith(prefix) or not is_id(text.removeprefix(prefix)):
        raise InvalidRequestError(f'"{name}" must be an id of this list, such as its last_id.', param=name)
    return text


def moment(text: str | None, name: str) -> float | None:
    """Seconds since the epoch. Raises InvalidRequestError."""
    if text is None:
        return None
    with suppress(ValueError):
        value = float(text)
        if math.isfinite(value):
            return value
    raise InvalidRequestError(f'"{name}" must be a number: seconds since the epoch.', param=name)
