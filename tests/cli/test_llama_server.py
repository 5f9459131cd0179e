"""The embedded engine as a process: real llama.cpp, real model, real sockets."""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from queue import Queue

import pytest

from supervisord.cli import llama_server
from supervisord.cli.embedded_model import ensure_model

_COMMAND = [sys.executable, "-P", "-m", "supervisord.cli.llama_server"]
_START_S = 60.0
_BOUND_S = 30.0
_FLAGS = (
    "--host 127.0.0.1 -np 2 -ngl auto -fa on -ctk q8_0 -ctv q8_0 -b 256 -ub 128 -t 2 -tb 2 --slots --props "
    "--api-key secret --cache-ram 0 -fit on -fitt 512 --no-warmup -n 8 --seed 7 --no-mmap --jinja --log-prefix"
)
_LISTENING = re.compile(r"listening on http://([\d.]+):(\d+)")

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(find_spec("xllamacpp") is None, reason="the extra `embedded` is not installed"),
]


@dataclass
class Server:
    process: subprocess.Popen[str]
    port: int
    lines: "Queue[str]"

    def ask(self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None) -> "Answer":
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_BOUND_S)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def chat(self, question: str, **more: object) -> dict[str, object]:
        body = {"temperature": 0, "max_tokens": 64, "messages": [{"role": "user", "content": question}], **more}
        answer = self.ask("POST", "/v1/chat/completions", body)
        assert answer.status == 200, answer.body
        found: dict[str, object] = json.loads(answer.body)
        return found

    def metric(self, name: str) -> float:
        found = re.search(rf"^llamacpp:{name} (\S+)$", self.ask("GET", "/metrics").body.decode(), re.MULTILINE)
        assert found is not None
        return float(found[1])

    def until(self, pattern: re.Pattern[str]) -> re.Match[str]:
        deadline = time.monotonic() + _START_S
        while True:
            found = pattern.search(self.lines.get(timeout=max(0.0, deadline - time.monotonic())))
            if found is not None:
                return found


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


@contextmanager
def _started(*argv: str, await_line: re.Pattern[str] = _LISTENING) -> Iterator[Server]:
    process = subprocess.Popen([*_COMMAND, *argv], stderr=subprocess.PIPE, text=True, errors="replace")
    lines: Queue[str] = Queue()

    def read() -> None:
        for line in process.stderr or ():
            lines.put(line)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    server = Server(process, 0, lines)
    try:
        found = server.until(await_line)
        if await_line is _LISTENING:
            server.port = int(found[2])
        yield server
    finally:
        _end(process)
        reader.join(_BOUND_S)
        if process.stderr is not None:
            process.stderr.close()


def _end(process: "subprocess.Popen[str]") -> None:
    process.terminate()
    try:
        process.wait(_BOUND_S)
    finally:
        process.kill()
        process.wait(_BOUND_S)


def _run(*argv: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*_COMMAND, *argv], capture_output=True, text=True, timeout=_BOUND_S, check=False)


