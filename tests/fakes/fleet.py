"""Several backends on the stand-in GPUs, under one daemon."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.daemon import Daemon, running, stubbed
from tests.fakes.nvml.driver import FakeDriver, build

GIB = 2**30
CARD = 24 * GIB
RESERVE = GIB
MEMORY = {"vram": {"reserve": "1GiB", "leave_after": "1s"}, "placement": {"linger": "100ms"}}


def cards(config: pytest.Config, folder: Path, count: int = 1) -> FakeDriver:
    """A driver with so many empty GPUs of 24 GiB."""
    assert config.cache is not None
    driver = FakeDriver(build(config.cache.mkdir("fake-nvml")), folder)
    for index in range(count):
        driver.card(index, CARD)
    return driver


def heavy(folder: Path, gib: float, *flags: str, **settings: object) -> dict[str, Any]:
    """A backend that takes so much of its GPU, and is said to."""
    known = {"memory": {"vram": f"{gib}GiB"}, "autostart": False}
    return stubbed(folder, "--vram", f"{gib}GiB", *flags, **(known | settings))


def fleet(
    folder: Path, driver: FakeDriver, backends: Mapping[str, Any], **top: Any
) -> AbstractAsyncContextManager[Daemon]:
    """A daemon with these backends; `top` are more settings of its file."""
    memory = MEMORY | top.pop("memory", {})
    return running(Daemon(folder, {"backends": dict(backends), "memory": memory, **top}), **driver.env)
