"""Reading the configuration again while everything runs: asked for by SIGHUP, by an operator, or by a changed file."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import structlog

from supervisord.adapters.detached import within
from supervisord.app.access import read_keys
from supervisord.app.settings import engine_settings
from supervisord.config.load import load_file
from supervisord.config.model import Configuration
from supervisord.config.places import Surroundings
from supervisord.config.problem import InvalidConfigurationError
from supervisord.core.errors import ConfigurationError, DrainingError, SupervisorError
from supervisord.core.keys import Key
from supervisord.core.record import EventKind
from supervisord.engine.journal import Journal
from supervisord.engine.settings import Settings
from supervisord.ports import Clock, Notifier
from supervisord.runtimes.reload import ReloadReport

# Looking every second costs some 100 us. inotify would be quicker and see less: editors put a new file in the place of
# the old one, mounted configurations swap a link above it, and a change made on another host (NFS) is never told.
POLL_S = 1.0
SETTLE_S = 0.5  # a file is read once it has been the same for that long: editors and copies write in several steps
DISK_S = 10.0  # a disk or a network folder that takes longer for a file of some kilobytes does not answer
_THREAD = "configuration"

# Where each setting of the configuration stands. A test holds both tables complete.
APPLIED: Mapping[str, str] = {
    "backends": "backends",
    "routes": "models",
    "default_route": "routing",
    "keys": "keys",
    "queue": "queue",
    "memory": "memory",
    "drain_timeout": "drain_timeout",
}
KEPT: Mapping[str, str] = {
    "listen_host": "listen",
    "listen_port": "listen",
    "allowed_hosts": "allowed_hosts",
    "state_dir": "state_dir",
    "control_socket": "control.socket",
    "control_group": "control.group",
    "log.level": "log.level",
    "log.format": "log.format",
    "log.dir": "log.dir",
    "log.max_size": "log.max_size",
    "log.keep": "log.keep",
    "limits.body": "limits.body",
    "limits.upload": "limits.upload",
    "limits.header_timeout_s": "limits.header_timeout",
    "limits.body_timeout_s": "limits.body_timeout",
    "limits.idle_timeout_s": "limits.idle_timeout",
    "limits.connections": "limits.connections",
    "limits.client_stall_s": "limits.client_stall",
    "cgroups": "memory.cgroups",
    "store.prompts": "store.prompts",
    "store.retention_s": "store.retention",
    "store.answers_s": "store.answers",
    "store.max_size": "store.max_size",
}

_Signature = tuple[int, int, int, int]

log = structlog.get_logger()


class Engine(Protocol):
    """What of the supervisor a reload needs."""

    draining: bool
    journal: Journal

    async def reload(self, settings: Settings) -> ReloadReport:
        """Make `settings` the ones in force; names what that meant for each backend."""
        ...


class Border(Protocol):
    """Who lets clients in."""

    def check(self, keys: Sequence[Key]) -> None:
        """Raises ConfigurationError where these cannot be the keys from now on."""
        ...

    def differs(self, keys: Sequence[Key]) -> bool:
        """Whether these are not the keys in force: a secret can change in a file of its own."""
        ...

    def enforce(self, keys: Sequence[Key]) -> None:
        """These are the keys from now on."""
        ...


class Reloader:
    """One reload at a time. Those who ask while one runs share the next one, which reads what they have written.

    `running` is the configuration that the daemon was started with.
    """

    def __init__(
        self, running: Configuration, engine: Engine, notifier: Notifier, clock: Clock, border: Border
    ) -> None:
        self._path = running.source
        self._started = running
        self._current = running
        self._engine = engine
        self._border = border
        self._notifier = notifier
        self._clock = clock
        self._wake = asyncio.Event()
        self._reasons: dict[str, None] = {}  # a set in order: a thousand SIGHUPs are one reason
        self._waiting: list[asyncio.Future[ReloadReport]] = []
        self._closed = False

    def request(self, why: str) -> None:
        """Reload soon. What became of it is told as an event."""
        self._reasons[why] = None
        self._wake.set()

    async def reload(self, why: str) -> ReloadReport:
        """Reload, and tell what it did. A caller that is cancelled leaves the reload as it is.

        Raises InvalidConfigurationError with all problems of the file, ConfigurationError when it cannot be read, and
        DrainingError when the daemon is going down; nothing was changed then.
        """
        if self._closed:
            raise _going_down()
        answer: asyncio.Future[ReloadReport] = asyncio.get_running_loop().create_future()
        self._waiting.append(answer)
        self.request(why)
        return await answer

    async def run(self) -> None:
        """Perform what is asked for, until cancelled: then everybody who still waits is told that we go down."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                reasons, self._reasons = self._reasons, {}
                waiting, self._waiting = self._waiting, []
                await self._answer(" and ".join(reasons), waiting)
        finally:
            self._closed = True
            _fail(self._waiting, _going_down())

    async def watch(self) -> None:
        """Ask for a reload whenever the file is another one than before, until cancelled."""
        if not self._path:
            log.warning("nothing to watch: the built-in defaults are in force")
            return
        seen: object = ()  # unlike any file: the first look also finds what was written while the daemon started
        while True:
            found = await self._signature()
            if found != seen:
                seen = await self._settled(found)
                if await self._differs():
                    self.request("its file changed")
            await self._clock.sleep(POLL_S)

    # --- one reload --------------------------------------------------------------------------------------------------

    async def _answer(self, why: str, waiting: list[asyncio.Future[ReloadReport]]) -> None:
        try:
            report = await self._perform(why)
        except SupervisorError as error:
            _fail(waiting, error)
        except asyncio.CancelledError:
            _fail(waiting, _going_down())
            raise
        else:
            for answer in waiting:
                if not answer.done():
                    answer.set_result(report)

    async def _perform(self, why: str) -> ReloadReport:
        self._notifier.reloading()
        try:
            report = await self._apply()
        except SupervisorError as error:
            self._tell_failure(why, error)
            self._notifier.ready()
            raise
        # Not in a `finally`: after a cancellation we go down, and `stopping` ends what `reloading` began.
        self._notifier.ready()
        self._tell(why, report)
        return report

    async def _apply(self) -> ReloadReport:
        if self._engine.draining:
            raise _going_down()
        wanted, keys = await self._read()
        self._border.check(keys)
        report = await self._engine.reload(engine_settings(_with_kept(wanted, self._started)))
        self._border.enforce(keys)
        told = {"backends", "models"} if _moves_routes(report) else {"backends"}
        applied = tuple(name for name in _differing(self._current, wanted, APPLIED) if name not in told)
        self._current = wanted
        return replace(report, kept=_differing(self._started, wanted, KEPT), settings=applied)

    async def _read(self) -> tuple[Configuration, Sequence[Key]]:
        """Raises ConfigurationError."""
        if not self._path:
            raise ConfigurationError(
                "the built-in defaults are in force, so there is no file to read again. "
                "Write one, and restart the daemon with it; nothing was changed"
            )
        path = self._path
        try:
            return await within(DISK_S, lambda: _loaded(path), _THREAD)
        except InvalidConfigurationError:
            raise
        except ConfigurationError as error:
            raise ConfigurationError(f"{error.message}; nothing was changed") from error
        except TimeoutError:
            raise ConfigurationError(
                f"cannot read configuration {path}: its disk has not answered for {DISK_S:g} s; nothing was changed"
            ) from None
        except Exception as error:  # a fault in reading must not take down what runs
            fault = f"cannot understand configuration {path}, by a fault of this program that is worth a report"
            raise ConfigurationError(f"{fault}: {type(error).__name__}: {error}; nothing was changed") from error

    def _tell(self, why: str, report: ReloadReport) -> None:
        self._engine.journal.tell(
            EventKind.RELOAD,
            f"configuration reloaded ({why}): {report.message}",
            added=list(report.added),
            removed=list(report.removed),
            changed=list(report.changed),
            adjusted=list(report.adjusted),
            unchanged=list(report.unchanged),
            applied=list(report.settings),
            kept=list(report.kept),
            path=self._path,
        )

    def _tell_failure(self, why: str, error: SupervisorError) -> None:
        what, *problems = (line.strip() for line in error.message.splitlines())
        self._engine.journal.tell(
            EventKind.RELOAD, f"configuration not reloaded ({why}): {what}", problems=problems, path=self._path
        )
        for problem in problems or [what]:
            log.warning("configuration problem", problem=problem)

    # --- watching ----------------------------------------------------------------------------------------------------

    async def _signature(self) -> _Signature | None:
        """What changes with the file; None while there is none, or its disk does not answer."""
        path = Path(self._path)
        try:
            found = await within(DISK_S, path.stat, _THREAD)
        except (OSError, TimeoutError):
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev

    async def _settled(self, found: _Signature | None) -> _Signature | None:
        """The signature once it has not changed for SETTLE_S. A file that is written without end has no end here."""
        while True:
            await self._clock.sleep(SETTLE_S)
            before, found = found, await self._signature()
            if found == before:
                return found

    async def _differs(self) -> bool:
        """Whether there is anything to do, or to complain about: a file that was only touched is not worth an event."""
        try:
            wanted, keys = await self._read()
            return wanted != self._current or self._border.differs(keys)
        except ConfigurationError:
            return True


