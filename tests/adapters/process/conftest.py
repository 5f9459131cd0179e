"""Real processes below real guardians. Every asynchronous test runs on both loops the daemon can run on."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import pytest
import uvloop

from supervisord.adapters.process import launch
from supervisord.adapters.process.host import LinuxProcessHost
from tests.adapters.process.recorder import descriptors
from tests.fakes.leaves import GONE_S, standing


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session", autouse=True)
def measured_guardian() -> None:
    """Under coverage the guardian is measured too: that needs the packages and the environment it else ignores."""
    if "COVERAGE_PROCESS_CONFIG" in os.environ or "COVERAGE_PROCESS_START" in os.environ:
        launch.COMMAND = (sys.executable, "-P", launch.guardian.__file__)
        launch.INTERPRETER_NEEDS = ("LD_LIBRARY_PATH", "COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START")


@pytest.fixture(autouse=True)
def no_group_is_left(tmp_path: Path) -> Iterator[None]:
    """Each test gives back every control group it made: here or, after a kill, by a guardian."""
    yield
    deadline = time.monotonic() + GONE_S
    while left := standing(tmp_path / "state"):
        assert time.monotonic() < deadline, left
        time.sleep(0.01)


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[LinuxProcessHost]:
    """A host that must leave no descriptor behind."""
    await asyncio.to_thread(int)  # the loop's own thread and descriptors exist before the count
    before = descriptors()
    host = LinuxProcessHost(tmp_path / "state", tmp_path / "log", log_max_bytes=1 << 20, log_keep=2)
    yield host
    await host.close()
    assert descriptors() == before
