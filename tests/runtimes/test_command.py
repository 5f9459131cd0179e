"""Any server as configured: its command line with the placeholders filled, its health, and how it tells an OOM."""

from dataclasses import replace

import pytest

from supervisord.core.exits import CauseKind, ExitEvidence, Signature, classify
from supervisord.core.ladder import Footprint
from supervisord.core.record import Identity
from supervisord.core.state import LifePolicy
from supervisord.runtimes.base import Address, BackendSpec, CommandOptions, HttpAnswer, Launch, Readiness, RuntimeKind
from supervisord.runtimes.command import Command

COMMAND = Command()


def spec(*argv: str, model: str = "m", slots: int = 4, **options: object) -> BackendSpec:
    return BackendSpec(
        name="any",
        runtime=RuntimeKind.COMMAND,
        model=model,
        models=("any",),
        life=LifePolicy(slots=slots),
        command=CommandOptions(argv=argv or ("serve",), **options),  # type: ignore[arg-type]
    )


def launch(described: BackendSpec) -> Launch:
    return COMMAND.launch(described, Footprint(context=512), 4242, ("ignored",), frozenset({"--flag"}))


# --- the command line ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "started"),
    [
        ("${port}", "4242"),
        ("--port=${port}", "--port=4242"),
        ("${host}:${port}", "127.0.0.1:4242"),
        ("${model}", "org/model"),
        ("-n${slots}", "-n4"),
        ("${model}${model}", "org/modelorg/model"),
        ("$port", "$port"),
        ("100$", "100$"),
        ("${HOME}", "${HOME}"),
        ("${ports}", "${ports}"),
        ("${}", "${}"),
        ("${port", "${port"),
        ("{port}", "{port}"),
        ("${Port}", "${Port}"),
        ("", ""),
    ],
)
def test_placeholders_and_nothing_else_are_replaced(written: str, started: str) -> None:
    described = replace(
        spec("run", written, model="org/model", stop=("halt", written)), env={"SOME": written, "PLAIN": "1"}
    )
    made = launch(described)
    assert made.argv == ("run", started)
    assert made.stop == ("halt", started)
    assert made.env == {"SOME": started, "PLAIN": "1"}


def test_a_value_that_looks_like_a_placeholder_is_not_filled_again() -> None:
    assert launch(spec("run", "${model}", model="${port}\\1")).argv == ("run", "${port}\\1")


def test_names_of_variables_stay_as_they_are() -> None:
    assert launch(replace(spec(), env={"${port}": "x"})).env == {"${port}": "x"}


def test_it_runs_where_it_is_told_and_needs_no_stop_command() -> None:
    made = launch(replace(spec(), cwd="/srv"))
    assert (made.argv, made.cwd, made.stop, made.env) == (("serve",), "/srv", (), {})


def test_gpus_and_threads_are_said_by_variables_and_a_persons_own_win() -> None:
    described = replace(spec(), gpus=("1", "GPU-5d3a"), threads=6)
    assert launch(described).env == {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": "1,GPU-5d3a",
        "OMP_NUM_THREADS": "6",
    }
    own = launch(replace(described, env={"CUDA_VISIBLE_DEVICES": "3", "OMP_NUM_THREADS": "${slots}"})).env
    assert (own["CUDA_VISIBLE_DEVICES"], own["OMP_NUM_THREADS"]) == ("3", "4")


def test_a_backend_without_a_command_line_is_a_bug_that_names_it() -> None:
    with pytest.raises(AssertionError, match="any"):
        launch(replace(spec(), command=None))


# --- health and identity ---------------------------------------------------------------------------------------------


def test_where_it_answers() -> None:
    assert COMMAND.address(spec(), 4242) == Address("127.0.0.1", 4242)
    assert COMMAND.ready_path(spec()) == "/health"
    assert COMMAND.ready_path(spec(health_path="/api/version")) == "/api/version"


