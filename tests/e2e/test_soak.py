"""The soak, for three minutes: random load against random faults, and nothing lost, left behind or exceeded."""

import asyncio
import signal
import sys
from pathlib import Path

import psutil
import pytest

from tests.fakes.daemon import ROOT, alive

MINUTES = 3.0
REST_S = 240.0  # to start, to come to rest, and to judge


async def soaking(*arguments: str) -> asyncio.subprocess.Process:
    command = (sys.executable, "-m", "tests.soak.main", *arguments)
    return await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )


async def test_three_minutes_of_everything_lose_nothing(tmp_path: Path) -> None:
    """The seed is printed: with it, the same faults meet the same load again."""
    folder = tmp_path / "soak"
    process = await soaking("--minutes", str(MINUTES), "--keep", str(folder))
    async with asyncio.timeout(MINUTES * 60 + REST_S):
        said, _ = await process.communicate()
    told = said.decode()
    print(told)  # noqa: T201 - with the seed, for who has to run it again
    assert process.returncode == 0, told
    assert "violations        0" in told


async def test_an_interrupt_ends_it_cleanly(tmp_path: Path) -> None:
    """As Ctrl-C does: the table is told all the same, and no process is left."""
    folder = tmp_path / "soak"
    process = await soaking("--minutes", "5", "--seed", "1", "--backends", "llama-a", "--keep", str(folder))
    async with asyncio.timeout(60):
        while not (folder / "llama-a.peaks").exists():  # noqa: ASYNC110 - written by a stub once it is asked something
            await asyncio.sleep(0.1)
    tree = psutil.Process(process.pid).children(recursive=True)
    assert tree, "a daemon, and what it started"
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(60):
        said, _ = await process.communicate()
    assert process.returncode == 130, said.decode()
    assert "(interrupted)" in said.decode()
    assert not alive(tree)


@pytest.mark.parametrize("wrong", [("--backends", "nobody"), ("--minutes", "0"), ("--clients", "0")])
async def test_what_it_does_not_understand_is_said(wrong: tuple[str, ...]) -> None:
    process = await soaking(*wrong)
    said, _ = await process.communicate()
    assert process.returncode == 2
    assert "usage: scripts/soak" in said.decode()
