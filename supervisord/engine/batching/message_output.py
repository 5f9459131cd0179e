"""The results of a batch of messages, in Anthropic's shape."""

from collections.abc import Mapping

import msgspec

from supervisord.core.batch import Fate
from supervisord.core.dialect import anthropic_error, anthropic_status, anthropic_type
from supervisord.engine.batching.output import answer_of, custom_id_of, encode, why_not
from supervisord.ports import StoredJob

_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TYPES: Mapping[Fate, str] = {Fate.EXPIRED: "expired", Fate.CANCELLED: "canceled"}


def in_anthropic_form(stored: StoredJob, became: Fate) -> bytes:
    """A line of the results."""
    return encode({"custom_id": custom_id_of(stored), "result": _result(stored, became)})


def _result(stored: StoredJob, became: Fate) -> Mapping[str, object]:
    if became in _TYPES:
        return {"type": _TYPES[became]}
    answer = answer_of(stored)
    if became is Fate.SUCCEEDED and isinstance(answer, msgspec.Raw):
        return {"type": "succeeded", "message": answer}
    if isinstance(answer, msgspec.Raw) and _is_error(answer):
        return {"type": "errored", "error": answer}
    lack = why_not(stored, became)
    status = stored.result.http_status if stored.result is not None else None
    kind = anthropic_type(anthropic_status(status or 500))
    return {"type": "errored", "error": anthropic_error(kind, f"{lack.message} ({lack.code})", stored.job.id)}


def _is_error(answer: msgspec.Raw) -> bool:
    """Whether a backend has told its error in Anthropic's shape itself."""
    try:
        return bytes(_MEMBERS.decode(answer).get("type", b"")) == b'"error"'
    except msgspec.DecodeError:
        return False
