"""Jobs as the clients of the public address see them: no other's texts, nothing of how this machine is made."""

from collections.abc import Mapping

from supervisord.core.job import TERMINAL, Priority
from supervisord.core.record import AttemptRecord
from supervisord.engine.work.bulletin import News
from supervisord.engine.work.durable import Standing
from supervisord.ports import StoredJob


def job_told(stored: StoredJob, standing: Standing | None = None) -> Mapping[str, object]:
    """A job as JSON values. Times are seconds since the epoch; `standing` is known of one that waits."""
    job, result, terms = stored.job, stored.result, stored.job.terms
    return {
        "id": job.id,
        "object": "job",
        "status": stored.status,
        "endpoint": job.endpoint,
        "model": job.model,
        "priority": Priority(job.priority).label,
        "client": job.client,
        "origin": None if terms is None else terms.origin.value,
        "batch": (terms and terms.batch) or None,
        "custom_id": (terms and terms.custom_id) or None,
        "metadata": dict(terms.metadata) if terms is not None else {},
        "created_at": job.submitted_at,
        "started_at": stored.started_at,
        "finished_at": result.finished_at if result else None,
        "deadline_at": None if terms is None else terms.deadline_at,
        "attempts": result.attempts if result else stored.attempt,
        "max_attempts": None if terms is None else terms.max_attempts,
        "backend": result.backend if result else stored.backend,
        "position": standing.position if standing else None,
        "waits_for": standing.waits_for if standing else "",
        "error": _error(stored),
        "http_status": result.http_status if result else None,
        "usage": _usage(stored.attempts[-1]) if result and stored.attempts else None,
    }


def _error(stored: StoredJob) -> Mapping[str, object] | None:
    """Why it failed, or of one that goes on why it was tried again."""
    result = stored.result
    if result is not None and result.reason is not None:
        return {"code": result.reason.value, "message": result.detail}
    if stored.status not in TERMINAL and stored.detail:
        return {"code": "retried", "message": stored.detail}
    return None


def _usage(attempt: AttemptRecord) -> Mapping[str, object]:
    used = attempt.usage
    return {"tokens_in": used.tokens_in, "tokens_cached": used.tokens_cached, "tokens_out": used.tokens_out}


def news_told(news: News) -> Mapping[str, object]:
    """What happened to a job as JSON values."""
    return {
        "id": news.job_id,
        "object": "job.event",
        "type": news.kind.value,
        "at": news.at,
        "status": news.status,
        "attempt": news.attempt,
        "backend": news.backend or None,
        "detail": news.detail,
    }
