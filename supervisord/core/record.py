"""What a finished attempt is worth remembering, and the records the store keeps."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from supervisord.core.job import FailureReason, JobStatus


@dataclass(frozen=True, slots=True)
class Identity:
    """What a backend says it is. Every field comes from the backend itself; what it does not tell stays None."""

    model: str | None = None
    quantization: str | None = None
    context_length: int | None = None  # tokens per slot
    template_hash: str | None = None  # first 16 hex digits of SHA-256 over the chat template
    build: str | None = None
    slots: int | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the backend counted them; None where it did not say."""

    tokens_in: int | None = None
    tokens_cached: int | None = None
    tokens_out: int | None = None
    tokens_per_second: float | None = None


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job as the store first sees it. Times are seconds since the epoch."""

    id: str
    endpoint: str
    model: str
    priority: int
    stream: bool
    client: str
    submitted_at: float
    max_tokens: int | None
    temperature: float | None
    body: bytes | None = None  # None: not kept, as configured


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One try of a job on one backend. Durations are seconds."""

    job_id: str
    number: int  # from 1
    backend: str
    generation: int
    runtime: str
    rung: int
    hardware: str
    identity: Identity
    started_at: float
    queue_wait_s: float
    duration_s: float
    ttft_s: float | None
    usage: Usage
    http_status: int | None
    status: JobStatus  # done, failed or cancelled
    reason: FailureReason | None = None
    detail: str = ""
    bytes_out: int = 0
    rung_name: str = ""  # the size it ran at, in words
    rung_why: str = ""  # why that was less than is configured


@dataclass(frozen=True, slots=True)
class JobResult:
    """How a job ended. `partial` is the text a cut-off stream had sent, kept only as configured."""

    job_id: str
    status: JobStatus
    finished_at: float
    queue_wait_s: float
    attempts: int
    reason: FailureReason | None = None
    detail: str = ""
    backend: str | None = None
    output: bytes | None = None


@dataclass(frozen=True, slots=True)
class FootprintRecord:
    """What one configuration of a backend was seen to take. Bytes and seconds; `at` is seconds since the epoch.

    `vram` is the peak of the whole tree over all its GPUs, `ram` the peak of its resident memory; None: not measured.
    """

    key: str  # a digest of everything in the configuration that decides the footprint, and of the rung
    backend: str
    at: float
    vram: int | None = None
    ram: int | None = None
    load_s: float | None = None


class EventKind(StrEnum):
    """The kinds of events an operator can follow."""

    DAEMON_STARTED = "daemon.started"
    DAEMON_STOPPING = "daemon.stopping"
    PHASE = "backend.phase"
    EXIT = "backend.exit"
    ORPHANS = "backend.orphans_killed"
    RUNG = "backend.rung"
    PRESSURE = "memory.pressure"
    EVICTED = "memory.evicted"
    SHRUNK = "memory.shrunk"
    CLIMBED = "memory.climbed"
    GUARD = "memory.guard"
    INCIDENT = "incident"
    PLACED = "placement.admitted"
    HELD = "placement.held"
    SWAP = "placement.swap"
    RELOAD = "config.reload"
    DISPATCH_PAUSED = "queue.paused"
    DISPATCH_RESUMED = "queue.resumed"
    RETRY = "job.retry"
    STORE = "store"
    SENSOR = "sensor"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class EventRecord:
    """One decision with its evidence. `data` holds JSON values only."""

    at: float  # seconds since the epoch
    kind: EventKind
    message: str
    backend: str | None = None
    generation: int | None = None
    job_id: str | None = None
    data: Mapping[str, object] = field(default_factory=dict)
