"""What the daemon does once, before it serves."""

import subprocess
import sys

# In a process of its own: what is frozen stays so, and would be that of every later test.
SETTLED = """
import gc
from supervisord.app import daemon
before = len(gc.get_objects())
daemon._settle()
after = len(gc.get_objects())
print(before, after, gc.isenabled())
"""


def test_a_full_collection_does_not_look_at_what_start_up_made() -> None:
    done = subprocess.run([sys.executable, "-c", SETTLED], capture_output=True, text=True, timeout=60, check=True)
    before, after, enabled = done.stdout.split()
    assert int(before) > 50_000, "worth it"
    assert int(after) < 1000
    assert enabled == "True", "what comes later is still collected"
