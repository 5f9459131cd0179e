"""The daemon's own log: one line an event, one line a job, on stderr. Prompts and answers never."""

import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO, cast

import structlog

from supervisord.config.model import LogFormat, LogLevel
from supervisord.core.job import JobStatus
from supervisord.core.record import AttemptRecord, EventKind, EventRecord, JobRecord, JobResult

_WARNINGS = frozenset({EventKind.EXIT, EventKind.ORPHANS, EventKind.RUNG, EventKind.PRESSURE, EventKind.EVICTED})


def configure(level: LogLevel, form: LogFormat) -> None:
    """Set up structlog, and send what libraries log the same way."""
    number = logging.getLevelNamesMapping()[level.value.upper()]
    processors: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=False),
        structlog.processors.format_exc_info,
        _renderer(form),
    ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", _Stderr())),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=max(number, logging.WARNING), stream=sys.stderr, format="%(levelname)s %(message)s")


class _Stderr:
    """stderr, as far as it goes: a full disk or a closed pipe behind it costs lines, never the daemon."""

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.flush()


def _renderer(form: LogFormat) -> structlog.typing.Processor:
    if form is LogFormat.AUTO:
        form = LogFormat.CONSOLE if sys.stderr.isatty() else LogFormat.LOGFMT
    match form:
        case LogFormat.JSON:
            return structlog.processors.JSONRenderer()
        case LogFormat.CONSOLE:
            return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        case _:
            return structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"])


def tell_event(log: structlog.typing.FilteringBoundLogger) -> Callable[[EventRecord], None]:
    """A listener for the journal."""

    def tell(event: EventRecord) -> None:
        names = {"backend": event.backend, "generation": event.generation, "job": event.job_id}
        figures = {name: value for name, value in names.items() if value is not None}
        write = log.warning if event.kind in _WARNINGS else log.info
        write(event.message, kind=event.kind.value, **figures)

    return tell


def tell_job(
    log: structlog.typing.FilteringBoundLogger,
) -> Callable[[JobRecord, JobResult, AttemptRecord | None], None]:
    """A listener for jobs that end: the one line that says how it went."""

    def tell(job: JobRecord, result: JobResult, attempt: AttemptRecord | None) -> None:
        if not log.is_enabled_for(logging.INFO):
            return
        figures: dict[str, object] = {"id": job.id, "model": job.model, "backend": result.backend}
        if result.reason is not None:
            figures |= {"reason": result.reason.value, "detail": result.detail}
        figures |= {"attempts": result.attempts, "queue_s": round(result.queue_wait_s, 3)}
        if attempt is not None:
            figures |= {
                "quantization": attempt.identity.quantization,
                "ttft_s": None if attempt.ttft_s is None else round(attempt.ttft_s, 3),
                "tokens_in": attempt.usage.tokens_in,
                "tokens_out": attempt.usage.tokens_out,
                "tok_s": None if (speed := attempt.usage.tokens_per_second) is None else round(speed, 1),
            }
        figures["client"] = job.client or None
        write = log.warning if result.status is JobStatus.FAILED else log.info
        write(f"job {result.status}", **{name: value for name, value in figures.items() if value is not None})

    return tell
