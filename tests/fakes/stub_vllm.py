"""What the stub says when it plays `vllm serve`; words and shapes as in vLLM 0.32."""

import json

from tests.fakes import stub_answers as answers
from tests.fakes.stub_engine import FAILED, OOM
from tests.fakes.stub_llama import Load
from tests.fakes.stub_options import Serving

BLOCK_TOKENS = 16
LOADING_LINES = ("INFO [model.py] Resolved architecture: LlamaForCausalLM", "INFO Starting to load model ...")
READY_LINES = ("INFO:     Started server process", "INFO:     Application startup complete.")
DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."
TYPES = {400: "BadRequestError", 404: "NotFoundError", 500: "InternalServerError", 503: "ServiceUnavailable"}


class VllmWording(answers.Wording):
    """No timings, and usage in a stream only when it was asked for."""

    __slots__ = ()

    def plain(self, content: bytes, reason: bytes, counts: answers.Counts) -> bytes:
        body = json.loads(super().plain(content, reason, counts))
        del body["timings"]
        return json.dumps(body, separators=(",", ":")).encode()

    def last(self, reason: bytes, counts: answers.Counts, *, include_usage: bool) -> bytes:
        finish = b'data: {"choices":[{"finish_reason":"%b","index":0,%b}],' % (
            reason,
            b'"delta":{}' if self._chat else b'"text":""',
        )
        finish += self._common + b"}\n\n"
        if include_usage:
            finish += b'data: {"choices":[],' + self._common + b',"usage":' + counts.usage() + b"}\n\n"
        return finish + answers.DONE


class VllmDialect:
    listens_early = False  # connections are refused until the engine is up
    closes_after_stream = False
    wording = VllmWording

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._names = tuple(serving.alias.split(",")) if serving.alias else (serving.model,)
        self.alias = self._names[0]

    def loading_lines(self) -> tuple[str, ...]:
        return LOADING_LINES

    def ready_lines(self) -> tuple[str, ...]:
        return READY_LINES

    def oom_lines(self, fitting: int) -> tuple[str, ...]:
        asked = self._serving.ctx
        too_long = (
            f"ValueError: To serve at least one request with the model's max seq len ({asked}), (2.0 GiB KV cache is "
            "needed, which is larger than the available KV cache memory (1.0 GiB). Based on the available memory, "
            f"the estimated maximum model length is {fitting}. Try increasing `gpu_memory_utilization` (which also "
            "controls CPU memory on the CPU backend) or decreasing `max_model_len` when initializing the engine."
        )
        return (too_long if fitting else OOM, FAILED)

    def tell(self, path: bytes, body: bytes, load: Load) -> bytes | None:
        """The answer to what is no inference; None: there is no such path."""
        match path:
            case b"/health":
                return answers.text_answer(b"")
            case b"/version":
                return answers.json_answer(b'{"version":"0.32.0"}')
            case b"/metrics":
                return answers.text_answer(self._metrics(load))
            case b"/v1/models":
                return answers.json_answer(json.dumps({"object": "list", "data": self._cards(load)}).encode())
            case b"/tokenize":
                return self._tokenize(answers.decode(body), load)
        return None

    def refusal(self, ask: answers.Ask, prompt: int, load: Load) -> bytes | None:
        """Why a request is not taken; None: it is."""
        if ask.model and ask.model not in self._names:
            return self.error(404, f"The model `{ask.model}` does not exist. Valid aliases: {', '.join(self._names)}.")
        if prompt < load.n_ctx and (ask.max_tokens or 0) <= load.n_ctx:
            return None  # an answer that does not fit behind its prompt is cut short
        return self.error(
            400,
            f"This model's maximum context length is {load.n_ctx} tokens. However, your prompt contains {prompt} input "
            "tokens, which exceeds this limit even without any output tokens. Please reduce the length of the input "
            "prompt.",
        )

    def error(self, status: int, message: str) -> bytes:
        return answers.error_answer(status, message, type=TYPES.get(status, "InternalServerError"), param=None)

    def _cards(self, load: Load) -> list[dict[str, object]]:
        common = {"object": "model", "created": answers.CREATED, "owned_by": "vllm", "root": self._serving.model}
        more = {"parent": None, "max_model_len": load.n_ctx, "permission": []}
        return [{"id": name, **common, **more} for name in self._names]

    def _tokenize(self, ask: answers.Ask, load: Load) -> bytes:
        refused = self.refusal(ask, 0, load)
        if refused is not None:
            return refused
        count = answers.prompt_tokens(ask.text())
        told = {"count": count, "max_model_len": load.n_ctx, "tokens": list(range(count)), "token_strs": None}
        return answers.json_answer(json.dumps(told).encode())

    def _metrics(self, load: Load) -> bytes:
        capacity = self._serving.kv_tokens or load.n_ctx * self._serving.slots
        blocks = capacity // BLOCK_TOKENS
        values = {
            "num_requests_running": ("gauge", load.running),
            "num_requests_waiting": ("gauge", load.waiting),
            "kv_cache_usage_perc": ("gauge", min(1.0, load.tokens_in_flight / capacity)),
            "num_preemptions_total": ("counter", load.preempted_total),
            "prompt_tokens_total": ("counter", load.prompt_total),
            "generation_tokens_total": ("counter", load.predicted_total),
        }
        labels = f'engine="0",model_name="{self.alias}"'
        told = "".join(
            f"# HELP vllm:{name} of the stub\n# TYPE vllm:{name} {kind}\nvllm:{name}{{{labels}}} {float(value)}\n"
            for name, (kind, value) in values.items()
        )
        config = f'block_size="{BLOCK_TOKENS}",engine="0",gpu_memory_utilization="0.92",num_gpu_blocks="{blocks}"'
        told += "# HELP vllm:cache_config_info of the stub\n# TYPE vllm:cache_config_info gauge\n"
        return f"{told}vllm:cache_config_info{{{config}}} 1.0\n".encode()
