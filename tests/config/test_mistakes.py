"""Each kind of mistake in the settings, with the exact words, the path and the line people get."""

import pytest

from supervisord.config.places import Surroundings
from tests.fakes.config_problems import backend, problems

OF_VLLM = "does not apply to runtime llama.cpp; it is a setting of vllm"

# --- keys ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "where", "message", "line"),
    [
        (backend("contex: 16k"), "backends.a.contex", 'unknown setting; did you mean "context"?', 4),
        (backend("GPU-Layers: 1"), "backends.a.GPU-Layers", 'unknown setting; did you mean "gpu_layers"?', 4),
        # Not "it belongs in queue": a slip of the key is likelier than a wrong place.
        (backend("timeout: 1m"), "backends.a.timeout", 'unknown setting; did you mean "timeouts"?', 4),
        (backend("zebra: 1"), "backends.a.zebra", "unknown setting", 4),
        (backend("retention: 1d"), "backends.a.retention", "unknown setting here; it belongs in store", 4),
        (backend("listen: x"), "backends.a.listen", "unknown setting here; it belongs in the top level", 4),
        (backend("strategy: x"), "backends.a.strategy", "unknown setting here; it belongs in models.NAME", 4),
        (backend("tensor_parallel: 2"), "backends.a.tensor_parallel", OF_VLLM, 4),
        ("url: x\n", "url", "unknown setting here; it belongs in backends.NAME", 1),
        ("slots: 2\n", "slots", "unknown setting here; it belongs in backends.NAME", 1),
        ("kv: q8_0\n", "kv", "unknown setting here; it belongs in backends.NAME.ladder[0]", 1),
        (
            backend("ladder: [{contxt: 75%}]"),
            "backends.a.ladder[0].contxt",
            'unknown setting; did you mean "context"?',
            4,
        ),
        (
            backend("restart:\n      backoff:\n        bse: 1s"),
            "backends.a.restart.backoff.bse",
            'unknown setting; did you mean "base"?',
            6,
        ),
        (
            "memory:\n  host:\n    critical: {fro: 1s}\n",
            "memory.host.critical.fro",
            'unknown setting; did you mean "for"?',
            3,
        ),
        (
            "memory: {host: {critical: {for_: 1s}}}\n",
            "memory.host.critical.for_",
            'unknown setting; did you mean "for"?',
            1,
        ),
        ("12: 1\n", "12", "unknown setting", 1),
        ("'': 1\n", '""', "unknown setting", 1),
    ],
)
def test_an_unknown_setting(text: str, where: str, message: str, line: int) -> None:
    assert (where, message, line) in problems(text)


# --- values ----------------------------------------------------------------------------------------------------------

