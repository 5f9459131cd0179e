"""The settings of models: names clients ask for that are more than the name of one backend."""

import json
from typing import Annotated

from supervisord.config import fields
from supervisord.config.fields import ModelName, Text, checked, parse_text
from supervisord.config.schema_backend import MOST_TOKENS
from supervisord.config.settings import Missing, Settings, required, section, setting
from supervisord.config.units import quote
from supervisord.core.routing import Strategy

# The route, the way the answer is sent, and what was asked are the daemon's and the client's.
OWNED = frozenset({"model", "stream", "messages", "prompt", "input"})


def parse_member(value: object) -> str:
    """The name of a top-level member of a request that a model may change."""
    name = parse_text(value)
    if name in OWNED:
        raise ValueError(f"{quote(name)} cannot be changed here: the daemon or the client decides it; leave it out")
    return name


def parse_json(value: object) -> str:
    """The JSON text of a value as YAML gives it."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError:
        raise ValueError(f"{quote(value)} has no form in JSON; write a finite number") from None


Member = Annotated[str, *checked(parse_member, {"type": "string", "minLength": 1, "not": {"enum": sorted(OWNED)}})]
Json = Annotated[str, *checked(parse_json, {})]
Limit = Annotated[int, *fields.tokens(1, MOST_TOKENS)]


class MaxTokens(Settings):
    default: Limit | None = setting(
        None, "Longest answer where the client names none. Default: the limit, else the server's choice."
    )
    limit: Limit | None = setting(None, "A request for a longer answer is refused. Default: no limit.")


class ModelSettings(Settings):
    aliases: list[ModelName] = setting([], "More names of this model.")
    backends: Annotated[list[Text], Missing("missing; name the backends that serve it: [a, b]", [])] = required(
        "Backends that serve it, in order of preference."
    )
    last_resort: list[Text] = setting(
        [], "Backends that are asked only when each of the others fails or needs somebody's hand."
    )
    strategy: Annotated[str, *fields.one_of(*Strategy, noun="a strategy")] = setting(
        Strategy.LEAST_BUSY.value,
        "How one of several is chosen. priority: the first that works; least_busy: by requests in flight per slot; "
        "latency: by the time to the first byte of late.",
    )
    set_: dict[Member, Json] = setting({}, "Members of the request that get this value.", alias="set")
    default: dict[Member, Json] = setting({}, "Members of the request that get this value where the client sent none.")
    strip: list[Member] = setting([], "Members of the request that are taken out.")
    max_tokens: MaxTokens = section(MaxTokens, "Length of answers.")


class Routing(Settings):
    default: ModelName | None = setting(
        None, "Model that serves names nobody knows. Default: such a request is refused with 404."
    )
