"""Reloads of real files: what is applied, what is refused, who waits for whom, and what is seen from outside."""

import asyncio
import os
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import pytest
import structlog

from supervisord.adapters.clock import LoopClock
from supervisord.app import reload
from supervisord.app.reload import APPLIED, KEPT, POLL_S, SETTLE_S, Reloader
from supervisord.config.load import load_file
from supervisord.config.model import Configuration
from supervisord.config.places import Surroundings
from supervisord.config.problem import InvalidConfigurationError
from supervisord.core.errors import ConfigurationError, DrainingError
from supervisord.core.keys import Key
from supervisord.core.record import EventKind, EventRecord
from supervisord.engine.journal import Journal
from supervisord.engine.settings import Settings
from supervisord.runtimes.reload import ReloadReport, changes
from tests.fakes.store import MemoryStore

ONE = "backends: {a: {model: a.gguf, context: 4k, ttl: 30m}}\n"
TWO = ONE + "queue: {limit: 7}\n"


class Manager:
    """The service manager's end of the notifier."""

    watchdog_interval_s = None

    def __init__(self) -> None:
        self.heard: list[str] = []

    def ready(self) -> None:
        self.heard.append("ready")

    def reloading(self) -> None:
        self.heard.append("reloading")

    def status(self, text: str) -> None:
        self.heard.append(text)

    def watchdog(self) -> None:
        self.heard.append("watchdog")

    def stopping(self) -> None:
        self.heard.append("stopping")


class Engine:
    """Takes the settings as the supervisor does; its turn can be held up."""

    def __init__(self, running: Settings) -> None:
        self.draining = False
        self.journal = Journal(MemoryStore(), LoopClock())
        self.settings = running
        self.given: list[Settings] = []
        self.entered = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def reload(self, settings: Settings) -> ReloadReport:
        self.given.append(settings)
        self.entered.set()
        await self.go_on.wait()
        report = ReloadReport.of(changes(self.settings.backends, settings.backends))
        self.settings = settings
        return report

    def events(self) -> list[EventRecord]:
        return [event for event in self.journal.recent if event.kind is EventKind.RELOAD]


