"""The real vLLM, started with exactly what `Vllm.launch` gives: one start, about 40 s.

The tests run in their order; the last one kills its engine.
"""

import http.client
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from supervisord.core.ladder import Footprint
from supervisord.core.record import Identity
from supervisord.core.state import LifePolicy
from supervisord.runtimes.base import BackendSpec, Call, Counters, HttpAnswer, Readiness, RuntimeKind
from supervisord.runtimes.vllm import Vllm
from tests.fakes.pace import slowed
from tests.fakes.vllm import START_S, TINY, real_vllm

pytestmark = [pytest.mark.vllm]

VLLM = Vllm()
CONTEXT = 1024
HELLO = [{"role": "user", "content": "Hello there"}]
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


@dataclass
class Server:
    spec: BackendSpec
    process: "subprocess.Popen[bytes]"
    port: int
    log: Path
    seen: list[Readiness | None] = field(default_factory=list)  # while it loaded; None: it did not listen
    tree: list[psutil.Process] = field(default_factory=list)  # all of it, as soon as it was ready

    def ask(self, method: str, path: str, body: bytes | None = None) -> HttpAnswer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return HttpAnswer(response.status, response.read())
        finally:
            connection.close()

    def post(self, path: str, **body: object) -> HttpAnswer:
        return self.ask("POST", path, json.dumps({"model": "tiny", **body}).encode())

    def events(self, path: str, **body: object) -> list[bytes]:
        answer = self.post(path, stream=True, **body)
        assert answer.status == 200, answer.body
        return [event.removeprefix(b"data: ") for event in answer.body.split(b"\n\n") if event]

    def counters(self) -> Counters:
        found = VLLM.counters(self.ask("GET", VLLM.counters_path))
        assert found is not None
        return found

    def readiness(self) -> Readiness | None:
        try:
            return VLLM.readiness(self.spec, self.ask("GET", VLLM.ready_path(self.spec)))
        except ConnectionRefusedError:
            return None

    def count(self, path: str, **body: object) -> int | None:
        asking = VLLM.count(path, {name: json.dumps(value).encode() for name, value in body.items()}, "tiny")
        assert asking is not None
        try:
            call: Call = next(asking)
            while True:
                call = asking.send(self.ask("POST", call.path, call.body))
        except StopIteration as end:
            return end.value


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    real = real_vllm()
    spec = BackendSpec(
        name="tiny", runtime=RuntimeKind.VLLM, model=real.model, models=("tiny", "alias"), upstream_model="served",
        threads=2, vllm=TINY, life=LifePolicy(slots=4), args=("--max-num-batched-tokens", "64"),
    )  # fmt: skip
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launch = VLLM.launch(spec, Footprint(context=CONTEXT), port, (real.python,), frozenset())
    folder = tmp_path_factory.mktemp("vllm")
    one_processor = ("taskset", "-c", "0")  # see tests/e2e/test_vllm.py
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            (*one_processor, *launch.argv),
            env={**os.environ, **launch.env},
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=folder,
        )
    server = Server(spec, process, port, folder / "log")
    try:
        _await_ready(server)
        yield server
    finally:
        _end(server)


def _await_ready(server: Server) -> None:
    deadline = time.monotonic() + START_S
    while server.seen[-1:] != [Readiness.READY]:
        assert server.process.poll() is None, server.log.read_text(errors="replace")
        assert time.monotonic() < deadline, server.log.read_text(errors="replace")
        time.sleep(0.5)
        server.seen.append(server.readiness())
    leader = psutil.Process(server.process.pid)
    server.tree = [leader, *leader.children(recursive=True)]


def _end(server: Server) -> None:
    """Each process by its id, whatever became of its parent: `kill -9` of the first leaves the others alive."""
    with suppress(psutil.NoSuchProcess):
        server.tree += [
            psutil.Process(server.process.pid),
            *psutil.Process(server.process.pid).children(recursive=True),
        ]
    for process in server.tree:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    server.process.wait(30)
    psutil.wait_procs(server.tree, 30)


