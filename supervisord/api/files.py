"""OpenAI's Files: what batches are read from, and what their results are read under."""

from collections.abc import AsyncIterator, Mapping
from functools import partial

from supervisord.api import query
from supervisord.api.door import Body, HttpClient, Request, Response, Upload, Work, json_answer
from supervisord.api.multipart import Form
from supervisord.api.router import Table
from supervisord.api.sending import send
from supervisord.core.errors import InvalidRequestError
from supervisord.core.record import FileRecord
from supervisord.core.request import client_of
from supervisord.engine.batching.files import UPLOADED, Files
from supervisord.ports import Page

MOST_LISTED = 1000
SHORTEST_LIFE_S, LONGEST_LIFE_S = 3600, 30 * 24 * 3600  # OpenAI's bounds of expires_after

_CONTENT_HEADERS = (("content-type", "application/octet-stream"), ("x-content-type-options", "nosniff"))


class FilesDoor:
    """Handlers over the files. `limit` bytes of an upload; `stall_s`: how long a client may take nothing."""

    def __init__(self, files: Files, *, limit: int, stall_s: float) -> None:
        self._files = files
        self._stall_s = stall_s
        self.table: Table = {
            "/v1/files": {"POST": Upload(self._upload, limit, "limits.upload"), "GET": self._list},
            "/v1/files/{file_id}": {"GET": self._retrieve, "DELETE": self._delete},
            "/v1/files/{file_id}/content": {"GET": self._content},
        }

    # --- uploads ------------------------------------------------------------------------------------------------------

    def _upload(self, request: Request, body: Body) -> Work:
        form = Form(request.headers.get("content-type", ""))
        return partial(self._take, form, client_of(request.headers), body)

    async def _take(self, form: Form, owner: str, body: Body, client: HttpClient) -> Response:
        del client
        writing = self._files.begin(owner)
        try:
            async for part in body:
                for data in form.feed(part):
                    await writing.write(data)
            form.finish()
            purpose, expires_s = _purpose(form.texts), _life(form.texts)
            file = await writing.finish(_filename(form), purpose, expires_s)
        except BaseException:
            self._files.give_up(writing)
            raise
        return json_answer(file_entry(file))

    # --- the rest -----------------------------------------------------------------------------------------------------

    def _list(self, request: Request) -> Work:
        asked = query.asked(request.query)
        order = asked.get("order", "desc")
        if order not in {"asc", "desc"}:
            raise InvalidRequestError('"order" must be asc or desc.', param="order")
        limit = query.whole(
            asked.get("limit"), MOST_LISTED, "limit", 10_000
        )  # OpenAI's most; a page of ours is shorter
        page = Page(
            max(1, min(limit, MOST_LISTED)),
            after=query.cursor(asked.get("after"), "after", "file-"),
            client=request.owner,
            oldest_first=order == "asc",
        )
        return partial(self._tell_list, page, asked.get("purpose"))

    async def _tell_list(self, page: Page, purpose: str | None, client: HttpClient) -> Response:
        del client
        found = await self._files.list(page, purpose)
        return json_answer(listed([file_entry(file) for file in found], page))

    def _retrieve(self, request: Request) -> Work:
        return partial(self._tell, request.params["file_id"], request.owner)

    async def _tell(self, file_id: str, owner: str | None, client: HttpClient) -> Response:
        del client
        return json_answer(file_entry(await self._files.find(file_id, owner)))

    def _delete(self, request: Request) -> Work:
        return partial(self._tell_deleted, request.params["file_id"], request.owner)

    async def _tell_deleted(self, file_id: str, owner: str | None, client: HttpClient) -> Response:
        del client
        await self._files.delete(file_id, owner)
        return json_answer({"id": file_id, "object": "file", "deleted": True})

    def _content(self, request: Request) -> Work:
        return partial(self._send, request.params["file_id"], request.owner)

    async def _send(self, file_id: str, owner: str | None, client: HttpClient) -> None:
        file = await self._files.find(file_id, owner)
        parts: AsyncIterator[bytes] = await self._files.content(file)
        await send(client, _CONTENT_HEADERS, parts, stall_s=self._stall_s)


def file_entry(file: FileRecord) -> Mapping[str, object]:
    """A file as OpenAI tells of one."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": int(file.created_at),
        "expires_at": None if file.expires_at is None else int(file.expires_at),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": file.status.value,
        "status_details": None,
    }


def listed(entries: list[Mapping[str, object]], page: Page) -> Mapping[str, object]:
    """A page of a list as OpenAI tells of one. After a full page there may be more."""
    return {
        "object": "list",
        "data": entries,
        "first_id": entries[0]["id"] if entries else None,
        "last_id": entries[-1]["id"] if entries else None,
        "has_more": len(entries) >= page.limit,
    }


def _filename(form: Form) -> str:
    if form.filename is None:
        raise InvalidRequestError('The form has no field "file".', param="file")
    return form.filename


def _purpose(texts: Mapping[str, str]) -> str:
    if texts.get("purpose") != UPLOADED:
        words = f'"purpose" must be "{UPLOADED}": nothing else is done with files here.'
        raise InvalidRequestError(words, param="purpose")
    return UPLOADED


def _life(texts: Mapping[str, str]) -> float | None:
    """Seconds, of expires_after."""
    anchor, seconds = texts.get("expires_after[anchor]"), texts.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise InvalidRequestError('"expires_after[anchor]" must be "created_at".', param="expires_after")
    found = query.digits(seconds or "", SHORTEST_LIFE_S, LONGEST_LIFE_S)
    if found is None:
        bounds = f"from {SHORTEST_LIFE_S} to {LONGEST_LIFE_S}"
        raise InvalidRequestError(f'"expires_after[seconds]" must be a whole number {bounds}.', param="expires_after")
    return float(found)
