"""What an operator asks of a backend, or of a model: start, stop, restart, reset, load, unload."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import msgspec
from aiohttp import web

from supervisord.api.entries import json_response
from supervisord.core import life
from supervisord.core.errors import ConflictError, DrainingError, InvalidRequestError, NotFoundError
from supervisord.core.routing import Route
from supervisord.core.state import DOWN, Phase, Want
from supervisord.engine import view
from supervisord.engine.backend import Backend
from supervisord.engine.supervisor import Supervisor

LONGEST_WAIT_S = 600.0


class Verb(StrEnum):
    START = "start"  # and keep it running
    STOP = "stop"  # until an operator starts it
    RESTART = "restart"
    RESET = "reset"  # forget failures, and try the full footprint
    LOAD = "load"  # as a request would
    UNLOAD = "unload"  # until a request needs it


# A model has no failures of its own to forget.
OF_MODELS = (Verb.START, Verb.STOP, Verb.RESTART, Verb.LOAD, Verb.UNLOAD)
ONE_OF_VERBS = "|".join(Verb)
ONE_OF_MODEL_VERBS = "|".join(OF_MODELS)

_MAKES_ROOM = frozenset({Verb.START, Verb.RESTART, Verb.LOAD})  # idle backends leave for what an operator wants up
_UP = frozenset({Phase.READY, Phase.SUSPECT})
_COMING = frozenset({Phase.STARTING, Phase.LOADING})
_NEEDS_A_HAND = frozenset({Phase.PARKED, Phase.UNKILLABLE})

_BEGUN = frozenset({Phase.READY, Phase.PARKED})
_ENDED = DOWN | {Phase.UNKILLABLE}
_GOALS: Mapping[Verb, frozenset[Phase]] = {
    Verb.START: _BEGUN,
    Verb.RESTART: _BEGUN,
    Verb.RESET: _BEGUN | {Phase.STOPPED},
    Verb.LOAD: _BEGUN,
    Verb.STOP: _ENDED,
    Verb.UNLOAD: _ENDED,
}


def _event(verb: Verb) -> life.Event:
    match verb:
        case Verb.START:
            return life.StartAsked("started by an operator")
        case Verb.STOP:
            return life.StopAsked("stopped by an operator", Want.DOWN)
        case Verb.RESTART:
            return life.RestartAsked("restarted by an operator")
        case Verb.RESET:
            return life.ResetAsked("reset by an operator")
        case Verb.LOAD:
            return life.WakeAsked("loaded by an operator")
        case Verb.UNLOAD:
            return life.StopAsked("unloaded by an operator; the next request loads it", Want.ON_DEMAND)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A backend of which something was asked, and where that leads."""

    backend: Backend
    goal: frozenset[Phase]
    after: int = -1  # a generation later than this one is meant

    def reached(self) -> bool:
        state = self.backend.state
        return state.phase in self.goal and state.generation > self.after


