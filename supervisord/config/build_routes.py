"""The names that clients may ask for -> routes to backends."""

from collections.abc import Collection, Mapping, Sequence

from supervisord.config.schema_models import ModelSettings
from supervisord.core.routing import Parameters, Route, Strategy
from supervisord.runtimes.base import BackendSpec, RuntimeKind


def build_routes(models: Mapping[str, ModelSettings], backends: Sequence[BackendSpec]) -> tuple[Route, ...]:
    """Models as they are written; then every name of a backend that none of them has."""
    explicit = tuple(_explicit(name, model) for name, model in models.items())
    taken = {name for route in explicit for name in route.names}
    return (*explicit, *_implicit(backends, taken))


def _explicit(name: str, model: ModelSettings) -> Route:
    return Route(
        names=tuple(dict.fromkeys((name, *model.aliases))),
        backends=tuple(model.backends),
        last_resort=tuple(model.last_resort),
        strategy=Strategy(model.strategy),
        parameters=Parameters(
            set=dict(model.set_),
            default=dict(model.default),
            strip=frozenset(model.strip),
            max_tokens_default=model.max_tokens.default,
            max_tokens_limit=model.max_tokens.limit,
        ),
    )


def _implicit(backends: Sequence[BackendSpec], taken: Collection[str]) -> list[Route]:
    """One route for the names that the same backends serve, so that aliases are names of one model."""
    serving: dict[str, list[BackendSpec]] = {}
    for backend in backends:
        for name in backend.models:
            if name not in taken:
                serving.setdefault(name, []).append(backend)
    names: dict[tuple[str, ...], list[str]] = {}
    for name, candidates in serving.items():
        names.setdefault(_ordered(candidates), []).append(name)
    return [Route(names=tuple(together), backends=chosen) for chosen, together in names.items()]


def _ordered(backends: Sequence[BackendSpec]) -> tuple[str, ...]:
    """Those that serve a name, the preferred one first. What leaves this machine is used only where it is alone."""
    local = [backend for backend in backends if backend.runtime is not RuntimeKind.REMOTE]
    return tuple(backend.name for backend in sorted(local or backends, key=lambda backend: -backend.priority))
