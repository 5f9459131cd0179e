"""Reading what a backend prints: it must never block on its pipes, whatever it prints and however slow the disk is.

Both pipes are read on the loop. Each turn of the loop takes a bounded share, so a flood slows the flooder and nobody
else. Lines are cut at `MAX_LINE`; a carriage return ends one too (progress bars are signs of life while loading).
"""

import asyncio
import os
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from itertools import islice

from supervisord.adapters.process.log_writer import LogFile
from supervisord.ports import LogState

MAX_LINE = 8 * 1024  # bytes
READ_SIZE = 256 * 1024  # bytes; also the size asked for the pipes
TURN_LINES = 256  # lines handed on in one turn of the loop: well below a millisecond
RING_LINES, RING_BYTES = 2000, 1024 * 1024
LAST_READS = 8  # reads of one pipe at the end: more than a full pipe, and an end even with a survivor that floods


class LineSplitter:
    """Bytes in pieces -> lines without their ends, cut at `MAX_LINE` bytes as soon as they exceed it."""

    def __init__(self) -> None:
        self.cut_lines = 0
        self._rest = b""
        self._skipping = False  # the line was cut: what follows up to its end is dropped
        self._after_return = False

    def feed(self, data: bytes) -> list[bytes]:
        lines: list[bytes] = []
        if self._after_return and data.startswith(b"\n"):
            data = data[1:]
        self._after_return = data.endswith(b"\r")
        *ended, rest = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for part in ended:
            self._grow(part, lines)
            if not self._skipping:
                lines.append(self._rest)
            self._rest, self._skipping = b"", False
        self._grow(rest, lines)
        return lines

    def flush(self) -> list[bytes]:
        """The last line, which had no end."""
        rest, self._rest = self._rest, b""
        return [rest] if rest else []

    def _grow(self, part: bytes, lines: list[bytes]) -> None:
        if self._skipping:
            return
        self._rest += part
        if len(self._rest) > MAX_LINE:
            lines.append(self._rest[:MAX_LINE])
            self._rest, self._skipping = b"", True
            self.cut_lines += 1


class Ring:
    """The last lines, bounded in number and in size."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque()
        self._size = 0

    def add(self, line: str) -> None:
        self._lines.append(line)
        self._size += len(line)
        while len(self._lines) > RING_LINES or self._size > RING_BYTES:
            self._size -= len(self._lines.popleft())

    def tail(self, lines: int) -> Sequence[str]:
        return list(islice(self._lines, max(0, len(self._lines) - lines), None))


class LogDrain:
    """The two pipes of one generation. Everything is called on the loop; `close` gives the descriptors back."""

    def __init__(self, pipes: Iterable[int], file: LogFile, generation: int, output: Callable[[str], None]) -> None:
        self._file = file
        self._generation = generation
        self._output = output
        self._loop = asyncio.get_running_loop()
        self._splitters = {pipe: LineSplitter() for pipe in pipes}
        self._open = set(self._splitters)  # those that have not ended
        self._watched: set[int] = set()
        self._backlog: deque[bytes] = deque()  # lines read and not handed on: at most one read of each pipe
        self._turn: asyncio.Handle | None = None
        self._ring = Ring()
        self._lines = self._bytes = self._dropped = 0
        self._gap = 0  # bytes dropped since the file last took some

    def start(self) -> None:
        self._watch()

    def header(self, text: str) -> None:
        """A line for the file only."""
        self._write([text])

    def tail(self, lines: int) -> Sequence[str]:
        return self._ring.tail(lines)

    def state(self) -> LogState:
        return LogState(
            lines=self._lines,
            bytes=self._bytes,
            dropped_bytes=self._dropped,
            cut_lines=sum(splitter.cut_lines for splitter in self._splitters.values()),
            degraded=self._file.problem,
        )

    def catch_up(self) -> None:
        """Hand on what the pipes hold at this moment: the last words before an exit are the ones that count."""
        for pipe in self._splitters:
            for _ in range(LAST_READS):
                self._deliver(len(self._backlog))
                if not self._read(pipe):
                    break
        self._deliver(len(self._backlog))

    def close(self) -> None:
        """Take what is there, wait for nothing (a stranger may hold the other end), close the pipes."""
        self._unwatch()
        if self._turn is not None:
            self._turn.cancel()
        self.catch_up()
        for splitter in self._splitters.values():
            self._backlog.extend(splitter.flush())
        self._deliver(len(self._backlog))
        self._output = _ignore  # who listens holds this: the lines would stay until the garbage collector comes by
        for pipe in self._splitters:
            os.close(pipe)

    def _watch(self) -> None:
        for pipe in self._open - self._watched:
            self._loop.add_reader(pipe, self._on_readable, pipe)
        self._watched = set(self._open)

    def _unwatch(self) -> None:
        for pipe in self._watched:
            self._loop.remove_reader(pipe)
        self._watched.clear()

    def _on_readable(self, pipe: int) -> None:
        self._read(pipe)
        self._take_turn()

    def _take_turn(self) -> None:
        """Hand on one share of lines; while more wait, read nothing new and let the loop do its other work."""
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        if len(self._backlog) > TURN_LINES:
            self._unwatch()
            self._turn = self._loop.call_soon(self._take_turn)
        else:
            self._watch()
        self._deliver(TURN_LINES)

    def _read(self, pipe: int) -> bool:
        """One read. False when nothing is there, or nothing will come any more."""
        if pipe not in self._open:
            return False
        try:
            data = os.read(pipe, READ_SIZE)
        except BlockingIOError:
            return False
        if not data:
            self._loop.remove_reader(pipe)
            self._open.discard(pipe)
            self._watched.discard(pipe)
            return False
        self._bytes += len(data)
        self._backlog.extend(self._splitters[pipe].feed(data))
        return True

    def _deliver(self, limit: int) -> None:
        count = min(limit, len(self._backlog))
        lines = [self._backlog.popleft().decode(errors="replace") for _ in range(count)]
        if not lines:
            return
        self._lines += count
        self._write(lines)
        for line in lines:
            self._ring.add(line)
            self._output(line)

    def _write(self, lines: Iterable[str]) -> None:
        prefix = f"{datetime.now(UTC).isoformat(timespec='milliseconds')} #{self._generation} "
        if self._gap:
            lines = [f"--- {self._gap} bytes not written: the disk was full or slower than the output", *lines]
        block = "".join(f"{prefix}{line}\n" for line in lines).encode()
        if self._file.append(block):
            self._gap = 0
        else:
            self._gap += len(block)
            self._dropped += len(block)


def _ignore(line: str) -> None:
    del line
