"""Limits hold whatever a request calls them, and however much it asks for at once."""

import asyncio
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.fakes.clients import CHAT, Ask, ask, crowd, failed
from tests.fakes.daemon import Daemon, quick, running, stubbed, vllm_stubbed
from tests.fakes.remote import KEY, remote
from tests.fakes.stub import read_log

pytestmark = pytest.mark.e2e

BEYOND: Sequence[Mapping[str, Any]] = (
    {"n_predict": 60},
    {"max_tokens": 5, "n_predict": 60},
    {"n_predict": -1, "max_tokens": 5},
)
HELLO: Sequence[object] = [{"role": "user", "content": "hello"}]


async def test_an_answer_is_limited_by_whatever_name_it_is_asked_for(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    async with remote() as service:
        backend = quick({"runtime": "remote", "url": service.url, "key": "${env:RKEY}"})
        models = {"m": {"backends": ["r"], "max_tokens": {"limit": 5}}}
        daemon = Daemon(tmp_path, {"backends": {"r": backend}, "models": models})
        async with running(daemon, RKEY=KEY):
            await daemon.until_phase("ready", "r")
            for more in BEYOND:
                refused = await ask(http, daemon, "m", **more)
                assert (refused.status, json.loads(refused.body)["error"]["code"]) == (400, "max_tokens_above_limit")
            assert service.requests == []
            assert (await ask(http, daemon, "m", n_predict=5)).status == 200
            assert (await ask(http, daemon, "m")).status == 200
            sent = [{k: v for k, v in body.items() if "max" in k or "predict" in k} for body in service.requests]
            assert sent == [{"n_predict": 5}, {"max_tokens": 5}]


async def test_answers_of_one_request_count_as_many(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    """Eight answers of 100 tokens leave no room for a second request in 1000 tokens."""
    reports = ("--max-concurrent-report", str(tmp_path / "peak"), "--tokens", "100", "--token-rate", "400")
    daemon = Daemon(tmp_path, {"backends": {"v": vllm_stubbed(tmp_path, *reports, "--kv-tokens", "1000", slots=16)}})
    async with running(daemon):
        await daemon.until_phase("ready", "v")
        eight = Ask("v", more={"max_tokens": 100, "n": 8})
        assert failed(await crowd(http, daemon, [[eight]] * 4)) == []
        assert (tmp_path / "peak").read_text().split()[-1] == "1"
        assert failed(await crowd(http, daemon, [[Ask("v", more={"max_tokens": 100})]] * 4)) == []
        assert int((tmp_path / "peak").read_text().split()[-1]) > 1, "and one of each together"
        for odd in (0, -1, "2", 1.5):
            refused = await ask(http, daemon, "v", n=odd)
            assert (refused.status, json.loads(refused.body)["error"]["param"]) == (400, "n")


async def test_megabytes_are_refused_without_a_question_of_megabytes(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    log = tmp_path / "log"
    backend = vllm_stubbed(tmp_path, "--request-log", str(log), context=1024)
    async with running(Daemon(tmp_path, {"backends": {"v": backend}})) as daemon:
        await daemon.until_phase("ready", "v")
        body = json.dumps({"model": "v", "messages": list(HELLO) * 100_000}).encode()
        async with asyncio.timeout(5), http.post(daemon.url + CHAT, data=io.BytesIO(body)) as answer:
            told = json.loads(await answer.read())["error"]
        assert (answer.status, told["code"]) == (400, "context_length_exceeded")
        assert "more than 2" in told["message"], "8 bytes a token were counted, at four bytes a token"
        assert read_log(log) == [], "the server never saw it"


async def test_a_service_that_refuses_our_key_is_made_good_by_a_server_of_ours(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    async with remote() as service:
        backends = {
            "r": quick({"runtime": "remote", "url": service.url, "key": "${env:RKEY}", "breaker": {"failures": 100}}),
            "b": stubbed(tmp_path),
        }
        daemon = Daemon(
            tmp_path, {"backends": backends, "models": {"m": {"backends": ["r", "b"], "strategy": "priority"}}}
        )
        async with running(daemon, RKEY=KEY):
            await daemon.until_phase("ready", "r")
            await daemon.until_phase("ready", "b")
            for service.status in (401, 402, 403, 404, 408, 501, 520):
                served = await ask(http, daemon, "m")
                assert (served.status, served.headers.get("x-backend")) == (200, "b"), (service.status, served.body)
            service.status = 422
            assert (await ask(http, daemon, "m")).status == 422, "what the client did wrong is wrong everywhere"
