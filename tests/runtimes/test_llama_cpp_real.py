"""What the description says of llama.cpp, asked of the embedded engine: it counts prompts as its server does."""

import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec

import pytest

from supervisord.core.ladder import Footprint
from supervisord.runtimes.base import BackendSpec, HttpAnswer, Readiness, RuntimeKind
from supervisord.runtimes.llama_cpp import LlamaCpp

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(find_spec("xllamacpp") is None, reason="the extra `embedded` is not installed"),
]

LLAMA = LlamaCpp()
SPEC = BackendSpec(name="small", runtime=RuntimeKind.LLAMA_CPP, model="embedded", models=("small",))
PROGRAM = (sys.executable, "-P", "-m", "supervisord.cli.llama_server")
START_S = 120.0
HELLO = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why is the sky blue?"}]


@dataclass(frozen=True)
class Server:
    port: int

    def ask(self, method: str, path: str, body: bytes | None = None) -> HttpAnswer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return HttpAnswer(response.status, response.read())
        finally:
            connection.close()

    def readiness(self) -> Readiness:
        try:
            return LLAMA.readiness(SPEC, self.ask("GET", LLAMA.ready_path(SPEC)))
        except ConnectionRefusedError:
            return Readiness.LOADING

    def count(self, path: str, body: bytes) -> int | None:
        members = {name: json.dumps(value).encode() for name, value in json.loads(body).items()}
        asking = LLAMA.count(path, members, "small")
        assert asking is not None
        try:
            call = next(asking)
            while True:
                call = asking.send(self.ask("POST", call.path, call.body))
        except StopIteration as end:
            return end.value


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        server = Server(probe.getsockname()[1])
    launch = LLAMA.launch(SPEC, Footprint(context=1024), server.port, PROGRAM, frozenset())
    log = tmp_path_factory.mktemp("llama") / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(launch.argv, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + START_S
        while server.readiness() is not Readiness.READY:
            assert process.poll() is None, log.read_text(errors="replace")
            assert time.monotonic() < deadline, log.read_text(errors="replace")
            time.sleep(0.1)
        yield server
    finally:
        process.kill()
        process.wait(30)


@pytest.mark.parametrize(
    ("path", "request_"),
    [
        ("/v1/chat/completions", {"messages": HELLO}),
        ("/v1/chat/completions", {"messages": HELLO[1:]}),
        ("/v1/completions", {"prompt": "Once upon a time"}),
        ("/v1/completions", {"prompt": ""}),
        ("/v1/completions", {"prompt": [2, 23391, 993]}),
    ],
)
def test_a_prompt_has_as_many_tokens_as_it_says_afterwards(
    server: Server, path: str, request_: dict[str, object]
) -> None:
    body = json.dumps({"model": "small", "max_tokens": 1, **request_}).encode()

    counted = server.count(path, body)

    assert counted == json.loads(server.ask("POST", path, body).body)["usage"]["prompt_tokens"]


def test_a_prompt_that_does_not_fit_is_refused(server: Server) -> None:
    body = json.dumps({"prompt": "sky " * 1500, "max_tokens": 1}).encode()
    counted = server.count("/v1/completions", body)
    answer = server.ask("POST", "/v1/completions", body)

    assert counted
    assert not LLAMA.fits(counted, 1, 1024)
    assert answer.status == 400
    assert json.loads(answer.body)["error"]["type"] == "exceed_context_size_error"


def test_counters_and_identity(server: Server) -> None:
    assert LLAMA.counters(server.ask("GET", LLAMA.counters_path)) is not None
    told = LLAMA.identity({path: server.ask("GET", path) for path in LLAMA.identity_paths})
    assert (told.context_length, told.slots) == (1024, 1)
