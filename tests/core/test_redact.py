"""What leaves the machine: planted secrets and prompts are found wherever they are, and the rest stays readable."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisord.core.redact import HOME, PROMPT, REMOVED, SECRET, redact, redact_text

# A letter that no text around it has: wherever it is seen, something of a secret was left.
PLANT = "ƛ"
secrets = st.text("abcXYZ0189-_", min_size=2, max_size=30).map(lambda text: f"s{PLANT}{text}{PLANT}9")

ISSUED = [
    "sk-abc123", "sk-proj-a_b-c9", "sk-ant-api03-xyzxyz", "hf_AbCdEfGh", "ghp_0123456789", "github_pat_11AB_cdef",
    "AKIAIOSFODNN7EXAMPLE", "ASIAABCDEFGH", "AIzaSyA-0123456789abcdefghi_jklmno", "xoxb-1234567890-abc",
    "glpat-abcdefgh1", "nvapi-abcdefgh1", "gsk_abcdefgh1", "eyJhbGciOiJI.eyJzdWIi.SflKxw-RJ",
    "npm_abcdefghij0123456789",
]  # fmt: skip


@pytest.mark.parametrize("secret", ISSUED)
@pytest.mark.parametrize("around", ["{}", "failed with {}.", "x={}&y", '{{"a": ["{}"]}}', "({})", "/{}/", "'{}'"])
def test_secrets_are_known_by_their_shape(secret: str, around: str) -> None:
    told = redact_text(around.format(secret))
    assert secret not in str(told.value)
    assert told.value == around.format(REMOVED)
    assert told.removed == {SECRET: 1}


# Ways a secret is written, with {} in its place.
WRITTEN = [
    "--api-key {}", "--api-key={}", "-hft {}", "llama-server --hf-token {} --port 80", "HF_TOKEN={}",
    "env OPENAI_API_KEY='{}' x", "AWS_SECRET_ACCESS_KEY={} b", "Authorization: Bearer {}", "authorization: {}",
    "curl -H 'Authorization: Basic {}' host", "x-api-key: {}", "Cookie: session={}; other={}", "Bearer {}",
    "https://user:{}@host/path", "authorization: Digest {}",
    "'Authorization': 'ApiKey one {}'", "https://{}@host", "https://host/x?token={}&b=1", "https://host/?a=1&api_key={}",
    "{{'api_key': '{}'}}", '{{"password":"{}"}}', "args: {{'api_key': ['{}', '{}'], 'model': 'q'}}",
    "Namespace(api_key='{}')", "secret : {}", "key = {}", "it said: my_token={}", "a: b: password={}",
    "-----BEGIN RSA PRIVATE KEY-----\n{}\n-----END RSA PRIVATE KEY-----\nnext", "-----BEGIN PRIVATE KEY----- {}",
    "passphrase={}", "credentials: {}", "SetCookie: {}", "http_proxy=http://me:{}@proxy:1", '"api_key": "a\\"{}"',
]  # fmt: skip


@pytest.mark.parametrize("written", WRITTEN)
@given(secret=secrets)
@settings(max_examples=20, deadline=None)
def test_secrets_are_known_by_what_stands_before_them(written: str, secret: str) -> None:
    text = written.replace("{}", secret).replace("{{", "{").replace("}}", "}")
    told = redact_text(text)
    assert PLANT not in str(told.value), told.value
    assert told.removed.get(SECRET, 0) >= 1
    assert REMOVED in str(told.value)


names = st.builds(
    lambda before, word, after: f"{before}{word}{after}",
    st.sampled_from(["", "my_", "HF_", "x-", "client", "db."]),
    st.sampled_from(["key", "KEY", "token", "Token", "secret", "password", "passwd", "credential", "authorization"]),
    st.sampled_from(["", "_v2", "s", "-id", "Value", "_type", "_limit"]),
)
plain_names = st.sampled_from(["at", "argv", "env", "facts", "because", "message", "rung", "log", "deep"])
harmless = st.none() | st.booleans() | st.integers() | st.sampled_from(["ok", "GPU out of memory", "--port", "8080"])
planted_texts = st.builds(
    lambda written, secret: written.replace("{}", secret).replace("{{", "{").replace("}}", "}"),
    st.sampled_from(WRITTEN),
    secrets,
)
planted_argv = st.builds(
    lambda before, flag, secret, after: [*before, flag, secret, *after],
    st.lists(st.sampled_from(["llama-server", "--port", "1", "--verbose"]), max_size=3),
    st.sampled_from(["--api-key", "--hf-token", "-hft", "--ssl-key-password", "--admin-secret"]),
    secrets,
    st.lists(st.sampled_from(["--port", "1"]), max_size=2),
)
client_names = st.sampled_from(
    ["prompt", "messages", "content", "input", "Prompt", "generated_text", "prompt_token_ids"]
)
inner = st.recursive(
    harmless | planted_texts | planted_argv,
    lambda children: (
        st.lists(children, max_size=4)
        | st.dictionaries(plain_names, children, max_size=4)
        | st.dictionaries(names | client_names, secrets | st.lists(secrets, min_size=1, max_size=2), max_size=2)
        | st.dictionaries(names | client_names, st.dictionaries(plain_names, secrets, min_size=1), max_size=1)
    ),
    max_leaves=12,
)


@given(inner)
@settings(max_examples=400, deadline=None)
def test_no_planted_secret_is_left_in_any_value(value: object) -> None:
    told = redact(value)
    text = json.dumps(told.value, ensure_ascii=False)
    assert PLANT not in text
    assert (PLANT in json.dumps(value, ensure_ascii=False)) == (sum(told.removed.values()) > 0)


READABLE = [
    "print_info: EOS token        = 151645 '<|im_end|>'",
    "prompt eval time =     12.31 ms /    14 tokens (    0.88 ms per token,  1137.00 tokens per second)",
    "slot launch_slot_: id  0 | task 0 | processing task",
    "slot update_slots: id  0 | task 0 | new prompt, n_ctx_slot = 4096, n_keep = 0, n_prompt_tokens = 12",
    "llama_model_loader: - kv   3:                tokenizer.ggml.model str              = gpt2",
    "llama_kv_cache: size =  512.00 MiB (  4096 cells,  32 layers,  1/ 1 seqs), K (q8_0):  256.00 MiB",
    "common_init_from_params: setting dry_penalty_last_n to ctx_size = 4096",
    "CUDA error: out of memory",
    "KeyError: 'model.layers.0.self_attn.q_proj.weight'",
    "error loading model: key not found in model: llama.context_length",
    "GGML_ASSERT(n_tokens <= n_batch) failed",
    "INFO 11-18 12:00:01 [loggers.py:118] Engine 000: Avg prompt throughput: 12.3 tokens/s, Running: 1 reqs",
    "INFO non-default args: {'model': 'Qwen/Qwen2-7B', 'max_num_batched_tokens': 8192, 'tokenizer': 'Qwen/Qwen2-7B'}",
    "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`",
    "Namespace(api_key=None, hf_token=None, max_tokens=100)",
    "NVRM: Xid (PCI:0000:01:00): 79, pid=1234, GPU has fallen off the bus.",
    "--ssl-key-file /etc/ssl/x.pem --tokenizer-mode auto --max-tokens 100",
    "starting qwen on 127.0.0.1:8080: http://127.0.0.1:8080/v1/models answered 200",
    "my password is wrong",
    "/homework/x /rooted /usr/home2",
]


@pytest.mark.parametrize("line", READABLE)
def test_what_is_no_secret_stays(line: str) -> None:
    told = redact_text(line)
    assert (told.value, told.removed) == (line, {})


def test_figures_and_absences_stay_under_any_name() -> None:
    value: dict[str, object] = {
        "tokens_out": 5,
        "api_key": None,
        "max_tokens": 1.5,
        "key": "host",
        "prompt": "",
        "keys": [],
        "token": True,
    }
    assert redact(value).value == value
    assert redact({"key": "GPU-1", "pool": {"key": "MIG-2"}}).removed == {}
    assert redact({"password": 12345, "pools": [{"key": "other"}]}).value == {
        "password": REMOVED, "pools": [{"key": REMOVED}],
    }  # fmt: skip
    assert redact_text("password=12345 token=12345").value == f"password={REMOVED} token=12345"


def test_an_argv_loses_what_belongs_to_a_flag_of_a_secret() -> None:
    argv = ["vllm", "--api-key", "a", "b", "--port", "80", "--model", "/home/anna/m.gguf", "-hft", "-c"]
    told = redact({"argv": argv, "env": {"HF_TOKEN": "x", "HOME": "/root"}})
    assert told.value == {
        "argv": ["vllm", "--api-key", REMOVED, REMOVED, "--port", "80", "--model", "~/m.gguf", "-hft", REMOVED],
        "env": {"HF_TOKEN": REMOVED, "HOME": "~"},
    }
    assert told.removed == {SECRET: 4, HOME: 2}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/home/anna/x", "~/x"), ("/var/home/anna", "~"), ("/Users/anna/Library", "~/Library"),
        ("/root/.cache", "~/.cache"),
        ("open '/home/anna'", "open '~'"), ("file:///home/anna/x", "file://~/x"), ("a:/home/anna:b", "a:~:b"),
    ],
)  # fmt: skip
def test_names_in_home_folders_become_a_tilde(text: str, told: str) -> None:
    assert redact_text(text).value == told
    assert redact_text(text).removed == {HOME: 1}


# As llama.cpp and vLLM write requests and answers when they are told to.
PROMPTS = [
    "INFO 11-18 12:00:01 Received request cmpl-1: prompt: 'ƛ dear diary', params: SamplingParams(n=1)",
    "INFO Request chatcmpl-1 details: prompt: None, prompt_token_ids: [1, 2, ƛ]",
    'srv  log_server_r: request:  {"messages":[{"role":"user","content":"ƛ"}]}',
    'srv  log_server_r: response: {"choices":[{"message":{"content":"ƛ"}}]}',
    'Parsed message: {"role":"assistant","content":"ƛ"}',
    "Parsing input with format Content-only: ƛ",
    "slot update_slots: id 0 | task 0 | prompt token   0:  12 'ƛ'",
    "slot process_token: id 0 | n_decoded = 1, n_remaining = 9, next token:  12 'ƛ'",
    "Generated response chatcmpl-1: output: 'ƛ', finish_reason: stop",
    "{'prompt': 'ƛ'}",
    'body: {"input": ["ƛ"]}',
    'bad request body: "text": "ƛ"',
]


@pytest.mark.parametrize("line", PROMPTS)
def test_prompts_are_cut_off(line: str) -> None:
    told = redact_text(line)
    assert PLANT not in str(told.value)
    assert told.removed == {PROMPT: 1}
    assert str(told.value).split(REMOVED)[0] in line


def test_the_rest_of_a_prompt_on_further_lines_goes_too() -> None:
    log = [
        "INFO started",
        "srv  x: request: {",
        '  "messages": "ƛ',
        "ƛ the second line",
        "",
        "srv  y: done",
        "INFO 11-18 12:00:01 [loggers.py:118] as it was",
    ]
    told = redact({"log": log})
    assert told.value == {
        "log": [
            "INFO started",
            f"srv  x: request: {REMOVED}",
            REMOVED,
            REMOVED,
            REMOVED,
            "srv  y: done",
            "INFO 11-18 12:00:01 [loggers.py:118] as it was",
        ]
    }
    assert told.removed == {PROMPT: 4}


def test_slots_of_llama_cpp_are_told_without_their_texts() -> None:
    slots = [{"id": 0, "is_processing": True, "prompt": "ƛ", "n_past": 12, "params": {"grammar": "ƛ", "n_predict": 5}}]
    assert redact({"diagnosis": {"slots": slots}}).value == {
        "diagnosis": {"slots": [{"id": 0, "is_processing": True, "prompt": REMOVED, "n_past": 12,
                                 "params": {"grammar": REMOVED, "n_predict": 5}}]}
    }  # fmt: skip


def test_what_was_redacted_stays_as_it_is() -> None:
    once = redact({"argv": ["--api-key", "x"], "log": [line.replace("ƛ", "q") for line in PROMPTS], "t": "a_key=b"})
    twice = redact(once.value)
    assert twice.value == once.value


def test_what_is_nested_too_deep_is_left_out() -> None:
    value: object = "ƛ"
    for _ in range(100):
        value = {"a": value}
    assert PLANT not in json.dumps(redact(value).value)


@pytest.mark.parametrize(
    "text",
    ["a" * 200_000, "key=" * 50_000, "://a" * 50_000, "\"'" * 100_000, "-----BEGIN " * 20_000, "prompt" * 30_000,
     "/home/" * 30_000, "parsing input " * 15_000, "a.-_" * 50_000, "generated response " * 10_000, "[" * 200_000,
     "authorization: " * 13_000, "sk-" * 60_000, "eyJ" * 60_000, "\\" * 200_000, "key='" * 40_000],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_a_hostile_line_costs_no_more_than_another(text: str) -> None:
    """200 KB: none may take time by the square of its length."""
    began = time.process_time()
    redact_text(text)
    assert time.process_time() - began < 2.0
