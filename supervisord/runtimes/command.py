"""Any program that serves HTTP: Ollama, TGI, SGLang, `trtllm-serve`, a container, a script."""

import re
from collections.abc import Mapping

from supervisord.core.exits import CauseKind, Signature
from supervisord.core.ladder import Footprint, Rung
from supervisord.core.record import Identity
from supervisord.runtimes import model_list
from supervisord.runtimes.base import (
    Address,
    BackendSpec,
    CommandOptions,
    Counters,
    Counting,
    HttpAnswer,
    Launch,
    Readiness,
    RuntimeKind,
    visible_gpus,
)
from supervisord.runtimes.llama_cpp import LlamaCpp

_PLACEHOLDER = re.compile(r"\$\{(port|host|model|slots)\}")

# Words of the libraries below almost every server, and of the servers named in the documentation. "out of memory" alone
# proves nothing: SGLang says "Decode out of memory" when it takes a request back, and goes on.
_GPU_OOM = (
    Signature(CauseKind.GPU_OOM, "CUDA out of memory"),  # PyTorch
    Signature(CauseKind.GPU_OOM, "HIP out of memory"),
    Signature(CauseKind.GPU_OOM, "XPU out of memory"),
    Signature(CauseKind.GPU_OOM, "torch.OutOfMemoryError"),
    Signature(CauseKind.GPU_OOM, "torch.cuda.OutOfMemoryError"),  # PyTorch before 2.5
    Signature(CauseKind.GPU_OOM, "CUDA_ERROR_OUT_OF_MEMORY"),  # the driver's API: Rust and Go servers
    Signature(CauseKind.GPU_OOM, "cudaErrorMemoryAllocation"),
    Signature(CauseKind.GPU_OOM, "RESOURCE_EXHAUSTED: Out of memory"),  # JAX
    Signature(CauseKind.GPU_OOM, "Triton Error [CUDA]: out of memory"),
    Signature(CauseKind.GPU_OOM, "'out of memory'"),  # NCCL: Cuda failure 2 'out of memory'
    Signature(CauseKind.GPU_OOM, "CUDA runtime error in error: out of memory"),  # TensorRT-LLM
    Signature(CauseKind.GPU_OOM, "): out of memory ("),  # TensorRT-LLM: in ::cudaMallocAsync(...): out of memory (file
    Signature(CauseKind.GPU_OOM, "Error Code 2: OutOfMemory"),  # TensorRT
    # Refusals to start, without those words: TGI while warming up, and SGLang when the weights leave no room.
    Signature(CauseKind.GPU_OOM, "Not enough memory to handle"),
    Signature(CauseKind.GPU_OOM, "Not enough memory. Please try to increase --mem-fraction-static"),
)
_HOST_OOM = (
    Signature(CauseKind.HOST_OOM, "DefaultCPUAllocator: can't allocate memory"),  # PyTorch
    Signature(CauseKind.HOST_OOM, "DefaultCPUAllocator: not enough memory"),
    Signature(CauseKind.HOST_OOM, " MemoryError"),  # Python; the blank: not OutOfMemoryError
    Signature(CauseKind.HOST_OOM, "memory allocation of"),  # Rust: memory allocation of 17179869184 bytes failed
)
# Only what no second start can heal. A module that is missing is not among them: Python servers say so of options.
_CONFIGURATION = (
    Signature(CauseKind.CONFIGURATION, "error while loading shared libraries"),
    Signature(CauseKind.CONFIGURATION, "error: unrecognized arguments"),  # argparse
    Signature(CauseKind.CONFIGURATION, "error: the following arguments are required"),
    Signature(CauseKind.CONFIGURATION, "error: unexpected argument"),  # clap: TGI
    Signature(CauseKind.CONFIGURATION, "error: no such option"),  # click: trtllm-serve
    Signature(CauseKind.CONFIGURATION, "error: unknown flag"),  # cobra: Ollama
)


