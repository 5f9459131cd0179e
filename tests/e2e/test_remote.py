"""Services that are not ours to start."""

import asyncio
import json
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import openai
import psutil
import pytest

from tests.fakes.clients import Ask, ask, crowd, failed
from tests.fakes.daemon import Daemon, Json, running, stubbed
from tests.fakes.remote import KEY, MODEL, Remote, certify, remote

pytestmark = pytest.mark.e2e


def backend(service: Remote, **settings: object) -> Json:
    return {
        "runtime": "remote",
        "url": service.url,
        "key": "${env:CLOUD_KEY}",
        "upstream_model": MODEL,
        "probe_interval": "200ms",
        "restart": {"backoff": {"base": "300ms", "cap": "500ms"}},
        **settings,
    }


def daemon_of(folder: Path, service: Remote, **settings: object) -> Daemon:
    return Daemon(folder, {"backends": {"cloud": backend(service, **settings)}})


async def test_it_is_asked_with_its_key_and_its_name_of_the_model(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    async with remote() as service, running(daemon_of(tmp_path, service), CLOUD_KEY=KEY) as daemon:
        await daemon.until_phase("ready", "cloud")
        plain = await ask(http, daemon, "cloud")
        assert json.loads(plain.body)["choices"][0]["message"]["content"] == "r0 r1 r2 r3 "
        streamed = await ask(http, daemon, "cloud", stream=True)
        assert streamed.body.rstrip().endswith("data: [DONE]")
        assert "usage" not in streamed.body, "the client did not ask for it"
        assert [body["model"] for body in service.requests] == [MODEL] * 2
        assert set(service.keys) == {f"Bearer {KEY}"}
        usage = [(job["attempts"][0]["tokens_in"], job["attempts"][0]["tokens_out"]) for job in await daemon.jobs()]
        assert usage == [(3, 4)] * 2, "known of the stream, too"
        assert (await daemon.backend("cloud"))["pid"] is None


async def test_a_sound_is_written_down_by_a_service_that_can(tmp_path: Path) -> None:
    async with remote() as service, running(daemon_of(tmp_path, service), CLOUD_KEY=KEY) as daemon:
        await daemon.until_phase("ready", "cloud")
        sound = bytes(range(256)) * 8000  # more than one read
        async with openai.AsyncOpenAI(base_url=daemon.url + "/v1", api_key="none", max_retries=0) as client:
            told = await client.audio.transcriptions.create(
                model="cloud", file=("a.wav", sound), language="en", timestamp_granularities=["word", "segment"]
            )
        assert told.text == "what was said"
        (request,) = service.requests
        assert (request["model"], request["language"], request["file"]) == (MODEL, "en", ("a.wav", sound))
        (job,) = await daemon.jobs()
        assert (job["endpoint"], job["status"]) == ("/v1/audio/transcriptions", "done")


async def test_what_clients_send_of_their_own_keys_stays_here(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    async with remote() as service, running(daemon_of(tmp_path, service), CLOUD_KEY=KEY) as daemon:
        await daemon.until_phase("ready", "cloud")
        headers = {"Authorization": "Bearer of-the-client", "Cookie": "secret=1", "X-Api-Key": "of-the-client"}
        body = {"model": "cloud", "messages": [{"role": "user", "content": "hello"}]}
        async with http.post(daemon.url + "/v1/chat/completions", json=body, headers=headers) as answer:
            assert answer.status == 200
        assert "of-the-client" not in str(service.headers)
        assert "Cookie" not in service.headers[-1]


async def test_its_key_is_shown_nowhere(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    async with remote() as service:
        daemon = daemon_of(tmp_path, service)
        async with running(daemon, CLOUD_KEY=KEY):
            await daemon.until_phase("ready", "cloud")
            await ask(http, daemon, "cloud")
            service.status = 401
            seen = await ask(http, daemon, "cloud")
            paths = ("/v1/status", "/v1/version", "/v1/events?limit=1000", "/v1/jobs?limit=100", "/v1/models")
            told = [json.dumps(await daemon.control("GET", path)) for path in paths]
            told += [seen.body, json.dumps(await daemon.reload())]
        assert KEY not in "".join(told)
    assert not any(KEY.encode() in content for content in written(tmp_path)), "neither in the log nor in the store"


def written(folder: Path) -> list[bytes]:
    return [file.read_bytes() for file in folder.rglob("*") if file.is_file()]


async def test_after_failures_in_a_row_it_is_left_alone_and_tried_by_one(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    async with remote() as service:
        daemon = daemon_of(tmp_path, service, breaker={"failures": 3})
        async with running(daemon, CLOUD_KEY=KEY):
            await daemon.until_phase("ready", "cloud")
            service.status = 500
            async with asyncio.TaskGroup() as group:
                asking = [group.create_task(ask(http, daemon, "cloud")) for _ in range(4)]
                await daemon.until(lambda: _left_alone(daemon), "the breaker to open")
                got = len(service.requests)
                assert got <= 4 + 3, "no storm of attempts"
                service.status, service.peak, service.slow_s = 0, 0, 0.2
                await asyncio.wait(asking)
            await daemon.until_phase("ready", "cloud")
            assert (await ask(http, daemon, "cloud")).status == 200
            first = service.requests[got:]
            assert first, "it was tried again"


async def _left_alone(daemon: Daemon) -> bool:
    """It stays ready for what is in flight there; that nothing more is sent is told, and the pause may be short."""
    return any(event["backend"] == "cloud" for event in await daemon.events("queue.paused"))


async def test_half_open_means_one_request(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    """After the pause ten wait: the first goes alone, and only when it succeeds the others follow."""
    async with (
        remote() as service,
        running(daemon_of(tmp_path, service, breaker={"failures": 1}), CLOUD_KEY=KEY) as daemon,
    ):
        await daemon.until_phase("ready", "cloud")
        service.status = 500
        assert (await ask(http, daemon, "cloud")).status != 200
        await daemon.until(lambda: _left_alone(daemon), "the breaker to open")
        service.status, service.slow_s = 0, 0.3
        service.peak = 0
        tried = len(service.requests)
        async with asyncio.TaskGroup() as group:
            asking = [group.create_task(ask(http, daemon, "cloud")) for _ in range(10)]

            async def is_tried() -> bool:
                return len(service.requests) > tried

            await daemon.until(is_tried, "the one that tries")
            await asyncio.sleep(0.1)
            assert len(service.requests) == tried + 1
        assert failed([one.result() for one in asking]) == []
        assert service.peak > 1


async def test_one_that_fails_fast_does_not_attract_the_traffic(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    """By requests in flight it always looks free."""
    async with remote() as service:
        local = stubbed(tmp_path, "--prefill-seconds", "0.05", slots=4)
        models = {"m": {"backends": ["cloud", "local"], "strategy": "least_busy"}}
        backends = {"cloud": backend(service), "local": local}
        async with running(Daemon(tmp_path, {"backends": backends, "models": models}), CLOUD_KEY=KEY) as daemon:
            await daemon.until_phase("ready", "cloud")
            await daemon.until_phase("ready", "local")
            service.status = 500
            seen = await crowd(http, daemon, [[Ask("m")] * 10] * 4)
            assert failed(seen) == [], "the other one made them good"
            assert len(service.requests) <= 12, "three to open, then one at a time"


async def test_an_address_that_is_down_comes_back(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    async with remote() as service, running(daemon_of(tmp_path, service), CLOUD_KEY=KEY) as daemon:
        await daemon.until_phase("ready", "cloud")
        await service.down()
        await daemon.until(lambda: _is_not_ready(daemon), "its absence to be noticed")
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(ask(http, daemon, "cloud"))
            await asyncio.sleep(0.3)
            await service.up()
        assert asking.result().status == 200


async def _is_not_ready(daemon: Daemon) -> bool:
    return bool((await daemon.backend("cloud"))["phase"] != "ready")


async def test_a_key_that_is_wrong_is_said(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    async with remote() as service, running(daemon_of(tmp_path, service), CLOUD_KEY="sk-wrong") as daemon:

        async def is_said() -> bool:
            told = await daemon.backend("cloud")
            return "401" in told["note"] + told["last_reason"] or "key" in told["note"] + told["last_reason"]

        await daemon.until(is_said, "the refusal to be told")


async def test_over_tls(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    certificate = certify(tmp_path)
    environment = {"CLOUD_KEY": KEY, "SSL_CERT_FILE": str(certificate)}
    async with remote(certificate) as service, running(daemon_of(tmp_path, service), **environment) as daemon:
        await daemon.until_phase("ready", "cloud")
        assert failed(await crowd(http, daemon, [[Ask("cloud"), Ask("cloud", more={"stream": True})]] * 3)) == []


async def test_a_certificate_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    async with remote(certify(tmp_path)) as service:
        environment: dict[str, Any] = {"CLOUD_KEY": KEY}
        async with running(daemon_of(tmp_path, service), **environment) as daemon:

            async def is_said() -> bool:
                told = await daemon.backend("cloud")
                return "certificate" in (told["note"] + told["last_reason"]).lower()

            await daemon.until(is_said, "the refusal to be told")
            assert service.keys == [], "no key goes to somebody unknown"


def test_the_certificate_is_one(tmp_path: Path) -> None:
    assert ssl.create_default_context(cafile=str(certify(tmp_path))).get_ca_certs()


async def test_no_local_server_inherits_the_key_of_a_service_elsewhere(tmp_path: Path) -> None:
    """It is in the daemon's own environment, from where the configuration takes it."""
    elsewhere = {"runtime": "remote", "url": "http://127.0.0.1:9/v1", "key": "${env:ELSEWHERE_KEY}"}
    backends = {"stub": stubbed(tmp_path), "elsewhere": elsewhere}
    environment = {"ELSEWHERE_KEY": "sk-very-secret", "HARMLESS": "yes"}
    async with running(Daemon(tmp_path, {"backends": backends}), **environment) as daemon:
        pid = (await daemon.until_phase("ready"))["pid"]
        inherited = psutil.Process(pid).environ()
        assert inherited["HARMLESS"] == "yes"
        assert "ELSEWHERE_KEY" not in inherited
        assert "sk-very-secret" not in inherited.values()


async def test_a_service_that_limits_its_rate_is_waited_for(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    """It is the only one: the queue holds the job for as long as the service asks for, and fails nothing."""
    async with remote() as service, running(daemon_of(tmp_path, service), CLOUD_KEY=KEY) as daemon:
        await daemon.until_phase("ready", "cloud")
        service.status = 429
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(ask(http, daemon, "cloud"))

            async def refused_twice() -> bool:
                return len(service.requests) >= 2

            await daemon.until(refused_twice, "it to be asked again")
            assert not asking.done()
            service.status = 0
        assert asking.result().status == 200
        attempts = (await daemon.jobs())[-1]["attempts"]
        assert {attempt["reason"] for attempt in attempts[:-1]} == {"backend_busy"}
        assert attempts[-1]["status"] == "done"
