"""Every error a client or an operator can meet, with its stable code.

The tree is read at one border only: `api/errors.py` gives each code its HTTP status, and a test compares the two.
Adapters translate foreign exceptions into these where they enter.
"""

from typing import ClassVar


class SupervisorError(Exception):
    """Base of all errors this program raises on purpose. `code` is stable; the message is for people."""

    code: ClassVar[str] = "internal_error"

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s


# --- the request itself is wrong: nothing was queued -----------------------------------------------------------------


class InvalidRequestError(SupervisorError):
    """The request cannot be understood. Sending it again unchanged cannot help."""

    code = "invalid_request"


class InvalidJsonError(InvalidRequestError):
    code = "invalid_json"


class UnknownEndpointError(InvalidRequestError):
    code = "unknown_endpoint"


class MethodNotAllowedError(InvalidRequestError):
    code = "method_not_allowed"


class UnsupportedMediaTypeError(InvalidRequestError):
    code = "unsupported_media_type"


class RequestTooLargeError(InvalidRequestError):
    code = "request_too_large"


class RequestTimeoutError(InvalidRequestError):
    """The client took longer than the limit to send its headers or its body."""

    code = "request_timeout"


class ModelNotFoundError(InvalidRequestError):
    code = "model_not_found"


class ContextLengthError(InvalidRequestError):
    """The prompt, counted, fits into no backend that serves the model."""

    code = "context_length_exceeded"


class TokenLimitError(InvalidRequestError):
    """More tokens were asked for than the model's configured limit."""

    code = "max_tokens_above_limit"


class NotFoundError(InvalidRequestError):
    """The job, backend or other thing named in the path does not exist."""

    code = "not_found"


class ConflictError(InvalidRequestError):
    """The thing exists, and is in a phase that does not allow what was asked."""

    code = "conflict"


class IdempotencyMismatchError(InvalidRequestError):
    """The Idempotency-Key was used before, by the same client, for another request."""

    code = "idempotency_mismatch"


class UnauthorizedError(InvalidRequestError):
    """Keys have been given out, and the request carries none of them."""

    code = "invalid_api_key"


class ModelForbiddenError(InvalidRequestError):
    """The key of the request may not use this model."""

    code = "model_forbidden"


class ForbiddenHostError(InvalidRequestError):
    """The Host header names neither loopback nor a configured name: DNS rebinding."""

    code = "forbidden_host"


class ForbiddenOriginError(InvalidRequestError):
    """The Origin header shows a web page of another site."""

    code = "forbidden_origin"


class ForbiddenPeerError(InvalidRequestError):
    """The process at the other end of the control socket may not use it."""

    code = "forbidden_peer"


# --- the request is fine, and was not served -------------------------------------------------------------------------


class RefusedError(SupervisorError):
    """The daemon decided not to serve an acceptable request."""

    code = "refused"


class QueueFullError(RefusedError):
    code = "queue_full"

    def __init__(self, message: str, *, depth: int, retry_after_s: float) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.depth = depth


class QueueTimeoutError(RefusedError):
    code = "queue_timeout"


class DeadlineExceededError(RefusedError):
    code = "deadline_exceeded"


class TooManyRequestsError(RefusedError):
    """As many requests of the same key as it may have are under way already."""

    code = "too_many_requests"


class DrainingError(RefusedError):
    """The daemon is going down and takes no new work."""

    code = "draining"


class TooManyConnectionsError(RefusedError):
    code = "too_many_connections"


class BackendParkedError(RefusedError):
    code = "backend_parked"


class BackendStoppedError(RefusedError):
    """An operator stopped every backend that could serve the model."""

    code = "backend_stopped"


class PoisonError(RefusedError):
    """Backends went down under the job, one after the other: it is not given to another one."""

    code = "poison"


class StoreUnavailableError(RefusedError):
    """The record of the job cannot be written, so the job is not accepted."""

    code = "store_unavailable"


class StoreFullError(StoreUnavailableError):
    """The disk below the store is full."""

    code = "store_full"


class JobCancelledError(RefusedError):
    """The job was cancelled by an operator, or its client left."""

    code = "cancelled"


class DaemonDiedError(RefusedError):
    """The daemon died while the job was in flight: of a durable one, each time."""

    code = "daemon_died"


class InvalidOutputError(RefusedError):
    """The answer does not fit the schema that was asked for, after all retries. It is kept."""

    code = "invalid_output"


class OutputTruncatedError(RefusedError):
    """The answer ended at its limit of tokens before it could fit its schema. It is kept."""

    code = "output_truncated"


class AnswerTooLargeError(RefusedError):
    """The answer of a durable job is larger than is kept."""

    code = "answer_too_large"


# --- a backend failed while serving ----------------------------------------------------------------------------------


class AttemptFailedError(SupervisorError):
    """One attempt on one backend failed; the last of them is what the client sees."""

    code = "backend_failed"


class BackendUnreachableError(AttemptFailedError):
    code = "backend_unreachable"


class BackendDiedError(AttemptFailedError):
    code = "backend_died"


class BackendHungError(AttemptFailedError):
    code = "backend_hung"


class BackendOutOfMemoryError(AttemptFailedError):
    code = "backend_out_of_memory"


class BackendProtocolError(AttemptFailedError):
    """The backend's bytes are not the HTTP it promised: garbage, a cut answer, a wrong length."""

    code = "backend_protocol_error"


class BackendAnsweredError(AttemptFailedError):
    """The backend answered with an error of its own."""

    code = "backend_error"


class EndpointMissingError(AttemptFailedError):
    """The backend does not have what was asked of it: its version, its model or its flags are without it."""

    code = "endpoint_missing"


# --- the daemon cannot start or go on --------------------------------------------------------------------------------


class StartupError(SupervisorError):
    """The daemon cannot run as configured. The message says what to do."""

    code = "startup_failed"


class ConfigurationError(StartupError):
    code = "bad_configuration"


class StateFolderError(StartupError):
    """The state folder cannot be written, or another daemon uses it."""

    code = "state_folder"


class AddressInUseError(StartupError):
    code = "address_in_use"


class SpawnError(SupervisorError):
    """A process could not be started. `permanent` says that trying again unchanged cannot help.

    `shortage`: the machine had no descriptor, process or memory left for it; the backend itself was not tried.
    """

    code = "spawn_failed"

    def __init__(self, message: str, *, permanent: bool, shortage: bool = False) -> None:
        super().__init__(message)
        self.permanent = permanent
        self.shortage = shortage


class ProbeError(SupervisorError):
    """A probe got no usable answer in time."""

    code = "probe_failed"


class SensorError(SupervisorError):
    """A sensor is absent, failing or late; the message says which."""

    code = "sensor_failed"
