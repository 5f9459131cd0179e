"""vLLM's OpenAI-compatible server, as read from its sources and seen by running 0.32."""

import json
import re
from collections.abc import Iterator, Mapping

from supervisord.core.exits import Signature
from supervisord.core.ladder import Footprint, Rung, Shrink
from supervisord.core.record import Identity
from supervisord.runtimes import raw_json, told, vllm_endings
from supervisord.runtimes.base import (
    Address,
    BackendSpec,
    Call,
    Counters,
    Counting,
    HttpAnswer,
    Launch,
    Readiness,
    RuntimeKind,
    one_token,
    visible_gpus,
)

_MODULE = ("-m", "vllm.entrypoints.openai.api_server")
# Our own stall timer sees whether loading goes on; vLLM's deadline of 10 minutes ends slow loads that do.
_READY_TIMEOUT_S = 7 * 24 * 3600

_SAMPLE = re.compile(
    rb"^vllm:(prompt_tokens_total|generation_tokens_total|num_requests_running|num_requests_waiting"
    rb"|num_preemptions_total|kv_cache_usage_perc|cache_config_info)\{(.*)\} (\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)$",
    re.MULTILINE,
)
_WORK = (b"prompt_tokens_total", b"generation_tokens_total")
_KV_TOKENS = re.compile(rb'(?:^|,)kv_cache_size_tokens="(\d+)"')
_BLOCKS = re.compile(rb'(?:^|,)num_gpu_blocks="(\d+)"')  # told without a GPU too
_BLOCK_SIZE = re.compile(rb'(?:^|,)block_size="(\d+)"')
_FITTING = re.compile(r"estimated maximum model length is (\d+)")

_COUNT = re.compile(rb'"count"\s*:\s*(\d{1,18})\b')

# What of a request decides its prompt; /tokenize knows these names too.
_OF_A_CHAT = (
    "messages", "tools", "add_generation_prompt", "continue_final_message", "add_special_tokens", "chat_template",
    "chat_template_kwargs", "mm_processor_kwargs", "media_io_kwargs",
)  # fmt: skip
_OF_A_TEXT = ("prompt", "add_special_tokens")


class Vllm:
    """`runtimes.base.Runtime` for vLLM.

    It refuses connections while it loads, and `/health` never asks whether the engine moves: only the counters tell
    work from a hang.
    """

    kind = RuntimeKind.VLLM
    has_process = True
    usage_on_request = True
    program = "vllm"
    asks_help = False  # it imports all of PyTorch first: half a minute
    counters_path = "/metrics"
    diagnosis_path = "/metrics"
    identity_paths: tuple[str, ...] = ("/v1/models", "/version")
    ladder: tuple[Rung, ...] = (
        Rung(Shrink.FITTING),
        Rung(Shrink.GPU_UTILIZATION, 0.05),
        Rung(Shrink.SEQUENCES, 0.5),
        Rung(Shrink.CONTEXT, 0.5),
    )

    def launch(
        self, spec: BackendSpec, footprint: Footprint, port: int, program: tuple[str, ...], offered: frozenset[str]
    ) -> Launch:
        """See `Runtime.launch`. `spec.args` come last, so that what a person wrote wins.

        Only flags that any version of the last years knows are said unasked. `--shutdown-timeout` is not: without it
        a SIGTERM aborts what is running, and the drain before it is ours.
        """
        del offered
        flags = [*_always(spec, port), *_size(spec, footprint), *_options(spec)]
        return Launch((*program, *_model(spec, program), *flags, *spec.args), _environment(spec), spec.cwd)

    def signatures(self, spec: BackendSpec) -> tuple[Signature, ...]:
        """See `Runtime.signatures`."""
        del spec
        return vllm_endings.SIGNATURES

    def address(self, spec: BackendSpec, port: int) -> Address:
        """Plain HTTP on this machine."""
        return Address(spec.host, port)

    def ready_path(self, spec: BackendSpec) -> str:
        """`/health`."""
        del spec
        return "/health"

    def readiness(self, spec: BackendSpec, answer: HttpAnswer) -> Readiness:
        """200 is ready; 503 means that the engine is dead. It does not listen before it is loaded."""
        del spec
        return Readiness.READY if answer.status == 200 else Readiness.BROKEN

    def counters(self, answer: HttpAnswer) -> Counters | None:
        """From the Prometheus text of `/metrics`, summed over its engines; None when it is something else.

        A prompt is counted when it is done: while a long one is processed in chunks, `kv_used` alone moves.
        """
        if answer.status != 200:
            return None
        sums: dict[bytes, float] = {}
        fullest, kv_tokens = 0.0, None
        for name, labels, value in _samples(answer.body):
            sums[name] = sums.get(name, 0.0) + value
            if name == b"kv_cache_usage_perc":
                fullest = max(fullest, value)
            elif name == b"cache_config_info":
                kv_tokens = _capacity(labels)
        if not sums.keys() & set(_WORK):
            return None
        return Counters(
            work=sum(sums.get(name, 0.0) for name in _WORK),
            busy=sums.get(b"num_requests_running"),
            waiting=sums.get(b"num_requests_waiting"),
            preemptions=sums.get(b"num_preemptions_total"),
            kv_used=fullest if b"kv_cache_usage_perc" in sums else None,
            kv_tokens=kv_tokens,
        )

    def canary(self, spec: BackendSpec, model: str) -> Call | None:
        """A completion of one token, which needs engine and workers; its counters come from its HTTP server alone."""
        return None if spec.embeddings or spec.canary_token is False else one_token(model)

    def identity(self, answers: Mapping[str, HttpAnswer]) -> Identity:
        """From `/v1/models` and `/version`. It tells neither its quantization nor its chat template."""
        models = told.members(answers.get("/v1/models")).get("data")
        entry = told.mapping(models[0]) if isinstance(models, list) and models else {}
        return Identity(
            model=told.text(entry.get("root")) or told.text(entry.get("id")),
            context_length=told.whole(entry.get("max_model_len")),
            build=told.text(told.members(answers.get("/version")).get("version")),
        )

    def count(self, endpoint: str, members: Mapping[str, bytes], model: str) -> Counting | None:
        """`/tokenize` renders a chat with the template, and counts."""
        match endpoint:
            case "/v1/chat/completions":
                return _count_chat(members, model)
            case "/v1/completions":
                return _count_text(members, model)
            case _:
                return None

    def fits(self, prompt_tokens: int, max_tokens: int | None, context: int) -> bool:
        """The prompt leaves room for a token, and no more than the context is asked for.

        An answer that would not fit behind its prompt is cut short at the end of the context (0.32). Older versions
        refuse it, and say so themselves in a 400.
        """
        return prompt_tokens < context and (max_tokens or 0) <= context

    def refused(self, log: tuple[str, ...]) -> Shrink | None:
        """None: it has no such words."""
        del log
        return None

    def context_hint(self, log: tuple[str, ...]) -> int | None:
        """The last "estimated maximum model length is N"."""
        found = [int(match[1]) for line in log for match in _FITTING.finditer(line)]
        return found[-1] if found else None