class StepClock(LoopClock):
    """Whoever sleeps goes on when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self._sleepers: asyncio.Queue[tuple[float, asyncio.Event]] = asyncio.Queue()

    async def sleep(self, seconds: float) -> None:
        over = asyncio.Event()
        self._sleepers.put_nowait((seconds, over))
        await over.wait()

    async def step(self, meanwhile: Callable[[], object] = lambda: None) -> float:
        """The next sleep is over, and `meanwhile` happened in it; how long it was to be."""
        async with asyncio.timeout(10):
            seconds, over = await self._sleepers.get()
        meanwhile()
        over.set()
        return seconds


class Border:
    """Takes every set of keys."""

    def __init__(self) -> None:
        self.enforced: list[Sequence[Key]] = []
        self.refuses = ""

    def check(self, keys: Sequence[Key]) -> None:
        del keys
        if self.refuses:
            raise ConfigurationError(self.refuses)

    def differs(self, keys: Sequence[Key]) -> bool:
        return tuple(keys) != tuple(self.enforced[-1] if self.enforced else ())

    def enforce(self, keys: Sequence[Key]) -> None:
        self.enforced.append(keys)


class House:
    """A reloader that runs on a file, and everything around it."""

    def __init__(self, path: Path, running: Configuration) -> None:
        self.path = path
        self.engine = Engine(reload.engine_settings(running))
        self.manager = Manager()
        self.clock = StepClock()
        self.border = Border()
        self.reloader = Reloader(running, self.engine, self.manager, self.clock, self.border)
        self.running: asyncio.Task[None] | None = None

    def write(self, text: str) -> None:
        """As editors do: a new file in the place of the old one."""
        fresh = self.path.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(self.path)

    async def reload(self, why: str = "supctl reload") -> ReloadReport:
        async with asyncio.timeout(10):
            return await self.reloader.reload(why)

    async def stop(self) -> None:
        assert self.running is not None
        self.running.cancel()
        with suppress(asyncio.CancelledError):
            await self.running

    async def told(self, count: int) -> list[EventRecord]:
        with self.engine.journal.follow() as inbox:
            async with asyncio.timeout(10):
                while len(self.engine.events()) < count:
                    await inbox.get()
        return self.engine.events()


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="llms-") as name:  # short: the control socket is below it
        yield Path(name)


def loaded(path: Path) -> Configuration:
    return load_file(str(path), Surroundings({}, str(path.parent), root=False, folder=str(path.parent)))


@pytest.fixture
async def house(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    for name in list(os.environ):
        if name.startswith("XDG_") or name in {"STATE_DIRECTORY", "RUNTIME_DIRECTORY"}:
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(folder))
    path = folder / "config.yaml"
    path.write_text(f"state_dir: {folder}\ncontrol: {{socket: {folder}/c.sock}}\n" + ONE)
    house = House(path, loaded(path))
    house.prefix = path.read_text().removesuffix(ONE)
    async with asyncio.TaskGroup() as group:
        house.running = group.create_task(house.reloader.run())
        yield house
        await house.stop()


def whole(house: House, text: str) -> str:
    return house.prefix + text


class TestTables:
    def test_every_setting_is_either_applied_or_kept(self, house):
        configuration = loaded(house.path)
        split = {path.partition(".")[0] for path in KEPT if "." in path}
        paths = set()
        for each in fields(Configuration):
            value = getattr(configuration, each.name)
            if each.name in split:
                assert is_dataclass(value)
                paths |= {f"{each.name}.{below.name}" for below in fields(value)}
            elif each.name != "source":  # where it was read from: no setting
                paths.add(each.name)
        assert paths == APPLIED.keys() | KEPT.keys()
        assert not APPLIED.keys() & KEPT.keys()


class TestReload:
    async def test_applies_what_the_file_says_now(self, house):
        house.write(whole(house, "backends: {a: {model: a.gguf, context: 4k, ttl: 5m}, b: {model: b.gguf}}\n"))
        report = await house.reload()
        assert (report.added, report.adjusted, report.unchanged) == (("b",), ("a",), ())
        assert [spec.name for spec in house.engine.given[0].backends] == ["a", "b"]
        assert house.manager.heard == ["reloading", "ready"]
        (event,) = house.engine.events()
        assert event.message == "configuration reloaded (supctl reload): added b; adjusted a (ttl)"
        assert (event.data["added"], event.data["path"]) == (["b"], str(house.path))

    async def test_the_same_file_changes_nothing(self, house):
        report = await house.reload()
        assert (report.unchanged, report.message) == (("a",), "nothing to apply")
        assert house.manager.heard == ["reloading", "ready"]

    async def test_other_settings_are_named(self, house):
        house.write(whole(house, TWO))
        report = await house.reload()
        assert (report.settings, report.kept) == (("queue",), ())
        assert house.engine.given[0].queue.limit == 7
        assert (await house.reload()).settings == ()

    async def test_what_needs_a_restart_of_the_daemon_is_kept_and_named_each_time(self, house):
        house.write(whole(house, ONE + "listen: 127.0.0.1:9999\nstore: {prompts: full}\nlog: {level: debug}\n"))
        for _ in range(2):
            report = await house.reload()
            assert report.kept == ("listen", "log.level", "store.prompts")
            assert not house.engine.given[-1].gateway.keep_prompts, "told as kept, so it must be kept"
        house.write(whole(house, ONE))
        assert (await house.reload()).kept == ()


class TestRefusals:
    async def test_a_bad_file_changes_nothing_and_says_all_problems(self, house):
        house.write(whole(house, "backends: {a: {model: a.gguf, contex: 4k, ttl: 30 mins}}\n"))
        with structlog.testing.capture_logs() as logs, pytest.raises(InvalidConfigurationError) as refused:
            await house.reload("SIGHUP")
        assert "2 problems" in refused.value.message
        assert "did you mean" in refused.value.message
        assert house.engine.given == []
        assert house.manager.heard == ["reloading", "ready"]
        (event,) = house.engine.events()
        assert event.message == f"configuration not reloaded (SIGHUP): 2 problems in {house.path}, nothing was changed"
        assert len(event.data["problems"]) == 2
        assert [entry["log_level"] for entry in logs] == ["warning"] * 2
        house.write(whole(house, ONE))
        assert (await house.reload()).unchanged == ("a",)

    async def test_a_file_that_is_gone(self, house):
        house.path.unlink()
        with pytest.raises(ConfigurationError, match=r"cannot read configuration .*config\.yaml: No such file"):
            await house.reload()
        assert house.engine.given == []
        assert house.engine.events()[0].message.endswith("nothing was changed")

    async def test_built_in_defaults(self, house):
        reloader = Reloader(
            replace(loaded(house.path), source=""), house.engine, house.manager, house.clock, house.border
        )
        async with asyncio.TaskGroup() as group:
            running = group.create_task(reloader.run())
            with pytest.raises(ConfigurationError, match="built-in defaults are in force"):
                await reloader.reload("SIGHUP")
            running.cancel()
        with structlog.testing.capture_logs() as logs:
            await reloader.watch()
        assert logs[0]["event"].startswith("nothing to watch")

    async def test_a_disk_that_does_not_answer(self, house, monkeypatch):
        answered = threading.Event()
        monkeypatch.setattr(reload, "DISK_S", 0.05)
        monkeypatch.setattr(reload, "load_file", lambda *_: answered.wait(10))
        try:
            with pytest.raises(ConfigurationError, match="its disk has not answered"):
                await house.reload()
        finally:
            answered.set()
        assert house.manager.heard == ["reloading", "ready"]

    async def test_a_fault_of_ours_ends_no_daemon(self, house, monkeypatch):
        monkeypatch.setattr(reload, "load_file", lambda *_: 1 // 0)
        with pytest.raises(ConfigurationError, match="worth a report: ZeroDivisionError"):
            await house.reload()
        assert not house.running.done()


class TestOneAtATime:
    async def test_those_who_ask_meanwhile_share_the_next_one(self, house):
        house.engine.go_on.clear()
        async with asyncio.TaskGroup() as group:
            first = group.create_task(house.reload("first"))
            await house.engine.entered.wait()
            house.write(whole(house, TWO))  # the first has read the file already
            later = [group.create_task(house.reload("second")) for _ in range(5)]
            house.reloader.request("SIGHUP")
            await asyncio.sleep(0)
            house.engine.go_on.set()
        assert first.result().settings == ()
        assert [each.result().settings for each in later] == [("queue",)] * 5
        assert len(house.engine.given) == 2
        assert "(SIGHUP and second)" in (await house.told(2))[1].message

    async def test_who_leaves_takes_nothing_along(self, house):
        house.engine.go_on.clear()
        async with asyncio.TaskGroup() as group:
            leaving = group.create_task(house.reload("supctl"))
            staying = group.create_task(house.reload("supctl"))
            await house.engine.entered.wait()
            leaving.cancel()
            await asyncio.sleep(0)
            house.engine.go_on.set()
        assert staying.result().unchanged == ("a",)

    async def test_all_of_them_may_leave_before_it_fails(self, house):
        house.path.unlink()
        async with asyncio.TaskGroup() as group:
            leaving = group.create_task(house.reload("supctl"))
            await asyncio.sleep(0)
            leaving.cancel()
        await house.told(1)
        assert not house.running.done()


class TestGoingDown:
    async def test_ends_a_reload_and_tells_those_who_wait(self, house):
        house.engine.go_on.clear()
        async with asyncio.TaskGroup() as group:
            first, second = (group.create_task(_refused(house)) for _ in range(2))
            await house.engine.entered.wait()
            third = group.create_task(_refused(house))
            await asyncio.sleep(0)
            await house.stop()
        assert all(isinstance(each.result(), DrainingError) for each in (first, second, third))
        assert house.manager.heard == ["reloading"], "READY=1 now would say that the service runs on"

    async def test_later_requests_are_refused_at_once(self, house):
        await house.stop()
        house.reloader.request("SIGHUP")
        with pytest.raises(DrainingError):
            await house.reload()

    async def test_a_draining_engine_is_left_alone(self, house):
        house.engine.draining = True
        with pytest.raises(DrainingError):
            await house.reload()
        assert house.engine.given == []


async def _refused(house: House) -> Exception | None:
    try:
        await house.reload()
    except DrainingError as error:
        return error
    return None


class TestWatch:
    @pytest.fixture
    async def watched(self, house) -> AsyncIterator[House]:
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(house.reloader.watch())
            assert await house.clock.step() == SETTLE_S
            yield house
            watching.cancel()

    async def test_an_unchanged_file_is_not_told(self, watched):
        for _ in range(3):
            assert await watched.clock.step() == POLL_S
        assert watched.engine.events() == []

    async def test_a_changed_file_is_reloaded_once_it_stands_still(self, watched):
        half, all_of_it = whole(watched, "backends: {a"), whole(watched, TWO)
        assert await watched.clock.step(lambda: watched.write(half)) == POLL_S
        assert await watched.clock.step(lambda: watched.write(all_of_it)) == SETTLE_S
        assert await watched.clock.step() == SETTLE_S
        assert await watched.clock.step() == POLL_S
        (event,) = await watched.told(1)
        assert event.message == "configuration reloaded (its file changed): applied queue"

    async def test_a_file_that_was_only_touched_is_not_told(self, watched):
        assert await watched.clock.step(lambda: os.utime(watched.path)) == POLL_S
        assert await watched.clock.step() == SETTLE_S
        assert await watched.clock.step() == POLL_S
        assert watched.engine.events() == []

    async def test_the_same_size_in_the_same_place_is_seen(self, watched):
        def rewrite() -> None:
            before = watched.path.stat()
            watched.path.write_text(watched.path.read_text().replace("4k", "8k"))
            os.utime(watched.path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))

        assert await watched.clock.step(rewrite) == POLL_S
        assert await watched.clock.step() == SETTLE_S
        assert await watched.clock.step() == POLL_S
        assert "restarted a (context)" in (await watched.told(1))[0].message

    async def test_another_file_with_the_old_times_is_seen(self, watched):
        """As `cp -p` and configuration management leave them."""

        def put_back() -> None:
            before = watched.path.stat()
            watched.write(watched.path.read_text().replace("4k", "8k"))
            os.utime(watched.path, ns=(before.st_atime_ns, before.st_mtime_ns))

        assert await watched.clock.step(put_back) == POLL_S
        assert await watched.clock.step() == SETTLE_S
        assert await watched.clock.step() == POLL_S
        assert "restarted a (context)" in (await watched.told(1))[0].message

    async def test_a_file_that_is_gone_is_told_once(self, watched):
        assert await watched.clock.step(watched.path.unlink) == POLL_S
        assert await watched.clock.step() == SETTLE_S
        for _ in range(3):
            assert await watched.clock.step() == POLL_S
        (event,) = await watched.told(1)
        assert "cannot read configuration" in event.message
        assert await watched.clock.step(lambda: watched.write(whole(watched, TWO))) == POLL_S
        assert await watched.clock.step() == SETTLE_S
        assert await watched.clock.step() == POLL_S
        assert (await watched.told(2))[1].message.endswith("applied queue")

    async def test_what_was_written_while_the_daemon_started_is_found(self, house):
        house.write(whole(house, TWO))
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(house.reloader.watch())
            assert await house.clock.step() == SETTLE_S
            assert (await house.told(1))[0].message.endswith("applied queue")
            watching.cancel()
