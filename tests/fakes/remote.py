"""An OpenAI-compatible service that is not the daemon's to start, with faults to be switched while it runs."""

import asyncio
import json
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.fakes.stub_answers import Counts
from tests.fakes.stub_events import ResponsesWording

KEY = "sk-remote-3f9a61c07be24d55"
MODEL = "remote-model"


@dataclass(slots=True)
class Remote:
    """Set its fields at any time. `requests` are the bodies of the chat completions it got, faults included."""

    port: int = 0
    tls: bool = False
    status: int = 0  # instead of an answer, at once
    slow_s: float = 0.0  # before an answer
    hangs: bool = False  # no answer at all
    tokens: int = 4
    cut_after: int | None = None  # tokens of a response that streams, before its connection is cut
    stalls_after: int | None = None  # the same, before nothing more comes
    garbles: bool = False  # the event that ends a response that streams holds no JSON
    never_streams: bool = False  # every answer is a chat completion in one piece, whatever was asked for
    keys: list[str] = field(default_factory=list)  # the Authorization headers it got
    probes: int = 0
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    in_flight: int = 0
    peak: int = 0
    _runner: web.AppRunner | None = None
    _tls: ssl.SSLContext | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}/v1"

    async def up(self) -> None:
        """Listen, on the same port as before."""
        app = web.Application(client_max_size=64 * 1024 * 1024)  # as the daemon takes
        app.add_routes([web.get("/v1/models", self._models), web.post("/v1/chat/completions", self._chat)])
        app.add_routes([web.post("/v1/responses", self._chat), web.post("/v1/messages", self._chat)])
        app.add_routes([web.post("/v1/audio/transcriptions", self._sound)])
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self._tls, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def down(self) -> None:
        """Connections are refused from now on, and those there are end."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _sound(self, request: web.Request) -> web.Response:
        form = await request.post()
        sound = form["file"]
        assert isinstance(sound, web.FileField)
        self.requests.append({**form, "file": (sound.filename, sound.file.read())})
        self.headers.append(dict(request.headers))
        if self.status:
            return web.Response(status=self.status)
        return web.json_response({"text": "what was said"})

    async def _models(self, request: web.Request) -> web.Response:
        self.probes += 1
        self._allow(request)
        return web.json_response({"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "them"}]})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        self.headers.append(dict(request.headers))
        self._allow(request)
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        try:
            return await self._answer(request, body)
        finally:
            self.in_flight -= 1

    async def _answer(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if self.hangs:
            await asyncio.sleep(3600)
        if self.status:
            error = {"message": f"remote says {self.status}", "type": "server_error", "code": None, "param": None}
            return web.json_response({"error": error}, status=self.status)
        await asyncio.sleep(self.slow_s)
        if body.get("stream") and not self.never_streams:
            return await self._stream(request, body)
        message = {"role": "assistant", "content": self._text()}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return web.json_response(self._common(body, "chat.completion") | {"choices": [choice], "usage": self._usage()})

    async def _stream(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        if request.path.endswith("responses"):
            return await self._respond(request, response)
        common = self._common(body, "chat.completion.chunk")
        events: list[dict[str, Any]] = [
            common | {"choices": [{"index": 0, "delta": {"content": f"r{n} "}, "finish_reason": None}]}
            for n in range(self.tokens)
        ]
        events.append(common | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        if (body.get("stream_options") or {}).get("include_usage"):
            events.append(common | {"choices": [], "usage": self._usage()})
        for event in events:
            await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _respond(self, request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
        words = ResponsesWording(len(self.requests), MODEL, 3)
        await response.write(words.first())
        for number in range(self.tokens):
            if number == self.stalls_after:
                await asyncio.sleep(3600)
            if number == self.cut_after:
                assert request.transport is not None
                request.transport.abort()
                return response
            await response.write(words.token(b'"r%d "' % number))
        last = words.last(b"stop", Counts(3, self.tokens, 0.1, 0.1), include_usage=True)
        if self.garbles:
            last = last.partition(b"event: response.completed")[0] + b"event: response.completed\ndata: {\n\n"
        await response.write(last)
        return response

    def _allow(self, request: web.Request) -> None:
        self.keys.append(request.headers.get("Authorization", ""))
        if self.keys[-1] != f"Bearer {KEY}":
            raise web.HTTPUnauthorized(
                text='{"error":{"message":"Incorrect API key","type":"auth"}}', content_type="application/json"
            )

    def _common(self, body: dict[str, Any], kind: str) -> dict[str, Any]:
        return {"id": "chatcmpl-remote", "object": kind, "created": 1700000000, "model": body.get("model", MODEL)}

    def _usage(self) -> dict[str, int]:
        return {"prompt_tokens": 3, "completion_tokens": self.tokens, "total_tokens": 3 + self.tokens}

    def _text(self) -> str:
        return "".join(f"r{n} " for n in range(self.tokens))


@asynccontextmanager
async def remote(certificate: Path | None = None) -> AsyncIterator[Remote]:
    """A service that is up; with TLS where there is a certificate (see `certify`)."""
    made = Remote(tls=certificate is not None)
    if certificate is not None:
        made._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made._tls.load_cert_chain(certificate)
    await made.up()
    try:
        yield made
    finally:
        await made.down()


def certify(folder: Path) -> Path:
    """A self-signed certificate of 127.0.0.1 with its key, in one file; trusted where SSL_CERT_FILE names it."""
    path, key = folder / "certificate.pem", folder / "key.pem"
    name = ("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1")
    command = (
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    )
    subprocess.run([*command, *name, "-keyout", key, "-out", path], check=True, capture_output=True, timeout=30)
    path.write_text(path.read_text() + key.read_text())
    return path
