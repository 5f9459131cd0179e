"""The stub tells what llama-server tells, and shows the faults it is asked for."""

import asyncio
import json
import os
import signal
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from supervisord.adapters.health import HttpProbe
from supervisord.runtimes.base import Address
from tests.fakes.stub import StubProcess, read_log, stub_backend, write_wrapper
from tests.fakes.stub_options import parse

CHAT = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
USAGE = {"stream": True, "stream_options": {"include_usage": True}}

# As answered by the engine (xllamacpp 2026.10); test_real_engine_has_these_keys compares.
TIMINGS = {"cache_n", "prompt_n", "prompt_ms", "prompt_per_token_ms", "prompt_per_second"} | {
    "predicted_n",
    "predicted_ms",
    "predicted_per_token_ms",
    "predicted_per_second",
}
USED = {"completion_tokens", "prompt_tokens", "total_tokens", "prompt_tokens_details"}
COMMON = {"choices", "created", "id", "model", "system_fingerprint", "object"}
ANSWER = COMMON | {"usage", "timings"}
PROPS = {"default_generation_settings", "total_slots", "model_alias", "model_path", "model_ftype", "chat_template"} | {
    "build_info",
    "modalities",
    "bos_token",
    "eos_token",
    "is_sleeping",
}
META = {"vocab_type", "n_vocab", "n_ctx", "n_ctx_train", "n_embd", "n_params", "size", "ftype"}
COUNTERS = {"prompt_tokens_total", "tokens_predicted_total", "n_decode_total"} | {
    "requests_processing",
    "requests_deferred",
}


