"""`GET /v1/models` as every server that speaks OpenAI's API answers it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from supervisord.runtimes.base import HttpAnswer

PATH = "/v1/models"


@dataclass(frozen=True, slots=True)
class Listed:
    """One model of the list. `context` in tokens: only vLLM, SGLang and their relatives tell it."""

    name: str
    context: int | None = None


def listed(answer: HttpAnswer | None) -> Sequence[Listed]:
    """The models in an answer, in its order; none where it is no such list."""
    if answer is None or answer.status != 200:
        return ()
    try:
        document = json.loads(answer.body)
    except (ValueError, RecursionError):
        return ()
    entries = document.get("data") if isinstance(document, dict) else None
    models = [_model(entry) for entry in entries] if isinstance(entries, list) else []
    return tuple(model for model in models if model is not None)


def _model(entry: object) -> Listed | None:
    match entry:
        case {"id": str(name), "max_model_len": int(context)} if name and not isinstance(context, bool) and context > 0:
            return Listed(name, context)
        case {"id": str(name)} if name:
            return Listed(name)
        case _:
            return None
