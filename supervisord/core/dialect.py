"""The three formats in which an endpoint answers: how its streams end, and how errors and waiting are told within them.

Lines of server-sent events begin with `event:` or `data:`, and JSON never has a bare newline inside a string: what a
model writes cannot look like the begin of a line.
"""

import json
from collections.abc import Mapping
from enum import StrEnum, auto

DONE = b"data: [DONE]"

OVERLOADED = 529  # Anthropic's own: it is busy, and not the client's account that has asked for too much
_BUSY_STATUSES = frozenset({429, 503, OVERLOADED})
# As Anthropic documents them; every other below 500 is the request's fault, and above the server's.
_ANTHROPIC_TYPES: Mapping[int, str] = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    OVERLOADED: "overloaded_error",
}


class Dialect(StrEnum):
    """Whose format it is."""

    CHAT = auto()  # OpenAI's chunks, up to `data: [DONE]`
    RESPONSES = auto()  # OpenAI's events, up to response.completed, .incomplete or .failed
    MESSAGES = auto()  # Anthropic's events, up to message_stop


# llama.cpp (tools/server), vLLM 0.32 (entrypoints/anthropic, entrypoints/openai/responses) and the services themselves
# write the name of an event in its own line. vLLM sends no [DONE] behind these; where one comes it is passed on.
_ENDS: Mapping[Dialect, tuple[bytes, ...]] = {
    Dialect.CHAT: (DONE,),
    Dialect.RESPONSES: (b"event: response.completed", b"event: response.incomplete"),
    Dialect.MESSAGES: (b"event: message_stop",),
}
LAST_WORD: Mapping[Dialect, str] = {
    Dialect.CHAT: "[DONE]",
    Dialect.RESPONSES: "response.completed",
    Dialect.MESSAGES: "message_stop",
}
_ENDS_BADLY = b"event: response.failed"
_ERROR_STARTS = (b'data: {"error"', b'data:{"error"', b"error: {", b"event: error")


def ends(dialect: Dialect, data: bytes) -> bool:
    """Whether `data`, the last of a stream, says that it is whole."""
    if not any(_has_line(data, end) for end in _ENDS[dialect]):
        return False
    return dialect is Dialect.CHAT or data.endswith((b"\n\n", b"\r\n\r\n")) or _is_whole(data)


def fails(dialect: Dialect, data: bytes) -> bool:
    """Whether one of the events in `data` is an error of the server."""
    if dialect is Dialect.RESPONSES and _has_line(data, _ENDS_BADLY):
        return True
    if b'"error"' in data or b"event: error" in data or b"error: {" in data:
        return any(line.startswith(_ERROR_STARTS) for line in data.splitlines())
    return False


def _has_line(data: bytes, start: bytes) -> bool:
    """Whether a line in `data` begins so."""
    at = data.find(start)
    while at > 0 and data[at - 1] not in b"\r\n":
        at = data.find(start, at + 1)
    return at >= 0


def _is_whole(data: bytes) -> bool:
    """Whether the last line, behind which a stream broke off, is one."""
    return bool(_members(data.rstrip().rpartition(b"\n")[2].removeprefix(b"data:")))


# --- what is told within a stream ------------------------------------------------------------------------------------


def error_event(dialect: Dialect, message: str, error_type: str, code: str) -> bytes:
    """An error as an event: the official SDKs raise it in the middle of a stream.

    `error_type` is OpenAI's; Anthropic's clients are told that it is not their doing.
    """
    error = {"message": message, "type": error_type, "param": None, "code": code}
    if dialect is Dialect.CHAT:
        return _data({"error": error})
    if (
        dialect is Dialect.RESPONSES
    ):  # `code` and `message` as documented; OpenAI's SDK raises what has a member `error`
        told = {"type": "error", "code": code, "message": message, "param": None, "sequence_number": 0}
        return b"event: error\n" + _data({**told, "error": error})
    return b"event: error\n" + _data(anthropic_error("api_error", f"{message} ({code})"))


def waiting(dialect: Dialect, text: str) -> bytes:
    """That nothing comes yet, and why.

    A comment of one line that ends in a single newline: a blank line behind it makes openai-python's decoder fail in
    streams that carry ids. Anthropic has an event for it, and its SDK passes over comments within events.
    """
    comment = b": " + " ".join(text.split()).encode() + b"\n"
    return comment + b'event: ping\ndata: {"type": "ping"}\n\n' if dialect is Dialect.MESSAGES else comment


def anthropic_error(kind: str, message: str, request_id: str | None = None) -> Mapping[str, object]:
    """An error in Anthropic's shape."""
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id}


def anthropic_status(status: int) -> int:
    """The status under which Anthropic's clients are told of an error answer of a backend: one that is busy is
    overloaded."""
    return OVERLOADED if status in _BUSY_STATUSES else status


def anthropic_type(status: int) -> str:
    """What Anthropic calls an error of this status."""
    return _ANTHROPIC_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")


def in_shape(dialect: Dialect, data: bytes) -> bytes:
    """Events of which one is an error, that one in the shape its dialect has; others byte by byte.

    llama.cpp sends `event: error` to Anthropic's clients with an error as OpenAI's have it inside.
    """
    if dialect is not Dialect.MESSAGES:
        return data
    lines = data.splitlines(keepends=True)
    for number, line in enumerate(lines):
        if line.startswith(b"event: error") and number + 1 < len(lines):
            told = _members(lines[number + 1].removeprefix(b"data:"))
            if told and told.get("type") != "error":
                lines[number + 1] = _data(anthropic_error("api_error", _message(told))).removesuffix(b"\n")
    return b"".join(lines)


def retold(dialect: Dialect, body: bytes) -> bytes:
    """A backend's error answer as an event, as far as possible in its own bytes; empty for what is no such answer."""
    if dialect is Dialect.CHAT:
        is_one = body.lstrip().startswith(b'{"error"')
        return b"data: " + b" ".join(body.split(b"\n")).strip() + b"\n\n" if is_one else b""
    told = _members(body)
    if not isinstance(told.get("error"), dict):
        return b""
    if dialect is Dialect.MESSAGES:
        own = told if told.get("type") == "error" else anthropic_error("api_error", _message(told))
        return b"event: error\n" + _data(own)
    return error_event(dialect, _message(told), "backend_error", "backend_error")


def _members(text: bytes) -> Mapping[str, object]:
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _message(told: Mapping[str, object]) -> str:
    """What an error says, whether its members are in one of their own or not."""
    inner = told.get("error", told)
    message = inner.get("message") if isinstance(inner, dict) else None
    return message if isinstance(message, str) else json.dumps(inner)[:300]


def _data(value: Mapping[str, object]) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace") + b"\n\n"
