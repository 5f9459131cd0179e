"""A request as it came -> Submission, or InvalidRequestError. The only place that knows what a request may say."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from supervisord.core.dialect import Dialect
from supervisord.core.errors import InvalidRequestError
from supervisord.core.job import Form, Priority, Submission


class JsonKind(StrEnum):
    OBJECT = "object"
    ARRAY = "array"
    STRING = "string"  # a string longer than anything validation looks at


Value = JsonKind | str | int | float | bool | None


# The names of the longest answer. llama-server goes by n_predict, its own, then by the newer of OpenAI's, then by the
# older (`n_predict` with its aliases, tools/server/server-schema.cpp); vLLM knows OpenAI's two.
LENGTHS = ("n_predict", "max_completion_tokens", "max_tokens")
# The name of it in Responses. llama-server takes it for max_tokens, so that the two others overrule it (seen).
_LENGTHS_OF_RESPONSES = ("n_predict", "max_completion_tokens", "max_output_tokens", "max_tokens")
ALL_LENGTHS = _LENGTHS_OF_RESPONSES


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A door of a backend that work is queued for. `payload` is the member that must be there, and its kinds.

    `lengths`: the names of the longest answer that servers go by there; `length`: that under which one is filled in.
    Both are empty where nothing is generated.
    """

    path: str
    payload: str
    kinds: frozenset[JsonKind]
    streams: bool = False
    dialect: Dialect = Dialect.CHAT
    lengths: tuple[str, ...] = ()
    length: str = ""


_TEXT = frozenset({JsonKind.STRING, JsonKind.ARRAY})
_LIST = frozenset({JsonKind.ARRAY})

# The newer name is OpenAI's for chat alone; every server still knows the older one, at every door.
ENDPOINTS: Mapping[str, Endpoint] = {
    e.path: e
    for e in (
        Endpoint("/v1/chat/completions", "messages", _LIST, streams=True, lengths=LENGTHS, length="max_tokens"),
        Endpoint("/v1/completions", "prompt", _TEXT, streams=True, lengths=LENGTHS, length="max_tokens"),
        Endpoint("/v1/embeddings", "input", _TEXT),
        Endpoint("/v1/rerank", "documents", _LIST),
        Endpoint("/v1/audio/speech", "input", frozenset({JsonKind.STRING})),
        Endpoint(
            "/v1/responses", "input", _TEXT, streams=True, dialect=Dialect.RESPONSES,
            lengths=_LENGTHS_OF_RESPONSES, length="max_output_tokens",
        ),
        Endpoint(
            "/v1/messages", "messages", _LIST, streams=True, dialect=Dialect.MESSAGES,
            lengths=("max_tokens",), length="max_tokens",
        ),
        Endpoint("/v1/messages/count_tokens", "messages", _LIST, dialect=Dialect.MESSAGES),
    )
}  # fmt: skip

# Those that take a form with a file in it, and answer with JSON or a text.
FORMS = frozenset({"/v1/audio/transcriptions", "/v1/audio/translations"})

# How many answers to each prompt: OpenAI's name; what may be sampled to choose from; llama-server's own name.
CHOICES = ("n", "best_of", "n_cmpl")

# The members whose values validation reads; of all others only the kind is told.
SCALARS = ("model", "stream", "background", "temperature", *ALL_LENGTHS, *CHOICES)

LONGEST_NAME = 256
OPERATORS = "supctl"  # the client of what comes in at the control socket, unless it names another
LARGEST_INTEGER = 2**63 - 1  # what the store's columns hold
LONGEST_WAIT_S = 7 * 24 * 3600.0


def submission(endpoint: Endpoint, body: bytes, members: Mapping[str, Value], headers: Mapping[str, str]) -> Submission:
    """Check a decoded body against its endpoint.

    `members` are the top-level members of the body: scalars by value, the others by kind. `headers` are asked
    for by lower-case names. Raises InvalidRequestError, with the member that is wrong as `param`.
    """
    payload = members.get(endpoint.payload)
    if isinstance(payload, str) and not isinstance(payload, JsonKind):
        payload = JsonKind.STRING
    if payload not in endpoint.kinds:
        wanted = " or ".join(sorted(f"a {k}" if k is JsonKind.STRING else f"an {k}" for k in endpoint.kinds))
        raise InvalidRequestError(f'"{endpoint.payload}" must be {wanted}.', param=endpoint.payload)
    stream = _boolean(members, "stream")
    if stream and not endpoint.streams:
        raise InvalidRequestError(f"{endpoint.path} does not stream.", param="stream")
    return Submission(
        endpoint=endpoint.path,
        model=_model(members),
        body=body,
        stream=stream,
        priority=_priority(headers),
        client=client_of(headers),
        max_tokens=_longest(members, endpoint.lengths),
        choices=choices(members),
        temperature=_number(members, "temperature"),
        patience_s=_lenient_seconds(headers, "x-stainless-read-timeout"),
        deadline_s=_seconds(headers, "x-deadline"),
    )


