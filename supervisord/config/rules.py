"""What a single setting cannot show: settings that contradict each other."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from supervisord.config.fields import name_problem
from supervisord.config.problem import Path
from supervisord.config.schema import FileSettings
from supervisord.config.schema_backend import AUTO_LAYERS, BackendSettings, RungSettings
from supervisord.config.units import format_duration, format_percent, format_size
from supervisord.core.ladder import WIDE_CACHE


@dataclass(frozen=True, slots=True)
class Finding:
    """A contradiction. It is shown at the first of `paths` that the file has; all of them take part in it."""

    paths: tuple[Path, ...]
    message: str


def findings(settings: FileSettings) -> Iterator[Finding]:
    """Everything in `settings` that contradicts something else."""
    yield from _thresholds(settings)
    yield from _ports(settings)
    for name, backend in settings.backends.items():
        yield from _name(name)
        yield from _timing(name, backend)
        yield from _gpus(name, backend)
        yield from _arguments(name, backend)
        yield from _ladder(name, backend)


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
        if backend.port in taken:
            message = (
                f"port {backend.port} is already that of {owners[backend.port]}; choose another, or 0 for a free one"
            )
            yield Finding((path, taken[backend.port]), message)
        elif backend.port:
            taken[backend.port], owners[backend.port] = path, f"backends.{name}"


def _name(name: str) -> Iterator[Finding]:
    problem = name_problem(name)
    if problem:
        yield Finding((("backends", name),), problem)


def _timing(name: str, backend: BackendSettings) -> Iterator[Finding]:
    at: Path = ("backends", name)
    backoff, timeouts = backend.restart.backoff, backend.timeouts
    if backoff.base > backoff.cap:
        paths: tuple[Path, ...] = ((*at, "restart", "backoff", "base"), (*at, "restart", "backoff", "cap"))
        yield Finding(
            paths, f"base ({format_duration(backoff.base)}) must not be above cap ({format_duration(backoff.cap)})"
        )
    if timeouts.probe >= timeouts.probe_hang:
        paths = ((*at, "timeouts", "probe_hang"), (*at, "timeouts", "probe"))
        hang, probe = format_duration(timeouts.probe_hang), format_duration(timeouts.probe)
        yield Finding(paths, f"probe_hang ({hang}) must be longer than one probe ({probe})")


def _gpus(name: str, backend: BackendSettings) -> Iterator[Finding]:
    for index, gpu in enumerate(backend.gpus):
        if gpu in backend.gpus[:index]:
            yield Finding((("backends", name, "gpus", index),), f"GPU {gpu} is listed twice; remove one")


# --- arguments the daemon sets itself --------------------------------------------------------------------------------

_KEY_MESSAGE = "would lock the daemon out of its own backend; the server is on 127.0.0.1 only, leave it out"
_OWN_ARGUMENTS = {
    "--host": "is always 127.0.0.1; clients use the daemon's address",
    "--api-key": _KEY_MESSAGE,
    "--api-key-file": _KEY_MESSAGE,
} | {
    flag: f'is set by the daemon; use the setting "{key}"'
    for key, flags in {
        "port": ("--port",),
        "model": ("-m", "--model"),
        "context": ("-c", "--ctx-size"),
        "slots": ("-np", "--parallel"),
        "gpu_layers": ("-ngl", "--gpu-layers", "--n-gpu-layers"),
        "cache_type": ("-ctk", "--cache-type-k", "-ctv", "--cache-type-v"),
    }.items()
    for flag in flags
}  # llama-server --help; one of these in `args` would make a rung of the ladder change nothing


def _arguments(name: str, backend: BackendSettings) -> Iterator[Finding]:
    for index, argument in enumerate(backend.args):
        flag = argument.partition("=")[0]
        if flag in _OWN_ARGUMENTS:
            yield Finding((("backends", name, "args", index),), f"{flag} {_OWN_ARGUMENTS[flag]}")


# --- the ladder ------------------------------------------------------------------------------------------------------


def _ladder(name: str, backend: BackendSettings) -> Iterator[Finding]:
    earlier: list[RungSettings] = []
    for index, rung in enumerate(backend.ladder or []):
        message = _useless(rung, earlier, backend)
        if message:
            yield Finding((("backends", name, "ladder", index),), message)
        earlier.append(rung)


def _useless(rung: RungSettings, earlier: Sequence[RungSettings], backend: BackendSettings) -> str:
    """Why a rung would be the same crash again; empty if it helps."""
    if rung.context is not None:
        if rung.context == 0:
            return "context 0% leaves nothing to serve with; write a share above it"
        return _not_smaller("context", rung.context, [r.context for r in earlier])
    if rung.gpu_layers is not None:
        if backend.gpu_layers == AUTO_LAYERS:
            return "gpu_layers of the backend is auto, of which no share is known; give it a number"
        return _not_smaller("gpu_layers", rung.gpu_layers, [r.gpu_layers for r in earlier])
    if backend.cache_type not in WIDE_CACHE:
        return f"kv q8_0 takes no less than cache_type {backend.cache_type}; remove this rung"
    return "kv q8_0 stands on an earlier rung already; remove this one" if any(r.kv for r in earlier) else ""


def _not_smaller(key: str, share: float, earlier: Sequence[float | None]) -> str:
    before = min((other for other in earlier if other is not None), default=1.0)
    if share < before:
        return ""
    return f"{key} {format_percent(share)} takes no less than the {format_percent(before)} before it"