NOT_LOOPBACK = (
    "is not loopback, and there are no keys: whoever reaches it could use the models; "
    "use 127.0.0.1, or name who may in keys"
)
NOT_HOST = "is not an IP address; use 127.0.0.1, or the address of a network interface"
NOT_ADDRESS = "is not an address; write host:port, such as 127.0.0.1:8411"


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        ("listen: 0.0.0.0:8411", "listen", f'"0.0.0.0" {NOT_LOOPBACK}'),
        ("listen: 192.168.1.5:8411", "listen", f'"192.168.1.5" {NOT_LOOPBACK}'),
        ("listen: '[::]:8411'", "listen", f'"::" {NOT_LOOPBACK}'),
        ("listen: '[::ffff:127.0.0.1]:8411'", "listen", f'"::ffff:127.0.0.1" {NOT_LOOPBACK}'),
        ("listen: localhost.evil.example:1", "listen", f'"localhost.evil.example" {NOT_HOST}'),
        ("listen: 8411", "listen", f'"8411" {NOT_ADDRESS}'),
        ("listen: 127.0.0.1", "listen", f'"127.0.0.1" {NOT_ADDRESS}'),
        ("listen: 127.0.0.1:65536", "listen", f'"127.0.0.1:65536" {NOT_ADDRESS}'),
        ("listen: ::1:8411", "listen", f'"::1:8411" {NOT_ADDRESS}'),
        ("listen: []", "listen", f"a list {NOT_ADDRESS}"),
        (
            "allowed_hosts: ['*']",
            "allowed_hosts[0]",
            '"*" would let any web page reach the models (DNS rebinding); name each host',
        ),
        (
            "allowed_hosts: [ok.lan, 'http://x']",
            "allowed_hosts[1]",
            '"http://x" is not a host name; write the name alone, such as workstation.lan',
        ),
        ("allowed_hosts: a", "allowed_hosts", '"a" is not a list; write [a, b], or one item a line after a dash'),
        ("state_dir: ''", "state_dir", "is empty; give it a value or take the setting out"),
        ("state_dir: 12", "state_dir", '"12" is not text; put it in quotes'),
        ("state_dir: [a]", "state_dir", "a list is not text"),
        ("state_dir: ~bob/x", "state_dir", "only ~/ is expanded; write the other folder out"),
        (
            f"control: {{socket: /run/{'x' * 110}}}",
            "control.socket",
            "the socket's path has 115 bytes, the kernel takes 107; set control.socket to a shorter one",
        ),
        (
            f"state_dir: /s/{'x' * 110}",
            "state_dir",
            "the socket's path has 126 bytes, the kernel takes 107; set control.socket to a shorter one",
        ),
        ("log: []", "log", "a list is not a mapping of settings; write KEY: VALUE lines below it, indented"),
        ("log: {level: warn}", "log.level", '"warn" is not a log level; did you mean "warning"?'),
        ("log: {level: 5}", "log.level", '"5" is not a log level; write debug, info, warning or error'),
        ("log: {format: x}", "log.format", '"x" is not a log format; write auto, console, json or logfmt'),
        ("log: {max_size: 1KiB}", "log.max_size", '"1KiB" is out of range; write 64KiB to 10GiB'),
        ("log: {keep: 101}", "log.keep", '"101" is out of range; write 0 to 100'),
        ("log: {keep: three}", "log.keep", '"three" is not a whole number'),
        ("log: {keep: true}", "log.keep", "true is not a whole number"),
        ("log: {keep: 1.5}", "log.keep", '"1.5" is not a whole number'),
        ("limits: {body_timeout: 0s}", "limits.body_timeout", '"0s" is out of range; write 100ms to 1h'),
        (
            "store: {prompts: some}",
            "store.prompts",
            '"some" is not a way to keep prompts; write full, metadata or none',
        ),
        ("memory: {cgroups: on}", "memory.cgroups", "true is not a way to use control groups; write auto or off"),
        ("memory: {vram: {leave_factor: 0.5}}", "memory.vram.leave_factor", '"0.5" is out of range; write 1 to 10'),
        ("memory: {vram: {leave_factor: x}}", "memory.vram.leave_factor", '"x" is not a number'),
        ("memory: {vram: {leave_factor: .nan}}", "memory.vram.leave_factor", '"nan" is out of range; write 1 to 10'),
        (
            "memory: {vram: {reserve: 14GB/s}}",
            "memory.vram.reserve",
            '"14GB/s" is not a size; write 14GB or 14GiB',
        ),
        (
            "memory: {vram: {critical: {free: 2GiB}}}",
            "memory.vram.critical.free",
            "critical (2GiB) must be below tight (1GiB), or there is no warning before it",
        ),
        (
            "memory: {vram: {tight: {free: 256MiB}}}",
            "memory.vram.tight.free",
            "critical (256MiB) must be below tight (256MiB), or there is no warning before it",
        ),
        (
            "memory: {host: {tight: {stall: 50%}}}",
            "memory.host.tight.stall",
            "critical (40%) must be above tight (50%), or there is no warning before it",
        ),
        ("backends: [a]", "backends", "a list is not a mapping; write KEY: VALUE lines below it, indented"),
        (
            "backends: {a: yes}",
            "backends.a",
            "true is not a mapping of settings; write KEY: VALUE lines below it, indented",
        ),
        (
            "backends: {a: }",
            "backends.a.model",
            "missing; give the path of a model file, or embedded for the small bundled one",
        ),
        (
            "backends: {Big Model: {model: m}}",
            'backends."Big Model"',
            '"Big Model" cannot name a backend; use at most 63 of a-z 0-9 . _ - and begin with a-z or 0-9',
        ),
    ],
)
def test_a_value(text: str, where: str, message: str) -> None:
    assert problems(text) == [(where, message, 1)]


