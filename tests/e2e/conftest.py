"""Every test here runs the whole daemon."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.fakes.daemon import Daemon, running, stubbed

pytestmark = pytest.mark.e2e

Start = Callable[..., AbstractAsyncContextManager[Daemon]]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Start a daemon with one backend "stub" that has these flags; `settings` are the backend's, `top` the file's."""

    def begin(
        *flags: str,
        top: dict[str, Any] | None = None,
        environment: dict[str, str] | None = None,
        **settings: object,
    ) -> AbstractAsyncContextManager[Daemon]:
        backends = {"stub": stubbed(tmp_path, *flags, **settings)}
        return running(Daemon(tmp_path, {"backends": backends, **(top or {})}), **(environment or {}))

    return begin


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """A client without limits of its own."""
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session
