"""What the stub says: bodies with the keys of llama-server's, as read from one (xllamacpp 2026.10)."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

BUILD = "b6500-stub"
CREATED = 1700000000
TEMPLATE = "{%- for message in messages -%}{{- message.role + ': ' + message.content + '\\n' -}}{%- endfor -%}"
N_EMBD = 8

SERVED = b"Server: llama.cpp\r\nAccess-Control-Allow-Origin: \r\n"
ALIVE = b"Keep-Alive: timeout=5, max=100\r\n"
JSON_HEAD = b"HTTP/1.1 200 OK\r\n" + SERVED + b"Content-Type: application/json; charset=utf-8\r\nContent-Length: %d\r\n"
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\n"
    + SERVED
    + b"X-Accel-Buffering: no\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
    + ALIVE
    + b"\r\n"
)
LAST_CHUNK = b"0\r\n\r\n"
DONE = b"data: [DONE]\n\n"
REASONS = {400: b"Bad Request", 404: b"Not Found", 429: b"Too Many Requests", 500: b"Internal Server Error"} | {
    501: b"Not Implemented",
    503: b"Service Unavailable",
}
ERROR_TYPES = {400: "invalid_request_error", 404: "not_found_error", 429: "rate_limit_error", 500: "server_error"} | {
    501: "not_supported_error",
    503: "unavailable_error",
}

LOADING_LINES = (
    "main: loading model",
    "llama_model_loader: loaded meta data with 31 key-value pairs and 291 tensors",
    "load_tensors: loading model tensors, this can take a while... (mmap = true)",
)
READY_LINES = ("main: model loaded", "main: server is listening on http://{host}:{port}", "srv update_slots: all idle")
LOAD_OOM_LINES = (
    "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 20480.00 MiB on device 0: cudaMalloc failed: out of memory",
    "alloc_tensor_range: failed to allocate CUDA0 buffer of size 21474836480",
    "llama_model_load: error loading model: unable to allocate CUDA0 buffer",
    "llama_model_load_from_file_impl: failed to load model",
    "main: exiting due to model loading error",
)
RUN_OOM_LINES = (
    "ggml_cuda_compute_forward: MUL_MAT failed",
    "CUDA error: out of memory",
    "  current device: 0, in function alloc at ggml-cuda.cu:477",
    "ggml-cuda.cu:90: CUDA error",
)


class Ask(msgspec.Struct):
    """The fields of a request that change the answer."""

    model: str | None = None
    stream: bool = False
    stream_options: dict[str, Any] | None = None
    max_tokens: int | None = None
    max_output_tokens: int | None = None
    messages: list[Any] | None = None
    prompt: Any = None
    input: Any = None
    content: Any = None

    def text(self) -> str:
        if self.messages:
            last = self.messages[-1]
            return str(last.get("content", "")) if isinstance(last, dict) else ""
        return str(self.prompt or self.input or self.content or "")

    def include_usage(self) -> bool:
        return bool((self.stream_options or {}).get("include_usage"))


_ASK = msgspec.json.Decoder(Ask)
decode = _ASK.decode


@dataclass(slots=True)
class Counts:
    """What one request used. Seconds."""

    prompt: int
    predicted: int = 0
    prompt_s: float = 0.0
    predicted_s: float = 0.0

    def timings(self) -> bytes:
        prompt_ms, predicted_ms = max(self.prompt_s * 1e3, 0.001), max(self.predicted_s * 1e3, 0.001)
        prompt = (self.prompt, prompt_ms, prompt_ms / self.prompt, self.prompt * 1e3 / prompt_ms)
        out = self.predicted
        return (
            b'{"cache_n":0,"prompt_n":%d,"prompt_ms":%.3f,"prompt_per_token_ms":%.3f,"prompt_per_second":%.3f,'
            b'"predicted_n":%d,"predicted_ms":%.3f,"predicted_per_token_ms":%.3f,"predicted_per_second":%.3f}'
        ) % (*prompt, out, predicted_ms, predicted_ms / max(out, 1), out * 1e3 / predicted_ms)

    def usage(self) -> bytes:
        return (
            b'{"completion_tokens":%d,"prompt_tokens":%d,"total_tokens":%d,"prompt_tokens_details":{"cached_tokens":0}}'
        ) % (self.predicted, self.prompt, self.prompt + self.predicted)


def json_answer(body: bytes) -> bytes:
    return JSON_HEAD % len(body) + ALIVE + b"\r\n" + body


def text_answer(body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: %d\r\n\r\n"
    return head % len(body) + body


def error_body(status: int, message: str, **more: object) -> bytes:
    error = {"code": status, "message": message, "type": ERROR_TYPES.get(status, "server_error"), **more}
    return json.dumps({"error": error}, separators=(",", ":")).encode()


def error_answer(status: int, message: str, **more: object) -> bytes:
    body = error_body(status, message, **more)
    head = b"HTTP/1.1 %d %b\r\n" % (status, REASONS.get(status, b"Error")) + SERVED
    head += b"Retry-After: 1\r\n" if status == 429 else b""
    head += ALIVE if status == 503 else b"Connection: close\r\n"
    return head + b"Content-Type: application/json; charset=utf-8\r\nContent-Length: %d\r\n\r\n" % len(body) + body


class Wording:
    """The words of one answer, for chat or for plain completions."""

    __slots__ = ("_after", "_before", "_chat", "_common", "_finish")

    def __init__(self, number: int, model: str, *, chat: bool) -> None:
        named = b'"model":%b,"system_fingerprint":"%b"' % (msgspec.json.encode(model), BUILD.encode())
        ident = b'"id":"chatcmpl-%032d"' % number
        self._chat = chat
        if chat:
            self._before = b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":'
            self._common = b'"created":%d,%b,%b,"object":"chat.completion.chunk"' % (CREATED, ident, named)
            self._after = b"}}]," + self._common + b"}\n\n"
        else:
            self._before = b'data: {"choices":[{"text":'
            self._common = b'"created":%d,%b,"object":"text_completion",%b' % (CREATED, named, ident)
            self._after = b',"index":0,"logprobs":null,"finish_reason":null}],' + self._common + b"}\n\n"
        self._finish = (
            b'"created":%d,%b,"object":"%b",'
            % (
                CREATED,
                named,
                b"chat.completion" if chat else b"text_completion",
            )
            + b'"usage":%b,'
            + ident
            + b',"timings":%b}'
        )

    def plain(self, content: bytes, reason: bytes, counts: Counts) -> bytes:
        """The whole body of an answer that is not streamed. `content` is a JSON string."""
        if self._chat:
            choice = b'{"finish_reason":"%b","index":0,"message":{"role":"assistant","content":%b}}' % (reason, content)
        else:
            choice = b'{"text":%b,"index":0,"logprobs":null,"finish_reason":"%b"}' % (content, reason)
        return b'{"choices":[' + choice + b"]," + self._finish % (counts.usage(), counts.timings())

    def first(self) -> bytes:
        if not self._chat:
            return b""
        role = b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}],'
        return role + self._common + b"}\n\n"

    def token(self, content: bytes) -> bytes:
        return self._before + content + self._after

    def last(self, reason: bytes, counts: Counts, *, include_usage: bool) -> bytes:
        """The events after the tokens: as llama-server, the timings are in the last one before [DONE]."""
        timings = b',"timings":' + counts.timings()
        usage = b',"usage":' + counts.usage()
        if not self._chat:
            choice = b'{"text":"","index":0,"logprobs":null,"finish_reason":"%b"}' % reason
            return b'data: {"choices":[' + choice + b"]," + self._common + usage + timings + b"}\n\n" + DONE
        finish = b'data: {"choices":[{"finish_reason":"%b","index":0,"delta":{}}],' % reason + self._common
        if include_usage:
            finish += b'}\n\ndata: {"choices":[],' + self._common + usage
        return finish + timings + b"}\n\n" + DONE


def props(model: str, alias: str, n_ctx: int, slots: int) -> bytes:
    return json.dumps(
        {
            "default_generation_settings": {"params": {"seed": 4294967295, "temperature": 0.8}, "n_ctx": n_ctx},
            "total_slots": slots,
            "model_alias": alias,
            "model_ftype": "Q4_K - Medium",
            "model_path": model,
            "modalities": {"vision": False, "video": False, "audio": False},
            "endpoint_slots": True,
            "endpoint_props": False,
            "endpoint_metrics": True,
            "chat_template": TEMPLATE,
            "chat_template_caps": {"supports_tools": False},
            "bos_token": "<s>",
            "eos_token": "</s>",
            "build_info": BUILD,
            "is_sleeping": False,
        }
    ).encode()


def models(model: str, alias: str, n_ctx: int) -> bytes:
    meta = {"vocab_type": 1, "n_vocab": 32000, "n_ctx": n_ctx, "n_ctx_train": 32768, "n_embd": N_EMBD}
    meta |= {"n_params": 268098176, "size": 246587904, "ftype": "Q4_K - Medium"}
    listed = {"id": alias, "aliases": [alias], "tags": [], "object": "model", "created": CREATED}
    listed |= {"architecture": {"input_modalities": ["text"], "output_modalities": ["text"]}}
    old = {"name": alias, "model": model, "type": "model", "capabilities": ["completion"]}
    return json.dumps(
        {"models": [old], "object": "list", "data": [{**listed, "owned_by": "llamacpp", "meta": meta}]}
    ).encode()


def embeddings(model: str, value: Any) -> bytes:
    inputs = value if isinstance(value, list) else [value]
    data = [
        {"embedding": [float((len(str(text)) + i) % 7) for i in range(N_EMBD)], "index": at, "object": "embedding"}
        for at, text in enumerate(inputs)
    ]
    tokens = sum(prompt_tokens(str(text)) for text in inputs)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return json.dumps({"model": model, "object": "list", "usage": usage, "data": data}).encode()


def prompt_tokens(text: str) -> int:
    return len(text) // 4 + 1


def alias_of(model: str, alias: str) -> str:
    return alias or Path(model).name
