"""What a backend's answer is worth: its failures, its usage, and whether a stream is whole.

All of it works on bytes as they pass, without parsing them: a token's event costs well under a microsecond. JSON never
has a bare quote inside a string, so a search for `"usage":` cannot be fooled by what a model writes.
"""

import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from supervisord.core.dialect import Dialect, ends, fails
from supervisord.core.job import FailureReason
from supervisord.core.record import Usage

TAIL_BYTES = 32 * 1024  # holds the last events of any runtime: usage, timings, [DONE]
HEAD_BYTES = 4 * 1024  # holds the first event of Anthropic's streams, which tells the tokens of the prompt

MOST_TOKENS = 2**63  # what the store's columns hold
FASTEST = 1e9  # tokens a second: beyond it the figure is nonsense (Infinity, a division by almost nothing)

# A prompt that is too long, in the words of llama.cpp, vLLM (two places in it) and OpenAI.
_TOO_LONG = (
    b"exceed_context_size_error",
    b"maximum context length",
    b"longer than the maximum model length",
    b"context_length_exceeded",
)
_NO_CHOICES = (b'"choices":[]', b'"choices": []')  # only in the event of the usage, and in few others
_LF, _CRLF = b"\n\n", b"\r\n\r\n"
_BLANK_LINES = (_LF, _CRLF)

_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error status of a backend. `retriable`: another attempt may succeed, and does no harm."""

    reason: FailureReason
    retriable: bool


# 503 is llama-server's "Loading model", 529 the "overloaded" of services elsewhere.
_BUSY = frozenset({429, 503, 529})
# What a service elsewhere says of our account with it (the key, the bill, the models it may use, its patience with us):
# not the client's doing, and nothing that another backend would say.
_OF_THE_ACCOUNT = frozenset({401, 402, 403, 404, 408})


# What servers say of a path that they do not have: llama.cpp (cpp-httplib), those on FastAPI (vLLM,
# SGLang, TensorRT-LLM), and those in Go (Ollama). Each of them has other words for a model that is not there.
_NO_SUCH_PATH = (
    b"File Not Found",
    b'{"detail":"Not Found"}',
    b'{"detail":"Method Not Allowed"}',
    b"404 page not found",
)


def lacks_endpoint(status: int, body: bytes) -> bool:
    """Whether a backend says that it does not have what was asked of it; 501 is llama.cpp's, with the reason."""
    return status == 501 or (status in {404, 405} and (not body or any(words in body for words in _NO_SUCH_PATH)))


def refusal(status: int, body: bytes, *, elsewhere: bool = False) -> Refusal | None:
    """What the status of a backend's answer says; None for a success. `elsewhere`: it is a service that is not ours."""
    if status < 400:
        return None
    if status == 400 and any(words in body for words in _TOO_LONG):
        return Refusal(FailureReason.CONTEXT_LENGTH_EXCEEDED, retriable=False)
    if status in _BUSY:
        return Refusal(FailureReason.BACKEND_BUSY, retriable=True)
    if lacks_endpoint(status, body):
        return Refusal(FailureReason.ENDPOINT_MISSING, retriable=True)
    if status == 500 and is_engine_death(body):
        return Refusal(FailureReason.BACKEND_DIED, retriable=True)
    # llama.cpp survives "Compute error." and answers the next request.
    if status >= 500 or (elsewhere and status in _OF_THE_ACCOUNT):
        return Refusal(FailureReason.BACKEND_ERROR, retriable=True)
    return Refusal(FailureReason.REQUEST_REJECTED, retriable=False)


# vLLM's API server outlives its engine by some seconds, and answers with this (vllm/v1/engine/exceptions.py).
_ENGINE_DEATH = (b"EngineCore encountered an issue", b"EngineDeadError")


def is_engine_death(data: bytes) -> bool:
    """Whether an error says that there is nothing left behind the server: it will not serve the next request either."""
    return any(words in data for words in _ENGINE_DEATH)


