"""What a sound file becomes: plain figures, absolute paths, defaults that match the program's own."""

import dataclasses

import pytest

from supervisord.config.model import Configuration, LogFormat, LogLevel, PromptStorage
from supervisord.config.parse import parse
from supervisord.config.places import Surroundings
from supervisord.core.ladder import Footprint, Rung, Shrink
from supervisord.core.memory import GroupLimits, HostLimits, VramLimits
from supervisord.core.placement import PlacementPolicy
from supervisord.core.restart import RestartPolicy
from supervisord.core.state import LifePolicy
from supervisord.runtimes.base import BackendSpec, MemoryNeed, RuntimeKind

USER = Surroundings({}, "/home/ada", root=False, folder="/srv/conf")


def read(text: str, around: Surroundings = USER) -> Configuration:
    return parse(text.encode(), file="config.yaml", around=around, source="/srv/conf/config.yaml")


def backend(lines: str, around: Surroundings = USER) -> BackendSpec:
    return read(f"backends:\n  a: {{model: m.gguf, {lines}}}\n", around).backends[0]


FULL = """\
listen: "[::1]:0"
allowed_hosts: [Workstation.LAN, box.]
state_dir: state
control: {socket: ~/c.sock, group: llm}
log: {level: debug, format: json, dir: /var/log/llm, max_size: 1MiB, keep: 0}
limits:
  {body: 1MiB, upload: 2MiB, header_timeout: 1s, body_timeout: 2s, idle_timeout: 3s, connections: 4, client_stall: 5s}
queue: {limit: 6, backlog: 60, timeout: 7s, aging: {normal: 8s, batch: 9s}}
store: {prompts: full, retention: 2d, answers: 1h, max_size: 1GiB}
memory:
  vram: {reserve: 1GiB, tight: {free: 512MiB, ratio: 7%}, critical: {free: 0B}, leave_factor: 2, leave_after: 1s}
  host:
    tight: {available: 20%, stall: 7%, swap_rate: 5MB/s}
    critical: {stall: 0.5, for: 3s}
    leave_after: 4s
    reserve: 3GiB
    limit: 48GiB
  placement: {linger: 500ms, finish: 2m}
  cgroups: off
shutdown: {drain: 1m30s}
backends:
  big.one-1:
    runtime: llama.cpp
    binary: bin/llama-server
    model: models/m.gguf
    aliases: [gpt-4o, big.one-1, gpt-4o]
    upstream_model: llama
    token_budget: 32k
    context: 16k
    cache_type: f16
    gpu_layers: 40
    batch: 512
    slots: 2
    gpus: [0, GPU-8f6b-1]
    tensor_split: [3, 1.5]
    memory: {vram: 14GiB, ram: 2GiB}
    limits: {memory: 16GiB, pids: 4096}
    pinned: true
    max_wait: 5s
    min_residence: 6s
    cpus: 0-3,16
    numa_node: 1
    threads: 8
    embeddings: true
    chat_template: ~/t.jinja
    args: [--cache-ram, 0, ""]
    env: {A: b, B: 1, EMPTY: ""}
    cwd: .
    nice: -5
    oom_score_adj: 0
    autostart: false
    ttl: 30m
    priority: -3
    port: 9001
    ladder: [{kv: q8_0}, {context: 75%}, {gpu_layers: 0.5}, {gpu_layers: 0}]
    restart: {max_failures: 3, within: 1m, backoff: {base: 2s, cap: 4s}, stable_after: 5s, rearm_after: 6s,
      climb_after: 7s}
    timeouts: {load_stall: 1m, probe: 1s, probe_hang: 2s, progress: 3s, busy: 7s, first_token: 8s, drain: 4s, term: 5s,
      kill: 6s}
    probe_interval: 500ms
    canary: {every: off}
"""


