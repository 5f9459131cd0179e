"""OpenAI's transcriptions and translations: forms with a sound in them, for backends that have these endpoints."""

from functools import partial

from supervisord.api.door import Request, Work
from supervisord.api.form import boundary_of, fields
from supervisord.api.idempotency import HEADER
from supervisord.api.router import Table
from supervisord.api.serving import serve
from supervisord.core.errors import InvalidRequestError
from supervisord.core.job import Form, Submission
from supervisord.core.request import FORMS, LONGEST_NAME, form_submission
from supervisord.engine.gateway import Gateway

_LONGEST_TEXT = 4 * LONGEST_NAME  # bytes of a field that is read


class AudioDoor:
    """Forms go through as they came, but for the model's name where a backend calls it otherwise."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.table: Table = {path: {"POST": self._run} for path in FORMS}

    def _run(self, request: Request) -> Work:
        """Queue the request's form as a job. Raises InvalidRequestError."""
        if HEADER in request.headers:
            raise InvalidRequestError(
                "Idempotency-Key is for answers that are kept, and those to forms are not.", param="Idempotency-Key"
            )
        return partial(serve, self._gateway, request, _submission(request))


def _submission(request: Request) -> Submission:
    """Raises InvalidRequestError."""
    body, content_type = request.body, request.headers.get("content-type", "")
    found = {}
    for field in fields(body, boundary_of(content_type)):
        if field.name in found:
            raise InvalidRequestError(f'There are two fields "{field.name}".', param=field.name)
        if field.name in {"file", "model", "stream"}:
            found[field.name] = field
    if "file" not in found:
        raise InvalidRequestError('The form has no field "file".', param="file")
    texts = {n: _text(body[f.begins : f.ends]) for n, f in found.items() if f.ends - f.begins <= _LONGEST_TEXT}
    if texts.get("stream", "").lower() not in {"", "false", "0"}:
        raise InvalidRequestError(f"{request.path} does not stream here.", param="stream")
    model = found.get("model")
    place = (model.begins, model.ends) if model is not None else (0, 0)
    return form_submission(request.path, body, texts.get("model", ""), Form(content_type, *place), request.headers)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
