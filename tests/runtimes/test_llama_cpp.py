"""llama-server as described: its command line, and what its answers mean."""

import hashlib
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisord.core import ladder
from supervisord.core.ladder import Footprint
from supervisord.core.record import Identity
from supervisord.core.state import LifePolicy
from supervisord.runtimes.base import Address, BackendSpec, Counters, HttpAnswer, Launch, Readiness, RuntimeKind
from supervisord.runtimes.llama_cpp import LlamaCpp
from supervisord.runtimes.registry import RUNTIMES

LLAMA = LlamaCpp()
SPEC = BackendSpec(name="small", runtime=RuntimeKind.LLAMA_CPP, model="/models/small.gguf", models=("small", "s"))
ALWAYS = (
    "--model", "/models/small.gguf", "--host", "127.0.0.1", "--port", "4242", "--parallel", "1",
    "--alias", "small", "--metrics", "--slots",
)  # fmt: skip


def launch(
    spec: BackendSpec = SPEC, footprint: Footprint | None = None, offered: frozenset[str] = frozenset()
) -> Launch:
    return LLAMA.launch(spec, footprint or Footprint(), 4242, ("llama-server",), offered)


def flags(spec: BackendSpec = SPEC, footprint: Footprint | None = None) -> tuple[str, ...]:
    """What is said beyond that which always is."""
    argv = launch(spec, footprint).argv
    assert argv[: 1 + len(ALWAYS)] == ("llama-server", *ALWAYS)
    return argv[1 + len(ALWAYS) :]


def test_it_is_registered() -> None:
    assert isinstance(RUNTIMES[RuntimeKind.LLAMA_CPP], LlamaCpp)


# --- the command line ------------------------------------------------------------------------------------------------


def test_the_port_and_the_slots_are_always_said() -> None:
    assert launch().argv == ("llama-server", *ALWAYS)


def test_a_program_may_be_several_words() -> None:
    argv = LLAMA.launch(SPEC, Footprint(), 1, ("python", "-m", "server"), frozenset()).argv

    assert argv[:4] == ("python", "-m", "server", "--model")


@pytest.mark.parametrize(
    ("footprint", "expected"),
    [
        (Footprint(), ()),
        (Footprint(context=4096), ("--ctx-size", "4096")),
        (Footprint(cache_type="q8_0"), ("--cache-type-k", "q8_0", "--cache-type-v", "q8_0")),
        (Footprint(gpu_layers=24), ("--n-gpu-layers", "24")),
        (Footprint(gpu_layers=0), ("--n-gpu-layers", "0")),
        (Footprint(batch=512), ("--batch-size", "512")),
        (
            Footprint(context=512, cache_type="f16", gpu_layers=1, batch=64),
            (
                "--ctx-size", "512", "--cache-type-k", "f16", "--cache-type-v", "f16",
                "--n-gpu-layers", "1", "--batch-size", "64",
            ),
        ),
    ],
)  # fmt: skip
def test_the_footprint_is_said(footprint: Footprint, expected: tuple[str, ...]) -> None:
    assert flags(footprint=footprint) == expected


def test_the_context_is_what_one_request_may_use_and_the_server_divides_it() -> None:
    spec = replace(SPEC, life=LifePolicy(slots=4))
    argv = launch(spec, Footprint(context=8192)).argv

    assert argv[argv.index("--ctx-size") + 1] == "32768"
    assert argv[argv.index("--parallel") + 1] == "4"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (replace(SPEC, threads=6), ("--threads", "6")),
        (replace(SPEC, embeddings=True), ("--embeddings",)),
        (replace(SPEC, chat_template_file="/etc/t.jinja"), ("--chat-template-file", "/etc/t.jinja")),
        (replace(SPEC, tensor_split=(3, 1)), ("--tensor-split", "3,1")),
        (replace(SPEC, tensor_split=(0.75, 0.25)), ("--tensor-split", "0.75,0.25")),
        (replace(SPEC, args=("--mlock", "--threads", "2"), threads=6), ("--threads", "6", "--mlock", "--threads", "2")),
    ],
)
def test_the_options_are_said_and_what_a_person_wrote_comes_last(spec: BackendSpec, expected: tuple[str, ...]) -> None:
    assert flags(spec) == expected