def test_every_setting_arrives() -> None:
    held = read(FULL)
    assert (held.listen_host, held.listen_port) == ("::1", 0)
    assert held.allowed_hosts == ("workstation.lan", "box")
    assert held.state_dir == "/srv/conf/state"
    assert (held.control_socket, held.control_group) == ("/home/ada/c.sock", "llm")
    assert dataclasses.astuple(held.log) == (LogLevel.DEBUG, LogFormat.JSON, "/var/log/llm", 2**20, 0)
    assert dataclasses.astuple(held.limits) == (2**20, 2**21, 1, 2, 3, 4, 5)
    assert dataclasses.astuple(held.queue) == (6, 60, 7, 8, 9)
    assert dataclasses.astuple(held.store) == (PromptStorage.FULL, 172_800, 3600, 2**30)
    assert held.memory.vram == VramLimits(2**30, 512 * 2**20, 0.07, 0, 2.0, 1.0)
    assert held.memory.host == HostLimits(0.2, 7.0, 5e6, 50.0, 3.0, 4.0)
    assert (held.memory.host_reserve, held.memory.host_limit) == (3 * 2**30, 48 * 2**30)
    assert held.memory.placement == PlacementPolicy(linger_s=0.5, finish_s=120.0)
    assert not held.cgroups
    assert held.drain_timeout == 90
    assert held.source == "/srv/conf/config.yaml"
    assert held.backends == (
        BackendSpec(
            name="big.one-1",
            runtime=RuntimeKind.LLAMA_CPP,
            model="/srv/conf/models/m.gguf",
            models=("big.one-1", "gpt-4o"),
            upstream_model="llama",
            binary="/srv/conf/bin/llama-server",
            port=9001,
            footprint=Footprint(16_384, "f16", 40, 512),
            rungs=(
                Rung(Shrink.CACHE_Q8),
                Rung(Shrink.CONTEXT, 0.75),
                Rung(Shrink.GPU_LAYERS, 0.5),
                Rung(Shrink.GPU_LAYERS, 0.0),
            ),
            gpus=("0", "GPU-8f6b-1"),
            tensor_split=(3.0, 1.5),
            cpus=(0, 1, 2, 3, 16),
            numa_node=1,
            pinned=True,
            memory=MemoryNeed(14 * 2**30, 2 * 2**30),
            limits=GroupLimits(16 * 2**30, 4096),
            max_wait_s=5,
            min_residence_s=6,
            threads=8,
            embeddings=True,
            chat_template_file="/home/ada/t.jinja",
            args=("--cache-ram", "0", ""),
            env={"A": "b", "B": "1", "EMPTY": ""},
            cwd="/srv/conf",
            nice=-5,
            oom_score_adj=0,
            life=LifePolicy(
                slots=2,
                token_budget=32_768,
                load_stall_s=60,
                probe_hang_s=2,
                progress_s=3,
                busy_s=7,
                climb_after_s=7,
                first_token_s=8,
                drain_s=4,
                term_s=5,
                kill_s=6,
                restart=RestartPolicy(2, 4, 3, 60, 5, 6),
            ),
            autostart=False,
            ttl_s=1800,
            priority=-3,
            probe_interval_s=0.5,
            probe_timeout_s=1,
            canary_every_s=None,
        ),
    )


def test_what_is_left_out_is_the_default_of_the_program() -> None:
    """The schema and the core must not disagree: defaults stand in both."""
    held = read("backends: {a: {model: /m.gguf}}")
    assert held.backends == (BackendSpec(name="a", runtime=RuntimeKind.LLAMA_CPP, model="/m.gguf", models=("a",)),)
    assert held.memory.vram == VramLimits()
    assert held.memory.host == HostLimits()
    assert (held.memory.host_reserve, held.memory.host_limit) == (2 * 2**30, None)
    assert held.memory.placement == PlacementPolicy()
    assert held.cgroups
    assert held.default_route is None
    assert held.backends[0].life == LifePolicy()


def test_keys_without_values_are_defaults() -> None:
    daemon = "listen:\nlog:\n  level:\nmemory:\n  vram:\n    tight:\n"
    backends = "backends:\n  a:\n    model: /m.gguf\n    ladder:\n    env:\n"
    assert read(daemon + backends) == read("backends: {a: {model: /m.gguf}}")
    assert read("backends:\n").backends == ()


def test_the_source_does_not_count_when_configurations_are_compared() -> None:
    one = parse(b"backends: {}", file="f", around=USER, source="/a")
    assert one == parse(b"backends: {}", file="f", around=USER, source="/b")


