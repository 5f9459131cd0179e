"""The words in llama-server's log that prove why it ended, as read from the sources of llama.cpp and seen."""

from supervisord.core.exits import CauseKind, Signature
from supervisord.runtimes import library_endings

# A refused compute buffer is tried once more, smaller, and says so in a line of its own; what is refused before the
# model is loaded (a warm-up) did not kill it either. Buffers called ..._Host are RAM, pinned where that succeeds.
_COPED = ("retrying without pipeline parallelism", "model loaded")
_DEVICES = ("CUDA", "ROCm", "Vulkan", "SYCL", "MUSA", "CANN", "OpenCL")  # the names of their buffers begin so
_GPU_OOM = (
    Signature(CauseKind.GPU_OOM, "cudaMalloc failed: out of memory", until=_COPED),  # ROCm builds say so too
    Signature(CauseKind.GPU_OOM, "CUDA error: out of memory"),
    Signature(CauseKind.GPU_OOM, "ROCm error: out of memory"),
    Signature(CauseKind.GPU_OOM, "CUDA error: the resource allocation failed"),  # cuBLAS found no room for its handle
    *(Signature(CauseKind.GPU_OOM, f"unable to allocate {name}", "_Host", _COPED) for name in _DEVICES),
    *(Signature(CauseKind.GPU_OOM, f"failed to allocate {name}", "_Host", _COPED) for name in _DEVICES),
    Signature(CauseKind.GPU_OOM, "out of device memory", until=_COPED),
    Signature(CauseKind.GPU_OOM, "ErrorOutOfDeviceMemory", until=_COPED),
    Signature(CauseKind.GPU_OOM, "of memory on device", until=_COPED),  # SYCL: can't allocate 568 Bytes of memory ...
    Signature(CauseKind.GPU_OOM, "UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY"),
    Signature(CauseKind.GPU_OOM, "hipMalloc failed"),
    Signature(CauseKind.GPU_OOM, "hipErrorOutOfMemory"),
    Signature(CauseKind.GPU_OOM, "CUBLAS_STATUS_ALLOC_FAILED"),
)
_HOST_OOM = (
    Signature(CauseKind.HOST_OOM, "unable to allocate CPU"),
    *(Signature(CauseKind.HOST_OOM, f"unable to allocate {name}_Host") for name in _DEVICES),
    Signature(CauseKind.HOST_OOM, "failed to allocate CPU buffer", until=_COPED),
    Signature(CauseKind.HOST_OOM, "ggml_aligned_malloc: insufficient memory"),
    Signature(CauseKind.HOST_OOM, "ErrorOutOfHostMemory", until=_COPED),
    Signature(CauseKind.HOST_OOM, "ERROR_OUT_OF_HOST_MEMORY"),  # SYCL
    Signature(CauseKind.HOST_OOM, "std::bad_alloc"),
    Signature(CauseKind.HOST_OOM, "cannot allocate memory"),
)
NO_FLASH_ATTENTION = "requires flash_attn"  # of a V cache that is quantized

_DEVICE_LOST = (Signature(CauseKind.DEVICE_LOST, "ggml_vulkan: device lost"),)
_CONFIGURATION = tuple(
    Signature(CauseKind.CONFIGURATION, words)
    for words in (
        "error: invalid argument",
        "error while handling argument",
        "failed to open GGUF file",
        "invalid magic",
        "data is not within the file bounds",
        "unknown model architecture",
        NO_FLASH_ATTENTION,
        "please provide a valid HF token",
    )
)
_ANNOUNCED = tuple(
    Signature(CauseKind.CONFIGURATION, words, announces=True)
    for words in ("error loading model", "failed to load model")
)
# What it says of its files and flags: a child of Ollama says so too, and Ollama goes on.
_PORT_TAKEN = (Signature(CauseKind.CONFIGURATION, "couldn't bind", heals=True),)
_CRASH = tuple(Signature(CauseKind.CRASH, words) for words in ("GGML_ASSERT", "CUDA error:", "ROCm error:"))

MEMORY_AND_DEVICE: tuple[Signature, ...] = (
    *_GPU_OOM, *_HOST_OOM, *_DEVICE_LOST, *library_endings.DEVICE_LOST, *_CRASH,
)  # fmt: skip
SIGNATURES: tuple[Signature, ...] = (
    *MEMORY_AND_DEVICE, *_CONFIGURATION, *_ANNOUNCED, *library_endings.CONFIGURATION, *library_endings.PORT_TAKEN,
    *_PORT_TAKEN,
)  # fmt: skip