def usage(body: bytes) -> Usage:
    """Tokens as the backend counted them: the last `usage` and llama.cpp `timings` of an answer or of a stream.

    In whichever of the three dialects. Anthropic's counts the cached part of a prompt apart, and in a stream tells of
    the prompt at the begin, and of the answer at the end.
    """
    said = _last_object(body, b'"usage":')
    timings = _last_object(body, b'"timings":')
    if "output_tokens" in said and "input_tokens" not in said:
        said = {**_first_object(body, b'"usage":'), **said}
    cache_n, prompt_n = _count(timings, "cache_n"), _count(timings, "prompt_n")
    tokens_in, cached = _prompt(said)
    if tokens_in is None and prompt_n is not None:
        tokens_in = prompt_n + (cache_n or 0)
    tokens_out = _count(said, "completion_tokens", "output_tokens")
    speed = timings.get("predicted_per_second")
    return Usage(
        tokens_in=tokens_in,
        tokens_cached=cached if cache_n is None else cache_n,
        tokens_out=_count(timings, "predicted_n") if tokens_out is None else tokens_out,
        tokens_per_second=float(speed) if isinstance(speed, (int, float)) and 0 < speed < FASTEST else None,
    )


def _prompt(said: Mapping[str, object]) -> tuple[int | None, int | None]:
    """Tokens of the prompt, all of them, and those of them that came from a cache."""
    tokens, read = _count(said, "prompt_tokens", "input_tokens"), _count(said, "cache_read_input_tokens")
    if tokens is not None and (read is not None or "cache_creation_input_tokens" in said):
        return tokens + (read or 0) + (_count(said, "cache_creation_input_tokens") or 0), read
    details = said.get("prompt_tokens_details", said.get("input_tokens_details"))
    return tokens, _count(details, "cached_tokens") if isinstance(details, dict) else None


def _count(values: Mapping[str, object], *names: str) -> int | None:
    """The first of several members that is a number of tokens."""
    for name in names:
        value = values.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MOST_TOKENS:
            return value
    return None


def _last_object(body: bytes, key: bytes) -> Mapping[str, object]:
    """The last JSON object in `body` that stands behind `key`; empty when there is none."""
    end = len(body)
    while (at := body.rfind(key, 0, end)) >= 0:
        end = at
        if (found := _object_at(body, at + len(key))) is not None:
            return found
    return {}


def _first_object(body: bytes, key: bytes) -> Mapping[str, object]:
    """The same of what stands behind the first `key`."""
    at = body.find(key)
    return (_object_at(body, at + len(key)) if at >= 0 else None) or {}


def _object_at(body: bytes, start: int) -> Mapping[str, object] | None:
    text = body[start : start + 4096].decode("utf-8", "replace").lstrip()
    if not text.startswith("{"):
        return None  # "usage": null, as vLLM writes into every chunk but the last
    try:
        return cast("Mapping[str, object]", _DECODER.raw_decode(text)[0])
    except (ValueError, RecursionError):
        return None


def error_message(body: bytes) -> str:
    """What an error answer or error event says, in one line, for the record."""
    told = _last_object(body, b'"error":').get("message")
    text = told if isinstance(told, str) and told else body[:300].decode("utf-8", "replace")
    return " ".join(text.split())[:300]


def error_kind(body: bytes) -> str:
    """What kind of error it is, without its text: its type, its code, and the numbers it gives."""
    told = _last_object(body, b'"error":')
    words = [str(told[name])[:64] for name in ("type", "code") if isinstance(told.get(name), (str, int))]
    numbers = [f"{k}={v}" for k, v in told.items() if isinstance(v, int) and k != "code" and not isinstance(v, bool)]
    return " ".join([*words, *numbers]) or "an error without a type"


