"""Mistakes in settings of one runtime, with the exact words people get, and in the places of backends."""

import pytest

from tests.fakes.config_problems import problems

VLLM = "runtime: vllm\n    model: m"
COMMAND = 'runtime: command\n    command: [x, "${port}"]'
REMOTE = "runtime: remote\n    url: https://api.example.com/v1"
LLAMA_CPP = "it is a setting of llama.cpp"
LOCAL = "it is a setting of llama.cpp, vllm and command"


def backend(kind: str, line: str) -> str:
    """A file with one backend of a kind, whose fifth line is `line`."""
    return f"backends:\n  a:\n    {kind}\n    {line}\n"


@pytest.mark.parametrize(
    ("kind", "line", "where", "message"),
    [
        (VLLM, "gpu_layers: 3", "gpu_layers", f"does not apply to runtime vllm; {LLAMA_CPP}"),
        (VLLM, "url: x", "url", "does not apply to runtime vllm; it is a setting of remote"),
        (VLLM, "tensor_paralel: 3", "tensor_paralel", 'unknown setting; did you mean "tensor_parallel"?'),
        (VLLM, "ladder: [{kv: q8_0}]", "ladder[0].kv", f"does not apply to runtime vllm; {LLAMA_CPP}"),
        (VLLM, "ladder: [{sequence: 1}]", "ladder[0].sequence", 'unknown setting; did you mean "sequences"?'),
        (REMOTE, "gpus: [0]", "gpus", f"does not apply to runtime remote; {LOCAL}"),
        (REMOTE, "memory: {vram: 1GiB}", "memory", f"does not apply to runtime remote; {LOCAL}"),
        (
            REMOTE,
            "health: {status: 200}",
            "health.status",
            "does not apply to runtime remote; it is a setting of command",
        ),
        (COMMAND, "args: [x]", "args", "does not apply to runtime command; it is a setting of llama.cpp and vllm"),
        (
            COMMAND,
            "health: {pth: /x}",
            "health.pth",
            'unknown setting; did you mean "path"?',
        ),
    ],
)
def test_a_setting_of_another_runtime(kind: str, line: str, where: str, message: str) -> None:
    assert problems(backend(kind, line)) == [(f"backends.a.{where}", message, 5)]


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("vlm", '"vlm" is not a runtime; did you mean "vllm"?'),
        ("ollama", '"ollama" is not a runtime; write llama.cpp, vllm, command or remote'),
        ("5", '"5" is not a runtime; write llama.cpp, vllm, command or remote'),
        ("[vllm]", "a list is not a runtime; write llama.cpp, vllm, command or remote"),
    ],
)
def test_a_runtime_that_is_none_is_one_problem(written: str, message: str) -> None:
    """Not one for each setting of a runtime that nobody knows."""
    where = ("backends.a.runtime", message, 1)
    assert problems(f"backends: {{a: {{runtime: {written}, model: m, tensor_parallel: 2}}}}") == [where]


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        ("runtime: vllm", "model", "missing; give the folder of a model, or its name on a hub"),
        ("runtime: command", "command", 'missing; write [PROGRAM, ARGUMENT, "${port}"]'),
        ("runtime: remote", "url", "missing; give the base URL, such as https://api.example.com/v1"),
    ],
)
def test_what_a_runtime_cannot_do_without(text: str, where: str, message: str) -> None:
    assert problems(f"backends:\n  a:\n    {text}\n") == [(f"backends.a.{where}", message, 2)]


