"""What the stub says when it plays `llama-server`."""

import json
from typing import Protocol

from tests.fakes import stub_answers as answers
from tests.fakes.stub_options import Serving


class Load(Protocol):
    """What a server tells of itself at this moment. Counts of requests and tokens."""

    serving: Serving
    n_ctx: int
    prompt_total: int
    predicted_total: int
    decode_total: int
    preempted_total: int

    @property
    def running(self) -> int: ...

    @property
    def waiting(self) -> int: ...

    @property
    def tokens_in_flight(self) -> int: ...


class LlamaDialect:
    listens_early = True  # /health is 503 while the model loads
    closes_after_stream = True  # although its head said Keep-Alive
    wording = answers.Wording

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self.alias = answers.alias_of(serving.model, serving.alias)

    def loading_lines(self) -> tuple[str, ...]:
        return answers.LOADING_LINES

    def ready_lines(self) -> tuple[str, ...]:
        serving = self._serving
        return tuple(line.format(host=serving.host, port=serving.port) for line in answers.READY_LINES)

    def oom_lines(self, fitting: int) -> tuple[str, ...]:
        return answers.LOAD_OOM_LINES

    def tell(self, path: bytes, body: bytes, load: Load) -> bytes | None:
        """The answer to what is no inference; None: there is no such path."""
        serving = self._serving
        match path:
            case b"/health":
                return answers.json_answer(b'{"status":"ok"}')
            case b"/metrics":
                return answers.text_answer(self._metrics(load))
            case b"/slots":
                slots = [{"id": n, "n_ctx": load.n_ctx, "speculative": False} for n in range(serving.slots)]
                told = [{**slot, "is_processing": slot["id"] < load.running} for slot in slots]
                return answers.json_answer(json.dumps(told).encode())
            case b"/props":
                return answers.json_answer(answers.props(serving.model, self.alias, load.n_ctx, serving.slots))
            case b"/v1/models" | b"/models":
                return answers.json_answer(answers.models(serving.model, self.alias, load.n_ctx))
            case b"/v1/messages/count_tokens":
                count = answers.prompt_tokens(answers.decode(body).text())
                return answers.json_answer(b'{"input_tokens":%d}' % count)
            case b"/tokenize":
                tokens = list(range(answers.prompt_tokens(answers.decode(body).text())))
                return answers.json_answer(json.dumps({"tokens": tokens}).encode())
        return None

    def refusal(self, ask: answers.Ask, prompt: int, load: Load) -> bytes | None:
        """Why a request is not taken; None: it is."""
        if prompt <= load.n_ctx:
            return None
        message = f"request ({prompt} tokens) exceeds the available context size ({load.n_ctx} tokens)"
        more = {"type": "exceed_context_size_error", "n_prompt_tokens": prompt, "n_ctx": load.n_ctx}
        return answers.error_answer(400, message, **more)

    def error(self, status: int, message: str) -> bytes:
        return answers.error_answer(status, message)

    def _metrics(self, load: Load) -> bytes:
        values = {
            "prompt_tokens_total": ("counter", load.prompt_total),
            "tokens_predicted_total": ("counter", load.predicted_total),
            "n_decode_total": ("counter", load.decode_total),
            "requests_processing": ("gauge", load.running),
            "requests_deferred": ("gauge", load.waiting),
        }
        return "".join(
            f"# HELP llamacpp:{name} of the stub\n# TYPE llamacpp:{name} {kind}\nllamacpp:{name} {value}\n"
            for name, (kind, value) in values.items()
        ).encode()
