"""What every kind of server has in common: how it is described, started, and understood."""

import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from supervisord.core.exits import Signature
from supervisord.core.ladder import Footprint, Rung, Shrink
from supervisord.core.memory import GroupLimits
from supervisord.core.record import Identity
from supervisord.core.state import LifePolicy


class RuntimeKind(StrEnum):
    LLAMA_CPP = "llama.cpp"
    VLLM = "vllm"
    COMMAND = "command"
    REMOTE = "remote"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server answers. `prefix` stands before every path; `headers` (credentials) go with every request."""

    host: str
    port: int
    tls: bool = False
    prefix: str = ""
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class VllmOptions:
    """What only vLLM knows. None: vLLM's own default. Sizes in bytes."""

    dtype: str = ""  # auto, bfloat16, float16, float32; empty: vLLM's choice
    quantization: str = ""
    kv_cache_memory: int | None = None
    tensor_parallel: int = 1
    enforce_eager: bool = False
    prefix_caching: bool | None = None


@dataclass(frozen=True, slots=True)
class CommandOptions:
    """Any server that speaks HTTP. In `argv`, `stop` and the environment ${port}, ${host}, ${model} and ${slots} are
    replaced when it starts."""

    argv: tuple[str, ...]
    health_path: str = "/health"
    health_status: int = 200
    stop: tuple[str, ...] = ()  # run before SIGTERM, e.g. docker stop
    signatures: tuple[Signature, ...] = ()


@dataclass(frozen=True, slots=True)
class RemoteOptions:
    """An OpenAI-compatible address that is not ours to start. `key` is sent as a bearer token; empty: none."""

    base_url: str  # as its users write it: https://api.example.com/v1
    key: str = field(default="", repr=False)
    health_path: str = "/models"  # below base_url; a cheap call that costs no tokens


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """What a backend is said to need, in bytes in total. None: learned from earlier runs, else estimated."""

    vram: int | None = None
    ram: int | None = None


@dataclass(frozen=True, slots=True)
class BackendSpec:
    """One backend as configured, checked, with every default filled in. Compared by value at a reload."""

    name: str
    runtime: RuntimeKind
    model: str  # path of the model file or folder, or a name its server knows; empty: not said
    models: tuple[str, ...]  # names clients may ask for without a route of that name; the first is the main one
    upstream_model: str = ""  # what to call the model towards the server; empty: as the client wrote it
    binary: str = "auto"
    host: str = "127.0.0.1"
    port: int = 0  # 0: a free one is chosen at each start
    footprint: Footprint = field(default_factory=Footprint)
    rungs: tuple[Rung, ...] | None = None  # None: the ladder of the runtime; (): none, an OOM parks
    gpus: tuple[str, ...] = ()  # indices or UUIDs; empty: all that are visible
    tensor_split: tuple[float, ...] = ()  # shares of the GPUs, in their order; empty: the server's own choice
    threads: int | None = None
    cpus: tuple[int, ...] = ()  # the processors it may run on; empty: all
    numa_node: int | None = None  # its processors and, preferred, its memory
    embeddings: bool = False
    chat_template_file: str = ""
    args: tuple[str, ...] = ()  # appended as they are
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = ""
    nice: int = 0
    oom_score_adj: int = 500  # children go before the daemon and the desktop
    life: LifePolicy = field(default_factory=LifePolicy)
    autostart: bool = True
    ttl_s: float | None = None  # unload after that long without work; None: never
    priority: int = 0  # higher is served first, evicted last
    pinned: bool = False  # never asked to leave for another
    memory: MemoryNeed = field(default_factory=MemoryNeed)
    limits: GroupLimits = field(default_factory=GroupLimits)  # what the kernel holds its processes to
    max_wait_s: float = 30.0  # its jobs wait that long for a busy backend to give up its place, then it has to
    min_residence_s: float = 10.0  # once ready, it keeps its place for that long while it has work
    headroom: int = 0  # bytes of each GPU that a server which fits itself leaves free; known at its start only
    probe_interval_s: float = 1.0
    probe_timeout_s: float = 2.0
    canary_every_s: float | None = 600.0  # idle for that long, it is asked whether it still answers; None: never
    canary_token: bool | None = None  # by one token, or what costs less; None: as suits the runtime
    vllm: VllmOptions = field(default_factory=VllmOptions)
    command: CommandOptions | None = None
    remote: RemoteOptions | None = None

    @property
    def slots(self) -> int:
        return self.life.slots


