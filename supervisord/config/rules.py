"""Settings that contradict each other."""

from collections.abc import Iterator

from supervisord.config import rules_arguments, rules_keys, rules_ladder, rules_models
from supervisord.config.fields import name_problem
from supervisord.config.finding import Finding
from supervisord.config.problem import Path
from supervisord.config.rules_backend import of_backend
from supervisord.config.schema import AnyBackend, FileSettings
from supervisord.config.schema_backend import LocalSettings
from supervisord.config.schema_remote import RemoteSettings
from supervisord.config.units import format_duration, format_percent, format_size


def findings(settings: FileSettings) -> Iterator[Finding]:
    """Everything in `settings` that contradicts something else."""
    yield from _thresholds(settings)
    yield from _ports(settings)
    yield from _memory(settings)
    yield from rules_models.findings(settings)
    yield from rules_keys.findings(settings)
    for name, backend in settings.backends.items():
        yield from _name(name)
        yield from _timing(name, backend)
        yield from of_backend(name, backend, settings.listen)
        if not isinstance(backend, RemoteSettings):
            yield from rules_arguments.findings(name, backend)
            yield from rules_ladder.findings(name, backend)


def _thresholds(settings: FileSettings) -> Iterator[Finding]:
    vram, host = settings.memory.vram, settings.memory.host
    if vram.critical.free >= vram.tight.free:
        paths: tuple[Path, ...] = (("memory", "vram", "critical", "free"), ("memory", "vram", "tight", "free"))
        sizes = f"critical ({format_size(vram.critical.free)}) must be below tight ({format_size(vram.tight.free)})"
        yield Finding(paths, f"{sizes}, or there is no warning before it")
    if host.critical.stall <= host.tight.stall:
        paths = (("memory", "host", "critical", "stall"), ("memory", "host", "tight", "stall"))
        critical, tight = format_percent(host.critical.stall), format_percent(host.tight.stall)
        yield Finding(paths, f"critical ({critical}) must be above tight ({tight}), or there is no warning before it")


def _ports(settings: FileSettings) -> Iterator[Finding]:
    taken: dict[int, Path] = {}
    owners: dict[int, str] = {}
    if settings.listen[1]:
        taken[settings.listen[1]], owners[settings.listen[1]] = ("listen",), "listen"
    for name, backend in settings.backends.items():
        path: Path = ("backends", name, "port")
        port = backend.port if isinstance(backend, LocalSettings) else 0
        if port in taken:
            message = f"port {port} is already that of {owners[port]}; choose another, or 0 for a free one"
            yield Finding((path, taken[port]), message)
        elif port:
            taken[port], owners[port] = path, f"backends.{name}"


def _memory(settings: FileSettings) -> Iterator[Finding]:
    limit = settings.memory.host.limit
    for name, backend in settings.backends.items():
        ram = backend.memory.ram if isinstance(backend, LocalSettings) else None
        if ram is not None and limit is not None and ram > limit:
            paths: tuple[Path, ...] = (("backends", name, "memory", "ram"), ("memory", "host", "limit"))
            sizes = f"{format_size(ram)} is more than memory.host.limit ({format_size(limit)})"
            yield Finding(paths, f"{sizes}; the backend could never start")
        if isinstance(backend, LocalSettings):
            yield from _limits(name, backend)


def _limits(name: str, backend: LocalSettings) -> Iterator[Finding]:
    ram, limit = backend.memory.ram, backend.limits.memory
    if ram is not None and limit is not None and limit < ram:
        paths: tuple[Path, ...] = (("backends", name, "limits", "memory"), ("backends", name, "memory", "ram"))
        sizes = f"{format_size(limit)} is less than what it takes, memory.ram ({format_size(ram)})"
        yield Finding(paths, f"{sizes}; the kernel would kill it")


def _name(name: str) -> Iterator[Finding]:
    problem = name_problem(name)
    if problem:
        yield Finding((("backends", name),), problem)


def _timing(name: str, backend: AnyBackend) -> Iterator[Finding]:
    at: Path = ("backends", name)
    backoff, timeouts = backend.restart.backoff, backend.timeouts
    if backoff.base > backoff.cap:
        paths: tuple[Path, ...] = ((*at, "restart", "backoff", "base"), (*at, "restart", "backoff", "cap"))
        base, cap = format_duration(backoff.base), format_duration(backoff.cap)
        yield Finding(paths, f"base ({base}) must not be above cap ({cap})")
    if timeouts.probe >= timeouts.probe_hang:
        paths = ((*at, "timeouts", "probe_hang"), (*at, "timeouts", "probe"))
        hang, probe = format_duration(timeouts.probe_hang), format_duration(timeouts.probe)
        yield Finding(paths, f"probe_hang ({hang}) must be longer than one probe ({probe})")
    if "busy" in timeouts.model_fields_set and timeouts.busy < timeouts.progress:
        paths = ((*at, "timeouts", "busy"), (*at, "timeouts", "progress"))
        busy, progress = format_duration(timeouts.busy), format_duration(timeouts.progress)
        yield Finding(paths, f"busy ({busy}) must not be shorter than progress ({progress})")