@pytest.mark.parametrize(
    ("offered", "expected"),
    [
        (frozenset(), ()),
        (frozenset({"--offline"}), ("--offline",)),
        (frozenset({"--no-ui", "--mlock"}), ("--no-ui",)),
        (frozenset({"--cache-ram"}), ("--cache-ram", "0")),
        (frozenset({"--cache-ram", "--no-ui", "--offline"}), ("--offline", "--no-ui", "--cache-ram", "0")),
    ],
)
def test_only_a_flag_that_this_build_knows_is_used(offered: frozenset[str], expected: tuple[str, ...]) -> None:
    assert launch(offered=offered).argv[1 + len(ALWAYS) :] == expected


def test_a_crash_does_not_start_a_debugger() -> None:
    assert launch().env == {"GGML_NO_BACKTRACE": "1"}


def test_gpus_are_counted_as_nvidia_smi_counts_them() -> None:
    assert launch(replace(SPEC, gpus=("1", "GPU-5d3a"))).env == {
        "GGML_NO_BACKTRACE": "1",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": "1,GPU-5d3a",
    }


def test_a_persons_environment_wins() -> None:
    spec = replace(SPEC, gpus=("0",), env={"CUDA_VISIBLE_DEVICES": "3", "GGML_NO_BACKTRACE": "0", "A": "b"}, cwd="/srv")
    started = launch(spec)

    assert started.cwd == "/srv"
    assert started.env["CUDA_VISIBLE_DEVICES"] == "3"
    assert started.env["GGML_NO_BACKTRACE"] == "0"
    assert started.env["A"] == "b"


def test_it_answers_on_its_port_of_this_machine() -> None:
    assert LLAMA.address(replace(SPEC, host="127.0.0.2"), 4242) == Address("127.0.0.2", 4242)
    assert LLAMA.ready_path(SPEC) == "/health"


def test_each_rung_of_its_ladder_changes_the_command_line() -> None:
    base = Footprint(context=8192, gpu_layers=32)
    rungs = ladder.useful_rungs(base, LLAMA.ladder)
    lines = [launch(footprint=ladder.apply(base, rungs, rung)).argv for rung in range(len(rungs) + 1)]

    assert rungs == LLAMA.ladder
    assert len(set(lines)) == len(lines)


# --- readiness -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "meaning"),
    [
        (200, b'{"status":"ok"}', Readiness.READY),
        (503, b'{"error":{"message":"Loading model","type":"unavailable_error","code":503}}', Readiness.LOADING),
        (404, b"404 page not found", Readiness.BROKEN),
        (500, b"", Readiness.BROKEN),
        (302, b"", Readiness.BROKEN),
    ],
)
def test_readiness(status: int, body: bytes, meaning: Readiness) -> None:
    assert LLAMA.readiness(SPEC, HttpAnswer(status, body)) is meaning


# --- counters: /metrics of a server that answered one request of two tokens with eight -------------------------------

