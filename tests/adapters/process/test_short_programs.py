"""Helpers that end by themselves: what they say, what they leave behind, and those that do not end."""

import asyncio
import os
import sys
import time
from pathlib import Path

import pytest

from supervisord.adapters.process import short_programs
from supervisord.adapters.process.host import LinuxProcessHost
from supervisord.adapters.process.short_programs import HELP_BYTES, help_text, run
from tests.adapters.process.recorder import alive, descriptors, no_children, until


async def shell(script: str, *, timeout: float = 10.0, **env: str) -> str:
    return await run(("/bin/sh", "-c", script), env, timeout)


async def test_success_is_silent() -> None:
    assert await shell("echo much to say; echo more >&2") == ""


async def test_a_program_gets_the_environment_and_nothing_to_read(tmp_path: Path) -> None:
    script = 'test "$A" = b && test -n "$PATH" && test -z "$NOTIFY_SOCKET" && ! read line'
    assert await shell(script, A="b") == ""


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("exit 7", "sh ended with status 7 and said nothing"),
        ("kill -9 $$", "sh was ended by signal 9 and said nothing"),
        ("echo one; echo no such container >&2; exit 1", "sh ended with status 1: one / no such container"),
        ("echo 1; echo 2; echo 3; echo 4; exit 1", "sh ended with status 1: 2 / 3 / 4"),
        (r"printf '\377 x'; exit 1", "sh ended with status 1: � x"),
    ],
)
async def test_a_failure_is_told_with_its_last_words(script: str, words: str) -> None:
    assert await shell(script) == words


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("/nowhere/docker", "stop"), "/nowhere/docker cannot be run: No such file or directory"),
        (("/dev/null",), "/dev/null cannot be run: Permission denied"),
        (("echo", "a\0b"), "echo cannot be run: embedded null byte"),
        ((), "its command line is empty"),
    ],
)
async def test_what_cannot_be_run_is_told(argv: tuple[str, ...], words: str) -> None:
    assert await run(argv, {}, 5.0) == words


async def test_what_hangs_is_killed_with_its_group(tmp_path: Path) -> None:
    before = descriptors()
    told = tmp_path / "pids"
    started = time.monotonic()
    said = await shell(f"sleep 1000 & echo $! $$ > {told}; echo waiting; wait", timeout=0.3)
    assert said == "sh did not end within 0.3 s and was killed: waiting"
    assert time.monotonic() - started < 5
    assert not any(alive(int(pid)) for pid in told.read_text().split())
    assert descriptors() == before


async def test_a_grandchild_that_holds_the_output_is_not_waited_for_and_killed(
    host: LinuxProcessHost, tmp_path: Path
) -> None:
    """The host has made this process a subreaper: the orphan is reaped too."""
    told = tmp_path / "pid"
    started = time.monotonic()
    assert await shell(f"sleep 1000 & echo $! > {told}", timeout=30) == ""
    assert time.monotonic() - started < 10
    assert not alive(int(told.read_text()))
    assert no_children()


async def test_output_is_bounded() -> None:
    program = (sys.executable, "-I", "-S", "-c", "import sys; sys.stdout.write('x' * 9_000_000 + 'end'); sys.exit(3)")
    said = await run(program, {}, 20.0)
    assert said.startswith("python")
    assert said.endswith("xend")
    assert len(said) < 5000


async def test_one_that_never_stops_talking_is_killed() -> None:
    said = await shell("while :; do echo y; done", timeout=0.3)
    assert said == "sh did not end within 0.3 s and was killed: y / y / y"


async def test_one_that_closes_its_output_is_waited_for() -> None:
    assert await shell("exec >&- 2>&-; sleep 0.2; exit 5") == "sh ended with status 5 and said nothing"


async def test_a_cancelled_wait_leaves_the_program_its_time(tmp_path: Path) -> None:
    done = tmp_path / "done"
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await shell(f"sleep 0.3; touch {done}")
    await until(done.exists)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Popen tells that it still runs
async def test_what_hangs_in_the_kernel_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As if SIGKILL had no effect: the thread is free again all the same."""
    told = tmp_path / "pid"
    monkeypatch.setattr(short_programs, "_REAP_S", 0.05)
    with monkeypatch.context() as patch:
        patch.setattr(short_programs.os, "killpg", lambda *_: None)
        said = await shell(f"echo $$ > {told}; exec sleep 1000", timeout=0.3)
    assert said == "sh did not end within 0.3 s and was killed and said nothing"
    pid = int(told.read_text())
    os.kill(pid, 9)
    await asyncio.to_thread(os.waitpid, pid, 0)


async def test_help_is_what_is_printed_anywhere(tmp_path: Path) -> None:
    program = tmp_path / "server"
    program.write_text('#!/bin/sh\necho "-c, --ctx-size N"; echo "asked: $*" >&2\n')
    program.chmod(0o755)
    assert await help_text((str(program), "serve"), 5.0) == "-c, --ctx-size N\nasked: serve --help\n"


@pytest.mark.parametrize("script", ["exit 3", "exec sleep 1000"])
async def test_without_help_nothing_is_known(tmp_path: Path, script: str) -> None:
    program = tmp_path / "server"
    program.write_text(f"#!/bin/sh\necho text\n{script}\n")
    program.chmod(0o755)
    assert await help_text((str(program),), 0.3) == ""
    assert await help_text((str(tmp_path),), 5.0) == ""


async def test_only_the_beginning_of_a_long_help_is_kept() -> None:
    text = await help_text((sys.executable, "-I", "-S", "-c", "print('start' + 'x' * 2_000_000)"), 10.0)
    assert len(text) == HELP_BYTES
    assert text.startswith("start")
