"""Changing a request's body: its top-level members only, everything else in the very bytes in which it came."""

from dataclasses import replace

import msgspec

from supervisord.core import parameters
from supervisord.core.dialect import Dialect
from supervisord.core.job import Submission
from supervisord.core.parameters import Edits
from supervisord.core.request import ENDPOINTS
from supervisord.core.routing import Parameters
from supervisord.engine.backend import Backend
from supervisord.runtimes.base import RuntimeKind

_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ENCODER = msgspec.json.Encoder()


def edited(body: bytes, edits: Edits) -> bytes:
    """`body`, a JSON object, with members put in (as JSON texts) or taken out; the order of the others stays."""
    kept = {name: raw for name, raw in _MEMBERS.decode(body).items() if name not in edits.remove}
    for name, text in edits.set.items():
        kept[name] = msgspec.Raw(text.encode())
    return _ENCODER.encode(kept)


def shaped(wanted: Parameters, submission: Submission) -> Submission:
    """A submission with its model's parameters set, filled in and stripped. Raises TokenLimitError.

    Where there is a limit each member is sent once, as it was checked: which of two a server goes by is its own affair.
    """
    parameters.check(wanted, submission.max_tokens)
    if submission.form is not None:
        return submission  # what is set of a model is about what it generates
    there = frozenset(_MEMBERS.decode(submission.body))
    edits = parameters.edits(wanted, there, submission.endpoint, submission.max_tokens)
    if not edits and wanted.max_tokens_limit is None:
        return submission
    limit = submission.max_tokens
    for name in ENDPOINTS[submission.endpoint].lengths:
        if (text := edits.set.get(name, "")).isdecimal():
            limit = int(text)
    return replace(submission, body=edited(submission.body, edits), max_tokens=limit)


def body_for(backend: Backend, submission: Submission) -> tuple[bytes, bool]:
    """The body as one backend needs it, and whether usage that the client did not ask for is to be stripped again."""
    name, form = _name_for(backend, submission.model), submission.form
    if form is not None:
        body = submission.body
        return (body[: form.model_begins] + name.encode() + body[form.model_ends :] if name else body), False
    tells_unasked = ENDPOINTS[submission.endpoint].dialect is not Dialect.CHAT  # the two others always end with usage
    asks = submission.stream and not tells_unasked and backend.runtime.usage_on_request
    if not name and not asks:  # mostly
        return submission.body, False
    options: str | None = None
    if asks:
        raw = _MEMBERS.decode(submission.body).get("stream_options")
        options = None if raw is None else bytes(raw).decode()
    edits = parameters.upstream(name, include_usage=asks, stream_options=options)
    return (edited(submission.body, edits) if edits else submission.body), asks and not parameters.wants_usage(options)


def _name_for(backend: Backend, asked: str) -> str:
    """What the server calls the model; empty where the client's word will do."""
    spec = backend.spec
    if spec.upstream_model:
        return spec.upstream_model if spec.upstream_model != asked else ""
    if spec.runtime is RuntimeKind.VLLM and asked not in spec.models:
        return spec.models[0]
    return ""
