"""Prompts that go on for lines of a log: what ends them, what is told all the same, and where a line is quoted."""

import json

import pytest

from supervisord.core.incident import LOG_LINES
from supervisord.core.redact import PROMPT, REMOVED, redact

OPENER = "srv  params_from_: Parsing input with format Content-only: Dear diary,"
CUT = f"srv  params_from_: Parsing input with format Content-only: {REMOVED}"

# Lines of a prompt that begin as lines of a log might.
PROSE = [
    "main idea: my affair", "main: my affair", "build a house for us", "build: it", "common ground", "common_name: Bob",
    "Killed by love", "Aborted mission", "CUDA is what I learn", "load the car", "init", "slot machines", "slot 7: won",
    "ERROR in my life", "INFO: she left", "INFO about us", "WARNING: we met", "DEBUG my heart", "2024-11-21 we met",
    "2024-11-21 07:14:05 we met", "[2024-11-21 07:14:05] Bob: hi", "[Bob] hi", "12.30 in Paris", "llama farm",
    "llama: an animal", "ggml is fun", "que sera", "srv is short", "TypeError: of love", "KeyError", "File my taxes",
    "Traceback of us", "system_info: x", "(Bob pid=7) we met", "(EngineCore pid=17531) we met in Paris",
    "user_name: bob",
    "ROCm is on", "Vulkan the god", "load_my_heart: x", "CUDA error: \"what\" does she mean?", "terminate called him",
    "  what she said", "main.cpp:12: error: my code", "free beer", "", "}", REMOVED,
]  # fmt: skip


@pytest.mark.parametrize("line", PROSE)
def test_prose_does_not_end_a_prompt(line: str) -> None:
    told = redact({"log": [OPENER, line, "and she cried"]})
    assert told.value == {"log": [CUT, REMOVED, REMOVED]}


LINES = [
    "0.06.377.734 I srv          init: model loaded",
    "srv          init: model loaded",
    "srv    operator(): operator(): cleaning up before exit...",
    "que    start_loop: waiting for new tasks",
    "slot launch_slot_: id  0 | task 0 | processing task, is_child = 0",
    "slot      release: id -1 | task 12 | stop processing",
    "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 49800.00 MiB on device 1: cudaMalloc failed: out of memory",
    "llama_model_load_from_file_impl: failed to load model",
    "common_init_from_params: failed to create context with model '/models/big.gguf'",
    "main: exiting due to model loading error",
    "INFO 11-21 07:14:05 [logger.py:42] Added request",
    "(EngineCore pid=17531) ERROR 11-21 08:02:10 [core.py:1512] EngineCore encountered a fatal error.",
    "(EngineCore_DP0 pid=17374) INFO 09-28 15:47:24 [core.py:718] x",
    "INFO 03-02 09:11:20 gpu_executor.py:76] # GPU blocks: 1270",
    "INFO:     127.0.0.1:40122 - \"POST /v1/chat/completions HTTP/1.1\" 400 Bad Request",
    "(APIServer pid=17210) INFO:     Shutting down",
    "ERROR:    Exception in ASGI application",
    "time=2026-03-15T11:39:07.071+01:00 level=INFO source=sched.go:754 msg=x",
    "2026-01-04T15:28:51.204106Z ERROR text_generation_launcher: Shard 0 failed to start",
    "[2026-01-04 15:28:44 TP0] Scheduler hit an exception",
]  # fmt: skip


@pytest.mark.parametrize("line", LINES)
def test_a_line_as_a_server_begins_it_ends_a_prompt(line: str) -> None:
    told = redact({"log": [OPENER, line, "as it was"]})
    assert told.value == {"log": [CUT, line, "as it was"]}


@pytest.mark.parametrize("line", LINES)
def test_once_a_prompt_went_on_only_such_lines_are_trusted(line: str) -> None:
    """A client may send a log, and ask what it means."""
    told = redact({"log": [OPENER, "I have this log:", line, "I am Bob", line]})
    assert told.value == {"log": [CUT, REMOVED, line, REMOVED, line]}