def form_submission(path: str, body: bytes, model: str, form: Form, headers: Mapping[str, str]) -> Submission:
    """A form, of which no more is read than the name of the model. Raises InvalidRequestError."""
    return Submission(
        endpoint=path,
        model=_model({"model": model}),
        body=body,
        priority=_priority(headers),
        client=client_of(headers),
        patience_s=_lenient_seconds(headers, "x-stainless-read-timeout"),
        deadline_s=_seconds(headers, "x-deadline"),
        form=form,
    )


def dialect_of(path: str) -> Dialect:
    """In which errors and streams of an endpoint are written."""
    return Dialect.CHAT if path in FORMS else ENDPOINTS[path].dialect


def _model(members: Mapping[str, Value]) -> str:
    model = members.get("model")
    if not isinstance(model, str) or isinstance(model, JsonKind) or not model:
        raise InvalidRequestError('"model" must name a model. GET /v1/models lists them.', param="model")
    if len(model) > LONGEST_NAME:
        raise InvalidRequestError(f'"model" is longer than {LONGEST_NAME} characters.', param="model")
    return model


def _boolean(members: Mapping[str, Value], name: str) -> bool:
    value = members.get(name)
    if value is None or isinstance(value, bool):
        return bool(value)
    raise InvalidRequestError(f'"{name}" must be true or false.', param=name)


def _integer(members: Mapping[str, Value], name: str) -> int | None:
    value = members.get(name)
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST_INTEGER:
        return value
    raise InvalidRequestError(f'"{name}" must be a whole number below 2^63.', param=name)


def _longest(members: Mapping[str, Value], names: Sequence[str]) -> int | None:
    """The most that any of the names asks for, whichever a backend goes by; below 0 (no end) is more than all."""
    written = [length for name in names if (length := _integer(members, name)) is not None]
    return min(written) if min(written, default=0) < 0 else max(written, default=None)


def choices(members: Mapping[str, Value]) -> int:
    """How many answers to each prompt are asked for. Raises InvalidRequestError."""
    most = 1
    for name in CHOICES:
        number = _integer(members, name)
        if number is not None and number < 1:
            raise InvalidRequestError(f'"{name}" must be a whole number above 0.', param=name)
        most = max(most, number or 1)
    return most


def _number(members: Mapping[str, Value], name: str) -> float | None:
    value = members.get(name)
    if value is None:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST_INTEGER:
        return float(value)
    raise InvalidRequestError(f'"{name}" must be a number.', param=name)


def _priority(headers: Mapping[str, str]) -> Priority:
    word = headers.get("x-priority", "normal").strip().upper()
    if word in Priority.__members__:
        return Priority[word]
    raise InvalidRequestError("X-Priority must be high, normal or batch.", param="X-Priority")


def _seconds(headers: Mapping[str, str], name: str) -> float | None:
    """A number of seconds from now, e.g. `X-Deadline: 30`."""
    if name not in headers:
        return None
    value = _lenient_seconds(headers, name)
    if value is None:
        raise InvalidRequestError(f"{name} must be a number of seconds above 0, such as 30.", param=name)
    return value


def _lenient_seconds(headers: Mapping[str, str], name: str) -> float | None:
    """For what an SDK sends of itself: a value that makes no sense is as good as none."""
    try:
        value = float(headers[name])
    except (KeyError, ValueError):
        return None
    return min(value, LONGEST_WAIT_S) if math.isfinite(value) and value > 0 else None


def client_of(headers: Mapping[str, str]) -> str:
    """Who asks, for the record: what it calls itself, else its user agent's first word."""
    named = headers.get("x-client") or headers.get("user-agent", "").partition(" ")[0]
    return client_named(named)


def client_named(text: str) -> str:
    """A client as records have it: printable, and 64 characters of it at most."""
    return "".join(c for c in text if c.isprintable())[:64]