@pytest.mark.parametrize(
    ("line", "where", "message"),
    [
        ("runtime: llamacpp", "runtime", '"llamacpp" is not a runtime; did you mean "llama.cpp"?'),
        ("runtime: [vllm]", "runtime", "a list is not a runtime; write llama.cpp, vllm, command or remote"),
        ("aliases: [' x']", "aliases[0]", '" x" is not a model name; use at most 200 printable characters'),
        ("aliases: [4]", "aliases[0]", '"4" is not text; put it in quotes'),
        ("context: 100", "context", '"100" is out of range; write 512 to 16M'),
        ("context: long", "context", '"long" is not a count of tokens; write 16k or 16384'),
        (
            "cache_type: q8",
            "cache_type",
            '"q8" is not a cache type; did you mean "q8_0"?',
        ),
        (
            "gpu_layers: all",
            "gpu_layers",
            '"all" is not a number of layers; write auto, 0 (CPU only) or a number to 10000',
        ),
        (
            "gpu_layers: -1",
            "gpu_layers",
            '"-1" is not a number of layers; write auto, 0 (CPU only) or a number to 10000',
        ),
        ("slots: 0", "slots", '"0" is out of range; write 1 to 256'),
        ("gpus: [first]", "gpus[0]", '"first" is not a GPU; write its index, or its UUID as nvidia-smi -L shows it'),
        ("gpus: [0, '0']", "gpus[1]", "GPU 0 is listed twice; remove one"),
        ("embeddings: sure", "embeddings", '"sure" is neither true nor false'),
        ("args: [1.5]", "args[0]", '"1.5" is not text; put it in quotes'),
        ("args: [{a: b}]", "args[0]", "a mapping is not text"),
        ("args: [--port, 9000]", "args[0]", '--port is set by the daemon; use the setting "port"'),
        ("args: [-v, -c, 4096]", "args[1]", '-c is set by the daemon; use the setting "context"'),
        ("args: [--host=0.0.0.0]", "args[0]", "--host is always 127.0.0.1; clients use the daemon's address"),
        (
            "args: [--api-key, x]",
            "args[0]",
            "--api-key would lock the daemon out of its own backend; the server is on 127.0.0.1 only, leave it out",
        ),
        ("env: [A]", "env", "a list is not a mapping; write KEY: VALUE lines below it, indented"),
        ("env: {A-B: x}", "env.A-B", '"A-B" is not the name of an environment variable'),
        ("env: {A: true}", "env.A", "true is not text; put it in quotes"),
        ("env: {A: }", "env.A", "an empty value is not text"),
        ("nice: 20", "nice", '"20" is out of range; write -20 to 19'),
        ("oom_score_adj: 1001", "oom_score_adj", '"1001" is out of range; write -1000 to 1000'),
        ("ttl: 0s", "ttl", '"0s" is out of range; write 1s to 30d'),
        ("port: 65536", "port", '"65536" is out of range; write 0 to 65535'),
        ("model_path: x", "model_path", 'unknown setting; did you mean "model"?'),
        (
            "restart: {backoff: {base: 2m}}",
            "restart.backoff.base",
            "base (2m) must not be above cap (1m)",
        ),
        ("timeouts: {probe: 1m}", "timeouts.probe", "probe_hang (30s) must be longer than one probe (1m)"),
        ("timeouts: {busy: 1m}", "timeouts.busy", "busy (1m) must not be shorter than progress (2m)"),
        ("canary: {every: 1s}", "canary.every", '"1s" is out of range; write 10s to 7d'),
        ("timeouts: {probe_hang: 1s}", "timeouts.probe_hang", "probe_hang (1s) must be longer than one probe (2s)"),
        ("chat_template: ~bob/x", "chat_template", "only ~/ is expanded; write the other folder out"),
        ("binary: ~bob/llama-server", "binary", "only ~/ is expanded; write the other folder out"),
    ],
)
def test_a_value_of_a_backend(line: str, where: str, message: str) -> None:
    assert problems(backend(line)) == [(f"backends.a.{where}", message, 4)]


