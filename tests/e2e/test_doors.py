"""What the two doors refuse, and what they say."""

import asyncio
import os
import pwd
import socket
import stat
import time
from pathlib import Path

import aiohttp
import openai
import pytest

from tests.e2e.conftest import Start
from tests.fakes.daemon import Daemon

CHAT = "/v1/chat/completions"
HELLO = {"model": "stub", "messages": [{"role": "user", "content": "hello"}]}

REFUSED = [
    (b"", 400, "invalid_json", None),
    (b"[1]", 400, "invalid_json", None),
    (b'{"model": "stub"', 400, "invalid_json", None),
    (b'{"messages": []}', 400, "invalid_request", "model"),
    (b'{"model": 7, "messages": []}', 400, "invalid_request", "model"),
    (b'{"model": "stub"}', 400, "invalid_request", "messages"),
    (b'{"model": "stub", "messages": "hello"}', 400, "invalid_request", "messages"),
    (b'{"model": "stub", "messages": [], "stream": "yes"}', 400, "invalid_request", "stream"),
    (b'{"model": "stub", "messages": [], "max_tokens": 1.5}', 400, "invalid_request", "max_tokens"),
    (b'{"model": "stub", "messages": [], "temperature": "hot"}', 400, "invalid_request", "temperature"),
    (b'{"model": "gone", "messages": []}', 404, "model_not_found", "model"),
    (b'{"model":"stub","messages":' + b"[" * 200_000 + b"]" * 200_000 + b"}", 400, "invalid_json", None),
]


async def test_bad_requests_get_clear_errors(start: Start, http: aiohttp.ClientSession) -> None:
    async with start() as daemon:
        for body, status, code, param in REFUSED:
            async with http.post(daemon.url + CHAT, data=body) as answer:
                error = (await answer.json())["error"]
                told = (answer.status, error["code"], error["param"], error["type"])
            assert told == (status, code, param, "invalid_request_error"), body[:60]
        async with http.get(daemon.url + CHAT) as answer:
            assert (answer.status, answer.headers["allow"]) == (405, "POST")
        async with http.post(daemon.url + "/v1/nothing", json={}) as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (404, "unknown_endpoint")
        async with http.post(daemon.url + CHAT, json=HELLO, headers={"X-Priority": "urgent"}) as answer:
            assert (answer.status, (await answer.json())["error"]["param"]) == (400, "X-Priority")
        assert await daemon.jobs() == [], "what is not understood is no job"


async def test_broken_http_gets_an_error_of_ours_and_no_traceback(start: Start) -> None:
    async with start() as daemon:
        port = f"host: {daemon.address}\r\n"
        body = b'{"model": "stub", "messages": []}'
        for extra in ("content-encoding: gzip\r\n", "origin: http://[::1\r\n", "expect: something\r\n"):
            head = f"POST {CHAT} HTTP/1.1\r\n{port}{extra}content-length: {len(body)}\r\n\r\n"
            answer = await _say(daemon, head.encode() + body)
            assert answer.split(b" ", 2)[1].startswith(b"4"), extra
            assert b'"error"' in answer, extra
        garbage = await _say(daemon, b"\x16\x03\x01 secret\r\n\r\n")
        assert b'"invalid_request"' in garbage
        assert "Traceback" not in daemon.log()
        assert "secret" not in daemon.log()


HOSTS = [
    ({"Host": "evil.example"}, "forbidden_host"),
    ({"Host": "127.0.0.1.evil.example:80"}, "forbidden_host"),
    ({"Origin": "https://evil.example"}, "forbidden_origin"),
    ({"Origin": "null"}, "forbidden_origin"),
    ({"Sec-Fetch-Site": "cross-site"}, "forbidden_origin"),
]