@pytest.mark.parametrize(
    ("status", "readiness"),
    [
        (204, Readiness.READY),
        (200, Readiness.LOADING),
        (401, Readiness.LOADING),
        (500, Readiness.LOADING),
        (503, Readiness.LOADING),
    ],
)
def test_the_configured_status_is_ready_and_any_other_is_waited_for(status: int, readiness: Readiness) -> None:
    assert COMMAND.readiness(spec(health_status=204), HttpAnswer(status, b"")) is readiness


@pytest.mark.parametrize(
    ("body", "identity"),
    [
        (b'{"data":[{"id":"llama3:8b"},{"id":"other"}]}', Identity(model="llama3:8b")),
        (b'{"data":[{"id":"m","max_model_len":8192}]}', Identity(model="m", context_length=8192)),
        (b'{"data":[{"id":"m","max_model_len":true}]}', Identity(model="m")),
        (b'{"data":[{"id":"m","max_model_len":0}]}', Identity(model="m")),
        (b'{"data":[{"id":""},7,{"id":5},{"id":"m"}]}', Identity(model="m")),
        (b'{"data":[]}', Identity()),
        (b'{"data":{"id":"m"}}', Identity()),
        (b"[1]", Identity()),
        (b"<html>", Identity()),
        (b"\xff", Identity()),
        (b"[" * 100_000, Identity()),
    ],
)
def test_it_is_what_v1_models_lists_first(body: bytes, identity: Identity) -> None:
    assert COMMAND.identity({"/v1/models": HttpAnswer(200, body)}) == identity


def test_without_v1_models_it_does_not_tell_who_it_is() -> None:
    assert COMMAND.identity({}) == Identity()
    assert COMMAND.identity({"/v1/models": HttpAnswer(404, b'{"data":[{"id":"m"}]}')}) == Identity()


def test_nothing_is_asked_of_it_that_it_may_not_know() -> None:
    assert not COMMAND.usage_on_request  # a server that does not know stream_options may refuse the request
    assert (COMMAND.program, COMMAND.asks_help, COMMAND.counters_path, COMMAND.ladder) == ("", False, "", ())
    assert COMMAND.counters(HttpAnswer(200, b"requests_total 5\n")) is None
    assert COMMAND.count("/v1/chat/completions", {}, "m") is None
    assert COMMAND.context_hint(("the maximum length is 512",)) is None


@pytest.mark.parametrize(("prompt", "fits"), [(511, True), (512, False), (513, False)])
def test_only_a_prompt_without_room_for_an_answer_does_not_fit(prompt: int, fits: bool) -> None:
    assert COMMAND.fits(prompt, 4096, 512) is fits


# --- how it ended ----------------------------------------------------------------------------------------------------


def ended(*log: str, status: int = 1, was_ready: bool = False, described: BackendSpec | None = None) -> CauseKind:
    found = ExitEvidence(status=status, was_ready=was_ready, log=log)
    return classify(found, COMMAND.signatures(described or spec())).kind


