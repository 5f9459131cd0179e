"""The public address where keys have been given out: who has none gets in nowhere, who has one only so far."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import msgspec
from typing_extensions import override

from supervisord.api.anthropic_errors import told_to
from supervisord.api.door import Body, HttpClient, Request, Response, Upload, Work
from supervisord.api.guard import Doorkeeper
from supervisord.api.public import PublicDoor
from supervisord.api.router import Handler, Table
from supervisord.core.errors import TooManyRequestsError
from supervisord.core.keys import Key, Keyring, held_to

OPEN = frozenset({"/healthz", "/readyz", "/openapi.json"})  # say nothing of anybody's work, and monitors have no keys


class KeyedDoorkeeper(Doorkeeper):
    """Lets in who carries a key, as the client of that name."""

    def __init__(self, allowed_hosts: frozenset[str], ring: Keyring) -> None:
        super().__init__(allowed_hosts)
        self._ring = ring

    @override
    def admit(self, request: Request) -> Request:
        """See `Doorkeeper.admit`; raises UnauthorizedError, too."""
        request = super().admit(request)
        if request.path in OPEN:
            return request
        key = self._ring.holder(request.headers)
        return msgspec.structs.replace(request, key=key, headers=held_to(key, request.headers))


class KeyedDoor(PublicDoor):
    """A public door on which each key has no more requests under way than it may.

    `under_way` counts them by the names of keys; it outlives the keys of one configuration.
    """

    def __init__(self, tables: Sequence[Table], doorkeeper: KeyedDoorkeeper, under_way: Counter[str]) -> None:
        super().__init__(tables, doorkeeper)
        self._under_way = under_way

    @override
    def find(self, request: Request) -> tuple[Handler, Request] | Response:
        found = super().find(request)
        if isinstance(found, Response):
            return found
        handler, request = found
        key = request.key
        brings_work = (
            request.method == "POST" and not request.params
        )  # with a name in its path it is about what is there
        if key is None or key.concurrency is None or not brings_work:
            return found
        if isinstance(handler, Upload):
            return replace(handler, begin=partial(self._counted_upload, handler)), request
        return partial(self._counted, handler), request

    def _counted_upload(self, upload: Upload, request: Request, body: Body) -> Work:
        return partial(self._work, upload.begin(request, body), request)

    def _counted(self, handler: Handler, request: Request) -> Response | Work:
        answer = handler(request)
        return answer if isinstance(answer, Response) else partial(self._work, answer, request)

    async def _work(self, work: Work, request: Request, client: HttpClient) -> Response | None:
        key = request.key
        assert key is not None, "only requests with a key are counted"
        if (refused := self._refused(key)) is not None:
            return told_to(request, refused)
        self._under_way[key.name] += 1
        try:
            return await work(client)
        finally:
            self._under_way[key.name] -= 1

    def _refused(self, key: Key) -> TooManyRequestsError | None:
        under_way = self._under_way[key.name]
        if key.concurrency is None or under_way < key.concurrency:
            return None
        return TooManyRequestsError(
            f'{under_way} requests of the key "{key.name}" are under way already: as many as it may have '
            f"(keys.{key.name}.concurrency). Send this one when one of them is answered.",
            retry_after_s=1,
        )


def public_door(tables: Sequence[Table], hosts: frozenset[str], keys: Sequence[Key], busy: Counter[str]) -> PublicDoor:
    """What is served on the public address. `hosts`: its names besides loopback; without keys everybody is let in."""
    if not keys:
        return PublicDoor(tables, Doorkeeper(hosts))
    return KeyedDoor(tables, KeyedDoorkeeper(hosts, Keyring(keys)), busy)
