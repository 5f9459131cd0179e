"""Starts, ends and restarts of backends and of the daemon itself."""

import asyncio
import signal
import socket
import sys
from pathlib import Path

import aiohttp
import psutil

from tests.e2e.conftest import Start
from tests.fakes.daemon import Daemon, alive, running, stubbed
from tests.fakes.stub import stub_backend

CHAT = "/v1/chat/completions"
HELLO = {"model": "stub", "messages": [{"role": "user", "content": "hello"}]}


async def test_row_3_daemon_killed_under_load(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    """Its tree is gone within 5 s; on restart every accepted job has ended exactly once."""
    flags = ("--tokens", "200", "--token-rate", "20", "--fork-worker")
    daemon = Daemon(tmp_path, {"backends": {"stub": stubbed(tmp_path, *flags)}})
    await daemon.start()
    await daemon.until_phase("ready")

    async def ask() -> None:
        try:
            async with http.post(daemon.url + CHAT, json=HELLO | {"stream": True}) as answer:
                await answer.read()
        except aiohttp.ClientError:
            return

    async with asyncio.TaskGroup() as group:
        for _ in range(6):
            group.create_task(ask())
        await daemon.until(lambda: _queue_is(daemon, 5), "one job to run and five to wait")
        assert len(await daemon.jobs()) == 6
        left = await daemon.kill()
        assert len(left) >= 3, "a guardian, a leader and its worker"
        async with asyncio.timeout(5):
            while alive(left):  # noqa: ASYNC110 - foreign processes have no event of ours
                await asyncio.sleep(0.05)

    async with running(daemon):
        jobs = await daemon.jobs()
        assert [(j["status"], j["reason"]) for j in jobs] == [("abandoned", "daemon_died")] * 6
        await daemon.until_phase("ready")
        async with http.post(daemon.url + CHAT, json=HELLO | {"max_tokens": 1}) as answer:
            assert answer.status == 200


async def _queue_is(daemon: Daemon, depth: int) -> bool:
    queue = (await daemon.status())["queue"]
    return (queue["depth"], queue["in_flight"]) == (depth, 1)


async def test_sigterm_drains(start: Start, http: aiohttp.ClientSession) -> None:
    """What is in flight is finished, what is new is refused, nothing is left, and the status is 0."""
    async with start("--tokens", "20", "--token-rate", "20") as daemon:
        await daemon.until_phase("ready")
        async with http.post(daemon.url + CHAT, json=HELLO | {"stream": True}) as answer:
            await answer.content.readany()
            tree = daemon.descendants()
            assert daemon.process is not None
            daemon.process.send_signal(signal.SIGTERM)
            await daemon.until(lambda: _is_draining(daemon), "the daemon to drain")
            async with http.post(daemon.url + CHAT, json=HELLO) as refused:
                assert refused.status == 503
                assert (await refused.json())["error"]["code"] == "draining"
                assert "retry-after" in refused.headers
            assert b"[DONE]" in await answer.read(), "the running stream came to its end"
        assert await daemon.ended() == 0
        assert not alive(tree)


async def test_a_drain_has_its_limit_and_a_second_signal_ends_it(start: Start, http: aiohttp.ClientSession) -> None:
    """What is not finished by then is ended with a reason that its client can read."""
    flags = ("--tokens", "1000", "--token-rate", "10")
    async with start(*flags, top={"shutdown": {"drain": "60s"}}, timeouts={"drain": "60s"}) as daemon:
        await daemon.until_phase("ready")
        async with http.post(daemon.url + CHAT, json=HELLO | {"stream": True}) as answer:
            await answer.content.readany()
            assert daemon.process is not None
            daemon.process.send_signal(signal.SIGTERM)
            await daemon.until(lambda: _is_draining(daemon), "the daemon to drain")
            started = await daemon.control("POST", "/v1/backends/stub/restart")
            assert started["error"]["code"] == "draining"
            daemon.process.send_signal(signal.SIGTERM)
            rest = await answer.read()
        assert b'"code":"draining"' in rest
        assert b"[DONE]" not in rest
        assert await daemon.ended(within=8) == 0


async def test_a_log_that_cannot_be_written_stops_nobody(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    """stderr on a full disk."""
    daemon = Daemon(tmp_path, {"backends": {"stub": stubbed(tmp_path)}})
    daemon.output = Path("/dev/full")
    async with running(daemon):
        await daemon.until_phase("ready")
        async with http.post(daemon.url + CHAT, json=HELLO) as answer:
            assert answer.status == 200


async def test_the_last_words_of_a_dead_generation_are_kept(start: Start) -> None:
    async with start("--load-exit-oom", ladder=[]) as daemon:
        await daemon.until_phase("parked")
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(daemon.socket))) as session,
            session.get("http://control/v1/backends/stub/logs") as answer,
        ):
            assert "out of memory" in await answer.text()