@pytest.mark.parametrize(
    ("line", "where", "message"),
    [
        ("slots: 1025", "slots", '"1025" is out of range; write 1 to 1024'),
        (
            "gpu_memory_utilization: 0%",
            "gpu_memory_utilization",
            '"0%" is out of range; write 1% to 100%',
        ),
        (
            "gpu_memory_utilization: 120%",
            "gpu_memory_utilization",
            '"120%" is not a share; write 10% or 0.1 (from 0% to 100%)',
        ),
        ("kv_cache_memory: 8", "kv_cache_memory", '"8" is out of range; write 1MiB to 16TiB'),
        ("dtype: bf16", "dtype", '"bf16" is not a type of weights; did you mean "bfloat16"?'),
        (
            "tensor_parallel: 3\n    gpus: [0, 1]",
            "tensor_parallel",
            "needs 3 GPUs, and gpus lists 2; list more, or take fewer",
        ),
        ("args: [--seed, --port, 1]", "args[1]", '--port is set by the daemon; use the setting "port"'),
        ("args: [--max_model_len=4k]", "args[0]", '--max_model_len is set by the daemon; use the setting "context"'),
        ("args: [-tp, 2]", "args[0]", '-tp is set by the daemon; use the setting "tensor_parallel"'),
        (
            "args: [--served-model-name, x]",
            "args[0]",
            '--served-model-name is set by the daemon; use the setting "upstream_model"',
        ),
        (
            "args: [--uds, /x]",
            "args[0]",
            "--uds would take the server off the port where the daemon asks it; leave it out",
        ),
        (
            "args: [--api-key=x]",
            "args[0]",
            "--api-key would lock the daemon out of its own backend; the server is on 127.0.0.1 only, leave it out",
        ),
        (
            "args: [--config, x]",
            "args[0]",
            "--config could override what the daemon sets; write its settings here",
        ),
    ],
)
def test_a_value_of_vllm(line: str, where: str, message: str) -> None:
    assert problems(backend(VLLM, line)) == [(f"backends.a.{where}", message, 5)]


VLLM_RUNG = "a rung is one of {context: fitting}, {context: 50%}, {gpu_memory: -5%}, {sequences: 50%}"


@pytest.mark.parametrize(
    ("ladder", "index", "message"),
    [
        ("[{}]", "[0]", VLLM_RUNG),
        ("[{context: fitting, sequences: 50%}]", "[0]", VLLM_RUNG),
        ("[{context: less}]", "[0].context", '"less" is neither fitting nor a share; write fitting, 50% or 0.5'),
        ("[{gpu_memory: 5%}]", "[0].gpu_memory", '"5%" is not a decrease; write -5% or -0.05'),
        ("[{context: 0%}]", "[0]", "context 0% leaves nothing to serve with; write a share above it"),
        ("[{sequences: 0%}]", "[0]", "sequences 0% leaves nothing to serve with; write a share above it"),
        ("[{sequences: 50%}, {sequences: 0.5}]", "[1]", "sequences 50% takes no less than the 50% before it"),
        (
            "[{context: 50%}, {context: fitting}, {context: 75%}]",
            "[2]",
            "context 75% takes no less than the 50% before it",
        ),
        (
            "[{context: fitting}, {context: fitting}]",
            "[1]",
            "context fitting stands on an earlier rung already; remove this one",
        ),
        (
            "[{gpu_memory: -80%}, {gpu_memory: -10%}]",
            "[1]",
            "gpu_memory takes nothing from 10%, which is the least that serves; remove this rung",
        ),
        (
            "[{gpu_memory: -5%}]\n    kv_cache_memory: 4GiB",
            "[0]",
            "gpu_memory changes nothing where kv_cache_memory is set; remove this rung, or that setting",
        ),
    ],
)
def test_a_ladder_of_vllm(ladder: str, index: str, message: str) -> None:
    assert problems(backend(VLLM, f"ladder: {ladder}")) == [(f"backends.a.ladder{index}", message, 5)]


UNTOLD = "does not tell the server its port; put ${port} into command or env, or set port to the one it uses"


@pytest.mark.parametrize(
    ("lines", "where", "message"),
    [
        ("command: [x, --port, 80]", "command", UNTOLD),
        ("command: [x]\n    stop: ['${port}']", "command", UNTOLD),
        ("command: []", "command", 'names no program; write [PROGRAM, ARGUMENT, "${port}"]'),
        ("command: [' ', '${port}']", "command", 'names no program; write [PROGRAM, ARGUMENT, "${port}"]'),
        ("command: x ${port}", "command", '"x ${port}" is not a list; write [a, b], or one item a line after a dash'),
        # Not that the command is missing, too: it is there, and broken.
        ("command: [x, 1.5]", "command[1]", '"1.5" is not text; put it in quotes'),
        ("command: [~bob/x, '${port}']", "command", "only ~/ is expanded; write the other folder out"),
        ("command: [x, '${port}', '${model}']", "command", "${model} is used, and model is not set"),
        (
            "health: {path: health}\n    command: [x, '${port}']",
            "health.path",
            '"health" is not a path; write it from the first slash on, such as /health',
        ),
        (
            "health: {status: 100}\n    command: [x, '${port}']",
            "health.status",
            '"100" is out of range; write 200 to 599',
        ),
        (
            "signatures: [{kind: oom, words: x}]\n    command: [x, '${port}']",
            "signatures[0].kind",
            '"oom" is not a cause; did you mean "gpu_oom"?',
        ),
        (
            "signatures: [{kind: killed, words: x}]\n    command: [x, '${port}']",
            "signatures[0].kind",
            '"killed" is not a cause; write gpu_oom, host_oom, device_lost or configuration',
        ),
        (
            "signatures: [{kind: host_oom}]\n    command: [x, '${port}']",
            "signatures[0].words",
            "missing; write the words of the log line that prove it",
        ),
    ],
)
def test_a_value_of_a_command(lines: str, where: str, message: str) -> None:
    assert problems(backend("runtime: command", lines)) == [(f"backends.a.{where}", message, 4)]


