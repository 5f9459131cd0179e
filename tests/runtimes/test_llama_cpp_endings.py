"""How llama-server ends: the last lines and the status it leaves, as seen in the wild, and the verdict on each."""

from dataclasses import dataclass, replace

import pytest

from supervisord.core.exits import AskedFor, CauseKind, ExitEvidence, GpuRoom, classify
from supervisord.core.memory import GIB
from supervisord.runtimes.base import BackendSpec, RuntimeKind
from supervisord.runtimes.llama_cpp import LlamaCpp

SIGNATURES = LlamaCpp().signatures(BackendSpec("big", RuntimeKind.LLAMA_CPP, "/models/big.gguf", ("big",)))


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


# --- pieces that many endings share ----------------------------------------------------------------------------------

BANNER = """
0.00.048.295 I cmn  common_param: common_params_print_info: verbosity = 3 (adjust with the `-lv N` CLI arg)
0.00.861.262 I srv    load_model: loading model '/models/big.gguf'
"""
SERVING = """
0.06.377.734 I srv    load_model: initializing, n_slots = 1, n_ctx_slot = 4096, kv_unified = 'false'
0.06.763.064 I srv          init: model loaded
0.06.763.076 I srv          init: listening on http://127.0.0.1:8081
0.09.766.146 I slot launch_slot_: id  0 | task 0 | processing task, is_child = 0
"""
LOAD_FAILED = """
llama_model_load_from_file_impl: failed to load model
common_init_from_params: failed to load model '/models/big.gguf'
srv    load_model: failed to load model, '/models/big.gguf'
srv    operator(): operator(): cleaning up before exit...
main: exiting due to model loading error
"""
WEIGHTS_REFUSED = """
ggml_backend_cuda_buffer_type_alloc_buffer: allocating 20480.00 MiB on device 0: cudaMalloc failed: out of memory
alloc_tensor_range: failed to allocate CUDA0 buffer of size 21474836480
llama_model_load: error loading model: unable to allocate CUDA0 buffer
"""
COMPUTE_REFUSED = """
1.06.520.077 E ggml_backend_cuda_buffer_type_alloc_buffer: allocating 51748.72 MiB on device 1: cudaMalloc failed: out of memory
1.06.520.084 E ggml_gallocr_reserve_n_impl: failed to allocate CUDA1 buffer of size 54262464512
1.06.520.086 E graph_reserve: failed to allocate compute buffers
"""  # noqa: E501 - lines as they are
RETRY = "1.06.520.107 W sched_reserve: compute buffer allocation failed, retrying without pipeline parallelism\n"
NOT_FITTED = """
common_params_fit_impl: projected to use 24840 MiB of device memory vs. 22341 MiB of free device memory
common_params_fit_impl: cannot meet free memory target of 1024 MiB, need to reduce device memory by 3523 MiB
common_fit_params: failed to fit params to free device memory: was unable to fit model by reducing context, abort
"""
NOT_PINNED = "ggml_cuda_host_malloc: failed to allocate 2560.00 MiB of pinned memory: out of memory\n"
NOT_LOCKED = """
warning: failed to mlock 501870592-byte buffer (after previously locking 0 bytes): Cannot allocate memory
Try increasing RLIMIT_MEMLOCK ('ulimit -l' as root).
"""
RUN_OOM = """
ggml_cuda_compute_forward: MUL_MAT failed
CUDA error: out of memory
  current device: 0, in function alloc at /src/ggml/src/ggml-cuda/ggml-cuda.cu:477
  cuMemCreate(&handle, reserve_size, &prop, 0)
/src/ggml/src/ggml-cuda/ggml-cuda.cu:90: CUDA error
"""
POLITE = "srv    operator(): operator(): cleaning up before exit...\n"
CRASHED = "slot update_slots: id  0 | task 7 | prompt processing progress, n_past = 2048, progress = 0.5\n"

