"""The composition root: builds every part, runs it, and takes it down again."""

import asyncio
import gc
import os
import platform
import signal
import socket
import sys
from pathlib import Path

import structlog
import uvloop
from aiohttp import web

from supervisord.adapters import own_memory
from supervisord.adapters.clock import LoopClock
from supervisord.adapters.examine import LocalExaminer
from supervisord.adapters.health import HttpProbe
from supervisord.adapters.host_memory import HostSensor
from supervisord.adapters.kernel_log import KernelLog
from supervisord.adapters.model_files import LocalModelFiles
from supervisord.adapters.notify import SystemdNotifier
from supervisord.adapters.nvml import NvmlSensor
from supervisord.adapters.output_checker import OutputCheckProcess
from supervisord.adapters.store import STORE_FILE, SqliteStore
from supervisord.adapters.upstream import HttpUpstream
from supervisord.api.control import About, ControlDoor
from supervisord.api.door import Door, DoorLimits
from supervisord.app import doors, logs
from supervisord.app.access import Access, read_keys
from supervisord.app.ids import JobIds
from supervisord.app.processes import Processes
from supervisord.app.reload import Reloader
from supervisord.app.sensors import Sensors
from supervisord.app.settings import engine_settings
from supervisord.app.tables import public_tables
from supervisord.app.version import VERSION
from supervisord.config.model import Configuration, Limits, PromptStorage
from supervisord.core.errors import AddressInUseError, ConfigurationError, StartupError, StateFolderError
from supervisord.engine.settings import Ports
from supervisord.engine.supervisor import Supervisor

log = structlog.get_logger()


def exit_status(error: StartupError) -> int:
    """The exit status that says what kind of start failure it was (sysexits.h)."""
    match error:
        case ConfigurationError():
            return os.EX_CONFIG
        case StateFolderError():
            return os.EX_CANTCREAT
        case AddressInUseError():
            return os.EX_UNAVAILABLE
        case _:
            return os.EX_SOFTWARE


def run(configuration: Configuration, *, watch: bool = False) -> int:
    """Run the daemon until it is told to stop. Returns its exit status; start failures are said on stderr.

    `watch`: reload the configuration whenever its file changes.
    """
    logs.configure(configuration.log.level, configuration.log.format)
    os.umask(0o077)
    failures: list[StartupError] = []
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_Daemon(configuration, watch=watch).run())
    except* StartupError as group:
        failures += _flat(group)
    for failure in failures[:1]:
        print(f"llm-supervisord: {failure.message}", file=sys.stderr)  # noqa: T201 - a start failure is said plainly
        return exit_status(failure)
    return os.EX_OK


def _flat(group: BaseExceptionGroup[StartupError]) -> list[StartupError]:
    found: list[StartupError] = []
    for inner in group.exceptions:
        found += _flat(inner) if isinstance(inner, BaseExceptionGroup) else [inner]
    return found


