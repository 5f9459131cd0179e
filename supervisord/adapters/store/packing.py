"""Records as rows; terms, files and batches back. Encoded on the caller's thread: what they hold may change later."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from supervisord.adapters.store.plain import clean_row, text
from supervisord.adapters.store.statements import Row
from supervisord.core.record import (
    ENDED_BATCH,
    AttemptRecord,
    BatchCounts,
    BatchRecord,
    BatchStatus,
    EventRecord,
    FileRecord,
    FileStatus,
    FootprintRecord,
    JobRecord,
    KeyRecord,
    LineError,
)
from supervisord.core.terms import MOST_ATTEMPTS, Origin, OutputCheck, Terms


class _Agreed(msgspec.Struct):
    """What of the terms no query asks for, as it is kept."""

    max_attempts: int = MOST_ATTEMPTS
    custom_id: str = ""
    metadata: dict[str, Any] = {}
    schema: str | None = None  # of the answer
    retries: int = 0


_AGREED: Final = msgspec.json.Decoder(_Agreed)
_ERRORS: Final = msgspec.json.Decoder(tuple[LineError, ...])
_TIMES: Final = msgspec.json.Decoder(dict[BatchStatus, float])
_COUNTS: Final = msgspec.json.Decoder(BatchCounts)
_METADATA: Final = msgspec.json.Decoder(dict[str, Any])


def packed_job(job: JobRecord) -> Row:
    """What is told of a job, but for its terms."""
    # sqlite3 binds exact int, float and str at once, and asks its adapters about subclasses, ten times slower.
    return (
        job.id,
        job.endpoint,
        job.model,
        int(job.priority),
        1 if job.stream else 0,
        job.client,
        job.submitted_at,
        job.max_tokens,
        job.temperature,
    )


def packed_attempt(attempt: AttemptRecord, profile: int) -> Row:
    """The columns of `put_attempts.sql`. `profile`: the number of what served."""
    usage = attempt.usage
    return (
        attempt.job_id,
        attempt.number,
        attempt.backend,
        attempt.generation,
        profile,
        attempt.started_at,
        attempt.queue_wait_s,
        attempt.duration_s,
        attempt.ttft_s,
        usage.tokens_in,
        usage.tokens_cached,
        usage.tokens_out,
        usage.tokens_per_second,
        attempt.http_status,
        attempt.status._value_,
        None if attempt.reason is None else attempt.reason._value_,
        attempt.detail,
        attempt.bytes_out,
    )


def packed_event(event: EventRecord) -> Row:
    """The columns of `put_events.sql`."""
    return (
        event.at,
        event.kind._value_,
        event.message,
        event.backend,
        event.generation,
        event.job_id,
        _json(event.data),
    )


def packed_footprint(footprint: FootprintRecord) -> Row:
    """The columns of `put_footprint.sql`."""
    return (
        footprint.key,
        footprint.backend,
        footprint.at,
        footprint.vram,
        footprint.ram,
        footprint.load_s,
    )


def packed_terms(terms: Terms) -> Row:
    """The columns origin, batch, line, deadline_at, terms."""
    agreed: dict[str, object] = {"max_attempts": terms.max_attempts}
    if terms.custom_id:
        agreed["custom_id"] = terms.custom_id
    if terms.metadata:
        agreed["metadata"] = dict(terms.metadata)
    if terms.check is not None:
        agreed |= {"schema": terms.check.schema, "retries": terms.check.retries}
    batch, line = (terms.batch, terms.line) if terms.batch else (None, None)
    return (terms.origin._value_, batch, line, terms.deadline_at, text(agreed))


def unpacked_terms(columns: Sequence[Any]) -> Terms | None:
    origin, batch, line, deadline_at, agreed = columns
    if origin is None:
        return None
    rest = _AGREED.decode(agreed)
    return Terms(
        origin=Origin(origin),
        deadline_at=deadline_at,
        max_attempts=rest.max_attempts,
        batch=batch or "",
        line=line or 0,
        custom_id=rest.custom_id,
        metadata=rest.metadata,
        check=None if rest.schema is None else OutputCheck(rest.schema, rest.retries),
    )


def packed_key(key: KeyRecord) -> Row:
    """The columns of `put_key.sql`."""
    return clean_row((key.client, key.key, key.digest, key.job_id, key.at, key.batch))


def packed_file(file: FileRecord) -> Row:
    """The columns of `put_file.sql`."""
    return clean_row(
        (
            file.id,
            file.filename,
            file.purpose,
            file.bytes,
            file.created_at,
            file.client,
            file.status._value_,
            file.expires_at,
        )
    )


def unpacked_file(row: Sequence[Any]) -> FileRecord:
    """A row of `files.sql`."""
    file_id, filename, purpose, size, created_at, client, status, expires_at = row
    return FileRecord(file_id, filename, purpose, size, created_at, client, FileStatus(status), expires_at)


def packed_batch(batch: BatchRecord) -> Row:
    """The columns of `put_batch.sql`."""
    ended_at = batch.at.get(batch.status, batch.created_at) if batch.status in ENDED_BATCH else None
    return clean_row(
        (
            batch.id,
            batch.door,
            batch.endpoint,
            batch.client,
            batch.created_at,
            batch.expires_at,
            batch.status._value_,
            text(dict(batch.at)),
            batch.input_file,
            batch.completion_window,
            text(dict(batch.metadata)),
            batch.total,
            text(batch.errors),
            batch.output_file,
            batch.error_file,
            ended_at,
        )
    )


def unpacked_batch(row: Sequence[Any]) -> BatchRecord:
    """A row of `batches.sql`."""
    batch_id, door, endpoint, client, created_at, expires_at, status, at, input_file, window, metadata, *rest = row
    total, errors, output_file, error_file, answers_kept = rest
    return BatchRecord(
        id=batch_id,
        door=door,
        endpoint=endpoint,
        client=client,
        created_at=created_at,
        expires_at=expires_at,
        status=BatchStatus(status),
        at=_TIMES.decode(at),
        input_file=input_file,
        completion_window=window,
        metadata=_METADATA.decode(metadata),
        total=total,
        errors=_ERRORS.decode(errors),
        output_file=output_file,
        error_file=error_file,
        answers_kept=bool(answers_kept),
    )


def unpacked_counts(counts: str) -> BatchCounts:
    return _COUNTS.decode(counts)


def _json(data: Mapping[str, object]) -> str:
    """Encoded at once, on the caller's thread: what it holds may change later."""
    if not data:
        return "{}"
    try:
        return msgspec.json.encode(data).decode()
    except (TypeError, ValueError, msgspec.MsgspecError) as error:
        return msgspec.json.encode({"unreadable": repr(error)}).decode()
