"""What backends of vLLM, of a command and of a remote address become, and what each kind has by default."""

import pytest

from supervisord.config.parse import parse
from supervisord.config.places import Surroundings
from supervisord.core.exits import CauseKind, Signature
from supervisord.core.ladder import Footprint, Rung, Shrink
from supervisord.core.state import LifePolicy
from supervisord.runtimes.base import BackendSpec, CommandOptions, RemoteOptions, RuntimeKind, VllmOptions

AROUND = Surroundings({"KEY": "sk-secret", "EMPTY": ""}, "/home/ada", root=False, folder="/srv/conf")


def backend(lines: str) -> BackendSpec:
    """The backend `a` with these settings, one a line."""
    inside = "".join(f"    {line}\n" for line in lines.splitlines())
    return parse(f"backends:\n  a:\n{inside}".encode(), file="f", around=AROUND).backends[0]


# --- vLLM ------------------------------------------------------------------------------------------------------------


def test_every_setting_of_vllm_arrives() -> None:
    spec = backend("""\
runtime: vllm
model: ./qwen
binary: ~/venv/bin/python
context: 32k
gpu_memory_utilization: 85%
kv_cache_memory: 8GiB
max_num_seqs: 32
tensor_parallel: 2
gpus: [0, 1]
dtype: bfloat16
quantization: fp8
enforce_eager: true
prefix_caching: false
chat_template: t.jinja
threads: 4
args: [--seed, 1]
slots: 48
""")
    assert spec == BackendSpec(
        name="a",
        runtime=RuntimeKind.VLLM,
        model="/srv/conf/qwen",
        models=("a",),
        binary="/home/ada/venv/bin/python",
        footprint=Footprint(context=32_768, gpu_utilization=0.85, sequences=32),
        gpus=("0", "1"),
        threads=4,
        chat_template_file="/srv/conf/t.jinja",
        args=("--seed", "1"),
        life=LifePolicy(slots=48),
        vllm=VllmOptions("bfloat16", "fp8", 8 * 2**30, 2, enforce_eager=True, prefix_caching=False),
    )


def test_what_is_left_out_of_vllm() -> None:
    assert backend("runtime: vllm\nmodel: m") == BackendSpec(
        name="a",
        runtime=RuntimeKind.VLLM,
        model="m",
        models=("a",),
        footprint=Footprint(gpu_utilization=0.9, sequences=64),
        life=LifePolicy(slots=64),
    )


def test_sequences_follow_the_slots() -> None:
    assert backend("runtime: vllm\nmodel: m\nslots: 8").footprint.sequences == 8


@pytest.mark.parametrize(
    ("written", "model"),
    [
        ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B"),
        ("gpt2", "gpt2"),
        ("/models/q", "/models/q"),
        ("./q", "/srv/conf/q"),
        ("../q", "/srv/conf/../q"),
        ("~/q", "/home/ada/q"),
    ],
)
@pytest.mark.parametrize("kind", ["runtime: vllm", 'runtime: command\ncommand: [x, "${port}"]'])
def test_a_model_is_a_path_or_a_name(kind: str, written: str, model: str) -> None:
    assert backend(f"{kind}\nmodel: {written}").model == model


def test_the_ladder_of_vllm() -> None:
    ladder = "[{context: fitting}, {gpu_memory: -5%}, {gpu_memory: -0.1}, {sequences: 50%}, {context: 0.5}]"
    assert backend(f"runtime: vllm\nmodel: m\nladder: {ladder}").rungs == (
        Rung(Shrink.FITTING),
        Rung(Shrink.GPU_UTILIZATION, 0.05),
        Rung(Shrink.GPU_UTILIZATION, 0.1),
        Rung(Shrink.SEQUENCES, 0.5),
        Rung(Shrink.CONTEXT, 0.5),
    )
    assert backend("runtime: vllm\nmodel: m\nladder: []").rungs == ()
    assert backend("runtime: vllm\nmodel: m").rungs is None


# --- command ---------------------------------------------------------------------------------------------------------


