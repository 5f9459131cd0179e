"""The settings of a backend that is llama.cpp's llama-server."""

from typing import Annotated, Self

from pydantic import model_validator

from supervisord.config import fields
from supervisord.config.fields import FilePath, Percent, Text, Truth, Word
from supervisord.config.fields import checked as kind
from supervisord.config.schema_backend import Context, LocalSettings, Threads
from supervisord.config.settings import Missing, Settings, required, setting
from supervisord.config.units import quote
from supervisord.runtimes.base import RuntimeKind

CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")  # llama-server --help, -ctk
AUTO_LAYERS = -1
EMBEDDED = "embedded"  # the model that comes with the extra of that name
MOST_SLOTS = 256  # LLAMA_MAX_SEQ, llama.cpp's bound on sequences


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


Layers = Annotated[int, *kind(_parse_layers, {"type": ["integer", "string"], "minimum": 0})]


class LlamaCppRung(Settings):
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


class LlamaCppSettings(LocalSettings):
    RUNTIME = RuntimeKind.LLAMA_CPP

    runtime: Annotated[str, *fields.one_of(RUNTIME, noun="this runtime")] = setting(
        RUNTIME.value, "Kind of server: llama.cpp, vllm, command or remote."
    )
    binary: Text = setting("auto", "Server program: a path, a name on PATH, or auto to look for it.")
    model: Annotated[
        FilePath, Missing("missing; give the path of a model file, or embedded for the small bundled one", EMBEDDED)
    ] = required("Model file (GGUF), or embedded for the small bundled model.")
    slots: Annotated[int, *fields.whole(1, MOST_SLOTS)] = setting(1, "Requests in flight at the same time.")
    context: Context | None = setting(
        None, "Tokens one request may use, prompt and answer together. Default: what the model was trained with."
    )
    cache_type: Annotated[str, *fields.one_of(*CACHE_TYPES, noun="a cache type")] | None = setting(
        None, f"Element type of the KV cache: {', '.join(CACHE_TYPES)}. Default: the runtime's (f16)."
    )
    gpu_layers: Layers = setting("auto", "Layers on the GPU: auto for as many as fit, 0 for the CPU only.")
    tensor_split: list[Annotated[float, *fields.number(0, 1000)]] = setting(
        [], "How the model is divided among the GPUs, in their order, as [3, 1]. Default: by their free memory."
    )
    batch: Annotated[int, *fields.whole(1, 65_536)] | None = setting(
        None, "Prompt tokens processed at once. Default: the runtime's (2048)."
    )
    threads: Threads | None = setting(None, "CPU threads. Default: the runtime's choice.")
    embeddings: Truth = setting(default=False, description="Serve embeddings.")
    chat_template: FilePath | None = setting(None, "Jinja file used in place of the model's chat template.")
    args: list[Word] = setting([], "More arguments for the server, as they are.")
    ladder: list[LlamaCppRung] | None = setting(
        None, "Smaller footprints after out of memory, in order; [] parks instead. Default: the runtime's ladder."
    )