@dataclass(frozen=True, slots=True)
class Launch:
    """A command line ready to be run. `env` is added to the daemon's own cleaned environment.

    `stop` is run before the process is asked to end by a signal; empty: a signal is enough.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """The answer to a probe."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Call:
    """A question to a server: POST of a JSON body, or GET where there is none."""

    path: str
    body: bytes


Counting = Generator[Call, HttpAnswer, int | None]
"""Asks its server what it yields, is sent the answers, and returns a count of tokens; None: it cannot be told."""


class Readiness(StrEnum):
    READY = "ready"
    LOADING = "loading"
    BROKEN = "broken"  # it answers, and says that it can no longer serve


@dataclass(frozen=True, slots=True)
class Counters:
    """What a server tells of its work. `work` only ever grows, and grows while anything gets done."""

    work: float
    busy: float | None = None  # requests being processed
    waiting: float | None = None  # requests it has accepted and does not process yet
    preemptions: float | None = None  # how often it threw work away for lack of KV memory; only grows
    kv_used: float | None = None  # share of the KV cache in use, 0..1
    kv_tokens: int | None = None  # capacity of the KV cache


class Runtime(Protocol):
    """A pure description of one kind of server."""

    kind: RuntimeKind
    has_process: bool  # False: nothing is started here; an address is watched
    usage_on_request: bool  # streams tell their usage only when stream_options.include_usage asks for it
    counters_path: str  # empty: it has none
    diagnosis_path: str  # asked once before it is killed for a hang; empty: nothing is
    identity_paths: tuple[str, ...]
    ladder: tuple[Rung, ...]
    program: str  # looked for on PATH where the configuration says `binary: auto`; empty: `argv` names it
    asks_help: bool  # whether `program --help` is asked which flags there are: quick, and worth it

    def signatures(self, spec: BackendSpec) -> tuple[Signature, ...]:
        """The words in its log that prove a cause."""
        ...

    def launch(
        self, spec: BackendSpec, footprint: Footprint, port: int, program: tuple[str, ...], offered: frozenset[str]
    ) -> Launch:
        """The command line that serves `spec` at `footprint` on `port`; not asked where `has_process` is False.

        `program` is what stands before the flags; `offered` the flags it says it knows: what is not among them is
        left out, so that one description serves many versions. `port` 0 is never passed.
        """
        ...

    def address(self, spec: BackendSpec, port: int) -> Address:
        """Where it answers when started on `port`."""
        ...

    def ready_path(self, spec: BackendSpec) -> str:
        """The path of the health probe, below the address's prefix."""
        ...

    def readiness(self, spec: BackendSpec, answer: HttpAnswer) -> Readiness:
        """What an answer from `ready_path` means."""
        ...

    def counters(self, answer: HttpAnswer) -> Counters | None:
        """The counters in an answer from `counters_path`; None where it holds none."""
        ...

    def canary(self, spec: BackendSpec, model: str) -> Call | None:
        """What an idle one is asked, to see that it would still answer: one token, or what goes through its queue.

        None: there is nothing, or it would cost money.
        """
        ...

    def identity(self, answers: Mapping[str, HttpAnswer]) -> Identity:
        """What the answers from `identity_paths` tell; fields that are not told stay None."""
        ...

    def count(self, endpoint: str, members: Mapping[str, bytes], model: str) -> Counting | None:
        """How to have the prompt of a request counted by the server's own tokenizer; None: it has no such door.

        `members` are the top-level members of the request, each as the valid JSON in which it came, not decoded: a
        prompt may be megabytes, and meanwhile nothing else runs. `model` is what the server calls its model.
        """
        ...

    def fits(self, prompt_tokens: int, max_tokens: int | None, context: int) -> bool:
        """Whether such a request can ever be served in a context of that many tokens."""
        ...

    def refused(self, log: tuple[str, ...]) -> Shrink | None:
        """The way to be smaller that a start said it does not know; None: it said nothing of the kind."""
        ...

    def context_hint(self, log: tuple[str, ...]) -> int | None:
        """The longest context that would fit, as told by a start that ran out of memory; None: it did not say."""
        ...


def one_token(model: str) -> Call:
    """A completion of one token, as every OpenAI-compatible server understands it."""
    asked = {"model": model, "prompt": "1", "max_tokens": 1, "temperature": 0}
    return Call("/v1/completions", json.dumps(asked).encode())


def visible_gpus(spec: BackendSpec) -> dict[str, str]:
    """The environment that shows a process the GPUs of its backend only; nothing where all are its own."""
    if not spec.gpus:
        return {}
    # NVML and nvidia-smi count by bus; CUDA would count by speed.
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(spec.gpus)}
