"""The machine's processors, as Linux describes them below /sys."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from supervisord.ports import Processors

_MOST = 8192  # no kernel is built for more (CONFIG_NR_CPUS)
_RANGE = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")


def read_processors(root: Path = Path("/sys")) -> Processors:
    """Those that are online; where /sys does not tell, those this process may run on, each a core of its own."""
    devices = root / "devices/system"
    online = _numbers(devices / "cpu/online") or tuple(sorted(os.sched_getaffinity(0)))
    known = frozenset(online)
    cores = {_core(devices / f"cpu/cpu{number}", number, known) for number in online}
    return Processors(cores=tuple(sorted(cores)), nodes=_nodes(devices / "node", online))


def _core(folder: Path, number: int, online: frozenset[int]) -> tuple[int, ...]:
    """The processors that share a core with `number`. The kernel renamed the file; the old name still stands."""
    topology = folder / "topology"
    siblings = _numbers(topology / "core_cpus_list") or _numbers(topology / "thread_siblings_list")
    together = tuple(one for one in siblings if one in online)
    return together if number in together else (number,)


def _nodes(folder: Path, online: tuple[int, ...]) -> Mapping[int, tuple[int, ...]]:
    """Without NUMA everything is node 0. Nodes that are memory only (CXL, GPUs) have no processors."""
    found = {node: _numbers(folder / f"node{node}/cpulist") for node in _numbers(folder / "online")}
    found = {node: tuple(one for one in numbers if one in online) for node, numbers in found.items()}
    return found if any(found.values()) else {0: online}


def _numbers(file: Path) -> tuple[int, ...]:
    """A list as the kernel writes it: 0-3,8-11. Empty where it cannot be read."""
    try:
        with file.open(encoding="ascii") as opened:
            text = opened.read(64 * 1024).strip()
    except (OSError, ValueError):
        return ()
    numbers: set[int] = set()
    for part in text.split(","):
        found = _RANGE.fullmatch(part)
        if found is None:
            return ()
        first, last = int(found[1]), int(found[2] or found[1])
        numbers.update(range(first, min(last, _MOST - 1) + 1))
    return tuple(sorted(numbers))
