"""What every kind of server has in common: how it is described, started, and understood."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from supervisord.core.exits import Signature
from supervisord.core.ladder import Footprint, Rung
from supervisord.core.life import LifePolicy
from supervisord.core.record import Identity


class RuntimeKind(StrEnum):
    LLAMA_CPP = "llama.cpp"
    VLLM = "vllm"
    COMMAND = "command"
    REMOTE = "remote"


@dataclass(frozen=True, slots=True)
class BackendSpec:
    """One backend as configured, checked, with every default filled in. Compared by value at a reload."""

    name: str
    runtime: RuntimeKind
    model: str  # path of the model file or folder
    models: tuple[str, ...]  # names clients may ask for; the first is the main one
    binary: str = "auto"
    host: str = "127.0.0.1"
    port: int = 0  # 0: a free one is chosen at each start
    footprint: Footprint = field(default_factory=Footprint)
    rungs: tuple[Rung, ...] | None = None  # None: the ladder of the runtime; (): none, an OOM parks
    gpus: tuple[str, ...] = ()  # indices or UUIDs; empty: all that are visible
    threads: int | None = None
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
    probe_interval_s: float = 1.0
    probe_timeout_s: float = 2.0

    @property
    def slots(self) -> int:
        return self.life.slots


@dataclass(frozen=True, slots=True)
class Launch:
    """A command line ready to be run. `env` is added to the daemon's own cleaned environment."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """The answer to a probe."""

    status: int
    body: bytes


class Readiness(StrEnum):
    READY = "ready"
    LOADING = "loading"
    BROKEN = "broken"  # it answers, and says that it can no longer serve


@dataclass(frozen=True, slots=True)
class Counters:
    """What a server tells of its work. `work` only ever grows, and grows while anything gets done."""

    work: float
    busy: float | None = None  # requests being processed


class Runtime(Protocol):
    """A pure description of one kind of server."""

    kind: RuntimeKind
    ready_path: str
    counters_path: str
    identity_paths: tuple[str, ...]
    signatures: tuple[Signature, ...]
    ladder: tuple[Rung, ...]
    program: str  # looked for on PATH where the configuration says `binary: auto`

    def launch(
        self, spec: BackendSpec, footprint: Footprint, port: int, program: tuple[str, ...], offered: frozenset[str]
    ) -> Launch:
        """The command line that serves `spec` at `footprint` on `port`.

        `program` is what stands before the flags; `offered` the flags it says it knows: what is not among them is
        left out, so that one description serves many versions.
        """
        ...

    def readiness(self, answer: HttpAnswer) -> Readiness:
        """What an answer from `ready_path` means."""
        ...

    def counters(self, answer: HttpAnswer) -> Counters | None:
        """The counters in an answer from `counters_path`; None where it holds none."""
        ...

    def identity(self, answers: Mapping[str, HttpAnswer]) -> Identity:
        """What the answers from `identity_paths` tell; fields that are not told stay None."""
        ...