@pytest.mark.parametrize(
    "line",
    [
        # PyTorch, old and new, CUDA and ROCm
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 MiB. GPU 0 has a total capacity of 22 GiB",
        "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB (GPU 0; 23.69 GiB total capacity",
        "torch.OutOfMemoryError: HIP out of memory. Tried to allocate 256.00 MiB.",
        "RuntimeError: CUDA error: out of memory",
        # TGI, while warming up
        (
            'Error: Warmup(Generation("Not enough memory to handle 4096 prefill tokens. You need to decrease '
            '`--max-batch-prefill-tokens`"))'
        ),
        # SGLang
        "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static.",
        "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static. Current value: 0.45",
        # TensorRT-LLM
        (
            "[TensorRT-LLM][ERROR] CUDA runtime error in ::cudaMallocAsync(ptr, n, mCudaStream->get()): out of memory "
            "(/app/tensorrt_llm/cpp/tensorrt_llm/runtime/tllmBuffers.h:112)"
        ),
        "RuntimeError: [TensorRT-LLM][ERROR] CUDA runtime error in error: out of memory (/x/runtime/ipcUtils.cpp:48)",
        "[TRT] [E] Error Code 2: OutOfMemory (Requested size was 17179869184 bytes.)",
        # Ollama passes on what llama.cpp says
        (
            'time=2025-01-01T00:00:00Z level=INFO source=runner.go msg="ggml_backend_cuda_buffer_type_alloc_buffer: '
            'allocating 4096.00 MiB on device 0: cudaMalloc failed: out of memory"'
        ),
        # others
        "ncclUnhandledCudaError: Cuda failure 2 'out of memory'",
        'DriverError(CUDA_ERROR_OUT_OF_MEMORY, "out of memory")',
        "RuntimeError: Triton Error [CUDA]: out of memory",
        "jaxlib.xla_extension.XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory allocating 123 bytes.",
    ],
)
@pytest.mark.parametrize("was_ready", [False, True])
def test_gpu_out_of_memory_in_the_words_of_each_server(line: str, was_ready: bool) -> None:
    assert ended("loading", line, "shutting down", was_ready=was_ready) is CauseKind.GPU_OOM
    assert ended(line, status=0, was_ready=was_ready) is CauseKind.GPU_OOM


@pytest.mark.parametrize(
    "line",
    [
        "RuntimeError: [enforce fail at alloc_cpu.cpp:114] data. DefaultCPUAllocator: can't allocate memory: you tried",
        "RuntimeError: DefaultCPUAllocator: not enough memory: you tried to allocate 137438953472 bytes.",
        "memory allocation of 17179869184 bytes failed",
        "[rank0]: MemoryError",
        "OSError: [Errno 12] Cannot allocate memory",
        "terminate called after throwing an instance of 'std::bad_alloc'",
    ],
)
def test_host_out_of_memory(line: str) -> None:
    assert ended(line) is CauseKind.HOST_OOM


@pytest.mark.parametrize(
    "line",
    [
        "Decode out of memory happened. #retracted_reqs: 1",  # SGLang takes a request back and goes on
        "KV cache pool is full. Retract requests.",
        "torch.cuda.is_available() is False",
        "ModuleNotFoundError: No module named 'flash_attn'",
    ],
)
def test_words_that_prove_nothing(line: str) -> None:
    assert ended(line) is CauseKind.CRASH


@pytest.mark.parametrize(
    "line",
    [
        "trtllm: error while loading shared libraries: libcudart.so.12: cannot open shared object file",
        "launch_server.py: error: unrecognized arguments: --prot 80",
        "launch_server.py: error: the following arguments are required: --model-path",
        "error: unexpected argument '--prot' found",
        "Error: No such option: --prot",
        "Error: unknown flag: --prot",
    ],
)
def test_what_no_second_start_can_heal_counts_until_it_is_ready(line: str) -> None:
    assert ended(line, status=2) is CauseKind.CONFIGURATION
    assert ended(line, status=2, was_ready=True) is CauseKind.CRASH


def test_a_failed_load_within_a_server_that_goes_on_is_no_mistake_of_the_configuration() -> None:
    assert ended("llama_model_load: error loading model: bad magic", status=1) is CauseKind.CRASH


def test_a_lost_gpu() -> None:
    assert ended("NVML: GPU is lost") is CauseKind.DEVICE_LOST


def test_configured_signatures_come_first() -> None:
    own = (
        Signature(CauseKind.GPU_OOM, "arena exhausted", unless="(soft)"),
        Signature(CauseKind.CONFIGURATION, "no licence"),
    )
    described = spec(signatures=own)
    assert COMMAND.signatures(described)[:2] == own
    assert ended("arena exhausted", described=described) is CauseKind.GPU_OOM
    assert ended("arena exhausted (soft)", described=described) is CauseKind.CRASH
    assert ended("no licence", described=described) is CauseKind.CONFIGURATION
    assert ended("CUDA out of memory", described=described) is CauseKind.GPU_OOM