class _Daemon:
    def __init__(self, configuration: Configuration, *, watch: bool) -> None:
        self._configuration = configuration
        self._watch = watch
        self._stops = 0
        self._supervisor: Supervisor | None = None
        self._access: Access | None = None

    async def run(self) -> None:
        configuration = self._configuration
        keys = read_keys(configuration)
        listener = doors.bind_tcp(configuration.listen_host, configuration.listen_port)
        address = f"{configuration.listen_host}:{listener.getsockname()[1]}"
        state_dir = Path(configuration.state_dir)
        _make_state_folder(state_dir)
        if problem := own_memory.lock():
            log.info("the daemon may be swapped out like any other process", why=problem)
        ports = self._ports(state_dir)
        supervisor = self._supervisor = Supervisor(ports, engine_settings(configuration), new_id=JobIds())
        supervisor.journal.listen(logs.tell_event(log))
        supervisor.journal.on_finished(logs.tell_job(log))
        tables = public_tables(supervisor, configuration)
        access = self._access = Access(tables, configuration, supervisor.permits)
        async with asyncio.TaskGroup() as group:
            await supervisor.open(group)
            control = doors.bind_control(Path(configuration.control_socket), configuration.control_group)
            reloader = Reloader(configuration, supervisor, ports.notifier, ports.clock, access)
            public = Door(access.application(keys), _door_limits(configuration.limits), ports.clock)
            access.door = public
            private = await self._open_doors(supervisor, reloader, public, (listener, control), address)
            loops = [supervisor.tasks.loop(reloader.run(), "reload")]
            if self._watch:
                loops.append(supervisor.tasks.loop(reloader.watch(), "watch configuration"))
            self._catch_signals(supervisor, reloader)
            _settle()
            await supervisor.start()
            log.info("listening", address=address, control=configuration.control_socket, state=str(state_dir))
            await supervisor.run_until_stopped()
            for loop in loops:  # going down wins over a reload that is going on
                loop.cancel()
            await supervisor.drain()
            await supervisor.stop()
            await public.close(doors.SHUTDOWN_S)
            await private.cleanup()
            doors.remove_control(configuration.control_socket)
            await supervisor.close()

    def _secrets(self) -> frozenset[str]:
        """Keys of services elsewhere, and our own, as they stand in our environment: no local server needs them."""
        backends = self._configuration.backends if self._supervisor is None else self._supervisor.settings.backends
        elsewhere = frozenset(spec.remote.key for spec in backends if spec.remote is not None and spec.remote.key)
        return elsewhere if self._access is None else elsewhere | self._access.secrets

    def _ports(self, state_dir: Path) -> Ports:
        configuration = self._configuration
        clock = LoopClock()
        kernel = KernelLog()
        kernel.mark()
        return Ports(
            clock=clock,
            processes=Processes(
                state_dir,
                Path(configuration.log.dir),
                log_max_bytes=configuration.log.max_size,
                log_keep=configuration.log.keep,
                secrets=self._secrets,
                cgroups=configuration.cgroups,
            ),
            probe=HttpProbe(),
            memory=Sensors(NvmlSensor(), HostSensor()),
            kernel=kernel,
            files=LocalModelFiles(),
            store=SqliteStore(
                state_dir / STORE_FILE,
                keep_bodies=configuration.store.prompts is PromptStorage.FULL,
                retention_s=configuration.store.retention_s,
                answers_s=configuration.store.answers_s,
                max_bytes=configuration.store.max_size,
                now=clock.wall,
            ),
            upstream=HttpUpstream(),
            notifier=SystemdNotifier(),
            examiner=LocalExaminer(),
            outputs=OutputCheckProcess(),
        )

    async def _open_doors(
        self,
        supervisor: Supervisor,
        reloader: Reloader,
        public: Door,
        sockets: tuple[socket.socket, socket.socket],
        address: str,
    ) -> web.AppRunner:
        configuration = self._configuration
        about = About(
            version=VERSION,
            python=platform.python_version(),
            pid=os.getpid(),
            config=configuration.source or "built-in defaults",
            listen=address,
            state_dir=configuration.state_dir,
            socket=configuration.control_socket,
        )
        operators = ControlDoor(supervisor, about, doors.peers_allowed(configuration.control_group), reloader.reload)
        private = web.AppRunner(
            operators.application(), handler_cancellation=True, access_log=None, shutdown_timeout=doors.SHUTDOWN_S
        )
        await public.open(sockets[0], doors.BACKLOG)
        await private.setup()
        await web.SockSite(private, sockets[1], backlog=doors.BACKLOG).start()
        return private

    def _catch_signals(self, supervisor: Supervisor, reloader: Reloader) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told_to_stop, supervisor)
        loop.add_signal_handler(signal.SIGHUP, reloader.request, "SIGHUP")

    def _told_to_stop(self, supervisor: Supervisor) -> None:
        self._stops += 1
        supervisor.request_stop(at_once=self._stops > 1)


def _door_limits(limits: Limits) -> DoorLimits:
    return DoorLimits(
        body_bytes=limits.body,
        header_timeout_s=limits.header_timeout_s,
        body_timeout_s=limits.body_timeout_s,
        idle_timeout_s=limits.idle_timeout_s,
        client_stall_s=limits.client_stall_s,
        connections=limits.connections,
    )


def _settle() -> None:
    """Have the garbage collector leave alone what is there by now, for it stays.

    Some 90 000 objects: to look at them all takes tens of milliseconds, in which no stream moves, and under memory
    pressure brings back every page they are on. What comes later is also looked at sooner, being more of the whole.
    """
    gc.collect()
    gc.freeze()


def _make_state_folder(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StateFolderError(
            f"cannot create the state folder {path}: {(error.strerror or str(error)).lower()}. "
            "Make it writable for this user, or change state_dir."
        ) from error
