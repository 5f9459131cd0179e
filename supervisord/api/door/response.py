"""An answer that is known at once."""

from dataclasses import dataclass

import msgspec

JSON = (("content-type", "application/json"),)


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer. `headers` are those besides the daemon's own: date, and how the body is framed."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = JSON


def json_answer(value: object, status: int = 200) -> Response:
    """An answer of a JSON value."""
    return Response(status, msgspec.json.encode(value))
