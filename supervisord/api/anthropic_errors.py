"""Errors in Anthropic's shape."""

from dataclasses import replace

import msgspec

from supervisord.api import errors
from supervisord.api.door.request import Request
from supervisord.api.door.response import Response
from supervisord.core.dialect import OVERLOADED, anthropic_error, anthropic_type
from supervisord.core.errors import SupervisorError

HEADER = "anthropic-version"  # every request of theirs has it

# For want of room: asked again, it may be served.
_BUSY_CODES = frozenset({"queue_full", "queue_timeout", "draining", "too_many_connections"})


def is_for(request: Request) -> bool:
    """Whether a request is of a client that expects Anthropic's format."""
    return request.path.startswith("/v1/messages") or HEADER in request.headers


def told_to(request: Request, error: SupervisorError, job_id: str | None = None) -> Response:
    """An error in the shape that the client of `request` reads."""
    return response(error, job_id) if is_for(request) else errors.response(error, job_id)


def response(error: SupervisorError, job_id: str | None = None) -> Response:
    """The answer to a request that ended in `error`."""
    told = errors.response(error, job_id)
    status = OVERLOADED if error.code in _BUSY_CODES else told.status
    body = msgspec.json.encode(anthropic_error(anthropic_type(status), f"{error.message} ({error.code})", job_id))
    named = (("request-id", job_id),) if job_id else ()
    return replace(told, status=status, body=body, headers=(*told.headers, *named))
