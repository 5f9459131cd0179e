"""Faults 30 and 31: no descriptors left; many restarts. And the host's small questions."""

import asyncio
import errno
import gc
import os
import resource
import socket
import threading
from collections import Counter
from pathlib import Path

import pytest

from supervisord.adapters.process import launch
from supervisord.adapters.process.host import LinuxProcessHost
from supervisord.adapters.process.leftovers import Memory
from supervisord.core.errors import SpawnError, StateFolderError
from supervisord.ports import ProcessSpec
from tests.adapters.process.recorder import Recorder, descriptors, no_children, sh, until


def open_numbers() -> list[int]:
    return [int(link.name) for link in Path("/proc/self/fd").iterdir()]


async def run_once(host: LinuxProcessHost, generation: int = 1) -> None:
    events = Recorder()
    await host.spawn(sh("echo hello", generation=generation), events)
    await events.until_gone()
    assert events.lines == ["hello"]


async def test_row_30_without_descriptors_a_start_is_refused_and_works_again_later(host: LinuxProcessHost) -> None:
    """Refused at every number of descriptors that is too small, and nothing is leaked by it."""
    await run_once(host)
    before = descriptors()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(open_numbers())
    filler = [os.open("/dev/null", os.O_RDONLY) for _ in range(highest)]  # no gaps below the limit
    top = max(filler)
    refused: list[SpawnError] = []
    try:
        for spare in range(1, 12):
            resource.setrlimit(resource.RLIMIT_NOFILE, (top + spare, hard))
            try:
                await run_once(host)
            except SpawnError as error:
                refused.append(error)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in filler:
            os.close(descriptor)
    assert 5 <= len(refused) <= 9  # of the nine it takes; threads of the host open and close files meanwhile
    assert not any(error.permanent for error in refused)
    assert all(error.shortage for error in refused)
    assert all("raise the limit of open files" in error.message for error in refused)
    await until(lambda: not host._children)
    assert descriptors() == before
    await run_once(host)


async def test_a_descriptor_lost_after_the_fork(host: LinuxProcessHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread took it: the guardian that runs already is ended and reaped."""
    before = descriptors()

    def refuse(pid: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(launch.os, "pidfd_open", refuse)
    with pytest.raises(SpawnError, match="raise the limit of open files"):
        await host.spawn(sh("exec sleep 1000"), Recorder())
    assert descriptors() == before
    assert no_children()


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.EAGAIN, "TasksMax="), (errno.ENOMEM, "free memory"), (errno.ENFILE, "LimitNOFILE="), (errno.EPERM, "")],
)
def test_what_the_system_refuses_is_worth_another_try(number: int, words: str) -> None:
    error = launch.failure(ProcessSpec("b", 1, ("x",), {}), "fork", number)
    assert not error.permanent
    assert words in error.message


async def test_row_31_restarts_cost_nothing_in_the_long_run(host: LinuxProcessHost) -> None:
    """Descriptors, threads and memory are after 150 starts what they were after 50."""

    def figures() -> tuple[Counter[str], int, int]:
        gc.collect()
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
        return descriptors(), threading.active_count(), resident

    for generation in range(50):
        await run_once(host, generation)
    open_before, threads_before, resident_before = figures()
    for generation in range(50, 150):
        await run_once(host, generation)
    open_after, threads_after, resident_after = figures()
    assert open_after == open_before
    assert threads_after == threads_before
    assert resident_after - resident_before < 2 << 20
    assert no_children()


async def test_many_at_once(host: LinuxProcessHost, tmp_path: Path) -> None:
    recorders = [Recorder() for _ in range(12)]
    async with asyncio.TaskGroup() as group:
        for number, events in enumerate(recorders):
            group.create_task(host.spawn(sh(f"echo {number}; sleep 1000", name=f"b{number}"), events))
    for number, events in enumerate(recorders):
        await events.until_line(f"^{number}$")
    memory = Memory(tmp_path / "state")
    await until(lambda: len(memory.load()) == 12)
    for child in list(host._children):
        child.terminate()
    for events in recorders:
        await events.until_gone()
    await until(lambda: memory.load() == [])


async def test_kill_leftovers_spares_this_life(host: LinuxProcessHost) -> None:
    events = Recorder()
    process = await host.spawn(sh("echo up; exec sleep 1000"), events)
    await events.until_line("up")
    assert await host.kill_leftovers() == []
    assert events.story == []
    process.kill()
    await events.until_gone()


async def test_a_state_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(StateFolderError, match="fix its rights"):
        LinuxProcessHost(tmp_path, tmp_path, log_max_bytes=1000, log_keep=1)


async def test_a_record_that_cannot_be_written_stops_nobody(host: LinuxProcessHost, tmp_path: Path) -> None:
    (tmp_path / "state" / "run" / "children.json.new").mkdir()
    await run_once(host)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_free_ports_are_free_and_differ(host: LinuxProcessHost, address: str) -> None:
    ports = [host.free_port(address) for _ in range(20)]
    assert len(set(ports)) == 20
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for port in ports:
        with socket.socket(family) as listener:
            listener.bind((address, port))


async def test_a_port_given_out_is_not_given_out_again_soon(host: LinuxProcessHost) -> None:
    class Everything:
        """As if the kernel offered the same port twice."""

        asked = 0

        def __contains__(self, port: int) -> bool:
            self.asked += 1
            return self.asked < 3

        def append(self, port: int) -> None: ...

    recent = Everything()
    host._recent_ports = recent  # type: ignore[assignment]
    host.free_port("127.0.0.1")
    assert recent.asked == 3


async def test_no_port_on_an_address_of_another_machine(host: LinuxProcessHost) -> None:
    with pytest.raises(SpawnError, match=r"no free TCP port on 192\.0\.2\.1: "):
        host.free_port("192.0.2.1")


async def test_finding_programs_and_files(
    host: LinuxProcessHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "some-server"
    tool.write_text("#!/bin/sh\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert host.find_program("some-server") is None
    tool.chmod(0o755)
    assert host.find_program("some-server") == str(tool)
    assert host.find_program(str(tool)) == str(tool)
    assert host.find_program("another") is None
    assert await host.file_problem(str(tool)) is None
    assert await host.file_problem(str(tmp_path)) is None
    missing = tmp_path / "model.gguf"
    assert await host.file_problem(str(missing)) == f"{missing}: No such file or directory"
    assert await host.file_problem("/proc/1/mem/x") == "/proc/1/mem/x: Not a directory"
