"""The settings of one backend."""

from typing import Annotated, Self

from pydantic import Field, PlainValidator, WithJsonSchema, model_validator

from supervisord.config import fields
from supervisord.config.fields import FilePath, Gpu, ModelName, Percent, Text, Truth, Variable, Word
from supervisord.config.settings import Settings, section, setting
from supervisord.config.units import quote
from supervisord.core.ladder import SMALLEST_CONTEXT
from supervisord.runtimes.base import RuntimeKind

CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")  # llama-server --help, -ctk
AUTO_LAYERS = -1


def _parse_layers(value: object) -> int:
    if value == "auto":
        return AUTO_LAYERS
    try:
        layers = fields.parse_whole(value)
    except ValueError:
        layers = -1
    if not 0 <= layers <= 10_000:
        raise ValueError(f"{quote(value)} is not a number of layers; write auto, 0 (CPU only) or a number to 10000")
    return layers


Layers = Annotated[int, PlainValidator(_parse_layers), WithJsonSchema({"type": ["integer", "string"], "minimum": 0})]


class Backoff(Settings):
    base: Annotated[float, *fields.duration("10ms", "1h")] = setting(
        "1s", "Longest first wait; each failure doubles it."
    )
    cap: Annotated[float, *fields.duration("10ms", "1d")] = setting("60s", "Longest wait of all.")


class Restart(Settings):
    max_failures: Annotated[int, *fields.whole(1, 100)] = setting(
        5, "Failures that park the backend when they fall within the next setting."
    )
    within: Annotated[float, *fields.duration("1s", "7d")] = setting("10m", "Time within which failures are counted.")
    backoff: Backoff = section(Backoff, "Waits before a start after a failure: exponential, with full jitter.")
    stable_after: Annotated[float, *fields.duration("1s", "7d")] = setting(
        "2m", "Ready this long with a request served: earlier failures are forgotten."
    )
    rearm_after: Annotated[float, *fields.duration("1s", "30d")] = setting(
        "15m", "A parked backend that can heal is tried once more after this."
    )


class Timeouts(Settings):
    load_stall: Annotated[float, *fields.duration("1s", "1d")] = setting(
        "5m", "Longest time of loading without any sign of progress; loading itself has no limit."
    )
    probe: Annotated[float, *fields.duration("10ms", "1m")] = setting(
        "2s", "Longest wait for the answer to one health probe."
    )
    probe_hang: Annotated[float, *fields.duration("100ms", "1h")] = setting(
        "30s", "No probe answered and no token sent: hung."
    )
    progress: Annotated[float, *fields.duration("1s", "1d")] = setting(
        "2m", "Work in flight and nothing moves: hung. Prompt processing counts as progress."
    )
    drain: Annotated[float, *fields.duration("0s", "1d")] = setting(
        "30s", "Time running requests have to finish before a stop."
    )
    term: Annotated[float, *fields.duration("0s", "10m")] = setting("10s", "Time between SIGTERM and SIGKILL.")
    kill: Annotated[float, *fields.duration("100ms", "10m")] = setting(
        "5s", "Time after SIGKILL until the backend counts as unkillable."
    )


class RungSettings(Settings):
    kv: Annotated[str, *fields.one_of("q8_0", noun="a cache type for a rung")] | None = setting(
        None, "KV cache with 8-bit elements: q8_0."
    )
    context: Percent | None = setting(None, "Share of the configured context.")
    gpu_layers: Percent | None = setting(None, "Share of the configured GPU layers.")

    @model_validator(mode="after")
    def _one_step(self) -> Self:
        if len(self.model_fields_set) != 1:
            raise ValueError("a rung is one of {kv: q8_0}, {context: 75%}, {gpu_layers: 50%}")
        return self


class BackendSettings(Settings):
    runtime: Annotated[str, *fields.one_of(*RuntimeKind, noun="a runtime")] = setting(
        RuntimeKind.LLAMA_CPP.value, "Kind of server. This version starts llama.cpp."
    )
    binary: Text = setting("auto", "Server program: a path, a name on PATH, or auto to look for it.")
    model: FilePath = Field(description="Model file (GGUF), or embedded for the small bundled model.")
    aliases: list[ModelName] = setting([], "More names clients may ask for. Backends may share a name.")
    context: Annotated[int, *fields.tokens(SMALLEST_CONTEXT, 2**24)] | None = setting(
        None, "Tokens one request may use, prompt and answer together. Default: what the model was trained with."
    )
    cache_type: Annotated[str, *fields.one_of(*CACHE_TYPES, noun="a cache type")] | None = setting(
        None, f"Element type of the KV cache: {', '.join(CACHE_TYPES)}. Default: the runtime's (f16)."
    )
    gpu_layers: Layers = setting("auto", "Layers on the GPU: auto for as many as fit, 0 for the CPU only.")
    batch: Annotated[int, *fields.whole(1, 65_536)] | None = setting(
        None, "Prompt tokens processed at once. Default: the runtime's (2048)."
    )
    slots: Annotated[int, *fields.whole(1, 256)] = setting(1, "Requests in flight at the same time.")
    gpus: list[Gpu] = setting([], "GPUs it may use, by index or UUID. Default: all.")
    threads: Annotated[int, *fields.whole(1, 1024)] | None = setting(
        None, "CPU threads. Default: the runtime's choice."
    )
    embeddings: Truth = setting(default=False, description="Serve embeddings.")
    chat_template: FilePath | None = setting(None, "Jinja file used in place of the model's chat template.")
    args: list[Word] = setting([], "More arguments for the server, as they are.")
    env: dict[Variable, Word] = setting({}, "More environment variables for the server.")
    cwd: FilePath | None = setting(None, "Working folder of the server. Default: the daemon's.")
    nice: Annotated[int, *fields.whole(-20, 19)] = setting(0, "CPU priority; below 0 needs privileges.")
    oom_score_adj: Annotated[int, *fields.whole(-1000, 1000)] = setting(
        500, "What the kernel kills first: children before the daemon and the desktop."
    )
    autostart: Truth = setting(default=True, description="Start with the daemon; false: with the first request.")
    ttl: Annotated[float, *fields.duration("1s", "30d")] | None = setting(
        None, "Unload after this long without work. Default: never."
    )
    priority: Annotated[int, *fields.whole(-1000, 1000)] = setting(0, "Higher is served first and evicted last.")
    port: Annotated[int, *fields.whole(0, 65_535)] = setting(0, "Port of the server on 127.0.0.1; 0 for a free one.")
    ladder: list[RungSettings] | None = setting(
        None, "Smaller footprints after out of memory, in order; [] parks instead. Default: the runtime's ladder."
    )
    restart: Restart = section(Restart, "What follows a failure.")
    timeouts: Timeouts = section(Timeouts, "How long each step may take.")
    probe_interval: Annotated[float, *fields.duration("100ms", "1m")] = setting("1s", "Time between health probes.")
