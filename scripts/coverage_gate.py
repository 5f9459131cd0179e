# ruff: noqa: INP001, T201 - a program of the repository: it prints, and runs coverage
"""Hold branch coverage to its gates: `core` 100 %, the whole 95 %. Reads the data file that `coverage combine` left."""

import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

PACKAGE = "supervisord"
GATES = {"core": 100.0, "all": 95.0}  # percent of lines and branches together, as `coverage report --branch` counts
_SHOWN = 12  # gaps told of one file; `coverage report` has them all


@dataclass(frozen=True, slots=True)
class Count:
    """Lines and branches together."""

    covered: int = 0
    total: int = 0

    def __add__(self, other: "Count") -> "Count":
        return Count(self.covered + other.covered, self.total + other.total)

    @property
    def percent(self) -> float:
        return 100.0 * self.covered / self.total if self.total else 100.0


def count(summary: Mapping[str, int]) -> Count:
    return Count(
        summary["covered_lines"] + summary["covered_branches"], summary["num_statements"] + summary["num_branches"]
    )


def group(path: str) -> str:
    """`supervisord/core/queue.py` belongs to core, a module at the top to itself."""
    parts = PurePath(path).parts
    below = parts[parts.index(PACKAGE) + 1 :] if PACKAGE in parts else parts
    return PurePath(below[0]).stem


def totals(files: Mapping[str, Mapping[str, Any]]) -> dict[str, Count]:
    """Counts by group, and of `all`, which comes last."""
    found: defaultdict[str, Count] = defaultdict(Count)
    for path, entry in sorted(files.items()):
        found[group(path)] += count(entry["summary"])
    return {**found, "all": sum(found.values(), Count())}


def failures(by_group: Mapping[str, Count]) -> list[str]:
    """The groups below their gate. A group that has no code at all is one of them: it was not measured."""
    return [
        name for name, gate in GATES.items() if by_group.get(name, Count()).total == 0 or by_group[name].percent < gate
    ]


def holes(files: Mapping[str, Mapping[str, Any]], names: Iterable[str]) -> list[str]:
    """Where something is not covered in the named groups."""
    wanted = set(names)
    lines = []
    for path, entry in sorted(files.items()):
        missing = [*map(str, entry["missing_lines"]), *(f"{a}->{b}" for a, b in entry["missing_branches"])]
        if missing and (group(path) in wanted or "all" in wanted):
            more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
            lines.append(f"  {path}: {', '.join(missing[:_SHOWN])}{more}")
    return lines


def main() -> int:
    ran = subprocess.run(
        [sys.executable, "-m", "coverage", "json", "--quiet", "-o", "-"], stdout=subprocess.PIPE, check=False
    )
    if ran.returncode:
        return ran.returncode
    files = json.loads(ran.stdout)["files"]
    by_group = totals(files)
    print("coverage, lines and branches")
    for name, counted in by_group.items():
        gate = f"   at least {GATES[name]:g} %" if name in GATES else ""
        print(f"  {name:<12}{counted.percent:7.2f} %  {counted.total:6d}{gate}")
    failed = failures(by_group)
    if failed:
        print(*holes(files, failed), sep="\n")
        print(f"coverage gate: {', '.join(failed)} below the gate", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
