"""llama.cpp's `llama-server`, as read from its sources and seen by running it."""

import hashlib
import re
from collections.abc import Mapping

from supervisord.core.exits import Signature
from supervisord.core.ladder import Footprint, Rung, Shrink
from supervisord.core.record import Identity
from supervisord.runtimes import llama_cpp_endings, raw_json, told
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
from supervisord.runtimes.llama_cpp_endings import NO_FLASH_ATTENTION

_METRIC = re.compile(rb"^llamacpp:(\w+) (\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)$", re.MULTILINE)
# n_decode_total moves with every batch, in the middle of a long prompt too; the token counters only at its end.
_WORK = frozenset({b"n_decode_total", b"prompt_tokens_total", b"tokens_predicted_total"})

# The answers of its tokenizer have a single member each.
_RENDERED = re.compile(rb'\s*\{\s*"prompt"\s*:\s*(?=")')
_TOKENIZED = re.compile(rb'\s*\{\s*"tokens"\s*:')

CACHE_RAM_MIB = 0  # llama-server's own prompt cache takes up to 8 GiB of host RAM that nobody counts: off unless asked


class LlamaCpp:
    """`runtimes.base.Runtime` for llama-server. `/health` never asks the engine; the counters go through its queue."""

    kind = RuntimeKind.LLAMA_CPP
    has_process = True
    usage_on_request = False  # its last event always carries `timings`
    program = "llama-server"
    asks_help = True
    counters_path = "/metrics"
    diagnosis_path = "/slots"
    identity_paths: tuple[str, ...] = ("/props", "/v1/models")
    ladder: tuple[Rung, ...] = (
        Rung(Shrink.CACHE_Q8),
        Rung(Shrink.CONTEXT, 0.75),
        Rung(Shrink.CONTEXT, 0.5),
        Rung(Shrink.GPU_LAYERS, 0.5),
    )

    def launch(
        self, spec: BackendSpec, footprint: Footprint, port: int, program: tuple[str, ...], offered: frozenset[str]
    ) -> Launch:
        """See `Runtime.launch`. `spec.args` come last, so that what a person wrote wins."""
        flags = [*_always(spec, port), *_size(spec, footprint), *_only_if(offered, spec), *_options(spec)]
        return Launch((*program, *flags, *spec.args), _environment(spec), spec.cwd)

    def signatures(self, spec: BackendSpec) -> tuple[Signature, ...]:
        """See `Runtime.signatures`."""
        del spec
        return llama_cpp_endings.SIGNATURES

    def address(self, spec: BackendSpec, port: int) -> Address:
        """Plain HTTP on this machine."""
        return Address(spec.host, port)

    def ready_path(self, spec: BackendSpec) -> str:
        """`/health`."""
        del spec
        return "/health"

    def readiness(self, spec: BackendSpec, answer: HttpAnswer) -> Readiness:
        """200 is ready, 503 is loading; anything else is no llama-server."""
        del spec
        match answer.status:
            case 200:
                return Readiness.READY
            case 503:
                return Readiness.LOADING
            case _:
                return Readiness.BROKEN

    def counters(self, answer: HttpAnswer) -> Counters | None:
        """From the Prometheus text of `/metrics`; None when it is something else."""
        if answer.status != 200:
            return None
        found = {name: float(value) for name, value in _METRIC.findall(answer.body)}
        known = _WORK & found.keys()
        if not known:
            return None
        return Counters(work=sum(found[name] for name in known), busy=found.get(b"requests_processing"))

    def canary(self, spec: BackendSpec, model: str) -> Call | None:
        """Its counters: they go through the queue of its only loop. A token would take the place of a cached prompt."""
        return one_token(model) if spec.canary_token and not spec.embeddings else Call(self.counters_path, b"")

    def identity(self, answers: Mapping[str, HttpAnswer]) -> Identity:
        """From `/props` and `/v1/models`."""
        props = told.members(answers.get("/props"))
        models = told.members(answers.get("/v1/models")).get("data")
        entry = models[0] if isinstance(models, list) and models and isinstance(models[0], dict) else {}
        meta = told.mapping(entry.get("meta"))
        settings = told.mapping(props.get("default_generation_settings"))
        template = props.get("chat_template")
        return Identity(
            model=told.text(props.get("model_path")) or told.text(entry.get("id")),
            quantization=told.text(props.get("model_ftype")) or told.text(meta.get("ftype")),
            context_length=told.whole(settings.get("n_ctx")) or told.whole(meta.get("n_ctx")),
            template_hash=hashlib.sha256(template.encode()).hexdigest()[:16] if isinstance(template, str) else None,
            build=told.text(props.get("build_info")),
            slots=told.whole(props.get("total_slots")),
        )

    def count(self, endpoint: str, members: Mapping[str, bytes], model: str) -> Counting | None:
        """A chat is rendered by `/apply-template`, then `/tokenize` counts."""
        del model
        if endpoint == "/v1/chat/completions":
            return _count_chat(members)
        return _count_text(members) if endpoint == "/v1/completions" else None

    def fits(self, prompt_tokens: int, max_tokens: int | None, context: int) -> bool:
        """An answer is cut short at the end of the context; only a prompt that leaves no room is refused."""
        del max_tokens
        return prompt_tokens < context

    def refused(self, log: tuple[str, ...]) -> Shrink | None:
        """A quantized V cache, by a build, a GPU or a model that has no flash attention."""
        return Shrink.CACHE_Q8 if any(NO_FLASH_ATTENTION in line for line in log) else None

    def context_hint(self, log: tuple[str, ...]) -> int | None:
        """llama-server does not say what would fit."""
        del log
        return None


