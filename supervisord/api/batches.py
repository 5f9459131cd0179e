"""OpenAI's Batches."""

from collections.abc import Mapping
from contextlib import suppress
from functools import partial

import msgspec

from supervisord.api import query
from supervisord.api.agreed import NOTHING
from supervisord.api.door import HttpClient, Request, Response, Work, json_answer
from supervisord.api.files import listed
from supervisord.api.idempotency import used_in
from supervisord.api.router import Table
from supervisord.core.errors import InvalidJsonError, InvalidRequestError, RequestTooLargeError
from supervisord.core.record import ENDED_BATCH, BatchCounts, BatchRecord, BatchStatus, LineError
from supervisord.core.request import client_of
from supervisord.engine.agreed import LONGEST_METADATA, metadata_in
from supervisord.engine.batching.batches import Batches, Wanted
from supervisord.ports import Page

MOST_LISTED = 100  # OpenAI's bound
USUALLY_LISTED = 20

_TIMES: Mapping[str, BatchStatus] = {
    "in_progress_at": BatchStatus.IN_PROGRESS,
    "finalizing_at": BatchStatus.FINALIZING,
    "completed_at": BatchStatus.COMPLETED,
    "failed_at": BatchStatus.FAILED,
    "expired_at": BatchStatus.EXPIRED,
    "cancelling_at": BatchStatus.CANCELLING,
    "cancelled_at": BatchStatus.CANCELLED,
}
LARGEST_BODY = 2 * LONGEST_METADATA  # bytes

_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TEXT = msgspec.json.Decoder(str)
_TAKEN = frozenset({"input_file_id", "endpoint", "completion_window", "metadata"})


class BatchesDoor:
    """Handlers over the batches."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self.table: Table = {
            "/v1/batches": {"POST": self._create, "GET": self._list},
            "/v1/batches/{batch_id}": {"GET": self._retrieve, "DELETE": self._delete},
            "/v1/batches/{batch_id}/cancel": {"POST": self._cancel},
        }

    def _create(self, request: Request) -> Work:
        return partial(self._tell_created, _wanted(request), request)

    async def _tell_created(self, wanted: Wanted, request: Request, client: HttpClient) -> Response:
        del client
        used = await used_in(request)
        return json_answer(batch_entry(*await self._batches.create(wanted, request.owner, used=used)))

    def _list(self, request: Request) -> Work:
        asked = query.asked(request.query)
        limit = query.whole(asked.get("limit"), USUALLY_LISTED, "limit", MOST_LISTED)
        after = query.cursor(asked.get("after"), "after", "batch_")
        return partial(self._tell_list, Page(max(1, limit), after=after, client=request.owner))

    async def _tell_list(self, page: Page, client: HttpClient) -> Response:
        del client
        found = await self._batches.list(page)
        return json_answer(listed([batch_entry(batch, counts) for batch, counts in found], page))

    def _retrieve(self, request: Request) -> Work:
        return partial(self._tell, request.params["batch_id"], request.owner)

    async def _tell(self, batch_id: str, owner: str | None, client: HttpClient) -> Response:
        del client
        return json_answer(batch_entry(*await self._batches.find(batch_id, client=owner)))

    def _delete(self, request: Request) -> Work:
        """Not among OpenAI's: a batch here takes room on somebody's own disk."""
        return partial(self._tell_deleted, request.params["batch_id"], request.owner)

    async def _tell_deleted(self, batch_id: str, owner: str | None, client: HttpClient) -> Response:
        del client
        await self._batches.delete(batch_id, client=owner)
        return json_answer({"id": batch_id, "object": "batch", "deleted": True})

    def _cancel(self, request: Request) -> Work:
        return partial(self._tell_cancelled, request.params["batch_id"], request.owner)

    async def _tell_cancelled(self, batch_id: str, owner: str | None, client: HttpClient) -> Response:
        del client
        return json_answer(batch_entry(*await self._batches.cancel(batch_id, client=owner)))


def batch_entry(batch: BatchRecord, counts: BatchCounts) -> Mapping[str, object]:
    """A batch as OpenAI tells of one. Its files are told once they can be read."""
    readable = batch.status in ENDED_BATCH
    errors = [_error(error) for error in batch.errors]
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "errors": {"object": "list", "data": errors} if errors else None,
        "input_file_id": batch.input_file,
        "completion_window": batch.completion_window,
        "status": batch.status.value,
        "output_file_id": (readable and batch.output_file) or None,
        "error_file_id": (readable and batch.error_file) or None,
        "created_at": int(batch.created_at),
        "expires_at": int(batch.expires_at),
        **{name: _seconds(batch.at.get(status)) for name, status in _TIMES.items()},
        "request_counts": {
            "total": batch.total,
            "completed": counts.succeeded,
            "failed": counts.failed + counts.expired + counts.cancelled,
        },
        "metadata": dict(batch.metadata) or None,
    }


def _seconds(at: float | None) -> int | None:
    return None if at is None else int(at)


def _error(error: LineError) -> Mapping[str, object]:
    return {"code": error.code, "message": error.message, "line": error.line, "param": error.param}


def _wanted(request: Request) -> Wanted:
    """Raises InvalidRequestError."""
    if len(request.body) > LARGEST_BODY:
        raise RequestTooLargeError(f"A batch is begun with at most {LARGEST_BODY} bytes; its lines are in its file.")
    try:
        asked = _MEMBERS.decode(request.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidJsonError(f"The body is not a JSON object: {error}.") from None
    if strange := sorted(asked.keys() - _TAKEN):
        raise InvalidRequestError(f'"{strange[0]}" is nothing that a batch has here.', param=strange[0])
    return Wanted(
        input_file=_text(asked, "input_file_id"),
        endpoint=_text(asked, "endpoint"),
        completion_window=_text(asked, "completion_window"),
        metadata=metadata_in(asked.get("metadata", NOTHING)),
        client=client_of(request.headers),
    )


def _text(asked: Mapping[str, msgspec.Raw], name: str) -> str:
    with suppress(msgspec.DecodeError, UnicodeDecodeError):
        if name in asked and (value := _TEXT.decode(asked[name])):
            return value
    raise InvalidRequestError(f'"{name}" must be a text.', param=name)
