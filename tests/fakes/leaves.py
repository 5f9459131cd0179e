"""The control groups that daemons of tests make: which of them stand, and how long they may."""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

from supervisord.adapters.process.cgroups import own_groups

GONE_S = 5.0  # after the end of a daemon, whose guardians may still be removing them


def mine() -> Mapping[str, Path]:
    """The groups of this process, by controller ("" for version 2), below which a leaf can be made."""
    found = own_groups(Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text())
    return {name: own.folder for name, own in found.items() if os.access(own.folder, os.W_OK)}


def standing(state: Path) -> set[Path]:
    """The leaves of daemons on this state folder, below the groups of this process."""
    instance = state / "run" / "instance"
    if not instance.exists():  # no daemon ever came so far
        return set()
    mark = instance.read_text()[:8]
    return {one for folder in mine().values() for one in folder.glob(f"llm-supervisord-{mark}-*")}


async def left_standing(state: Path, within: float = GONE_S) -> set[Path]:
    """Those that are still there after so many seconds; empty as soon as there are none."""
    deadline = asyncio.get_running_loop().time() + within
    while (left := standing(state)) and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110 - not ours
        await asyncio.sleep(0.02)
    return left
