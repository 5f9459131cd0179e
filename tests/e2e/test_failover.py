"""Several backends behind one name."""

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import openai
import psutil
import pytest

from tests.fakes.clients import CHAT, Ask, ask, crowd, failed
from tests.fakes.daemon import Daemon, Json, running, stubbed
from tests.fakes.remote import KEY, MODEL, Remote, remote
from tests.fakes.stub import read_log

pytestmark = pytest.mark.e2e

PACE = ("--prefill-seconds", "0.05")


def two(folder: Path, *flags: str, **settings: object) -> dict[str, Json]:
    """Backends a and b, each with a log of its requests."""
    return {
        name: stubbed(folder, "--request-log", str(folder / f"{name}.jsonl"), *flags, **settings) for name in ("a", "b")
    }


def served(folder: Path) -> Counter[str]:
    """How many requests each of them finished."""
    return Counter({name: sum(r["outcome"] == "done" for r in read_log(folder / f"{name}.jsonl")) for name in "ab"})


def daemon_of(folder: Path, backends: dict[str, Any], route: dict[str, Any] | None = None, **top: object) -> Daemon:
    """All of the backends behind the model `m`, unless the route says otherwise."""
    route = {"backends": list(backends)} | (route or {})
    return Daemon(folder, {"backends": backends, "models": {"m": route}, **top})


def cloud(service: Remote, **settings: object) -> Json:
    return {
        "runtime": "remote",
        "url": service.url,
        "key": "${env:CLOUD_KEY}",
        "upstream_model": MODEL,
        "probe_interval": "200ms",
        **settings,
    }


async def all_ready(daemon: Daemon, *names: str) -> None:
    for name in names:
        await daemon.until_phase("ready", name)


@pytest.mark.parametrize("victim", ["a", "b"])
async def test_either_can_be_killed_under_load_and_no_request_is_lost(tmp_path: Path, victim: str) -> None:
    async with running(daemon_of(tmp_path, two(tmp_path, *PACE, slots=2))) as daemon:
        await all_ready(daemon, "a", "b")
        async with openai.AsyncOpenAI(base_url=daemon.url + "/v1", api_key="none", max_retries=0) as client:

            async def asks() -> int:
                for _ in range(6):
                    answer = await client.chat.completions.create(
                        model="m", messages=[{"role": "user", "content": "hello"}], max_tokens=4
                    )
                    assert answer.choices[0].message.content
                return 6

            async with asyncio.TaskGroup() as group:
                clients = [group.create_task(asks()) for _ in range(10)]
                await daemon.until(lambda: _busy(daemon, victim), "the victim to be at work")
                psutil.Process((await daemon.backend(victim))["pid"]).kill()
        assert sum(one.result() for one in clients) == 60
        jobs = await daemon.jobs()
        assert [job["status"] for job in jobs] == ["done"] * 60
        again = [job for job in jobs if len(job["attempts"]) > 1]
        assert again, "the ones that were running there"
        assert all(job["attempts"][0]["backend"] == victim for job in again)


async def _busy(daemon: Daemon, name: str) -> bool:
    return bool((await daemon.backend(name))["in_flight"])


