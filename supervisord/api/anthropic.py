"""The Anthropic door: messages, plain and streaming, and their tokens."""

from functools import partial

from supervisord.api.anthropic_client import AnthropicClient
from supervisord.api.door import HttpClient, Request, Response, Work
from supervisord.api.later import Later
from supervisord.api.router import Table
from supervisord.api.serving import serve
from supervisord.core.dialect import Dialect
from supervisord.core.job import Submission
from supervisord.core.request import ENDPOINTS, submission
from supervisord.engine.gateway import Gateway
from supervisord.engine.members import members_of


class AnthropicDoor:
    """Bodies go through as they came, to backends that have the endpoints themselves."""

    def __init__(self, gateway: Gateway, later: Later) -> None:
        self._gateway = gateway
        self._later = later
        paths = [path for path, endpoint in ENDPOINTS.items() if endpoint.dialect is Dialect.MESSAGES]
        self.table: Table = {path: {"POST": self._run} for path in paths}

    def _run(self, request: Request) -> Work:
        """Queue the request's body as a job. Raises InvalidRequestError."""
        members = members_of(request.body)
        wanted = submission(ENDPOINTS[request.path], request.body, members, request.headers)
        return self._later.work(request, wanted, members) or partial(self._serve, request, wanted)

    async def _serve(self, request: Request, wanted: Submission, client: HttpClient) -> Response | None:
        return await serve(self._gateway, request, wanted, AnthropicClient(client))
