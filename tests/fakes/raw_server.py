"""A server that sends bytes exactly as told, and tells what became of its connections."""

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

PATIENCE_S = 5.0
Answering = Callable[["Peer"], Awaitable[None]]


class Peer:
    """One accepted connection, `number` counting from 1. `script` of the server runs for each."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        self.reader = reader
        self.writer = writer
        self.number = number
        self.requests: list[bytes] = []

    async def request(self) -> bytes:
        """The next request with its body; b"" when the client has closed."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return b""
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
        self.requests.append(head + await self.reader.readexactly(length))
        return self.requests[-1]

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def closed_by_client(self) -> None:
        """Returns once the client has gone."""
        async with asyncio.timeout(PATIENCE_S):
            with suppress(ConnectionError):
                while await self.reader.read(65536):
                    pass

    def reset(self) -> None:
        """Close with RST."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


class RawServer:
    def __init__(self, answering: Answering) -> None:
        self._answering = answering
        self._scripts: list[asyncio.Task[None]] = []
        self.peers: list[Peer] = []
        self.listener: asyncio.Server
        self.port = 0

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer, len(self.peers) + 1)
        self.peers.append(peer)
        self._scripts.append(asyncio.get_running_loop().create_task(self._play(peer)))

    async def close(self) -> None:
        """End what still runs; raises what a script raised."""
        self.listener.close()
        await turns()  # asyncio has accepted connections that it has not yet told of
        for script in self._scripts:
            script.cancel()
        for peer in self.peers:
            with suppress(AttributeError):  # asyncio before 3.11.5: of a TLS connection that is closed already
                peer.writer.transport.abort()
        await turns()
        for script in self._scripts:
            with suppress(asyncio.CancelledError):
                await script

    async def _play(self, peer: Peer) -> None:
        with suppress(ConnectionError):
            await self._answering(peer)
        peer.writer.close()


async def turns() -> None:
    """Let the loop do what it has already been given."""
    for _ in range(6):
        await asyncio.sleep(0)


@asynccontextmanager
async def raw_server(
    answering: Answering, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> AsyncIterator[RawServer]:
    """Serve on a free port; `answering` runs once for each connection, which is closed when it returns."""
    server = RawServer(answering)
    server.listener = await asyncio.start_server(server.accept, host, 0, ssl=tls)
    server.port = server.listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        await server.close()
