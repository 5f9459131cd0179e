"""Anthropic's shape: errors, the client that gets them, and models."""

import json
from typing import Any

import pytest

from supervisord.api import anthropic_errors, anthropic_models
from supervisord.api.anthropic_client import KEPT_BYTES, AnthropicClient
from supervisord.api.door import Request, Response
from supervisord.core.errors import (
    BackendDiedError,
    BackendParkedError,
    DrainingError,
    EndpointMissingError,
    InvalidRequestError,
    JobCancelledError,
    ModelNotFoundError,
    QueueFullError,
    QueueTimeoutError,
    RequestTooLargeError,
    StoreFullError,
    SupervisorError,
)
from supervisord.core.request import ENDPOINTS

JOB = (("x-job-id", "7"), ("x-request-id", "7"), ("x-backend", "a"))


def request(path: str, **headers: str) -> Request:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Request("GET", path, "", "", named, b"", http_1_1=True, keep_alive=True)


@pytest.mark.parametrize(
    ("error", "status", "kind", "retry"),
    [
        (InvalidRequestError("x"), 400, "invalid_request_error", None),
        (ModelNotFoundError("x"), 404, "not_found_error", None),
        (RequestTooLargeError("x"), 413, "request_too_large", "false"),
        (QueueFullError("x", depth=3, retry_after_s=5), 529, "overloaded_error", "true"),
        (QueueTimeoutError("x"), 529, "overloaded_error", "false"),
        (DrainingError("x", retry_after_s=5), 529, "overloaded_error", "true"),
        (BackendParkedError("x"), 503, "api_error", "false"),
        (StoreFullError("x"), 507, "api_error", "false"),
        (BackendDiedError("x"), 502, "api_error", "false"),
        (EndpointMissingError("x"), 501, "api_error", "false"),
        (JobCancelledError("x"), 499, "invalid_request_error", "false"),
        (SupervisorError("x"), 500, "api_error", "false"),
    ],
)
def test_an_error_in_anthropics_shape(error: SupervisorError, status: int, kind: str, retry: str | None) -> None:
    told = anthropic_errors.response(error, "7")
    assert (told.status, json.loads(told.body)) == (
        status,
        {"type": "error", "error": {"type": kind, "message": f"x ({error.code})"}, "request_id": "7"},
    )
    headers = dict(told.headers)
    assert (headers["request-id"], headers["x-job-id"], headers.get("x-should-retry")) == ("7", "7", retry)
    assert headers.get("retry-after") == (None if error.retry_after_s is None else "5")
    assert "request-id" not in dict(anthropic_errors.response(error).headers)


def test_who_is_a_client_of_anthropics() -> None:
    assert anthropic_errors.is_for(request("/v1/messages"))
    assert anthropic_errors.is_for(request("/v1/messages/batches"))
    assert anthropic_errors.is_for(request("/v1/models", anthropic_version="2023-06-01"))
    assert not anthropic_errors.is_for(request("/v1/models"))
    assert all(anthropic_errors.is_for(request(path)) == path.startswith("/v1/messages") for path in ENDPOINTS)


class Line:
    """What an `HttpClient` is told, without a connection."""

    def __init__(self) -> None:
        self.head: tuple[int, dict[str, str], int | None] | None = None
        self.body = b""
        self.ends: list[str] = []

    def start(self, status: int, headers: Any, *, length: int | None) -> None:
        self.head = status, dict(headers), length

    def write(self, data: bytes) -> bool:
        self.body += data
        return len(self.body) < 10

    def answer(self, response: Response) -> None:
        self.start(response.status, response.headers, length=len(response.body))
        self.write(response.body)
        self.finish()

    async def drained(self) -> None:
        self.ends.append("drained")

    def finish(self) -> None:
        self.ends.append("finished")

    def abort(self) -> None:
        self.ends.append("aborted")


