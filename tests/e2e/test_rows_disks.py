"""Full disks and damaged files, below a running daemon and below one that starts."""

import asyncio
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import psutil
import pytest

from tests.e2e.conftest import Start
from tests.fakes.clients import CHAT, Seen, ask
from tests.fakes.daemon import ROOT, Daemon, running, stubbed
from tests.fakes.small_disk import SmallDisk, needs_mounts, small_disk

HELLO = {"model": "stub", "messages": [{"role": "user", "content": "hello"}]}
FLOOD = 20 * 2**20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "small") as made:
        yield made


async def test_row_9_a_flood_without_a_newline_costs_no_memory_and_blocks_nobody(
    start: Start, http: aiohttp.ClientSession
) -> None:
    """100 MB in one line: all but its beginning is left out, and the server serves all the while."""
    async with start("--log-flood", str(100 * 2**20)) as daemon:
        await daemon.until_phase("ready")
        before = psutil.Process(daemon.pid).memory_info().rss
        assert (await ask(http, daemon)).status == 200
        await daemon.until(lambda: _printed(daemon, "flood done"), "all of it to be taken off the pipe")
        written = sum(path.stat().st_size for path in (daemon.folder / "state" / "logs").iterdir())
        assert 0 < written < 2**20
        assert psutil.Process(daemon.pid).memory_info().rss - before < 64 * 2**20
        backend = await daemon.backend()
        assert (backend["generation"], backend["log"]["cut_lines"]) == (1, 1)


async def _printed(daemon: Daemon, words: str) -> bool:
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(daemon.socket))) as session,
        session.get("http://control/v1/backends/stub/logs") as answer,
    ):
        return words in await answer.text()


@pytest.mark.root
@needs_mounts
async def test_row_11_a_full_disk_of_logs_holds_up_nobody(
    start: Start, http: aiohttp.ClientSession, disk: SmallDisk
) -> None:
    """The pipe is drained as before, the status says what is wrong, and once there is room it is written again."""
    logs = disk.folder / "logs"
    logs.mkdir()
    disk.fill()
    async with start("--log-flood", str(FLOOD), top={"log": {"dir": str(logs)}}) as daemon:
        await daemon.until_phase("ready")
        degraded = await daemon.until(lambda: _degraded(daemon), "the status to say so")
        assert "No space left" in degraded[0]
        assert str(logs) in degraded[0]
        assert (await ask(http, daemon)).status == 200
        async with http.get(daemon.url + "/healthz") as answer:
            assert (answer.status, (await answer.json())["status"]) == (200, "degraded")
        await daemon.until(lambda: _printed(daemon, "flood done"), "the flood to be taken off the pipe")
        assert (await daemon.backend())["generation"] == 1
        disk.free()

        async def well() -> bool:
            return not (await daemon.status())["degraded"]

        await daemon.until(well, "it to be written again")
        assert any(path.stat().st_size for path in logs.iterdir())


async def _degraded(daemon: Daemon) -> list[str]:
    return list((await daemon.status())["degraded"])


@pytest.mark.root
@needs_mounts
async def test_row_12_a_full_disk_below_the_store(tmp_path: Path, http: aiohttp.ClientSession, disk: SmallDisk) -> None:
    """What is new is refused before it is accepted; what was accepted is served, and its record is written later."""
    backend = stubbed(tmp_path, "--tokens", "40", "--token-rate", "10", slots=2)
    daemon = Daemon(tmp_path, {"backends": {"stub": backend}, "store": {"prompts": "full"}})
    daemon.configuration["state_dir"] = str(disk.folder / "state")
    async with running(daemon):
        await daemon.until_phase("ready")
        async with http.post(daemon.url + CHAT, json=HELLO | {"stream": True}) as accepted:
            await accepted.content.readany()
            disk.fill()
            refused = await daemon.until(lambda: _refused(http, daemon), "new work to be refused")
            assert (refused.status, '"store_full"' in refused.body) == (507, True)
            assert "is full: free some space" in refused.body
            assert "[DONE]" in await accepted.text(), "what was accepted is served"
        assert any("is full" in text for text in (await daemon.status())["degraded"])
        disk.free()

        async def taken() -> bool:
            return (await ask(http, daemon, max_tokens=1)).status == 200

        await daemon.until(taken, "new work to be taken again")
        served = {job["id"]: job["status"] for job in await daemon.jobs()}
        assert served[accepted.headers["x-job-id"]] == "done"
        assert set(served.values()) == {"done"}, "a refused one has no record"
    assert (await _records(daemon))[accepted.headers["x-job-id"]] == "done", "on the disk"


