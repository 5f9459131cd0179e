"""Version 2 control groups as plain files, for controllers that this machine keeps in version 1.

What the daemon writes does what the kernel would do, as far as it is looked at: controllers are enabled for children, a
process is in one group, a group that holds processes enables nothing (Documentation/admin-guide/cgroup-v2.rst).
"""

import errno
import os
import shutil
from pathlib import Path

import pytest

from supervisord.adapters.process import cgroup_files

PRESSURE = """some avg10=2.00 avg60=0.00 avg300=0.00 total=9
full avg10=1.50 avg60=0.00 avg300=0.00 total=7
"""
CORE = {
    "cgroup.procs": "",
    "cgroup.subtree_control": "",
    "cgroup.kill": "",
    "cgroup.controllers": "",
    "memory.pressure": PRESSURE,
}
OF_CONTROLLER = {
    "memory": {
        "memory.current": "4096\n", "memory.peak": "8192\n", "memory.max": "max\n", "memory.min": "0\n",
        "memory.oom.group": "0\n", "memory.swap.max": "max\n",
        "memory.events": "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0\n",
    },
    "pids": {"pids.current": "0\n", "pids.max": "max\n"},
}  # fmt: skip


class PlainGroups:
    """A delegated group at `base`, with this process and `others` in it. `refuses`: the errno of a write, by name."""

    def __init__(self, base: Path, controllers: str = "cpu memory pids", others: tuple[int, ...] = ()) -> None:
        self.base = base
        self.refuses: dict[str, int] = {}
        base.mkdir(parents=True)
        self._fill(base, controllers.split())
        (base / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in (os.getpid(), *others)))

    def install(self, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(cgroup_files, "make", self.make)
        patch.setattr(cgroup_files, "write", self.write)
        patch.setattr(cgroup_files, "remove", self.remove)

    def make(self, folder: Path) -> None:
        folder.mkdir()
        self._fill(folder, (folder.parent / "cgroup.subtree_control").read_text().split())

    def remove(self, folder: Path) -> None:
        if folder.exists():
            shutil.rmtree(folder)

    def write(self, file: Path, value: str) -> None:
        if not file.exists():
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        if file.name in self.refuses:
            raise OSError(self.refuses[file.name], os.strerror(self.refuses[file.name]))
        if file.name == "cgroup.procs":
            for other in self.base.rglob("cgroup.procs"):
                other.write_text("".join(f"{pid}\n" for pid in other.read_text().split() if pid != value))
            value = f"{file.read_text()}{value}\n"
        if file.name == "cgroup.subtree_control":
            if (file.parent / "cgroup.procs").read_text():
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
            controllers = [*file.read_text().split(), value.removeprefix("+")]
            for child in [one for one in file.parent.iterdir() if one.is_dir()]:
                self._fill(child, controllers)
            value = " ".join(controllers)
        file.write_text(value)

    def _fill(self, folder: Path, controllers: list[str]) -> None:
        contents = dict(CORE)
        for name in controllers:
            contents |= OF_CONTROLLER.get(name, {})
        for name, content in contents.items():
            if not (folder / name).exists():
                (folder / name).write_text(content)
        (folder / "cgroup.controllers").write_text(" ".join(controllers))
