"""The control door: HTTP over a Unix socket, what `supctl` speaks. A fixed table of verbs, bounded everywhere."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
from aiohttp import web

from supervisord.api import errors, models
from supervisord.api.control_batches import Batches
from supervisord.api.control_jobs import Jobs
from supervisord.api.control_queue import Queue
from supervisord.api.control_store import Upkeep
from supervisord.api.control_verbs import ONE_OF_MODEL_VERBS, ONE_OF_VERBS, Verbs
from supervisord.api.entries import error_response, event_entry, json_response
from supervisord.api.incidents import Incidents
from supervisord.api.query import whole
from supervisord.core.errors import (
    ForbiddenPeerError,
    RequestTooLargeError,
    SupervisorError,
)
from supervisord.core.record import EventRecord
from supervisord.engine import view
from supervisord.engine.supervisor import Supervisor
from supervisord.runtimes.reload import ReloadReport

FRAME_LIMIT = 64 * 1024  # of a request's body, but for those that have their own limit
LONG = frozenset({("POST", "/v1/jobs"), ("POST", "/v1/files")})
LONGEST_LIST = 1000
FOLLOW_BUFFER = 1000  # lines that a follower may lag behind

_UCRED = struct.Struct("3i")  # struct ucred: pid, uid, gid (unix(7), SO_PEERCRED)

Reload = Callable[[str], Awaitable[ReloadReport]]


@dataclass(frozen=True, slots=True)
class About:
    """What the daemon says of itself."""

    version: str
    python: str
    pid: int
    config: str
    listen: str
    state_dir: str
    socket: str


class ControlDoor:
    """Handlers over one supervisor. `may_use` decides by the peer's uid and gid; `reload` is told why it is asked."""

    def __init__(
        self, supervisor: Supervisor, about: About, may_use: Callable[[int, int], bool], reload: Reload
    ) -> None:
        self._supervisor = supervisor
        self._about = about
        self._may_use = may_use
        self._reload = reload
        self._verbs = Verbs(supervisor)
        self._incidents = Incidents(supervisor, about.version)
        self._jobs = Jobs(supervisor)
        self._batches = Batches(supervisor)
        self._queue = Queue(supervisor)
        self._upkeep = Upkeep(supervisor, Path(about.state_dir))

    def application(self) -> web.Application:
        """The routes of the control socket."""
        app = web.Application(middlewares=[self._border], client_max_size=FRAME_LIMIT)
        add = app.router
        add.add_get("/v1/status", self._status)
        add.add_get("/v1/version", self._version)
        add.add_post("/v1/reload", self._reloaded)
        add.add_post(f"/v1/backends/{{name}}/{{verb:{ONE_OF_VERBS}}}", self._verbs.backend)
        add.add_get("/v1/models", self._models)
        # A name of a model may hold slashes: organization/model.
        add.add_post(f"/v1/models/{{model:.+}}/{{verb:{ONE_OF_MODEL_VERBS}}}", self._verbs.model)
        add.add_get("/v1/backends/{name}/logs", self._logs)
        add.add_get("/v1/jobs", self._jobs.listed)
        add.add_post("/v1/jobs", self._jobs.submitted)
        add.add_get("/v1/jobs/{id}", self._jobs.shown)
        add.add_get("/v1/jobs/{id}/output", self._jobs.output)
        add.add_get("/v1/jobs/{id}/answer", self._jobs.answer)
        add.add_post("/v1/jobs/{id}/cancel", self._jobs.cancelled)
        self._add_batches(add)
        add.add_get("/v1/queue", self._queue.shown)
        add.add_post("/v1/queue/pause", self._queue.paused)
        add.add_post("/v1/queue/resume", self._queue.resumed)
        add.add_post("/v1/store/backup", self._upkeep.backup)
        add.add_post("/v1/store/vacuum", self._upkeep.vacuum)
        add.add_get("/v1/events", self._events)
        add.add_get("/v1/incidents", self._incidents.listed)
        add.add_get("/v1/incidents/{id}", self._incidents.shown)
        add.add_get("/v1/incidents/{id}/export", self._incidents.export)
        return app

    def _add_batches(self, add: web.UrlDispatcher) -> None:
        add.add_post("/v1/files", self._batches.uploaded)
        add.add_get("/v1/batches", self._batches.listed)
        add.add_post("/v1/batches", self._batches.created)
        add.add_get("/v1/batches/{id}", self._batches.shown)
        add.add_get("/v1/batches/{id}/{which:output|errors}", self._batches.lines)
        add.add_post("/v1/batches/{id}/cancel", self._batches.cancelled)
        add.add_post("/v1/batches/{id}/delete", self._batches.deleted)

    @web.middleware
    async def _border(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            self._check_peer(request)
            if (request.content_length or 0) > FRAME_LIMIT and (request.method, request.path) not in LONG:
                raise RequestTooLargeError(f"A request here is at most {FRAME_LIMIT} bytes.")
            return await handler(request)
        except SupervisorError as error:
            return error_response(error)
        except web.HTTPNotFound:
            return error_response(errors.no_route(request.method, request.path))
        except web.HTTPMethodNotAllowed as error:
            return error_response(errors.wrong_method(request.method, request.path, error.allowed_methods))
        except web.HTTPRequestEntityTooLarge:
            return error_response(RequestTooLargeError(f"A request here is at most {FRAME_LIMIT} bytes."))

    def _check_peer(self, request: web.Request) -> None:
        transport = request.transport
        peer: socket.socket | None = transport.get_extra_info("socket") if transport is not None else None
        if peer is None:
            raise ForbiddenPeerError("The connection is gone.")
        credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        _, uid, gid = _UCRED.unpack(credentials)
        if not self._may_use(uid, gid):
            raise ForbiddenPeerError(f"User {uid} may not control this daemon: it needs its group, or root.")

    # --- looking -----------------------------------------------------------------------------------------------------

    async def _status(self, request: web.Request) -> web.Response:
        del request
        about = self._about
        return json_response(
            await view.status(self._supervisor, version=about.version, listen=about.listen, pid=about.pid)
        )

    async def _version(self, request: web.Request) -> web.Response:
        del request
        return json_response(asdict(self._about))

    async def _models(self, request: web.Request) -> web.Response:
        del request
        return json_response({"models": models.listing(self._supervisor)})

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        backend = self._supervisor.backend(request.match_info["name"])
        lines = whole(request.query.get("lines"), 200, "lines", 10_000)
        text = "".join(f"{line}\n" for line in backend.tail(lines))
        if request.query.get("follow") != "1":
            return web.Response(text=text)
        inbox: asyncio.Queue[str] = asyncio.Queue(FOLLOW_BUFFER)

        def take(line: str) -> None:
            with suppress(asyncio.QueueFull):  # a follower that cannot keep up misses lines, not the daemon's time
                inbox.put_nowait(line)

        backend.log_followers.add(take)
        try:
            return await _stream(request, "text/plain; charset=utf-8", text, _lines_of(inbox))
        finally:
            backend.log_followers.discard(take)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        query = request.query
        after = whole(query["after"], 0, "after", 2**62) if "after" in query else None
        limit = whole(query.get("limit"), 50, "limit", LONGEST_LIST)
        backend = query.get("backend")
        with self._supervisor.journal.follow() as inbox:  # before the look back: nothing falls between the two
            await self._supervisor.ports.store.flush()
            while not inbox.empty():
                inbox.get_nowait()
            found = await self._supervisor.ports.store.events(after=after, limit=limit, backend=backend)
            entries = [event_entry(stored.event, stored.id) for stored in found]
            if query.get("follow") != "1":
                return json_response({"events": entries})
            start = "".join(_line(entry) for entry in entries)
            return await _stream(request, "application/x-ndjson", start, _event_lines(inbox, backend))

    # --- doing -------------------------------------------------------------------------------------------------------

    async def _reloaded(self, request: web.Request) -> web.Response:
        """Read the configuration again. Answers when it is in force, or with everything that is wrong with it."""
        del request
        report = await self._reload("asked for by an operator")
        groups = ("added", "removed", "changed", "adjusted", "unchanged", "kept")
        told: dict[str, object] = {name: list(getattr(report, name)) for name in groups}
        return json_response({**told, "applied": list(report.settings), "message": report.message})


async def _stream(request: web.Request, content_type: str, start: str, lines: AsyncIterator[str]) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": content_type, "cache-control": "no-cache"})
    await response.prepare(request)
    await response.write(start.encode())
    async for line in lines:
        await response.write(line.encode())
    return response


async def _event_lines(inbox: asyncio.Queue[EventRecord], backend: str | None) -> AsyncIterator[str]:
    while True:
        event = await inbox.get()
        if backend is None or event.backend == backend:
            yield _line(event_entry(event, None))


async def _lines_of(inbox: asyncio.Queue[str]) -> AsyncIterator[str]:
    while True:
        yield await inbox.get() + "\n"


def _line(entry: Mapping[str, object]) -> str:
    return msgspec.json.encode(entry).decode() + "\n"
