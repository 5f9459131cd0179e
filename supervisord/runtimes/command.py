"""Any program that serves HTTP: Ollama, TGI, SGLang, `trtllm-serve`, a container, a script."""

import re
from collections.abc import Mapping

from supervisord.core.exits import Signature
from supervisord.core.ladder import Footprint, Rung, Shrink
from supervisord.core.record import Identity
from supervisord.runtimes import command_endings, model_list
from supervisord.runtimes.base import (
    Address,
    BackendSpec,
    Call,
    CommandOptions,
    Counters,
    Counting,
    HttpAnswer,
    Launch,
    Readiness,
    RuntimeKind,
    one_token,
    visible_gpus,
)

_PLACEHOLDER = re.compile(r"\$\{(port|host|model|slots)\}")


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
    diagnosis_path = ""
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
        return _options(spec).signatures + command_endings.SIGNATURES

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

    def canary(self, spec: BackendSpec, model: str) -> Call | None:
        """A completion of one token; a server that knows no such thing says so, which is an answer too."""
        return None if spec.embeddings or spec.canary_token is False else one_token(model)

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

    def refused(self, log: tuple[str, ...]) -> Shrink | None:
        """None: it has no such words."""
        del log
        return None

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
