"""Jobs, as operators see them: listed, shown, submitted, waited for, cancelled."""

from collections.abc import AsyncIterator, Mapping

from aiohttp import web

from supervisord.api.control_bodies import sent, whole_body
from supervisord.api.entries import job_entry, json_response
from supervisord.api.idempotency import key_in
from supervisord.api.job_document import job_asked
from supervisord.api.query import cursor, moment, whole
from supervisord.core.errors import ConflictError, NotFoundError
from supervisord.core.job import TERMINAL
from supervisord.core.request import OPERATORS
from supervisord.engine.supervisor import Supervisor
from supervisord.ports import JobFilter, StoredJob

LONGEST_LIST = 1000
LONGEST_WAIT_S = 60.0  # of one request: whoever waits for longer asks again
PIECE = 256 * 1024  # bytes of an answer that are handed to the connection at once
LARGEST_JOB = 64 * 1024 * 1024  # bytes; limits.body of the other door unless configured otherwise


class Jobs:
    """Handlers of the control door."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    async def listed(self, request: web.Request) -> web.Response:
        """GET /v1/jobs: newest first, only those that the query asks for."""
        query = request.query
        limit = whole(query.get("limit"), 50, "limit", LONGEST_LIST)
        wanted = JobFilter(
            status=query.get("status"),
            model=query.get("model"),
            backend=query.get("backend"),
            since=moment(query.get("since"), "since"),
            after=cursor(query.get("after"), "after"),
            limit=limit,
            origin=query.get("origin"),
            batch=query.get("batch"),
            client=query.get("client"),
        )
        await self._supervisor.ports.store.flush()
        found = list(await self._supervisor.ports.store.jobs(wanted))
        return json_response({"jobs": [job_entry(job) for job in found], "more": len(found) == limit})

    async def shown(self, request: web.Request) -> web.Response:
        """GET /v1/jobs/{id}: one of them; `wait` has the answer held back for so many seconds until it has ended."""
        found = await self._find(request.match_info["id"])
        wait_s = whole(request.query.get("wait"), 0, "wait", int(LONGEST_WAIT_S))
        if wait_s and found.status not in TERMINAL:
            found = await self._supervisor.durable.wait(found.job.id, wait_s) or found
        return json_response(self._entry(found))

    async def submitted(self, request: web.Request) -> web.Response:
        """POST /v1/jobs: the document of the jobs door."""
        document = await whole_body(request, LARGEST_JOB)
        headers = {"x-client": OPERATORS, **{name.lower(): value for name, value in request.headers.items()}}
        submission, terms = await job_asked(self._supervisor, document, headers)
        accepted = await self._supervisor.durable.accept(submission, terms, key=key_in(headers))
        return json_response({"id": accepted.job_id, "known": accepted.known}, status=202)

    async def cancelled(self, request: web.Request) -> web.Response:
        """POST /v1/jobs/{id}/cancel"""
        found = await self._find(request.match_info["id"])
        if found.status in TERMINAL or not await self._supervisor.durable.cancel(
            found.job.id, "cancelled by an operator"
        ):
            raise ConflictError(f"Job {found.job.id} has ended already: it is {found.status}.")
        return json_response({"id": found.job.id, "message": "cancelled"})

    async def output(self, request: web.Request) -> web.Response:
        """GET /v1/jobs/{id}/output: the texts that are kept of it. Of a durable job its answer always, for a time."""
        found = await self._find(request.match_info["id"])
        kept = found.result.output if found.result is not None else None
        return json_response({"id": found.job.id, "request": _text(found.job.body), "output": _text(kept)})

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/jobs/{id}/answer: as its backend gave it, byte by byte. It may be 64 MiB long, or a sound."""
        found = await self._find(request.match_info["id"])
        result = found.result
        if result is None or result.output is None:
            raise NotFoundError(f"There is no answer of job {found.job.id} (any more).", param="id")
        headers = {"content-type": result.content_type or "application/octet-stream"}
        return await sent(request, web.StreamResponse(headers=headers), _pieces(result.output))

    async def _find(self, wanted: str) -> StoredJob:
        await self._supervisor.ports.store.flush()  # what has just ended is shown as ended
        found = await self._supervisor.ports.store.job(wanted)
        if found is None:
            raise NotFoundError(f'There is no job "{wanted}". supctl jobs lists them.', param="id")
        return found

    def _entry(self, found: StoredJob) -> Mapping[str, object]:
        """With where it is now."""
        dispatcher = self._supervisor.dispatcher
        entry = dict(job_entry(found))
        entry["position"] = dispatcher.position(found.job.id)
        entry["waits_for"] = self._waits_for(found)
        serving = (name for name in self._supervisor.backends if found.job.id in dispatcher.leases.serving(name))
        entry["backend"] = entry["backend"] or next(serving, None)
        return entry

    def _waits_for(self, found: StoredJob) -> str:
        if found.status != "queued":
            return ""
        if found.job.terms is None:
            return self._supervisor.dispatcher.waits_for(found.job.id)
        return self._supervisor.durable.standing(found).waits_for


def _text(kept: bytes | None) -> str | None:
    return None if kept is None else kept.decode("utf-8", "replace")


async def _pieces(whole: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(whole), PIECE):
        yield whole[at : at + PIECE]
