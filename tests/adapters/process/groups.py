"""What tests of control groups share: hosts that have some, and the programs that press against them."""

import os

import pytest

from supervisord.core.memory import MIB, GroupLimits
from supervisord.ports import ProcessSpec
from tests.adapters.process.recorder import py
from tests.fakes.leaves import mine

LIMIT = 64 * MIB

# Takes a MiB at a time, so that nothing but the group's limit is in the way.
HUNGRY = """
import mmap
print("hungry")
held = []
while True:
    piece = mmap.mmap(-1, 1 << 20)
    piece.write(b"x" * (1 << 20))
    held.append(piece)
"""

# Leaves the tree as far as it can: a session of its own, no environment, and a parent that has ended.
FUGITIVE = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        program = "import os, time; os.write(1, b'fugitive=%d\\\\n' % os.getpid()); time.sleep(1000)"
        os.execve(sys.executable, [sys.executable, "-ISc", program], {})
    os._exit(0)
os.wait()
time.sleep(1000)
"""


def needs(*controllers: str) -> pytest.MarkDecorator:
    """Version 1 hierarchies that this process may use."""
    missing = [name or "v2" for name in controllers if name not in mine() or os.geteuid() != 0]
    return pytest.mark.skipif(bool(missing), reason=f"needs a writable control group: {', '.join(missing)}")


def limited(program: str, *, name: str = "b", memory: int | None = None, pids: int | None = None) -> ProcessSpec:
    spec = py(program, name=name)
    return ProcessSpec(name, 1, spec.argv, spec.env, limits=GroupLimits(memory, pids))
