"""Requests over TLS: whom they trust, how they break off, and that they are otherwise like any other."""

import asyncio
import ssl
from dataclasses import replace
from pathlib import Path

import pytest

from supervisord.runtimes.base import Address
from tests.fakes.authority import Authority
from tests.fakes.raw_server import Peer, raw_server
from tests.fakes.receiver import Remembering, an_upstream, exchange, request_to

KEY = "sk-secret-0123"
SMALL = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\n\r\nhi"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def tls(authority: Authority) -> ssl.SSLContext:
    return authority.server("IP:127.0.0.1", "DNS:localhost")


@pytest.fixture
def trusted(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.bundle))


def secret(port: int, host: str = "127.0.0.1", key: str = KEY) -> Address:
    return Address(host, port, tls=True, prefix="/api", headers=(("authorization", f"Bearer {key}"),))


async def keep_answering(peer: Peer) -> None:
    while await peer.request():
        peer.send(SMALL)


async def refused(port: int, host: str = "127.0.0.1", *, within: float = 5.0) -> str:
    """What a connection that does not come about is told as."""
    async with an_upstream() as upstream, asyncio.timeout(within):
        told = await exchange(upstream, request_to(secret(port, host)))
        assert told.fault.kind == "connect"
        assert KEY not in repr(told.fault)
        assert not upstream._open
        return told.fault.detail


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_request_carries_the_key_and_the_connection_is_kept(tls: ssl.SSLContext, host: str) -> None:
    async with raw_server(keep_answering, tls=tls) as server, an_upstream() as upstream:
        for _ in range(3):
            told = await exchange(upstream, request_to(secret(server.port, host)))
            assert (told.body, told.endings) == (b"hi", ["end"])
        (peer,) = server.peers
        assert peer.requests[2].startswith(
            b"POST /api/v1/chat/completions HTTP/1.1\r\nhost: %b:%d\r\nauthorization: Bearer sk-secret-0123\r\n"
            % (host.encode(), server.port)
        )
        assert peer.writer.get_extra_info("ssl_object").version() in {"TLSv1.2", "TLSv1.3"}
        upstream.forget(secret(server.port, host))
        assert not upstream._idle


@pytest.mark.usefixtures("trusted")
async def test_two_keys_share_a_connection_and_nothing_else(tls: ssl.SSLContext) -> None:
    async with raw_server(keep_answering, tls=tls) as server, an_upstream() as upstream:
        for key in ("one", "two", "one"):
            await exchange(upstream, request_to(secret(server.port, key=key)))
        (peer,) = server.peers
        keys = [request.partition(b"Bearer ")[2].partition(b"\r\n")[0] for request in peer.requests]
        assert keys == [b"one", b"two", b"one"]


@pytest.mark.usefixtures("trusted")
async def test_large_bodies_both_ways(tls: ssl.SSLContext) -> None:
    size = 3_000_000

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
        await peer.closed_by_client()

    async with raw_server(script, tls=tls) as server, an_upstream() as upstream:
        told = await exchange(upstream, request_to(secret(server.port), b"y" * size))
        assert (len(told.body), told.endings) == (size, ["end"])
        assert server.peers[0].requests[0].endswith(b"y" * size)


@pytest.mark.usefixtures("trusted")
async def test_answer_until_the_connection_ends(tls: ssl.SSLContext) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(UNTIL_CLOSE)

    async with raw_server(script, tls=tls) as server, an_upstream() as upstream:
        told = await exchange(upstream, request_to(secret(server.port)))
        assert (told.body, told.endings) == (b"hi", ["end"])


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("with_reset", [False, True])
async def test_server_that_dies_within_its_answer(tls: ssl.SSLContext, with_reset: bool) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(SMALL[:-1])
        await peer.writer.drain()
        if with_reset:
            peer.reset()

    async with raw_server(script, tls=tls) as server, an_upstream() as upstream:
        told = await exchange(upstream, request_to(secret(server.port)))
        assert told.fault.kind in {"eof", "reset"}
        assert KEY not in repr(told.fault)