class StreamWatch:
    """Looks at a stream of server-sent events as it passes, and holds back what is not yet a whole event.

    Whole events are handed on in the very bytes in which they came. An event that is cut off by the death of its
    backend has not reached the client then, so that the error event which follows can be read.

    `hide_usage`: the event with the usage was asked for by us and not by the client: it is looked at and not handed on.
    """

    __slots__ = ("_dialect", "_ends_in_parts", "_head", "_held", "_hide_usage", "_kept", "_tail", "failed")

    HOLD_LIMIT = 1024 * 1024  # an event longer than this goes on in parts

    def __init__(self, dialect: Dialect = Dialect.CHAT, *, hide_usage: bool = False) -> None:
        self._dialect = dialect
        self._hide_usage = hide_usage
        self._held = b""
        self._head = b""
        self._ends_in_parts = False  # the last event is so long that it goes on in parts
        self._tail: deque[bytes] = deque()
        self._kept = 0
        self.failed = False  # an error event has passed

    def feed(self, data: bytes) -> bytes:
        """Take what came; returns what may go on to the client now (possibly nothing)."""
        if self._held:
            data = self._held + data
            self._held = b""
        if not data.endswith(_BLANK_LINES):
            data = self._hold_back(data)
            if not data:
                return b""
        self._look(data)
        return without_usage(data) if self._hide_usage else data

    def _hold_back(self, data: bytes) -> bytes:
        cut = max((at + len(end) for end in _BLANK_LINES if (at := data.rfind(end)) >= 0), default=0)
        rest = data[cut:]
        if rest.startswith(b":") and rest.endswith(b"\n"):  # a keep-alive comment of a single line is whole
            return data
        if len(rest) > self.HOLD_LIMIT:
            self._ends_in_parts = self._ends_in_parts or ends(self._dialect, rest + _LF)
            return data
        self._held = rest
        return data[:cut]

    def _look(self, data: bytes) -> None:
        self.failed = self.failed or fails(self._dialect, data)
        if not self._head:
            self._head = data[:HEAD_BYTES]
        tail = self._tail
        tail.append(data)
        self._kept += len(data)
        while self._kept - len(tail[0]) >= TAIL_BYTES:
            self._kept -= len(tail.popleft())

    def rest(self) -> bytes:
        """What was held back when the stream ended: a last event without its blank line."""
        held, self._held = self._held, b""
        if held:
            self._look(held)
        return without_usage(held) if self._hide_usage else held

    @property
    def tail(self) -> bytes:
        """The last events, at least TAIL_BYTES of them where there were as many."""
        return b"".join(self._tail)

    @property
    def evidence(self) -> bytes:
        """What there is of it to read its usage from."""
        tail = self.tail
        return tail if self._dialect is not Dialect.MESSAGES or tail.startswith(self._head) else self._head + tail

    @property
    def done(self) -> bool:
        """Whether the stream said that it is whole. After an error event that proves nothing."""
        if self.failed:
            return False
        tail = self.tail
        return ends(self._dialect, tail) or (self._ends_in_parts and tail.endswith(_BLANK_LINES))


def without_usage(data: bytes) -> bytes:
    """Events without those that hold the usage of the stream and nothing of its text; all others byte by byte."""
    if _NO_CHOICES[0] not in data and _NO_CHOICES[1] not in data:  # nearly always
        return data
    end = _CRLF if _CRLF in data else _LF
    *events, rest = data.split(end)
    kept = [event + end for event in events if not _tells_usage_only(event)]
    return b"".join(kept) + (b"" if _tells_usage_only(rest) else rest)


def _tells_usage_only(event: bytes) -> bool:
    """Whether it is `{"choices": [], "usage": {…}}`: OpenAI's shape, which vLLM, SGLang and others share."""
    at = event.find(b"data:")
    if at < 0 or not any(words in event for words in _NO_CHOICES):
        return False
    try:
        told = json.loads(event[at + len(b"data:") :])
    except (ValueError, RecursionError):
        return False
    return isinstance(told, dict) and told.get("choices") == [] and isinstance(told.get("usage"), dict)
