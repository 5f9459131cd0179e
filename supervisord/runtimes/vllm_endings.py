"""The words in vLLM's log that prove why it ended, as read from the sources of vLLM 0.32 and of PyTorch.

The wrappers around a root cause ("Engine core initialization failed. See root cause above", "EngineCore encountered an
issue") prove nothing and are not here: the lines before them do.
"""

from supervisord.core.exits import CauseKind, Signature

# A prompt can hold any of these words, and a person can have requests logged. The files that log them are called
# logger.py (old) and request_logger.py, and each line says its file: "INFO 11-21 07:00:01 [request_logger.py:66] ...".
_REQUESTS = "logger.py:"


def _prove(kind: CauseKind, *words: str) -> tuple[Signature, ...]:
    return tuple(Signature(kind, line, unless=_REQUESTS) for line in words)


_GPU_OOM = _prove(
    CauseKind.GPU_OOM,
    "torch.OutOfMemoryError",
    "torch.cuda.OutOfMemoryError",
    "CUDA out of memory",
    "HIP out of memory",
    "XPU out of memory",
    "CUDA error: out of memory",
    "HIP error: out of memory",
    "Triton Error [CUDA]: out of memory",
    "Cuda failure 2 'out of memory'",  # NCCL
    "Cuda failure 'out of memory'",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "not enough GPU memory",  # for the weights, or for a single token
    # Its refusals to start. On the CPU build the last two speak of RAM.
    "is less than desired GPU memory utilization",
    "is less than the engine's budget",
    "No available memory for the cache blocks",
    "larger than the available KV cache memory",
)
_HOST_OOM = _prove(
    CauseKind.HOST_OOM,
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "std::bad_alloc",
    "Cannot allocate memory",
    " MemoryError",  # the blank: not OutOfMemoryError
    "ArrayMemoryError",
    "less than desired CPU memory utilization",  # the CPU build's refusals to start
    "less than requested memory for kv",
)
_DEVICE_LOST = _prove(
    CauseKind.DEVICE_LOST,
    "GPU is lost",
    "GPU requires reset",
    "fallen off the bus",
    "uncorrectable ECC error",
)
_CONFIGURATION = _prove(
    CauseKind.CONFIGURATION,
    # The command line.
    "error: unrecognized arguments",
    "error: argument ",
    "error: the following arguments are required",
    "error: ambiguous option",
    "validation error for",  # pydantic's, of ModelConfig, ParallelConfig ...
    "validation errors for",
    "appears path-like, but doesn't exist",  # the chat template
    # The model.
    "Invalid repository ID or local directory specified",
    "is not a local folder and is not a valid model identifier",
    "Repo id must be in the form",
    "does not appear to have a file named",
    "Unrecognized model in",
    "are not supported for now",
    "No model architectures are specified",
    "Cannot find any model weights",
    "Error while deserializing header",  # a torn safetensors file
    "Unknown quantization method",
    "does not match the quantization method",
    "greater than the derived max_model_len",
    "GatedRepoError",
    # The machine.
    "must be divisible by tensor parallel size",
    "is larger than the number of available GPUs",
    "compute capability of at least",
    "Failed to infer device type",
    "No CUDA GPUs are available",
    "No module named vllm",
    "No module named 'vllm",
    "error while loading shared libraries",
)

SIGNATURES: tuple[Signature, ...] = (*_GPU_OOM, *_HOST_OOM, *_DEVICE_LOST, *_CONFIGURATION)
