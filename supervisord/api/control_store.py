"""Upkeep of the store: a copy of it while it works, and room given back to the disk."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

from aiohttp import web

from supervisord.api.control_bodies import sent
from supervisord.api.entries import json_response
from supervisord.core.record import EventKind
from supervisord.engine.supervisor import Supervisor

READ_BYTES = 1024 * 1024
COPY = "backup.part"  # in the state folder, for as long as it takes to hand it over


class Upkeep:
    """Handlers of the control door. `state_dir`: where there is room, and nobody else may read."""

    def __init__(self, supervisor: Supervisor, state_dir: Path) -> None:
        self._supervisor = supervisor
        self._copy = state_dir / COPY
        self._turn = asyncio.Lock()

    async def backup(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/store/backup: a copy of all that is stored, whole and by itself, as the body of the answer.

        It goes by the daemon's state folder, and never to a path that the other end names: members of the group may
        operate the daemon, not write files in its name.
        """
        async with self._turn:
            await asyncio.to_thread(self._copy.unlink, missing_ok=True)  # of a daemon that died over it
            try:
                report = await self._supervisor.ports.store.backup(str(self._copy))
                self._supervisor.journal.tell(
                    EventKind.OPERATOR,
                    f"an operator made a backup of the store: {report.jobs} jobs",
                    size_bytes=report.size_bytes,
                    seconds=report.seconds,
                )
                file = self._copy.open("rb")
            finally:
                self._copy.unlink(missing_ok=True)  # not after it was sent: who is cancelled may not come to that
            try:
                return await _sent(request, file)
            finally:
                # Gives the room back, which may take long. Nobody waits for it: who is cancelled would not begin it.
                asyncio.get_running_loop().run_in_executor(None, file.close)

    async def vacuum(self, request: web.Request) -> web.Response:
        """POST /v1/store/vacuum"""
        del request
        freed = await self._supervisor.ports.store.vacuum()
        size = self._supervisor.ports.store.state().size_bytes
        self._supervisor.journal.tell(EventKind.OPERATOR, "an operator had the store vacuumed", freed_bytes=freed)
        return json_response({"freed_bytes": freed, "size_bytes": size})


async def _sent(request: web.Request, file: BinaryIO) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "application/vnd.sqlite3"})
    response.content_length = os.fstat(file.fileno()).st_size
    return await sent(request, response, _parts(file))


async def _parts(file: BinaryIO) -> AsyncIterator[bytes]:
    while part := await asyncio.to_thread(file.read, READ_BYTES):
        yield part