ENDS = [
    "CUDA error: out of memory",
    "CUDA error: an illegal memory access was encountered",
    "  current device: 0, in function alloc at /src/ggml/src/ggml-cuda/ggml-cuda.cu:477",
    "/src/ggml/src/ggml-cuda/ggml-cuda.cu:90: CUDA error",
    "/src/src/llama-context.cpp:1204: GGML_ASSERT(n_tokens_all <= cparams.n_batch) failed",
    "GGML_ASSERT(n_tokens <= n_batch) failed",
    "Traceback (most recent call last):",
    '  File "/venv/lib/python3.12/site-packages/vllm/v1/core/kv_cache_utils.py", line 726, in check',
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.50 GiB",
    "terminate called after throwing an instance of 'std::bad_alloc'",
    "  what():  std::bad_alloc",
    "Segmentation fault (core dumped)",
    "Killed",
    "(EngineCore pid=17531) Traceback (most recent call last):",
]


@pytest.mark.parametrize("line", ENDS)
def test_the_end_of_a_process_is_told_within_a_prompt_and_does_not_end_it(line: str) -> None:
    told = redact({"log": [OPENER, line, "and she cried", line]})
    assert told.value == {"log": [CUT, line, REMOVED, line]}


def test_the_name_of_an_exception_counts_below_a_traceback() -> None:
    log = [OPENER, "KeyError: 'diary'", "Traceback (most recent call last):", "    return diary", "KeyError: 'seed'"]
    assert redact({"log": log}).value == {"log": [CUT, REMOVED, log[2], REMOVED, log[4]]}
    log = [OPENER, log[2], "srv  update_slots: x", OPENER, log[4]]
    assert redact({"log": log}).value == {"log": [CUT, log[1], log[2], CUT, REMOVED]}


def test_vllm_repeats_the_head_of_a_message_before_each_line_of_it() -> None:
    head = "(APIServer pid=7) INFO 11-21 07:14:05 [entrypoints/openai/serving_chat.py:42] "
    later = "(APIServer pid=7) INFO 11-21 07:14:05 [entrypoints/openai/serving_chat.py:43] next"
    told = redact({"log": [f"{head}prompt: 'Dear diary,", f"{head}and she cried'", later, f"{head}as it was"]})
    assert told.value == {"log": [f"{head}prompt: {REMOVED}", REMOVED, later, f"{head}as it was"]}
    llama = "slot process_token: id 0 | next token: 12 'x'"
    assert redact({"log": [llama, llama]}).value == {"log": [f"slot process_token: id 0 | next token: {REMOVED}"] * 2}


def test_a_log_that_begins_in_the_middle_may_begin_within_a_prompt() -> None:
    rest = ["srv  update_slots: x"] * (LOG_LINES - 3)
    told = redact({"log": ["and she cried", "CUDA error: out of memory", *rest, "as it was"]})
    assert told.value == {"log": [REMOVED, "CUDA error: out of memory", *rest, "as it was"]}
    whole = {"log": ["as it was", *rest]}
    assert redact(whole).value == whole
    another_make = {"log": ["as it was"] * LOG_LINES}
    assert redact(another_make).value == another_make


# --- quotations ------------------------------------------------------------------------------------------------------

LONG = "and she cried while we walked along the river, " + "and so on, " * 50 + "to the very end"


def quoted(last: str, **also: object) -> str:
    """An incident as the rule of a crash tells it, exported: all but its log."""
    capital = last[0].upper() + last[1:]
    document = {
        "log": [OPENER, "we met in Paris", f"  {last}"],
        "summary": f"ended by status 1: {last}",
        "headline": last,
        "story": {
            "parts": [{"lines": [f"{capital.rstrip('.')}.", f"The last it wrote: {last[:399]}…", "It is kept."]}]
        },
        "verdict": [{"because": f"its log says: {last}", "evidence": ["we met in Paris", last]}],
        "events": [{"message": f"big: ready -> parked: ended by status 1: {last}; it is kept", last: 1}],
        **also,
    }
    told = redact(document).value
    assert isinstance(told, dict)
    assert told.pop("log") == [CUT, REMOVED, REMOVED]
    return json.dumps(told)


