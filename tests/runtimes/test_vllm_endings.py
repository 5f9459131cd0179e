# ruff: noqa: E501 - lines as they are
"""How vLLM ends: the lines and the status it leaves, and the verdict on each.

The texts are vLLM 0.32's, PyTorch's and Hugging Face's own; those marked "seen" were printed by a real start on the CPU.
"""

from dataclasses import dataclass, replace

import pytest

from supervisord.core.exits import AskedFor, CauseKind, ExitEvidence, classify
from supervisord.runtimes.base import BackendSpec, RuntimeKind
from supervisord.runtimes.vllm import Vllm

SIGNATURES = Vllm().signatures(BackendSpec("big", RuntimeKind.VLLM, "/models/big", ("big",)))


@dataclass(frozen=True)
class Ending:
    name: str
    kind: CauseKind
    found: ExitEvidence
    permanent: bool = False


def ended(
    name: str, kind: CauseKind, status: int | None, log: str = "", *, permanent: bool = False, **more: object
) -> Ending:
    evidence = replace(ExitEvidence(status, log=tuple(log.strip().splitlines())), **more)
    return Ending(name, kind, evidence, permanent)


def refused(name: str, kind: CauseKind, why: str) -> Ending:
    """The engine does not come up: the root cause in one of its processes, then the API server's wrapper."""
    return ended(name, kind, 1, BANNER + FAILED + f"{ENGINE} [core.py:1510] {why}\n" + WRAPPER)


def misconfigured(name: str, why: str, status: int = 1) -> Ending:
    """The API server finds the mistake itself, before there is an engine."""
    return ended(name, CauseKind.CONFIGURATION, status, BANNER + TRACE + why, permanent=True)


# --- pieces that many endings share ----------------------------------------------------------------------------------

API = "(APIServer pid=17210)"
ENGINE = "(EngineCore pid=17531) ERROR 11-21 07:14:30"
WORKER = "(Worker_TP1 pid=17695) ERROR 11-21 07:14:30 [multiproc_executor.py:953]"
# Harmless, each with a word in it that could be taken for a cause. Seen.
BANNER = f"""
{API} INFO 11-21 07:14:05 [api_utils.py:286] non-default args: {{'model': '/models/big', 'port': 18341}}
{API} WARNING 11-21 07:14:13 [system_utils.py:255] Found ulimit of 20000 and failed to automatically increase with \
error current limit exceeds maximum limit. This can cause fd limit errors like `OSError: [Errno 24] Too many open files`.
{API} WARNING 11-21 07:14:13 [cpu.py:224] Triton is not installed. triton-cpu is expected on x86 CPUs.
(EngineCore pid=17531) WARNING 11-21 07:14:29 [parallel.py:746] Address already in use. Retrying with a new port.
(Worker pid=17695) INFO 11-21 07:14:30 [cpu_worker.py:260] Explicitly set (0.0/8.84) GiB for KV cache on node 0.
"""
SERVING = BANNER + f"{API} INFO 11-21 07:15:00 [launcher.py:195] Route: /health, Methods: GET\n"
TRACE = """
Traceback (most recent call last):
  File "/venv/lib/python3.11/site-packages/vllm/entrypoints/openai/api_server.py", line 12, in <module>
"""
FAILED = f"{ENGINE} [core.py:1510] EngineCore failed to start.\n"
FATAL = f"{ENGINE} [core.py:1512] EngineCore encountered a fatal error.\n"
WRAPPER = (
    "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': 1}\n"
)
DEAD = f"""
{API} ERROR 11-21 07:12:03 [serving.py:929] vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue. \
See stack trace (above) for the root cause.
INFO:     Shutting down
INFO:     Finished server process [17210]
nanobind: leaked 4 instances!
"""
TORCH_OOM = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.50 GiB. GPU 0 has a total capacity of 23.65 GiB of "
    "which 512.44 MiB is free. Including non-PyTorch memory, this process has 23.13 GiB memory in use."
)
KV_REFUSED = (
    "ValueError: To serve at least one request with the model's max seq len (4096), (0.0 GiB KV cache is needed, which "
    "is larger than the available KV cache memory (0.0 GiB). Based on the available memory, the estimated maximum model "
    "length is 1792. Try increasing `gpu_memory_utilization` (which also controls CPU memory on the CPU backend)"
)
VALIDATION = "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig\n  Value error, "
PROMPT = "Why does vLLM say torch.OutOfMemoryError: CUDA out of memory, GPU is lost, Unrecognized model in x?"

