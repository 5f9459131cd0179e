"""Anthropic's Message Batches."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Protocol

import msgspec

from supervisord.api import query
from supervisord.api.anthropic_models import LONGEST_PAGE, USUAL_PAGE
from supervisord.api.door import HttpClient, Request, Response, Work, json_answer
from supervisord.api.idempotency import used_in
from supervisord.api.router import Handler, Table
from supervisord.api.sending import send
from supervisord.core.batch import ANTHROPIC
from supervisord.core.errors import ConflictError, InvalidJsonError, InvalidRequestError
from supervisord.core.record import ENDED_BATCH, BatchCounts, BatchRecord, BatchStatus
from supervisord.core.request import client_of
from supervisord.engine.batching.batches import Batches
from supervisord.engine.batching.message_output import in_anthropic_form
from supervisord.ports import Page

PATH = "/v1/messages/batches"
_LINES = (("content-type", "application/x-jsonl"),)


class _Asked(msgspec.Struct):
    """A request of a batch. What else it has is nobody's, as at Anthropic's."""

    custom_id: str
    params: msgspec.Raw


class _Batch(msgspec.Struct):
    requests: list[_Asked]


_DECODER = msgspec.json.Decoder(_Batch)


class _Answering(Protocol):
    async def __call__(self, request: Request, client: HttpClient) -> Response | None: ...


class MessageBatchesDoor:
    """Handlers over the batches. `stall_s`: how long a client may take nothing of its results."""

    def __init__(self, batches: Batches, *, stall_s: float) -> None:
        self._batches = batches
        self._stall_s = stall_s
        one = f"{PATH}/{{id}}"
        self.table: Table = {
            PATH: {"POST": _work(self._create), "GET": _work(self._list)},
            one: {"GET": _work(self._retrieve), "DELETE": _work(self._delete)},
            f"{one}/cancel": {"POST": _work(self._cancel)},
            f"{one}/results": {"GET": _work(self._results)},
        }

    async def _create(self, request: Request, client: HttpClient) -> Response:
        del client
        asked = ((each.custom_id, bytes(each.params)) for each in _decoded(request.body))
        used = await used_in(request)
        batch, counts = await self._batches.create_messages(asked, client_of(request.headers), used=used)
        return json_answer(_entry(batch, counts, request))

    async def _list(self, request: Request, client: HttpClient) -> Response:
        del client
        asked = query.asked(request.query)
        limit = max(1, query.whole(asked.get("limit"), USUAL_PAGE, "limit", LONGEST_PAGE))
        before, after = (query.cursor(asked.get(name), name, "msgbatch_") for name in ("before_id", "after_id"))
        page = Page(limit + 1, after=after, before=before, client=request.owner)
        found = await self._batches.list(page, ANTHROPIC)
        more = len(found) > limit
        shown = (found[-limit:] if before else found[:limit]) if more else found
        data = [_entry(batch, counts, request) for batch, counts in shown]
        ends = (data[0]["id"], data[-1]["id"]) if data else (None, None)
        return json_answer({"data": data, "has_more": more, "first_id": ends[0], "last_id": ends[1]})

    async def _retrieve(self, request: Request, client: HttpClient) -> Response:
        del client
        batch, counts = await self._batches.find(request.params["id"], ANTHROPIC, request.owner)
        return json_answer(_entry(batch, counts, request))

    async def _cancel(self, request: Request, client: HttpClient) -> Response:
        del client
        batch, counts = await self._batches.cancel(request.params["id"], ANTHROPIC, request.owner)
        return json_answer(_entry(batch, counts, request))

    async def _delete(self, request: Request, client: HttpClient) -> Response:
        del client
        batch_id = request.params["id"]
        await self._batches.delete(batch_id, ANTHROPIC, request.owner)
        return json_answer({"id": batch_id, "type": "message_batch_deleted"})

    async def _results(self, request: Request, client: HttpClient) -> None:
        batch, _ = await self._batches.find(request.params["id"], ANTHROPIC, request.owner)
        if batch.status not in ENDED_BATCH:
            raise ConflictError(f"The batch {batch.id} has not ended yet: its results are told then.", param="id")
        await send(client, _LINES, self._batches.lines(batch, in_anthropic_form), stall_s=self._stall_s)


def _work(answering: _Answering) -> Handler:
    return partial(_begin, answering)


def _begin(answering: _Answering, request: Request) -> Work:
    return partial(answering, request)


def _decoded(body: bytes) -> Iterator[_Asked]:
    """Raises InvalidRequestError."""
    try:
        return iter(_DECODER.decode(body).requests)
    except msgspec.ValidationError as error:
        raise InvalidRequestError(f"The body is no batch of messages: {error}.", param="requests") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidJsonError(f"The body is not a JSON object: {error}.") from None


def _entry(batch: BatchRecord, counts: BatchCounts, request: Request) -> Mapping[str, object]:
    """A batch as Anthropic tells of one; its counts are of this moment, where Anthropic's stay 0 up to its end."""
    ended = batch.status in ENDED_BATCH
    told = "ended" if ended else "canceling" if batch.status is BatchStatus.CANCELLING else "in_progress"
    return {
        "id": batch.id,
        "type": "message_batch",
        "processing_status": told,
        "request_counts": {
            "processing": batch.total - counts.ended,
            "succeeded": counts.succeeded,
            "errored": counts.failed,
            "canceled": counts.cancelled,
            "expired": counts.expired,
        },
        "created_at": _date(batch.created_at),
        "expires_at": _date(batch.expires_at),
        "ended_at": _date(batch.at.get(batch.status) if ended else None),
        "cancel_initiated_at": _date(batch.at.get(BatchStatus.CANCELLING)),
        "archived_at": None,
        "results_url": f"{_origin(request)}{PATH}/{batch.id}/results" if ended else None,
    }


def _origin(request: Request) -> str:
    """What the client knows this address as: whatever stands before it for TLS says so (and Host is its client's)."""
    forwarded = request.headers.get("x-forwarded-proto", "").partition(",")[0].strip().lower()
    scheme = "https" if forwarded == "https" else "http"
    return f"{scheme}://{request.headers.get('host') or request.authority}"


def _date(at: float | None) -> str | None:
    """As RFC 3339 has it."""
    return None if at is None else datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")
