"""The waiting client of a request in Anthropic's format: errors reach it in Anthropic's shape, whoever made them."""

import json
from collections.abc import Callable, Sequence

from supervisord.api.door import HttpClient, Response
from supervisord.core.answer import error_message
from supervisord.core.dialect import anthropic_error, anthropic_status, anthropic_type

KEPT_BYTES = 64 * 1024  # of a backend's error answer: what it says is in its first line


class AnthropicClient:
    """`ports.Client` over the one on the connection.

    Anthropic's SDK reads the id of a request from the header `request-id`, which is the job's here.
    """

    def __init__(self, client: HttpClient) -> None:
        self._client = client
        self._refused: list[bytes] | None = None  # the body of an error answer
        self._size = 0
        self._status = 0
        self._headers: tuple[tuple[str, str], ...] = ()
        self.write: Callable[[bytes], bool] = client.write  # no Python frame per event

    def start(self, status: int, headers: Sequence[tuple[str, str]], *, length: int | None) -> None:
        """See `ports.Client`."""
        named = tuple(("request-id", value) for name, value in headers if name == "x-request-id")
        if status < 400:
            self._client.start(status, (*headers, *named), length=length)
            return
        kept = tuple((name, value) for name, value in headers if name != "content-type")
        self._status, self._headers, self._refused = status, (*kept, *named), []
        self.write = self._keep

    def _keep(self, data: bytes) -> bool:
        """See `ports.Client.write`: of an error answer."""
        if self._refused is not None and self._size < KEPT_BYTES:
            self._refused.append(data)
            self._size += len(data)
        return True

    async def drained(self) -> None:
        """See `ports.Client`."""
        await self._client.drained()

    def finish(self) -> None:
        """See `ports.Client`."""
        if self._refused is None:
            self._client.finish()
            return
        body = b"".join(self._refused)
        request_id = next((value for name, value in self._headers if name == "request-id"), None)
        self._client.answer(refusal(self._status, self._headers, body, request_id))

    def abort(self) -> None:
        """See `ports.Client`."""
        self._client.abort()


def refusal(status: int, headers: tuple[tuple[str, str], ...], body: bytes, request_id: str | None) -> Response:
    """A backend's error answer in Anthropic's shape; one that has it already stays as it is."""
    told_as = anthropic_status(status)
    if not body.lstrip().startswith(b'{"type":"error"'):
        told = anthropic_error(anthropic_type(told_as), error_message(body) or f"status {status}", request_id)
        body = json.dumps(told, ensure_ascii=False).encode(errors="replace")
    return Response(told_as, body, (("content-type", "application/json"), *headers))