async def test_an_answer_goes_through_as_it_is() -> None:
    line = Line()
    client = AnthropicClient(line)  # type: ignore[arg-type]
    client.start(200, (("content-type", "application/json"), *JOB), length=20)
    assert client.write(b"12345")
    assert not client.write(b"1234567890"), "the buffer's state goes through"
    await client.drained()
    client.finish()
    client.abort()
    assert line.head == (200, {"content-type": "application/json", **dict(JOB), "request-id": "7"}, 20)
    assert (line.body, line.ends) == (b"123451234567890", ["drained", "finished", "aborted"])


@pytest.mark.parametrize(
    ("status", "body", "told_status", "kind", "message"),
    [
        (400, b'{"error":{"message":"too long","type":"exceed_context_size_error"}}', 400, "invalid_request_error",
         "too long"),
        (404, b'{"error":{"message":"no such model"}}', 404, "not_found_error", "no such model"),
        (429, b"", 529, "overloaded_error", "status 429"),
        (503, b'{"error":{"message":"Loading model"}}', 529, "overloaded_error", "Loading model"),
        (500, b"<html>", 500, "api_error", "<html>"),
    ],
)  # fmt: skip
def test_a_backends_error_gets_anthropics_shape(
    status: int, body: bytes, told_status: int, kind: str, message: str
) -> None:
    line = Line()
    client = AnthropicClient(line)  # type: ignore[arg-type]
    client.start(status, (("content-type", "text/html"), ("x-should-retry", "false"), *JOB), length=len(body))
    assert client.write(body[:5])
    assert client.write(body[5:])
    assert line.head is None
    client.finish()
    assert line.head is not None
    assert line.head[0] == told_status
    assert line.head[1]["content-type"] == "application/json"
    assert (line.head[1]["x-should-retry"], line.head[1]["x-backend"]) == ("false", "a")
    told = {"type": "error", "error": {"type": kind, "message": message}, "request_id": "7"}
    assert json.loads(line.body) == told
    assert line.ends == ["finished"]


def test_an_error_that_has_the_shape_stays_as_it_is_and_a_long_one_is_cut() -> None:
    line = Line()
    client = AnthropicClient(line)  # type: ignore[arg-type]
    own = b'{"type":"error","error":{"type":"invalid_request_error","message":"x"}}'
    client.start(400, (), length=len(own))
    client.write(own)
    client.finish()
    assert line.body == own
    long = Line()
    cut = AnthropicClient(long)  # type: ignore[arg-type]
    cut.start(500, (), length=None)
    for _ in range(100):
        cut.write(b"x" * KEPT_BYTES)
    cut.finish()
    assert len(long.body) < 1000


# --- pages of models -------------------------------------------------------------------------------------------------

ENTRIES = [{"id": name} for name in "abcde"]


@pytest.mark.parametrize(
    ("asked", "ids", "more"),
    [
        ({}, "abcde", False),
        ({"limit": "2"}, "ab", True),
        ({"limit": "2", "after_id": "b"}, "cd", True),
        ({"limit": "2", "after_id": "d"}, "e", False),
        ({"limit": "2", "before_id": "d"}, "bc", True),
        ({"limit": "3", "before_id": "d"}, "abc", False),
        ({"before_id": "a"}, "", False),
    ],
)
def test_a_page_of_models(asked: dict[str, str], ids: str, more: bool) -> None:
    page, has_more = anthropic_models._page(ENTRIES, asked)
    assert ("".join(str(entry["id"]) for entry in page), has_more) == (ids, more)


@pytest.mark.parametrize("asked", [{"limit": "0"}, {"limit": "1001"}, {"limit": "9" * 30}, {"limit": "x"},
                                   {"after_id": "z"}, {"before_id": "z"}])  # fmt: skip
def test_a_page_that_there_is_not(asked: dict[str, str]) -> None:
    with pytest.raises(InvalidRequestError) as error:
        anthropic_models._page(ENTRIES, asked)
    assert error.value.param == next(iter(asked))
