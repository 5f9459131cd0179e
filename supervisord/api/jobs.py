"""The jobs door: work that is accepted now, runs in its turn, and is asked for whenever its client likes."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from functools import partial

import msgspec

from supervisord.api import query
from supervisord.api.door import HttpClient, Request, Response, Work, json_answer
from supervisord.api.door.response import JSON
from supervisord.api.idempotency import key_in
from supervisord.api.job_document import job_asked
from supervisord.api.job_entries import job_told, news_told
from supervisord.api.results import headers_of, result_answer
from supervisord.api.router import Table
from supervisord.api.sending import EVENTS, send
from supervisord.core.errors import ConflictError, InvalidRequestError, NotFoundError, SupervisorError
from supervisord.core.job import TERMINAL, JobStatus
from supervisord.core.terms import Origin
from supervisord.engine.supervisor import Supervisor
from supervisord.engine.work.bulletin import Follower, NewsKind
from supervisord.engine.work.durable import Accepted
from supervisord.ports import JobFilter, StoredJob

LONGEST_WAIT_S = 600  # of one request: proxies and SDKs give up by then
MOST_LISTED = 100
USUALLY_LISTED = 20
TELL_EVERY_S = (
    15.0  # that nothing happens: clients and proxies take a connection that is silent for long for a dead one
)
_FILTERS = frozenset({"status", "model", "since", "limit", "after", "origin", "batch"})


class JobsDoor:
    """Handlers over one supervisor. `stall_s`: how long a client may take nothing of its events."""

    def __init__(self, supervisor: Supervisor, *, stall_s: float) -> None:
        self._supervisor = supervisor
        self._stall_s = stall_s
        self.table: Table = {
            "/v1/jobs": {"POST": self._submit, "GET": self._list},
            "/v1/jobs/{job_id}": {"GET": self._show},
            "/v1/jobs/{job_id}/result": {"GET": self._result},
            "/v1/jobs/{job_id}/output": {"GET": self._output},
            "/v1/jobs/{job_id}/events": {"GET": self._events},
            "/v1/jobs/{job_id}/cancel": {"POST": self._cancel},
        }

    # --- submit ------------------------------------------------------------------------------------------------------

    def _submit(self, request: Request) -> Work:
        return partial(self._take, request, key_in(request.headers))

    async def _take(self, request: Request, key: str, client: HttpClient) -> Response:
        del client
        submission, terms = await job_asked(self._supervisor, request.body, request.headers)
        accepted = await self._supervisor.durable.accept(submission, terms, key=key)
        return await self.accepted(accepted)

    async def accepted(self, accepted: Accepted) -> Response:
        """That a job is taken for good, and where it is. Of a new one nothing is read: told that this failed,
        its client would send it, and have it run, once more."""
        job_id = accepted.job_id
        stored = accepted.stored or await self._supervisor.durable.wait(job_id, 0, bodies=False)
        if stored is None:
            raise NotFoundError(f'There is no job "{job_id}" any more: it was deleted.', param="id")
        place = (("location", f"/v1/jobs/{job_id}"), *headers_of(stored))
        return Response(202, msgspec.json.encode(self._told(stored)), (*JSON, *place))

    # --- look --------------------------------------------------------------------------------------------------------

    def _list(self, request: Request) -> Work:
        asked = query.asked(request.query)
        if strange := sorted(asked.keys() - _FILTERS):
            raise InvalidRequestError(f'"{strange[0]}" is no filter of jobs.', param=strange[0])
        status, origin = asked.get("status"), asked.get("origin", Origin.JOB.value)
        _check_word("status", status, [each.value for each in JobStatus])
        _check_word("origin", origin, [each.value for each in Origin])
        limit = max(1, query.whole(asked.get("limit"), USUALLY_LISTED, "limit", MOST_LISTED))
        wanted = JobFilter(
            status=status,
            model=asked.get("model"),
            since=query.moment(asked.get("since"), "since"),
            after=query.cursor(asked.get("after"), "after"),
            limit=limit + 1,
            origin=origin,
            batch=asked.get("batch"),
            client=request.owner,
        )
        return partial(self._tell_list, wanted)

    async def _tell_list(self, wanted: JobFilter, client: HttpClient) -> Response:
        del client
        found = await self._supervisor.ports.store.jobs(wanted)
        data = [self._told(stored) for stored in found[: wanted.limit - 1]]
        return json_answer(
            {
                "object": "list",
                "data": data,
                "first_id": data[0]["id"] if data else None,
                "last_id": data[-1]["id"] if data else None,
                "has_more": len(found) == wanted.limit,
            }
        )

    def _show(self, request: Request) -> Work:
        return partial(
            self._tell, request, query.whole(query.asked(request.query).get("wait"), 0, "wait", LONGEST_WAIT_S)
        )

    async def _tell(self, request: Request, seconds: int, client: HttpClient) -> Response:
        del client
        return json_answer(self._told(await self._find(request, seconds)))

    def _result(self, request: Request) -> Work:
        return partial(
            self._tell_result, request, query.whole(query.asked(request.query).get("wait"), 0, "wait", LONGEST_WAIT_S)
        )

    async def _tell_result(self, request: Request, seconds: int, client: HttpClient) -> Response:
        del client
        return result_answer(_durable(await self._find(request, seconds, bodies=True)), request)

    def _output(self, request: Request) -> Work:
        return partial(self._tell_output, request)

    async def _tell_output(self, request: Request, client: HttpClient) -> Response:
        """What a backend answered, also where the job failed for it."""
        del client
        stored = _durable(await self._find(request, 0, bodies=True))
        result = stored.result
        if result is None or result.output is None:
            raise NotFoundError(f"No answer of job {stored.job.id} is kept: it is {stored.status}.", param="id")
        kind = ("content-type", result.content_type or "application/octet-stream")
        return Response(200, result.output, (kind, ("x-content-type-options", "nosniff"), *headers_of(stored)))

    # --- follow and cancel -------------------------------------------------------------------------------------------

    def _events(self, request: Request) -> Work:
        return partial(self._follow, request)

    async def _follow(self, request: Request, client: HttpClient) -> None:
        with self._supervisor.durable.bulletin.follow(request.params["job_id"]) as follower:
            stored = await self._find(request, 0)  # behind `follow`: what happens in between is told, too
            async with aclosing(self._told_events(request, stored, follower)) as events:
                await send(client, EVENTS, events, stall_s=self._stall_s)

    async def _told_events(self, request: Request, stored: StoredJob, follower: Follower) -> AsyncGenerator[bytes]:
        """How it stands, and from then on what happens; the last event is `ended`, unless the daemon goes down."""
        ended = stored.status in TERMINAL
        yield _event(NewsKind.ENDED.value if ended else "status", self._told(stored))
        while not ended:
            news = await follower.next(TELL_EVERY_S)
            if news is not None:
                ended = news.kind is NewsKind.ENDED
                yield _event(news.kind.value, news_told(news))
            elif follower.closed:
                return
            else:
                yield await self._still(request)

    async def _still(self, request: Request) -> bytes:
        """A comment of one line that ends in a single newline: a blank line behind it breaks some SDKs' decoders."""
        try:
            stored = await self._find(request, 0)
        except SupervisorError:  # the store's trouble is no end of the job's
            return b": waiting\n"
        if stored.status != JobStatus.QUEUED:
            return f": {stored.status}\n".encode()
        standing = self._supervisor.durable.standing(stored)
        return f": waiting position={standing.position} {' '.join(standing.waits_for.split())}\n".encode()

    def _cancel(self, request: Request) -> Work:
        return partial(self._tell_cancelled, request)

    async def _tell_cancelled(self, request: Request, client: HttpClient) -> Response:
        del client
        found = await self._find(request, 0)
        stored = await self._supervisor.durable.cancel(found.job.id, "cancelled by its client")
        return json_answer(self._told(stored or found))

    # --- within ------------------------------------------------------------------------------------------------------

    async def _find(self, request: Request, seconds: float, *, bodies: bool = False) -> StoredJob:
        """The job that a path names, as soon as it has ended or after so many seconds. Raises NotFoundError."""
        wanted, owner, durable = request.params["job_id"], request.owner, self._supervisor.durable
        with suppress(ConflictError):  # the begin of several ids is none of them
            stored = await durable.wait(wanted, 0, bodies=False)
            if stored is not None and stored.job.id == wanted and owner in {None, stored.job.client}:
                if seconds or bodies:
                    stored = await durable.wait(wanted, seconds, bodies=bodies)
                if stored is not None:
                    return stored
        raise NotFoundError(f'There is no job "{wanted[:64]}".', param="id")

    def _told(self, stored: StoredJob) -> Mapping[str, object]:
        waits = stored.status == JobStatus.QUEUED and stored.job.terms is not None
        return job_told(stored, self._supervisor.durable.standing(stored) if waits else None)


def _check_word(name: str, word: str | None, known: list[str]) -> None:
    if word is not None and word not in known:
        raise InvalidRequestError(f'"{name}" must be one of {", ".join(known)}.', param=name)


def _durable(stored: StoredJob) -> StoredJob:
    """Of others the answer went to who asked, and is nobody else's."""
    if stored.job.terms is None:
        raise NotFoundError(f"The answer of job {stored.job.id} went to its client, who waited for it.", param="id")
    return stored


def _event(name: str, value: Mapping[str, object]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode(value))