def _count_chat(members: Mapping[str, bytes]) -> Counting:
    asked = {name: members[name] for name in ("messages", "tools") if name in members}
    prompt = _only_member(_RENDERED, (yield Call("/apply-template", raw_json.object_of(asked))))
    return None if prompt is None else (yield from _count_prompt(prompt))


def _count_text(members: Mapping[str, bytes]) -> Counting:
    prompt = members.get("prompt", b"")
    return (yield from _count_prompt(prompt)) if prompt.startswith(b'"') else raw_json.array_length(prompt)


def _count_prompt(prompt: bytes) -> Counting:
    asked = {"content": prompt, "add_special": b"true", "parse_special": b"true"}
    tokens = _only_member(_TOKENIZED, (yield Call("/tokenize", raw_json.object_of(asked))))
    return None if tokens is None else raw_json.array_length(tokens)


def _only_member(name: re.Pattern[bytes], answer: HttpAnswer) -> bytes | None:
    """The JSON of the one member that an answer has, not decoded; None where it is another answer."""
    found, body = name.match(answer.body), answer.body.rstrip()
    return body[found.end() : -1] if answer.status == 200 and found and body.endswith(b"}") else None


def _always(spec: BackendSpec, port: int) -> list[str]:
    # The port is always said: llama-server's default is moving from 8080 to 9931. Slots too: auto means 4.
    return [
        "--model", spec.model, "--host", spec.host, "--port", str(port), "--parallel", str(spec.slots),
        "--alias", spec.models[0], "--metrics", "--slots",
    ]  # fmt: skip


def _size(spec: BackendSpec, footprint: Footprint) -> list[str]:
    flags: list[str] = []
    if footprint.context is not None:
        flags += ["--ctx-size", str(footprint.context * spec.slots)]  # llama-server divides it among its slots
    if footprint.cache_type is not None:
        flags += ["--cache-type-k", footprint.cache_type, "--cache-type-v", footprint.cache_type]
    if footprint.gpu_layers is not None:
        flags += ["--n-gpu-layers", str(footprint.gpu_layers)]
    if footprint.batch is not None:
        flags += ["--batch-size", str(footprint.batch)]
    return flags


def _only_if(offered: frozenset[str], spec: BackendSpec) -> list[str]:
    wanted: list[tuple[str, ...]] = [("--offline",), ("--no-ui",), ("--cache-ram", str(CACHE_RAM_MIB))]
    if spec.headroom:  # its own default of 1 GiB would eat into what is to stay free
        wanted.append(("--fit-target", str(spec.headroom >> 20)))
    return [word for flag in wanted if flag[0] in offered for word in flag]


def _options(spec: BackendSpec) -> list[str]:
    flags: list[str] = []
    if spec.threads is not None:
        flags += ["--threads", str(spec.threads)]
    if spec.embeddings:
        flags.append("--embeddings")
    if spec.chat_template_file:
        flags += ["--chat-template-file", spec.chat_template_file]
    if spec.tensor_split:
        flags += ["--tensor-split", ",".join(f"{share:g}" for share in spec.tensor_split)]
    return flags


def _environment(spec: BackendSpec) -> Mapping[str, str]:
    environment = {"GGML_NO_BACKTRACE": "1"}  # otherwise abort() starts gdb, which holds the dying process
    environment |= visible_gpus(spec)
    return {**environment, **spec.env}
