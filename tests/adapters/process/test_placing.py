"""On which processors and from which memory a backend runs."""

import asyncio
import ctypes
import os
import platform
import re
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from supervisord.adapters.process import launch, tree
from supervisord.adapters.process.host import LinuxProcessHost
from supervisord.core.errors import SpawnError
from supervisord.core.hang import WANTS_TO_RUN
from supervisord.ports import ProcessSpec
from tests.adapters.process.recorder import Recorder, py, sh

MINE = tuple(sorted(os.sched_getaffinity(0)))


async def lines_of(host: LinuxProcessHost, spec: ProcessSpec) -> list[str]:
    events = Recorder()
    await host.spawn(spec, events)
    await events.until_gone()
    return events.lines


def allowed(processors: tuple[int, ...]) -> ProcessSpec:
    return replace(sh("grep Cpus_allowed_list /proc/self/status; (nproc)"), cpus=processors)


async def test_it_runs_where_it_is_told_and_so_do_its_children(host: LinuxProcessHost) -> None:
    last = MINE[-1]
    assert await lines_of(host, allowed((last,))) == [f"Cpus_allowed_list:\t{last}", "1"]
    assert os.sched_getaffinity(0) == set(MINE)


async def test_without_being_told_it_runs_where_the_daemon_does(host: LinuxProcessHost) -> None:
    assert (await lines_of(host, allowed(())))[1] == str(len(MINE))


async def test_what_is_missing_of_its_processors_is_said(host: LinuxProcessHost) -> None:
    lines = await lines_of(host, allowed((MINE[0], 7000)))
    assert "llm-supervisord: these processors are not there, or not for it: [7000]; the others are used" in lines
    assert f"Cpus_allowed_list:\t{MINE[0]}" in lines


@pytest.mark.parametrize(
    ("processors", "named"),
    [((7000, 7001), "7000, 7001"), ((-1,), "-1"), ((8192,), "8192"), (tuple(range(7000, 7020)), "7000, .*7015, …")],
)
async def test_processors_that_are_not_there_are_told(
    host: LinuxProcessHost, processors: tuple[int, ...], named: str
) -> None:
    words = rf"cannot start b: none of its processors \({named}\) exists and may be used by the daemon; correct `cpus`"
    with pytest.raises(SpawnError, match=words) as caught:
        await host.spawn(allowed(processors), Recorder())
    assert caught.value.permanent


@pytest.mark.parametrize("node", [0, 1000, 5000])
async def test_trouble_with_its_place_does_not_hide_why_it_cannot_start(host: LinuxProcessHost, node: int) -> None:
    spec = ProcessSpec("b", 1, ("no-such-server",), {}, cpus=(MINE[0], 7000), memory_node=node)
    with pytest.raises(SpawnError, match="program not found: no-such-server"):
        await host.spawn(spec, Recorder())


def policy(lines: list[str]) -> str:
    """The policy of the biggest mapping, as the kernel has it."""
    return next(found[1] for line in lines if (found := re.match(r"[0-9a-f]+ (\S+)", line)))


def can_set_policy() -> bool:
    """Containers often forbid it. The default policy is what this process has already."""
    known = platform.machine() == "x86_64" and Path("/proc/self/numa_maps").exists()
    return known and ctypes.CDLL(None).syscall(ctypes.c_long(238), 0, None, ctypes.c_ulong(0)) == 0


@pytest.mark.skipif(not can_set_policy(), reason="no NUMA policy here")
async def test_its_memory_comes_from_the_node_first(host: LinuxProcessHost) -> None:
    spec = sh("cat /proc/self/numa_maps")
    assert policy(await lines_of(host, spec)) == "default"
    assert policy(await lines_of(host, replace(spec, memory_node=0))) == "prefer:0"


@pytest.mark.parametrize("node", [1000, 5000])
async def test_a_node_that_is_not_there_is_said_and_does_not_stop_the_start(host: LinuxProcessHost, node: int) -> None:
    lines = await lines_of(host, replace(sh("echo runs"), memory_node=node))
    said, ran = sorted(lines)
    assert ran == "runs"
    assert said.startswith(f"llm-supervisord: memory is not taken from NUMA node {node} first: ")


async def test_a_machine_whose_call_is_not_known_is_said(
    host: LinuxProcessHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = f"""
import os, runpy
os.uname = lambda: os.uname_result(("Linux", "b", "6", "1", "vax"))
runpy.run_path({launch.guardian.__file__!r}, run_name="__main__")
"""
    monkeypatch.setattr(launch, "COMMAND", (sys.executable, "-c", program))
    lines = sorted(await lines_of(host, replace(sh("echo runs"), memory_node=0)))
    assert lines == ["llm-supervisord: memory is not taken from NUMA node 0 first: Function not implemented", "runs"]


async def test_pages_of_files_are_told_apart(host: LinuxProcessHost, tmp_path: Path) -> None:
    """As a mapped model: they are resident, and yet the kernel counts them as available."""
    model = tmp_path / "model"
    model.write_bytes(bytes(32 << 20))
    program = """
import mmap, sys, time
with open(sys.argv[1], "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
touched = sum(mapped[at] for at in range(0, len(mapped), 4096))
print("mapped")
time.sleep(1000)
"""
    events = Recorder()
    process = await host.spawn(py(program, str(model)), events)
    await events.until_line("mapped")
    usage = await process.usage()
    process.kill()
    await events.until_gone()
    assert 32 << 20 <= usage.mapped < 48 << 20
    assert usage.mapped + (2 << 20) < usage.rss < 64 << 20


WANTS = """
import sys, threading, time
threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
print("runs")
while sys.argv[1] == "works":
    pass
time.sleep(1000)
"""


async def test_what_its_threads_want_of_the_processors_is_known_where_they_do_not_get_it(
    host: LinuxProcessHost,
) -> None:
    """Three that compute share one processor, and one that waits for nothing to do."""
    events = [Recorder() for _ in range(4)]
    specs = [replace(py(WANTS, what), cpus=MINE[:1]) for what in ("works", "works", "works", "rests")]
    processes = [await host.spawn(spec, one) for spec, one in zip(specs, events, strict=True)]
    for one in events:
        await one.until_line("runs")
    used = [(await process.usage()).cpu_s for process in processes]
    wanted, began = [await process.demand() for process in processes], time.monotonic()
    assert [len(threads) for threads in wanted] == [2, 2, 2, 2]
    await asyncio.sleep(1.5)
    span = time.monotonic() - began
    for number, process in enumerate(processes):
        now = await process.demand()
        assert now.keys() == wanted[number].keys()
        share = max(now[thread] - wanted[number][thread] for thread in now) / span
        if number < 3:
            assert share > WANTS_TO_RUN
        else:
            assert share < WANTS_TO_RUN / 2
    used = [(await process.usage()).cpu_s - before for process, before in zip(processes, used, strict=True)]
    assert sum(used) < 1.2 * (time.monotonic() - began), "they had one processor, and not one each"
    for process, one in zip(processes, events, strict=True):
        process.kill()
        await one.until_gone()
        assert await process.demand() == {}


def test_of_a_process_that_is_gone_and_of_a_kernel_that_does_not_count_nothing_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert tree.demand([4_194_999]) == {}
    assert tree.demand([os.getpid()])[os.getpid()] > 0
    monkeypatch.setattr(tree, "_read", lambda path: b"0 0 0\n" if path.endswith("schedstat") else b"")
    assert tree.demand([os.getpid()]) == {}
    monkeypatch.setattr(tree, "_read", lambda path: b"")
    assert tree.demand([os.getpid()]) == {}
