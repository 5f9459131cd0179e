"""Answers of a real llama.cpp, held against the schema of their request."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.fakes.daemon import Daemon, running

pytestmark = [pytest.mark.e2e, pytest.mark.engine]

LOAD_S = 60.0
ANSWER_S = 120.0  # 0.8 tokens a second have been seen, of 100, on a machine that did too much
CITY = {"enum": ["Paris", "London"]}
QUOTED = r'''root ::= "\"Paris\"" | "\"London\""'''
FRANCE = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    async with running(Daemon(tmp_path, {"backends": {"gemma": {"model": "embedded", "context": 2048}}})) as started:
        await started.until_phase("ready", "gemma", within=LOAD_S)
        yield started


async def ended(daemon: Daemon, http: aiohttp.ClientSession, document: Any) -> Any:
    async with http.post(daemon.url + "/v1/jobs", json=document) as taken:
        assert taken.status == 202, await taken.text()
        job = (await taken.json())["id"]

    async def is_over() -> Any:
        told = await daemon.control("GET", f"/v1/jobs/{job}?wait=10")
        return told if told["status"] in {"done", "failed"} else None

    told = await daemon.until(is_over, "the answer", within=ANSWER_S)
    return told, await daemon.control("GET", f"/v1/jobs/{job}/output")


async def test_what_fits_is_done_and_the_rest_is_told_apart(daemon: Daemon, http: aiohttp.ClientSession) -> None:
    chat = {"model": "gemma", "messages": FRANCE, "temperature": 0, "max_tokens": 12}
    asked: dict[str, Any] = {"endpoint": "/v1/chat/completions", "validate_output": {"schema": CITY, "retries": 1}}

    job, texts = await ended(daemon, http, {**asked, "body": {**chat, "grammar": QUOTED}})
    assert (job["status"], job["attempts_count"]) == ("done", 1), (job, texts)
    assert json.loads(answer(texts)) in CITY["enum"]

    # With a schema's own grammar this model writes white space, which JSON may have without an end, up to its limit.
    form = {"type": "json_schema", "json_schema": {"name": "it", "schema": CITY}}
    job, texts = await ended(
        daemon, http, {**asked, "body": {**chat, "response_format": form, "max_tokens": 2}, "validate_output": True}
    )
    assert (job["reason"], job["attempts_count"]) == ("output_truncated", 1), (job, texts)

    # A schema that the backend is not shown: it answers in words.
    hello = [{"role": "user", "content": "Answer in one word: hello or goodbye?"}]
    job, texts = await ended(daemon, http, {**asked, "body": {**chat, "messages": hello, "max_tokens": 64}})
    assert (job["reason"], job["attempts_count"]) == ("invalid_output", 2), (job, texts)
    assert "it is not JSON" in job["detail"]
    assert answer(texts)


def answer(texts: Any) -> str:
    return str(json.loads(texts["output"])["choices"][0]["message"]["content"])
