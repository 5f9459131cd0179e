"""The OpenAI door: chat/completions, completions, embeddings, models; and the daemon's own health."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import msgspec

from supervisord.api import errors, models
from supervisord.api.door import HttpClient, Request, Response, Work, json_answer
from supervisord.api.guard import Doorkeeper
from supervisord.core.errors import InvalidJsonError, InvalidRequestError, SupervisorError, UnsupportedMediaTypeError
from supervisord.core.job import Submission
from supervisord.core.request import ENDPOINTS, SCALARS, JsonKind, Value, submission
from supervisord.core.state import BackendState, Phase, Want
from supervisord.engine.supervisor import Supervisor

_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_SCALAR = msgspec.json.Decoder()
_SHORT = 4096  # bytes of a scalar that validation could care for: a model's name with room to spare

_MODEL = "/v1/models/"

_KINDS = {"{": JsonKind.OBJECT, "[": JsonKind.ARRAY, '"': JsonKind.STRING}


Handler = Callable[[Request], Response | Work]


class OpenAIDoor:
    """What is served on the TCP address: a `door.Application` over one supervisor."""

    def __init__(self, supervisor: Supervisor, doorkeeper: Doorkeeper) -> None:
        self._supervisor = supervisor
        self._doorkeeper = doorkeeper
        self._routes: Mapping[str, Mapping[str, Handler]] = {
            **{path: {"POST": self._run} for path in ENDPOINTS},
            "/v1/models": {"GET": self._models},
            "/healthz": {"GET": self._healthz},
            "/readyz": {"GET": self._readyz},
        }
        self._of_model: Mapping[str, Handler] = {"GET": self._model}

    def answer(self, request: Request) -> Response | Work:
        """See `door.Application`."""
        found = self._find(request)
        if isinstance(found, Response):
            return found
        try:
            return found(request)
        except SupervisorError as error:
            return errors.response(error)

    def refusal(self, head: Request) -> Response | None:
        """See `door.Application`."""
        found = self._find(head)
        return found if isinstance(found, Response) else None

    def told(self, error: SupervisorError) -> Response:
        """See `door.Application`."""
        return errors.response(error)

    def _find(self, request: Request) -> Handler | Response:
        """Who handles a request, or why nobody does: as far as its head can tell."""
        try:
            self._doorkeeper.check(request)
            _check_head(request)
        except SupervisorError as error:
            return errors.response(error)
        path = request.path
        methods = self._routes.get(path)
        if methods is None:
            if not path.startswith(_MODEL) or path == _MODEL:
                return errors.response(errors.no_route(request.method, path))
            methods = self._of_model
        handler = methods.get("GET" if request.method == "HEAD" else request.method)
        if handler is None:
            told = errors.response(errors.wrong_method(request.method, path, methods))
            return replace(told, headers=(*told.headers, ("allow", ", ".join(sorted(methods)))))
        return handler

    # --- work --------------------------------------------------------------------------------------------------------

    def _run(self, request: Request) -> Work:
        """Queue the request's body as a job. Raises InvalidRequestError."""
        body = request.body
        return partial(self._serve, submission(ENDPOINTS[request.path], body, members_of(body), request.headers))

    async def _serve(self, wanted: Submission, client: HttpClient) -> Response | None:
        job_ids: list[str] = []
        try:
            await self._supervisor.gateway.serve(wanted, client, job_ids.append)
        except SupervisorError as error:
            return errors.response(error, job_ids[0] if job_ids else None)
        return None

    # --- looking -----------------------------------------------------------------------------------------------------

    def _models(self, request: Request) -> Response:
        del request
        routes = self._supervisor.routes.all
        data = [models.openai_entry(self._supervisor, route, name) for route in routes for name in route.names]
        return json_answer({"object": "list", "data": data})

    def _model(self, request: Request) -> Response:
        name = request.path.removeprefix(_MODEL)
        return json_answer(models.openai_entry(self._supervisor, self._supervisor.routes.named(name), name))

    def _healthz(self, request: Request) -> Response:
        del request
        degraded = self._supervisor.degraded()
        return json_answer({"status": "degraded" if degraded else "ok", "degraded": degraded})

    def _readyz(self, request: Request) -> Response:
        del request
        backends = {b.name: _phase(b.state.phase, b.state.reason) for b in self._supervisor.backends.values()}
        can = not self._supervisor.draining and any(_can_serve(b.state) for b in self._supervisor.backends.values())
        return json_answer({"ready": can, "backends": backends}, status=200 if can else 503)


def _check_head(request: Request) -> None:
    """Raises InvalidRequestError for what a head asks for in vain."""
    headers = request.headers
    if "expect" in headers and headers["expect"].lower() != "100-continue":
        raise InvalidRequestError("The only expectation that can be met is 100-continue.", param="Expect")
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaTypeError("Bodies are taken as they are: send this one uncompressed.")


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
