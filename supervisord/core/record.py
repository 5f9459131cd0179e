"""What a finished attempt is worth remembering, and the records the store keeps."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from supervisord.core.job import FailureReason, JobStatus
from supervisord.core.terms import Terms


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
    terms: Terms | None = None  # None: a client waits for it on its connection


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
    """How a job ended. `output` is its answer: of a durable job always, of others only as configured.

    `http_status` and `content_type` belong to that answer, a backend's own. `attempts` is the fence: a result of an
    attempt before the present one changes nothing.
    """

    job_id: str
    status: JobStatus
    finished_at: float
    queue_wait_s: float
    attempts: int
    reason: FailureReason | None = None
    detail: str = ""
    backend: str | None = None
    output: bytes | None = None
    http_status: int | None = None
    content_type: str = ""


class FileStatus(StrEnum):
    UPLOADING = "uploading"  # only the daemon sees it so
    READY = "processed"  # in OpenAI's words


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file that a client has uploaded, or that was rendered for one. Its parts are `FILE_PART` bytes each, but the
    last. Times are seconds since the epoch."""

    id: str
    filename: str
    purpose: str
    bytes: int
    created_at: float
    client: str = ""
    status: FileStatus = FileStatus.READY
    expires_at: float | None = None


FILE_PART = 256 * 1024


@dataclass(frozen=True, slots=True)
class LineError:
    """What is wrong with a batch, or with one line of its input (from 1)."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class BatchStatus(StrEnum):
    """In OpenAI's words; Anthropic's three are read off these."""

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """A batch. `at`: when it entered each status, seconds since the epoch. `total`: its lines once they are jobs.

    `door`: "openai" or "anthropic". The requests of Anthropic's are a file only until they are jobs, and nobody else's.
    `answers_kept` is told by the store and ignored in what it is given: False once the answers are past their
    retention.
    """

    id: str
    door: str
    endpoint: str
    client: str
    created_at: float
    expires_at: float
    status: BatchStatus
    at: Mapping[BatchStatus, float] = field(default_factory=dict)
    input_file: str = ""
    completion_window: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    total: int = 0
    errors: tuple[LineError, ...] = ()
    output_file: str = ""  # the id under which the good answers can be read; empty: there are none (yet)
    error_file: str = ""
    answers_kept: bool = True


ENDED_BATCH = frozenset({BatchStatus.FAILED, BatchStatus.COMPLETED, BatchStatus.EXPIRED, BatchStatus.CANCELLED})


@dataclass(frozen=True, slots=True)
class BatchCounts:
    """The lines of a batch by what became of them, as they are at this moment."""

    waiting: int = 0
    running: int = 0
    succeeded: int = 0  # done, and the backend's answer has a status below 400
    failed: int = 0
    cancelled: int = 0
    expired: int = 0  # failed for their deadline

    @property
    def ended(self) -> int:
        return self.succeeded + self.failed + self.cancelled + self.expired


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A submission that carried an Idempotency-Key: which job it made, or which batch; the other is empty.

    `digest` is SHA-256 of all that was asked. `at`: seconds since the epoch.
    """

    client: str
    key: str
    digest: str
    job_id: str
    at: float
    batch: str = ""


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
    BATCH = "batch"
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