def _eventually(holds: Callable[[], bool]) -> bool:
    """The counters follow the answer by a moment."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if holds():
            return True
    return False


def test_it_does_not_listen_until_it_is_ready(server: Server) -> None:
    assert set(server.seen[:-1]) == {None}
    assert server.seen[-1] is Readiness.READY


def test_its_processes(server: Server) -> None:
    """An API server, its engine, the engine's worker, and Python's tracker of shared memory."""
    names = sorted(process.name() for process in server.tree)

    assert names[:2] == ["VLLM::EngineCore", "VLLM::Worker"]
    assert len(names) == 4


def test_identity(server: Server) -> None:
    told = VLLM.identity({path: server.ask("GET", path) for path in VLLM.identity_paths})

    assert told == Identity(model=server.spec.model, context_length=CONTEXT, build="0.32.0")


def test_it_answers_to_all_its_names(server: Server) -> None:
    for name in ("served", "tiny", "alias"):
        assert server.post("/v1/completions", model=name, prompt="Hi", max_tokens=1).status == 200
    assert server.post("/v1/completions", model="other", prompt="Hi", max_tokens=1).status == 404


def test_the_capacity_of_its_cache(server: Server) -> None:
    # 2 layers x (key, value) x 2 heads x 32 numbers x 2 bytes a token.
    assert server.counters().kv_tokens == (64 << 20) // 512


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"tools": [TOOL], "tool_choice": "none"},
        {"add_generation_prompt": False},
        {"chat_template_kwargs": {"thinking": True}},
    ],
)
def test_a_chat_has_as_many_tokens_as_it_says_afterwards(server: Server, body: dict[str, object]) -> None:
    path = "/v1/chat/completions"
    answer = server.post(path, messages=HELLO, max_tokens=2, **body)

    count = server.count(path, messages=HELLO, **body)
    assert count == json.loads(answer.body)["usage"]["prompt_tokens"]
    assert (count != server.count(path, messages=HELLO)) is bool(body)  # what is asked for decides the prompt


@pytest.mark.parametrize("prompt", ["Hello there", "</s>", [42, 71, 78]])
def test_a_text_has_as_many_tokens_as_it_says_afterwards(server: Server, prompt: object) -> None:
    answer = server.post("/v1/completions", prompt=prompt, max_tokens=2)

    assert server.count("/v1/completions", prompt=prompt) == json.loads(answer.body)["usage"]["prompt_tokens"]


def test_every_token_is_work(server: Server) -> None:
    before = server.counters()
    usage = json.loads(server.post("/v1/completions", prompt="Once", max_tokens=20, ignore_eos=True).body)["usage"]

    assert usage["completion_tokens"] == 20
    assert _eventually(lambda: server.counters().work == before.work + usage["total_tokens"])
    assert _eventually(lambda: server.counters().busy == 0)
    after = server.counters()
    assert (after.waiting, after.preemptions, after.kv_used) == (0, 0, 0)


def test_a_long_prompt_moves_the_cache_before_it_counts_as_work(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    before = server.counters().work
    body = {"model": "tiny", "prompt": list(range(100, 1000)), "max_tokens": 60, "ignore_eos": True}
    (engine,) = (process for process in server.tree if process.name() == "VLLM::EngineCore")
    (worker,) = (process for process in engine.children() if process.name() == "VLLM::Worker")
    fullest: set[float | None] = set()
    running = 0.0
    with slowed(worker):  # or a quick machine is done before it is looked at
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        while server.counters().work < before + 960:  # the request's own bound ends this, if the server's does not
            counters = server.counters()
            fullest.add(counters.kv_used)
            running = max(running, counters.busy or 0)
    response = connection.getresponse()
    assert json.loads(response.read())["usage"]["total_tokens"] == 960
    connection.close()
    assert running == 1
    assert len(fullest) > 1


@pytest.mark.parametrize(
    ("path", "body", "label"),
    [
        ("/v1/chat/completions", {"messages": HELLO}, "delta"),
        ("/v1/completions", {"prompt": "Hello there"}, "text"),
    ],
)
def test_the_usage_of_a_stream_is_an_event_of_its_own(
    server: Server, path: str, body: dict[str, object], label: str
) -> None:
    """The last event before [DONE]; no choice in it; the other events have no key "usage" at all, not even null.

    data: {"id":"chatcmpl-bab...","object":"chat.completion.chunk","created":1795245053,"model":"tiny","choices":[],
    "usage":{"prompt_tokens":28,"total_tokens":31,"completion_tokens":3},"system_fingerprint":"vllm-0.32.0-ca026b28"}
    """
    asked = server.events(path, max_tokens=3, ignore_eos=True, stream_options={"include_usage": True}, **body)
    unasked = server.events(path, max_tokens=3, ignore_eos=True, **body)

    assert asked[-1] == unasked[-1] == b"[DONE]"
    last = json.loads(asked[-2])
    assert last["choices"] == []
    assert last["usage"].keys() == {"prompt_tokens", "total_tokens", "completion_tokens"}
    assert last["usage"]["completion_tokens"] == 3
    for event in [*asked[:-2], *unasked[:-1]]:
        chunk = json.loads(event)
        assert "usage" not in chunk
        assert label in chunk["choices"][0]
    assert len(asked) == len(unasked) + 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"prompt": [42] * (CONTEXT + 1)}, "This model's maximum context length is 1024 tokens. However, your prompt"),
        ({"prompt": [42] * CONTEXT}, "max_tokens must be at least 1, got 0."),
        ({"prompt": [42], "max_tokens": CONTEXT + 1}, "max_tokens=1025 cannot be greater than max_model_len=1024."),
    ],
)
def test_what_does_not_fit_is_refused(server: Server, body: dict[str, object], why: str, stream: bool) -> None:
    answer = server.post("/v1/completions", stream=stream, **body)

    assert answer.status == 400
    error = json.loads(answer.body)["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == ("BadRequestError", 400)
    assert error["message"].startswith(why)


def test_what_fits_is_served_and_cut_short(server: Server) -> None:
    answer = server.post("/v1/completions", prompt=[42] * (CONTEXT - 2), max_tokens=100, ignore_eos=True)

    assert VLLM.fits(CONTEXT - 2, 100, CONTEXT)
    assert json.loads(answer.body)["usage"]["total_tokens"] == CONTEXT
    assert json.loads(answer.body)["choices"][0]["finish_reason"] == "length"


def test_its_log_is_not_drowned_by_probes(server: Server) -> None:
    assert "GET /metrics" not in server.log.read_text(errors="replace")


def test_a_dead_engine_ends_a_stream_with_an_error_and_the_server_with_status_0(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    body = {"model": "tiny", "messages": HELLO, "max_tokens": 900, "ignore_eos": True, "stream": True}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    response.readline()
    engine = next(process for process in server.tree if process.name() == "VLLM::EngineCore")
    os.kill(engine.pid, signal.SIGKILL)
    *_, error, done = [line for line in response.read().split(b"\n\n") if line]
    connection.close()

    assert response.status == 200
    assert done == b"data: [DONE]"
    assert json.loads(error.removeprefix(b"data: ")) == {
        "error": {
            "message": "EngineCore encountered an issue. See stack trace (above) for the root cause.",
            "type": "InternalServerError", "param": None, "code": 500,
        }
    }  # fmt: skip
    assert server.readiness() in {Readiness.BROKEN, None}
    assert server.process.wait(30) == 0