METRICS = b"""\
# HELP llamacpp:prompt_tokens_total Number of prompt tokens processed, excluding cached tokens
# TYPE llamacpp:prompt_tokens_total counter
llamacpp:prompt_tokens_total 2
# HELP llamacpp:prompt_tokens_cached_total Number of prompt tokens reused from the cache
# TYPE llamacpp:prompt_tokens_cached_total counter
llamacpp:prompt_tokens_cached_total 0
# HELP llamacpp:prompt_seconds_total Total time spent processing prompts
# TYPE llamacpp:prompt_seconds_total counter
llamacpp:prompt_seconds_total 0.013563
# HELP llamacpp:tokens_predicted_total Number of generation tokens processed
# TYPE llamacpp:tokens_predicted_total counter
llamacpp:tokens_predicted_total 8
# HELP llamacpp:n_decode_total Total number of llama_decode() calls, excluding speculative decoding
# TYPE llamacpp:n_decode_total counter
llamacpp:n_decode_total 8
# HELP llamacpp:n_tokens_max Largest observed sequence length (prompt + generation)
# TYPE llamacpp:n_tokens_max counter
llamacpp:n_tokens_max 9
# HELP llamacpp:prompt_tokens_seconds Average prompt throughput in tokens/s
# TYPE llamacpp:prompt_tokens_seconds gauge
llamacpp:prompt_tokens_seconds 147.46
# HELP llamacpp:predicted_tokens_seconds Average generation throughput in tokens/s
# TYPE llamacpp:predicted_tokens_seconds gauge
llamacpp:predicted_tokens_seconds nan
# HELP llamacpp:requests_processing Number of requests processing
# TYPE llamacpp:requests_processing gauge
llamacpp:requests_processing 1
# HELP llamacpp:requests_deferred Number of requests deferred
# TYPE llamacpp:requests_deferred gauge
llamacpp:requests_deferred 0
"""


def test_counters_are_the_work_and_who_is_busy() -> None:
    assert LLAMA.counters(HttpAnswer(200, METRICS)) == Counters(work=18.0, busy=1.0)


def test_a_batch_in_the_middle_of_a_prompt_is_progress() -> None:
    later = METRICS.replace(b"n_decode_total 8\n", b"n_decode_total 9\n")
    before, after = LLAMA.counters(HttpAnswer(200, METRICS)), LLAMA.counters(HttpAnswer(200, later))

    assert before
    assert after
    assert after.work > before.work


def test_averages_and_gauges_are_no_progress() -> None:
    later = METRICS.replace(b"seconds 147.46", b"seconds 99999").replace(b"n_tokens_max 9\n", b"n_tokens_max 900\n")

    assert LLAMA.counters(HttpAnswer(200, later)) == LLAMA.counters(HttpAnswer(200, METRICS))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"llamacpp:n_decode_total 3", Counters(3.0)),
        (b"llamacpp:tokens_predicted_total 1.5e+06\n", Counters(1.5e6)),
        (b"llamacpp:requests_processing 1\n", None),
        (b'{"error":{"code":501,"message":"This server does not support metrics endpoint."}}', None),
        (b"llamacpp:n_decode_total -\nllamacpp:n_decode_total e\nllamacpp:n_decode_total .\n", None),
        (b"", None),
    ],
)
def test_counters_of_odd_answers(body: bytes, expected: Counters | None) -> None:
    assert LLAMA.counters(HttpAnswer(200, body)) == expected


def test_an_error_has_no_counters() -> None:
    assert LLAMA.counters(HttpAnswer(501, METRICS)) is None


@given(st.binary(max_size=200), st.sampled_from([b"", b"llamacpp:n_decode_total ", b"llamacpp:requests_processing "]))
def test_no_answer_breaks_the_counters(junk: bytes, start: bytes) -> None:
    LLAMA.counters(HttpAnswer(200, start + junk))


# --- identity: /props and /v1/models of a real server, shortened -----------------------------------------------------