def _eventually(holds: Callable[[], bool]) -> bool:
    """Ask again and again, each time over the server's own socket, for 10 s at most."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if holds():
            return True
    return False


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder
    shutil.rmtree(folder)  # 253 MB


@pytest.fixture(scope="module")
def model(cache: Path) -> Path:
    return ensure_model(lambda _: None)


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[Server]:
    with _started("-m", "embedded", "--port", "0", "-c", "1024", "--metrics", "--offline", "--no-ui") as started:
        yield started


def test_it_answers_a_question_and_stops(server: Server) -> None:
    answer = server.chat("What is the capital of France?")
    assert answer["choices"][0]["message"]["content"].strip() == "Paris"  # type: ignore[index]
    assert answer["choices"][0]["finish_reason"] == "stop"  # type: ignore[index]


def test_the_next_question_of_the_template_ends_an_answer_unless_the_request_says_where(server: Server) -> None:
    told = server.chat("Name the capital of Spain.", max_tokens=48)
    assert "Q:" not in told["choices"][0]["message"]["content"]  # type: ignore[index]
    free = server.chat("Name the capital of Spain.", stop=["never said"], max_tokens=48)
    assert "\nQ:" in free["choices"][0]["message"]["content"]  # type: ignore[index]


def test_answers_carry_timings(server: Server) -> None:
    timings = server.chat("What is the capital of France?")["timings"]
    assert isinstance(timings, dict)
    assert {"cache_n", "prompt_n", "prompt_ms", "predicted_n", "predicted_ms", "predicted_per_second"} <= timings.keys()


def test_the_last_chunk_of_a_stream_carries_timings(server: Server) -> None:
    body = {
        "stream": True,
        "temperature": 0,
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
    }
    answer = server.ask("POST", "/v1/chat/completions", body)
    events = [line[6:] for line in answer.body.split(b"\n") if line.startswith(b"data: ")]
    assert events[-1] == b"[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    assert chunks[-1]["timings"]["predicted_n"] > 0
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert "Paris" in "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)


def test_a_schema_holds(server: Server) -> None:
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
    answer = server.chat(
        "Ana is 31 years old. How old is Ana?",
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
    )
    assert isinstance(json.loads(answer["choices"][0]["message"]["content"])["age"], int)  # type: ignore[index]


@pytest.mark.parametrize(
    ("messages", "prompt"),
    [
        ([("user", "Why?")], "Q: Why?\nA:"),
        ([("system", "Be brief.\n"), ("user", " Why? ")], "Be brief.\nQ: Why?\nA:"),
        ([("user", "a"), ("assistant", "b"), ("user", "c")], "Q: a\nA: b\nQ: c\nA:"),
    ],
)
def test_the_template_asks_questions(server: Server, messages: list[tuple[str, str]], prompt: str) -> None:
    body = {"messages": [{"role": role, "content": content} for role, content in messages]}
    assert json.loads(server.ask("POST", "/apply-template", body).body)["prompt"] == prompt


def test_it_says_what_it_is(server: Server, model: Path) -> None:
    props = json.loads(server.ask("GET", "/props").body)
    assert props["model_path"] == str(model)
    assert props["model_ftype"].startswith("Q4_K")
    assert props["total_slots"] == 1
    assert props["default_generation_settings"]["n_ctx"] == 1024
    assert props["chat_template"]
    entry = json.loads(server.ask("GET", "/v1/models").body)["data"][0]
    assert entry["id"] == "embedded"
    assert entry["meta"]["n_ctx_train"] == 32768
    assert [slot["id"] for slot in json.loads(server.ask("GET", "/slots").body)] == [0]


def test_it_counts_its_work(server: Server) -> None:
    before = server.metric("tokens_predicted_total")
    server.chat("What is the capital of France?")
    assert _eventually(lambda: server.metric("tokens_predicted_total") > before)


def test_a_web_page_of_another_site_may_not_read_its_answers(server: Server) -> None:
    answer = server.ask("GET", "/v1/models", headers={"Origin": "http://elsewhere.example"})
    assert not answer.headers.get("Access-Control-Allow-Origin")


def test_it_stops_working_when_the_client_leaves(server: Server) -> None:
    body = {"prompt": "Once upon a time", "n_predict": 900, "ignore_eos": True, "stop": ["never said"], "stream": True}
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=_BOUND_S)
    connection.request("POST", "/completion", json.dumps(body))
    response = connection.getresponse()
    assert response.readline().startswith(b"data: ")
    assert server.metric("requests_processing") == 1
    before = server.metric("tokens_predicted_total")
    response.close()
    connection.close()
    assert _eventually(lambda: server.metric("requests_processing") == 0)
    assert server.metric("tokens_predicted_total") - before < 900


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_within_a_second_in_the_middle_of_a_stream(model: Path, number: signal.Signals) -> None:
    with _started("-m", str(model), "--port", "0", "-c", "512", "--alias", "other") as server:
        assert json.loads(server.ask("GET", "/v1/models").body)["data"][0]["id"] == "other"
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=_BOUND_S)
        connection.request("POST", "/completion", json.dumps({"prompt": "a", "ignore_eos": True, "stream": True}))
        response = connection.getresponse()
        response.readline()
        asked = time.monotonic()
        server.process.send_signal(number)
        assert server.process.wait(_BOUND_S) == 0
        assert time.monotonic() - asked < 1.0
        connection.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_loading_kills_at_once(model: Path, number: signal.Signals) -> None:
    loading = re.compile("loading model '")
    with _started("-m", str(model), "--port", "0", "-c", "512", await_line=loading) as server:
        asked = time.monotonic()
        server.process.send_signal(number)
        assert server.process.wait(_BOUND_S) == -number
        assert time.monotonic() - asked < 1.0


def test_health_says_503_while_loading(model: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with _started(
        "-m", str(model), "--port", str(port), "-c", "512", await_line=re.compile("loading model '")
    ) as server:
        server.port = port
        statuses: list[int] = []

        def ready() -> bool:
            statuses.append(server.ask("GET", "/health").status)
            return statuses[-1] == 200

        assert _eventually(ready)
    assert statuses[0] == 503
    assert set(statuses) == {503, 200}


def test_every_flag_reaches_the_engine(model: Path) -> None:
    flags = _FLAGS.split()
    with _started("-m", str(model), "--port", "0", "-c", "1024", "--chat-template", "chatml", *flags) as server:
        assert server.ask("GET", "/health").status == 200  # needs no key
        assert server.ask("GET", "/props").status == 401
        authorized = {"Authorization": "Bearer secret"}
        props = json.loads(server.ask("GET", "/props", headers=authorized).body)
        assert props["total_slots"] == 2
        assert props["default_generation_settings"]["n_ctx"] == 512
        assert props["default_generation_settings"]["params"]["seed"] == 7
        body = {"prompt": "Once upon a time", "ignore_eos": True}
        answer = json.loads(server.ask("POST", "/completion", body, authorized).body)
        assert answer["tokens_predicted"] == 8


def test_embeddings_are_served_when_asked_for(model: Path) -> None:
    with _started("-m", str(model), "--port", "0", "-c", "512", "--embeddings", "--pooling", "mean") as server:
        answer = server.ask("POST", "/v1/embeddings", {"input": "hello"})
        assert answer.status == 200
        assert len(json.loads(answer.body)["data"][0]["embedding"]) == 640


def test_a_model_that_is_not_there() -> None:
    done = _run("-m", "/nonexistent/x.gguf", "--port", "0")
    assert done.returncode == 1
    assert "failed to open GGUF file '/nonexistent/x.gguf'" in done.stderr
    assert "exiting due to model loading error" in done.stderr
    # Not its last line on every machine: the engine prints from a thread of its own.
    assert "error: cannot read the model '/nonexistent/x.gguf': No such file or directory" in done.stderr.splitlines()


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_text("hello", encoding="ascii")
    done = _run("-m", str(path), "--port", "0")
    assert done.returncode == 1
    assert f"error: the model '{path}' is no GGUF file" in done.stderr.splitlines()


def test_a_truncated_model(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    with model.open("rb") as whole:
        path.write_bytes(whole.read(1_000_000))
    done = _run("-m", str(path), "--port", "0")
    assert done.returncode == 1
    assert "error loading model" in done.stderr
    assert f"error: failed to load model '{path}'; the lines above say why" in done.stderr.splitlines()


def test_a_port_that_is_taken(model: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        done = _run("-m", str(model), "--port", str(port))
    assert done.returncode == 1
    assert f"error: cannot listen on 127.0.0.1:{port}: Address already in use" in done.stderr.splitlines()


def test_a_mistake_is_told_before_the_engine_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "xllamacpp.py").write_text("raise SystemExit('the engine was imported')\n", encoding="ascii")
    done = subprocess.run(
        [*_COMMAND, "-m", "x.gguf", "--no-such-flag"], env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True, timeout=_BOUND_S, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "error: invalid argument: --no-such-flag\n")


def test_an_engine_that_cannot_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "xllamacpp.py").write_text("raise ImportError('GLIBC_2.99 not found')\n", encoding="ascii")
    done = subprocess.run(
        [*_COMMAND, "-m", "x.gguf"], env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True, timeout=_BOUND_S, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "GLIBC_2.99 not found" in done.stderr
    assert "pip install 'llm-supervisord[embedded]'" in done.stderr


def test_the_version_of_what_is_not_installed() -> None:
    assert llama_server._version("no-such-distribution") == "(not installed)"


def test_version_and_help() -> None:
    version = _run("--version")
    assert (version.returncode, version.stderr) == (0, "")
    assert re.fullmatch(r"version: llm-supervisord \S+, llama.cpp of xllamacpp \S+\n", version.stdout)
    shown = _run("--help")
    assert shown.returncode == 0
    assert "--ctx-size N" in shown.stdout
