"""The processors, their cores and nodes, from a tree as the kernel lays it out, and from this machine's own."""

import os
from pathlib import Path

import pytest

from supervisord.adapters.processors import read_processors
from supervisord.ports import Processors


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / "devices/system" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="ascii")


def test_two_sockets_with_two_threads_a_core(tmp_path: Path) -> None:
    """Eight processors: 0-3 are the first threads of four cores, 4-7 the second ones."""
    write(tmp_path, {f"cpu/cpu{n}/topology/core_cpus_list": f"{n % 4},{n % 4 + 4}" for n in range(8)})
    write(tmp_path, {"cpu/online": "0-7", "node/online": "0-1"})
    write(tmp_path, {"node/node0/cpulist": "0-1,4-5", "node/node1/cpulist": "2-3,6-7"})
    assert read_processors(tmp_path) == Processors(
        cores=((0, 4), (1, 5), (2, 6), (3, 7)), nodes={0: (0, 1, 4, 5), 1: (2, 3, 6, 7)}
    )


def test_an_older_kernel_without_numa(tmp_path: Path) -> None:
    write(tmp_path, {"cpu/online": "0-1", "cpu/cpu0/topology/thread_siblings_list": "0-1"})
    write(tmp_path, {"cpu/cpu1/topology/thread_siblings_list": "0-1"})
    assert read_processors(tmp_path) == Processors(cores=((0, 1),), nodes={0: (0, 1)})


def test_what_is_offline_is_left_out_and_memory_without_processors_is_a_node(tmp_path: Path) -> None:
    write(tmp_path, {"cpu/online": "0,2", "node/online": "0,3", "node/node0/cpulist": "0-3", "node/node3/cpulist": ""})
    write(tmp_path, {"cpu/cpu0/topology/core_cpus_list": "0-1", "cpu/cpu2/topology/core_cpus_list": "7"})
    assert read_processors(tmp_path) == Processors(cores=((0,), (2,)), nodes={0: (0, 2), 3: ()})


@pytest.mark.parametrize("online", [None, "", "garbage", "0-", "é", "1-99999999999"])
def test_where_nothing_is_told_there_are_those_it_may_run_on(tmp_path: Path, online: str | None) -> None:
    if online is not None:
        (tmp_path / "devices/system/cpu").mkdir(parents=True)
        (tmp_path / "devices/system/cpu/online").write_text(online, encoding="utf-8")
    mine = tuple(sorted(os.sched_getaffinity(0)))
    assert read_processors(tmp_path) == Processors(cores=tuple((one,) for one in mine), nodes={0: mine})


def test_a_range_is_bounded(tmp_path: Path) -> None:
    write(tmp_path, {"cpu/online": "0-99999"})
    assert len(read_processors(tmp_path).cores) == 8192


def test_this_machine() -> None:
    found = read_processors()
    every = {one for core in found.cores for one in core}
    assert set(os.sched_getaffinity(0)) <= every
    assert sum(len(core) for core in found.cores) == len(every)
    assert {one for node in found.nodes.values() for one in node} == every
