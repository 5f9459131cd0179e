"""What is changed in a request's top-level members before it is sent to a backend: decided here, done by the engine.

Values are JSON texts, so that nothing of a long body is built to change a member of it.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from supervisord.core.errors import TokenLimitError
from supervisord.core.request import ALL_LENGTHS, ENDPOINTS, Endpoint
from supervisord.core.routing import Parameters

MAX_TOKENS = "max_tokens"
_LENGTHS = frozenset(ALL_LENGTHS)

INCLUDE_USAGE = "include_usage"
_CONTINUOUS = "continuous_usage_stats"  # vLLM's own: usage in every chunk, and only together with include_usage


@dataclass(frozen=True, slots=True)
class Edits:
    """Members to replace or add, and members to take out. False when there is nothing to do."""

    set: Mapping[str, str] = field(default_factory=dict)
    remove: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.set or self.remove)

    def then(self, later: "Edits") -> "Edits":
        """Both in one, for one pass over the body; where they differ the later wins."""
        kept = {name: text for name, text in self.set.items() if name not in later.remove}
        return Edits({**kept, **later.set}, (self.remove | later.remove) - later.set.keys())


def check(parameters: Parameters, max_tokens: int | None) -> None:
    """Raises TokenLimitError when more tokens are asked for than the model's limit.

    `max_tokens` is the most that the client wrote by any name; None: nothing, and then `edits` fills in the default or
    the limit. A negative number means an endless answer to llama.cpp.
    """
    limit = parameters.max_tokens_limit
    if limit is None or max_tokens is None or 0 <= max_tokens <= limit:
        return
    asked = f"{max_tokens} tokens were asked for" if max_tokens > limit else "An answer without an end was asked for"
    raise TokenLimitError(
        f"{asked}, and this model's limit is {limit}. Ask for at most {limit}, or raise max_tokens.limit.",
        param=MAX_TOKENS,
    )


def edits(parameters: Parameters, members: Collection[str], endpoint: str, max_tokens: int | None) -> Edits:
    """What the configuration of a model changes in a request that was checked.

    `members` are the names of what the client wrote, `max_tokens` its limit by any name (None: none, or null). `strip`
    takes out first, then `default` fills in what is not there, then `set` overrides whatever is; a length under all of
    its names.
    """
    if parameters.changes_nothing:
        return Edits()
    door = ENDPOINTS[endpoint]
    stripped = parameters.strip.intersection(members)
    there = set(members) - stripped
    filled = {name: text for name, text in _as_named(door, parameters.default).items() if name not in there}
    wanted = _as_named(door, parameters.set)
    changed = {**filled, **wanted}
    lengths = frozenset(door.lengths)
    limited = lengths & changed.keys() or (max_tokens is not None and lengths & there)
    fallback = parameters.max_tokens_default or parameters.max_tokens_limit
    if fallback is not None and not limited and door.length:
        changed[door.length] = str(fallback)
    overruled = lengths & there if lengths & wanted.keys() else frozenset[str]()
    return Edits(changed, (stripped | overruled) - changed.keys())


def _as_named(door: Endpoint, values: Mapping[str, str]) -> Mapping[str, str]:
    """Members as an endpoint calls them: a configured length under a name that has a meaning there."""
    unknown = _LENGTHS.difference(door.lengths)
    if not door.length or unknown.isdisjoint(values):
        return values
    return {door.length if name in unknown else name: text for name, text in values.items()}


def upstream(model: str = "", *, include_usage: bool = False, stream_options: str | None = None) -> Edits:
    """What one backend needs changed: its own name for the model (empty: the client's), and usage in its streams.

    `stream_options` is the JSON text of what the client wrote, None if nothing; its other members are kept. What is no
    object is left to the backend to refuse.
    """
    changed = {"model": _text(model)} if model else {}
    if include_usage:
        options = _options(stream_options)
        if options is not None and not options.get(INCLUDE_USAGE):
            # It did nothing without include_usage, and would now change every chunk.
            kept = {name: value for name, value in options.items() if name != _CONTINUOUS}
            changed["stream_options"] = _text({**kept, INCLUDE_USAGE: True})
    return Edits(changed)


def wants_usage(stream_options: str | None) -> bool:
    """Whether a client asked for the usage of its stream; `stream_options` is the JSON text of what it wrote."""
    return bool((_options(stream_options) or {}).get(INCLUDE_USAGE))


def _options(text: str | None) -> Mapping[str, object] | None:
    """Its members; empty for nothing and null, None for what is no object."""
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if value is None:
        return {}
    return value if isinstance(value, dict) else None


def _text(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))  # ASCII: half a surrogate pair of a client's stays harmless
