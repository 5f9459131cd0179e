"""Any other server of HTTP, by its command line."""

import sys
from pathlib import Path

import aiohttp
import pytest

from tests.fakes.clients import Ask, ask, crowd, failed
from tests.fakes.daemon import Daemon, Json, quick, running
from tests.fakes.fleet import GIB, cards, fleet
from tests.fakes.stub import ROOT

pytestmark = pytest.mark.e2e

SERVER = [sys.executable, "-m", "tests.fakes.backend", "--host", "${host}", "--port", "${port}"]


def command(*arguments: str, **settings: object) -> Json:
    known = {"runtime": "command", "command": [*SERVER, *arguments], "env": {"PYTHONPATH": str(ROOT)}}
    return {**known, **quick(dict(settings))}


def daemon_of(folder: Path, backend: Json) -> Daemon:
    return Daemon(folder, {"backends": {"any": backend}})


async def test_a_server_of_any_kind_is_started_served_and_stopped(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    """Its port, model and slots are told to it; what it was told to run is run before SIGTERM."""
    told = tmp_path / "stopped-by"
    stop = ["/bin/sh", "-c", f"echo ${{port}} > {told}"]
    backend = command("-m", "${model}", "-np", "${slots}", model="a-model", slots=3, stop=stop)
    async with running(daemon_of(tmp_path, backend)) as daemon:
        ready = await daemon.until_phase("ready", "any")
        assert ready["runtime"] == "command"
        assert failed(await crowd(http, daemon, [[Ask("any")]] * 5)) == []
        port = ready["port"]
        async with http.get(f"http://127.0.0.1:{port}/slots") as answer:
            assert len(await answer.json()) == 3
        await daemon.control("POST", "/v1/backends/any/stop", {"wait_s": 10})
        assert (await daemon.backend("any"))["phase"] == "stopped"
    assert told.read_text().split() == [str(port)]


async def test_it_is_ready_when_its_own_path_says_so(tmp_path: Path) -> None:
    """A status of its own: the stub knows no such path, and that is the sign here."""
    health = {"path": "/nothing-here", "status": 404}
    async with running(daemon_of(tmp_path, command("--load-seconds", "0.5", health=health))) as daemon:
        await daemon.until_phase("ready", "any")


async def test_it_is_not_ready_before(tmp_path: Path) -> None:
    async with running(daemon_of(tmp_path, command(health={"path": "/nothing-here"}))) as daemon:
        await daemon.until_phase("loading", "any")

        async def has_seen_the_answer() -> bool:
            return "404" in (await daemon.backend("any"))["note"]

        await daemon.until(has_seen_the_answer, "what it answers to be told")
        assert (await daemon.backend("any"))["phase"] == "loading"


async def test_its_own_words_tell_the_cause(tmp_path: Path) -> None:
    """What no runtime knows: the words of this server for a card that is full."""
    script = 'echo "tensor arena exhausted (will retry)" >&2; echo "Tensor arena EXHAUSTED" >&2; exit 3'
    backend = command(
        signatures=[{"kind": "gpu_oom", "words": "tensor arena exhausted", "unless": "will retry"}],
        restart={"max_failures": 1},
    )
    backend["command"] = ["/bin/sh", "-c", script, "${port}"]
    async with running(daemon_of(tmp_path, backend)) as daemon:
        parked = await daemon.until_phase("parked", "any")
        exits = await daemon.events("backend.exit")
    assert exits[0]["data"]["cause"] == "gpu_oom"
    assert "Tensor arena EXHAUSTED" in parked["last_reason"] + exits[0]["message"] + str(exits[0]["data"])


async def test_words_that_are_excepted_prove_nothing(tmp_path: Path) -> None:
    backend = command(signatures=[{"kind": "gpu_oom", "words": "arena exhausted", "unless": "will retry"}])
    backend["command"] = ["/bin/sh", "-c", 'echo "arena exhausted (will retry)" >&2; exit 3', "${port}"]
    async with running(daemon_of(tmp_path, backend | {"restart": {"max_failures": 1}})) as daemon:
        await daemon.until_phase("parked", "any")
        assert (await daemon.events("backend.exit"))[0]["data"]["cause"] != "gpu_oom"


async def test_a_program_that_is_missing_parks_at_once(tmp_path: Path) -> None:
    backend = command()
    backend["command"] = ["/nowhere/server", "${port}"]
    async with running(daemon_of(tmp_path, backend)) as daemon:
        parked = await daemon.until_phase("parked", "any")
        assert "/nowhere/server" in parked["note"]


async def test_it_shares_the_card_with_the_others(
    tmp_path: Path, pytestconfig: pytest.Config, http: aiohttp.ClientSession
) -> None:
    """Placement knows no kinds: what it takes was said, and is measured."""
    driver = cards(pytestconfig, tmp_path)
    need = {"memory": {"vram": "14GiB"}, "autostart": False}
    backends = {name: command("--vram", "14GiB", **need) for name in ("a", "b")}
    async with fleet(tmp_path, driver, backends) as daemon:
        assert failed(await crowd(http, daemon, [[Ask("a"), Ask("b"), Ask("a")]])) == []
    assert driver.claims.refused() == []
    assert driver.claims.peak(0) == 14 * GIB


async def test_its_whole_tree_is_ended(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    async with running(daemon_of(tmp_path, command("--fork-worker"))) as daemon:
        await daemon.until_phase("ready", "any")
        assert (await ask(http, daemon, "any")).status == 200