async def _is_draining(daemon: Daemon) -> bool:
    return (await daemon.status())["state"] == "draining"


async def test_row_14_a_foreign_process_on_the_port_is_never_ready(start: Start) -> None:
    """A stranger that answers /health with 200 on our port: the backend is not started, and says who holds it."""
    async with stub_backend() as stranger, start(port=stranger.port) as daemon:
        backend = await daemon.until_phase("parked")
        assert str(stranger.port) in backend["note"]
        assert psutil.pid_exists(stranger.pid), "a process that is not ours is never killed"


async def test_row_14_a_foreign_answer_during_loading_is_not_readiness(start: Start, tmp_path: Path) -> None:
    """The port is free when our process starts, and a stranger listens there before it does."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    deaf = tmp_path / "never-listens"
    deaf.write_text("#!/bin/sh\nexec sleep 60\n")
    deaf.chmod(0o755)
    async with start(binary=str(deaf), port=port, timeouts={"load_stall": "60s"}) as daemon:
        await daemon.until_phase("loading")
        async with stub_backend("--port", str(port)):
            backend = await daemon.until(lambda: _noted(daemon, "not ours"), "the stranger to be noticed")
            assert backend["phase"] == "loading"


async def _noted(daemon: Daemon, words: str) -> dict[str, object] | None:
    backend = await daemon.backend()
    return backend if words in backend["note"] else None


async def test_row_16_one_that_dies_after_ready_is_parked(start: Start) -> None:
    """Not a loop: after the budget of failures it is parked, with the reason, and the budget was kept."""
    flags = ("--exit-after-ready", "0.1", "--exit-status", "3")
    async with start(*flags, restart={"max_failures": 3, "within": "1m"}) as daemon:
        backend = await daemon.until_phase("parked")
        assert backend["generation"] == 3
        assert "status 3" in backend["last_reason"]
        assert "3 failures" in backend["note"]
        reply = await daemon.control("POST", "/v1/backends/stub/reset", {"wait_s": 0})
        assert reply["backend"]["generation"] == 4


async def test_row_17_missing_binary_parks_at_once(start: Start, http: aiohttp.ClientSession) -> None:
    async with start(binary="/nowhere/llama-server") as daemon:
        backend = await daemon.until_phase("parked")
        assert "/nowhere/llama-server" in backend["note"]
        async with http.post(daemon.url + CHAT, json=HELLO) as answer:
            error = (await answer.json())["error"]
            assert (answer.status, error["code"]) == (503, "backend_parked")
            assert "/nowhere/llama-server" in error["message"]
            assert answer.headers["x-should-retry"] == "false"


async def test_row_17_missing_model_parks_at_once(start: Start) -> None:
    async with start(model="/nowhere/model.gguf") as daemon:
        assert "/nowhere/model.gguf" in (await daemon.until_phase("parked"))["note"]


async def test_row_18_a_slow_load_with_signs_of_life_is_waited_for(start: Start) -> None:
    """Loading takes several times the stall timer, and prints as it goes."""
    async with start("--load-seconds", "6", "--load-log-every", "0.3", timeouts={"load_stall": "2s"}) as daemon:
        backend = await daemon.until_phase("ready")
        assert backend["generation"] == 1


async def test_row_18_a_load_that_stands_still_is_killed(start: Start) -> None:
    async with start("--load-stall", timeouts={"load_stall": "2s"}, restart={"max_failures": 1}) as daemon:
        backend = await daemon.until_phase("parked")
        assert "no sign of loading" in backend["last_reason"]


async def test_gpu_oom_goes_one_rung_down(start: Start) -> None:
    """The same crash again is not an answer: the restart has a smaller context."""
    flags = ("--load-oom-above-ctx", "3072")
    async with start(*flags, context=4096, ladder=[{"context": 0.75}, {"context": 0.5}]) as daemon:
        backend = await daemon.until_phase("ready")
        assert (backend["rung"], backend["context_reduced"], backend["restarts"]) == (1, True, 1)
        assert "GPU out of memory" in backend["last_reason"]
        assert [e["data"]["context_tokens"] for e in await daemon.events("backend.rung")] == [3072]


async def test_a_context_that_was_not_configured_can_be_reduced_too(
    start: Start, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """The first start tells what the server takes by itself; an OOM while serving then has a rung to go to."""
    once = ("--once-file", str(tmp_path / "struck"))
    async with start("--abort-with-cuda-oom-on-request", "1", *once, ladder=[{"context": 0.5}]) as daemon:
        backend = await daemon.until_phase("ready")
        assert (backend["context_tokens"], backend["rungs"]) == (4096, 1)
        async with http.post(daemon.url + CHAT, json=HELLO) as answer:
            assert answer.status == 200
        backend = await daemon.backend()
        assert (backend["rung"], backend["context_tokens"], backend["context_reduced"]) == (1, 2048, True)


async def test_no_rung_left_parks(start: Start) -> None:
    async with start("--load-exit-oom", ladder=[]) as daemon:
        assert "no smaller footprint" in (await daemon.until_phase("parked"))["note"]


async def test_exit_status_0_unasked_is_a_failure(start: Start) -> None:
    async with start("--exit-after-ready", "0.1", "--exit-status", "0", restart={"max_failures": 1}) as daemon:
        assert "status 0, unasked" in (await daemon.until_phase("parked"))["last_reason"]


async def test_a_backend_that_ignores_term_is_killed(start: Start) -> None:
    async with start("--ignore-term", timeouts={"term": "500ms"}) as daemon:
        await daemon.until_phase("ready")
        tree = daemon.descendants()
        reply = await daemon.control("POST", "/v1/backends/stub/stop", {"wait_s": 10})
        assert reply["backend"]["phase"] == "stopped"
        assert not alive(tree)


async def test_an_operators_stop_holds_until_an_operators_start(start: Start, http: aiohttp.ClientSession) -> None:
    async with start() as daemon:
        await daemon.until_phase("ready")
        await daemon.control("POST", "/v1/backends/stub/stop", {"wait_s": 10})
        async with http.post(daemon.url + CHAT, json=HELLO) as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (503, "backend_stopped")
        reply = await daemon.control("POST", "/v1/backends/stub/start", {"wait_s": 10})
        assert (reply["backend"]["phase"], reply["backend"]["generation"]) == ("ready", 2)


async def test_a_backend_on_demand_is_woken_by_a_request_and_left_by_ttl(
    start: Start, http: aiohttp.ClientSession
) -> None:
    async with start(autostart=False, ttl="1s") as daemon:
        assert (await daemon.backend())["phase"] == "stopped"
        async with http.get(daemon.url + "/readyz") as answer:
            assert answer.status == 200
        async with http.post(daemon.url + CHAT, json=HELLO) as answer:
            assert answer.status == 200
        backend = await daemon.until_phase("stopped")
        assert (backend["want"], backend["generation"]) == ("on_demand", 1)


async def test_two_daemons_never_share_a_state_folder(start: Start, tmp_path: Path) -> None:
    async with start() as daemon:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "supervisord", "--config", str(daemon.config),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        _, said = await process.communicate()
        assert process.returncode == 73
        assert str(daemon.pid) in said.decode()
        assert (await daemon.status())["state"] == "running"
