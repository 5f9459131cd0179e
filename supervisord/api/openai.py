"""The OpenAI door: chat/completions, completions, embeddings, models; and the daemon's own health."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import msgspec
from aiohttp import web

from supervisord.api import errors, models
from supervisord.api.client import HttpClient, Sent
from supervisord.api.entries import json_response
from supervisord.api.guard import Doorkeeper
from supervisord.core.errors import (
    InvalidJsonError,
    InvalidRequestError,
    RequestTimeoutError,
    RequestTooLargeError,
    SupervisorError,
)
from supervisord.core.life import BackendState, Phase, Want
from supervisord.core.request import ENDPOINTS, SCALARS, JsonKind, Value, submission
from supervisord.engine.supervisor import Supervisor

_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_SCALAR = msgspec.json.Decoder()
_SHORT = 4096  # bytes of a scalar that validation could care for: a model's name with room to spare

_KINDS = {"{": JsonKind.OBJECT, "[": JsonKind.ARRAY, '"': JsonKind.STRING}


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class DoorLimits:
    body_bytes: int = 64 * 1024 * 1024
    body_timeout_s: float = 60.0
    client_stall_s: float = 60.0


class OpenAIDoor:
    """Handlers over one supervisor."""

    def __init__(self, supervisor: Supervisor, doorkeeper: Doorkeeper, limits: DoorLimits) -> None:
        self._supervisor = supervisor
        self._doorkeeper = doorkeeper
        self._limits = limits

    def application(self) -> web.Application:
        """The routes of the TCP address."""
        app = web.Application(middlewares=[self._border], client_max_size=self._limits.body_bytes)
        for endpoint in ENDPOINTS.values():
            app.router.add_post(endpoint.path, self._run)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/v1/models/{model:.+}", self._model)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        return app

    @web.middleware
    async def _border(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        return await self._guarded(request, handler)

    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            self._doorkeeper.check(request)
            return await handler(request)
        except SupervisorError as error:
            return errors.response(error)
        except web.HTTPNotFound:
            return errors.response(errors.no_route(request))
        except web.HTTPMethodNotAllowed as error:
            told = errors.response(errors.wrong_method(request, error))
            told.headers["allow"] = ", ".join(sorted(error.allowed_methods))
            return told
        except web.HTTPException as error:
            return errors.response(InvalidRequestError(f"The request is not understood: {error.reason}."))

    async def inference(self, request: web.Request) -> web.StreamResponse:
        """A POST to one of ENDPOINTS, past aiohttp's router and middlewares: they cost as much as the dispatch."""
        return await self._guarded(request, self._run)

    # --- work --------------------------------------------------------------------------------------------------------

    async def _run(self, request: web.Request) -> web.StreamResponse:
        body = await self._body(request)
        wanted = submission(ENDPOINTS[request.path], body, members_of(body), request.headers)
        client = HttpClient(request, self._supervisor.ports.clock)
        job_ids: list[str] = []
        try:
            await self._supervisor.gateway.serve(wanted, client, job_ids.append)
        except SupervisorError as error:
            return errors.response(error, job_ids[0] if job_ids else None)
        await client.settle(self._limits.client_stall_s)
        return Sent(client)

    async def _body(self, request: web.Request) -> bytes:
        limit = self._limits.body_bytes
        if (request.content_length or 0) > limit:
            raise _too_large(limit)
        try:
            if request.content.is_eof():  # it came with the head, as most do: nothing to wait for
                return await request.read()
            async with asyncio.timeout(self._limits.body_timeout_s):
                return await request.read()
        except web.HTTPRequestEntityTooLarge:
            raise _too_large(limit) from None
        except web.RequestPayloadError as error:
            raise InvalidRequestError(f"The body does not arrive as its headers say: {error}.") from None
        except TimeoutError:
            late = f"The body did not arrive within {self._limits.body_timeout_s:g} s (limits.body_timeout)."
            raise RequestTimeoutError(late) from None

    # --- looking -----------------------------------------------------------------------------------------------------

    async def _models(self, request: web.Request) -> web.Response:
        del request
        routes = self._supervisor.routes.all
        data = [models.openai_entry(self._supervisor, route, name) for route in routes for name in route.names]
        return json_response({"object": "list", "data": data})

    async def _model(self, request: web.Request) -> web.Response:
        name = request.match_info["model"]
        return json_response(models.openai_entry(self._supervisor, self._supervisor.routes.named(name), name))

    async def _healthz(self, request: web.Request) -> web.Response:
        del request
        degraded = self._supervisor.degraded()
        return json_response({"status": "degraded" if degraded else "ok", "degraded": degraded})

    async def _readyz(self, request: web.Request) -> web.Response:
        del request
        backends = {b.name: _phase(b.state.phase, b.state.reason) for b in self._supervisor.backends.values()}
        can = not self._supervisor.draining and any(_can_serve(b.state) for b in self._supervisor.backends.values())
        return json_response({"ready": can, "backends": backends}, status=200 if can else 503)


def _too_large(limit: int) -> RequestTooLargeError:
    return RequestTooLargeError(f"The body is larger than {limit} bytes (limits.body).")


def _can_serve(state: BackendState) -> bool:
    return state.phase is Phase.READY or (state.phase is Phase.STOPPED and state.want is Want.ON_DEMAND)


def _phase(phase: Phase, reason: str) -> Mapping[str, str]:
    return {"phase": phase.value, "reason": reason}


def members_of(body: bytes) -> Mapping[str, Value]:
    """The top-level members of a JSON object: scalars that validation reads by value, all others by kind.

    The whole body is checked to be JSON, but nothing inside is built: 1 MB takes 0.4 ms. Raises InvalidJsonError.
    """
    try:
        raw = _MEMBERS.decode(body)
        return {name: _value(name, value) for name, value in raw.items()}
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidJsonError(f"The body is not a JSON object: {error}.") from None
    except RecursionError:
        raise InvalidJsonError("The body is nested too deeply.") from None


def _value(name: str, raw: msgspec.Raw) -> Value:
    text = bytes(raw)
    kind = _KINDS.get(chr(text[0]))
    if name not in SCALARS or kind in {JsonKind.OBJECT, JsonKind.ARRAY} or len(text) > _SHORT:
        return kind or JsonKind.STRING  # a figure of thousands of digits is no figure that could be checked
    value = _SCALAR.decode(text)
    return value if isinstance(value, (str, int, float)) else None
