"""What the engine is given: the ports to the world, and what it needs of the configuration."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from supervisord.core.placement import PlacementPolicy
from supervisord.core.queue import QueuePolicy
from supervisord.core.routing import Route
from supervisord.engine.gateway import GatewayPolicy
from supervisord.engine.sampler import MemoryLimits
from supervisord.engine.work.backlog import BacklogPolicy
from supervisord.ports import (
    Clock,
    Examiner,
    HealthProbe,
    KernelLog,
    MemoryProbe,
    ModelFiles,
    Notifier,
    ProcessHost,
    Store,
    Upstream,
)
from supervisord.ports.outputs import OutputChecker
from supervisord.runtimes.base import BackendSpec


@dataclass(frozen=True, slots=True)
class Ports:
    """Everything that touches the world."""

    clock: Clock
    processes: ProcessHost
    probe: HealthProbe
    memory: MemoryProbe
    kernel: KernelLog
    files: ModelFiles
    store: Store
    upstream: Upstream
    notifier: Notifier
    examiner: Examiner | None = None
    outputs: OutputChecker | None = None  # None: no answer can be checked against a schema


@dataclass(frozen=True, slots=True)
class Settings:
    """What the engine needs of the configuration."""

    backends: Sequence[BackendSpec]
    routes: Sequence[Route]
    default_route: str | None = None
    placement: PlacementPolicy = field(default_factory=PlacementPolicy)
    queue: QueuePolicy = field(default_factory=QueuePolicy)
    backlog: BacklogPolicy = field(default_factory=BacklogPolicy)
    memory: MemoryLimits = field(default_factory=MemoryLimits)
    gateway: GatewayPolicy = field(default_factory=GatewayPolicy)
    drain_s: float = 60.0
