"""The words in the logs of other servers that prove why they ended: Ollama, TGI, SGLang, TensorRT-LLM, others."""

from supervisord.core.exits import CauseKind, Signature
from supervisord.runtimes import library_endings, llama_cpp_endings

_GPU_OOM = tuple(
    Signature(CauseKind.GPU_OOM, words)
    for words in (
        "CUDA runtime error in error: out of memory",  # TensorRT-LLM
        "): out of memory (",  # TensorRT-LLM: in ::cudaMallocAsync(...): out of memory (file
        "Error Code 2: OutOfMemory",  # TensorRT
        # Refusals to start, without those words.
        "due to insufficient GPU memory",  # TensorRT-LLM: Executor creation failed ...
        "Not enough memory to handle",  # TGI while warming up
        "Insufficient VRAM in split",  # exllama
        "Insufficient VRAM for model",
        "Not enough memory. Please try to increase --mem-fraction-static",  # SGLang: the weights leave no room
    )
)
_HOST_OOM = (Signature(CauseKind.HOST_OOM, "model requires more system memory"),)  # Ollama
# Only what no second start can heal. A module that is missing is not among them: Python servers say so of options.
_CONFIGURATION = tuple(
    Signature(CauseKind.CONFIGURATION, words)
    for words in (
        "error: unrecognized arguments",  # argparse
        "error: the following arguments are required",
        "error: unexpected argument",  # clap: TGI
        "error: no such option",  # click: trtllm-serve
        "error: unknown flag",  # cobra: Ollama
        "ArgumentValidation(",  # TGI
        "was signaled to shutdown with signal 4",  # TGI, of a shard: an instruction that this CPU lacks
    )
)
_HANG = (Signature(CauseKind.HANG, "Scheduler watchdog timeout"),)  # SGLang
# SGLang's leader kills its whole tree, itself too, when one of its processes has failed.
_ENDS_ITSELF = tuple(
    Signature(CauseKind.CRASH, words, ends_itself=True)
    for words in ("Received sigquit from a child process", "SIGQUIT received.")
)
SIGNATURES: tuple[Signature, ...] = (
    *_GPU_OOM, *_HOST_OOM, *library_endings.ALL, *llama_cpp_endings.MEMORY_AND_DEVICE, *_CONFIGURATION, *_HANG,
    *_ENDS_ITSELF,
)  # fmt: skip
