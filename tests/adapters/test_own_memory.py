"""The daemon's own pages, in a process of its own: a lock lasts as long as its process."""

import os
import subprocess
import sys

import pytest

_SCRIPT = """
import os, resource, sys
from supervisord.adapters.own_memory import lock
if sys.argv[1] != "0":
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))
    os.setuid(int(sys.argv[1]))
problem = lock()
block = bytearray(8 << 20)
with open("/proc/self/status") as status:
    locked = next(line for line in status if line.startswith("VmLck"))
print(problem or "none", int(locked.split()[1]), sep=";")
"""


def locked_by(user: int) -> tuple[str, int]:
    """The problem, and the KiB that are locked."""
    command = [sys.executable, "-c", _SCRIPT, str(user)]
    problem, size = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.rsplit(
        ";", 1
    )
    return problem, int(size)


@pytest.mark.skipif(os.getuid() != 0, reason="only root may surely lock memory")
def test_what_is_there_and_what_comes_stays_in_memory() -> None:
    problem, size = locked_by(0)
    assert problem == "none"
    assert size > 8 << 10


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_who_may_not_says_why() -> None:
    problem, size = locked_by(65534)
    assert problem.startswith("this user may lock 64 KiB of memory")
    assert size == 0
