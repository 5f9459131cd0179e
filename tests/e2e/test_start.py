"""Starting and not starting: each obstacle gives one clear message and its own exit status; and systemd's protocol."""

import asyncio
import os
import socket
import sys
from pathlib import Path

import pytest
import yaml

from tests.e2e.conftest import Start
from tests.fakes.daemon import ROOT

PATIENCE_S = 20.0


async def refused(configuration: dict[str, object], folder: Path) -> tuple[int, str]:
    """The exit status of a daemon that cannot start, and the last line it says."""
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(configuration))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "supervisord", "--config", str(path),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=ROOT,
    )  # fmt: skip
    async with asyncio.timeout(PATIENCE_S):
        said, _ = await process.communicate()
    assert process.returncode is not None
    assert b"Traceback" not in said
    return process.returncode, said.decode().strip()


def settings(folder: Path, **more: object) -> dict[str, object]:
    socket_path = str(folder / "control.sock")
    return {"listen": "127.0.0.1:0", "state_dir": str(folder / "state"), "control": {"socket": socket_path}, **more}


async def test_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        status, said = await refused(settings(tmp_path, listen=address), tmp_path)
    assert status == os.EX_UNAVAILABLE
    assert address in said
    assert "change `listen`" in said


async def test_state_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    status, said = await refused(settings(tmp_path, state_dir=str(tmp_path / "file" / "state")), tmp_path)
    assert status == os.EX_CANTCREAT
    assert str(tmp_path / "file" / "state") in said
    assert "change state_dir" in said


async def test_control_socket_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    broken = {"socket": str(tmp_path / "file" / "control.sock")}
    status, said = await refused(settings(tmp_path, control=broken), tmp_path)
    assert status == os.EX_CANTCREAT
    assert "control.socket" in said


async def test_bad_configuration_is_told_whole(tmp_path: Path) -> None:
    broken = settings(tmp_path, queu={"limit": 3}, backends={"a": {"model": "m", "contex": "16k"}})
    status, said = await refused(broken, tmp_path)
    assert status == os.EX_CONFIG
    assert 'did you mean "queue"?' in said
    assert 'did you mean "context"?' in said
    assert not (tmp_path / "state").exists()


async def test_an_address_beyond_loopback_is_refused(tmp_path: Path) -> None:
    status, said = await refused(settings(tmp_path, listen="0.0.0.0:8411"), tmp_path)
    assert status == os.EX_CONFIG
    assert "loopback" in said


async def test_a_store_that_is_no_database_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    store = tmp_path / "state" / "jobs.sqlite3"
    store.write_bytes(b"precious, but no database " * 1000)
    status, said = await refused(settings(tmp_path), tmp_path)
    assert status == os.EX_CANTCREAT
    assert str(store) in said
    assert store.read_bytes().startswith(b"precious")


async def test_systemd_hears_of_start_status_watchdog_and_stop(start: Start, tmp_path: Path) -> None:
    """Its own protocol, on a real datagram socket."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        heard: list[str] = []

        async def hear(words: str) -> None:
            async with asyncio.timeout(PATIENCE_S):
                while not any(words in message for message in heard):
                    heard.append((await loop.sock_recv(manager, 4096)).decode())

        async with start(environment={"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1000000"}) as daemon:
            await hear("READY=1")
            await hear("STATUS=stub ready")
            await hear("WATCHDOG=1")
            assert await daemon.terminate() == 0
            await hear("STOPPING=1")


@pytest.mark.parametrize(
    "arguments", [["--check", "etc/llm-supervisord.yaml"], ["--schema"], ["--version"], ["--help"]]
)
async def test_questions_that_need_no_daemon(arguments: list[str]) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "supervisord", *arguments, stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    said, _ = await process.communicate()
    assert process.returncode == 0
    assert said