async def _refused(http: aiohttp.ClientSession, daemon: Daemon) -> Seen | None:
    seen = await ask(http, daemon, max_tokens=1)
    return seen if seen.status != 200 else None


async def _records(daemon: Daemon) -> dict[str, str]:
    async with running(daemon):
        return {job["id"]: job["status"] for job in await daemon.jobs()}


# --- a damaged store -------------------------------------------------------------------------------------------------


async def used(tmp_path: Path, http: aiohttp.ClientSession, jobs: int = 30) -> Daemon:
    """A daemon that has served some jobs, and is down."""
    daemon = Daemon(tmp_path, {"backends": {"stub": stubbed(tmp_path)}})
    async with running(daemon):
        await daemon.until_phase("ready")
        for _ in range(jobs):
            assert (await ask(http, daemon)).status == 200
    return daemon


async def told_at_start(daemon: Daemon) -> tuple[int, str]:
    """What a start that must fail says, and its exit status."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "supervisord", "--config", str(daemon.config), cwd=ROOT,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(30):
        _, said = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


def torn(store: Path) -> None:
    os.truncate(store, store.stat().st_size // 2)


def scribbled(store: Path) -> None:
    """Every page but the first is noise."""
    with store.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(store.stat().st_size - 4096))


def beheaded(store: Path) -> None:
    """Its first page is another file's: what says that it is a store at all is gone."""
    with store.open("r+b") as file:
        file.write(b"not a database\n" * 300)


def emptied(store: Path) -> None:
    os.truncate(store, 0)


@pytest.mark.parametrize("damage", [torn, scribbled, beheaded, emptied])
async def test_row_13_a_damaged_store_is_said_and_left_as_it_is(
    tmp_path: Path, http: aiohttp.ClientSession, damage: object
) -> None:
    """Never silently empty: the start fails, and says exactly what to do."""
    daemon = await used(tmp_path, http)
    store = tmp_path / "state" / "jobs.sqlite3"
    assert callable(damage)
    damage(store)
    before = store.read_bytes()
    status, said = await told_at_start(daemon)
    assert status == os.EX_CANTCREAT
    assert str(store) in said
    assert "damaged" in said
    assert "Nothing in it was changed" in said
    assert f"move {store.name}, {store.name}-wal and {store.name}-shm" in said
    assert store.read_bytes() == before

    for name in (store.name, f"{store.name}-wal", f"{store.name}-shm"):  # as it said
        (store.parent / name).exists() and shutil.move(store.parent / name, tmp_path / name)
    async with running(daemon):
        assert await daemon.jobs() == []


async def jobs_after(requests: int, http: aiohttp.ClientSession, daemon: Daemon) -> set[str]:
    for _ in range(requests):
        assert (await ask(http, daemon)).status == 200
    return {job["id"] for job in await daemon.jobs()}


async def test_row_13_a_torn_log_of_the_store_opens_on_the_last_good_state(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    """The daemon was killed, and of its last writes only a part reached the disk."""
    daemon = Daemon(tmp_path, {"backends": {"stub": stubbed(tmp_path)}})
    await daemon.start()
    await daemon.until_phase("ready")
    log = tmp_path / "state" / "jobs.sqlite3-wal"
    first = await jobs_after(10, http, daemon)
    synced = log.stat().st_size  # whoever asks for the jobs has all of them written
    both = await jobs_after(20, http, daemon)
    await daemon.kill()
    os.truncate(log, (synced + log.stat().st_size) // 2)
    async with running(daemon):
        after = {job["id"] for job in await daemon.jobs()}
        assert first <= after < both
        assert (await daemon.status())["degraded"] == []