def test_every_setting_of_a_command_arrives() -> None:
    """Only ${env:…} is the file's own; the rest is replaced when the server starts."""
    spec = backend("""\
runtime: command
command: [./serve, --port, "${port}", "--host=${host}", "${model}x${slots}", "${env:KEY}", "${other}", 5, ""]
model: /m
env: {PORT: "${port}", N: "${slots}"}
stop: [docker, stop, "a-${port}"]
health: {path: "/ready?deep=1", status: 204}
signatures: [{kind: gpu_oom, words: no memory, unless: retrying}, {kind: configuration, words: bad flag}]
threads: 3
slots: 2
""")
    assert spec == BackendSpec(
        name="a",
        runtime=RuntimeKind.COMMAND,
        model="/m",
        models=("a",),
        env={"PORT": "${port}", "N": "${slots}"},
        threads=3,
        life=LifePolicy(slots=2),
        command=CommandOptions(
            argv=(
                *("/srv/conf/serve", "--port", "${port}", "--host=${host}"),
                *("${model}x${slots}", "sk-secret", "${other}", "5", ""),
            ),
            health_path="/ready?deep=1",
            health_status=204,
            stop=("docker", "stop", "a-${port}"),
            signatures=(
                Signature(CauseKind.GPU_OOM, "no memory", "retrying"),
                Signature(CauseKind.CONFIGURATION, "bad flag"),
            ),
        ),
    )


@pytest.mark.parametrize(
    "told", ['command: [x, "--port=${port}"]', 'command: [x]\nenv: {P: "${port}"}', "command: [x]\nport: 9001"]
)
def test_what_is_left_out_of_a_command(told: str) -> None:
    spec = backend(f"runtime: command\n{told}")
    assert spec.command is not None
    assert (spec.model, spec.slots, spec.rungs) == ("", 1, None)
    assert spec.command == CommandOptions(argv=spec.command.argv)


# --- remote ----------------------------------------------------------------------------------------------------------


def test_every_setting_of_a_remote_arrives() -> None:
    spec = backend("""\
runtime: remote
url: https://api.example.com:8443/v1/
key: ${env:KEY}
upstream_model: gpt-4o
health: {path: /health}
breaker: {failures: 7}
slots: 3
token_budget: 1k
probe_interval: 5s
""")
    assert spec == BackendSpec(
        name="a",
        runtime=RuntimeKind.REMOTE,
        model="",
        models=("a",),
        upstream_model="gpt-4o",
        life=LifePolicy(slots=3, token_budget=1024, breaker=7),
        probe_interval_s=5.0,
        remote=RemoteOptions("https://api.example.com:8443/v1", "sk-secret", "/health"),
    )
    assert "sk-secret" not in repr(spec)


def test_what_is_left_out_of_a_remote() -> None:
    spec = backend("runtime: remote\nurl: http://127.0.0.1:9000")
    assert spec.remote == RemoteOptions("http://127.0.0.1:9000")
    assert spec.probe_interval_s == 30.0
    assert (spec.life, spec.autostart) == (LifePolicy(slots=16, breaker=3), True)


@pytest.mark.parametrize(
    ("written", "key"), [("${env:KEY}", "sk-secret"), ("${env:KEY:-}", "sk-secret"), ("${env:NO:-}", ""), ("", "")]
)
def test_keys(written: str, key: str) -> None:
    spec = backend(f"runtime: remote\nurl: https://a.example\nkey: {written}")
    assert spec.remote is not None
    assert spec.remote.key == key
    assert type(spec.remote.key) is str


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "[::1]"])
def test_a_key_may_go_to_this_machine_in_clear(host: str) -> None:
    spec = backend(f'runtime: remote\nurl: "http://{host}:9000/v1"\nkey: ${{env:KEY}}')
    assert spec.remote is not None
    assert spec.remote.key == "sk-secret"


# --- all of them -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "cpus"),
    [
        ("0-3,16", (0, 1, 2, 3, 16)),
        ("5", (5,)),
        ("[3, 1, '1-2', 0]", (0, 1, 2, 3)),
        ("'0, 2'", (0, 2)),
        ("[]", ()),
        ("8191", (8191,)),
    ],
)
def test_processors(written: str, cpus: tuple[int, ...]) -> None:
    assert backend(f"model: m\ncpus: {written}").cpus == cpus


def test_llama_cpp_is_what_is_meant_where_nothing_is_said() -> None:
    assert backend("model: m") == backend("runtime: llama.cpp\nmodel: m") == backend("runtime:\nmodel: m")
