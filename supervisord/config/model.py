"""The configuration as the rest of the program reads it: checked, complete, in plain units, compared by value."""

from dataclasses import dataclass, field
from enum import StrEnum

from supervisord.core.job import Priority
from supervisord.core.memory import HostLimits, VramLimits
from supervisord.core.placement import PlacementPolicy
from supervisord.core.routing import Route
from supervisord.runtimes.base import BackendSpec


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    AUTO = "auto"  # console on a terminal, logfmt elsewhere
    CONSOLE = "console"
    JSON = "json"
    LOGFMT = "logfmt"


class PromptStorage(StrEnum):
    """What the record of a job keeps of what people said."""

    FULL = "full"  # request body and answer
    METADATA = "metadata"  # figures, never the text
    NONE = "none"  # not the client's name either


@dataclass(frozen=True, slots=True)
class LogSettings:
    """`dir` holds the backends' own output, in files of at most `max_size` bytes, `keep` rotated ones each."""

    level: LogLevel
    format: LogFormat
    dir: str
    max_size: int
    keep: int


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may take. `body` and `upload` in bytes, durations in seconds."""

    body: int
    upload: int
    header_timeout_s: float
    body_timeout_s: float
    idle_timeout_s: float
    connections: int
    client_stall_s: float


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """`limit` and `backlog` in jobs: those whose clients wait, and durable ones. A job that has waited `aging_*_s`
    seconds is ordered among those of high priority."""

    limit: int
    backlog: int
    timeout_s: float
    aging_normal_s: float
    aging_batch_s: float


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """`answers_s`: how long the answers of durable jobs are kept. `max_size` in bytes; None: no limit."""

    prompts: PromptStorage
    retention_s: float
    answers_s: float
    max_size: int | None


@dataclass(frozen=True, slots=True)
class KeySpec:
    """A key as it is configured. Its secret is `secret`, or in the file `file`; one of them is empty.

    `models` are main names; none means all. `concurrency` in requests; None: no limit.
    """

    name: str
    secret: str = field(repr=False)
    file: str
    priority: Priority | None
    concurrency: int | None
    models: frozenset[str]


@dataclass(frozen=True, slots=True)
class MemoryPolicy:
    """When memory is short, and who may take how much. Sizes in bytes; the reserve of each GPU is in `vram`.

    `host_reserve` of the RAM is left free, `host_limit` is the most that all backends together may take of it (None:
    no such limit).
    """

    vram: VramLimits
    host: HostLimits
    placement: PlacementPolicy
    host_reserve: int
    host_limit: int | None


@dataclass(frozen=True, slots=True)
class Configuration:
    """One configuration file, or the built-in defaults.

    Paths are absolute. `listen_port` 0 asks for a free one. `drain_timeout` is in seconds. `routes` has every name
    clients may ask for, once; `default_route`, one of these names, serves the others (None: they are refused). `source`
    is the path of the file, empty for the built-in defaults; it does not count when two configurations are compared.
    `cgroups`: whether backends get control groups, where there can be some.
    """

    listen_host: str
    listen_port: int
    allowed_hosts: tuple[str, ...]
    state_dir: str
    control_socket: str
    control_group: str | None
    log: LogSettings
    limits: Limits
    queue: QueueSettings
    store: StoreSettings
    memory: MemoryPolicy
    drain_timeout: float
    backends: tuple[BackendSpec, ...]
    routes: tuple[Route, ...]
    default_route: str | None
    keys: tuple[KeySpec, ...] = ()
    cgroups: bool = True
    source: str = field(default="", compare=False)
