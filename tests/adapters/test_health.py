"""The probe: every answer is one, and no answer is told as what it was, in time."""

import asyncio
import json
import re
import socket
import ssl
from collections.abc import AsyncIterator

import pytest

from supervisord.adapters.health import GET_LIMIT, POST_LIMIT, HttpProbe
from supervisord.core.errors import ProbeError
from supervisord.runtimes.base import Address
from tests.fakes.authority import Authority
from tests.fakes.raw_server import Peer, raw_server
from tests.fakes.stub import stub_backend


@pytest.fixture
async def probe() -> AsyncIterator[HttpProbe]:
    probe = HttpProbe()
    yield probe
    await probe.close()


async def probed(probe: HttpProbe, answer: bytes, timeout: float = 5.0) -> tuple[int, bytes]:
    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(answer)

    async with raw_server(script) as server:
        told = await probe.get(Address("127.0.0.1", server.port), "/health", timeout)
        assert b"GET /health HTTP/1.1" in server.peers[0].requests[0]
        return told.status, told.body


async def test_loading_then_ready(probe: HttpProbe) -> None:
    async with stub_backend("--load-seconds", "0.5", wait_ready=False) as stub:
        loading = await probe.get(Address("127.0.0.1", stub.port), "/health", 2)
        assert (loading.status, b"Loading model" in loading.body) == (503, True)
        await stub.line("all idle")
        ready = await probe.get(Address("127.0.0.1", stub.port), "/health", 2)
        assert (ready.status, ready.body) == (200, b'{"status":"ok"}')


async def test_every_status_is_an_answer(probe: HttpProbe) -> None:
    for status in (200, 404, 500, 503):
        answer = b"HTTP/1.1 %d X\r\nContent-Length: 2\r\n\r\nhi" % status
        assert await probed(probe, answer) == (status, b"hi")


async def test_redirect_is_not_followed_and_no_cookie_is_kept(probe: HttpProbe) -> None:
    answer = b"HTTP/1.1 302 X\r\nLocation: /other\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n"

    async def script(peer: Peer) -> None:
        while await peer.request():
            peer.send(answer)

    async with raw_server(script) as server:
        for _ in range(2):
            assert (await probe.get(Address("localhost", server.port), "/health", 5)).status == 302
        (peer,) = server.peers  # the second one came on the kept connection
        assert len(peer.requests) == 2
        assert b"cookie" not in peer.requests[1].lower()


async def test_proxy_of_the_environment_is_ignored(probe: HttpProbe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert await probed(probe, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") == (200, b"")


async def test_refused(probe: HttpProbe) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(ProbeError, match="connection refused"):
            await probe.get(Address("127.0.0.1", taken.getsockname()[1]), "/health", 2)


async def test_unknown_host(probe: HttpProbe) -> None:
    with pytest.raises(ProbeError, match=r"GET http://no-such-host\.invalid:80/health: .+"):
        await probe.get(Address("no-such-host.invalid", 80), "/health", 5)


async def test_hung_server(probe: HttpProbe) -> None:
    async with stub_backend("--hang-health") as stub:
        began = asyncio.get_running_loop().time()
        with pytest.raises(ProbeError, match=r"no answer in 0\.2 s"):
            await probe.get(Address("127.0.0.1", stub.port), "/health", 0.2)
        assert asyncio.get_running_loop().time() - began < 1


async def test_slow_body_counts_into_the_timeout(probe: HttpProbe) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
        while not peer.reader.at_eof():
            peer.send(b"x")
            await asyncio.sleep(0.05)

    async with raw_server(script) as server:
        with pytest.raises(ProbeError, match=r"no answer in 0\.2 s"):
            await probe.get(Address("127.0.0.1", server.port), "/health", 0.2)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"\x00\x01SSH-2.0\r\n\r\n", "garbage"),
        (b"HTTP/1.1 banana\r\n\r\n", "garbage"),
        (b"", "closed before a whole answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "closed before a whole answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi", "closed before a whole answer"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "whole answer|garbage"),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b"x" * (GET_LIMIT + 1), "more than 1048576 bytes"),
    ],
)
async def test_no_usable_answer(probe: HttpProbe, answer: bytes, words: str) -> None:
    with pytest.raises(ProbeError, match=words):
        await probed(probe, answer)


async def test_reset(probe: HttpProbe) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        peer.reset()

    async with raw_server(script) as server:
        with pytest.raises(ProbeError, match="reset"):
            await probe.get(Address("127.0.0.1", server.port), "/health", 2)


async def test_ipv6(probe: HttpProbe) -> None:
    with pytest.raises(ProbeError, match=r"refused|unreachable|assign|not supported"):
        await probe.get(Address("::1", 1), "/health", 2)


