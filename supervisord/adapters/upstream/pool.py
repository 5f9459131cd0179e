"""The kept connections, and how a request gets one."""

import asyncio
import os
import ssl
from contextlib import suppress
from functools import partial
from time import monotonic

from supervisord.adapters.upstream.connection import Connection
from supervisord.adapters.upstream.destination import Destination, Key, destination_of, key_of
from supervisord.adapters.upstream.exchange import RelayExchange, encode_head
from supervisord.ports import Receiver, UpstreamFault, UpstreamRequest
from supervisord.runtimes.base import Address

IDLE_LIMIT = 64  # kept connections to one address; more were in flight at once than ever will be again soon
IDLE_FOR_S = 30.0  # uvicorn (vLLM) closes after 5 s of silence, cpp-httplib (llama.cpp) after 5 s, nginx after 75 s
CLOSE_WITHIN_S = 1.0  # for the loop to see its own aborted connections off
DESTINATIONS_LIMIT = 1024  # every start of a backend has a port of its own; a few are in use at a time


class HttpUpstream:
    """A ports.Upstream over HTTP/1.1, plain or with TLS.

    Certificates are verified against the system's authorities, or those in $SSL_CERT_FILE, as read at the first
    connection that needs them. Proxies of the environment play no part.

    Everything runs on the loop that calls `start`. With a kept connection at hand `start` does not suspend.
    """

    def __init__(self, *, idle_limit: int = IDLE_LIMIT, idle_for_s: float = IDLE_FOR_S) -> None:
        self._idle_limit = idle_limit
        self._idle_for_s = idle_for_s
        self._idle: dict[Key, list[Connection]] = {}  # newest last
        self._destinations: dict[Address, Destination] = {}
        self._tls: ssl.SSLContext | None = None
        self._open: set[Connection] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._retries: set[asyncio.Task[None]] = set()
        self._closed = False
        self._all_lost = asyncio.Event()

    async def start(self, request: UpstreamRequest, receiver: Receiver) -> RelayExchange:
        """Send a request; the answer goes to `receiver`.

        A failure to connect, and an address that cannot be, is told by `receiver.on_fault` before this returns. Raises
        ValueError for a request that cannot be put into HTTP. The caller's headers must not name Host, Content-Length
        or Transfer-Encoding, nor what the address's own headers name.
        """
        exchange = RelayExchange(request, receiver)
        try:
            destination = self._destinations.get(request.address) or self._learn(request.address)
        except ValueError as error:
            exchange.fail(UpstreamFault("connect", str(error)))
            return exchange
        head = encode_head(request, destination)
        connection = self._take(destination.key)
        if connection is not None:
            connection.begin(exchange, head)
            return exchange
        problem = await self._begin_on_new(exchange, destination, head)
        if problem:
            exchange.fail(UpstreamFault("connect", problem))
        return exchange

    def forget(self, address: Address) -> None:
        self._destinations.pop(address, None)
        for connection in self._idle.pop(key_of(address), ()):
            connection.close()

    async def close(self) -> None:
        """Close every connection; what is still in flight ends with a fault."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._idle.clear()
        self._all_lost.clear()
        for retry in self._retries:
            retry.cancel()
        for connection in tuple(self._open):
            connection.fail("reset", "the daemon closed the connection: it is going down")
        if self._retries:
            await asyncio.wait(self._retries, timeout=CLOSE_WITHIN_S)
        if self._open:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_WITHIN_S):
                    await self._all_lost.wait()

    # --- connection.Owner -----------------------------------------------------------------------------------------

    def opened(self, connection: Connection) -> None:
        self._open.add(connection)

    def freed(self, connection: Connection) -> None:
        key = connection.destination.key
        idle = self._idle.get(key)
        if idle is None:
            idle = self._idle[key] = []
        if self._closed or len(idle) >= self._idle_limit:
            connection.close()
            return
        idle.append(connection)
        if self._sweeper is None:
            self._sweep_in(self._idle_for_s)

    def lost(self, connection: Connection) -> None:
        self._open.discard(connection)
        idle = self._idle.get(connection.destination.key, [])
        if connection in idle:
            idle.remove(connection)
        if not self._open:
            self._all_lost.set()

    def stale(self, exchange: RelayExchange, fault: UpstreamFault) -> None:
        # Called from within connection_lost, where nothing can be awaited; close() cancels and awaits it.
        retry = asyncio.get_running_loop().create_task(self._retry(exchange, fault), name="upstream-retry")
        self._retries.add(retry)
        retry.add_done_callback(partial(self._retried, exchange, fault))

    # --- within -----------------------------------------------------------------------------------------------------

    def _learn(self, address: Address) -> Destination:
        """Raises ValueError for an address that no request can be sent to."""
        destination = destination_of(address)
        if len(self._destinations) >= DESTINATIONS_LIMIT:
            self._destinations.clear()
        self._destinations[address] = destination
        return destination

    def _take(self, key: Key) -> Connection | None:
        idle = self._idle.get(key)
        while idle:
            connection = idle.pop()
            if connection.usable:
                return connection
        return None

    async def _begin_on_new(self, exchange: RelayExchange, destination: Destination, head: bytes) -> str:
        """Connect and send. Returns what went wrong, in words; empty when the request is on its way."""
        limit = exchange.request.connect_timeout_s
        try:
            async with asyncio.timeout(limit):
                connection = await self._connect(destination)
        except TimeoutError:
            return f"no connection to {destination.name} within {limit:g} s"
        except (OSError, ValueError) as error:  # the latter: a name that DNS cannot have
            return f"{destination.name}: {_reason(error)}"
        if self._closed or exchange.over or not connection.usable:
            connection.close()
            return f"the connection to {destination.name} was closed before the request was sent"
        connection.begin(exchange, head)
        return ""

    async def _connect(self, destination: Destination) -> Connection:
        loop = asyncio.get_running_loop()
        tls = await self._tls_context() if destination.tls else None
        making = partial(Connection, self, destination, loop)
        _, connection = await loop.create_connection(making, destination.host, destination.port, ssl=tls)
        return connection

    async def _tls_context(self) -> ssl.SSLContext:
        if self._tls is None:
            # In a thread: to read some 150 authorities takes tens of milliseconds, in which no stream would move.
            context = await asyncio.to_thread(ssl.create_default_context)
            context.set_alpn_protocols(["http/1.1"])
            self._tls = context
        return self._tls

    async def _retry(self, exchange: RelayExchange, fault: UpstreamFault) -> None:
        """Send once more on a connection that cannot be stale; the first fault counts when there is none to be had.

        It is not a fault of kind "connect": the first connection may have carried the request to a server that then
        died of it.
        """
        destination = destination_of(exchange.request.address)
        problem = await self._begin_on_new(exchange, destination, encode_head(exchange.request, destination))
        if problem:
            exchange.fail(UpstreamFault(fault.kind, f"{fault.detail}; connecting again: {problem}"))

    def _retried(self, exchange: RelayExchange, fault: UpstreamFault, retry: asyncio.Task[None]) -> None:
        self._retries.discard(retry)
        if retry.cancelled() or retry.exception() is not None:  # perhaps before its first step
            exchange.fail(fault)

    def _sweep_in(self, seconds: float) -> None:
        self._sweeper = asyncio.get_running_loop().call_later(seconds, self._sweep)

    def _sweep(self) -> None:
        """Close what has been idle for long, the oldest of each address first; one timer for all of them."""
        self._sweeper = None
        now = monotonic()
        for address, idle in tuple(self._idle.items()):
            while idle and now - idle[0].heard_at >= self._idle_for_s:
                idle.pop(0).close()
            if not idle:
                del self._idle[address]
        oldest = min((idle[0].heard_at for idle in self._idle.values()), default=None)
        if oldest is not None:
            self._sweep_in(max(oldest + self._idle_for_s - now, 0.01))


def _reason(error: Exception) -> str:
    """asyncio puts the address into `strerror`, resolvers a negative number into `errno`."""
    match error:
        case ssl.SSLCertVerificationError():
            message = error.verify_message.rstrip(".")
            return f"its certificate is refused: {message}; if an authority of your own signed it, set SSL_CERT_FILE"
        case ssl.SSLError():
            return f"no TLS with it: {(error.reason or 'handshake failed').lower().replace('_', ' ')}"
        case OSError() if error.errno is not None and error.errno > 0:
            return os.strerror(error.errno).lower()
        case OSError():
            return str(error.strerror or error) or "the connection was closed"
        case _:
            return str(error)
