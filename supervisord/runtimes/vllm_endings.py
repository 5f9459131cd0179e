"""The words in vLLM's log that prove why it ended, as read from the sources of vLLM 0.32 and of PyTorch.

The wrappers around a root cause ("Engine core initialization failed. See root cause above", "EngineCore encountered an
issue") prove nothing and are not here: the lines before them do. A prompt that is logged proves nothing either: vLLM
does so as INFO or DEBUG.
"""

from supervisord.core.exits import CauseKind, Signature
from supervisord.runtimes import library_endings

_GPU_OOM = tuple(
    Signature(CauseKind.GPU_OOM, words)
    for words in (
        "not enough GPU memory",  # for the weights, or for a single token
        # Its refusals to start. On the CPU build the last two speak of RAM.
        "is less than desired GPU memory utilization",
        "is less than the engine's budget",
        "No available memory for the cache blocks",
        "larger than the available KV cache memory",
        "larger than the maximum number of tokens that can be stored in KV cache",  # before 0.9
    )
)
_HOST_OOM = tuple(
    Signature(CauseKind.HOST_OOM, words)
    for words in (
        "less than desired CPU memory utilization",  # the CPU build's refusals to start
        "less than requested memory for kv",
    )
)
_CONFIGURATION = tuple(
    Signature(CauseKind.CONFIGURATION, words)
    for words in (
        # The command line.
        "error: unrecognized arguments",
        "error: argument ",
        "error: the following arguments are required",
        "error: ambiguous option",
        "  Value error, ",  # pydantic's
        "appears path-like, but doesn't exist",  # the chat template
        # The model.
        "Invalid repository ID or local directory specified",
        "are not supported for now",
        "No model architectures are specified",
        "Cannot find any model weights",
        "Unknown quantization method",
        "does not match the quantization method",
        "greater than the derived max_model_len",
        # The machine.
        "must be divisible by tensor parallel size",
        "is larger than the number of available GPUs",
        "compute capability of at least",
        "Failed to infer device type",
        "No module named vllm",
        "No module named 'vllm",
    )
)
# Pydantic's headline: of ModelConfig, ParallelConfig ...
_ANNOUNCED = tuple(
    Signature(CauseKind.CONFIGURATION, words, announces=True)
    for words in ("validation error for", "validation errors for")
)
# A core process that ended with a status is named with it; nothing between the braces: it vanished.
_VANISHED = (
    Signature(CauseKind.CRASH, "Failed core proc(s): {}", vanished=True),
    Signature(CauseKind.CRASH, "died unexpectedly, shutting down executor", vanished=True),
)

SIGNATURES: tuple[Signature, ...] = (
    *_GPU_OOM,
    *_HOST_OOM,
    *library_endings.ALL,
    *_CONFIGURATION,
    *_ANNOUNCED,
    *_VANISHED,
)
