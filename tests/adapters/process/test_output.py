"""Output: never lost before the end, never without bound, never a reason for the backend to wait for ever."""

import asyncio
import os
import resource
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisord.adapters.process import log_drain
from supervisord.adapters.process.host import LinuxProcessHost
from supervisord.adapters.process.log_drain import MAX_LINE, LineSplitter, Ring
from tests.adapters.process.recorder import Recorder, py, sh, until


def split(*pieces: bytes) -> tuple[list[bytes], int]:
    splitter = LineSplitter()
    lines = [line for piece in pieces for line in splitter.feed(piece)]
    return lines + splitter.flush(), splitter.cut_lines


@pytest.mark.parametrize(
    ("pieces", "lines"),
    [
        ((b"a\nb\n",), [b"a", b"b"]),
        ((b"a", b"b\nc"), [b"ab", b"c"]),
        ((b"a\r\nb\r", b"\nc"), [b"a", b"b", b"c"]),
        ((b" 10%\r 20%\r", b" 30%\n"), [b" 10%", b" 20%", b" 30%"]),
        ((b"\n\n",), [b"", b""]),
        ((), []),
    ],
)
def test_lines(pieces: tuple[bytes, ...], lines: list[bytes]) -> None:
    assert split(*pieces) == (lines, 0)


def test_a_long_line_is_cut_once_and_the_next_one_is_whole() -> None:
    long = b"x" * (3 * MAX_LINE)
    assert split(long, long, b"tail\nnext\n", long) == ([b"x" * MAX_LINE, b"next", b"x" * MAX_LINE], 2)


def test_a_line_of_exactly_the_limit_is_not_cut() -> None:
    assert split(b"x" * MAX_LINE + b"\n") == ([b"x" * MAX_LINE], 0)


@given(st.binary(max_size=300).map(lambda data: data.replace(b"\x0b", b"\r\n")), st.lists(st.integers(0, 300)))
def test_where_the_reads_fall_does_not_matter(data: bytes, cuts: list[int]) -> None:
    bounds = [0, *sorted(cuts), len(data)]
    pieces = [data[start:end] for start, end in pairwise(bounds)]
    assert split(*pieces) == split(data)


def test_the_ring_is_bounded_in_lines_and_size() -> None:
    ring = Ring()
    for number in range(3000):
        ring.add(str(number))
    assert len(ring.tail(10_000)) == 2000
    assert list(ring.tail(2)) == ["2998", "2999"]
    assert list(ring.tail(0)) == []
    for _ in range(3000):
        ring.add("x" * 1000)
    assert len(ring.tail(10_000)) == 1024 * 1024 // 1000


async def test_both_streams_are_heard_and_kept(host: LinuxProcessHost, tmp_path: Path) -> None:
    events = Recorder()
    process = await host.spawn(sh("echo out; echo err >&2; printf 'bad \\377 end'", generation=4), events)
    await events.until_gone()
    assert sorted(events.lines) == ["bad \ufffd end", "err", "out"]
    assert sorted(process.tail(10)) == sorted(events.lines)
    state = process.log_state()
    assert (state.lines, state.bytes, state.dropped_bytes, state.cut_lines, state.degraded) == (3, 17, 0, 0, "")
    await host.close()
    written = (tmp_path / "log" / "b.log").read_text().splitlines()
    assert written[0].endswith(f"#4 --- generation 4 started, pid {process.pid}")
    assert [line.split(" #4 ")[1] for line in written[1:]] == events.lines
    assert all(line.startswith("20") and "+00:00 #4 " in line for line in written)


async def test_the_last_words_come_before_the_exit(host: LinuxProcessHost) -> None:
    """The verdict on an exit is made from them."""

    class AtExit(Recorder):
        def exited(self, status: int) -> None:
            self.at_exit = len(self.lines)
            super().exited(status)

    events = AtExit()
    await host.spawn(py("print('x\\n' * 5000 + 'CUDA out of memory', flush=True); import os; os.abort()"), events)
    await events.until_gone()
    assert events.at_exit == 5001
    assert events.lines[-1] == "CUDA out of memory"