TEMPLATE = "{%- for message in messages -%}\n  {{- '<|im_start|>' + message.role + '\\n' + message.content }}"
PROPS = {
    "default_generation_settings": {"params": {"seed": 4294967295, "max_tokens": -1, "lora": []}, "n_ctx": 512},
    "total_slots": 2,
    "model_alias": "gemma",
    "model_ftype": "Q4_K - Medium",
    "model_path": "/models/gemma3-270m-q4_k_m.gguf",
    "modalities": {"vision": False, "video": False, "audio": False},
    "endpoint_slots": True,
    "endpoint_metrics": True,
    "chat_template": TEMPLATE,
    "bos_token": "<bos>",
    "eos_token": "<eos>",
    "build_info": "b10488-9d77fa172",
}
MODELS = {
    "models": [{"name": "gemma", "model": "gemma", "details": {"format": "gguf"}}],
    "object": "list",
    "data": [
        {
            "id": "gemma",
            "object": "model",
            "created": 1795236412,
            "owned_by": "llamacpp",
            "meta": {
                "vocab_type": 1,
                "n_vocab": 262144,
                "n_ctx": 512,
                "n_ctx_train": 32768,
                "n_embd": 640,
                "n_params": 268098176,
                "size": 246587904,
                "ftype": "Q4_K - Medium",
            },
        }
    ],
}


def answer(value: object, status: int = 200) -> HttpAnswer:
    return HttpAnswer(status, json.dumps(value).encode())


def test_identity_of_a_real_server() -> None:
    assert LLAMA.identity({"/props": answer(PROPS), "/v1/models": answer(MODELS)}) == Identity(
        model="/models/gemma3-270m-q4_k_m.gguf",
        quantization="Q4_K - Medium",
        context_length=512,
        template_hash=hashlib.sha256(TEMPLATE.encode()).hexdigest()[:16],
        build="b10488-9d77fa172",
        slots=2,
    )


def test_what_props_does_not_tell_the_list_of_models_does() -> None:
    assert LLAMA.identity({"/v1/models": answer(MODELS)}) == Identity(
        model="gemma", quantization="Q4_K - Medium", context_length=512
    )


def test_an_older_server_without_a_type_is_asked_in_the_other_place() -> None:
    old = {name: value for name, value in PROPS.items() if name != "model_ftype"}

    assert LLAMA.identity({"/props": answer(old), "/v1/models": answer(MODELS)}).quantization == "Q4_K - Medium"


@pytest.mark.parametrize(
    "props",
    [
        HttpAnswer(503, json.dumps(PROPS).encode()),
        HttpAnswer(200, b"<html>"),
        HttpAnswer(200, b"\xff\xfe"),
        HttpAnswer(200, b"[" * 100_000),
        answer([]),
        answer(None),
        answer({"default_generation_settings": [], "total_slots": True, "chat_template": 7, "model_path": ""}),
        answer({"default_generation_settings": {"n_ctx": "512"}, "total_slots": "2", "build_info": None}),
    ],
    ids=["loading", "html", "not text", "deep", "list", "null", "wrong kinds", "wrong kinds inside"],
)
@pytest.mark.parametrize("models", [None, {"data": []}, {"data": ["gemma"]}, {"data": {}}, {"data": [{"meta": 3}]}])
def test_what_is_not_told_stays_unknown(props: HttpAnswer, models: object) -> None:
    answers = {"/props": props} | ({} if models is None else {"/v1/models": answer(models)})

    assert LLAMA.identity(answers) == Identity()


def test_nothing_is_known_of_a_server_that_answers_nothing() -> None:
    assert LLAMA.identity({}) == Identity()


# --- the tokens of a request -----------------------------------------------------------------------------------------

CHAT = "/v1/chat/completions"


def raw_members(body: object) -> dict[str, bytes]:
    return {name: json.dumps(value).encode() for name, value in dict(body).items()}  # type: ignore[call-overload]


def counted(endpoint: str, body: object, *answers: HttpAnswer) -> tuple[list[tuple[str, object]], int | None]:
    """What the server was asked, and the count that came of its `answers`."""
    asking = LLAMA.count(endpoint, raw_members(body), "small")
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


def test_a_chat_is_rendered_and_then_counted() -> None:
    messages = [{"role": "user", "content": "Hi"}]
    body = {"model": "small", "messages": messages, "tools": [], "temperature": 1}

    asked, count = counted(CHAT, body, answer({"prompt": "<bos>Q: Hi"}), answer({"tokens": [2, 5, 9]}))

    assert asked == [
        ("/apply-template", {"messages": messages, "tools": []}),
        ("/tokenize", {"content": "<bos>Q: Hi", "add_special": True, "parse_special": True}),
    ]
    assert count == 3