def test_aliases_of_yaml_share_values() -> None:
    text = "backends:\n  a: {model: m, timeouts: &slow {load_stall: 1h}}\n  b: {model: m, timeouts: *slow}\n"
    assert [spec.life.load_stall_s for spec in read(text).backends] == [3600, 3600]


def test_backends_may_share_a_name() -> None:
    held = read("backends:\n  a: {model: m, aliases: [gpt]}\n  b: {model: m, aliases: [gpt, a]}\n")
    assert [spec.models for spec in held.backends] == [("a", "gpt"), ("b", "gpt", "a")]


# --- backends --------------------------------------------------------------------------------------------------------


def test_an_empty_ladder_is_none_and_no_ladder_is_the_one_of_the_runtime() -> None:
    assert backend("slots: 1").rungs is None
    assert backend("ladder: []").rungs == ()


@pytest.mark.parametrize(
    ("written", "model"),
    [
        ("embedded", "embedded"),
        ("./embedded", "/srv/conf/embedded"),
        ("m.gguf", "/srv/conf/m.gguf"),
        ("/models/m.gguf", "/models/m.gguf"),
        ("~/m.gguf", "/home/ada/m.gguf"),
        ("../m.gguf", "/srv/conf/../m.gguf"),
    ],
)
def test_models(written: str, model: str) -> None:
    assert read(f"backends: {{a: {{model: {written}}}}}").backends[0].model == model


@pytest.mark.parametrize(
    ("written", "binary"),
    [
        ("auto", "auto"),
        ("llama-server", "llama-server"),
        ("./llama-server", "/srv/conf/llama-server"),
        ("~/bin/ls", "/home/ada/bin/ls"),
    ],
)
def test_binaries(written: str, binary: str) -> None:
    assert backend(f"binary: {written}").binary == binary


@pytest.mark.parametrize(("written", "layers"), [("auto", None), (0, 0), (99, 99)])
def test_gpu_layers(written: object, layers: int | None) -> None:
    assert backend(f"gpu_layers: {written}").footprint.gpu_layers == layers


def test_a_date_or_a_sexagesimal_is_a_name_here() -> None:
    assert backend("aliases: [2024-01-01, 1:30, =, '12']").models == ("a", "2024-01-01", "1:30", "=", "12")


@pytest.mark.parametrize(
    ("written", "address"),
    [
        ("127.0.0.1:8411", ("127.0.0.1", 8411)),
        ("127.8.9.1:80", ("127.8.9.1", 80)),
        ("localhost:0", ("127.0.0.1", 0)),
        ("'[::1]:8411'", ("::1", 8411)),
    ],
)
def test_addresses(written: str, address: tuple[str, int]) -> None:
    held = read(f"listen: {written}")
    assert (held.listen_host, held.listen_port) == address


# --- the environment -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("${env:A}", "one"),
        ("x-${env:A}-${env:B}-y", "x-one-two-y"),
        ("${env:NO:-three}", "three"),
        ("${env:NO:-}", ""),
        ("${env:EMPTY:-four}", "four"),
        ("${env:EMPTY}", ""),
        ("${env:A:-three}", "one"),
        ("$${env:A}", "${env:A}"),
        ("${port}", "${port}"),
        ("$A", "$A"),
        ("${env:NESTED}", "${env:A}"),
    ],
)
def test_substitution(written: str, value: str) -> None:
    around = Surroundings({"A": "one", "B": "two", "EMPTY": "", "NESTED": "${env:A}"}, "/h", root=False, folder="/f")
    spec = backend(f'env: {{X: "{written}"}}', around)
    assert spec.env == {"X": value}
    assert type(spec.env["X"]) is str


def test_substitution_reaches_figures_and_truths_but_no_key() -> None:
    around = Surroundings({"P": "9001", "T": "10m", "E": "true", "G": "1", "W": "word"}, "/h", root=False, folder="/f")
    spec = backend('port: "${env:P}", ttl: "${env:T}", embeddings: "${env:E}", gpus: ["${env:G}"]', around)
    assert (spec.port, spec.ttl_s, spec.embeddings, spec.gpus) == (9001, 600, True, ("1",))
    with pytest.raises(Exception, match=r"unknown setting"):
        read("${env:W}: 1", around)