ENDINGS = [
    # The GPU is full, and it refuses to start. None of these says "out of memory".
    refused("KV cache larger than what is left (seen)", CauseKind.GPU_OOM, KV_REFUSED),
    refused(
        "no memory for the cache",
        CauseKind.GPU_OOM,
        "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when initializing",
    ),
    refused(
        "another process holds the memory",
        CauseKind.GPU_OOM,
        "ValueError: Free memory on device cuda:0 (3.2/23.65 GiB) on startup is less than desired GPU memory utilization "
        "(0.92, 21.76 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes.",
    ),
    refused(
        "another engine holds the weights",
        CauseKind.GPU_OOM,
        "ValueError: Free memory on device cuda:0 (3.2/23.65 GiB) on startup is less than the engine's budget after "
        "excluding external process's weights (0.92, 12.5 GiB).",
    ),
    refused(
        "an automatic context finds no room",
        CauseKind.GPU_OOM,
        "ValueError: Cannot auto-fit max_model_len: not enough GPU memory available to serve even a single token.",
    ),
    # The GPU is full, and an allocation fails.
    refused(
        "weights do not fit",
        CauseKind.GPU_OOM,
        "Failed to load model - not enough GPU memory. Try lowering --gpu-memory-utilization to free memory for weights, "
        f"increasing --tensor-parallel-size, or using --quantization. (original error: {TORCH_OOM})",
    ),
    refused(
        "the sampler's warm-up does not fit",
        CauseKind.GPU_OOM,
        "RuntimeError: CUDA out of memory occurred when warming up sampler with 1024 dummy requests. Please try lowering "
        "`max_num_seqs` or `gpu_memory_utilization` when initializing the engine.",
    ),
    ended(
        "in a worker",
        CauseKind.GPU_OOM,
        1,
        BANNER + f"{WORKER} WorkerProc failed to start.\n{WORKER} {TORCH_OOM}\n" + WRAPPER,
    ),
    ended(
        "NCCL finds no room",
        CauseKind.GPU_OOM,
        1,
        BANNER + "box:1:1 [0] enqueue.cc:1556 NCCL WARN Cuda failure 2 'out of memory'\n" + FAILED + WRAPPER,
    ),
    ended(
        "CUDA itself",
        CauseKind.GPU_OOM,
        1,
        BANNER + FAILED + f"{ENGINE} [core.py:1510] RuntimeError: CUDA error: out of memory\n" + WRAPPER,
    ),
    ended(
        "in the middle of serving, then status 0",
        CauseKind.GPU_OOM,
        0,
        SERVING + FATAL + f"{ENGINE} [core.py:1512] {TORCH_OOM}\n" + DEAD,
        was_ready=True,
    ),
    ended(
        "cuBLAS finds no room for its handle",
        CauseKind.GPU_OOM,
        0,
        SERVING
        + FATAL
        + f"{ENGINE} [core.py:1512] RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling "
        + "`cublasCreate(handle)`\n"
        + DEAD,
        was_ready=True,
    ),
    ended(
        "it stayed alive after the error and was ended as hung",
        CauseKind.GPU_OOM,
        -9,
        SERVING + FATAL + f"{ENGINE} [core.py:1512] {TORCH_OOM}\n",
        was_ready=True,
        asked=AskedFor.HANG,
    ),
    # RAM is full.
    refused(
        "the CPU build refuses a KV cache (seen)",
        CauseKind.HOST_OOM,
        "RuntimeError: Worker failed with error 'Available memory on node 0 (7.42/8.84 GiB) on kv cache allocation is "
        "less than requested memory for kv (93132.26 GiB). Decrease --kv-cache-memory-bytes, VLLM_CPU_KVCACHE_SPACE'",
    ),
    refused(
        "the CPU build refuses to start",
        CauseKind.HOST_OOM,
        "ValueError: Available memory on node 0 (1.42/8.84 GiB) on startup is less than desired CPU memory utilization "
        "(0.92, 8.14 GiB).",
    ),
    refused(
        "PyTorch finds no RAM",
        CauseKind.HOST_OOM,
        "RuntimeError: [enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried "
        "to allocate 8589934592 bytes. Error code 12 (Cannot allocate memory)",
    ),
    refused("Python finds no RAM", CauseKind.HOST_OOM, "MemoryError"),
    refused(
        "NumPy finds no RAM",
        CauseKind.HOST_OOM,
        "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 8.00 GiB for an array with shape (1073741824,)",
    ),
    ended(
        "C++ finds no RAM",
        CauseKind.HOST_OOM,
        -6,
        BANNER + "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc\n",
    ),
    # The kernel.
    ended(
        "the kernel killed a worker in its group: nothing but the wrapper",
        CauseKind.KERNEL_OOM,
        1,
        BANNER + WRAPPER.replace("{'EngineCore': 1}", "{}"),
        cgroup_oom_kills=1,
    ),
    ended(
        "the kernel killed the engine in its group, then status 0",
        CauseKind.KERNEL_OOM,
        0,
        SERVING + DEAD,
        was_ready=True,
        cgroup_oom_kills=1,
    ),
    ended(
        "the kernel killed the API server",
        CauseKind.KERNEL_OOM,
        -9,
        SERVING,
        was_ready=True,
        kernel_oom_kills=1,
        kernel_named_us=True,
    ),
    # The device.
    ended(
        "the GPU fell off the bus",
        CauseKind.DEVICE_LOST,
        0,
        SERVING + FATAL + f"{ENGINE} [core.py:1512] pynvml.NVMLError_GpuIsLost: GPU is lost\n" + DEAD,
        was_ready=True,
    ),
    ended(
        "its memory is broken",
        CauseKind.DEVICE_LOST,
        0,
        SERVING
        + FATAL
        + f"{ENGINE} [core.py:1512] RuntimeError: CUDA error: uncorrectable ECC error encountered\n"
        + DEAD,
        was_ready=True,
    ),
    # The configuration: found by the API server.
    misconfigured("an unknown flag (seen)", "api_server.py: error: unrecognized arguments: --no-such-flag", 2),
    misconfigured(
        "an ambiguous flag (seen)",
        "api_server.py: error: ambiguous option: --max-num could match --max-num-batched-tokens, --max-num-seqs",
        2,
    ),
    misconfigured(
        "a value that is none",
        "vllm serve: error: argument --dtype: invalid choice: 'int3' (choose from 'auto', 'half')",
        2,
    ),
    misconfigured(
        "no such folder (seen)",
        "huggingface_hub.errors.HFValidationError: Repo id must be in the form 'repo_name' or 'namespace/repo_name': "
        "'/no/such/folder'. Use `repo_type` argument if needed.",
    ),
    misconfigured(
        "an empty folder (seen)",
        VALIDATION + "Invalid repository ID or local directory specified: '/models/empty'.",
    ),
    misconfigured(
        "no such name",
        "OSError: org/none is not a local folder and is not a valid model identifier listed on 'https://hf.co/models'",
    ),
    misconfigured(
        "an architecture it does not know (seen)",
        VALIDATION + "Model architectures ['NoSuchForCausalLM'] are not supported for now. Supported architectures:",
    ),
    misconfigured(
        "a longer context than the model has (seen)",
        VALIDATION + "User-specified max_model_len (100000) is greater than the derived max_model_len "
        "(max_position_embeddings=4096.0 or model_max_length=None in model's config.json).",
    ),
    misconfigured(
        "an unknown quantization (seen)",
        VALIDATION + "Unknown quantization method: nope. Must be one of ['awq', 'fp8']",
    ),
    misconfigured(
        "more parts than heads divide into (seen)",
        VALIDATION + "Total number of attention heads (4) must be divisible by tensor parallel size (3).",
    ),
    misconfigured(
        "a template that is not there (seen)",
        "vllm.exceptions.VLLMValidationError: The supplied chat template string (/no/t.jinja) appears path-like, but "
        "doesn't exist! Tried: /no/t.jinja",
    ),
    misconfigured("no GPU", "RuntimeError: No CUDA GPUs are available"),
    misconfigured("no device at all", "RuntimeError: Failed to infer device type, please set the environment variable"),
    misconfigured("a Python without vLLM", "/usr/bin/python3: No module named vllm"),
    # ... and by the engine.
    replace(
        refused(
            "no weights (seen)",
            CauseKind.CONFIGURATION,
            "RuntimeError: Cannot find any model weights with `/models/big`",
        ),
        permanent=True,
    ),
    replace(
        refused(
            "a torn file (seen)",
            CauseKind.CONFIGURATION,
            "safetensors._safetensors_rust.SafetensorError: Error while deserializing header: incomplete metadata, file not "
            "fully covered",
        ),
        permanent=True,
    ),
    # Words that mean something else, or nothing.
    refused("the wrapper alone proves nothing", CauseKind.CRASH, "AssertionError"),
    ended("a stranger killed a worker: the wrapper alone", CauseKind.CRASH, 1, BANNER + WRAPPER),
    ended(
        "the port is taken (seen): another is chosen next time",
        CauseKind.CONFIGURATION,
        1,
        "OSError: [Errno 98] Address already in use",
    ),
    ended("the engine was killed, and status 0 (seen)", CauseKind.EXITED, 0, SERVING + DEAD, was_ready=True),
    ended(
        "words about models count only before it served",
        CauseKind.CRASH,
        1,
        SERVING + "OSError: /models/big does not appear to have a file named config.json",
        was_ready=True,
    ),
    ended(
        "a logged prompt full of our words",
        CauseKind.EXITED,
        0,
        SERVING
        + f"{API} DEBUG 11-21 07:16:00 [request_logger.py:54] Request cmpl-1 details: prompt: {PROMPT!r}\n"
        + f"{API} INFO 11-21 07:16:00 [request_logger.py:109] Generated response cmpl-1: output: {PROMPT!r}\n"
        + f"INFO 08-01 07:16:00 [logger.py:39] Received request cmpl-1: prompt: {PROMPT!r}, params: None\n"
        + DEAD,
        was_ready=True,
    ),
    ended("an illegal access", CauseKind.EXITED, 0, SERVING + FATAL + "CUDA error: an illegal memory access" + DEAD),
    ended("a segmentation fault", CauseKind.CRASH, -11, SERVING, was_ready=True),
    ended("killed from outside", CauseKind.KILLED, -9, SERVING, was_ready=True, kernel_oom_kills=0),
    ended("asked to stop", CauseKind.ASKED, 0, SERVING + DEAD, was_ready=True, asked=AskedFor.STOP),
    ended("hung", CauseKind.HANG, -9, SERVING, was_ready=True, asked=AskedFor.HANG),
    ended("loading stood still", CauseKind.LOAD_STALL, -9, BANNER, asked=AskedFor.STALL),
]


@pytest.mark.parametrize("ending", ENDINGS, ids=lambda ending: ending.name)
def test_the_verdict(ending: Ending) -> None:
    cause = classify(ending.found, SIGNATURES)

    assert (cause.kind, cause.permanent) == (ending.kind, ending.permanent), cause
    assert cause.summary


def test_every_kind_of_cause_is_met() -> None:
    assert {ending.kind for ending in ENDINGS} == set(CauseKind) - {CauseKind.UNREACHABLE, CauseKind.EXHAUSTED}


def test_the_root_cause_is_the_evidence_and_not_its_wrapper() -> None:
    log = tuple((BANNER + FAILED + f"{ENGINE} [core.py:1510] {KV_REFUSED}\n" + WRAPPER).strip().splitlines())

    assert "larger than the available KV cache memory" in classify(ExitEvidence(1, log=log), SIGNATURES).summary
    assert Vllm().context_hint(log) == 1792
