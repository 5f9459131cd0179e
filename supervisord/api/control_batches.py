"""Batches, as operators see them: a file comes in, lines go out."""

from collections.abc import Mapping
from dataclasses import asdict

import msgspec
from aiohttp import web

from supervisord.api.control_bodies import parts, sent
from supervisord.api.entries import json_response
from supervisord.api.query import whole
from supervisord.core.batch import ANTHROPIC, LARGEST_FILE, OPENAI, Fate, metadata
from supervisord.core.errors import InvalidRequestError, NotFoundError
from supervisord.core.record import BatchCounts, BatchRecord
from supervisord.core.request import OPERATORS, client_named
from supervisord.engine.batching.batches import Wanted
from supervisord.engine.batching.files import UPLOADED
from supervisord.engine.batching.message_output import in_anthropic_form
from supervisord.engine.batching.output import Render, bad_lines, good_lines
from supervisord.engine.supervisor import Supervisor
from supervisord.ports import Page, StoredJob

DOORS = (OPENAI, ANTHROPIC)
LONGEST_LIST = 100
LONGEST_NAME = 255  # characters of a file's name

Told = tuple[BatchRecord, BatchCounts]


class _Asked(msgspec.Struct, forbid_unknown_fields=True):
    input_file_id: str
    endpoint: str
    completion_window: str = "24h"
    metadata: dict[str, str] | None = None
    client: str = OPERATORS


class Batches:
    """Handlers of the control door."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    async def uploaded(self, request: web.Request) -> web.Response:
        """POST /v1/files?filename=: the body is the file, of any length up to that of a batch's input."""
        name = "".join(c for c in request.query.get("filename", "") if c.isprintable())[:LONGEST_NAME] or "input.jsonl"
        files = self._supervisor.files
        writing = files.begin(client_named(request.query.get("client", OPERATORS)))
        try:
            async for part in parts(request, LARGEST_FILE):
                await writing.write(part)
            file = await writing.finish(name, UPLOADED)
        except BaseException:
            files.give_up(writing)
            raise
        return json_response({"id": file.id, "bytes": file.bytes, "filename": file.filename})

    async def created(self, request: web.Request) -> web.Response:
        """POST /v1/batches"""
        try:
            asked = msgspec.json.decode(await request.read(), type=_Asked)
        except (msgspec.DecodeError, RecursionError) as error:
            raise InvalidRequestError(f"That describes no batch: {error}.") from None
        told = await self._supervisor.batches.create(
            Wanted(
                input_file=asked.input_file_id,
                endpoint=asked.endpoint,
                completion_window=asked.completion_window,
                metadata=metadata(asked.metadata),
                client=client_named(asked.client),
            )
        )
        return json_response(batch_entry(told))

    async def listed(self, request: web.Request) -> web.Response:
        """GET /v1/batches: of both doors, newest first."""
        limit = max(1, whole(request.query.get("limit"), 20, "limit", LONGEST_LIST))
        found: list[Told] = []
        for door in DOORS:
            found += await self._supervisor.batches.list(Page(limit=limit + 1), door)
        newest = sorted(found, key=lambda told: told[0].created_at, reverse=True)[:limit]
        return json_response({"batches": [batch_entry(told) for told in newest], "more": len(found) > limit})

    async def shown(self, request: web.Request) -> web.Response:
        """GET /v1/batches/{id}"""
        return json_response(batch_entry(await self._find(request)))

    async def cancelled(self, request: web.Request) -> web.Response:
        """POST /v1/batches/{id}/cancel"""
        batch, _ = await self._find(request)
        return json_response(batch_entry(await self._supervisor.batches.cancel(batch.id, batch.door)))

    async def deleted(self, request: web.Request) -> web.Response:
        """POST /v1/batches/{id}/delete"""
        batch, _ = await self._find(request)
        await self._supervisor.batches.delete(batch.id, batch.door)
        return json_response({"id": batch.id, "message": "deleted"})

    async def lines(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/batches/{id}/output, or /errors: what there is of it this far, as JSON lines."""
        batch, _ = await self._find(request)
        render = _rendering(batch.door, good=request.match_info["which"] == "output")
        response = web.StreamResponse(headers={"content-type": "application/x-ndjson"})
        return await sent(request, response, self._supervisor.batches.lines(batch, render))

    async def _find(self, request: web.Request) -> Told:
        wanted = request.match_info["id"]
        for door in DOORS:
            try:
                return await self._supervisor.batches.find(wanted, door)
            except NotFoundError:
                continue
        raise NotFoundError(f'There is no batch "{wanted}". supctl batch list tells which there are.', param="id")


def _rendering(door: str, *, good: bool) -> Render:
    if door == OPENAI:
        return good_lines if good else bad_lines

    def in_form(stored: StoredJob, became: Fate) -> bytes | None:
        return in_anthropic_form(stored, became) if good is (became is Fate.SUCCEEDED) else None

    return in_form


def batch_entry(told: Told) -> Mapping[str, object]:
    """A batch as JSON values."""
    batch, counts = told
    return {
        "id": batch.id,
        "door": batch.door,
        "endpoint": batch.endpoint,
        "client": batch.client,
        "status": batch.status.value,
        "created_at": batch.created_at,
        "expires_at": batch.expires_at,
        "at": {status.value: at for status, at in batch.at.items()},
        "input_file": batch.input_file or None,
        "output_file": batch.output_file or None,
        "error_file": batch.error_file or None,
        "metadata": dict(batch.metadata),
        "total": batch.total,
        "counts": {**asdict(counts), "ended": counts.ended},
        "errors": [asdict(error) for error in batch.errors],
    }
