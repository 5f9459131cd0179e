"""Batches as operators list them: those of both doors in one list."""

import json
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer, make_mocked_request

from supervisord.api.control_batches import Batches
from supervisord.core.batch import ANTHROPIC, OPENAI
from supervisord.ports import Page
from tests.engine.overnight import Night, night
from tests.fakes.records import a_batch


async def listed(it: Night, limit: int) -> tuple[list[str], bool]:
    request = make_mocked_request("GET", f"/v1/batches?limit={limit}")
    response: web.Response = await Batches(it.it.supervisor).listed(request)
    assert isinstance(response.body, bytes)
    told: Any = json.loads(response.body)
    return [batch["id"] for batch in told["batches"]], told["more"]


@pytest.mark.parametrize("other", [OPENAI, ANTHROPIC])
async def test_that_there_are_more_is_told_whichever_door_has_them(other: str) -> None:
    async with night() as it:
        for number in range(1, 5):
            door = OPENAI if number % 2 else other
            await it.store.put_batch(replace(a_batch(number, door=door), created_at=float(number)))
        assert await listed(it, 5) == (["batch-4", "batch-3", "batch-2", "batch-1"], False)
        assert await listed(it, 4) == (["batch-4", "batch-3", "batch-2", "batch-1"], False)
        assert await listed(it, 3) == (["batch-4", "batch-3", "batch-2"], True)
        assert await listed(it, 2) == (["batch-4", "batch-3"], True)
        assert await listed(it, 0) == (["batch-4"], True)


async def test_names_from_outside_are_printable_and_short() -> None:
    """They stand in tables on terminals, and in the records."""
    async with night() as it:
        batches = Batches(it.it.supervisor)
        app = web.Application()
        app.router.add_post("/v1/files", batches.uploaded)
        async with TestClient(TestServer(app)) as door:
            for client, name in (("%1b[31mada%0a" + "a" * 100, "%07x%0d%0a"), ("", "")):
                async with door.post(f"/v1/files?client={client}&filename={name}", data=b"{}") as answer:
                    assert answer.status == 200
        blank, named = await it.it.supervisor.files.list(Page(), None)
        assert (named.client, named.filename) == (("[31mada" + "a" * 100)[:64], "x")
        assert (blank.client, blank.filename) == ("", "input.jsonl")
