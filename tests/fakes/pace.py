"""A process held to a crawl, so that what a test wants to see happens slowly enough to be seen on any machine."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

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
