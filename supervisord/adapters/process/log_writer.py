"""The one thread that writes the log files of all backends, so that no disk can ever hold up the loop.

A file is rotated by size (`.1` is the newest old one). While the disk refuses, what comes in is kept up to
`MAX_BUFFERED`, then dropped by the caller's count; each `RETRY_S` the disk is tried again.
"""

import os
import threading
import time
from pathlib import Path

MAX_BUFFERED = 4 * 1024 * 1024  # bytes of one backend that wait for the disk
MAX_WRITE = 1024 * 1024  # bytes in one write: how finely rotation cuts
RETRY_S = 3.0
CLOSE_S = 2.0  # a disk that hangs is not waited for longer


class LogFile:
    """One backend's log file. `append` is called on the loop, `write_out` on the writer thread."""

    def __init__(self, path: Path, *, max_bytes: int, keep: int, wake: threading.Condition) -> None:
        self.path = path
        self.problem = ""  # why the file is not being written; empty while it is
        self.written = 0  # bytes, all generations together
        self._max_bytes = max_bytes
        self._keep = keep
        self._wake = wake
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._descriptor = -1
        self._size = 0
        self._retry_at = 0.0

    def append(self, data: bytes) -> bool:
        """Hand over whole lines. False: the buffer is full and they were dropped."""
        with self._wake:
            if self._waiting_bytes + len(data) > MAX_BUFFERED:
                return False
            self._waiting.append(data)
            self._waiting_bytes += len(data)
            self._wake.notify()
        return True

    def due_in(self, now: float) -> float | None:
        """Seconds until there is something to try, None when nothing waits. Called with the lock held."""
        return max(0.0, self._retry_at - now) if self._waiting else None

    def write_out(self) -> None:
        """Write what waits; on trouble keep it for the next try."""
        with self._wake:
            taken, self._waiting = b"".join(self._waiting), []
        written = 0
        try:
            while written < len(taken):
                written += self._write(memoryview(taken)[written : written + MAX_WRITE])
        except OSError as error:
            self.problem = f"cannot write {self.path}: {error.strerror}; free the disk or fix the folder's rights"
            self._retry_at = time.monotonic() + RETRY_S
            self.close()
        else:
            self.problem = ""
        with self._wake:
            self.written += written
            self._waiting_bytes -= written
            if written < len(taken):
                self._waiting.insert(0, taken[written:])

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _write(self, data: memoryview) -> int:
        self._open()
        if self._size and self._size + len(data) > self._max_bytes:
            self._rotate()
            self._open()
        written = os.write(self._descriptor, data)
        self._size += written
        return written

    def _open(self) -> None:
        """Open the file, again if somebody has moved or removed it meanwhile."""
        if self._descriptor >= 0 and not self._is_still_there():
            self.close()
        if self._descriptor < 0:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
            self._size = os.fstat(self._descriptor).st_size

    def _is_still_there(self) -> bool:
        try:
            named = self.path.stat()
        except FileNotFoundError:
            return False
        return os.path.samestat(named, os.fstat(self._descriptor))

    def _rotate(self) -> None:
        self.close()
        for number in range(self._keep, 0, -1):
            older = self.path.with_name(f"{self.path.name}.{number}")
            newer = self.path.with_name(f"{self.path.name}.{number - 1}") if number > 1 else self.path
            if newer.exists():
                newer.replace(older)
        if self._keep == 0:
            self.path.unlink(missing_ok=True)


class LogWriter:
    """Owns the thread and the files. `file()` and `close()` are called on the loop."""

    def __init__(self, folder: Path, *, max_bytes: int, keep: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._keep = keep
        self._files: dict[str, LogFile] = {}
        self._wake = threading.Condition()
        self._closing = False
        # A daemon thread: a disk that hangs must not keep the interpreter from ending.
        self._thread = threading.Thread(target=self._run, name="backend-logs", daemon=True)
        self._thread.start()

    def file(self, name: str) -> LogFile:
        """The log file of a backend; the same object for all its generations."""
        with self._wake:
            if name not in self._files:
                path = self._folder / f"{name.replace('/', '_')}.log"
                self._files[name] = LogFile(path, max_bytes=self._max_bytes, keep=self._keep, wake=self._wake)
            return self._files[name]

    def close(self) -> None:
        """Write what can be written within `CLOSE_S` and end the thread. Blocking."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(CLOSE_S)

    def _run(self) -> None:
        while files := self._next():
            for file in files:
                file.write_out()
        for file in self._files.values():
            file.close()

    def _next(self) -> list[LogFile]:
        """Wait for files with something to try. Empty: closing, and all that could be written is."""
        with self._wake:
            while True:
                now = time.monotonic()
                waits = [(wait, file) for file in self._files.values() if (wait := file.due_in(now)) is not None]
                due = [file for wait, file in waits if wait == 0.0]
                if due or self._closing:
                    return due
                self._wake.wait(min((wait for wait, _ in waits), default=None))