async def test_priority_asks_the_first_as_long_as_it_works(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    route = {"strategy": "priority"}
    async with running(daemon_of(tmp_path, two(tmp_path, slots=4), route)) as daemon:
        await all_ready(daemon, "a", "b")
        assert failed(await crowd(http, daemon, [[Ask("m")] * 5] * 2)) == []
        assert served(tmp_path) == {"a": 10, "b": 0}
        await daemon.control("POST", "/v1/backends/a/stop", {"wait_s": 10})
        assert failed(await crowd(http, daemon, [[Ask("m")] * 5])) == []
        assert served(tmp_path) == {"a": 10, "b": 5}


async def test_least_busy_spreads_requests_over_free_slots(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    flags = ("--prefill-seconds", "0.2")
    async with running(daemon_of(tmp_path, two(tmp_path, *flags, slots=4))) as daemon:
        await all_ready(daemon, "a", "b")
        assert failed(await crowd(http, daemon, [[Ask("m")]] * 8)) == []
        assert served(tmp_path) == {"a": 4, "b": 4}


async def test_latency_prefers_the_quicker_one(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    backends = {
        "a": stubbed(tmp_path, "--request-log", str(tmp_path / "a.jsonl"), "--prefill-seconds", "0.3", slots=4),
        "b": stubbed(tmp_path, "--request-log", str(tmp_path / "b.jsonl"), slots=4),
    }
    async with running(daemon_of(tmp_path, backends, {"strategy": "latency"})) as daemon:
        await all_ready(daemon, "a", "b")
        assert failed(await crowd(http, daemon, [[Ask("m")] * 20])) == []
        assert served(tmp_path)["b"] >= 15


async def test_the_queue_holds_while_the_last_one_is_in_backoff(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    once = ("--die-before-first-byte", "1", "--once-file", str(tmp_path / "struck"))
    async with running(daemon_of(tmp_path, {"a": stubbed(tmp_path, *once)})) as daemon:
        await all_ready(daemon, "a")
        assert failed(await crowd(http, daemon, [[Ask("m")]] * 5)) == []
        assert (await daemon.backend("a"))["generation"] == 2


async def test_the_last_resort_is_asked_only_when_the_others_cannot(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    async with remote() as service:
        backends = {"a": stubbed(tmp_path), "cloud": cloud(service)}
        route = {"backends": ["a"], "last_resort": ["cloud"]}
        async with running(daemon_of(tmp_path, backends, route), CLOUD_KEY=KEY) as daemon:
            await all_ready(daemon, "a", "cloud")
            assert failed(await crowd(http, daemon, [[Ask("m")] * 3] * 3)) == []
            assert service.requests == [], "not while the card's own works, however busy"
            await daemon.control("POST", "/v1/backends/a/stop", {"wait_s": 10})
            assert (await ask(http, daemon, "m")).status == 200
            assert [body["model"] for body in service.requests] == [MODEL]
            job = (await daemon.jobs())[-1]
            assert job["model"] == "m", "what was asked for"
            attempt = job["attempts"][-1]
            assert (attempt["backend"], attempt["runtime"], attempt["model"]) == ("cloud", "remote", MODEL)


async def test_nobody_is_sent_to_the_cloud_without_being_told_so(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    """A remote backend that shares its name with a local one is no stand-in for it by itself."""
    async with remote() as service:
        backends = {"a": stubbed(tmp_path, aliases=["m"]), "cloud": cloud(service, aliases=["m"])}
        daemon = Daemon(tmp_path, {"backends": backends})
        async with running(daemon, CLOUD_KEY=KEY):
            await daemon.control("POST", "/v1/backends/a/stop", {"wait_s": 10})
            assert (await ask(http, daemon, "m")).status == 503
            assert service.requests == []
            assert (await ask(http, daemon, "cloud")).status == 200, "asked for by its own name"


async def test_parameters_of_a_model(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    async with remote() as service:
        route: dict[str, Any] = {
            "set": {"temperature": 0, "metadata": {"by": ["us"]}},
            "default": {"top_p": 0.9, "seed": 7},
            "strip": ["logit_bias"],
            "max_tokens": {"default": 64, "limit": 128},
        }
        daemon = daemon_of(tmp_path, {"cloud": cloud(service)}, route)
        async with running(daemon, CLOUD_KEY=KEY):
            await all_ready(daemon, "cloud")
            wishes = {"temperature": 1.5, "seed": 3, "logit_bias": {"5": 1}, "user": "zoë"}
            assert (await ask(http, daemon, "m", **wishes)).status == 200
            sent = service.requests[-1]
            assert {key: sent[key] for key in ("temperature", "metadata", "top_p", "seed", "user", "max_tokens")} == {
                "temperature": 0,
                "metadata": {"by": ["us"]},
                "top_p": 0.9,
                "seed": 3,
                "user": "zoë",
                "max_tokens": 64,
            }
            assert "logit_bias" not in sent
            assert (await ask(http, daemon, "m", max_tokens=100)).status == 200
            assert service.requests[-1]["max_tokens"] == 100
            refused = await ask(http, daemon, "m", max_tokens=129)
            assert refused.status == 400
            error = json.loads(refused.body)["error"]
            assert (error["code"], error["param"]) == ("max_tokens_above_limit", "max_tokens")
            assert len(service.requests) == 2, "what is refused is sent to nobody"


async def test_a_name_nobody_knows_goes_to_the_default(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    backends = two(tmp_path)
    daemon = Daemon(tmp_path, {"backends": backends, "routing": {"default": "b"}})
    async with running(daemon):
        await all_ready(daemon, "a", "b")
        assert (await ask(http, daemon, "gpt-5-of-somebody")).status == 200
        assert served(tmp_path) == {"a": 0, "b": 1}
        job = (await daemon.jobs())[-1]
        assert (job["model"], job["backend"]) == ("gpt-5-of-somebody", "b")


async def test_aliases_of_a_model_wait_in_one_line_and_are_all_listed(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    daemon = daemon_of(tmp_path, two(tmp_path), {"aliases": ["gpt-4o"]})
    async with running(daemon):
        await all_ready(daemon, "a", "b")
        assert failed(await crowd(http, daemon, [[Ask("gpt-4o"), Ask("m")]])) == []
        async with http.get(daemon.url + "/v1/models") as answer:
            listed = [one["id"] for one in (await answer.json())["data"]]
        assert {"m", "gpt-4o"} <= set(listed)


async def test_a_streaming_client_is_kept_company_while_the_model_loads(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    """Comments before the first event, which the official client skips. The first one comes after 5 s."""
    backend = stubbed(tmp_path, "--load-seconds", "6", autostart=False)
    async with (
        running(Daemon(tmp_path, {"backends": {"stub": backend}})) as daemon,
        openai.AsyncOpenAI(base_url=daemon.url + "/v1", api_key="none", max_retries=0) as client,
    ):

        async def official() -> str:
            stream = await client.chat.completions.create(
                model="stub", messages=[{"role": "user", "content": "hello"}], stream=True
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])

        async with asyncio.TaskGroup() as group:
            official_one = group.create_task(official())
            body = {"model": "stub", "messages": [{"role": "user", "content": "hello"}], "stream": True}
            async with http.post(daemon.url + CHAT, json=body) as answer:
                first = await asyncio.wait_for(answer.content.readline(), 6)
                assert first.startswith(b": "), "before the model is loaded"
                assert (await daemon.backend())["phase"] != "ready"
                rest = await answer.read()
        assert official_one.result().startswith("t0 t1")
        assert rest.endswith(b"data: [DONE]\n\n")
        assert b"\n\n" not in first + rest[: rest.index(b"data: ")], "single newlines: nothing that ends an event"
