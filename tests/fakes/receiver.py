"""A ports.Receiver that remembers, and tells when the exchange is over."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from supervisord.adapters.upstream import HttpUpstream
from supervisord.adapters.upstream.connection import Connection
from supervisord.adapters.upstream.exchange import RelayExchange
from supervisord.ports import UpstreamFault, UpstreamRequest
from supervisord.runtimes.base import Address

PATIENCE_S = 5.0


class Remembering:
    """`ending` is "end", or the fault. Anything told after it is an error of the sender."""

    def __init__(self) -> None:
        self.heads: list[tuple[int, Sequence[tuple[bytes, bytes]]]] = []
        self.parts: list[bytes] = []
        self.endings: list[str | UpstreamFault] = []
        self._over = asyncio.Event()
        self._told = asyncio.Event()

    @property
    def body(self) -> bytes:
        return b"".join(self.parts)

    @property
    def status(self) -> int | None:
        return self.heads[0][0] if self.heads else None

    @property
    def fault(self) -> UpstreamFault:
        assert isinstance(self.endings[0], UpstreamFault), self.endings
        return self.endings[0]

    def on_head(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        assert not self.heads
        assert not self.endings
        self.heads.append((status, headers))
        self._told.set()

    def on_data(self, data: bytes) -> None:
        assert self.heads
        assert not self.endings
        assert data
        self.parts.append(data)
        self._told.set()

    def on_end(self) -> None:
        self._end("end")

    def on_fault(self, fault: UpstreamFault) -> None:
        self._end(fault)

    def _end(self, ending: str | UpstreamFault) -> None:
        assert not self.endings, (self.endings, ending)
        self.endings.append(ending)
        self._over.set()
        self._told.set()

    async def over(self) -> "Remembering":
        async with asyncio.timeout(PATIENCE_S):
            await self._over.wait()
        return self

    async def told(self) -> None:
        """Returns once something more has come."""
        self._told.clear()
        async with asyncio.timeout(PATIENCE_S):
            await self._told.wait()


def request_to(
    port: int | Address, body: bytes = b"{}", *, idle_timeout_s: float = 5.0, method: str = "POST"
) -> UpstreamRequest:
    address = Address("127.0.0.1", port) if isinstance(port, int) else port
    headers = (("content-type", "application/json"),)
    return UpstreamRequest(address, method, "/v1/chat/completions", headers, body, idle_timeout_s)


async def exchange(upstream: HttpUpstream, request: UpstreamRequest) -> Remembering:
    """One whole exchange."""
    receiver = Remembering()
    await upstream.start(request, receiver)
    return await receiver.over()


class WatchedUpstream(HttpUpstream):
    """Tells when a connection was lost, and when a stale one is about to be retried."""

    def __init__(self, *, idle_limit: int, idle_for_s: float) -> None:
        super().__init__(idle_limit=idle_limit, idle_for_s=idle_for_s)
        self.one_lost = asyncio.Event()
        self.one_stale = asyncio.Event()

    def lost(self, connection: Connection) -> None:
        super().lost(connection)
        self.one_lost.set()

    def stale(self, exchange: RelayExchange, fault: UpstreamFault) -> None:
        super().stale(exchange, fault)
        self.one_stale.set()


@asynccontextmanager
async def an_upstream(*, idle_limit: int = 64, idle_for_s: float = 30.0) -> AsyncIterator[WatchedUpstream]:
    upstream = WatchedUpstream(idle_limit=idle_limit, idle_for_s=idle_for_s)
    try:
        yield upstream
    finally:
        await upstream.close()
