"""Records as JSON values, for the doors."""

from collections.abc import Mapping
from dataclasses import asdict

import msgspec
from aiohttp import web

from supervisord.api import errors
from supervisord.core.errors import SupervisorError
from supervisord.core.incident import Incident
from supervisord.core.job import Priority
from supervisord.core.record import AttemptRecord, EventRecord
from supervisord.core.story import Story, headline, tell
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
    job, result, terms = stored.job, stored.result, stored.job.terms
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
        "origin": terms.origin.value if terms else None,
        "batch": (terms.batch or None) if terms else None,
        "line": (terms.line or None) if terms else None,
        "custom_id": (terms.custom_id or None) if terms else None,
        "deadline_at": terms.deadline_at if terms else None,
        "metadata": dict(terms.metadata) if terms else {},
        "backend": result.backend if result else None,
        "attempts_count": result.attempts if result else len(stored.attempts),
        "attempts": [_attempt_entry(attempt) for attempt in stored.attempts],
    }


def incident_entry(incident: Incident) -> Mapping[str, object]:
    """An incident as it is listed: without its evidence."""
    cost = incident.cost
    return {
        "id": incident.id,
        "at": incident.at,
        "backend": incident.backend,
        "kind": incident.kind.value,
        "cause": incident.cause or None,
        "headline": headline(incident),
        "summary": incident.summary,
        "permanent": incident.permanent,
        "generation": incident.generation,
        "exit_status": incident.status,
        "ended_at": incident.ended_at,
        "outcome": incident.outcome,
        "downtime_s": cost.downtime_s,
        "jobs_retried": cost.jobs_retried,
        "jobs_failed": cost.jobs_failed,
        "in_flight": list(incident.in_flight),
    }


def whole_incident_entry(incident: Incident) -> Mapping[str, object]:
    """All of an incident, and its story."""
    return {
        **incident_entry(incident),
        "story": story_entry(tell(incident)),
        "verdict": [asdict(judgement) for judgement in incident.verdict],
        "steps": [asdict(step) for step in incident.steps],
        "facts": dict(incident.facts),
        "log": list(incident.log),
        "samples": [dict(sample) for sample in incident.samples],
    }


def story_entry(story: Story) -> Mapping[str, object]:
    """A story as JSON values."""
    parts = [{"title": part.title, "lines": list(part.lines)} for part in story.parts]
    return {"headline": story.headline, "parts": parts}


def _attempt_entry(attempt: AttemptRecord) -> Mapping[str, object]:
    identity, used = attempt.identity, attempt.usage
    return {
        "number": attempt.number,
        "backend": attempt.backend,
        "generation": attempt.generation,
        "runtime": attempt.runtime,
        "rung": attempt.rung,
        "rung_name": attempt.rung_name,
        "rung_why": attempt.rung_why,
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
