"""The settings of a backend that is vLLM."""

from typing import Annotated, Self

from pydantic import model_validator

from supervisord.config import fields
from supervisord.config.fields import FORM, FilePath, Percent, Text, Truth, Word, checked
from supervisord.config.schema_backend import Context, LocalSettings, Slots, Threads
from supervisord.config.settings import Missing, Settings, required, setting
from supervisord.config.units import DECREASE_PATTERN, parse_decrease, parse_percent, quote
from supervisord.runtimes.base import RuntimeKind

FITTING = -1.0  # of a context: the longest that the failed start said would fit
DTYPES = ("auto", "bfloat16", "float16", "half", "float32", "float")  # vllm serve --help, --dtype


def _parse_context(value: object) -> float:
    if value == "fitting":
        return FITTING
    try:
        return parse_percent(value)
    except ValueError:
        raise ValueError(f"{quote(value)} is neither fitting nor a share; write fitting, 50% or 0.5") from None


RungContext = Annotated[float, *checked(_parse_context, {"type": ["string", "number"], FORM: "As fitting or 50%."})]
Decrease = Annotated[
    float, *checked(parse_decrease, {"type": ["string", "number"], "pattern": DECREASE_PATTERN, FORM: "As -5%."})
]


class VllmRung(Settings):
    context: RungContext | None = setting(
        None, "The longest context the failed start said would fit, or a share of the configured one."
    )
    gpu_memory: Decrease | None = setting(None, "This much less of each GPU than on the rung before.")
    sequences: Percent | None = setting(None, "Share of the configured max_num_seqs.")

    @model_validator(mode="after")
    def _one_step(self) -> Self:
        if len(self.model_fields_set) != 1:
            raise ValueError("a rung is one of {context: fitting}, {context: 50%}, {gpu_memory: -5%}, {sequences: 50%}")
        return self


class VllmSettings(LocalSettings):
    RUNTIME = RuntimeKind.VLLM

    runtime: Annotated[str, *fields.one_of(RUNTIME, noun="this runtime")] = required(
        "Kind of server: llama.cpp, vllm, command or remote."
    )
    binary: Text = setting(
        "auto", "vllm, or the Python of its environment: a path, a name on PATH, or auto for vllm on PATH."
    )
    model: Annotated[Text, Missing("missing; give the folder of a model, or its name on a hub", "missing")] = required(
        "Folder of the model (a path that begins with / . or ~), or its name on a hub."
    )
    slots: Slots = setting(64, "Requests in flight at the same time.")
    context: Context | None = setting(
        None, "Tokens one request may use, prompt and answer together. Default: what the model was trained with."
    )
    gpu_memory_utilization: Annotated[float, *fields.share("1%", "100%")] = setting(
        "90%", "Part of each GPU that it takes for itself, whether it needs it or not."
    )
    kv_cache_memory: Annotated[int, *fields.size("1MiB", "16TiB")] | None = setting(
        None, "KV cache on each GPU; then gpu_memory_utilization says nothing. Default: what is left of its part."
    )
    max_num_seqs: Slots | None = setting(None, "Requests in one step of the engine at the most. Default: slots.")
    tensor_parallel: Annotated[int, *fields.whole(1, 64)] = setting(1, "GPUs that share each layer.")
    dtype: Annotated[str, *fields.one_of(*DTYPES, noun="a type of weights")] | None = setting(
        None, f"Type of weights and activations: {', '.join(DTYPES)}. Default: the runtime's (auto)."
    )
    quantization: Text | None = setting(
        None, "Method the weights are quantized with, such as awq or fp8. Default: what the model's files say."
    )
    enforce_eager: Truth = setting(
        default=False, description="No compilation and no CUDA graphs: starts faster, takes less memory, serves slower."
    )
    prefix_caching: Truth | None = setting(
        None, "Keep the KV cache of common beginnings of prompts. Default: the runtime's choice."
    )
    threads: Threads | None = setting(None, "CPU threads (OMP_NUM_THREADS). Default: the runtime's choice.")
    chat_template: FilePath | None = setting(None, "Jinja file used in place of the model's chat template.")
    args: list[Word] = setting([], "More arguments for the server, as they are.")
    ladder: list[VllmRung] | None = setting(
        None, "Smaller footprints after out of memory, in order; [] parks instead. Default: the runtime's ladder."
    )