async def test_closed_streams_do_not_spin_the_loop(host: LinuxProcessHost) -> None:
    events = Recorder()
    process = await host.spawn(sh("echo said; exec sleep 1000 >&- 2>&-"), events)
    await events.until_line("said")
    process.kill()
    await events.until_gone()


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


async def longest_turn(events: Recorder) -> float:
    """Seconds the loop was held up at most until the process was gone."""
    worst = 0.0
    while "gone" not in events.story:
        before = time.perf_counter()
        await asyncio.sleep(0.002)
        worst = max(worst, time.perf_counter() - before - 0.002)
    return worst


async def test_row_9_a_line_of_100_mb(host: LinuxProcessHost) -> None:
    program = "import os\nblock = b'x' * (1 << 20)\nfor _ in range(100): os.write(1, block)\nprint()\nprint('done')"
    before = peak()
    events = Recorder()
    process = await host.spawn(py(program), events)
    async with asyncio.timeout(30):
        worst = await longest_turn(events)
    assert events.status == 0
    assert [len(line) for line in events.lines] == [MAX_LINE, 4]
    assert process.log_state().cut_lines == 1
    assert process.log_state().bytes > 100 << 20
    assert peak() - before < 32 << 20
    assert worst < 1.0  # measured: a few ms; other work on the machine may hold it up


async def test_row_9_a_flood_of_lines(host: LinuxProcessHost) -> None:
    """600 000 lines: memory stays bounded, the loop stays responsive, the flooder ends by itself."""
    program = "import os\nblock = b'some words here\\n' * 6000\nfor _ in range(100): os.write(1, block)\nprint('done')"

    class Counter(Recorder):
        count = 0
        last = ""

        def output(self, line: str) -> None:
            self.count += 1
            self.last = line

    before = peak()
    events = Counter()
    process = await host.spawn(py(program), events)
    async with asyncio.timeout(60):
        worst = await longest_turn(events)
    assert events.status == 0
    assert (events.count, events.last) == (600_001, "done")
    assert len(process.tail(10_000)) == log_drain.RING_LINES
    assert peak() - before < 48 << 20
    assert worst < 1.0  # measured: a few ms; other work on the machine may hold it up


async def test_only_a_share_of_lines_is_handed_on_in_one_turn(host: LinuxProcessHost) -> None:
    turns: list[int] = []

    class Turns(Recorder):
        def output(self, line: str) -> None:
            if not turns or turns[-1] == -1:
                asyncio.get_running_loop().call_soon(lambda: turns.append(-1))
                turns.append(0)
            turns[-1] += 1
            super().output(line)

    events = Turns()
    process = await host.spawn(py("print('x\\n' * 3000, flush=True); import time; time.sleep(1000)"), events)
    await events.until_line("^$")
    assert max(turns) <= 2 * log_drain.TURN_LINES
    process.kill()
    await events.until_gone()


async def test_a_disk_slower_than_the_flood_loses_log_and_nothing_else(tmp_path: Path) -> None:
    host = LinuxProcessHost(tmp_path / "state", tmp_path / "log", log_max_bytes=1 << 30, log_keep=1)
    (tmp_path / "log").mkdir()
    os.mkfifo(tmp_path / "log" / "b.log")  # opening it blocks the writer's thread: a disk that hangs
    events = Recorder()
    program = "import os\nblock = (b'y' * 1023 + b'\\n') * 1024\nfor _ in range(8): os.write(1, block)\n"
    process = await host.spawn(py(program), events)
    await events.until_gone()
    assert events.status == 0
    assert len(events.lines) == 8192
    dropped = process.log_state().dropped_bytes
    assert 3 << 20 < dropped < 6 << 20
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(asyncio.to_thread(_read_until, tmp_path / "log" / "b.log", b"later"))
        await until(lambda: host._writer.file("b").written > 3 << 20)
        process._drain.header("later")  # type: ignore[attr-defined]
    assert f"--- {dropped} bytes not written: the disk was full or slower than the output".encode() in reading.result()
    await host.close()


def _read_until(fifo: Path, word: bytes) -> bytes:
    with fifo.open("rb", buffering=0) as reader:
        received = b""
        while word not in received[-200:]:
            received += reader.read(1 << 20)
        return received
