"""Models as the doors describe them: a route with its backends, what of it is loaded, and what it would take."""

from collections.abc import Mapping, Sequence

from supervisord.core.footprint import Source
from supervisord.core.routing import Route
from supervisord.core.state import Phase
from supervisord.engine.backend import Backend
from supervisord.engine.supervisor import Supervisor

Entry = Mapping[str, object]

_LOADED = frozenset({Phase.READY, Phase.SUSPECT, Phase.DRAINING})
_BEST_FIRST = (frozenset({Phase.READY}), _LOADED, frozenset({Phase.LOADING, Phase.STARTING}))


def listing(supervisor: Supervisor) -> list[Entry]:
    """Every route, for operators."""
    return [_for_operators(supervisor, route) for route in supervisor.routes.all]


def openai_entry(supervisor: Supervisor, route: Route, name: str) -> Entry:
    """A model as OpenAI's clients know it, by one of its names; `meta` tells what they would be served with.

    `context_length` is in force now, `context_requested` as configured: a ladder's rung makes it smaller.
    """
    backends = _backends(supervisor, route)
    best = _best(backends)
    identity = best.generation.identity if best.generation is not None else None
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": "llm-supervisord",
        "meta": {
            "model": route.name,
            "backends": [backend.name for backend in backends],
            "backend": best.name,
            "loaded": _is_loaded(best),
            "phase": best.state.phase.value,
            "served_model": (identity.model if identity else None) or best.spec.upstream_model or None,
            "context_length": best.known_context,
            "context_requested": best.spec.footprint.context,
            "quantization": identity.quantization if identity else None,
            "rung": best.state.rung,
            "rung_name": best.rung_name,
            "rung_why": best.state.rung_why,
        },
    }


def _for_operators(supervisor: Supervisor, route: Route) -> Entry:
    backends = _backends(supervisor, route)
    best = _best(backends)
    return {
        "name": route.name,
        "aliases": list(route.names[1:]),
        "strategy": route.strategy.value,
        "default": supervisor.routes.default is route,
        "loaded": any(_is_loaded(backend) for backend in backends),
        "queued": supervisor.dispatcher.queue.waiting_for(route.name),
        "context_tokens": best.known_context,
        "quantization": best.generation.identity.quantization if best.generation is not None else None,
        "backends": [_backend(supervisor, backend, last=backend.name in route.last_resort) for backend in backends],
    }


def _backend(supervisor: Supervisor, backend: Backend, *, last: bool) -> Entry:
    identity = backend.generation.identity if backend.generation is not None else None
    return {
        "name": backend.name,
        "runtime": backend.spec.runtime.value,
        "phase": backend.state.phase.value,
        "loaded": _is_loaded(backend),
        "last_resort": last,
        "held": supervisor.placer.held(backend.name),
        "context_tokens": backend.known_context,
        "quantization": identity.quantization if identity else None,
        **_expected(supervisor, backend),
    }


def _expected(supervisor: Supervisor, backend: Backend) -> Entry:
    """What it takes while it is loaded; nothing of this machine where it has no process."""
    if not backend.runtime.has_process:
        unknown = Source.UNKNOWN.value
        return {"expected_vram_bytes": None, "vram_source": unknown, "expected_ram_bytes": None, "ram_source": unknown,
                "expected_load_s": None}  # fmt: skip
    need = supervisor.placer.need_of(backend.name)
    return {
        "expected_vram_bytes": need.vram,
        "vram_source": need.vram_source.value,
        "expected_ram_bytes": need.ram,
        "ram_source": need.ram_source.value,
        "expected_load_s": need.load_s,
    }


def _backends(supervisor: Supervisor, route: Route) -> list[Backend]:
    return [supervisor.backends[name] for name in (*route.backends, *route.last_resort)]


def _best(backends: Sequence[Backend]) -> Backend:
    """The one a request would most likely get: the first that serves, else the first that comes, else the first."""
    for phases in _BEST_FIRST:
        for backend in backends:
            if backend.state.phase in phases:
                return backend
    return backends[0]


def _is_loaded(backend: Backend) -> bool:
    return backend.state.phase in _LOADED
