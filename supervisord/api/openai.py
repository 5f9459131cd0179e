"""The OpenAI door: chat/completions, completions, embeddings, models; and the daemon's own health."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from supervisord.api import anthropic_errors, anthropic_models, models
from supervisord.api.door import Request, Response, Work, json_answer
from supervisord.api.later import Later
from supervisord.api.router import Table
from supervisord.api.serving import serve
from supervisord.core.dialect import Dialect
from supervisord.core.request import ENDPOINTS, Value, submission
from supervisord.core.routing import Route
from supervisord.core.state import BackendState, Phase, Want
from supervisord.engine.members import members_of
from supervisord.engine.supervisor import Supervisor

AtOnce = Callable[[Request, Mapping[str, Value]], Work]  # the members of its body, as validation reads them


class OpenAIDoor:
    """Handlers over one supervisor."""

    def __init__(self, supervisor: Supervisor, later: Later) -> None:
        self._supervisor = supervisor
        self._later = later
        self.table: Table = {
            **{path: {"POST": self._run} for path, of in ENDPOINTS.items() if of.dialect is Dialect.CHAT},
            "/v1/models": {"GET": self._models},
            "/v1/models/{model...}": {"GET": self._model},  # names may hold slashes: organization/model
            "/healthz": {"GET": self._healthz},
            "/readyz": {"GET": self._readyz},
        }

    # --- work --------------------------------------------------------------------------------------------------------

    def _run(self, request: Request) -> Work:
        return self.run(request, members_of(request.body))

    def run(self, request: Request, members: Mapping[str, Value]) -> Work:
        """Queue the request's body as a job. Raises InvalidRequestError."""
        wanted = submission(ENDPOINTS[request.path], request.body, members, request.headers)
        return self._later.work(request, wanted, members) or partial(serve, self._supervisor.gateway, request, wanted)

    # --- looking -----------------------------------------------------------------------------------------------------

    def _models(self, request: Request) -> Response:
        routes = self._allowed(request)
        if anthropic_errors.is_for(request):
            return anthropic_models.listing(self._supervisor, request, routes)
        data = [models.openai_entry(self._supervisor, route, name) for route in routes for name in route.names]
        return json_answer({"object": "list", "data": data})

    def _allowed(self, request: Request) -> Sequence[Route]:
        routes, key = self._supervisor.routes.all, request.key
        return routes if key is None else [r for r in routes if self._supervisor.permits.may(key.name, r.name)]

    def _model(self, request: Request) -> Response:
        name = request.params["model"]
        route = self._supervisor.routes.named(name)
        if request.key is not None:
            self._supervisor.permits.check(request.key.name, route.name)
        entry = anthropic_models.entry if anthropic_errors.is_for(request) else models.openai_entry
        return json_answer(entry(self._supervisor, route, name))

    def _healthz(self, request: Request) -> Response:
        del request
        degraded = self._supervisor.degraded()
        return json_answer({"status": "degraded" if degraded else "ok", "degraded": degraded})

    def _readyz(self, request: Request) -> Response:
        del request
        backends = {b.name: _phase(b.state.phase, b.state.reason) for b in self._supervisor.backends.values()}
        can = not self._supervisor.draining and any(_can_serve(b.state) for b in self._supervisor.backends.values())
        return json_answer({"ready": can, "backends": backends}, status=200 if can else 503)


def _can_serve(state: BackendState) -> bool:
    return state.phase is Phase.READY or (state.phase is Phase.STOPPED and state.want is Want.ON_DEMAND)


def _phase(phase: Phase, reason: str) -> Mapping[str, str]:
    return {"phase": phase.value, "reason": reason}
