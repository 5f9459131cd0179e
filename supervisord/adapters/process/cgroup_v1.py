"""Control groups of version 1: a hierarchy for each controller, of which `memory` and `pids` count here.

Files and their meaning: Documentation/admin-guide/cgroup-v1/{memory,pids}.rst of the kernel.
"""

from dataclasses import dataclass
from pathlib import Path

from supervisord.adapters.process import cgroup_files as files
from supervisord.core.memory import GroupLimits, GroupUsage


@dataclass(frozen=True, slots=True)
class MemoryV1:
    """The hierarchy of the memory controller. A limit counts RAM, with pages of files; swap stays as it is."""

    base: Path
    controllers: tuple[str, ...] = ("memory",)

    def limit(self, leaf: Path, limits: GroupLimits) -> None:
        """Raises OSError."""
        if limits.memory is not None:
            files.write(leaf / "memory.limit_in_bytes", str(limits.memory))

    def read(self, leaf: Path) -> GroupUsage:
        return GroupUsage(
            current=files.number(leaf / "memory.usage_in_bytes"),
            peak=files.number(leaf / "memory.max_usage_in_bytes"),
            limit=files.number(leaf / "memory.limit_in_bytes"),
            oom_kills=files.entry(leaf / "memory.oom_control", "oom_kill"),
            at_limit=files.number(leaf / "memory.failcnt"),
        )


@dataclass(frozen=True, slots=True)
class PidsV1:
    """The hierarchy of the pids controller."""

    base: Path
    controllers: tuple[str, ...] = ("pids",)

    def limit(self, leaf: Path, limits: GroupLimits) -> None:
        """Raises OSError."""
        if limits.pids is not None:
            files.write(leaf / "pids.max", str(limits.pids))

    def read(self, leaf: Path) -> GroupUsage:
        return GroupUsage(pids=files.number(leaf / "pids.current"))
