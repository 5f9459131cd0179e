"""Helper programs that end by themselves: run with a bound on time and output, and nothing of them left behind."""

import asyncio
import os
import select
import signal
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from supervisord.adapters.process.launch import inherited
from supervisord.adapters.process.shortage import is_shortage, told

HELP_BYTES = 256 * 1024
_REASON_BYTES = 4096  # the last of what a program printed
_REASON_LINES = 3
_READ = 64 * 1024
_REAP_S, _REAP_PAUSE_S = 1.0, 0.01  # after SIGKILL; longer takes only what hangs in the kernel


@dataclass(frozen=True, slots=True)
class _Ended:
    """`status` None: it did not end in time, and was killed."""

    status: int | None
    output: bytes


async def run(argv: Sequence[str], env: Mapping[str, str], timeout: float, secrets: Collection[str] = ()) -> str:
    """Run a program to its end, in at most `timeout` s; why it failed, in words, or empty.

    `env` is added to the daemon's own environment. What the program leaves behind in its process group is killed.
    """
    return await asyncio.to_thread(_run, tuple(argv), {**inherited(os.environ, secrets), **env}, timeout)


def _run(argv: tuple[str, ...], env: Mapping[str, str], timeout: float) -> str:
    if not argv:
        return "its command line is empty"
    name = Path(argv[0]).name
    try:
        ended = _finish(argv, env, timeout, keep=_REASON_BYTES, from_the_end=True)
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in it
        return f"{argv[0]} cannot be run: {getattr(error, 'strerror', None) or error}"
    if ended.status == 0:
        return ""
    said = " / ".join(ended.output.decode("utf-8", "replace").split("\n")[-_REASON_LINES - 1 :]).strip(" /")
    return f"{name} {_how(ended.status, timeout)}" + (f": {said}" if said else " and said nothing")


def _how(status: int | None, timeout: float) -> str:
    if status is None:
        return f"did not end within {timeout:g} s and was killed"
    return f"ended with status {status}" if status > 0 else f"was ended by signal {-status}"


async def help_text(program: Sequence[str], timeout: float) -> str:
    """What `program --help` prints on stdout or stderr; empty when it fails or takes longer than `timeout` seconds.

    Raises SpawnError where the machine has nothing left to run it with: what it would say is not known then.
    """
    with told(f"{program[0]} --help cannot be run"):
        return await asyncio.to_thread(_help_text, tuple(program), timeout)


def _help_text(program: tuple[str, ...], timeout: float) -> str:
    try:
        ended = _finish((*program, "--help"), os.environ, timeout, keep=HELP_BYTES, from_the_end=False)
    except OSError as error:
        if is_shortage(error.errno):
            raise
        return ""  # the start itself will say why
    except ValueError:
        return ""
    return ended.output.decode("utf-8", "replace") if ended.status == 0 else ""


def _finish(argv: tuple[str, ...], env: Mapping[str, str], timeout: float, *, keep: int, from_the_end: bool) -> _Ended:
    """Blocking. Raises OSError where it cannot be started, ValueError for a NUL byte."""
    deadline = time.monotonic() + timeout
    program = subprocess.Popen(  # noqa: S603 - the very program that the configuration names, without a shell
        argv,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        bufsize=0,
    )
    output = _Output(keep, from_the_end=from_the_end)
    in_time = False
    try:
        in_time = _follow(program, output, deadline)
    finally:
        _clear(program)
    return _Ended(program.returncode if in_time else None, bytes(output.kept))


class _Output:
    """The first or the last of what was printed."""

    def __init__(self, keep: int, *, from_the_end: bool) -> None:
        self.kept = bytearray()
        self._keep = keep
        self._from_the_end = from_the_end

    def add(self, block: bytes) -> None:
        self.kept += block
        if self._from_the_end:
            del self.kept[: -self._keep]
        else:
            del self.kept[self._keep :]


def _follow(program: "subprocess.Popen[bytes]", output: _Output, deadline: float) -> bool:
    """Read what it prints until it ends; a grandchild that holds its output open is not waited for. Did it end?"""
    assert program.stdout is not None
    pipe = program.stdout.fileno()
    pidfd = os.pidfd_open(program.pid)
    try:
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        poll.register(pidfd, select.POLLIN)
        while (left := deadline - time.monotonic()) > 0:
            ready = {descriptor for descriptor, _ in poll.poll(left * 1000)}
            if pipe in ready:
                block = os.read(pipe, _READ)
                output.add(block)
                if not block:
                    poll.unregister(pipe)
            elif pidfd in ready:
                return True
    finally:
        os.close(pidfd)
    return False


def _clear(program: "subprocess.Popen[bytes]") -> None:
    """Kill it, if it hangs, and what it left behind; reap all of that: as subreaper the daemon inherits orphans."""
    assert program.stdout is not None
    program.stdout.close()
    with suppress(ProcessLookupError):
        os.killpg(program.pid, signal.SIGKILL)  # it is not reaped yet, so the number is still its own
    with suppress(subprocess.TimeoutExpired):
        program.wait(_REAP_S)
    deadline = time.monotonic() + _REAP_S
    with suppress(ChildProcessError):  # none is left
        while time.monotonic() < deadline:
            if os.waitpid(-program.pid, os.WNOHANG) == (0, 0):
                time.sleep(_REAP_PAUSE_S)
