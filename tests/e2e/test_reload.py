"""A changed configuration, while everything runs."""

import asyncio
import copy
import signal
from pathlib import Path

import aiohttp
import pytest

from tests.fakes.clients import ask
from tests.fakes.daemon import Daemon, Json, alive, running, stubbed

pytestmark = pytest.mark.e2e

SLOW = ("--tokens", "30", "--token-rate", "20")  # 1.5 s


def daemon_of(folder: Path, *names: str, **settings: object) -> Daemon:
    return Daemon(folder, {"backends": {name: stubbed(folder, *SLOW, **settings) for name in names}})


def changed(daemon: Daemon, name: str, **settings: object) -> Json:
    """The backends, one of them with other settings."""
    backends: Json = copy.deepcopy(daemon.configuration["backends"])
    backends[name] |= settings
    return backends


async def test_what_did_not_change_keeps_its_process_and_its_requests(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    async with running(daemon_of(tmp_path, "same", "other")) as daemon, asyncio.TaskGroup() as group:
        same, other = await daemon.until_phase("ready", "same"), await daemon.until_phase("ready", "other")
        at_work = [group.create_task(ask(http, daemon, name, stream=True)) for name in ("same", "other")]
        await daemon.until(lambda: _at_work(daemon, 2), "both to be at work")
        report = await daemon.reload(backends=changed(daemon, "other", context=2048))
        assert (report["changed"], report["unchanged"]) == (["other"], ["same"])
        for one in at_work:
            seen = await one
            assert (seen.status, "data: [DONE]" in seen.body) == (200, True), "what ran was finished"
        await daemon.until(lambda: _is_another(daemon, "other", other["pid"]), "the changed one to be a new one")
        await daemon.until_phase("ready", "other")
        assert (await daemon.backend("same"))["pid"] == same["pid"]
        assert (await daemon.backend("other"))["context_tokens"] == 2048
        assert {(await ask(http, daemon, name, max_tokens=1)).status for name in ("same", "other")} == {200}


async def _at_work(daemon: Daemon, count: int) -> bool:
    return bool((await daemon.status())["queue"]["in_flight"] == count)


async def _is_another(daemon: Daemon, name: str, pid: int) -> bool:
    return (await daemon.backend(name))["pid"] not in {None, pid}


async def test_a_setting_that_needs_no_restart_causes_none(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    async with running(daemon_of(tmp_path, "one")) as daemon:
        pid = (await daemon.until_phase("ready", "one"))["pid"]
        await daemon.reload(backends=changed(daemon, "one", priority=5, aliases=["nick"], max_wait="7s"))
        assert (await ask(http, daemon, "nick", max_tokens=1)).status == 200
        assert (await daemon.backend("one"))["pid"] == pid


async def test_one_comes_and_one_goes(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    async with running(daemon_of(tmp_path, "stays", "goes")) as daemon, asyncio.TaskGroup() as group:
        stays = await daemon.until_phase("ready", "stays")
        await daemon.until_phase("ready", "goes")
        last = group.create_task(ask(http, daemon, "goes", stream=True))
        await daemon.until(lambda: _at_work(daemon, 1), "its last request")
        backends = copy.deepcopy(daemon.configuration["backends"])
        del backends["goes"]
        backends["comes"] = stubbed(tmp_path)
        report = await daemon.reload(backends=backends)
        assert (report["added"], report["removed"], report["unchanged"]) == (["comes"], ["goes"], ["stays"])
        assert "data: [DONE]" in (await last).body, "what it was doing was finished"
        await daemon.until_phase("ready", "comes")
        assert (await ask(http, daemon, "comes")).status == 200
        assert (await ask(http, daemon, "goes")).status == 404

        async def is_gone() -> bool:
            return [b["name"] for b in (await daemon.status())["backends"]] == ["stays", "comes"]

        await daemon.until(is_gone, "the removed one to leave the status")
        assert (await daemon.backend("stays"))["pid"] == stays["pid"]


async def test_jobs_that_wait_for_one_that_goes_are_told(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    async with running(daemon_of(tmp_path, "stays", "goes")) as daemon, asyncio.TaskGroup() as group:
        await daemon.until_phase("ready", "goes")
        running_one = group.create_task(ask(http, daemon, "goes"))
        await daemon.until(lambda: _at_work(daemon, 1), "one at work")
        waiting = group.create_task(ask(http, daemon, "goes"))

        async def one_waits() -> bool:
            return bool((await daemon.status())["queue"]["depth"] == 1)

        await daemon.until(one_waits, "one to wait")
        backends = copy.deepcopy(daemon.configuration["backends"])
        del backends["goes"]
        await daemon.reload(backends=backends)
        assert (await running_one).status == 200
        assert (await waiting).status in {404, 503}, "not left waiting for ever"


async def test_a_model_can_be_added_alone(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    async with running(daemon_of(tmp_path, "one")) as daemon:
        pid = (await daemon.until_phase("ready", "one"))["pid"]
        assert (await ask(http, daemon, "new-name", max_tokens=1)).status == 404
        await daemon.reload(models={"new-name": {"backends": ["one"]}})
        assert (await ask(http, daemon, "new-name", max_tokens=1)).status == 200
        assert (await daemon.backend("one"))["pid"] == pid


async def test_row_29_a_broken_file_changes_nothing_and_says_why(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    async with running(daemon_of(tmp_path, "one")) as daemon:
        pid = (await daemon.until_phase("ready", "one"))["pid"]
        good = daemon.config.read_text()
        daemon.config.write_text(good.replace("llama.cpp", "lama.cpp").replace("probe_interval", "prob_interval"))
        refused = await daemon.control("POST", "/v1/reload", {})
        assert "lama.cpp" in refused["error"]["message"]
        assert "prob_interval" in refused["error"]["message"], "all that is wrong at once"
        daemon.config.write_text("backends: [")
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGHUP)

        async def is_told() -> bool:
            return len(await daemon.events("config.reload")) >= 2

        await daemon.until(is_told, "the refusal to be an event")
        assert (await ask(http, daemon, "one", max_tokens=1)).status == 200
        assert (await daemon.backend("one"))["pid"] == pid
        daemon.config.write_text(good)
        assert (await daemon.control("POST", "/v1/reload", {}))["unchanged"] == ["one"]


async def test_row_29_sigterm_wins_over_a_reload(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    """A reload waits for a long request to be finished; then the daemon is told to go, and goes."""
    async with running(daemon_of(tmp_path, "one", timeouts={"drain": "20s"})) as daemon, asyncio.TaskGroup() as group:
        await daemon.until_phase("ready", "one")
        tree = daemon.descendants()
        at_work = group.create_task(ask(http, daemon, "one", stream=True))
        await daemon.until(lambda: _at_work(daemon, 1), "one at work")
        daemon.write(backends=changed(daemon, "one", context=2048))
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGHUP)
        daemon.process.send_signal(signal.SIGTERM)
        assert "data: [DONE]" in (await at_work).body
        assert await daemon.ended(within=10) == 0
        assert not alive(tree)
        assert "Traceback" not in daemon.log()


async def test_a_watched_file_is_read_when_it_changes(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    daemon = daemon_of(tmp_path, "one")
    daemon.arguments = ("--watch",)
    async with running(daemon):
        await daemon.until_phase("ready", "one")
        daemon.write(backends=changed(daemon, "one", aliases=["nick"]))

        async def is_known() -> bool:
            return (await ask(http, daemon, "nick", max_tokens=1)).status == 200

        await daemon.until(is_known, "the new name to be served")


async def test_what_needs_a_restart_is_named(tmp_path: Path) -> None:
    async with running(daemon_of(tmp_path, "one")) as daemon:
        await daemon.until_phase("ready", "one")
        report = await daemon.reload(log={"level": "debug"}, limits={"body": "1MiB"})
        assert {"log.level", "limits.body"} <= set(report["kept"])


async def test_a_parked_one_whose_settings_were_mended_starts_at_once(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    async with running(daemon_of(tmp_path, "one", context=512)) as daemon:
        await daemon.reload(backends=changed(daemon, "one", model="/nowhere/model.gguf"))
        await daemon.until_phase("parked", "one")
        await daemon.reload(backends=changed(daemon, "one", model=str(tmp_path / "stub.gguf")))
        await daemon.until_phase("ready", "one")
        assert (await ask(http, daemon, "one", max_tokens=1)).status == 200
