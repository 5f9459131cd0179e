"""The border between errors and HTTP: one status for each code, one envelope for all of them."""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from supervisord.api.door.response import JSON, Response
from supervisord.core.errors import (
    AttemptFailedError,
    InvalidRequestError,
    MethodNotAllowedError,
    QueueFullError,
    SupervisorError,
    UnauthorizedError,
    UnknownEndpointError,
)

# A test compares this with the tree of errors: none may be missing. Both SDKs retry 408, 409, 429 and 5xx by
# themselves, so a status among those is a statement that trying again can help, unless x-should-retry denies it.
STATUS: Mapping[str, int] = {
    "internal_error": 500,
    "invalid_request": 400,
    "invalid_json": 400,
    "unknown_endpoint": 404,
    "method_not_allowed": 405,
    "unsupported_media_type": 415,
    "request_too_large": 413,
    "request_timeout": 408,
    "model_not_found": 404,
    "context_length_exceeded": 400,
    "max_tokens_above_limit": 400,
    "not_found": 404,
    "conflict": 409,
    "idempotency_mismatch": 422,  # not 409: both SDKs would send it again
    "invalid_api_key": 401,
    "model_forbidden": 403,
    "forbidden_host": 403,
    "forbidden_origin": 403,
    "forbidden_peer": 403,
    "refused": 503,
    "queue_full": 429,
    "too_many_requests": 429,
    "queue_timeout": 503,
    "deadline_exceeded": 504,
    "draining": 503,
    "too_many_connections": 503,
    "backend_parked": 503,
    "backend_stopped": 503,
    "poison": 500,
    "store_unavailable": 503,
    "store_full": 507,
    "cancelled": 499,  # nginx's status for a client that left; an operator's cancel looks the same from outside
    "daemon_died": 500,
    "invalid_output": 422,
    "output_truncated": 422,
    "answer_too_large": 502,
    "backend_failed": 502,
    "backend_unreachable": 502,
    "backend_died": 502,
    "backend_hung": 504,
    "backend_out_of_memory": 503,
    "backend_protocol_error": 502,
    "backend_error": 502,
    "endpoint_missing": 501,
    "startup_failed": 500,
    "bad_configuration": 422,
    "state_folder": 500,
    "address_in_use": 500,
    "spawn_failed": 503,
    "probe_failed": 502,
    "sensor_failed": 503,
}

# Worth another try by the client itself: nothing was accepted, and waiting helps.
WORTH_RETRYING = frozenset(
    {"queue_full", "too_many_requests", "draining", "too_many_connections", "store_unavailable", "request_timeout"}
)


def error_type(error: SupervisorError) -> str:
    """Who is at fault: the request, a backend, or the daemon."""
    if isinstance(error, InvalidRequestError):
        return "invalid_request_error"
    return "backend_error" if isinstance(error, AttemptFailedError) else "supervisor_error"


def envelope(error: SupervisorError) -> bytes:
    """OpenAI's error object."""
    return msgspec.json.encode(
        {"error": {"message": error.message, "type": error_type(error), "param": error.param, "code": error.code}}
    )


def no_route(method: str, path: str) -> UnknownEndpointError:
    """Nothing answers `path`."""
    return UnknownEndpointError(f"There is no {method} {path} here.")


def wrong_method(method: str, path: str, allowed: Iterable[str]) -> MethodNotAllowedError:
    """`path` takes other methods."""
    return MethodNotAllowedError(f"{path} takes {', '.join(sorted(allowed))}, not {method}.")


def response(error: SupervisorError, job_id: str | None = None) -> Response:
    """The answer to a request that ended in `error`."""
    return Response(STATUS[error.code], envelope(error), (*JSON, *_headers(error, job_id)))


def _headers(error: SupervisorError, job_id: str | None = None) -> Sequence[tuple[str, str]]:
    """What the head of an answer says of `error`."""
    told: list[tuple[str, str]] = []
    if job_id is not None:
        told += (("x-job-id", job_id), ("x-request-id", job_id))
    if STATUS[error.code] >= 408:
        told.append(("x-should-retry", "true" if error.code in WORTH_RETRYING else "false"))
    if isinstance(error, UnauthorizedError):
        told.append(("www-authenticate", "Bearer"))
    if error.retry_after_s is not None:
        told.append(("retry-after", str(max(1, round(error.retry_after_s)))))
    if isinstance(error, QueueFullError):
        told.append(("x-queue-depth", str(error.depth)))
    return told