ENDINGS = [
    # The GPU is full.
    ended("weights do not fit", CauseKind.GPU_OOM, 1, BANNER + WEIGHTS_REFUSED + LOAD_FAILED),
    ended(
        "KV cache does not fit",
        CauseKind.GPU_OOM,
        1,
        """
ggml_backend_cuda_buffer_type_alloc_buffer: allocating 12288.00 MiB on device 0: cudaMalloc failed: out of memory
alloc_tensor_range: failed to allocate CUDA0 buffer of size 12884901888
llama_init_from_model: failed to initialize the context: failed to allocate buffer for kv cache
common_init_from_params: failed to create context with model '/models/big.gguf'
"""
        + LOAD_FAILED,
    ),
    ended("compute buffers do not fit", CauseKind.GPU_OOM, 1, BANNER + COMPUTE_REFUSED + LOAD_FAILED),
    ended(
        "the retry without pipeline parallelism fails in its turn",
        CauseKind.GPU_OOM,
        1,
        COMPUTE_REFUSED + RETRY + COMPUTE_REFUSED + LOAD_FAILED,
    ),
    ended("a failed context is used all the same", CauseKind.GPU_OOM, -11, COMPUTE_REFUSED),
    ended("in the middle of a prompt", CauseKind.GPU_OOM, -6, SERVING + RUN_OOM, was_ready=True),
    ended(
        "words of OOM, then a failed assertion",
        CauseKind.GPU_OOM,
        -6,
        SERVING + "CUDA error: out of memory\n" + 'GGML_ASSERT: /src/ggml-cuda.cu:101: !"CUDA error"\n',
        was_ready=True,
    ),
    ended(
        "words of OOM, then a double free",
        CauseKind.GPU_OOM,
        -6,
        BANNER + WEIGHTS_REFUSED + "double free or corruption (!prev)\n",
    ),
    ended("words of OOM, then status 0", CauseKind.GPU_OOM, 0, BANNER + WEIGHTS_REFUSED + POLITE),
    ended("words of OOM, then 143", CauseKind.GPU_OOM, 143, SERVING + RUN_OOM + POLITE, was_ready=True),
    ended(
        "it stayed alive after the error and was ended as hung",
        CauseKind.GPU_OOM,
        -9,
        SERVING + RUN_OOM,
        was_ready=True,
        asked=AskedFor.HANG,
    ),
    ended(
        "ROCm says CUDA",
        CauseKind.GPU_OOM,
        -6,
        SERVING + "CUDA error: out of memory\n  current device: 0, in function alloc at ggml-cuda.cu:291\n",
        was_ready=True,
    ),
    ended(
        "ROCm says ROCm",
        CauseKind.GPU_OOM,
        -6,
        SERVING + "ROCm error: out of memory\n  current device: 0, in function alloc at ggml-cuda.cu:291\n",
        was_ready=True,
    ),
    ended(
        "Vulkan",
        CauseKind.GPU_OOM,
        1,
        """
ggml_vulkan: Device memory allocation of size 17368219904 failed.
ggml_vulkan: vk::Device::allocateMemory: ErrorOutOfDeviceMemory
alloc_tensor_range: failed to allocate Vulkan0 buffer of size 17368219904
llama_model_load: error loading model: unable to allocate Vulkan0 buffer
"""
        + LOAD_FAILED,
    ),
    ended(
        "cuBLAS has no room for its handle",
        CauseKind.GPU_OOM,
        -6,
        SERVING
        + """
CUDA error: the resource allocation failed
  current device: 0, in function cublas_handle at /src/ggml/src/ggml-cuda/common.cuh:644
  cublasCreate_v2(&cublas_handles[device])
""",
        was_ready=True,
    ),
    ended(
        "a warm-up that failed did not kill it, the first request did",
        CauseKind.GPU_OOM,
        -6,
        COMPUTE_REFUSED + SERVING + RUN_OOM,
        was_ready=True,
    ),
    # The host is full.
    ended(
        "the KV cache does not fit into RAM",
        CauseKind.HOST_OOM,
        1,
        """
ggml_aligned_malloc: insufficient memory (attempted to allocate 65536.00 MB)
ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 68719476736
alloc_tensor_range: failed to allocate CPU buffer of size 68719476736
llama_init_from_model: failed to initialize the context: failed to allocate buffer for kv cache
"""
        + LOAD_FAILED,
    ),
    ended(
        "the weights do not fit into RAM",
        CauseKind.HOST_OOM,
        1,
        "llama_model_load: error loading model: unable to allocate CPU buffer\n" + LOAD_FAILED,
    ),
    ended(
        "no pinned memory, and no other either",
        CauseKind.HOST_OOM,
        1,
        NOT_PINNED + "llama_model_load: error loading model: unable to allocate CUDA_Host buffer\n" + LOAD_FAILED,
    ),
    ended(
        "mmap is refused",
        CauseKind.HOST_OOM,
        1,
        "llama_model_load: error loading model: mmap failed: Cannot allocate memory\n" + LOAD_FAILED,
    ),
    ended(
        "bad_alloc",
        CauseKind.HOST_OOM,
        -6,
        SERVING + "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc\n",
        was_ready=True,
    ),
    ended(
        "the kernel's counter and log both tell",
        CauseKind.KERNEL_OOM,
        -9,
        SERVING,
        was_ready=True,
        kernel_oom_kills=1,
        kernel_named_us=True,
    ),
    ended("its memory group was full", CauseKind.KERNEL_OOM, -9, BANNER, cgroup_oom_kills=1),
    # The GPU is gone.
    ended(
        "Vulkan lost the device",
        CauseKind.DEVICE_LOST,
        -6,
        SERVING
        + """
terminate called after throwing an instance of 'vk::DeviceLostError'
  what():  vk::Queue::submit: ErrorDeviceLost
""",
        was_ready=True,
    ),
    ended(
        "the driver says so",
        CauseKind.DEVICE_LOST,
        -6,
        SERVING + "CUDA error: Unable to determine the device handle for GPU 0000:01:00.0: GPU is lost.\n",
        was_ready=True,
    ),
    # Somebody has to change something.
    ended(
        "no GGUF at all",
        CauseKind.CONFIGURATION,
        1,
        """
gguf_init_from_file_impl: invalid magic characters: '<htm', expected 'GGUF'
llama_model_load: error loading model: llama_model_loader: failed to load model from /models/big.gguf
"""
        + LOAD_FAILED,
        permanent=True,
    ),
    ended(
        "half a GGUF",
        CauseKind.CONFIGURATION,
        1,
        "llama_model_load: error loading model: tensor 'blk.20.ffn_up.weight' data is not within the file bounds, "
        "model is corrupted or incomplete\n" + LOAD_FAILED,
        permanent=True,
    ),
    ended(
        "no file",
        CauseKind.CONFIGURATION,
        1,
        "gguf_init_from_file: failed to open GGUF file '/models/big.gguf' (No such file or directory)\n" + LOAD_FAILED,
        permanent=True,
    ),
    ended(
        "an architecture that this build does not know",
        CauseKind.CONFIGURATION,
        1,
        "llama_model_load: error loading model: error loading model architecture: unknown model architecture: 'new'\n"
        + LOAD_FAILED,
        permanent=True,
    ),
    ended("a flag it does not know", CauseKind.CONFIGURATION, 1, "error: invalid argument: --flash", permanent=True),
    ended(
        "a value it cannot read",
        CauseKind.CONFIGURATION,
        1,
        'error while handling argument "--ctx-size": stoi\n\nusage:\n-c,    --ctx-size N\n',
        permanent=True,
    ),
    ended(
        "a library is missing",
        CauseKind.CONFIGURATION,
        127,
        "llama-server: error while loading shared libraries: libcudart.so.12: cannot open shared object file: "
        "No such file or directory",
        permanent=True,
    ),
    ended(
        "built on a newer system",
        CauseKind.CONFIGURATION,
        1,
        "llama-server: /lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.38' not found (required by llama-server)",
        permanent=True,
    ),
    ended(
        "no program", CauseKind.CONFIGURATION, None, permanent=True, spawn_error="no such file", spawn_permanent=True
    ),
    ended(
        "no descriptors left to start it with",
        CauseKind.EXHAUSTED,
        None,
        spawn_error="too many open files",
        spawn_shortage=True,
    ),
    ended("an instruction this CPU lacks", CauseKind.CONFIGURATION, -4, permanent=True),
    ended(
        "the port is taken: another is chosen next time",
        CauseKind.CONFIGURATION,
        1,
        "main: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 8080\n" + POLITE,
    ),
    # It was ended.
    ended("as asked", CauseKind.ASKED, 0, SERVING + POLITE, was_ready=True, asked=AskedFor.STOP),
    ended("as asked while loading", CauseKind.ASKED, -15, BANNER, asked=AskedFor.STOP),
    ended("as asked, the hard way", CauseKind.ASKED, -9, SERVING + RUN_OOM, was_ready=True, asked=AskedFor.STOP),
    ended("as asked, after a fit that failed", CauseKind.ASKED, 0, NOT_FITTED + SERVING, asked=AskedFor.STOP),
    ended("because it hung", CauseKind.HANG, -9, SERVING, was_ready=True, asked=AskedFor.HANG),
    ended("because it hung, politely", CauseKind.HANG, 0, SERVING + POLITE, was_ready=True, asked=AskedFor.HANG),
    ended("because loading stood still", CauseKind.LOAD_STALL, -9, BANNER, asked=AskedFor.STALL),
    ended(
        "by SIGKILL with 25 GiB free",
        CauseKind.KILLED,
        -9,
        SERVING,
        was_ready=True,
        kernel_oom_kills=0,
        kernel_named_us=False,
        gpus=(GpuRoom(0, 25 * GIB, 40 * GIB),),
    ),
    ended("by SIGKILL, and nobody can tell", CauseKind.KILLED, -9, SERVING, was_ready=True),
    ended(
        "by SIGKILL while the kernel killed somebody else",
        CauseKind.KILLED,
        -9,
        SERVING,
        was_ready=True,
        kernel_oom_kills=1,
        kernel_named_us=False,
    ),
    ended("by SIGTERM from a stranger", CauseKind.KILLED, -15, BANNER),
    # It simply ended.
    ended("status 0, unasked", CauseKind.EXITED, 0, SERVING + POLITE, was_ready=True),
    ended("a segmentation fault", CauseKind.CRASH, -11, SERVING + CRASHED, was_ready=True),
    ended("the model file shrank below it", CauseKind.CRASH, -7, SERVING, was_ready=True),
    ended(
        "an illegal access is no lost device and no OOM",
        CauseKind.CRASH,
        -6,
        SERVING + "CUDA error: an illegal memory access was encountered\n",
        was_ready=True,
    ),
    ended(
        "words about models count only before it served",
        CauseKind.CRASH,
        1,
        SERVING + "srv    load_model: failed to load model, '/models/lora.gguf'\n",
        was_ready=True,
    ),
    # Words that did not mean death, and then another death.
    ended("the fit failed, it served, it crashed", CauseKind.CRASH, -11, NOT_FITTED + SERVING, was_ready=True),
    ended("the fit failed, and a stranger ended it", CauseKind.KILLED, -9, NOT_FITTED + BANNER),
    ended("no pinned memory, then a crash", CauseKind.CRASH, -11, NOT_PINNED + SERVING, was_ready=True),
    ended("no pinned memory, then a crash while loading", CauseKind.CRASH, -11, NOT_PINNED + BANNER),
    ended("no pinned memory, then a hang", CauseKind.HANG, -9, NOT_PINNED + SERVING, asked=AskedFor.HANG),
    ended("no locked memory, then a crash", CauseKind.CRASH, -11, NOT_LOCKED + SERVING, was_ready=True),
    ended(
        "the retry helped, and later it crashed",
        CauseKind.CRASH,
        -11,
        COMPUTE_REFUSED + RETRY + SERVING + CRASHED,
        was_ready=True,
    ),
    ended("the retry helped, and then loading crashed", CauseKind.CRASH, -11, COMPUTE_REFUSED + RETRY),
    ended("the retry helped, and status 0", CauseKind.EXITED, 0, COMPUTE_REFUSED + RETRY + SERVING, was_ready=True),
    ended(
        "a warm-up failed, and a stranger ended it", CauseKind.KILLED, -15, COMPUTE_REFUSED + SERVING, was_ready=True
    ),
]


@pytest.mark.parametrize("ending", ENDINGS, ids=lambda ending: ending.name)
def test_the_verdict(ending: Ending) -> None:
    cause = classify(ending.found, SIGNATURES)

    assert (cause.kind, cause.permanent) == (ending.kind, ending.permanent), cause
    assert cause.summary


def test_every_kind_of_cause_is_met() -> None:
    assert {ending.kind for ending in ENDINGS} == set(CauseKind) - {CauseKind.UNREACHABLE}


def test_the_first_line_of_the_fall_is_the_evidence() -> None:
    log = tuple((BANNER + WEIGHTS_REFUSED + LOAD_FAILED).strip().splitlines())
    cause = classify(ExitEvidence(1, log=log, gpus=(GpuRoom(0, GIB, 24 * GIB),)), SIGNATURES)

    assert cause.summary.startswith(
        "GPU out of memory: ggml_backend_cuda_buffer_type_alloc_buffer: allocating 20480.00"
    )
    assert cause.evidence[1] == "GPU 0 had 1024 of 24576 MiB free"
