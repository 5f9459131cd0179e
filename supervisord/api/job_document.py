"""A job as it is submitted: an endpoint, the body for it, and what is agreed on besides."""

from collections.abc import Mapping

import msgspec

from supervisord.api.agreed import NOTHING, terms_of
from supervisord.core.errors import InvalidJsonError, InvalidRequestError
from supervisord.core.job import Submission
from supervisord.core.output_check import PARAM
from supervisord.core.request import ENDPOINTS, submission
from supervisord.core.terms import MOST_ATTEMPTS, Origin, Terms
from supervisord.engine.members import members_of
from supervisord.engine.supervisor import Supervisor

MOST_TRIES = 20  # that may be asked for; by then the backend is at fault for good


class _Document(msgspec.Struct, forbid_unknown_fields=True):
    """`deadline`: seconds from now. Members that headers can say, too, go before them."""

    endpoint: str
    body: msgspec.Raw
    priority: str | None = None
    deadline: float | None = None
    max_attempts: int | None = None
    metadata: msgspec.Raw = NOTHING
    validate_output: msgspec.Raw = NOTHING


async def job_asked(supervisor: Supervisor, document: bytes, headers: Mapping[str, str]) -> tuple[Submission, Terms]:
    """What a document `{"endpoint": …, "body": {…}, …}` asks for. `headers` have lower-case names.

    Raises InvalidRequestError, with the member that is wrong as `param`.
    """
    asked = _decoded(document)
    body = bytes(asked.body)
    endpoint = ENDPOINTS.get(asked.endpoint)
    if endpoint is None:
        known = ", ".join(ENDPOINTS)
        raise InvalidRequestError(f'"endpoint" must be one of {known}.', param="endpoint")
    members = members_of(body)
    if members.get("stream"):
        raise InvalidRequestError(
            'The answer of a job is kept, not streamed: leave "stream" out. GET /v1/jobs/{id}/events follows a job.',
            param="body.stream",
        )
    if members.get("background"):
        raise InvalidRequestError('A job is in the background: leave "background" out.', param="body.background")
    if members.get(PARAM):
        raise InvalidRequestError(f'Put "{PARAM}" beside "body".', param=f"body.{PARAM}")
    submitted = submission(endpoint, body, members, {**headers, **_as_headers(asked)})
    return submitted, await terms_of(
        supervisor,
        Origin.JOB,
        submitted,
        metadata=asked.metadata,
        check=asked.validate_output,
        max_attempts=_attempts(asked.max_attempts),
    )


def _decoded(document: bytes) -> _Document:
    try:
        return msgspec.json.decode(document, type=_Document)
    except msgspec.ValidationError as error:
        raise InvalidRequestError(
            f'That describes no job, such as {{"endpoint": …, "body": {{…}}}}: {error}.'
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidJsonError(f"The body is not a JSON object: {error}.") from None


def _as_headers(asked: _Document) -> Mapping[str, str]:
    """Of what the headers of an ordinary request say."""
    said = {"x-priority": asked.priority, "x-deadline": None if asked.deadline is None else f"{asked.deadline:g}"}
    return {name: value for name, value in said.items() if value is not None}


def _attempts(asked: int | None) -> int:
    if asked is None:
        return MOST_ATTEMPTS
    if not 1 <= asked <= MOST_TRIES:
        raise InvalidRequestError(f'"max_attempts" must be from 1 to {MOST_TRIES}.', param="max_attempts")
    return asked
