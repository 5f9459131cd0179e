"""Incidents on the control door: the list, one with its story, and one as a file that may leave the machine."""

import asyncio
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from aiohttp import web

from supervisord.api.entries import event_entry, incident_entry, json_response, whole_incident_entry
from supervisord.api.query import moment, whole
from supervisord.core.errors import InvalidRequestError, NotFoundError
from supervisord.core.incident import LONGEST_S, Incident, IncidentKind
from supervisord.core.redact import redact
from supervisord.engine import view
from supervisord.engine.supervisor import Supervisor
from supervisord.ports import IncidentFilter, StoredEvent

LONGEST_LIST = 1000
EXPORT_FORMAT = 1  # of the exported document; a higher one may have other members

_BEFORE_S = 300.0  # of events, in an export: a load of minutes, and what led to it
_AFTER_S = 60.0
_MOST_EVENTS = 1000
_MOST_NEIGHBOURS = 20  # other incidents whose logs the events may quote: of a crash loop, the nearest

# Of the status, what a reader elsewhere needs to know about the machine.
_OF_MACHINE = ("host", "gpu_sensor", "gpus", "pools", "degraded")


class Incidents:
    """Handlers over one supervisor. `version` is the daemon's."""

    def __init__(self, supervisor: Supervisor, version: str) -> None:
        self._supervisor = supervisor
        self._store = supervisor.ports.store
        self._version = version

    async def listed(self, request: web.Request) -> web.Response:
        """GET /v1/incidents: the newest first. `recorded_since`: how far back the records go."""
        query = request.query
        wanted = IncidentFilter(
            backend=query.get("backend"),
            job=query.get("job"),
            kind=_kind(query.get("kind")),
            since=moment(query.get("since"), "since"),
            after=query.get("after"),
            limit=whole(query.get("limit"), 50, "limit", LONGEST_LIST),
        )
        await self._store.flush()
        found = await self._store.incidents(wanted)
        first = await self._store.events(after=0, limit=1)
        return json_response(
            {
                "incidents": [incident_entry(incident) for incident in found],
                "more": len(found) == wanted.limit,
                "recorded_since": first[0].event.at if first else None,
            }
        )

    async def shown(self, request: web.Request) -> web.Response:
        """GET /v1/incidents/{id}: all of it, and its story."""
        return json_response(whole_incident_entry(await self._find(request)))

    async def export(self, request: web.Request) -> web.Response:
        """GET /v1/incidents/{id}/export: one document for a bug report, without what must not leave the machine."""
        incident = await self._find(request)
        events = await self._around(incident)
        logs = await self._quoted(incident)
        status = await view.status(self._supervisor, version=self._version, listen="", pid=0)
        machine = {name: status[name] for name in _OF_MACHINE if name in status}
        # A megabyte takes a second or two: beside the loop.
        return json_response(await asyncio.to_thread(self._document, incident, events, logs, machine))

    def _document(
        self,
        incident: Incident,
        events: Sequence[StoredEvent],
        logs: Sequence[Sequence[str]],
        machine: Mapping[str, object],
    ) -> Mapping[str, object]:
        redacted = redact(
            {
                "format": EXPORT_FORMAT,
                "daemon": {"name": "llm-supervisord", "version": self._version, "python": platform.python_version()},
                "machine": {**_platform(), **machine},
                "incident": whole_incident_entry(incident),
                "events": [event_entry(stored.event, stored.id) for stored in events],
            },
            logs=logs,
        )
        assert isinstance(redacted.value, dict)
        return {**redacted.value, "removed": dict(redacted.removed)}

    async def _find(self, request: web.Request) -> Incident:
        wanted = request.match_info["id"]
        await self._store.flush()  # what has just happened is shown
        found = await self._store.incident(wanted)
        if found is None:
            raise NotFoundError(f'There is no incident "{wanted}". supctl incidents lists them.', param="id")
        return found

    async def _quoted(self, incident: Incident) -> Sequence[Sequence[str]]:
        """The logs of the backend's other incidents near it, which are not exported: its events quote their last lines,
        and only the lines before those tell whether they are part of a prompt."""
        since, until = incident.at - _BEFORE_S - LONGEST_S, _end(incident) + _AFTER_S
        listed: list[Incident] = []
        page = IncidentFilter(backend=incident.backend, since=since, limit=LONGEST_LIST)
        while found := await self._store.incidents(page):  # two pages at the most: the store keeps no more
            listed += [other for other in found if other.id != incident.id and other.at <= until]
            page = replace(page, after=found[-1].id)
        nearest = sorted(listed, key=lambda other: abs(other.at - incident.at))[:_MOST_NEIGHBOURS]
        kept = [await self._store.incident(other.id) for other in nearest]
        return [other.log for other in kept if other is not None]

    async def _around(self, incident: Incident) -> Sequence[StoredEvent]:
        """The events around it that are the backend's, or of the daemon as a whole."""
        found = await self._store.events(
            after=None, limit=_MOST_EVENTS, since=incident.at - _BEFORE_S, until=_end(incident) + _AFTER_S
        )
        return [stored for stored in found if stored.event.backend in {None, incident.backend}]


def _end(incident: Incident) -> float:
    """In seconds since the epoch: at the latest."""
    return incident.at + LONGEST_S if incident.ended_at is None else incident.ended_at


def _kind(text: str | None) -> str | None:
    if text is not None and text not in set(IncidentKind):
        raise InvalidRequestError(f'"kind" must be one of {", ".join(IncidentKind)}.', param="kind")
    return text


def _platform() -> Mapping[str, object]:
    """Without the name of the machine."""
    told = platform.uname()
    distribution = ""
    with suppress(OSError):
        distribution = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    return {
        "kernel": f"{told.system} {told.release}",
        "kernel_build": told.version,
        "architecture": told.machine,
        "distribution": distribution,
    }
