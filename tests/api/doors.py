"""All public doors over the engine, on played time, asked as a connection asks them."""

import json
from collections import Counter
from typing import Any, cast

from supervisord.api.door import HttpClient, Request, Response
from supervisord.api.keys import public_door
from supervisord.app.tables import public_tables
from supervisord.config.load import defaults
from supervisord.core.errors import SupervisorError
from tests.engine.overnight import Night
from tests.engine.rig import Wire
from tests.fakes.public_door import Answer


class Doors:
    """Without keys."""

    def __init__(self, it: Night) -> None:
        self._door = public_door(public_tables(it.it.supervisor, defaults()), frozenset(), (), Counter())

    async def __call__(self, path: str, body: bytes | dict[str, Any] | None = None, **headers: str) -> Answer:
        """GET without a body, POST with one. Underscores in the names of headers are hyphens."""
        method = "GET" if body is None else "POST"
        path, _, query = path.partition("?")
        sent = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        named = {"host": "localhost", **{name.replace("_", "-"): value for name, value in headers.items()}}
        request = Request(method, path, query, "", named, sent, http_1_1=True, keep_alive=True)
        answer, wire = self._door.answer(request), Wire()
        if not isinstance(answer, Response):
            try:
                answer = await answer(cast("HttpClient", wire)) or _sent(wire)
            except SupervisorError as error:
                answer = self._door.told(error, request)
        return Answer(answer.status, dict(answer.headers), answer.body)


def _sent(wire: Wire) -> Response:
    assert wire.finished
    assert wire.status is not None
    return Response(wire.status, wire.body, tuple(wire.headers.items()))