# --- the command line ------------------------------------------------------------------------------------------------


def _model(spec: BackendSpec, program: tuple[str, ...]) -> tuple[str, ...]:
    if program[-1].rpartition("/")[2].startswith("python"):
        return (*_MODULE, "--model", spec.model)
    return ("serve", spec.model)


def _always(spec: BackendSpec, port: int) -> list[str]:
    names = dict.fromkeys([*([spec.upstream_model] if spec.upstream_model else []), *spec.models])
    # A line for every probe would push the lines that tell why it died out of the tail that is kept.
    return [
        "--host", spec.host, "--port", str(port), "--served-model-name", *names, "--disable-uvicorn-access-log",
    ]  # fmt: skip


def _size(spec: BackendSpec, footprint: Footprint) -> list[str]:
    sequences = spec.slots if footprint.sequences is None else footprint.sequences
    flags = ["--max-num-seqs", str(sequences)]
    if footprint.context is not None:
        flags += ["--max-model-len", str(footprint.context)]
    if footprint.gpu_utilization is not None:
        flags += ["--gpu-memory-utilization", f"{footprint.gpu_utilization:g}"]
    if spec.vllm.kv_cache_memory is not None:
        flags += ["--kv-cache-memory-bytes", str(spec.vllm.kv_cache_memory)]
    return flags


def _options(spec: BackendSpec) -> list[str]:
    options = spec.vllm
    flags: list[str] = []
    if options.tensor_parallel != 1:
        flags += ["--tensor-parallel-size", str(options.tensor_parallel)]
    if options.dtype:
        flags += ["--dtype", options.dtype]
    if options.quantization:
        flags += ["--quantization", options.quantization]
    if options.enforce_eager:
        flags.append("--enforce-eager")
    if options.prefix_caching is not None:
        flags.append("--enable-prefix-caching" if options.prefix_caching else "--no-enable-prefix-caching")
    if spec.chat_template_file:
        flags += ["--chat-template", spec.chat_template_file]
    return flags


def _environment(spec: BackendSpec) -> Mapping[str, str]:
    environment = {
        "VLLM_ENGINE_READY_TIMEOUT_S": str(_READY_TIMEOUT_S),
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }
    if spec.model.startswith("/"):
        environment["HF_HUB_OFFLINE"] = "1"  # all of a model in a folder is there
    if spec.threads is not None:
        # Without "nobind" the CPU build overrules the number with that of the processors it binds to.
        environment |= {"OMP_NUM_THREADS": str(spec.threads), "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    environment |= visible_gpus(spec)
    return {**environment, **spec.env}


# --- its answers -----------------------------------------------------------------------------------------------------


def _samples(body: bytes) -> Iterator[tuple[bytes, bytes, float]]:
    for name, labels, value in _SAMPLE.findall(body):
        yield name, labels, float(value)


def _capacity(labels: bytes) -> int | None:
    """Tokens; older versions tell blocks only. Each engine tells the same configuration: it is not summed."""
    if tokens := _KV_TOKENS.search(labels):
        return int(tokens[1])
    blocks, size = _BLOCKS.search(labels), _BLOCK_SIZE.search(labels)
    return int(blocks[1]) * int(size[1]) if blocks and size else None


def _count_chat(members: Mapping[str, bytes], model: str) -> Counting:
    return (yield from _count(members, model, _OF_A_CHAT)) if "messages" in members else None


def _count_text(members: Mapping[str, bytes], model: str) -> Counting:
    prompt = members.get("prompt", b"")
    if prompt.startswith(b'"'):
        return (yield from _count(members, model, _OF_A_TEXT))
    return raw_json.array_length(prompt)  # tokens already; several prompts in one request are not a length


def _count(members: Mapping[str, bytes], model: str, names: tuple[str, ...]) -> Counting:
    asked = {"model": json.dumps(model).encode(), **{name: members[name] for name in names if name in members}}
    answer = yield Call("/tokenize", raw_json.object_of(asked))
    found = _COUNT.search(answer.body)  # the tokens themselves stand in it too, and are not decoded
    return int(found[1]) if answer.status == 200 and found else None