@pytest.mark.usefixtures("trusted")
async def test_stale_connection_is_retried_with_the_key(tls: ssl.SSLContext) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(SMALL)
        if peer.number == 1:
            await peer.request()
            return
        await keep_answering(peer)

    async with raw_server(script, tls=tls) as server, an_upstream() as upstream:
        for _ in range(2):
            assert (await exchange(upstream, request_to(secret(server.port)))).endings == ["end"]
        assert KEY.encode() in server.peers[1].requests[0]


@pytest.mark.usefixtures("trusted")
async def test_abort_reaches_the_server(tls: ssl.SSLContext) -> None:
    gone = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhi")
        await peer.closed_by_client()
        gone.set()

    async with raw_server(script, tls=tls) as server, an_upstream() as upstream:
        receiver = Remembering()
        running = await upstream.start(request_to(secret(server.port)), receiver)
        await receiver.told()
        running.pause()
        running.resume()
        running.abort()
        async with asyncio.timeout(5):
            await gone.wait()
        assert receiver.endings == []


@pytest.mark.usefixtures("trusted")
async def test_half_open_server_is_idle(tls: ssl.SSLContext) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.closed_by_client()

    async with raw_server(script, tls=tls) as server, an_upstream() as upstream:
        told = await exchange(upstream, request_to(secret(server.port), idle_timeout_s=0.2))
        assert told.fault.kind == "idle"


async def test_certificate_of_an_unknown_authority(tls: ssl.SSLContext) -> None:
    async with raw_server(keep_answering, tls=tls) as server:
        detail = await refused(server.port)
        assert "certificate is refused: unable to get local issuer certificate; " in detail
        assert "SSL_CERT_FILE" in detail
        assert not server.peers or not server.peers[0].requests


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize(("host", "words"), [("127.0.0.1", "IP address mismatch"), ("localhost", "Hostname mismatch")])
async def test_certificate_of_somebody_else(authority: Authority, host: str, words: str) -> None:
    async with raw_server(keep_answering, tls=authority.server("DNS:elsewhere.example")) as server:
        detail = await refused(server.port, host)
        assert f"certificate is refused: {words}" in detail
        assert not server.peers or not server.peers[0].requests


@pytest.mark.usefixtures("trusted")
async def test_bundle_that_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tls: ssl.SSLContext) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing.pem"))
    async with raw_server(keep_answering, tls=tls) as server:
        assert "SSL_CERT_FILE" in await refused(server.port)


async def test_server_without_tls() -> None:
    async def script(peer: Peer) -> None:
        peer.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        await peer.closed_by_client()

    async with raw_server(script) as server:
        assert "no TLS with it" in await refused(server.port)


async def test_server_that_closes_during_the_handshake() -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.read(10)

    async with raw_server(script) as server:
        assert f"127.0.0.1:{server.port}: " in await refused(server.port)


async def test_server_that_is_silent_during_the_handshake() -> None:
    async def script(peer: Peer) -> None:
        await peer.closed_by_client()

    async with raw_server(script) as server, an_upstream() as upstream, asyncio.timeout(3):
        told = Remembering()
        await upstream.start(replace(request_to(secret(server.port)), connect_timeout_s=0.2), told)
        assert told.fault.kind == "connect"
        assert "within 0.2 s" in told.fault.detail


async def test_kept_connection_without_tls_never_carries_what_is_meant_for_one_with_it() -> None:
    heard = []

    async def script(peer: Peer) -> None:
        if peer.number == 1:
            await keep_answering(peer)
        heard.append(await peer.reader.read(65536))  # the second one: a TLS greeting

    async with raw_server(script) as server, an_upstream() as upstream:
        await exchange(upstream, request_to(server.port))
        told = await exchange(upstream, request_to(secret(server.port)))
        assert told.fault.kind == "connect"
        assert len(server.peers[0].requests) == 1
        assert KEY.encode() not in b"".join(heard)
        assert len(upstream._idle["127.0.0.1", server.port, False]) == 1
