"""From the name a client asks for to the backends that may serve it, and what is changed in its request."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from supervisord.core.errors import ModelNotFoundError


class Strategy(StrEnum):
    """How one of several backends is chosen."""

    PRIORITY = "priority"  # the first that works: the next ones are there for when it fails
    LEAST_BUSY = "least_busy"  # by requests in flight per slot
    LATENCY = "latency"  # by the time to the first byte that it showed of late


@dataclass(frozen=True, slots=True)
class Parameters:
    """What is done to a request's top-level members before it is sent. Values are JSON texts.

    `set` overrides what the client wrote, `default` fills in what it left out, `strip` removes. `max_tokens_default`
    fills in a missing limit of the answer; more than `max_tokens_limit` is refused, never cut silently.
    """

    set: Mapping[str, str] = field(default_factory=dict)
    default: Mapping[str, str] = field(default_factory=dict)
    strip: frozenset[str] = frozenset()
    max_tokens_default: int | None = None
    max_tokens_limit: int | None = None

    @property
    def changes_nothing(self) -> bool:
        return not (self.set or self.default or self.strip or self.max_tokens_default or self.max_tokens_limit)


@dataclass(frozen=True, slots=True)
class Route:
    """One model as clients see it. `names`: the main one first. `backends` in their order of preference.

    `last_resort`: backends that are asked only when each of the others is failing or needs somebody's hand.
    """

    names: tuple[str, ...]
    backends: tuple[str, ...]
    last_resort: tuple[str, ...] = ()
    strategy: Strategy = Strategy.LEAST_BUSY
    parameters: Parameters = field(default_factory=Parameters)

    @property
    def name(self) -> str:
        return self.names[0]


class Routes:
    """All of them, and the one for names that nobody knows."""

    def __init__(self, routes: Sequence[Route], default: str | None = None) -> None:
        self._by_name = {name: route for route in routes for name in route.names}
        self.all = tuple(routes)
        self.default = self._by_name[default] if default is not None else None

    def named(self, model: str) -> Route:
        """The route of a name a client asked for. Raises ModelNotFoundError."""
        route = self._by_name.get(model, self.default)
        if route is None:
            raise ModelNotFoundError(
                f'No backend serves the model "{model}". GET /v1/models lists those that are served.', param="model"
            )
        return route

    def of_backend(self, backend: str) -> tuple[Route, ...]:
        """The routes that a backend is part of."""
        return tuple(r for r in self.all if backend in r.backends or backend in r.last_resort)