def a_session() -> aiohttp.ClientSession:
    """A connection for each request: llama-server closes after a stream without a word in its head."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True))


class Told:
    """What a server tells at each of its doors."""

    def __init__(self, port: int, session: aiohttp.ClientSession) -> None:
        self._at = f"http://127.0.0.1:{port}"
        self._session = session

    async def get(self, path: str) -> str:
        async with self._session.get(self._at + path) as response:
            return await response.text()

    async def post(self, path: str, **body: Any) -> str:
        async with self._session.post(self._at + path, json=body) as response:
            return await response.text()

    async def events(self, path: str, **body: Any) -> list[Any]:
        """The events of a stream; [DONE] must be the last of them and is left out."""
        texts = [part.removeprefix("data: ") for part in (await self.post(path, stream=True, **body)).split("\n\n")]
        assert texts[-2:] == ["[DONE]", ""]
        return [json.loads(text) for text in texts[:-2] if not text.startswith(":")]


async def check_keys(told: Told, *, embeddings: bool) -> None:
    """The keys that the supervisor reads, in every kind of answer."""
    assert json.loads(await told.get("/health")) == {"status": "ok"}
    assert set(json.loads(await told.get("/props"))) >= PROPS
    assert {"id", "n_ctx", "is_processing"} <= set(json.loads(await told.get("/slots"))[0])
    models = json.loads(await told.get("/v1/models"))
    assert {"models", "object", "data"} == set(models)
    assert set(models["data"][0]["meta"]) == META
    metrics = {line.split()[0] for line in (await told.get("/metrics")).splitlines() if not line.startswith("#")}
    assert metrics >= {f"llamacpp:{name}" for name in COUNTERS}
    assert set(json.loads(await told.post("/tokenize", content="hello"))) == {"tokens"}
    error = json.loads(await told.get("/nope"))["error"]
    assert (set(error), error["code"]) == ({"code", "message", "type"}, 404)
    await check_answer_keys(told)
    answer = json.loads(await told.post("/v1/embeddings", input="hi"))
    assert ("error" not in answer) == embeddings
    if not embeddings:
        assert set(answer["error"]) == {"code", "message", "type"}


async def check_answer_keys(told: Told) -> None:
    for path, body in (("/v1/chat/completions", CHAT), ("/v1/completions", {"prompt": "hi", "max_tokens": 3})):
        answer = json.loads(await told.post(path, **body))
        assert (set(answer), set(answer["timings"]), set(answer["usage"])) == (ANSWER, TIMINGS, USED)
        *tokens, last = await told.events(path, **body)
        assert all(set(token) == COMMON for token in tokens)
        assert set(last["timings"]) == TIMINGS
        assert last["choices"][0]["finish_reason"] in {"length", "stop"}
    first, *_, finish, usage = await told.events("/v1/chat/completions", **CHAT, stream_options=USAGE["stream_options"])
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": None}
    assert finish["choices"][0]["finish_reason"] in {"length", "stop"}
    assert "timings" not in finish
    assert (usage["choices"], set(usage)) == ([], ANSWER)
    too_long = json.loads(await told.post("/v1/completions", prompt="word " * 30_000))["error"]
    assert too_long["type"] == "exceed_context_size_error"
    assert {"n_prompt_tokens", "n_ctx"} <= set(too_long)


async def test_tells_what_llama_server_tells() -> None:
    async with stub_backend("-c", "2048") as stub, a_session() as session:
        await check_keys(Told(stub.port, session), embeddings=True)


@pytest.mark.engine
@pytest.mark.skipif(find_spec("xllamacpp") is None, reason="needs the embedded engine")
async def test_real_engine_has_these_keys() -> None:
    command = [sys.executable, "-m", "supervisord.cli.llama_server", "-m", "embedded", "--host", "127.0.0.1"]
    flags = ["--port", "0", "-c", "2048", "-np", "1", "--metrics", "--slots"]
    process = await asyncio.create_subprocess_exec(*command, *flags, stderr=asyncio.subprocess.PIPE)
    try:
        line = await StubProcess(process, 0).line("listening on http", within_s=60)
        port = int(line.strip().rpartition(":")[2])
        async with a_session() as session:
            await check_keys(Told(port, session), embeddings=False)
    finally:
        process.kill()
        await process.communicate()


async def test_flags_of_llama_server_are_understood_or_ignored() -> None:
    line = "-m /m/x.gguf --alias a --host 127.0.0.1 --port 9 -c 8192 -np 2 -ngl all -ctk q8_0 -ctv q8_0 --metrics"
    serving, faults, once = parse([*line.split(), "--slots", "--no-ui", "--cache-ram", "0", "--fit", "on"], {})
    assert (serving.model, serving.alias, serving.port, serving.ctx, serving.slots) == ("/m/x.gguf", "a", 9, 8192, 2)
    assert faults == parse([], {})[1]
    assert once == ""
    assert parse(["--slots", "3", "--tokens=7"], {})[0].slots == 3
    assert parse(["--tokens=7"], {"STUB_FAULTS": "--tokens 5 --status 500"})[0].tokens == 7
    assert parse([], {"STUB_FAULTS": "--tokens 5 --status 500"})[1].status == 500


async def test_is_up_quickly(tmp_path: Path) -> None:
    took = []
    for _ in range(3):
        began = time.monotonic()
        async with stub_backend():
            took.append(time.monotonic() - began)
    assert min(took) < 0.3, took


async def test_wrapper_is_a_program_that_takes_llama_servers_arguments(tmp_path: Path) -> None:
    program = write_wrapper(tmp_path / "llama-server", "--load-exit-oom")
    process = await asyncio.create_subprocess_exec(
        program, "-m", "x.gguf", "--port", "0", cwd=tmp_path, stderr=asyncio.subprocess.PIPE
    )
    _, log = await asyncio.wait_for(process.communicate(), 10)
    assert process.returncode == 1
    assert b"cudaMalloc failed: out of memory" in log
    assert b"exiting due to model loading error" in log


async def ask(stub: StubProcess, **body: Any) -> tuple[int, str]:
    url = f"http://127.0.0.1:{stub.port}/v1/chat/completions"
    async with aiohttp.ClientSession() as session, session.post(url, json={**CHAT, **body}) as response:
        return response.status, await response.text()


async def test_requests_beyond_the_slots_wait_in_order(tmp_path: Path) -> None:
    log, peak = tmp_path / "log", tmp_path / "peak"
    flags = ("--request-log", str(log), "--max-concurrent-report", str(peak), "--prefill-seconds", "0.05", "-np", "2")
    async with stub_backend(*flags) as stub, asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(ask(stub, messages=[{"role": "user", "content": f"n{number}"}]))
    told = read_log(log)
    assert [line["outcome"] for line in told] == ["done"] * 5
    assert peak.read_text().split()[-1] == "5"
    by_start = sorted(told, key=lambda line: line["start"])
    assert [line["id"] for line in by_start] == [1, 2, 3, 4, 5]
    for line in told:
        assert sum(other["start"] <= line["start"] < other["end"] for other in told) <= 2


async def test_load_with_log_then_ready() -> None:
    async with stub_backend("--load-seconds", "0.3", "--load-log-every", "0.05", wait_ready=False) as stub:
        await stub.line("load_tensors: 0.0")
        await stub.line("load_tensors: 0.1")
        await stub.line("all idle")


async def test_load_stall() -> None:
    async with stub_backend("--load-stall", wait_ready=False) as stub, HttpProbeContext() as probe:
        await asyncio.sleep(0.2)
        assert (await probe.get(Address("127.0.0.1", stub.port), "/health", 2)).status == 503


class HttpProbeContext(HttpProbe):
    async def __aenter__(self) -> HttpProbe:
        return self

    async def __aexit__(self, *args: object) -> None:
        await self.close()


async def test_oom_above_a_context() -> None:
    async with stub_backend("--load-oom-above-ctx", "4096", "-c", "8192", wait_ready=False) as stub:
        assert await stub.ended() == 1
    async with stub_backend("--load-oom-above-ctx", "4096", "-c", "4096") as stub:
        assert (await ask(stub))[0] == 200


async def test_term_while_loading_and_when_ready_and_ignored() -> None:
    async with stub_backend("--load-stall", wait_ready=False) as stub:
        stub.process.terminate()
        assert await stub.ended() == -signal.SIGTERM
    async with stub_backend() as stub:
        stub.process.terminate()
        assert await stub.ended() == 0
    async with stub_backend("--ignore-term") as stub:
        stub.process.terminate()
        assert (await ask(stub))[0] == 200


async def test_exit_after_ready() -> None:
    async with stub_backend("--exit-after-ready", "0.05", "--exit-status", "7") as stub:
        assert await stub.ended() == 7


@pytest.mark.parametrize(
    ("flags", "status"),
    [
        (("--die-before-first-byte", "2"), -signal.SIGKILL),
        (("--die-mid-stream", "2"), -signal.SIGKILL),
        (("--abort-with-cuda-oom-on-request", "2"), -signal.SIGABRT),
    ],
)
async def test_dies_at_its_second_request_and_in_its_first_generation_only(
    flags: tuple[str, ...], status: int, tmp_path: Path
) -> None:
    once = tmp_path / "struck"
    async with stub_backend(*flags, "--once-file", str(once)) as stub:
        assert (await ask(stub, stream=True))[0] == 200
        assert not once.exists()
        with pytest.raises(aiohttp.ClientError):
            await ask(stub, stream=True)
        assert await stub.ended() == status
        assert once.exists()
    async with stub_backend(*flags, "--once-file", str(once)) as stub:
        for _ in range(3):
            assert (await ask(stub, stream=True))[1].endswith("data: [DONE]\n\n")


async def test_status_for_the_first_times_only() -> None:
    async with stub_backend("--status", "503", "--times", "2") as stub:
        assert [(await ask(stub))[0] for _ in range(4)] == [503, 503, 200, 200]


async def test_hung_engine_keeps_health_and_nothing_else() -> None:
    async with stub_backend("--hang-on-request", "2") as stub, HttpProbeContext() as probe:
        assert (await ask(stub))[0] == 200
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await ask(stub)
        assert (await probe.get(Address("127.0.0.1", stub.port), "/health", 2)).status == 200
        for path in ("/metrics", "/slots"):
            with pytest.raises(Exception, match="no answer"):
                await probe.get(Address("127.0.0.1", stub.port), path, 0.1)


async def test_hang_mid_stream_sends_pings_and_no_token() -> None:
    async with stub_backend("--hang-mid-stream", "1", "--ping-every", "0.05") as stub:
        async with aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{stub.port}/v1/chat/completions"
            async with session.post(url, json={**CHAT, **USAGE, "max_tokens": 8}) as response:
                text = b""
                async with asyncio.timeout(5):
                    while text.count(b": ping") < 4:
                        text += await response.content.readany()
        assert text.count(b'"content":"t') == 4
        assert b"[DONE]" not in text


async def test_error_event_and_done() -> None:
    async with stub_backend("--error-event-then-done") as stub:
        status, text = await ask(stub, stream=True)
        assert (status, text.endswith("data: [DONE]\n\n")) == (200, True)
        assert json.loads(text.split("\n\n")[0].removeprefix("data: "))["error"]["code"] == 500


async def test_embeddings_can_fail() -> None:
    async with stub_backend("--fail-embeddings", "501") as stub, a_session() as session:
        told = Told(stub.port, session)
        assert json.loads(await told.post("/v1/embeddings", input="hi"))["error"]["type"] == "not_supported_error"


async def test_worker_outlives_it_in_a_session_of_its_own() -> None:
    async with stub_backend("--fork-worker", wait_ready=False) as stub:
        worker = psutil.Process(int((await stub.line("worker pid")).split()[-1]))
        try:
            stub.process.kill()
            await stub.process.wait()
            assert worker.is_running()
            assert worker.cmdline()[0] == "sleep"
            assert os.getsid(worker.pid) == worker.pid
        finally:
            worker.kill()  # it holds the pipe that this test reads, too


async def test_log_flood_does_not_stop_it() -> None:
    async with stub_backend("--log-flood", "3000000", wait_ready=False) as stub:
        await stub.line("flood done")
        assert (await ask(stub))[0] == 200


async def test_metrics_move() -> None:
    async with stub_backend() as stub, a_session() as session:
        told = Told(stub.port, session)
        for _ in range(2):
            await ask(stub)
        assert "llamacpp:tokens_predicted_total 6" in await told.get("/metrics")


@pytest.mark.parametrize("aligned", [(), ("--aligned",)])
async def test_pace_and_stamp(aligned: tuple[str, ...]) -> None:
    async with stub_backend("--token-rate", "100", "--stamp", "--tokens", "20", *aligned) as stub:
        _, text = await ask(stub, stream=True, max_tokens=20)
        stamps = [int(part.partition(" ")[0]) for part in text.split("@")[1:]]
        assert len(stamps) == 20
        assert 0.15e9 < stamps[-1] - stamps[0] < 0.4e9


async def test_plain_answer_is_paced_too() -> None:
    async with stub_backend("--token-rate", "100", "--tokens", "10", "--chunk-bytes", "50") as stub:
        began = time.monotonic()
        _, text = await ask(stub, max_tokens=10)
        assert time.monotonic() - began >= 0.1
        assert len(json.loads(text)["choices"][0]["message"]["content"]) == 500