ONE_RUNG = "a rung is one of {kv: q8_0}, {context: 75%}, {gpu_layers: 50%}"


@pytest.mark.parametrize(
    ("ladder", "index", "message"),
    [
        ("[{}]", "[0]", ONE_RUNG),
        ("[{kv: q8_0, context: 75%}]", "[0]", ONE_RUNG),
        ("[{kv: }]", "[0]", ONE_RUNG),
        ("[{kv: q4_0}]", "[0].kv", '"q4_0" is not a cache type for a rung; write q8_0'),
        ("[kv]", "[0]", '"kv" is not a mapping of settings; write KEY: VALUE lines below it, indented'),
        ("kv", "", '"kv" is not a list; write [a, b], or one item a line after a dash'),
        ("[{context: 120%}]", "[0].context", '"120%" is not a share; write 10% or 0.1 (from 0% to 100%)'),
        ("[{context: 100%}]", "[0]", "context 100% takes no less than the 100% before it"),
        ("[{context: 0}]", "[0]", "context 0% leaves nothing to serve with; write a share above it"),
        ("[{context: 50%}, {kv: q8_0}, {context: 0.75}]", "[2]", "context 75% takes no less than the 50% before it"),
        ("[{kv: q8_0}, {kv: q8_0}]", "[1]", "kv q8_0 stands on an earlier rung already; remove this one"),
        (
            "[{gpu_layers: 50%}]",
            "[0]",
            "gpu_layers of the backend is auto, of which no share is known; give it a number",
        ),
        (
            "[{gpu_layers: 50%}, {gpu_layers: 50%}]\n    gpu_layers: 40",
            "[1]",
            "gpu_layers 50% takes no less than the 50% before it",
        ),
        ("[{kv: q8_0}]\n    cache_type: q4_0", "[0]", "kv q8_0 takes no less than cache_type q4_0; remove this rung"),
    ],
)
def test_a_ladder(ladder: str, index: str, message: str) -> None:
    assert problems(backend(f"ladder: {ladder}")) == [(f"backends.a.ladder{index}", message, 4)]


def test_the_same_fixed_port_twice() -> None:
    backends = "  a: {model: m, port: 9001}\n  b: {model: m, port: 9001}\n  c: {model: m, port: 9000}\n"
    text = f"listen: 127.0.0.1:9000\nbackends:\n{backends}"
    assert problems(text) == [
        ("backends.b.port", "port 9001 is already that of backends.a; choose another, or 0 for a free one", 4),
        ("backends.c.port", "port 9000 is already that of listen; choose another, or 0 for a free one", 5),
    ]


# --- the environment -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "where", "message"),
    [
        (
            "chat_template: ${env:NOPE}",
            "chat_template",
            "environment variable NOPE is not set; set it, or write ${env:NOPE:-default}",
        ),
        (
            "chat_template: ${env:no-pe}",
            "chat_template",
            "malformed reference; write ${env:NAME} or ${env:NAME:-default}",
        ),
        (
            "chat_template: ${env:NOPE",
            "chat_template",
            "malformed reference; write ${env:NAME} or ${env:NAME:-default}",
        ),
        ("port: ${env:KEY}", "port", "the value of ${env:KEY} is not a whole number"),
        ("ttl: ${env:KEY}", "ttl", "the value of ${env:KEY} is not a duration; write 90s, 10m, 1h30m or 250ms"),
        ("context: ${env:KEY}", "context", "the value of ${env:KEY} is not a count of tokens; write 16k or 16384"),
    ],
)
def test_the_environment(line: str, where: str, message: str) -> None:
    assert problems(backend(line)) == [(f"backends.a.{where}", message, 4)]


def test_a_surrogate_from_the_environment_is_refused_and_not_shown() -> None:
    around = Surroundings({"RAW": "a\udcff"}, "/", root=False, folder="/")
    message = "the value of ${env:RAW} has a character that cannot be used (NUL, or half of a pair)"
    assert problems("state_dir: ${env:RAW}", around) == [("state_dir", message, 1)]