class Command:
    """`runtimes.base.Runtime` for a configured command line. Nothing is taken for granted but HTTP."""

    kind = RuntimeKind.COMMAND
    has_process = True
    # A server that does not know `stream_options` may refuse the request, and a refused request is worse than a figure
    # that is missing. Clients may still ask for it, and so may a model's `set`.
    usage_on_request = False
    program = ""
    asks_help = False
    counters_path = ""
    identity_paths: tuple[str, ...] = (model_list.PATH,)
    ladder: tuple[Rung, ...] = ()  # which of its flags would make it smaller is not known

    def launch(
        self, spec: BackendSpec, footprint: Footprint, port: int, program: tuple[str, ...], offered: frozenset[str]
    ) -> Launch:
        """See `Runtime.launch`. What is configured, with the placeholders replaced; no shell has a part in it."""
        del footprint, program, offered
        values = {"port": str(port), "host": spec.host, "model": spec.model, "slots": str(spec.slots)}
        options = _options(spec)
        return Launch(
            argv=tuple(_filled(word, values) for word in options.argv),
            env={**_environment(spec), **{name: _filled(value, values) for name, value in spec.env.items()}},
            cwd=spec.cwd,
            stop=tuple(_filled(word, values) for word in options.stop),
        )

    def signatures(self, spec: BackendSpec) -> tuple[Signature, ...]:
        """The configured ones, then those of what servers are made of: PyTorch, CUDA, llama.cpp."""
        # What llama.cpp says of flags and files is said by a child of Ollama, which goes on.
        inner = tuple(s for s in LlamaCpp().signatures(spec) if s.kind is not CauseKind.CONFIGURATION)
        return _options(spec).signatures + _GPU_OOM + _HOST_OOM + inner + _CONFIGURATION

    def address(self, spec: BackendSpec, port: int) -> Address:
        """Plain HTTP on this machine."""
        return Address(spec.host, port)

    def ready_path(self, spec: BackendSpec) -> str:
        """As configured."""
        return _options(spec).health_path

    def readiness(self, spec: BackendSpec, answer: HttpAnswer) -> Readiness:
        """The configured status is ready. What else a server says of itself is its own affair: it is waited for."""
        return Readiness.READY if answer.status == _options(spec).health_status else Readiness.LOADING

    def counters(self, answer: HttpAnswer) -> Counters | None:
        """None: there is no common form of them."""
        del answer
        return None

    def identity(self, answers: Mapping[str, HttpAnswer]) -> Identity:
        """The first model of `/v1/models`, where it has that."""
        models = model_list.listed(answers.get(model_list.PATH))
        return Identity(model=models[0].name, context_length=models[0].context) if models else Identity()

    def count(self, endpoint: str, members: Mapping[str, bytes], model: str) -> Counting | None:
        """None: no common door to a tokenizer."""
        del endpoint, members, model
        return None

    def fits(self, prompt_tokens: int, max_tokens: int | None, context: int) -> bool:
        """Only a prompt that leaves no room for an answer is refused: what a server makes of a limit is its own."""
        del max_tokens
        return prompt_tokens < context

    def context_hint(self, log: tuple[str, ...]) -> int | None:
        """None: nothing is known of its messages."""
        del log
        return None


def _options(spec: BackendSpec) -> CommandOptions:
    assert spec.command is not None, f"backend {spec.name} has the runtime command and no command line"
    return spec.command


def _filled(text: str, values: Mapping[str, str]) -> str:
    """`text` with the placeholders replaced; a lone `$` and what else stands in `${…}` are not ours."""
    return _PLACEHOLDER.sub(lambda found: values[found[1]], text)


def _environment(spec: BackendSpec) -> dict[str, str]:
    environment: dict[str, str] = {}
    environment |= visible_gpus(spec)
    if spec.threads is not None:
        environment["OMP_NUM_THREADS"] = str(spec.threads)
    return environment
