"""Rows of the store as the values they were."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from supervisord.adapters.store.packing import unpacked_terms
from supervisord.core.job import FailureReason, JobStatus
from supervisord.core.record import AttemptRecord, EventKind, EventRecord, Identity, JobRecord, JobResult, Usage
from supervisord.ports import StoredEvent, StoredJob

Row = Sequence[Any]  # as sqlite3 gives it: the columns of a file in sql/, each of the type of its field


def stored_job(row: Row, bodies: Mapping[str, bytes], attempts: Sequence[AttemptRecord]) -> StoredJob:
    """A row of `jobs.sql`."""
    told, state, end, terms, more = row[:9], row[9:13], row[13:17], row[17:22], row[22:]
    job_id, endpoint, model, priority, stream, client, submitted_at, max_tokens, temperature = told
    status, attempt, backend, started_at = state
    queue_wait_s, finished_at, reason, detail = end
    failures, interruptions, http_status, content_type = more
    job = JobRecord(
        id=job_id,
        endpoint=endpoint,
        model=model,
        priority=priority,
        stream=bool(stream),
        client=client,
        submitted_at=submitted_at,
        max_tokens=max_tokens,
        temperature=temperature,
        body=bodies.get("request"),
        terms=unpacked_terms(terms),
    )
    result = None
    if finished_at is not None:
        result = JobResult(
            job_id=job_id,
            status=JobStatus(status),
            finished_at=finished_at,
            queue_wait_s=queue_wait_s,
            attempts=attempt,
            reason=_or_none(FailureReason, reason),
            detail=detail,
            backend=backend,
            output=bodies.get("output"),
            http_status=http_status,
            content_type=content_type,
        )
    return StoredJob(
        job=job,
        status=status,
        result=result,
        attempts=tuple(attempts),
        attempt=attempt,
        failures=failures,
        interruptions=interruptions,
        started_at=started_at,
        backend=backend,
        detail=detail,
    )


def attempt_record(row: Row) -> AttemptRecord:
    """A row of `attempts.sql`."""
    what, usage, end, served = row[:8], row[8:12], row[12:17], row[17:]
    job_id, number, backend, generation, started_at, queue_wait_s, duration_s, ttft_s = what
    http_status, status, reason, detail, bytes_out = end
    runtime, rung, rung_name, rung_why, hardware, *identity = served
    return AttemptRecord(
        job_id=job_id,
        number=number,
        backend=backend,
        generation=generation,
        runtime=runtime,
        rung=rung,
        hardware=hardware,
        identity=Identity(*identity),
        started_at=started_at,
        queue_wait_s=queue_wait_s,
        duration_s=duration_s,
        ttft_s=ttft_s,
        usage=Usage(*usage),
        http_status=http_status,
        status=JobStatus(status),
        reason=_or_none(FailureReason, reason),
        detail=detail,
        bytes_out=bytes_out,
        rung_name=rung_name,
        rung_why=rung_why,
    )


def stored_event(row: Row) -> StoredEvent:
    """A row of `events.sql`."""
    number, at, kind, message, backend, generation, job_id, data = row
    return StoredEvent(
        id=number,
        event=EventRecord(
            at=at,
            kind=EventKind(kind),
            message=message,
            backend=backend,
            generation=generation,
            job_id=job_id,
            data=msgspec.json.decode(data),
        ),
    )


def _or_none(kind: Callable[[str], FailureReason], value: str | None) -> FailureReason | None:
    return None if value is None else kind(value)
