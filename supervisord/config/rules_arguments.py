"""Arguments in `args` that would override what the daemon sets itself.

One of them would make a rung of the ladder change nothing, or keep the daemon from reaching its own backend.
"""

from collections.abc import Iterator, Mapping

from supervisord.config.finding import Finding
from supervisord.config.schema_command import CommandSettings
from supervisord.config.schema_llama_cpp import LlamaCppSettings
from supervisord.config.schema_vllm import VllmSettings

_HOST = "is always 127.0.0.1; clients use the daemon's address"
_KEY = "would lock the daemon out of its own backend; the server is on 127.0.0.1 only, leave it out"
_TLS = "would make the server speak TLS to the daemon, on 127.0.0.1 only; leave it out"


def _own(settings: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """What is said of flags that a setting stands for."""
    return {flag: f'is set by the daemon; use the setting "{key}"' for key, flags in settings.items() for flag in flags}


_LLAMA_CPP = {"--host": _HOST, "--api-key": _KEY, "--api-key-file": _KEY} | _own(
    {
        "port": ("--port",),
        "model": ("-m", "--model"),
        "context": ("-c", "--ctx-size"),
        "slots": ("-np", "--parallel"),
        "gpu_layers": ("-ngl", "--gpu-layers", "--n-gpu-layers"),
        "cache_type": ("-ctk", "--cache-type-k", "-ctv", "--cache-type-v"),
    }
)  # llama-server --help

_VLLM = {
    "--host": _HOST,
    "--api-key": _KEY,
    "--uds": "would take the server off the port where the daemon asks it; leave it out",
    "--root-path": "would move the paths that the daemon asks; leave it out",
    "--ssl-keyfile": _TLS,
    "--ssl-certfile": _TLS,
    "--config": "could override what the daemon sets; write its settings here",
    "--disable-log-stats": "would hide the counters by which a hang is noticed; leave it out",
} | _own(
    {
        "port": ("--port",),
        "model": ("--model", "--model-tag"),
        "upstream_model": ("--served-model-name",),
        "context": ("--max-model-len",),
        "gpu_memory_utilization": ("--gpu-memory-utilization",),
        "kv_cache_memory": ("--kv-cache-memory-bytes",),
        "max_num_seqs": ("--max-num-seqs",),
        "tensor_parallel": ("-tp", "--tensor-parallel-size"),
        "dtype": ("--dtype",),
        "quantization": ("-q", "--quantization"),
        "enforce_eager": ("--enforce-eager", "--no-enforce-eager"),
        "prefix_caching": ("--enable-prefix-caching", "--no-enable-prefix-caching"),
        "chat_template": ("--chat-template",),
    }
)  # vllm serve --help=all


def findings(name: str, backend: LlamaCppSettings | VllmSettings | CommandSettings) -> Iterator[Finding]:
    """The arguments of a backend that are the daemon's."""
    if isinstance(backend, CommandSettings):
        return
    own = _VLLM if isinstance(backend, VllmSettings) else _LLAMA_CPP
    for index, argument in enumerate(backend.args):
        flag = argument.partition("=")[0]
        known = flag.replace("_", "-") if isinstance(backend, VllmSettings) else flag  # vLLM takes both spellings
        if known in own:
            yield Finding((("backends", name, "args", index),), f"{flag} {own[known]}")