async def test_other_hosts_and_origins_are_refused(start: Start, http: aiohttp.ClientSession) -> None:
    async with start() as daemon:
        for headers, code in HOSTS:
            async with http.post(daemon.url + CHAT, json=HELLO, headers=headers) as answer:
                assert (answer.status, (await answer.json())["error"]["code"]) == (403, code), headers
                assert "access-control-allow-origin" not in answer.headers
        port = daemon.address.rpartition(":")[2]
        for host in (f"localhost:{port}", f"[::1]:{port}", "127.0.0.1"):
            async with http.get(daemon.url + "/healthz", headers={"Host": host}) as answer:
                assert answer.status == 200, host
        async with http.get(daemon.url + "/healthz", headers={"Origin": daemon.url}) as answer:
            assert answer.status == 200


async def test_the_official_client_works_unchanged(start: Start) -> None:
    async with start("--fail-embeddings", "501", aliases=["gpt-4o"]) as daemon:
        await daemon.until_phase("ready")
        client = openai.AsyncOpenAI(base_url=daemon.url + "/v1", api_key="none", max_retries=0)
        messages: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "hello"}]
        plain = await client.chat.completions.with_raw_response.create(model="gpt-4o", messages=messages)
        assert plain.parse().choices[0].message.content
        assert plain.headers["x-backend"] == "stub"
        assert float(plain.headers["x-queue-wait"]) >= 0
        assert plain.headers["x-job-id"] == plain.headers["x-request-id"]
        stream = await client.chat.completions.create(model="stub", messages=messages, stream=True)
        assert "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])
        assert (await client.completions.create(model="stub", prompt="hello")).choices[0].text
        assert {model.id async for model in await client.models.list()} == {"stub", "gpt-4o"}
        assert (await client.models.retrieve("gpt-4o")).owned_by == "llm-supervisord"
        with pytest.raises(openai.NotFoundError, match="No backend serves"):
            await client.chat.completions.create(model="gone", messages=messages)
        with pytest.raises(openai.APIStatusError) as refused:
            await client.embeddings.create(model="stub", input="hello")
        assert refused.value.status_code == 501
        assert refused.value.response.headers["x-backend"] == "stub"
        await client.close()


async def test_row_27_a_body_over_the_limit_is_refused_unread(start: Start) -> None:
    """1 GB by its Content-Length, and one that only says so while it comes (chunked)."""
    async with start(top={"limits": {"body": "1MiB"}}) as daemon:
        head = f"POST {CHAT} HTTP/1.1\r\nhost: {daemon.address}\r\n"
        declared = await _say(daemon, head.encode() + b"content-length: 1000000000\r\n\r\n{")
        assert b" 413 " in declared.partition(b"\r\n")[0] + b" "
        assert b"request_too_large" in declared
        chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        chunked = await _say(daemon, head.encode() + b"transfer-encoding: chunked\r\n\r\n" + chunk * 20)
        assert b"request_too_large" in chunked


async def _say(daemon: Daemon, data: bytes) -> bytes:
    host, port = daemon.address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(data)
    async with asyncio.timeout(15):
        answer = await reader.read(4096)
    writer.close()
    return answer


async def test_row_27_slow_heads_are_cut_and_idle_connections_bounded(
    start: Start, http: aiohttp.ClientSession
) -> None:
    limits = {"header_timeout": "1s", "connections": 50}
    async with start(top={"limits": limits}) as daemon:
        host, port = daemon.address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: ")
        async with asyncio.timeout(5):
            assert await reader.read() == b"", "the slow head was cut off"
        writer.close()

        idle = [await asyncio.open_connection(host, int(port)) for _ in range(80)]
        refused = 0
        for idle_reader, _ in idle[50:]:
            async with asyncio.timeout(5):
                refused += b"too_many_connections" in await idle_reader.read()
        assert refused == 30
        began = time.monotonic()
        status = await daemon.status()
        assert time.monotonic() - began < 1.0, "operators have their own door"
        assert status["state"] == "running"
        for _, idle_writer in idle:
            idle_writer.close()


