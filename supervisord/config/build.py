"""Settings of the file -> the frozen values the program reads."""

from collections.abc import Sequence

from supervisord.config import places
from supervisord.config.build_backend import build_backend
from supervisord.config.build_routes import build_routes
from supervisord.config.finding import Finding
from supervisord.config.model import (
    Configuration,
    KeySpec,
    Limits,
    LogFormat,
    LogLevel,
    LogSettings,
    MemoryPolicy,
    PromptStorage,
    QueueSettings,
    StoreSettings,
)
from supervisord.config.problem import Path
from supervisord.config.resolver import Resolver
from supervisord.config.schema import FileSettings, LimitSettings
from supervisord.config.schema_keys import KeySettings
from supervisord.config.schema_memory import Memory
from supervisord.core.job import Priority
from supervisord.core.memory import HostLimits, VramLimits
from supervisord.core.placement import PlacementPolicy
from supervisord.core.routing import Route

LONGEST_SOCKET = 107  # bytes of sun_path in <sys/un.h>, less the NUL


def build(settings: FileSettings, resolver: Resolver, source: str) -> Configuration:
    """The configuration; what is wrong with its paths is noted in `resolver`."""
    state = resolver.path(settings.state_dir, ("state_dir",)) or places.state_dir(resolver.around)
    backends = tuple(build_backend(name, backend, resolver) for name, backend in settings.backends.items())
    routes = build_routes(settings.models, backends)
    return Configuration(
        listen_host=settings.listen[0],
        listen_port=settings.listen[1],
        allowed_hosts=tuple(settings.allowed_hosts),
        state_dir=state,
        control_socket=_socket(settings, state, resolver),
        control_group=settings.control.group,
        log=_log(settings, state, resolver),
        limits=_limits(settings.limits),
        queue=QueueSettings(
            limit=settings.queue.limit,
            backlog=settings.queue.backlog,
            timeout_s=settings.queue.timeout,
            aging_normal_s=settings.queue.aging.normal,
            aging_batch_s=settings.queue.aging.batch,
        ),
        store=StoreSettings(
            prompts=PromptStorage(settings.store.prompts),
            retention_s=settings.store.retention,
            answers_s=settings.store.answers,
            max_size=settings.store.max_size,
        ),
        memory=_memory(settings.memory),
        drain_timeout=settings.shutdown.drain,
        backends=backends,
        routes=routes,
        default_route=settings.routing.default,
        keys=tuple(_key(name, key, routes, resolver) for name, key in settings.keys.items()),
        cgroups=settings.memory.cgroups == "auto",
        source=source,
    )


def _socket(settings: FileSettings, state: str, resolver: Resolver) -> str:
    path: Path = ("control", "socket")
    socket = resolver.path(settings.control.socket, path) or places.control_socket(resolver.around, state)
    length = len(socket.encode())
    if length > LONGEST_SOCKET:
        message = f"the socket's path has {length} bytes, the kernel takes {LONGEST_SOCKET}"
        advice = "set control.socket to a shorter one"
        resolver.findings.append(Finding((path, ("state_dir",)), f"{message}; {advice}"))
    return socket


def _log(settings: FileSettings, state: str, resolver: Resolver) -> LogSettings:
    log = settings.log
    folder = resolver.path(log.dir, ("log", "dir")) or f"{state}/logs"
    return LogSettings(LogLevel(log.level), LogFormat(log.format), folder, log.max_size, log.keep)


def _limits(limits: LimitSettings) -> Limits:
    return Limits(
        body=limits.body,
        upload=limits.upload,
        header_timeout_s=limits.header_timeout,
        body_timeout_s=limits.body_timeout,
        idle_timeout_s=limits.idle_timeout,
        connections=limits.connections,
        client_stall_s=limits.client_stall,
    )


def _key(name: str, key: KeySettings, routes: Sequence[Route], resolver: Resolver) -> KeySpec:
    return KeySpec(
        name=name,
        secret=key.key or "",
        file=resolver.path(key.key_file, ("keys", name, "key_file")),
        priority=None if key.priority is None else Priority[key.priority.upper()],
        concurrency=key.concurrency,
        models=frozenset(route.name for route in routes if not set(key.models).isdisjoint(route.names)),
    )


def _memory(memory: Memory) -> MemoryPolicy:
    vram, host = memory.vram, memory.host
    return MemoryPolicy(
        vram=VramLimits(
            reserve=vram.reserve,
            tight_free=vram.tight.free,
            tight_ratio=vram.tight.ratio,
            critical_free=vram.critical.free,
            leave_factor=vram.leave_factor,
            leave_after_s=vram.leave_after,
        ),
        host=HostLimits(
            tight_available_ratio=host.tight.available,
            tight_stall=_percent(host.tight.stall),
            tight_swap_rate=float(host.tight.swap_rate),
            critical_stall=_percent(host.critical.stall),
            critical_for_s=host.critical.for_,
            leave_after_s=host.leave_after,
        ),
        placement=PlacementPolicy(linger_s=memory.placement.linger, finish_s=memory.placement.finish),
        host_reserve=host.reserve,
        host_limit=host.limit,
    )


def _percent(ratio: float) -> float:
    return round(ratio * 100, 9)  # 0.07 x 100 is 7.000000000000001
