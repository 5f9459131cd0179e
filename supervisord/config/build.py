"""Settings of the file -> the frozen values the program reads."""

from collections.abc import Sequence

from supervisord.config import places
from supervisord.config.model import (
    Configuration,
    Limits,
    LogFormat,
    LogLevel,
    LogSettings,
    MemoryPolicy,
    PromptStorage,
    QueueSettings,
    StoreSettings,
)
from supervisord.config.places import Surroundings
from supervisord.config.problem import Path
from supervisord.config.rules import Finding
from supervisord.config.schema import FileSettings, LimitSettings
from supervisord.config.schema_backend import AUTO_LAYERS, BackendSettings, RungSettings
from supervisord.config.schema_memory import Memory
from supervisord.core.ladder import Footprint, Rung, Shrink
from supervisord.core.life import LifePolicy
from supervisord.core.memory import HostLimits, VramLimits
from supervisord.core.restart import RestartPolicy
from supervisord.runtimes.base import BackendSpec, RuntimeKind

EMBEDDED = "embedded"  # the model that comes with the extra of that name
LONGEST_SOCKET = 107  # bytes of sun_path in <sys/un.h>, less the NUL


class Builder:
    """Makes a Configuration; paths that cannot be made absolute are noted in `findings`."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self.findings: list[Finding] = []

    def configuration(self, settings: FileSettings, source: str) -> Configuration:
        state = self._path(settings.state_dir, ("state_dir",)) or places.state_dir(self._around)
        return Configuration(
            listen_host=settings.listen[0],
            listen_port=settings.listen[1],
            allowed_hosts=tuple(settings.allowed_hosts),
            state_dir=state,
            control_socket=self._socket(settings, state),
            control_group=settings.control.group,
            log=self._log(settings, state),
            limits=_limits(settings.limits),
            queue=QueueSettings(
                limit=settings.queue.limit,
                timeout_s=settings.queue.timeout,
                aging_normal_s=settings.queue.aging.normal,
                aging_batch_s=settings.queue.aging.batch,
            ),
            store=StoreSettings(PromptStorage(settings.store.prompts), settings.store.retention),
            memory=_memory(settings.memory),
            drain_timeout=settings.shutdown.drain,
            backends=tuple(self._backend(name, backend) for name, backend in settings.backends.items()),
            source=source,
        )

    def _path(self, written: str | None, path: Path) -> str:
        if written is None:
            return ""
        try:
            return places.resolve(written, self._around)
        except ValueError as error:
            self.findings.append(Finding((path,), str(error)))
            return ""

    def _socket(self, settings: FileSettings, state: str) -> str:
        path: Path = ("control", "socket")
        socket = self._path(settings.control.socket, path) or places.control_socket(self._around, state)
        length = len(socket.encode())
        if length > LONGEST_SOCKET:
            message = f"the socket's path has {length} bytes, the kernel takes {LONGEST_SOCKET}"
            advice = "set control.socket to a shorter one"
            self.findings.append(Finding((path, ("state_dir",)), f"{message}; {advice}"))
        return socket

    def _log(self, settings: FileSettings, state: str) -> LogSettings:
        log = settings.log
        folder = self._path(log.dir, ("log", "dir")) or f"{state}/logs"
        return LogSettings(LogLevel(log.level), LogFormat(log.format), folder, log.max_size, log.keep)

    def _backend(self, name: str, backend: BackendSettings) -> BackendSpec:
        at: Path = ("backends", name)
        return BackendSpec(
            name=name,
            runtime=RuntimeKind(backend.runtime),
            model=EMBEDDED if backend.model == EMBEDDED else self._path(backend.model, (*at, "model")),
            models=tuple(dict.fromkeys((name, *backend.aliases))),
            binary=self._program(backend.binary, (*at, "binary")),
            port=backend.port,
            footprint=Footprint(
                context=backend.context,
                cache_type=backend.cache_type,
                gpu_layers=None if backend.gpu_layers == AUTO_LAYERS else backend.gpu_layers,
                batch=backend.batch,
            ),
            rungs=_rungs(backend.ladder),
            gpus=tuple(backend.gpus),
            threads=backend.threads,
            embeddings=backend.embeddings,
            chat_template_file=self._path(backend.chat_template, (*at, "chat_template")),
            args=tuple(backend.args),
            env=dict(backend.env),
            cwd=self._path(backend.cwd, (*at, "cwd")),
            nice=backend.nice,
            oom_score_adj=backend.oom_score_adj,
            life=_life(backend),
            autostart=backend.autostart,
            ttl_s=backend.ttl,
            priority=backend.priority,
            probe_interval_s=backend.probe_interval,
            probe_timeout_s=backend.timeouts.probe,
        )

    def _program(self, written: str, path: Path) -> str:
        """A name without a slash is looked for on PATH when the backend starts, or is `auto`."""
        if "/" in written or written.startswith("~"):
            return self._path(written, path)
        return written


def _limits(limits: LimitSettings) -> Limits:
    return Limits(
        body=limits.body,
        header_timeout_s=limits.header_timeout,
        body_timeout_s=limits.body_timeout,
        idle_timeout_s=limits.idle_timeout,
        connections=limits.connections,
        client_stall_s=limits.client_stall,
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
    )


def _percent(ratio: float) -> float:
    return round(ratio * 100, 9)  # 0.07 x 100 is 7.000000000000001


def _life(backend: BackendSettings) -> LifePolicy:
    restart, timeouts = backend.restart, backend.timeouts
    return LifePolicy(
        slots=backend.slots,
        load_stall_s=timeouts.load_stall,
        probe_hang_s=timeouts.probe_hang,
        progress_s=timeouts.progress,
        drain_s=timeouts.drain,
        term_s=timeouts.term,
        kill_s=timeouts.kill,
        restart=RestartPolicy(
            base_s=restart.backoff.base,
            cap_s=restart.backoff.cap,
            max_failures=restart.max_failures,
            window_s=restart.within,
            stable_after_s=restart.stable_after,
            rearm_after_s=restart.rearm_after,
        ),
    )


def _rungs(ladder: Sequence[RungSettings] | None) -> tuple[Rung, ...] | None:
    return None if ladder is None else tuple(_rung(rung) for rung in ladder)


def _rung(rung: RungSettings) -> Rung:
    if rung.context is not None:
        return Rung(Shrink.CONTEXT, rung.context)
    if rung.gpu_layers is not None:
        return Rung(Shrink.GPU_LAYERS, rung.gpu_layers)
    return Rung(Shrink.CACHE_Q8)
