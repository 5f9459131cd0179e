"""What a batch came to, line by line, as its client reads it: rendered from the jobs whenever it is asked for."""

from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

import msgspec

from supervisord.core.batch import Fate, fate
from supervisord.core.job import FailureReason
from supervisord.core.record import BatchRecord
from supervisord.engine.batching.lines import Slices
from supervisord.engine.endings import lacking
from supervisord.ports import Clock, StoredJob, WorkStore

Render = Callable[[StoredJob, Fate], bytes | None]
"""A line, without its end; None: it is not among those asked for."""

PAGE_JOBS = 500
PAGE_BYTES = 4 * 1024 * 1024

_GONE = "Its answer was kept for as long as store.answers says, and no longer."


async def rendered(store: WorkStore, batch: BatchRecord, clock: Clock, render: Render) -> AsyncIterator[bytes]:
    """The lines that have ended, in their order; several at a time."""
    slices, after = Slices(clock), 0
    while jobs := await store.batch_jobs(batch.id, after_line=after, limit=PAGE_JOBS, most_bytes=PAGE_BYTES):
        part = bytearray()
        for stored in jobs:
            became = fate_of(stored)
            if became is not Fate.UNFINISHED and (line := render(stored, became)) is not None:
                part += line + b"\n"
            await slices.rest()
        after = line_of(jobs[-1])
        if part:
            yield bytes(part)


def fate_of(stored: StoredJob) -> Fate:
    """What became of a line."""
    result = stored.result
    return fate(stored.status, result.reason if result else None, result.http_status if result else None)


def line_of(stored: StoredJob) -> int:
    """Its number in the input, from 1."""
    assert stored.job.terms is not None
    return stored.job.terms.line


def custom_id_of(stored: StoredJob) -> str:
    """What its client calls it."""
    assert stored.job.terms is not None
    return stored.job.terms.custom_id


def in_openai_form(stored: StoredJob, became: Fate) -> bytes:
    """A line of an output or error file, as OpenAI's have it."""
    result, answer = stored.result, answer_of(stored)
    status = result.http_status if result is not None and answer is not None else None
    response = None if status is None else {"status_code": status, "request_id": stored.job.id, "body": answer}
    said_by_backend = status is not None and (became is Fate.SUCCEEDED or status >= 400)
    return encode(
        {
            "id": f"batch_req_{stored.job.id}",
            "custom_id": custom_id_of(stored),
            "response": response,
            "error": None if said_by_backend else why_not(stored, became)._asdict(),
        }
    )


def good_lines(stored: StoredJob, became: Fate) -> bytes | None:
    """Of the output file: what was answered."""
    return in_openai_form(stored, became) if became is Fate.SUCCEEDED else None


def bad_lines(stored: StoredJob, became: Fate) -> bytes | None:
    """Of the error file: everything else."""
    return None if became is Fate.SUCCEEDED else in_openai_form(stored, became)


_ANY_JSON = msgspec.json.Decoder(msgspec.Raw)
encode = msgspec.json.Encoder().encode


def answer_of(stored: StoredJob) -> msgspec.Raw | str | None:
    """The backend's own answer on one line: as it came where it is JSON, else as a text; None: there is none."""
    output = stored.result.output if stored.result is not None else None
    if output is None:
        return None
    text = output.decode("utf-8", "replace")
    try:
        _ANY_JSON.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text
    # Between the tokens of JSON a line break is but a space, and within one there is none.
    return msgspec.Raw(text.replace("\r", " ").replace("\n", " ").encode())


class Lack(NamedTuple):
    """Why there is no good answer. The codes are those of errors and failure reasons, and two that are OpenAI's own."""

    code: str
    message: str


def why_not(stored: StoredJob, became: Fate) -> Lack:
    """Of a line that has ended."""
    result = stored.result
    match became:
        case Fate.EXPIRED:
            return Lack("batch_expired", "This request could not be executed before the completion window expired.")
        case Fate.CANCELLED:
            return Lack("batch_cancelled", "This request was not executed because the batch was cancelled.")
        case Fate.SUCCEEDED:
            return Lack("answer_expired", "Its answer was kept for as long as store.answers says, and no longer.")
        case _ if result is not None and result.reason is FailureReason.ENDPOINT_MISSING:
            return Lack(result.reason.value, lacking(stored.job, result))
        case _:
            code = result.reason.value if result is not None and result.reason is not None else "internal_error"
            return Lack(code, result.detail if result is not None and result.detail else code)