async def test_close_twice_and_use_again() -> None:
    probe = HttpProbe()
    await probe.close()
    assert await probed(probe, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") == (200, b"")
    await probe.close()
    await probe.close()


# --- POST ------------------------------------------------------------------------------------------------------------


async def test_post_of_json(probe: HttpProbe) -> None:
    body = json.dumps({"content": "é" * 10_000}).encode()

    async def script(peer: Peer) -> None:
        while await peer.request():
            peer.send(b"HTTP/1.1 501 X\r\nContent-Length: 2\r\n\r\nno")

    async with raw_server(script) as server:
        for _ in range(2):
            told = await probe.post(Address("127.0.0.1", server.port, prefix="/api"), "/tokenize", body, 5)
            assert (told.status, told.body) == (501, b"no")
        (peer,) = server.peers
        assert peer.requests[1].startswith(b"POST /api/tokenize HTTP/1.1\r\n")
        assert peer.requests[1].lower().count(b"content-type: application/json\r\n") == 1
        assert peer.requests[1].endswith(b"\r\n\r\n" + body)


@pytest.mark.parametrize(("size", "whole"), [(GET_LIMIT + 1, True), (POST_LIMIT, True), (POST_LIMIT + 1, False)])
async def test_answer_to_a_post_has_its_own_bound(probe: HttpProbe, size: int, whole: bool) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
        await peer.closed_by_client()

    async with raw_server(script) as server:
        asking = probe.post(Address("127.0.0.1", server.port), "/tokenize", b"{}", 5)
        if whole:
            assert len((await asking).body) == size
        else:
            with pytest.raises(ProbeError, match=r"POST .*/tokenize: answered with more than 16777216 bytes"):
                await asking


async def test_hung_post(probe: HttpProbe) -> None:
    async def script(peer: Peer) -> None:
        await peer.closed_by_client()

    async with raw_server(script) as server:
        with pytest.raises(ProbeError, match=r"POST .*: no answer in 0\.2 s"):
            await probe.post(Address("127.0.0.1", server.port), "/x", b"{}", 0.2)


# --- addresses that are not ours -------------------------------------------------------------------------------------

KEY = "sk-secret-0123"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def tls(authority: Authority) -> ssl.SSLContext:
    return authority.server("IP:127.0.0.1", "DNS:localhost")


@pytest.fixture
def trusted(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.bundle))


def secret(port: int, host: str = "127.0.0.1") -> Address:
    return Address(host, port, tls=True, prefix="/api", headers=(("authorization", f"Bearer {KEY}"),))


async def refused(probe: HttpProbe, address: Address, timeout: float = 5) -> str:
    """What a probe without an answer is told as."""
    with pytest.raises(ProbeError) as failed:
        await probe.get(address, "/v1/models", timeout)
    assert failed.value.__cause__ is None  # aiohttp's own exceptions carry the request's headers
    assert failed.value.__context__ is None or failed.value.__suppress_context__
    assert KEY not in repr(failed.value)
    return failed.value.message


async def keep_answering(peer: Peer) -> None:
    while await peer.request():
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_probe_over_tls_carries_the_key_and_is_kept(probe: HttpProbe, tls: ssl.SSLContext, host: str) -> None:
    async with raw_server(keep_answering, tls=tls) as server:
        for _ in range(2):
            assert (await probe.get(secret(server.port, host), "/v1/models", 5)).body == b"hi"
        assert (await probe.post(secret(server.port, host), "/v1/x", b"{}", 5)).status == 200
        (peer,) = server.peers
        assert peer.requests[0].startswith(b"GET /api/v1/models HTTP/1.1\r\n")
        assert all(b"authorization: Bearer sk-secret-0123\r\n" in request for request in peer.requests)
        await probe.close()


async def test_certificate_of_an_unknown_authority(probe: HttpProbe, tls: ssl.SSLContext) -> None:
    async with raw_server(keep_answering, tls=tls) as server:
        message = await refused(probe, secret(server.port))
        assert message.startswith(f"GET https://127.0.0.1:{server.port}/api/v1/models: its certificate is refused: ")
        assert "unable to get local issuer certificate; " in message
        assert "SSL_CERT_FILE" in message


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize(("host", "words"), [("127.0.0.1", "IP address mismatch"), ("localhost", "Hostname mismatch")])
async def test_certificate_of_somebody_else(probe: HttpProbe, authority: Authority, host: str, words: str) -> None:
    async with raw_server(keep_answering, tls=authority.server("DNS:elsewhere.example")) as server:
        assert f"its certificate is refused: {words}" in await refused(probe, secret(server.port, host))


async def test_server_without_tls(probe: HttpProbe) -> None:
    async def script(peer: Peer) -> None:
        peer.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        await peer.closed_by_client()

    async with raw_server(script) as server:
        assert "no TLS with it: " in await refused(probe, secret(server.port))


async def test_server_that_is_silent_during_the_handshake(probe: HttpProbe) -> None:
    async def script(peer: Peer) -> None:
        await peer.closed_by_client()

    async with raw_server(script) as server:
        assert "no answer in 0.2 s" in await refused(probe, secret(server.port), 0.2)


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("answer", [b"HTTP/1.1 banana\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi", b""])
async def test_garbage_over_tls_does_not_tell_the_key(probe: HttpProbe, tls: ssl.SSLContext, answer: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(answer)

    async with raw_server(script, tls=tls) as server:
        await refused(probe, secret(server.port))


@pytest.mark.parametrize(
    ("address", "words"),
    [
        (Address("", 80), "no such address"),
        (Address("exa mple", 80), "no such address"),
        (Address("a\r\nevil: 1", 80), "no such address"),
        (Address("user@h", 80), "no such address"),
        (Address("127.0.0.1", 70000), "no such address"),
        (Address("a" * 64 + ".example", 80), "cannot be asked: .*label"),
    ],
)
async def test_address_that_cannot_be(probe: HttpProbe, address: Address, words: str) -> None:
    message = await refused(probe, address)
    assert re.search(words, message)
    assert "\n" not in message


async def test_key_that_no_header_can_carry(probe: HttpProbe) -> None:
    async with raw_server(keep_answering) as server:
        address = Address("127.0.0.1", server.port, headers=(("authorization", f"Bearer {KEY}\nx: 1"),))
        assert "cannot be asked" in await refused(probe, address)
        assert not server.peers or not server.peers[0].requests
