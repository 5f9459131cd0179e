"""supctl as a real process: run to its end, or watched while it runs, on pipes or on a terminal."""

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

BOUND_S = 20.0
ARGV = (sys.executable, "-m", "supervisord.cli.supctl")


@dataclass(frozen=True)
class Ended:
    status: int
    out: str
    err: str


def environment(**changes: str | None) -> dict[str, str]:
    """The environment without what would change the output, in UTC."""
    dropped = {"NO_COLOR", "COLUMNS", "PYTHONUNBUFFERED", "LLM_SUPERVISORD_SOCKET", "XDG_RUNTIME_DIR", "XDG_STATE_HOME"}
    kept = {key: value for key, value in os.environ.items() if key not in dropped}
    wanted = {**kept, "TZ": "UTC", "TERM": "xterm-256color", "PYTHONUTF8": "1", **changes}
    return {key: value for key, value in wanted.items() if value is not None}


@dataclass(frozen=True)
class Supctl:
    socket: Path

    def __call__(self, *arguments: str, **env: str | None) -> Ended:
        """Run to the end, its output on pipes."""
        done = subprocess.run(
            [*ARGV, *arguments],
            env=environment(LLM_SUPERVISORD_SOCKET=str(self.socket), **env),
            capture_output=True,
            timeout=BOUND_S,
            check=False,
        )
        return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())

    def to(self, file: BinaryIO, *arguments: str) -> int:
        """Run to the end, its output to a file; the exit status."""
        return subprocess.run(
            [*ARGV, *arguments],
            env=environment(LLM_SUPERVISORD_SOCKET=str(self.socket)),
            stdout=file,
            timeout=BOUND_S,
            check=False,
        ).returncode

    @contextlib.contextmanager
    def running(
        self,
        *arguments: str,
        terminal: tuple[int, int] | None = None,
        env: Mapping[str, str] | None = None,
        errors_too: bool = False,
    ) -> Iterator["Running"]:
        """Run while the block lasts; `terminal`: on one of that many columns and lines, with stderr if asked."""
        ours, theirs = pty.openpty() if terminal else os.pipe()
        if terminal:
            columns, lines = terminal
            fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        process = subprocess.Popen(
            [*ARGV, *arguments],
            env=environment(LLM_SUPERVISORD_SOCKET=str(self.socket), **(env or {})),
            stdout=theirs,
            stderr=theirs if errors_too else subprocess.PIPE,
            start_new_session=True,
        )
        os.close(theirs)
        running = Running(process, ours)
        try:
            yield running
        finally:
            running.close()


class Running:
    def __init__(self, process: subprocess.Popen[bytes], output: int) -> None:
        self.process = process
        self.seen = ""
        self.error = ""
        self._output = output

    def wait_for(self, text: str) -> None:
        """Read output until `text` was in it; fails with what came instead."""
        give_up = time.monotonic() + BOUND_S
        while text not in self.seen:
            part = self._read(give_up)
            assert part, f"never came: {text!r}; came: {self.seen!r}; stderr: {self._stderr()!r}"
            self.seen += part

    def wait_for_error(self, text: str) -> None:
        assert self.process.stderr is not None
        give_up = time.monotonic() + BOUND_S
        while text not in self.error:
            ready, _, _ = select.select([self.process.stderr], [], [], max(0.0, give_up - time.monotonic()))
            part = os.read(self.process.stderr.fileno(), 65536).decode() if ready else ""
            assert part, f"never came: {text!r}; came: {self.error!r}"
            self.error += part

    def _read(self, give_up: float) -> str:
        ready, _, _ = select.select([self._output], [], [], max(0.0, give_up - time.monotonic()))
        try:
            return os.read(self._output, 65536).decode() if ready else ""
        except OSError:  # a terminal without its last writer
            return ""

    def _stderr(self) -> str:
        self.process.kill()
        assert self.process.stderr is not None
        return self.error + self.process.stderr.read().decode()

    def interrupt(self) -> int:
        """Ctrl-C; the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(BOUND_S)

    def rest(self) -> str:
        give_up = time.monotonic() + BOUND_S
        while part := self._read(give_up):
            self.seen += part
        return self.seen

    def hang_up(self) -> None:
        """The reader of its output leaves."""
        os.close(self._output)
        self._output = -1

    def stop(self) -> Ended:
        status = self.process.wait(BOUND_S)
        out = self.rest() if self._output >= 0 else self.seen
        return Ended(status, out, self._stderr())

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(BOUND_S)
        if self.process.stderr is not None:
            self.process.stderr.close()
        if self._output >= 0:
            os.close(self._output)
