"""What processes do that seem to hang: their state and their threads from /proc, their Python stacks by py-spy."""

import asyncio
import os
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from supervisord.adapters.detached import within
from supervisord.ports import ON_DISK, RUNNING, ProcessFinding

PROC_S = 2.0  # for /proc: a file of a process that holds its own mmap lock can block
THREADS = 512  # of a process that are looked at: CUDA and OpenMP make some 10 for each processor
STACK_BYTES = 16 * 1024
PROGRAM = "py-spy"
_REAP_S = 1.0  # after SIGKILL
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class LocalExaminer:
    """`ports.Examiner` of this machine. py-spy is looked for on PATH and beside the daemon's own Python."""

    def __init__(self, program: str | None = None) -> None:
        """`program`: py-spy, by its path; None: look for it."""
        self._program = program

    async def examine(self, pids: Sequence[int], timeout: float) -> Sequence[ProcessFinding]:
        """What they are doing, after `timeout` s at the latest; those that are gone are left out.

        The stacks come last, one process after the other: what there is no time for is told as missing.
        """
        deadline = asyncio.get_running_loop().time() + timeout
        try:
            found = await within(min(PROC_S, timeout), lambda: _look(pids), "examine")
        except OSError:  # TimeoutError too; or no thread was to be had to look with
            return tuple(ProcessFinding(pid, "", "?", 0.0, problem="/proc does not answer") for pid in pids)
        told = []
        for finding, is_python in found:
            told.append(await self._with_stack(finding, deadline) if is_python else finding)
        return tuple(told)

    async def _with_stack(self, finding: ProcessFinding, deadline: float) -> ProcessFinding:
        program = self._program or _find()
        if program is None:
            return replace(finding, problem=finding.problem or "py-spy is not installed: its Python stack is not known")
        left = deadline - asyncio.get_running_loop().time()
        if left <= _REAP_S:
            return replace(finding, problem="there was no time for its Python stack")
        stack, problem = await _dump(program, finding.pid, left - _REAP_S)
        return replace(finding, stack=stack or finding.stack, problem=problem or finding.problem)


def _find() -> str | None:
    beside = Path(sys.executable).with_name(PROGRAM)
    return shutil.which(PROGRAM) or (str(beside) if os.access(beside, os.X_OK) else None)


async def _dump(program: str, pid: int, timeout: float) -> tuple[str, str]:
    """The Python stacks of a process, and why there are none. What takes longer than `timeout` s is killed."""
    try:
        # Not stopped meanwhile: one that py-spy leaves stopped would hang indeed.
        process = await asyncio.create_subprocess_exec(
            program, "dump", "--nonblocking", "--pid", str(pid),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
    except OSError as error:
        return "", f"{program} cannot be run: {error.strerror}"
    assert process.stdout is not None
    output = b""
    try:
        async with asyncio.timeout(timeout):
            output = await _first(process.stdout, STACK_BYTES)
            await process.wait()
    except TimeoutError:
        return "", f"{PROGRAM} did not end within {timeout:.1f} s, and was killed"
    finally:
        await _end(process)
    text = output.decode("utf-8", "replace")
    if process.returncode:
        return "", f"{PROGRAM} failed: {text.strip()[-300:] or f'status {process.returncode}'}"
    # Its first line is the command line, which may hold keys.
    return text.partition("\n")[2] if text.startswith("Process ") else text, ""


async def _first(stream: asyncio.StreamReader, size: int) -> bytes:
    """The beginning of what is printed; the rest is read, so that its writer can end, and dropped."""
    kept = bytearray()
    while block := await stream.read(STACK_BYTES):
        kept += block[: size - len(kept)]
    return bytes(kept)


async def _end(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()
    with suppress(TimeoutError):
        async with asyncio.timeout(_REAP_S):
            await process.wait()


# --- /proc -----------------------------------------------------------------------------------------------------------


def _look(pids: Sequence[int]) -> list[tuple[ProcessFinding, bool]]:
    """The findings, and of each whether it is a Python process."""
    found = [_process(pid) for pid in pids]
    return [(finding, _is_python(finding)) for finding in found if finding is not None]


def _process(pid: int) -> ProcessFinding | None:
    """None: it is gone."""
    folder = Path(f"/proc/{pid}")
    stat = _read(folder / "stat")
    if not stat:
        return None
    name, rest = stat.partition("(")[2].rpartition(")")[::2]  # a name may hold both, and blanks
    fields = rest.split()
    ticks = int(fields[11]) + int(fields[12])
    threads = Counter(_waits_in(thread) for thread in _threads(folder))
    stack = _read(folder / "stack")  # root's alone
    return ProcessFinding(pid, name, fields[0], ticks / _TICKS_PER_S, dict(threads), stack[:STACK_BYTES])


def _threads(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder / "task") as entries:
            return [Path(entry.path) for entry, _ in zip(entries, range(THREADS), strict=False)]
    except OSError:
        return []  # it has ended meanwhile


def _waits_in(thread: Path) -> str:
    """The kernel's function that it sleeps in, or its state where that is secret; `RUNNING` where it does not sleep."""
    state = "".join(_read(thread / "stat").rpartition(")")[2].split()[:1])
    if state == "R":
        return RUNNING
    place = _read(thread / "wchan").strip()
    where = place if place not in {"", "0"} else f"state {state or '?'}"
    return f"{ON_DISK}: {where}" if state == "D" else where


def _is_python(finding: ProcessFinding) -> bool:
    try:
        program = Path(f"/proc/{finding.pid}/exe").readlink().name
    except OSError:
        program = finding.name  # of another user
    return program.startswith("python")


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(STACK_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""  # gone, or not for us
