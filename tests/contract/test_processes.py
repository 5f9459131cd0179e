"""What a ProcessHost promises of the processes it started: the real one, and the one that stands in for it in tests."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from supervisord.adapters.process.host import LinuxProcessHost
from supervisord.core.errors import SpawnError
from supervisord.ports import ManagedProcess, ProcessEvents, ProcessSpec
from tests.adapters.process.recorder import Recorder, sh
from tests.fakes.clock import fake_time
from tests.fakes.engine import Machine, Process, Processes

READY = "echo ready; "
SCRIPTS = {
    "obedient": READY + "exec sleep 1000",
    "stubborn": "trap '' TERM; " + READY + "while :; do sleep 0.05; done",
    "ends": READY + "echo last words; exit 3",
    "leaves a worker": "(trap '' TERM; exec sleep 1000) & " + READY + "exit 0",
}


@dataclass(frozen=True, slots=True)
class Host:
    """One of the two, and how to have a kind of program run under it."""

    start: Callable[[str, ProcessEvents], "asyncio.Future[ManagedProcess]"]
    missing: ProcessSpec
    spawn: Callable[[ProcessSpec, ProcessEvents], "asyncio.Future[ManagedProcess]"]


def in_memory(kind: str, process: Process) -> None:
    process.says("ready")
    match kind:
        case "stubborn":
            process.obeys = False
        case "ends":
            process.says("last words")
            process.ends(3)
        case "leaves a worker":
            process.workers = (process.pid + 1000,)
            process.ends(0)
        case _:
            pass


@pytest.fixture(params=["linux", "memory"])
async def host(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Host]:
    if request.param == "linux":
        real = LinuxProcessHost(tmp_path / "state", tmp_path / "log", log_max_bytes=1 << 20, log_keep=1)
        missing = ProcessSpec("b", 1, ("/no/such/program",), {})
        yield Host(lambda kind, events: real.spawn(sh(SCRIPTS[kind]), events), missing, real.spawn)  # type: ignore[arg-type, return-value]
        await real.close()
        return
    with fake_time() as clock:
        machine = Machine(clock, cards=0)
    processes = Processes(machine)
    processes.missing = {"/no/such/program"}

    async def start(kind: str, events: ProcessEvents) -> ManagedProcess:
        processes.on_start = lambda process: in_memory(kind, process)
        return await processes.spawn(sh(kind), events)

    yield Host(start, ProcessSpec("b", 1, ("/no/such/program",), {}), processes.spawn)  # type: ignore[arg-type]
    await processes.close()


async def test_one_that_obeys_ends_by_the_signal_and_its_tree_with_it(host: Host) -> None:
    heard = Recorder()
    process = await host.start("obedient", heard)
    assert process.pid > 0
    await heard.until_line("^ready$")
    assert (await process.usage()).pids
    process.terminate()
    assert heard.story == [], "nothing is told within the call"
    await heard.until_gone()
    assert (heard.story, heard.status) == (["exited", "gone"], -15)
    assert (await process.usage()).pids == ()
    assert not await process.owns_port(1)


async def test_one_that_does_not_obey_ends_by_force(host: Host) -> None:
    heard = Recorder()
    process = await host.start("stubborn", heard)
    await heard.until_line("^ready$")
    process.terminate()
    assert (await process.usage()).pids
    assert heard.story == []
    process.kill()
    await heard.until_gone()
    assert (heard.story, heard.status) == (["exited", "gone"], -9)


async def test_one_that_ends_by_itself_tells_its_status_and_leaves_its_last_words(host: Host) -> None:
    heard = Recorder()
    process = await host.start("ends", heard)
    await heard.until_gone()
    assert (heard.story, heard.status) == (["exited", "gone"], 3)
    assert list(process.tail(1)) == ["last words"]
    assert process.log_state().lines >= 2


async def test_workers_outlive_their_leader_until_they_are_killed(host: Host) -> None:
    heard = Recorder()
    process = await host.start("leaves a worker", heard)
    assert await heard.until_exited() == 0
    assert heard.story == ["exited"]
    assert (await process.usage()).pids
    process.kill()
    await heard.until_gone()
    assert heard.story == ["exited", "gone"]


async def test_signals_to_what_is_gone_do_nothing(host: Host) -> None:
    heard = Recorder()
    process = await host.start("ends", heard)
    await heard.until_gone()
    process.terminate()
    process.kill()
    await asyncio.sleep(0)
    assert heard.story == ["exited", "gone"]


async def test_a_program_that_does_not_exist_is_an_error_for_good(host: Host) -> None:
    with pytest.raises(SpawnError, match="/no/such/program") as told:
        await host.spawn(host.missing, Recorder())
    assert told.value.permanent
