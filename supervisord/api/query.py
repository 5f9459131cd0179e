"""Figures in the query of a request."""

from supervisord.core.errors import InvalidRequestError


def whole(text: str | None, default: int, name: str, most: int) -> int:
    """A whole number from 0 to `most`. Raises InvalidRequestError."""
    if text is None:
        return default
    try:
        value = int(text)
    except ValueError:
        raise InvalidRequestError(f'"{name}" must be a whole number.', param=name) from None
    if not 0 <= value <= most:
        raise InvalidRequestError(f'"{name}" must be between 0 and {most}.', param=name)
    return value


def moment(text: str | None, name: str) -> float | None:
    """Seconds since the epoch. Raises InvalidRequestError."""
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        raise InvalidRequestError(f'"{name}" must be a number: seconds since the epoch.', param=name) from None
