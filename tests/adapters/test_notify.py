"""Messages to the service manager, as they arrive at a real datagram socket."""

import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from supervisord.adapters.notify import SystemdNotifier
from supervisord.ports import Notifier


class Manager:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + name[1:] if name.startswith("@") else name)
        self.socket.setblocking(False)

    def heard(self) -> list[str]:
        """All that has arrived; a datagram has arrived once it was sent."""
        messages = []
        while True:
            try:
                messages.append(self.socket.recv(8192).decode())
            except BlockingIOError:
                return messages


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    path = request.param == "path"
    manager = Manager(str(tmp_path / "notify") if path else f"@llm-supervisord-test-{os.getpid()}-{tmp_path.name}")
    yield manager
    manager.socket.close()


@pytest.fixture
def notifier(manager: Manager) -> Iterator[SystemdNotifier]:
    notifier = SystemdNotifier({"NOTIFY_SOCKET": manager.name})
    yield notifier
    notifier.close()


def test_the_life_of_a_service(manager: Manager, notifier: SystemdNotifier) -> None:
    notifier.status("starting qwen")
    notifier.ready()
    notifier.watchdog()
    notifier.stopping()
    assert manager.heard() == ["STATUS=starting qwen", "READY=1", "WATCHDOG=1", "STOPPING=1"]


def test_a_reload_tells_the_monotonic_clock(manager: Manager, notifier: SystemdNotifier) -> None:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.reloading()
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    (message,) = manager.heard()
    match = re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=(\d+)", message)
    assert match is not None
    assert before <= int(match[1]) <= after


def test_a_status_is_one_line_and_bounded(manager: Manager, notifier: SystemdNotifier) -> None:
    notifier.status("parked:\nREADY=1\r\n\tbad \udcff model\n")
    notifier.status("é" * 100_000)
    first, second = manager.heard()
    assert first == "STATUS=parked: READY=1 bad ? model"
    assert second == "STATUS=" + "é" * 512


def test_the_variables_do_not_reach_children() -> None:
    environ = {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "PATH": "/bin"}
    SystemdNotifier(environ)
    assert environ == {"PATH": "/bin"}


def test_by_default_it_reads_the_environment_of_the_process(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.name)
    notifier: Notifier = SystemdNotifier()
    notifier.ready()
    assert manager.heard() == ["READY=1"]
    assert "NOTIFY_SOCKET" not in os.environ
    assert isinstance(notifier, SystemdNotifier)
    notifier.close()


@pytest.mark.parametrize(
    ("variables", "interval"),
    [
        ({"WATCHDOG_USEC": "60000000"}, 30.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_interval(variables: dict[str, str], interval: float | None) -> None:
    assert SystemdNotifier({"NOTIFY_SOCKET": "/run/x", **variables}).watchdog_interval_s == interval


def test_without_a_manager_nothing_happens() -> None:
    with structlog.testing.capture_logs() as logs:
        notifier = SystemdNotifier({"WATCHDOG_USEC": "1000000"})
        for call in (notifier.ready, notifier.reloading, notifier.watchdog, notifier.stopping, notifier.close):
            call()
        notifier.status("x")
    assert notifier.watchdog_interval_s is None
    assert logs == []


@pytest.mark.parametrize("name", ["vsock:2:1234", "@", "relative"])
def test_a_kind_of_socket_it_does_not_speak_is_said_once(name: str) -> None:
    with structlog.testing.capture_logs() as logs:
        notifier = SystemdNotifier({"NOTIFY_SOCKET": name})
        notifier.ready()
    assert [(entry["event"], entry["name"]) for entry in logs] == [("notify_socket_unsupported", name)]


def test_a_manager_that_is_gone_is_logged_once_and_found_again(tmp_path: Path) -> None:
    path = tmp_path / "notify"
    notifier = SystemdNotifier({"NOTIFY_SOCKET": str(path)})
    with structlog.testing.capture_logs() as logs:
        for _ in range(5):
            notifier.watchdog()
    assert [entry["event"] for entry in logs] == ["notify_failed"]
    manager = Manager(str(path))
    notifier.watchdog()
    assert manager.heard() == ["WATCHDOG=1"]
    manager.socket.close()
    with structlog.testing.capture_logs() as logs:
        notifier.watchdog()
        notifier.watchdog()
    assert len(logs) == 1
    notifier.close()


def test_a_manager_that_does_not_read_never_blocks_it(manager: Manager, notifier: SystemdNotifier) -> None:
    with structlog.testing.capture_logs() as logs:
        began = time.monotonic()
        for _ in range(5000):  # net.unix.max_dgram_qlen is 10 to 512
            notifier.status("x" * 1000)
        assert time.monotonic() - began < 5
    assert len(logs) == 1
    manager.heard()
    notifier.ready()
    assert manager.heard() == ["READY=1"]


def test_after_close_nothing_is_told(manager: Manager, notifier: SystemdNotifier) -> None:
    notifier.ready()
    notifier.close()
    notifier.stopping()
    assert manager.heard() == ["READY=1"]
