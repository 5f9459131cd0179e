"""OpenAI's Responses: at once like any other request, or in the background."""

from functools import partial

from supervisord.api import query
from supervisord.api.agreed import NOTHING, terms_of
from supervisord.api.door import HttpClient, Request, Response, Work, json_answer
from supervisord.api.door.response import JSON
from supervisord.api.idempotency import key_in
from supervisord.api.openai import AtOnce
from supervisord.api.router import Table
from supervisord.api.sending import EVENTS, send
from supervisord.core.errors import InvalidRequestError
from supervisord.core.job import Submission
from supervisord.core.request import ENDPOINTS, submission
from supervisord.core.response import id_of, job_id_of
from supervisord.core.terms import Origin, Terms
from supervisord.engine.background.responses import Responses
from supervisord.engine.members import members_of, reader
from supervisord.engine.supervisor import Supervisor

PATH = "/v1/responses"

_agreed = reader("metadata", "store", "validate_output")


class ResponsesDoor:
    """Handlers over the responses. `at_once` answers what is not in the background; `stall_s`: how long a client may
    take nothing of a stream."""

    def __init__(self, supervisor: Supervisor, responses: Responses, at_once: AtOnce, *, stall_s: float) -> None:
        self._supervisor = supervisor
        self._responses = responses
        self._at_once = at_once
        self._stall_s = stall_s
        self.table: Table = {
            PATH: {"POST": self._create},
            f"{PATH}/{{id}}": {"GET": self._retrieve, "DELETE": self._delete},
            f"{PATH}/{{id}}/cancel": {"POST": self._cancel},
        }

    # --- create ------------------------------------------------------------------------------------------------------

    def _create(self, request: Request) -> Response | Work:
        """Raises InvalidRequestError."""
        members = members_of(request.body)
        background = members.get("background")
        if not background:
            return self._at_once(request, members)
        if background is not True:
            raise InvalidRequestError('"background" must be true or false.', param="background")
        wanted = submission(ENDPOINTS[PATH], request.body, members, request.headers)
        return partial(self._take, request, wanted)

    async def _take(self, request: Request, wanted: Submission, client: HttpClient) -> Response | None:
        terms = await self._terms(wanted)
        accepted = await self._responses.create(wanted, terms, key_in(request.headers))
        response_id, job_id = id_of(accepted.job_id), accepted.job_id
        named = (("x-job-id", job_id), ("x-request-id", job_id))
        if wanted.stream:
            events = self._responses.follow(response_id, stored=accepted.stored)
            await send(client, (*EVENTS, *named), events, stall_s=self._stall_s)
            return None
        told = json_answer(await self._responses.taken(accepted))
        return Response(told.status, told.body, (*JSON, *named))

    async def _terms(self, wanted: Submission) -> Terms:
        """What is agreed on besides. Raises InvalidRequestError."""
        asked = _agreed(wanted.body)
        if bytes(asked.get("store", NOTHING)) == b"false":
            raise InvalidRequestError(
                'A response in the background is kept until it is asked for: leave "store" out, or set it to true.',
                param="store",
            )
        metadata, check = asked.get("metadata", NOTHING), asked.get("validate_output", NOTHING)
        return await terms_of(self._supervisor, Origin.RESPONSE, wanted, metadata=metadata, check=check)

    # --- look --------------------------------------------------------------------------------------------------------

    def _retrieve(self, request: Request) -> Work:
        """The object, or with `stream=true` its events behind the number `starting_after`."""
        asked = query.asked(request.query)
        stream, after = asked.get("stream", "false"), asked.get("starting_after")
        if stream not in {"true", "false"}:
            raise InvalidRequestError('"stream" must be true or false.', param="stream")
        if stream == "false":
            return partial(self._tell, request)
        if after is not None and not (after.isascii() and after.isdecimal() and len(after) <= 18):
            raise InvalidRequestError('"starting_after" must be the number of an event.', param="starting_after")
        return partial(self._send, request, -1 if after is None else int(after))

    async def _tell(self, request: Request, client: HttpClient) -> Response:
        del client
        return json_answer(await self._responses.object(request.params["id"], request.owner))

    async def _send(self, request: Request, after: int, client: HttpClient) -> None:
        response_id = request.params["id"]
        await self._responses.object(response_id, request.owner)  # raises while the answer can still have a status
        headers = (*EVENTS, ("x-job-id", job_id_of(response_id)))
        await send(client, headers, self._responses.follow(response_id, after), stall_s=self._stall_s)

    # --- end ---------------------------------------------------------------------------------------------------------

    def _cancel(self, request: Request) -> Work:
        return partial(self._tell_cancelled, request)

    async def _tell_cancelled(self, request: Request, client: HttpClient) -> Response:
        del client
        return json_answer(await self._responses.cancel(request.params["id"], request.owner))

    def _delete(self, request: Request) -> Work:
        return partial(self._tell_deleted, request)

    async def _tell_deleted(self, request: Request, client: HttpClient) -> Response:
        del client
        response_id = request.params["id"]
        await self._responses.delete(response_id, request.owner)
        return json_answer({"id": response_id, "object": "response", "deleted": True})
