"""What real processes are found to do: computing, sleeping, stopped, gone; and py-spy in every mood."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from supervisord.adapters.examine import STACK_BYTES, LocalExaminer
from supervisord.ports import ON_DISK, RUNNING, ProcessFinding

PYTHON = "import time\ndef stands_still_here():\n    print('up', flush=True)\n    time.sleep(60)\nstands_still_here()"
SPIN = "print('up', flush=True)\nwhile True: pass"
NO_PROGRAM = "/nowhere/py-spy"


@pytest.fixture
def processes() -> Iterator[list["subprocess.Popen[bytes]"]]:
    """Whatever a test starts, ended after it."""
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def started(processes: list["subprocess.Popen[bytes]"], *argv: str) -> "subprocess.Popen[bytes]":
    """A process that has said that it is up."""
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    processes.append(process)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    time.sleep(0.2)  # for what it does next
    return process


def stop(process: "subprocess.Popen[bytes]") -> None:
    """Returns once it stands still."""
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)


def program(path: Path, script: str) -> str:
    """A stand-in for py-spy."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


async def found(examiner: LocalExaminer, pid: int, timeout: float = 5.0) -> ProcessFinding:
    (finding,) = await examiner.examine([pid], timeout)
    return finding


async def test_one_that_sleeps_and_one_that_computes_are_told_apart(
    processes: list["subprocess.Popen[bytes]"],
) -> None:
    sleeps, spins = started(processes, sys.executable, "-c", PYTHON), started(processes, sys.executable, "-c", SPIN)
    examiner = LocalExaminer(NO_PROGRAM)
    quiet, busy = await examiner.examine([sleeps.pid, spins.pid], 5.0)
    assert (quiet.pid, busy.pid) == (sleeps.pid, spins.pid)
    assert (quiet.state, busy.state) == ("S", "R")
    assert RUNNING not in quiet.threads
    assert sum(quiet.threads.values()) == 1
    assert busy.threads == {RUNNING: 1}
    assert busy.cpu_s > quiet.cpu_s
    assert busy.name == psutil.Process(spins.pid).name()


async def test_one_that_is_stopped_is_in_state_t(processes: list["subprocess.Popen[bytes]"]) -> None:
    process = started(processes, sys.executable, "-c", SPIN)
    stop(process)
    finding = await found(LocalExaminer(NO_PROGRAM), process.pid)
    assert finding.state == "T"
    assert RUNNING not in finding.threads


async def test_those_that_are_gone_are_left_out() -> None:
    assert await LocalExaminer().examine([2**22 + 1], 5.0) == ()


async def test_a_name_may_hold_anything(processes: list["subprocess.Popen[bytes]"], tmp_path: Path) -> None:
    odd = tmp_path / "a) R (b"
    shutil.copy("/bin/sh", odd)
    process = started(processes, str(odd), "-c", "echo up; read nothing")
    finding = await found(LocalExaminer(), process.pid)
    assert (finding.name, finding.state) == ("a) R (b", "S")


async def test_a_python_process_is_looked_into_by_py_spy_and_another_is_not(
    processes: list["subprocess.Popen[bytes]"], tmp_path: Path
) -> None:
    """The first line is its command line, which may hold a key."""
    python = started(processes, sys.executable, "-c", PYTHON)
    shell = started(processes, "/bin/sh", "-c", "echo up; read nothing")
    examiner = LocalExaminer(program(tmp_path / "py-spy", 'echo "Process $4: python --api-key k"; echo "$@"'))
    looked, other = await examiner.examine([python.pid, shell.pid], 5.0)
    assert looked.stack == f"dump --nonblocking --pid {python.pid}\n"
    assert looked.problem == ""
    assert "dump" not in other.stack


async def test_py_spy_that_is_stuck_is_killed(processes: list["subprocess.Popen[bytes]"], tmp_path: Path) -> None:
    process = started(processes, sys.executable, "-c", PYTHON)
    note = tmp_path / "pid"
    examiner = LocalExaminer(program(tmp_path / "py-spy", f'echo $$ > {note}; trap "" TERM; while :; do :; done'))
    began = time.monotonic()
    finding = await found(examiner, process.pid, timeout=2.0)
    assert time.monotonic() - began < 2.5
    assert "py-spy did not end within" in finding.problem
    assert finding.state == "S", "what /proc told is kept"
    with suppress(psutil.NoSuchProcess):
        assert psutil.Process(int(note.read_text())).status() == psutil.STATUS_ZOMBIE


async def test_what_it_prints_is_bounded_and_its_failure_is_told(
    processes: list["subprocess.Popen[bytes]"], tmp_path: Path
) -> None:
    process = started(processes, sys.executable, "-c", PYTHON)
    flood = program(tmp_path / "flood", "head -c 5000000 /dev/zero | tr '\\0' x")
    assert len((await found(LocalExaminer(flood), process.pid)).stack) == STACK_BYTES
    fails = program(tmp_path / "fails", "echo 'Permission Denied: try as root' >&2; exit 1")
    assert (await found(LocalExaminer(fails), process.pid)).problem == "py-spy failed: Permission Denied: try as root"
    silent = program(tmp_path / "silent", "exit 3")
    assert (await found(LocalExaminer(silent), process.pid)).problem == "py-spy failed: status 3"
    assert "cannot be run: No such file" in (await found(LocalExaminer(NO_PROGRAM), process.pid)).problem


async def test_time_that_is_up_is_told_and_nothing_is_run(
    processes: list["subprocess.Popen[bytes]"], tmp_path: Path
) -> None:
    process, ran = started(processes, sys.executable, "-c", PYTHON), tmp_path / "ran"
    examiner = LocalExaminer(program(tmp_path / "py-spy", f"touch {ran}"))
    assert "no time" in (await found(examiner, process.pid, timeout=0.5)).problem
    assert not ran.exists()


async def test_it_is_looked_for_on_path_and_beside_our_own_python(
    processes: list["subprocess.Popen[bytes]"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = started(processes, sys.executable, "-c", PYTHON)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'path'}:/bin:/usr/bin")
    if shutil.which("py-spy") is None:
        assert "not installed" in (await found(LocalExaminer(), process.pid)).problem
    for folder in ("bin", "path"):
        (tmp_path / folder).mkdir()
        program(tmp_path / folder / "py-spy", f"echo from {folder}")
        assert (await found(LocalExaminer(), process.pid)).stack == f"from {folder}\n"


@pytest.mark.skipif(shutil.which("py-spy") is None, reason="py-spy is not installed")
async def test_the_real_py_spy_names_the_function(processes: list["subprocess.Popen[bytes]"]) -> None:
    process = started(processes, sys.executable, "-c", PYTHON)
    assert "stands_still_here" in (await found(LocalExaminer(), process.pid)).stack


async def test_proc_that_does_not_answer_holds_up_nobody(
    processes: list["subprocess.Popen[bytes]"], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that holds its own mmap lock blocks readers of some of its files, for as long as it likes."""
    process = started(processes, sys.executable, "-c", PYTHON)
    fifo_read = Path.open

    def stuck(path: Path, *args: object, **more: object) -> object:
        if path == Path(f"/proc/{process.pid}/stat"):
            time.sleep(3.0)
        return fifo_read(path, *args, **more)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", stuck)
    began = time.monotonic()
    finding = await found(LocalExaminer(), process.pid, timeout=0.5)
    assert time.monotonic() - began < 1.0
    assert (finding.state, finding.problem) == ("?", "/proc does not answer")


def test_the_words_for_threads_are_no_names_of_the_kernels() -> None:
    assert " " not in RUNNING + ON_DISK