@pytest.mark.parametrize("last", ["and she cried", LONG, "with a stop at its end.", "Bob is my only friend: he knows"])
def test_what_is_blanked_in_a_log_is_blanked_where_it_is_quoted(last: str) -> None:
    told = quoted(last).replace("].;", "];")
    assert not [word for word in ("cried", "Paris", "river", "stop", "Bob", "knows") if word in told], told
    assert told.count("It is kept.") == told.count("it is kept") == 1
    assert f"ended by status 1: {REMOVED}" in told
    assert f"ready -> parked: ended by status 1: {REMOVED}; it is kept" in told


def test_a_tiny_line_is_blanked_where_it_is_all_that_is_quoted() -> None:
    document = {"log": [OPENER, "the", "Bob."], "summary": "the end: Bob", "said": "The", "text_": "the GPU: of Bob"}
    assert redact(document).value == {
        "log": [CUT, REMOVED, REMOVED], "summary": f"the end: {REMOVED}", "said": REMOVED, "text_": "the GPU: of Bob",
    }  # fmt: skip


def test_a_phrase_counts_where_a_quotation_begins() -> None:
    document = {"log": [OPENER, "and then"], "a": "it was tried and then parked", "b": "its log says: and then; more"}
    told = redact({**document, "c": "and thence", "d": 'said "and then"'}).value
    assert told == {
        "log": [CUT, REMOVED], "a": document["a"], "b": f"its log says: {REMOVED}; more", "c": "and thence",
        "d": f'said "{REMOVED}"',
    }  # fmt: skip


def test_the_longest_of_like_lines_is_taken() -> None:
    lines = ["and she cried while we walked along the river", "and she cried while we walked along the sea for long"]
    lines += ["dear old Bob", "dear old Bob and I"]
    told = redact({"log": [OPENER, *lines], "a": f"x: {lines[1]}, y", "b": f"x: {lines[3]}, y", "c": f"x: {lines[0]}"})
    assert told.value == {
        "log": [CUT, *[REMOVED] * 4], "a": f"x: {REMOVED}, y", "b": f"x: {REMOVED}, y", "c": f"x: {REMOVED}",
    }  # fmt: skip
    assert told.removed == {PROMPT: 8}


def test_a_line_is_known_by_its_beginning_wherever_it_was_cut_off() -> None:
    line = "and she cried while we walked along the river to the sea"
    told = redact({"log": [OPENER, line], "a": f"x: {line[:45]}; parked", "b": f"x: {line[:30]}; parked"}).value
    assert told == {"log": [CUT, REMOVED], "a": f"x: {REMOVED}; parked", "b": f"x: {line[:30]}; parked"}


def test_of_many_like_lines_all_that_follows_goes() -> None:
    same = "and she cried while we walked along the river "
    told = redact({"log": [OPENER, *(f"{same}{number}" for number in range(20))], "a": f"x: {same}to the sea"})
    assert isinstance(told.value, dict)
    assert told.value["a"] == f"x: {REMOVED}"


def test_a_line_that_was_altered_is_altered_where_it_was_cut_short() -> None:
    line = "while connecting to the hub at https://anna:hunter2hunter2@hub.example/x it failed"
    documents = {
        "log": [line],
        "a": f"its log says: {line[:50]}…",
        "b": f"its log says: {line}",
        "c": f"{line[:45]}ther",
    }
    altered = f"while connecting to the hub at https://{REMOVED}@hub.example/x it failed"
    assert redact(documents).value == {
        "log": [altered], "a": f"its log says: {altered}…", "b": f"its log says: {altered}", "c": f"{line[:45]}ther",
    }  # fmt: skip


def test_what_was_blanked_in_logs_that_are_no_part_of_it_is_blanked_too() -> None:
    value = {"events": [{"message": "ended by status 1: and she cried"}], "log": ["srv  update_slots: x"]}
    assert redact(value).removed == {}
    told = redact(value, logs=[["INFO started"], [OPENER, "and she cried"]])
    assert told.value == {"events": [{"message": f"ended by status 1: {REMOVED}"}], "log": ["srv  update_slots: x"]}
    assert told.removed == {PROMPT: 1}
