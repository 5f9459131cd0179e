"""A process held to a crawl, so that what a test wants to see happens slowly enough to be seen on any machine."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

RUNS_S = 0.005
RESTS_S = 0.05

# A program of its own: were it a thread, the process would run as it likes while this one collects its garbage. It
# ends with its stdin, so with whoever started it, and lets the process run then.
_PACE = f"""
import os, select, signal, sys, time
pid = int(sys.argv[1])
try:
    os.kill(pid, signal.SIGSTOP)
    print("slow", flush=True)
    while not select.select([0], [], [], {RESTS_S})[0]:
        os.kill(pid, signal.SIGCONT)
        time.sleep({RUNS_S})
        os.kill(pid, signal.SIGSTOP)
    os.kill(pid, signal.SIGCONT)
except ProcessLookupError:
    pass
"""


@contextmanager
def slowed(process: psutil.Process) -> Iterator[None]:
    """`process` runs about a tenth of the time: stopped and continued by signals. It may be killed meanwhile."""
    command = [sys.executable, "-I", "-S", "-c", _PACE, str(process.pid)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as pacing:
        assert pacing.stdin is not None
        assert pacing.stdout is not None
        assert pacing.stdout.readline() == b"slow\n"
        yield
        assert pacing.poll() is None or not process.is_running(), "it was slowed to the end"
        pacing.stdin.close()
        assert pacing.wait(10) == 0


# Ends by itself with whoever started it.
_SPIN = "import os; parent = os.getppid()\nwhile os.getppid() == parent: pass"


@contextmanager
def crowd(count: int, processors: Sequence[int] = ()) -> Iterator[None]:
    """Programs that never rest, so many for each of these processors, or for all there are."""
    command = [sys.executable, "-I", "-S", "-c", _SPIN]
    where = list(processors) or list(os.sched_getaffinity(0))
    # Each in a session of its own: the kernel shares processors out among sessions, not among processes (autogroup).
    spinning = [subprocess.Popen(command, start_new_session=True) for _ in range(count * len(where))]
    try:
        for number, one in enumerate(spinning):
            os.sched_setaffinity(one.pid, [where[number % len(where)]])
        yield
    finally:
        for one in spinning:
            one.kill()
            one.wait()


def give_way(pid: int, nice: int) -> None:
    """The session of a process gets so much less beside others; where there are no such groups, its own `nice` does."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, nice)
        Path(f"/proc/{pid}/autogroup").write_text(str(nice))