async def test_row_27_a_slow_body_is_bounded(start: Start) -> None:
    async with start(top={"limits": {"body_timeout": "1s"}}) as daemon:
        head = f"POST {CHAT} HTTP/1.1\r\nhost: {daemon.address}\r\ncontent-length: 100\r\n\r\n{{"
        assert b"request_timeout" in await _say(daemon, head.encode())


async def test_row_27_a_head_over_the_limit_is_refused(start: Start) -> None:
    async with start() as daemon:
        head = f"GET /healthz HTTP/1.1\r\nhost: {daemon.address}\r\nx-long: {'x' * 100_000}\r\n\r\n"
        assert b" 400 " in (await _say(daemon, head.encode())).partition(b"\r\n")[0] + b" "


async def test_row_28_the_control_socket_is_private(start: Start) -> None:
    async with start() as daemon:
        assert stat.S_IMODE(daemon.socket.stat().st_mode) == 0o660
        with pytest.raises(aiohttp.ClientConnectorError):
            async with aiohttp.ClientSession() as session, session.get("http://127.0.0.1:1/v1/status"):
                pass
        async with aiohttp.ClientSession() as session, session.get(daemon.url + "/v1/status") as answer:
            assert answer.status == 404, "no verb of it is on TCP"


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
async def test_row_28_a_wrong_user_is_refused(start: Start, tmp_path: Path) -> None:
    """Even one whom a careless chmod has let through: the peer's credentials decide."""
    async with start() as daemon:
        daemon.socket.chmod(0o777)
        for folder in [tmp_path, *tmp_path.parents]:
            if folder.stat().st_uid == 0 and str(folder).startswith("/tmp/"):
                folder.chmod(0o755)
        said = await asyncio.to_thread(_ask_as_nobody, str(daemon.socket))
        assert b" 403 " in said
        assert b"forbidden_peer" in said


def _ask_as_nobody(path: str) -> bytes:
    """A child process that gives up root first."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        nobody = pwd.getpwnam("nobody")
        os.setgroups([])
        os.setgid(nobody.pw_gid)
        os.setuid(nobody.pw_uid)
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(path)
                client.sendall(b"GET /v1/status HTTP/1.1\r\nhost: control\r\nconnection: close\r\n\r\n")
                os.write(write_end, client.recv(65536))
            except OSError as error:
                os.write(write_end, repr(error).encode())
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said


async def test_row_28_large_frames_and_unknown_verbs_are_refused(start: Start) -> None:
    async with start() as daemon:
        unknown = await daemon.control("POST", "/v1/backends/stub/explode")
        assert unknown["error"]["code"] == "unknown_endpoint"
        missing = await daemon.control("POST", "/v1/backends/gone/start")
        assert missing["error"]["code"] == "not_found"
        assert "stub" in missing["error"]["message"]
        malformed = await daemon.control("POST", "/v1/backends/stub/start", {"wait_s": "long"})
        assert malformed["error"]["code"] == "invalid_request"
        reader, writer = await asyncio.open_unix_connection(str(daemon.socket))
        writer.write(b"POST /v1/backends/stub/stop HTTP/1.1\r\nhost: control\r\ncontent-length: 1000000000\r\n\r\n{")
        async with asyncio.timeout(5):
            assert b"request_too_large" in await reader.read(4096)
        writer.close()
        assert (await daemon.backend())["phase"] != "stopped"


async def test_health_and_readiness(start: Start, http: aiohttp.ClientSession) -> None:
    async with start("--load-seconds", "1") as daemon:
        async with http.get(daemon.url + "/healthz") as answer:
            assert (answer.status, await answer.json()) == (200, {"status": "ok", "degraded": []})
        async with http.get(daemon.url + "/readyz") as answer:
            assert answer.status == 503
            assert (await answer.json())["backends"]["stub"]["phase"] in {"starting", "loading"}
        await daemon.until_phase("ready")
        async with http.get(daemon.url + "/readyz") as answer:
            assert answer.status == 200
