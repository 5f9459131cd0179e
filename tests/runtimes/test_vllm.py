"""vLLM as described: its command line, and what its answers mean."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisord.core import ladder
from supervisord.core.ladder import Footprint, Rung, Shrink
from supervisord.core.record import Identity
from supervisord.core.state import LifePolicy
from supervisord.runtimes.base import (
    Address,
    BackendSpec,
    Counters,
    HttpAnswer,
    Launch,
    Readiness,
    Runtime,
    RuntimeKind,
    VllmOptions,
)
from supervisord.runtimes.vllm import Vllm

VLLM: Runtime = Vllm()
SPEC = BackendSpec(name="big", runtime=RuntimeKind.VLLM, model="org/big", models=("big", "b"))
ALWAYS = (
    "--host", "127.0.0.1", "--port", "4242", "--served-model-name", "big", "b", "--disable-uvicorn-access-log",
    "--max-num-seqs", "1",
)  # fmt: skip
ENVIRONMENT = {"VLLM_ENGINE_READY_TIMEOUT_S": "604800", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


def launch(spec: BackendSpec = SPEC, footprint: Footprint | None = None, program: str = "/opt/vllm/bin/vllm") -> Launch:
    return VLLM.launch(spec, footprint or Footprint(), 4242, (program,), frozenset())


def flags(spec: BackendSpec = SPEC, footprint: Footprint | None = None) -> tuple[str, ...]:
    """What is said beyond that which always is."""
    argv = launch(spec, footprint).argv
    assert argv[: 3 + len(ALWAYS)] == ("/opt/vllm/bin/vllm", "serve", "org/big", *ALWAYS)
    return argv[3 + len(ALWAYS) :]


# --- the command line ------------------------------------------------------------------------------------------------


def test_its_program_serves_a_model() -> None:
    assert launch().argv == ("/opt/vllm/bin/vllm", "serve", "org/big", *ALWAYS)


@pytest.mark.parametrize("program", ["/opt/vllm/bin/python", "/usr/bin/python3.11", "python3"])
def test_the_python_of_its_environment_runs_its_module(program: str) -> None:
    assert launch(program=program).argv == (
        program, "-m", "vllm.entrypoints.openai.api_server", "--model", "org/big", *ALWAYS,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("upstream", "names"), [("", ("big", "b")), ("served", ("served", "big", "b")), ("b", ("b", "big"))]
)
def test_it_answers_to_every_name(upstream: str, names: tuple[str, ...]) -> None:
    argv = launch(replace(SPEC, upstream_model=upstream)).argv
    first = argv.index("--served-model-name") + 1

    assert argv[first : argv.index("--disable-uvicorn-access-log")] == names


@pytest.mark.parametrize(
    ("footprint", "expected"),
    [
        (Footprint(), ()),
        (Footprint(context=4096), ("--max-model-len", "4096")),
        (Footprint(gpu_utilization=0.87), ("--gpu-memory-utilization", "0.87")),
        (Footprint(gpu_utilization=1.0), ("--gpu-memory-utilization", "1")),
        (Footprint(cache_type="q8_0", gpu_layers=3, batch=64), ()),  # llama.cpp's
        (
            Footprint(context=512, gpu_utilization=0.5),
            ("--max-model-len", "512", "--gpu-memory-utilization", "0.5"),
        ),
    ],
)
def test_the_footprint_is_said(footprint: Footprint, expected: tuple[str, ...]) -> None:
    assert flags(footprint=footprint) == expected


@pytest.mark.parametrize(("sequences", "expected"), [(None, "64"), (32, "32")])
def test_as_many_sequences_as_slots_unless_memory_allows_fewer(sequences: int | None, expected: str) -> None:
    argv = launch(replace(SPEC, life=LifePolicy(slots=64)), Footprint(sequences=sequences)).argv

    assert argv[argv.index("--max-num-seqs") + 1] == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (VllmOptions(), ()),
        (VllmOptions(dtype="bfloat16"), ("--dtype", "bfloat16")),
        (VllmOptions(quantization="awq"), ("--quantization", "awq")),
        (VllmOptions(kv_cache_memory=1 << 30), ("--kv-cache-memory-bytes", "1073741824")),
        (VllmOptions(tensor_parallel=2), ("--tensor-parallel-size", "2")),
        (VllmOptions(enforce_eager=True), ("--enforce-eager",)),
        (VllmOptions(prefix_caching=True), ("--enable-prefix-caching",)),
        (VllmOptions(prefix_caching=False), ("--no-enable-prefix-caching",)),
    ],
)
def test_its_own_options_are_said(options: VllmOptions, expected: tuple[str, ...]) -> None:
    assert flags(replace(SPEC, vllm=options)) == expected


def test_what_a_person_wrote_comes_last() -> None:
    spec = replace(SPEC, chat_template_file="/etc/t.jinja", args=("--max-num-seqs", "8"), cwd="/srv")

    assert flags(spec) == ("--chat-template", "/etc/t.jinja", "--max-num-seqs", "8")
    assert launch(spec).cwd == "/srv"


@pytest.mark.parametrize(
    ("spec", "more"),
    [
        (SPEC, {}),
        (replace(SPEC, model="/models/big"), {"HF_HUB_OFFLINE": "1"}),
        (replace(SPEC, threads=6), {"OMP_NUM_THREADS": "6", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}),
        (
            replace(SPEC, gpus=("1", "GPU-5d3a")),
            {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "1,GPU-5d3a"},
        ),
        (replace(SPEC, gpus=("0",), env={"CUDA_VISIBLE_DEVICES": "3"}), {
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "3",
        }),
        (replace(SPEC, env={"VLLM_NO_USAGE_STATS": "0", "A": "b"}), {"VLLM_NO_USAGE_STATS": "0", "A": "b"}),
    ],
)  # fmt: skip
def test_the_environment_and_that_a_persons_wins(spec: BackendSpec, more: dict[str, str]) -> None:
    assert launch(spec).env == ENVIRONMENT | more


def test_it_answers_on_its_port_of_this_machine() -> None:
    assert VLLM.address(replace(SPEC, host="127.0.0.2"), 4242) == Address("127.0.0.2", 4242)
    assert VLLM.ready_path(SPEC) == "/health"


def test_each_rung_of_its_ladder_changes_the_command_line() -> None:
    base = Footprint(context=8192, sequences=64)
    rungs = ladder.useful_rungs(base, VLLM.ladder, fitting_context=6000)
    lines = [
        launch(footprint=ladder.apply(base, rungs, rung, fitting_context=6000)).argv for rung in range(len(rungs) + 1)
    ]

    assert rungs == VLLM.ladder
    assert len(set(lines)) == len(lines)


def test_a_rung_of_another_runtime_is_no_use() -> None:
    assert ladder.useful_rungs(Footprint(), (Rung(Shrink.GPU_LAYERS, 0.5),)) == ()


# --- readiness -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "meaning"),
    [(200, Readiness.READY), (503, Readiness.BROKEN), (404, Readiness.BROKEN), (500, Readiness.BROKEN)],
)
def test_readiness(status: int, meaning: Readiness) -> None:
    assert VLLM.readiness(SPEC, HttpAnswer(status, b"")) is meaning


# --- counters: /metrics of a real server, shortened ------------------------------------------------------------------

METRICS = b"""\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="tiny"} 1.0
# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="tiny"} 2.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="tiny",reason="capacity"} 2.0
vllm:kv_cache_usage_perc{engine="0",model_name="tiny"} 0.0009775171065493637
vllm:prefix_cache_queries_total{engine="0",model_name="tiny"} 2159.0
vllm:num_preemptions_total{engine="0",model_name="tiny"} 4.0
vllm:num_preemptions_created{engine="0",model_name="tiny"} 1.795245023946607e+09
vllm:prompt_tokens_total{engine="0",model_name="tiny"} 136.0
vllm:prompt_tokens_created{engine="0",model_name="tiny"} 1.795245023946607e+09
vllm:prompt_tokens_by_source_total{engine="0",model_name="tiny",source="local_compute"} 136.0
vllm:generation_tokens_total{engine="0",model_name="tiny"} 2028.0
vllm:iteration_tokens_total_sum{engine="0",model_name="tiny"} 2164.0
vllm:cache_config_info{_block_size_resolved="True",block_size="128",cache_dtype="auto",\
effective_attention_block_size="128",engine="0",gpu_memory_utilization="0.92",hash_block_size="None",\
kv_cache_memory_bytes="67108864",kv_cache_size_tokens="131000",num_cpu_blocks="None",num_gpu_blocks="1024",\
num_gpu_blocks_override="None",user_specified_block_size="False"} 1.0
"""
EXPECTED = Counters(
    work=2164.0, busy=1.0, waiting=2.0, preemptions=4.0, kv_used=0.0009775171065493637, kv_tokens=131_000
)


def test_counters_of_a_real_server() -> None:
    assert VLLM.counters(HttpAnswer(200, METRICS)) == EXPECTED


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (b'kv_cache_size_tokens="None"', 1024 * 128),
        (b'mamba_block_size="7"', 1024 * 128),  # older versions tell the blocks only
    ],
)
def test_the_capacity_of_an_older_version_is_told_in_blocks(told: bytes, expected: int) -> None:
    counters = VLLM.counters(HttpAnswer(200, METRICS.replace(b'kv_cache_size_tokens="131000"', told)))

    assert counters
    assert counters.kv_tokens == expected


def test_a_capacity_that_is_not_told_is_unknown() -> None:
    without = METRICS.replace(b'kv_cache_size_tokens="131000",', b"").replace(b'"1024"', b'"None"')

    assert VLLM.counters(HttpAnswer(200, without)) == replace(EXPECTED, kv_tokens=None)


def test_several_engines_are_added_up_but_for_the_cache() -> None:
    second = METRICS.replace(b'engine="0"', b'engine="1"').replace(b"0.0009775171065493637", b"0.5")

    assert VLLM.counters(HttpAnswer(200, METRICS + second)) == Counters(4328.0, 2.0, 4.0, 8.0, 0.5, 131_000)


@pytest.mark.parametrize("name", [b"a b", b'} 7', b'x\\"} 1.0', b"prompt_tokens_total 9", b"{}"])  # fmt: skip
def test_no_name_of_a_model_confuses_it(name: bytes) -> None:
    assert VLLM.counters(HttpAnswer(200, METRICS.replace(b'"tiny"', b'"' + name + b'"'))) == EXPECTED


def test_gauges_are_no_progress() -> None:
    later = METRICS.replace(b"running{engine=\"0\",model_name=\"tiny\"} 1.0", b"running{engine=\"0\"} 9.0")  # fmt: skip
    counters = VLLM.counters(HttpAnswer(200, later))

    assert counters == replace(EXPECTED, busy=9.0)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'vllm:generation_tokens_total{engine="0"} 3', Counters(3.0)),
        (b'vllm:prompt_tokens_total{engine="0"} 1.5e+06\n', Counters(1.5e6)),
        (b'vllm:num_requests_running{engine="0"} 1.0\n', None),
        (b'vllm:prompt_tokens_total{engine="0"} NaN\n', None),
        (b"vllm:prompt_tokens_total{\n} 3\n", None),
        (b'{"error": {"code": 404}}', None),
        (b"", None),
    ],
)
def test_counters_of_odd_answers(body: bytes, expected: Counters | None) -> None:
    assert VLLM.counters(HttpAnswer(200, body)) == expected


def test_an_error_has_no_counters() -> None:
    assert VLLM.counters(HttpAnswer(404, METRICS)) is None


@given(st.binary(max_size=200), st.sampled_from([b"", b"vllm:prompt_tokens_total{", b'vllm:cache_config_info{a="']))
def test_no_answer_breaks_the_counters(junk: bytes, start: bytes) -> None:
    VLLM.counters(HttpAnswer(200, start + junk))


# --- identity: the answers of a real server, shortened ---------------------------------------------------------------

MODELS = {
    "object": "list",
    "data": [
        {"id": "big", "object": "model", "owned_by": "vllm", "root": "/models/big", "parent": None,
         "max_model_len": 1024, "permission": [{"id": "modelperm-8f32356d73fa7c09", "allow_logprobs": True}]},
        {"id": "b", "object": "model", "owned_by": "vllm", "root": "/models/big", "parent": None,
         "max_model_len": 1024, "permission": []},
    ],
}  # fmt: skip


def answer(value: object, status: int = 200) -> HttpAnswer:
    return HttpAnswer(status, json.dumps(value).encode())


def test_identity_of_a_real_server() -> None:
    answers = {"/v1/models": answer(MODELS), "/version": answer({"version": "0.32.0"})}

    assert tuple(answers) == VLLM.identity_paths
    assert VLLM.identity(answers) == Identity(model="/models/big", context_length=1024, build="0.32.0")


@pytest.mark.parametrize(
    "models",
    [
        answer(MODELS, 401),
        HttpAnswer(200, b"<html>"),
        HttpAnswer(200, b"[" * 100_000),
        answer(None),
        answer({"data": []}),
        answer({"data": {}}),
        answer({"data": ["big"]}),
        answer({"data": [{"root": "", "id": 7, "max_model_len": "1024"}]}),
        answer({"data": [{"max_model_len": True}]}),
    ],
)
@pytest.mark.parametrize("version", [answer({"version": 7}), answer([]), HttpAnswer(404, b"")])
def test_what_is_not_told_stays_unknown(models: HttpAnswer, version: HttpAnswer) -> None:
    assert VLLM.identity({"/v1/models": models, "/version": version}) == Identity()
    assert VLLM.identity({}) == Identity()


def test_a_model_without_a_root_has_a_name() -> None:
    assert VLLM.identity({"/v1/models": answer({"data": [{"id": "big"}]})}) == Identity(model="big")


# --- the tokens of a request -----------------------------------------------------------------------------------------

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


def raw_members(body: object) -> dict[str, bytes]:
    return {name: json.dumps(value).encode() for name, value in dict(body).items()}  # type: ignore[call-overload]


def counted(endpoint: str, body: object, *answers: HttpAnswer) -> tuple[list[tuple[str, object]], int | None]:
    """What the server was asked, and the count that came of its `answers`."""
    asking = VLLM.count(endpoint, raw_members(body), "served")
    assert asking is not None
    asked: list[tuple[str, object]] = []
    left = iter(answers)
    try:
        call = next(asking)
        while True:
            asked.append((call.path, json.loads(call.body)))
            call = asking.send(next(left))
    except StopIteration as end:
        assert next(left, None) is None, "an answer was left over"
        return asked, end.value


def test_a_chat_is_counted_with_all_that_decides_its_prompt() -> None:
    rendered = {
        "messages": [{"role": "user", "content": "Hi"}],
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "chat_template_kwargs": {"enable_thinking": False},
    }
    body = {"model": "big", "temperature": 1, "stream": True, **rendered}

    asked, count = counted(CHAT, body, answer({"count": 28, "max_model_len": 1024, "tokens": [30]}))

    assert asked == [("/tokenize", {"model": "served", **rendered})]
    assert count == 28


def test_a_text_is_counted_as_it_is() -> None:
    asked, count = counted(TEXT, {"prompt": "Hi", "add_special_tokens": False, "echo": True}, answer({"count": 3}))

    assert asked == [("/tokenize", {"model": "served", "prompt": "Hi", "add_special_tokens": False})]
    assert count == 3


def test_a_prompt_of_tokens_needs_nobody_to_count_it() -> None:
    assert counted(TEXT, {"prompt": [42, 71, 78]}) == ([], 3)


@pytest.mark.parametrize(
    ("endpoint", "body", "answers"),
    [
        (CHAT, {"messages": []}, [answer({"error": {}}, 400)]),
        (CHAT, {"messages": []}, [answer({"count": "3"})]),
        (CHAT, {"messages": []}, [answer({"counter": 3})]),
        (CHAT, {"messages": []}, [answer({"count": 3}, 500)]),
        (CHAT, {}, []),
        (TEXT, {"prompt": "Hi"}, [HttpAnswer(200, b"<html>")]),
        (TEXT, {"prompt": ["Hi", "there"]}, []),
        (TEXT, {"prompt": [[1, 2], [3]]}, []),
        (TEXT, {"prompt": None}, []),
    ],
)
def test_what_cannot_be_counted_is_unknown(endpoint: str, body: object, answers: list[HttpAnswer]) -> None:
    assert counted(endpoint, body, *answers)[1] is None


def test_other_requests_have_nothing_to_count() -> None:
    assert VLLM.count("/v1/embeddings", {"input": b'"Hi"'}, "served") is None


def test_nothing_of_a_prompt_is_decoded_on_its_way() -> None:
    """What a decoder would change: escapes, half a surrogate pair, digits beyond a double."""
    odd = b'[ {"content": "\\u00e9\\/\\ud83d", "x": 12345678901234567890123} ]'
    asking = VLLM.count(CHAT, {"stream": b"true", "messages": odd}, 'the "served"')
    assert asking is not None
    assert next(asking).body == b'{"model":"the \\"served\\"","messages":' + odd + b"}"


def test_the_count_is_read_and_not_the_tokens() -> None:
    told = b'{"tokens":[1,2,3],"token_strs":["\\"count\\": 9"], "count" : 3 ,"max_model_len":1024}'

    assert counted(TEXT, {"prompt": "Hi"}, HttpAnswer(200, told))[1] == 3


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "fits"),
    [
        (1023, None, True),
        (1024, None, False),  # "max_tokens must be at least 1, got 0"
        (1023, 1, True),
        (1000, 100, True),  # cut short at the end of the context
        (8, 1024, True),
        (8, 1025, False),  # "max_tokens=1025 cannot be greater than max_model_len=1024"
    ],
)
def test_what_fits_is_what_the_real_one_takes(prompt: int, max_tokens: int | None, fits: bool) -> None:
    assert VLLM.fits(prompt, max_tokens, 1024) is fits


# --- the context that would fit --------------------------------------------------------------------------------------


def test_the_last_word_on_what_would_fit_counts() -> None:
    log = (
        "(EngineCore pid=1) ERROR Based on the available memory, the estimated maximum model length is 4096. Try ...",
        "ValueError: Based on the available memory, the estimated maximum model length is 1792. Try increasing",
        "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': 1}",
    )

    assert VLLM.context_hint(log) == 1792
    assert VLLM.context_hint(log[2:]) is None
    assert VLLM.context_hint(()) is None