def _loaded(path: str) -> tuple[Configuration, Sequence[Key]]:
    configuration = load_file(path, Surroundings.of_process(str(Path(path).parent)))
    return configuration, read_keys(configuration)


def _moves_routes(report: ReloadReport) -> bool:
    """Whether what was told of the backends says already that there are other models: a backend serves its own name."""
    return bool(report.added or report.removed or any("aliases" in names for names in report.why.values()))


def _differing(old: Configuration, new: Configuration, table: Mapping[str, str]) -> tuple[str, ...]:
    """The settings of a table in which two configurations differ, as the file calls them."""
    found = (name for path, name in table.items() if _at(old, path) != _at(new, path))
    return tuple(dict.fromkeys(found))


def _at(configuration: Configuration, path: str) -> object:
    value: object = configuration
    for step in path.split("."):
        value = getattr(value, step)
    return value


def _with_kept(wanted: Configuration, started: Configuration) -> Configuration:
    """`wanted` with what a reload does not change: what is told as kept must be kept everywhere."""
    names = dict.fromkeys(path.partition(".")[0] for path in KEPT)
    return replace(wanted, **{name: getattr(started, name) for name in names})


def _fail(waiting: list[asyncio.Future[ReloadReport]], error: SupervisorError) -> None:
    for answer in waiting:
        if not answer.done():  # whoever left has cancelled it
            answer.set_exception(error)


def _going_down() -> DrainingError:
    return DrainingError("The daemon is going down, and reads no configuration any more.")
