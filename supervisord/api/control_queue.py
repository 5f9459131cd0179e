"""What waits, for what, and how long still; and the hand on the tap, which keeps jobs from being begun."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec
from aiohttp import web

from supervisord.api.entries import json_response
from supervisord.core.errors import InvalidRequestError, ModelNotFoundError
from supervisord.core.job import Job, Priority
from supervisord.core.terms import Flow
from supervisord.engine.pace import Pace
from supervisord.engine.supervisor import Supervisor

LINES = 100  # that are listed, the longest first; a flow is a client, a model and a class
LONGEST_WHY = 200  # characters


@dataclass(frozen=True, slots=True)
class _Line:
    """Jobs that wait alike. `first`: the id of the first of them that is in memory; empty: none is."""

    flow: Flow
    durable: bool
    waiting: int
    in_memory: int
    why: str
    first: str
    since: float | None = None  # seconds since the epoch, of a live one


class Queue:
    """Handlers of the control door."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._pace = Pace(supervisor.journal, supervisor.ports.clock, lambda: supervisor.routes)

    async def shown(self, request: web.Request) -> web.Response:
        """GET /v1/queue"""
        del request
        lines = sorted((*self._synchronous(), *self._durable()), key=lambda line: (-line.waiting, line.flow))
        ahead = self._ahead(lines)
        return json_response(
            {
                "paused": self._supervisor.dispatcher.held or None,
                "in_flight": self._supervisor.dispatcher.in_flight,
                "waiting": sum(line.waiting for line in lines),
                "lines": [await self._entry(line, ahead) for line in lines[:LINES]],
                "lines_total": len(lines),
            }
        )

    async def paused(self, request: web.Request) -> web.Response:
        """POST /v1/queue/pause, with an optional `why`: without one, the reason of before stays."""
        why = await _why(request) or self._supervisor.dispatcher.held or "paused by an operator"
        self._supervisor.pause_queue(why)
        return json_response({"paused": why, "message": f"paused: {self._in_words()}"})

    async def resumed(self, request: web.Request) -> web.Response:
        """POST /v1/queue/resume"""
        del request
        was = self._supervisor.dispatcher.held
        self._supervisor.resume_queue()
        return json_response({"paused": None, "message": "resumed" if was else "it was not paused"})

    def _in_words(self) -> str:
        running = self._supervisor.dispatcher.in_flight
        return f"{running} requests that run go on, no other is begun until: supctl queue resume"

    # --- lines -------------------------------------------------------------------------------------------------------

    def _synchronous(self) -> Iterator[_Line]:
        """Whose clients hold a connection open."""
        grouped: dict[Flow, list[Job]] = {}
        for job in self._supervisor.dispatcher.queue:
            if not job.durable:
                grouped.setdefault(Flow(job.model, int(job.priority), job.submission.client), []).append(job)
        for flow, jobs in grouped.items():
            first = min(jobs, key=lambda job: job.arrived)
            yield _Line(flow, False, len(jobs), len(jobs), "", first.id, first.submitted_at)  # noqa: FBT003 - by name

    def _durable(self) -> Iterator[_Line]:
        for view in self._supervisor.durable.flows():
            if view.waiting:
                yield _Line(view.flow, True, view.waiting, view.held, view.why, view.oldest)  # noqa: FBT003 - by name

    async def _entry(self, line: _Line, ahead: Mapping[tuple[str, int], int]) -> Mapping[str, object]:
        flow, dispatcher = line.flow, self._supervisor.dispatcher
        model = self._main_name(flow.model)
        rate = self._pace.per_second(model)
        return {
            "model": flow.model,
            "priority": Priority(flow.priority).label,
            "client": flow.client,
            "durable": line.durable,
            "waiting": line.waiting,
            "in_memory": line.in_memory,
            "waits_for": line.why or dispatcher.held or dispatcher.waits_for(line.first) or "its turn",
            "oldest_s": await self._age(line),
            "per_s": rate,
            "left_s": None if rate is None else ahead[model, flow.priority] / rate,
        }

    async def _age(self, line: _Line) -> float | None:
        """How long its oldest job has waited."""
        since = line.since
        if line.durable:  # most of them are in the store alone, and some of those in memory run
            oldest = await self._supervisor.ports.store.waiting(line.flow, after="", limit=1, most_bytes=0)
            since = oldest[0].job.submitted_at if oldest else None
        return None if since is None else max(0.0, self._supervisor.ports.clock.wall() - since)

    def _ahead(self, lines: Sequence[_Line]) -> Mapping[tuple[str, int], int]:
        """By model and class: how many jobs go before its last one, if nothing new comes: a class takes turns."""
        models = {line.flow.model: self._main_name(line.flow.model) for line in lines}
        waiting = Counter[tuple[str, int]]()
        for line in lines:
            for priority in range(line.flow.priority, len(Priority)):
                waiting[models[line.flow.model], priority] += line.waiting
        return waiting

    def _main_name(self, model: str) -> str:
        try:
            return self._supervisor.routes.named(model).name
        except ModelNotFoundError:  # removed by a reload: its jobs wait until it is back
            return model


async def _why(request: web.Request) -> str:
    body = await request.read()
    try:
        asked = msgspec.json.decode(body, type=dict[str, str]) if body else {}
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequestError(f'The body must be an object like {{"why": "maintenance"}}: {error}.') from None
    return " ".join(asked.get("why", "").split())[:LONGEST_WHY]
