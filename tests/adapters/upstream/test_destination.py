"""What an address makes of a request's head, and which addresses no request can be sent to."""

import pytest

from supervisord.adapters.upstream.destination import destination_of
from supervisord.adapters.upstream.exchange import encode_head
from supervisord.adapters.upstream.pool import DESTINATIONS_LIMIT
from supervisord.ports import UpstreamRequest
from supervisord.runtimes.base import Address
from tests.fakes.receiver import Remembering, an_upstream, exchange, request_to

KEY = "sk-secret-0123"


def head(address: Address, path: str = "/v1/models") -> str:
    request = UpstreamRequest(address, "GET", path, (("accept", "*/*"),), b"", 5)
    return encode_head(request, destination_of(address)).decode("latin-1")


@pytest.mark.parametrize(
    ("address", "host"),
    [
        (Address("127.0.0.1", 8080), "127.0.0.1:8080"),
        (Address("example.com", 80), "example.com"),
        (Address("example.com", 443), "example.com:443"),
        (Address("example.com", 443, tls=True), "example.com"),
        (Address("example.com", 80, tls=True), "example.com:80"),
        (Address("::1", 8080), "[::1]:8080"),
        (Address("::1", 443, tls=True), "[::1]"),
        (Address("bücher.example", 80), "xn--bcher-kva.example"),
        (Address("my_host", 8000), "my_host:8000"),
    ],
)
def test_host_is_said_without_the_default_port(address: Address, host: str) -> None:
    assert f"\r\nhost: {host}\r\n" in head(address)


def test_prefix_and_headers_of_the_address() -> None:
    address = Address("h", 80, prefix="/api", headers=(("authorization", f"Bearer {KEY}"), ("x-project", "7")))
    assert head(address) == (
        "GET /api/v1/models HTTP/1.1\r\n"
        f"host: h\r\nauthorization: Bearer {KEY}\r\nx-project: 7\r\naccept: */*\r\ncontent-length: 0\r\n\r\n"
    )


def test_a_break_in_the_path_is_noticed_behind_the_headers_of_the_address_too() -> None:
    address = Address("h", 80, headers=(("authorization", f"Bearer {KEY}"),))
    with pytest.raises(ValueError, match="line break") as refused:
        head(address, "/x\r\nevil: 1")
    assert KEY not in str(refused.value)


ODD = [
    (Address("", 80), "no such host"),
    (Address("exa mple", 80), "no such host"),
    (Address("a\r\nevil: 1", 80), "no such host"),
    (Address("a/b", 80), "no such host"),
    (Address("user@host", 80), "no such host"),
    (Address("☃" * 80, 80), "no such host"),
    (Address("127.0.0.1", 70000), "port"),
    (Address("127.0.0.1", -1), "port"),
    (Address("a" * 64 + ".example", 80), "label"),
    (Address("h", 80, prefix="/a b"), "its path"),
    (Address("h", 80, prefix="/a\r\nb: c"), "its path"),
    (Address("h", 80, prefix="/☃"), "its path"),
    (Address("h", 80, headers=(("authorization", f"Bearer {KEY}\n"),)), "a header for it"),
    (Address("h", 80, headers=(("authorization", f"Bearer {KEY}☃"),)), "a header for it"),
    (Address("h", 80, headers=((f"x-{KEY}\r", "1"),)), "a header for it"),
]


@pytest.mark.parametrize(("address", "words"), ODD, ids=range(len(ODD)))
async def test_address_that_cannot_be_is_a_fault(address: Address, words: str) -> None:
    async with an_upstream() as upstream:
        told = await exchange(upstream, request_to(address))
    assert told.fault.kind == "connect"
    assert words in told.fault.detail
    assert KEY not in told.fault.detail


def test_nothing_shows_the_headers_of_an_address() -> None:
    address = Address("h", 80, headers=(("authorization", f"Bearer {KEY}"),))
    assert KEY not in repr(address)
    assert KEY not in repr(destination_of(address))
    assert KEY not in repr(request_to(address))


async def test_what_is_kept_of_addresses_is_bounded_and_forgotten() -> None:
    async with an_upstream() as upstream:
        for number in range(DESTINATIONS_LIMIT + 10):
            upstream._learn(Address("127.0.0.1", 1, prefix=f"/{number}"))
            assert len(upstream._destinations) <= DESTINATIONS_LIMIT
        last = Address("127.0.0.1", 1, prefix=f"/{DESTINATIONS_LIMIT + 9}")
        assert last in upstream._destinations
        upstream.forget(last)
        assert last not in upstream._destinations
        receiver = Remembering()
        await upstream.start(request_to(last), receiver)
        assert receiver.fault.kind == "connect"
