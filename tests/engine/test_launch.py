"""What a start needs is told before anything is started; where a backend computes, and with how many threads."""

from dataclasses import replace

import pytest

from supervisord.core.errors import SpawnError
from supervisord.core.ladder import Footprint
from supervisord.engine.launch import OMP_THREADS, Launcher, processors_of
from supervisord.ports import Processors
from supervisord.runtimes.base import BackendSpec
from supervisord.runtimes.registry import RUNTIMES
from tests.engine.rig import command, llama
from tests.fakes.clock import fake_time
from tests.fakes.engine import Machine, Processes

# Two sockets of two cores with two threads each, numbered as Linux does.
TWO_SOCKETS = Processors(((0, 4), (1, 5), (2, 6), (3, 7)), {0: (0, 1, 4, 5), 1: (2, 3, 6, 7)})


@pytest.fixture
async def processes() -> Processes:
    with fake_time() as clock:
        return Processes(Machine(clock, cards=0))


def launcher(spec: BackendSpec, processes: Processes, headroom: int = 0) -> Launcher:
    return Launcher(spec, RUNTIMES[spec.runtime], processes, lambda: headroom)


# --- processors ------------------------------------------------------------------------------------------------------


def test_one_that_may_use_all_processors_computes_with_one_thread_a_core() -> None:
    placed = processors_of(llama("a"), TWO_SOCKETS)
    assert (placed.cpus, placed.threads, placed.env) == ((), None, {OMP_THREADS: "4"}), "its own default of threads"


def test_the_processors_of_a_numa_node() -> None:
    placed = processors_of(llama("a", numa_node=1), TWO_SOCKETS)
    assert (placed.cpus, placed.threads, placed.env) == ((2, 3, 6, 7), 2, {OMP_THREADS: "2"})


def test_configured_processors_count_more_than_those_of_the_node() -> None:
    placed = processors_of(llama("a", numa_node=1, cpus=(0, 4, 1)), TWO_SOCKETS)
    assert (placed.cpus, placed.threads) == ((0, 4, 1), 2), "0 and 4 are one core"


def test_configured_threads_are_what_is_configured() -> None:
    for spec in (llama("a", threads=7), llama("a", threads=7, cpus=(0, 1))):
        placed = processors_of(spec, TWO_SOCKETS)
        assert (placed.threads, placed.env) == (7, {OMP_THREADS: "7"})


def test_processors_that_no_core_is_known_of_are_good_for_one_thread() -> None:
    assert processors_of(llama("a", cpus=(9,)), TWO_SOCKETS).threads == 1


def test_a_machine_that_tells_no_cores_gets_no_number_of_threads() -> None:
    placed = processors_of(llama("a"), Processors((), {}))
    assert (placed.threads, placed.env) == (None, {})


def test_a_node_that_is_not_there_is_an_error_for_good_that_names_those_that_are() -> None:
    with pytest.raises(SpawnError, match=r"no NUMA node 2; it has: 0, 1\. Correct backends\.a\.numa_node") as told:
        processors_of(llama("a", numa_node=2), TWO_SOCKETS)
    assert told.value.permanent
    with pytest.raises(SpawnError, match="it has: none"):
        processors_of(llama("a", numa_node=0), Processors((), {}))


# --- prepared --------------------------------------------------------------------------------------------------------


async def test_a_start_has_all_that_is_configured(processes: Processes) -> None:
    processes.machine_processors = TWO_SOCKETS
    spec = llama("a", numa_node=1, nice=5, oom_score_adj=300, cwd="/models", env={"X": "1", OMP_THREADS: "9"})
    prepared = await launcher(spec, processes).prepare(3, Footprint(context=1024))
    made = prepared.spec
    assert (made.name, made.generation, made.nice, made.oom_score_adj, made.cwd) == ("a", 3, 5, 300, "/models")
    assert (made.cpus, made.memory_node) == ((2, 3, 6, 7), 1)
    assert (made.env["X"], made.env[OMP_THREADS]) == ("1", "9"), "what a person wrote wins"
    assert made.argv[0] == "/usr/bin/llama-server"
    assert made.argv[made.argv.index("--threads") + 1] == "2"
    assert prepared.address.port == int(made.argv[made.argv.index("--port") + 1])
    assert prepared.stop == ()


async def test_a_command_gets_its_port_and_its_stop_command(processes: Processes) -> None:
    spec = command("a", "serve", "--port", "${port}", stop=("docker", "stop", "llm-${port}"), port=7777)
    prepared = await launcher(spec, processes).prepare(1, Footprint())
    assert prepared.spec.argv == ("serve", "--port", "7777")
    assert prepared.stop == ("docker", "stop", "llm-7777")
    assert processes.helped == []


async def test_a_programs_help_is_asked_once(processes: Processes) -> None:
    processes.help = "--port N   port\n --no-webui  x --not--a-flag"
    ready = launcher(llama("a"), processes)
    for _ in range(3):
        await ready.prepare(1, Footprint())
    assert processes.helped == [("/usr/bin/llama-server",)]


async def test_whatever_is_missing_is_told_for_good_with_what_to_correct(processes: Processes) -> None:
    processes.missing = {"llama-server", "my-server", "/models/a.gguf"}
    processes.busy_ports = {9000}
    for spec, words in (
        (llama("a", model="/models/b.gguf"), "llama-server is not installed"),
        (llama("a", binary="my-server"), r'"my-server" does not exist or cannot be run\. Correct backends\.a\.binary'),
        (llama("a", binary="other"), r"/models/a\.gguf: No such file or directory\. Correct backends\.a\.model"),
    ):
        for step in (launcher(spec, processes).check(), launcher(spec, processes).prepare(1, Footprint())):
            with pytest.raises(SpawnError, match=words) as told:
                await step
            assert told.value.permanent
    with pytest.raises(SpawnError, match=r"Free it, or change backends\.a\.port"):
        await launcher(llama("a", model="x", binary="other", port=9000), processes).prepare(1, Footprint())


async def test_what_only_its_server_can_know_is_not_looked_for(processes: Processes) -> None:
    processes.missing = {"org/model", "embedded"}
    for model in ("org/model", "embedded"):
        await launcher(llama("a", model=model), processes).check()
    await launcher(replace(command("a"), model="org/model"), processes).check()


async def test_what_stays_free_on_a_gpu_is_known_at_each_start(processes: Processes) -> None:
    processes.help = "--fit-target MIB"
    spec = llama("a")
    free = 0

    def headroom() -> int:
        return free

    ready = Launcher(spec, RUNTIMES[spec.runtime], processes, headroom)
    free = 3 * 2**30
    argv = (await ready.prepare(1, Footprint())).spec.argv
    assert "3072" in argv
