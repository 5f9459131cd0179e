"""Clients that mean harm, in numbers."""

import asyncio
import io
import resource
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from time import monotonic

import aiohttp
import pytest

from tests.e2e.conftest import Start
from tests.fakes.clients import CHAT, ask
from tests.fakes.daemon import ROOT, Daemon

IDLE = 10_000


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """As many as this process may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = IDLE + 500
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"needs {wanted} open files; the limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def supctl_status(daemon: Daemon) -> float:
    """Seconds that `supctl status` takes, its own start included."""
    began = monotonic()
    command = (sys.executable, "-m", "supervisord.cli.supctl", "--socket", str(daemon.socket), "status")
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=asyncio.subprocess.DEVNULL)
    async with asyncio.timeout(20):
        assert await process.wait() == 0
    return monotonic() - began


async def test_row_27_ten_thousand_idle_connections(
    start: Start, http: aiohttp.ClientSession, many_descriptors: None
) -> None:
    """Taken up to the limit, refused beyond it; operators do not notice, and nor do clients once they are gone."""
    async with start() as daemon:
        await daemon.until_phase("ready")
        usual = await supctl_status(daemon)
        host, port = daemon.address.rsplit(":", 1)
        with ExitStack() as stack:
            for _ in range(IDLE):
                idle = stack.enter_context(socket.socket())
                idle.setblocking(False)
                idle.connect_ex((host, int(port)))
            taken = [await supctl_status(daemon) for _ in range(3)]
            assert min(taken) < usual + 1.0
        assert (await ask(http, daemon)).status == 200
        assert "Traceback" not in daemon.log()


@pytest.mark.parametrize("opening", ['{"a":', "["])
async def test_row_27_deep_json_is_refused(start: Start, http: aiohttp.ClientSession, opening: str) -> None:
    """Five million levels: neither the stack nor the patience of anybody else is used up."""
    async with start() as daemon:
        await daemon.until_phase("ready")
        body = (opening * 5_000_000)[: 30 * 2**20]
        began = monotonic()
        sent = io.BytesIO(body.encode())
        async with http.post(daemon.url + CHAT, data=sent, headers={"Content-Type": "application/json"}) as answer:
            assert answer.status == 400
            assert (await answer.json())["error"]["code"] == "invalid_json"
        assert monotonic() - began < 5
        assert (await ask(http, daemon)).status == 200