def test_a_text_is_counted_as_it_is() -> None:
    asked, count = counted("/v1/completions", {"prompt": "Hi"}, answer({"tokens": [5]}))

    assert [path for path, _ in asked] == ["/tokenize"]
    assert count == 1


@pytest.mark.parametrize(
    ("endpoint", "body", "answers"),
    [
        (CHAT, {"messages": []}, [answer({"error": {}}, 400)]),
        (CHAT, {"messages": []}, [answer({"prompt": "Hi"}), answer({"error": {}}, 500)]),
        (CHAT, {"messages": []}, [answer({"prompt": "Hi"}), answer({"tokens": 3})]),
        ("/v1/completions", {"prompt": ["Hi", "there"]}, []),
        ("/v1/completions", {}, []),
        (CHAT, {"messages": []}, [answer({"prompt": "Hi"}), answer({"tokens": [1]}, 500)]),
        (CHAT, {"messages": []}, [answer({"prompt": 7})]),
        (CHAT, {"messages": []}, [HttpAnswer(200, b'{"prompt":"cut')]),
        (CHAT, {"messages": []}, [answer({"prompt": "Hi"}), HttpAnswer(200, b'{"tokens":[1,2')]),
        (CHAT, {"messages": []}, [answer({"prompt": "Hi"}), answer({"tokens": [{"id": 1, "piece": "H"}]})]),
    ],
)
def test_what_cannot_be_counted_is_unknown(endpoint: str, body: object, answers: list[HttpAnswer]) -> None:
    assert counted(endpoint, body, *answers)[1] is None


def test_other_requests_have_nothing_to_count() -> None:
    assert LLAMA.count("/v1/embeddings", {"input": b'"Hi"'}, "small") is None


def test_a_prompt_of_tokens_needs_nobody_to_count_it() -> None:
    assert counted("/v1/completions", {"prompt": [42, 71, 78]}) == ([], 3)


def test_nothing_of_a_prompt_is_decoded_on_its_way() -> None:
    """What a decoder would change: escapes, half a surrogate pair, digits beyond a double."""
    odd = b'[ {"content": "\\u00e9\\/\\ud83d", "x": 12345678901234567890123} ]'
    asking = LLAMA.count(CHAT, {"messages": odd, "tools": b"[ ]", "stream": b"true"}, "small")
    assert asking is not None
    assert next(asking).body == b'{"messages":' + odd + b',"tools":[ ]}'
    rendered = HttpAnswer(200, b'{ "prompt" : "\\u00e9 \\"prompt\\": \\ud83d" }\n')
    assert asking.send(rendered).body == (
        b'{"content":"\\u00e9 \\"prompt\\": \\ud83d" ,"add_special":true,"parse_special":true}'
    )


@pytest.mark.parametrize(("tokens", "count"), [(b"[]", 0), (b"[ ]", 0), (b"[7]", 1), (b"[1,\n2 , 3]", 3)])
def test_tokens_are_counted_without_being_read(tokens: bytes, count: int) -> None:
    answered = HttpAnswer(200, b'{"tokens":' + tokens + b"}")

    assert counted("/v1/completions", {"prompt": "Hi"}, answered)[1] == count


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "fits"), [(511, None, True), (512, None, False), (511, 4096, True), (513, 1, False)]
)
def test_a_prompt_fits_when_it_leaves_room_for_a_token(prompt: int, max_tokens: int | None, fits: bool) -> None:
    assert LLAMA.fits(prompt, max_tokens, 512) is fits


def test_it_does_not_say_what_would_fit() -> None:
    assert LLAMA.context_hint(("estimated maximum model length is 512",)) is None