class Verbs:
    """Handlers of the control door. They answer once it is done, or after `wait_s` of their body (default: at once)."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    async def backend(self, request: web.Request) -> web.Response:
        """POST /v1/backends/{name}/{verb}"""
        backend = self._supervisor.backend(request.match_info["name"])
        verb = Verb(request.match_info["verb"])
        wait_s = await _wait_asked(request)
        await self._until([self._ask(verb, backend)], wait_s)
        entry = view.backend_entry(self._supervisor, backend)
        return json_response({"backend": entry, "message": self._sentence(backend)})

    async def model(self, request: web.Request) -> web.Response:
        """POST /v1/models/{model}/{verb}"""
        route = self._route(request.match_info["model"])
        verb = Verb(request.match_info["verb"])
        wait_s = await _wait_asked(request)
        backends = self._meant(verb, route)
        asked = [self._ask(verb, each) for each in backends if not (_only_one(verb) and each.state.phase in _UP)]
        await self._until(asked, wait_s)
        entries = [view.backend_entry(self._supervisor, backend) for backend in backends]
        message = "; ".join(self._sentence(backend) for backend in backends) or f"nothing of {route.name} is loaded"
        return json_response({"model": route.name, "backends": entries, "message": message})

    # --- one backend -------------------------------------------------------------------------------------------------

    def _ask(self, verb: Verb, backend: Backend) -> _Asked:
        if self._supervisor.draining:
            raise DrainingError("The daemon is going down.")
        if verb is Verb.LOAD:
            _check_loadable(backend)
        self._supervisor.tell_operator(verb.value, backend.name)
        generation = backend.state.generation
        if verb in _MAKES_ROOM:
            self._supervisor.placer.insist(backend.name)
        backend.post(_event(verb))
        return _Asked(backend, _GOALS[verb], generation if verb is Verb.RESTART else -1)

    async def _until(self, asked: Sequence[_Asked], wait_s: float) -> None:
        if wait_s > 0:
            await self._supervisor.wait_for(lambda: all(each.reached() for each in asked), wait_s)

    def _sentence(self, backend: Backend) -> str:
        """Where a backend is now, and why."""
        reason = self._supervisor.placer.held(backend.name) or backend.state.reason
        return f"{backend.name} is {backend.state.phase}" + (f": {reason}" if reason else "")

    # --- a model -----------------------------------------------------------------------------------------------------

    def _route(self, name: str) -> Route:
        """The route of exactly this name: whoever stops a model must not stop the default one by a slip."""
        for route in self._supervisor.routes.all:
            if name in route.names:
                return route
        known = ", ".join(route.name for route in self._supervisor.routes.all) or "none is served"
        raise NotFoundError(f'There is no model "{name}"; there are: {known}.', param="model")

    def _meant(self, verb: Verb, route: Route) -> list[Backend]:
        """The backends of a route that `verb` is about, in the route's order."""
        backends = [self._supervisor.backends[name] for name in (*route.backends, *route.last_resort)]
        match verb:
            case Verb.STOP:
                return backends
            case Verb.UNLOAD:
                return [each for each in backends if each.runtime.has_process and each.state.phase not in DOWN]
            case Verb.RESTART:
                running = [each for each in backends if each.state.phase not in DOWN]
                return running or [_first_that_can(backends, verb, route)]
            case _:
                return [_first_that_can(backends, verb, route)]


def _only_one(verb: Verb) -> bool:
    """Whether a model has what the verb is for as soon as one backend serves it."""
    return verb in {Verb.START, Verb.LOAD}


def _first_that_can(backends: Sequence[Backend], verb: Verb, route: Route) -> Backend:
    """The one that serves already, else the one that comes, else the first that could. Raises ConflictError."""
    for phases in (_UP, _COMING):
        for backend in backends:
            if backend.state.phase in phases:
                return backend
    able = [each for each in backends if _can(verb, each)]
    if not able:
        why = "; ".join(f"{each.name} is {each.state.phase}: {each.state.reason}" for each in backends)
        raise ConflictError(
            f"No backend of {route.name} can be loaded: {why}. Start one by its name: supctl start NAME"
        )
    return able[0]


def _can(verb: Verb, backend: Backend) -> bool:
    stopped_by_hand = backend.state.want is Want.DOWN and verb is Verb.LOAD
    return backend.state.phase not in _NEEDS_A_HAND and not stopped_by_hand


def _check_loadable(backend: Backend) -> None:
    """Loading does what a request does, which neither undoes an operator's stop nor repairs anything."""
    state = backend.state
    if state.phase in _NEEDS_A_HAND:
        raise ConflictError(
            f"{backend.name} is {state.phase}: {state.reason}. Try it anyway: supctl start {backend.name}"
        )
    if state.want is Want.DOWN:
        raise ConflictError(f"{backend.name} was stopped by an operator. supctl start {backend.name} starts it.")


async def _wait_asked(request: web.Request) -> float:
    body = await request.read()
    if not body:
        return 0.0
    try:
        asked = msgspec.json.decode(body, type=dict[str, float])
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequestError(f'The body must be an object like {{"wait_s": 30}}: {error}.') from None
    return min(LONGEST_WAIT_S, max(0.0, asked.get("wait_s", 0.0)))
