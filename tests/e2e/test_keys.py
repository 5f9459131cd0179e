"""Keys on the whole daemon: who is let in, how far, and where a secret must not turn up."""

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from tests.e2e.conftest import Start
from tests.fakes.daemon import Daemon

CHAT = "/v1/chat/completions"
BODY = {"model": "stub", "messages": [{"role": "user", "content": "hello"}]}
ADA, BOB, EVE = "ada-has-a-secret-0123", "bob-has-a-secret-4567", "eve-has-no-key-at-all"


def keys(folder: Path) -> dict[str, Any]:
    (folder / "bob.key").write_text(BOB + "\n")
    return {
        "ada": {"key": "${env:ADA_KEY}", "priority": "normal", "concurrency": 2},
        "bob": {"key_file": "bob.key", "models": ["other"]},
    }


async def asked(
    http: aiohttp.ClientSession, daemon: Daemon, path: str, secret: str | None, body: Any = None, **more: str
) -> tuple[int, Any, dict[str, str]]:
    headers = {name.replace("_", "-"): value for name, value in more.items()}
    if secret is not None:
        headers["authorization"] = f"Bearer {secret}"
    async with http.request("GET" if body is None else "POST", daemon.url + path, json=body, headers=headers) as answer:
        return answer.status, await answer.json(), {k.lower(): v for k, v in answer.headers.items()}


async def test_who_has_none_is_let_in_nowhere_and_who_has_one_so_far(
    start: Start, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    top = {"keys": keys(tmp_path), "models": {"other": {"backends": ["stub"]}}}
    async with start(top=top, environment={"ADA_KEY": ADA}) as daemon:
        for path, body in ((CHAT, BODY), ("/v1/models", None), ("/v1/jobs", None), ("/nowhere", None)):
            for secret in (None, EVE, ""):
                status, told, headers = await asked(http, daemon, path, secret, body)
                assert (status, told["error"]["code"]) == (401, "invalid_api_key")
                assert (headers["www-authenticate"], headers.get("x-should-retry")) == ("Bearer", None)
        status, told, _ = await asked(http, daemon, "/v1/messages", EVE, BODY)
        assert (status, told["error"]["type"]) == (401, "authentication_error")
        for path in ("/healthz", "/readyz"):
            assert (await asked(http, daemon, path, None))[0] in {200, 503}, "monitors have no key"

        status, told, headers = await asked(http, daemon, CHAT, ADA, BODY, x_client="bob", x_priority="high")
        assert status == 200, told
        (job,) = await daemon.jobs()
        assert (job["client"], job["priority"]) == ("ada", "normal")
        client = openai.AsyncOpenAI(base_url=daemon.url + "/v1", api_key=ADA, max_retries=0)
        messages: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "hello"}]
        assert (await client.chat.completions.create(model="stub", messages=messages)).choices
        await client.close()

        assert (await asked(http, daemon, CHAT, BOB, {**BODY, "model": "other"}))[0] == 200
        for prefer in ("", "respond-async"):
            status, told, _ = await asked(http, daemon, CHAT, BOB, BODY, prefer=prefer)
            assert (status, told["error"]["code"], told["error"]["param"]) == (403, "model_forbidden", "model")
        assert {m["id"] for m in (await asked(http, daemon, "/v1/models", BOB))[1]["data"]} == {"other"}
        assert (await asked(http, daemon, "/v1/models/stub", BOB))[0] == 403

        status, told, _ = await asked(http, daemon, CHAT, ADA, BODY, prefer="respond-async")
        assert status == 202
        for path in ("", "/result", "/events", "/output"):
            assert (await asked(http, daemon, f"/v1/jobs/{told['id']}{path}", BOB))[0] == 404
        assert (await asked(http, daemon, f"/v1/jobs/{told['id']}/cancel", BOB, {}))[0] == 404
        assert (await asked(http, daemon, "/v1/jobs", BOB))[1]["data"] == []
        assert (await asked(http, daemon, f"/v1/jobs/{told['id']}?wait=20", ADA))[1]["status"] == "done"
        assert len((await asked(http, daemon, "/v1/jobs", ADA))[1]["data"]) == 1

        told = daemon.log() + str(await daemon.status()) + str(await daemon.events()) + str(await daemon.jobs())
        state = b"".join(path.read_bytes() for path in (tmp_path / "state").rglob("*") if path.is_file())
        for secret in (ADA, BOB, EVE):
            assert secret not in told
            assert secret.encode() not in state


async def test_a_key_has_no_more_requests_under_way_than_it_may(
    start: Start, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    async with start(
        "--prefill-seconds",
        "1",
        top={"keys": {"ada": {"key": "${env:ADA_KEY}", "concurrency": 2}}},
        slots=4,
        environment={"ADA_KEY": ADA},
    ) as daemon:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(asked(http, daemon, CHAT, ADA, BODY)) for _ in range(5)]
        answers = [task.result() for task in tasks]
        assert sorted(status for status, _, _ in answers) == [200, 200, 429, 429, 429]
        for status, told, headers in answers:
            if status == 429:
                assert (told["error"]["code"], headers["retry-after"]) == ("too_many_requests", "1")
                assert headers["x-should-retry"] == "true"
        assert (await asked(http, daemon, CHAT, ADA, BODY))[0] == 200, "their places are free again"


async def test_keys_come_and_go_with_a_reload(start: Start, http: aiohttp.ClientSession, tmp_path: Path) -> None:
    async with start(environment={"ADA_KEY": ADA}) as daemon:
        assert (await asked(http, daemon, CHAT, None, BODY))[0] == 200
        told = await daemon.reload(keys=keys(tmp_path) | {"bob": {"key_file": "bob.key"}})
        assert told["applied"] == ["keys"]
        assert (await asked(http, daemon, CHAT, None, BODY))[0] == 401
        assert (await asked(http, daemon, CHAT, BOB, BODY))[0] == 200
        (tmp_path / "bob.key").write_text("bobs-next-secret-89ab")
        await daemon.reload()
        assert (await asked(http, daemon, CHAT, BOB, BODY))[0] == 401
        assert (await asked(http, daemon, CHAT, "bobs-next-secret-89ab", BODY))[0] == 200
        (tmp_path / "bob.key").write_text("short")
        refused = await daemon.reload()
        assert "bob.key does not hold one word of 16" in refused["error"]["message"]
        assert (await asked(http, daemon, CHAT, "bobs-next-secret-89ab", BODY))[0] == 200, "nothing was changed"
        await daemon.reload(keys={})
        assert (await asked(http, daemon, CHAT, None, BODY))[0] == 200


async def test_off_loopback_only_with_keys(start: Start, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r'"0.0.0.0" is not loopback, and there are no keys'):
        async with start(top={"listen": "0.0.0.0:0"}):
            pass
    top = {"listen": "0.0.0.0:0", "keys": keys(tmp_path) | {"bob": {"key_file": "bob.key"}}}
    async with start(top=top, environment={"ADA_KEY": ADA}) as daemon:
        refused = await daemon.reload(listen="127.0.0.1:0", keys={})
        assert "0.0.0.0 is not loopback until the daemon is restarted" in refused["error"]["message"]
