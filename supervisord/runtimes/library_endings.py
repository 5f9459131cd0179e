"""The words of the libraries below almost every server: PyTorch, CUDA, NCCL, Hugging Face, Python, the C library.

"out of memory" alone proves nothing: SGLang says "Decode out of memory" when it takes a request back, and goes on.
"""

from supervisord.core.exits import CauseKind, Signature

GPU_OOM = tuple(
    Signature(CauseKind.GPU_OOM, words)
    for words in (
        "CUDA out of memory",  # PyTorch
        "HIP out of memory",
        "XPU out of memory",
        "torch.OutOfMemoryError",
        "torch.cuda.OutOfMemoryError",  # PyTorch before 2.5
        "CUDA error: out of memory",
        "HIP error: out of memory",
        "CUDA_ERROR_OUT_OF_MEMORY",  # the driver's API: Rust and Go servers
        "CUresult error: 2 (out of memory)",
        "cudaErrorMemoryAllocation",
        "hipErrorOutOfMemory",
        "UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY",  # Intel
        "Triton Error [CUDA]: out of memory",
        "'out of memory'",  # NCCL: Cuda failure 2 'out of memory'
        "CUBLAS_STATUS_ALLOC_FAILED",
        "RESOURCE_EXHAUSTED: Out of memory",  # JAX
    )
)
HOST_OOM = tuple(
    Signature(CauseKind.HOST_OOM, words)
    for words in (
        "DefaultCPUAllocator: can't allocate memory",  # PyTorch
        "DefaultCPUAllocator: not enough memory",
        "std::bad_alloc",
        "Cannot allocate memory",  # ENOMEM
        " MemoryError",  # Python; the blank: not OutOfMemoryError
        "ArrayMemoryError",
        "memory allocation of",  # Rust: memory allocation of 17179869184 bytes failed
        "runtime: out of memory",  # Go
    )
)
DEVICE_LOST = tuple(
    Signature(CauseKind.DEVICE_LOST, words)
    for words in (
        "GPU is lost",
        "GPU requires reset",
        "fallen off the bus",
        "uncorrectable ECC error",
        "uncorrectable NVLink error",
        "ERROR_DEVICE_LOST",  # VK_…, UR_RESULT_…
        "ErrorDeviceLost",
    )
)
# Its own watchdog found that it hung.
HANG = (Signature(CauseKind.HANG, "Watchdog caught collective operation timeout"),)  # PyTorch, of NCCL
CONFIGURATION = tuple(
    Signature(CauseKind.CONFIGURATION, words, unless=unless)
    for words, unless in (
        ("error while loading shared libraries", ""),
        ("' not found (required by", ""),  # built against a newer C library
        ("cannot open shared object file", "not loading"),
        # The driver. Some only warn, and go on with the CPU.
        ("NVIDIA driver on your system is too old", "UserWarning"),
        ("Found no NVIDIA driver on your system", "UserWarning"),
        ("driver version is insufficient for CUDA runtime", "ggml_cuda_init"),
        ("Driver/library version mismatch", ""),
        ("unsupported display driver / cuda driver combination", "ggml_cuda_init"),
        ("no kernel image is available for execution", "UserWarning"),
        ("No CUDA GPUs are available", ""),
        # The model.
        ("gated repo", ""),
        ("GatedRepoError", ""),
        ("RepositoryNotFoundError", ""),
        ("is not a local folder and is not a valid model identifier", ""),
        ("does not appear to have a file named", ""),
        ("Repo id must be in the form", ""),
        ("Unrecognized model in", ""),
        ("Error while deserializing header", ""),  # a torn safetensors file
        # The machine.
        ("No space left on device", ""),
        (": permission denied", "warning"),
        ("ibv_reg_mr", "NCCL INFO"),  # RDMA may lock no memory: ulimit -l
    )
)
PORT_TAKEN = tuple(
    Signature(CauseKind.CONFIGURATION, words, unless="Retrying", heals=True)
    for words in ("address already in use", "EADDRINUSE")
)
CRASH = (
    *(
        Signature(CauseKind.CRASH, words)
        for words in ("Segfault encountered", "CUDA error:", "Memory access fault by GPU", "NCCL error", "Fatal Python")
    ),
)

ALL: tuple[Signature, ...] = (
    *GPU_OOM, *HOST_OOM, *DEVICE_LOST, *HANG, *CONFIGURATION, *PORT_TAKEN, *CRASH,
)  # fmt: skip
