"""Batches: how one goes from status to status, and what became of its lines."""

import re
from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum

from supervisord.core.errors import ConflictError, InvalidRequestError
from supervisord.core.job import FailureReason, JobStatus
from supervisord.core.record import ENDED_BATCH, BatchCounts, BatchRecord, BatchStatus
from supervisord.core.request import LONGEST_WAIT_S

OPENAI = "openai"  # the doors that batches come through
ANTHROPIC = "anthropic"

# OpenAI's limits of a batch.
MOST_LINES = 50_000
LARGEST_FILE = 200 * 1024 * 1024  # bytes
MOST_METADATA = 16
LONGEST_METADATA_KEY = 64  # characters
LONGEST_METADATA_VALUE = 512

# Anthropic's.
MOST_MESSAGES = 100_000
MESSAGE_WINDOW_S = 24 * 3600.0

_CANCELLED = frozenset({BatchStatus.CANCELLING, BatchStatus.CANCELLED})

_MOVES: Mapping[BatchStatus, frozenset[BatchStatus]] = {
    BatchStatus.VALIDATING: frozenset({BatchStatus.FAILED, BatchStatus.IN_PROGRESS, BatchStatus.CANCELLING}),
    BatchStatus.IN_PROGRESS: frozenset({BatchStatus.FINALIZING, BatchStatus.CANCELLING}),
    BatchStatus.FINALIZING: frozenset({BatchStatus.COMPLETED, BatchStatus.EXPIRED}),
    BatchStatus.CANCELLING: frozenset({BatchStatus.CANCELLED}),
}

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600}


class Fate(StrEnum):
    """What became of a line, this far."""

    UNFINISHED = "unfinished"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


def fate(status: str, reason: FailureReason | None, http_status: int | None) -> Fate:
    """Of a line, by how its job ended. An answer with a status from 400 on is the backend's word for a failure."""
    match status:
        case JobStatus.QUEUED | JobStatus.RUNNING:
            return Fate.UNFINISHED
        case JobStatus.DONE:
            return Fate.FAILED if http_status is not None and http_status >= 400 else Fate.SUCCEEDED
        case JobStatus.CANCELLED:
            return Fate.CANCELLED
        case _:
            return Fate.EXPIRED if reason is FailureReason.DEADLINE_EXCEEDED else Fate.FAILED


def window(text: str) -> float:
    """The seconds of a completion window such as "24h". Raises InvalidRequestError."""
    found = re.fullmatch(r"([1-9][0-9]{0,6})([smhd])", text)
    seconds = int(found[1]) * _SECONDS[found[2]] if found else 0
    if not 0 < seconds <= LONGEST_WAIT_S:
        raise InvalidRequestError(
            '"completion_window" must be a number and a unit (s, m, h or d), such as "24h", and at most "7d".',
            param="completion_window",
        )
    return float(seconds)


def metadata(value: object) -> Mapping[str, str]:
    """What a client notes on its batch; None: nothing. Raises InvalidRequestError."""
    if value is None:
        return {}
    if not isinstance(value, Mapping) or len(value) > MOST_METADATA:
        raise InvalidRequestError(f'"metadata" must be an object of at most {MOST_METADATA} members.', param="metadata")
    for key, text in value.items():
        if not isinstance(text, str) or len(key) > LONGEST_METADATA_KEY or len(text) > LONGEST_METADATA_VALUE:
            raise InvalidRequestError(
                f'"metadata" must have keys of at most {LONGEST_METADATA_KEY} characters, and texts of at most '
                f"{LONGEST_METADATA_VALUE}.",
                param="metadata",
            )
    return dict(value)


def moved(batch: BatchRecord, status: BatchStatus, now: float) -> BatchRecord:
    """The batch in its next status, since `now`, seconds since the epoch. Raises ValueError for a move that is none."""
    if status not in _MOVES.get(batch.status, frozenset()):
        raise ValueError(f"a batch that is {batch.status} cannot become {status}")
    return replace(batch, status=status, at={**batch.at, status: now})


def cancelled(batch: BatchRecord, now: float) -> BatchRecord:
    """The batch as somebody cancels it: the same if it was before. Raises ConflictError when it is over already."""
    if batch.status in _CANCELLED:
        return batch
    if batch.status in ENDED_BATCH or batch.status is BatchStatus.FINALIZING:
        raise ConflictError(f"The batch {batch.id} is {batch.status}: there is nothing left to cancel.", param="id")
    return moved(batch, BatchStatus.CANCELLING, now)


def concluded(batch: BatchRecord, counts: BatchCounts, now: float) -> BatchRecord:
    """The batch in its last status: none of its lines waits or runs any more."""
    if batch.status is BatchStatus.CANCELLING:
        return moved(batch, BatchStatus.CANCELLED, now)
    return moved(batch, BatchStatus.EXPIRED if counts.expired else BatchStatus.COMPLETED, now)