def test_each_broken_signature_is_told_of() -> None:
    lines = "signatures: [{kind: oom}, {words: 4}, {kind: gpu_oom, words: x}]"
    assert problems(backend(COMMAND, lines)) == [
        ("backends.a.signatures[0].kind", '"oom" is not a cause; did you mean "gpu_oom"?', 5),
        ("backends.a.signatures[0].words", "missing; write the words of the log line that prove it", 5),
        ("backends.a.signatures[1].kind", "missing; write gpu_oom, host_oom, device_lost or configuration", 5),
        ("backends.a.signatures[1].words", '"4" is not text; put it in quotes', 5),
    ]


@pytest.mark.parametrize(
    ("line", "where", "message"),
    [
        ("cpus: 0-", "cpus", '"0-" is not a list of processors; write "0-7,16" or [0, 1, 2]'),
        ("cpus: [1.5]", "cpus", '"1.5" is not a list of processors; write "0-7,16" or [0, 1, 2]'),
        ("cpus: [true]", "cpus", 'true is not a list of processors; write "0-7,16" or [0, 1, 2]'),
        ("cpus: 7-0", "cpus", '"7-0" is out of range; write 0 to 8191, the lower number first'),
        ("cpus: [8192]", "cpus", '"8192" is out of range; write 0 to 8191, the lower number first'),
        ("numa_node: -1", "numa_node", '"-1" is out of range; write 0 to 1023'),
        ("memory: {ram: 0}", "memory.ram", '"0" is out of range; write 1MiB to 16TiB'),
        ("memory: {ram: 2g}", "memory.ram", '"2g" is not a size; write 2GB or 2GiB'),
        ("limits: {memory: 1MiB}", "limits.memory", '"1MiB" is out of range; write 64MiB to 16TiB'),
        ("limits: {pids: 1}", "limits.pids", '"1" is out of range; write 16 to 4194304'),
        ("max_wait: 2h", "max_wait", '"2h" is out of range; write 0s to 1h'),
        ("token_budget: 1", "token_budget", '"1" is out of range; write 512 to 1024M'),
        ("tensor_split: [3, -1]", "tensor_split[1]", '"-1" is out of range; write 0 to 1000'),
        ("tensor_split: [3]\n    gpus: [0, 1]", "tensor_split", "1 share for 2 GPUs; write one share for each of gpus"),
        ("tensor_split: [3, 1]\n    gpus: [0]", "tensor_split", "2 shares for 1 GPU; write one share for each of gpus"),
        (
            "tensor_split: [0, 0]",
            "tensor_split",
            "gives no GPU anything; write a share above 0, or gpu_layers: 0 for the CPU only",
        ),
    ],
)
def test_a_place(line: str, where: str, message: str) -> None:
    assert problems(backend("model: m", line)) == [(f"backends.a.{where}", message, 4)]


def test_more_ram_than_all_may_take() -> None:
    text = "memory: {host: {limit: 1GiB}}\nbackends:\n  a: {model: m, memory: {ram: 2GiB}}\n"
    message = "2GiB is more than memory.host.limit (1GiB); the backend could never start"
    assert problems(text) == [("backends.a.memory.ram", message, 3)]


def test_a_limit_below_what_it_takes() -> None:
    text = "backends:\n  a: {model: m, memory: {ram: 2GiB},\n      limits: {memory: 1GiB}}\n"
    message = "1GiB is less than what it takes, memory.ram (2GiB); the kernel would kill it"
    assert problems(text) == [("backends.a.limits.memory", message, 3)]
