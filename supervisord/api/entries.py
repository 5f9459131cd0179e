"""Records as JSON values, for the doors."""

from collections.abc import Mapping
from dataclasses import asdict

import msgspec
from aiohttp import web

from supervisord.api import errors
from supervisord.core.errors import SupervisorError
from supervisord.core.job import Priority
from supervisord.core.record import AttemptRecord, EventRecord
from supervisord.ports import StoredJob


def json_response(value: object, status: int = 200) -> web.Response:
    """An answer of a JSON value."""
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")


def error_response(error: SupervisorError) -> web.Response:
    """The answer to a request that ended in `error`."""
    told = errors.response(error)
    return web.Response(status=told.status, body=told.body, headers=dict(told.headers))


def event_entry(event: EventRecord, event_id: int | None) -> Mapping[str, object]:
    """An event as JSON values."""
    return {"id": event_id, **asdict(event), "kind": event.kind.value, "data": dict(event.data)}


def job_entry(stored: StoredJob) -> Mapping[str, object]:
    """A job with its attempts as JSON values."""
    job, result = stored.job, stored.result
    return {
        "id": job.id,
        "endpoint": job.endpoint,
        "model": job.model,
        "priority": Priority(job.priority).label,
        "stream": job.stream,
        "client": job.client,
        "status": stored.status,
        "reason": result.reason.value if result and result.reason else None,
        "detail": result.detail if result else "",
        "submitted_at": job.submitted_at,
        "finished_at": result.finished_at if result else None,
        "queue_wait_s": result.queue_wait_s if result else None,
        "max_tokens": job.max_tokens,
        "temperature": job.temperature,
        "backend": result.backend if result else None,
        "attempts_count": result.attempts if result else len(stored.attempts),
        "attempts": [_attempt_entry(attempt) for attempt in stored.attempts],
    }


def _attempt_entry(attempt: AttemptRecord) -> Mapping[str, object]:
    identity, used = attempt.identity, attempt.usage
    return {
        "number": attempt.number,
        "backend": attempt.backend,
        "generation": attempt.generation,
        "runtime": attempt.runtime,
        "rung": attempt.rung,
        "hardware": attempt.hardware,
        "model": identity.model,
        "quantization": identity.quantization,
        "context_tokens": identity.context_length,
        "template_hash": identity.template_hash,
        "build": identity.build,
        "started_at": attempt.started_at,
        "queue_wait_s": attempt.queue_wait_s,
        "duration_s": attempt.duration_s,
        "ttft_s": attempt.ttft_s,
        "tokens_in": used.tokens_in,
        "tokens_cached": used.tokens_cached,
        "tokens_out": used.tokens_out,
        "tokens_per_second": used.tokens_per_second,
        "http_status": attempt.http_status,
        "status": attempt.status.value,
        "reason": attempt.reason.value if attempt.reason else None,
        "detail": attempt.detail,
        "bytes_out": attempt.bytes_out,
    }
