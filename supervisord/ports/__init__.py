"""Where the engine meets the world. Each Protocol has one real adapter, and a verified in-memory one for tests."""

from supervisord.ports.processes import (
    GroupsState,
    LogState,
    ManagedProcess,
    ProcessEvents,
    ProcessHost,
    Processors,
    ProcessSpec,
)
from supervisord.ports.records import (
    DayCounts,
    IncidentFilter,
    JobFilter,
    JobStore,
    Recovery,
    StoredEvent,
    StoredJob,
    StoreState,
)
from supervisord.ports.relay import Client, Exchange, Receiver, Upstream, UpstreamFault, UpstreamRequest
from supervisord.ports.sensors import (
    ON_DISK,
    RUNNING,
    Examiner,
    HealthProbe,
    KernelLog,
    MemoryProbe,
    ModelFiles,
    ProcessFinding,
)
from supervisord.ports.service import Notifier
from supervisord.ports.time import Clock, Timer
from supervisord.ports.work import BackupReport, Page, Store, WorkStore

__all__ = [
    "ON_DISK",
    "RUNNING",
    "BackupReport",
    "Client",
    "Clock",
    "DayCounts",
    "Examiner",
    "Exchange",
    "GroupsState",
    "HealthProbe",
    "IncidentFilter",
    "JobFilter",
    "JobStore",
    "KernelLog",
    "LogState",
    "ManagedProcess",
    "MemoryProbe",
    "ModelFiles",
    "Notifier",
    "Page",
    "ProcessEvents",
    "ProcessFinding",
    "ProcessHost",
    "ProcessSpec",
    "Processors",
    "Receiver",
    "Recovery",
    "Store",
    "StoreState",
    "StoredEvent",
    "StoredJob",
    "Timer",
    "Upstream",
    "UpstreamFault",
    "UpstreamRequest",
    "WorkStore",
]
