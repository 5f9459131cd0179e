"""One connection to a backend, with or without TLS, and the framing of the answers on it."""

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Protocol, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser
from typing_extensions import override

from supervisord.adapters.upstream.destination import Destination
from supervisord.adapters.upstream.exchange import RelayExchange
from supervisord.ports import UpstreamFault

HEAD_LIMIT = 64 * 1024  # bytes of one answer's head; also of anything else that brings no body and no end
STALE_WITHIN_S = 1.0  # a kept connection that the server had closed tells so at once; later, the server died at work
JOIN_LIMIT = 64 * 1024  # bodies up to this are copied behind the head, for one write; larger ones are not copied


class Owner(Protocol):
    """Who keeps the connections."""

    def opened(self, connection: "Connection") -> None: ...

    def freed(self, connection: "Connection") -> None:
        """Its answer is whole, and it can carry another request."""
        ...

    def lost(self, connection: "Connection") -> None: ...

    def stale(self, exchange: RelayExchange, fault: UpstreamFault) -> None:
        """It was reused, and had been closed before the request could reach the server."""
        ...


class Connection(asyncio.Protocol):
    """Carries one exchange at a time.

    The parser's callbacks only gather; the receiver is called after each read, outside the parser, so that one read
    with many chunks becomes one `on_data`, and the receiver may abort or raise without entangling the parser.
    """

    __slots__ = (
        "_answer_fields",
        "_answered",
        "_complete",
        "_exchange",
        "_fields",
        "_head",
        "_keep_alive",
        "_loop",
        "_owner",
        "_parser",
        "_parts",
        "_paused_at",
        "_reused",
        "_timer",
        "_transport",
        "_unproductive",
        "destination",
        "heard_at",
        "on_body",
    )

    def __init__(self, owner: Owner, destination: Destination, loop: asyncio.AbstractEventLoop) -> None:
        self.destination = destination
        self.heard_at = 0.0  # monotonic seconds of the last read; when idle: since then
        self.on_body: Callable[[bytes], None]  # the parser calls list.append directly: no Python frame per chunk
        self._owner = owner
        self._loop = loop
        self._transport: asyncio.Transport
        self._exchange: RelayExchange | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._paused_at = 0.0
        self._reused = False
        self._parts: list[bytes] = []
        self._fields: list[tuple[bytes, bytes]] = []
        self._head: tuple[int, list[tuple[bytes, bytes]]] | None = None
        self._answer_fields: list[tuple[bytes, bytes]] | None = None
        self._answered = False
        self._complete = False
        self._keep_alive = False
        self._unproductive = 0
        self.on_body = self._parts.append
        self._parser = HttpResponseParser(self)

    @property
    def usable(self) -> bool:
        return not self._transport.is_closing()

    def begin(self, exchange: RelayExchange, head: bytes) -> None:
        """Send a request. The connection must be free."""
        exchange.line = self
        self._exchange = exchange
        self._head = self._answer_fields = None
        self._answered = self._complete = self._keep_alive = False
        self._unproductive = 0
        self.heard_at = self._paused_at = monotonic()
        self._arm(exchange.request.idle_timeout_s)
        body = exchange.request.body
        if len(body) <= JOIN_LIMIT:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._transport.write(body)
        if exchange.paused:
            self._transport.pause_reading()

    def close(self) -> None:
        """Close a connection that carries nothing."""
        if not self._transport.is_closing():  # asyncio before 3.11.5 cannot abort TLS that was closed twice
            self._transport.close()

    # --- the exchange's hold on it --------------------------------------------------------------------------------

    def pause(self) -> None:
        self._paused_at = monotonic()
        if self.usable:
            self._transport.pause_reading()

    def resume(self) -> None:
        self.heard_at += monotonic() - self._paused_at
        if self.usable:
            self._transport.resume_reading()

    def abort(self) -> None:
        self._exchange = None
        self._transport.abort()

    def fail(self, kind: str, detail: str) -> None:
        """Break off, and tell the receiver why."""
        exchange = self._exchange
        self.abort()
        if exchange is not None:
            exchange.fail(UpstreamFault(kind, detail))

    # --- asyncio.Protocol -----------------------------------------------------------------------------------------

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._owner.opened(self)

    @override
    def data_received(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None:  # nobody asked: it can never be told apart from a later answer
            self._transport.abort()
            return
        self.heard_at = monotonic()
        self._answered = True
        self._unproductive += len(data)
        problem = ""
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            problem = self._what_is_wrong(error)
        if self._unproductive > HEAD_LIMIT and not problem:
            problem = self._overlong()
        try:
            self._deliver(exchange, problem)
        except Exception as error:  # noqa: BLE001 - a receiver's bug is the loop's to report, and hurts no one else
            exchange.report(error)

    @override
    def eof_received(self) -> None:
        # Closing would first wait for the rest of our request to be taken, by a peer that may take no more of it.
        self._transport.abort()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        del self._parser  # it holds on to this: what was read would else stay until the garbage collector comes by
        self._owner.lost(self)
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            return
        if exc is None and self._ends_with_connection():
            exchange.finish()
            return
        fault = UpstreamFault("eof", self._cut_where()) if exc is None else UpstreamFault("reset", self._cut_how(exc))
        if self._may_be_stale():
            self._owner.stale(exchange, fault)
        else:
            exchange.fail(fault)

    # --- what the parser calls ------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._complete:
            raise ValueError("bytes after the end of the answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200:
            self._head = (status, self._fields)
        self._fields = []  # 1xx heads are skipped, and so are the trailers that may follow a body

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() >= 200:
            self._complete = True
            self._keep_alive = self._parser.should_keep_alive()
        if self._fields:
            self._fields = []

    # --- within -----------------------------------------------------------------------------------------------------

    def _deliver(self, exchange: RelayExchange, problem: str) -> None:
        if self._head is not None:
            status, fields = self._head
            self._head = None
            self._answer_fields = fields
            exchange.receiver.on_head(status, fields)
            if exchange.request.method == "HEAD":  # its Content-Length announces a body that never comes
                self._complete = True
        parts = self._parts
        if parts:
            self._unproductive = 0
            data = parts[0] if len(parts) == 1 else b"".join(parts)
            parts.clear()
            if not exchange.over:
                exchange.receiver.on_data(data)
        if exchange.over:
            return
        if problem:
            self.fail("protocol", problem)
        elif self._complete:
            self._finish(exchange)

    def _finish(self, exchange: RelayExchange) -> None:
        """Give the connection back before the receiver is told: it may start its next request from there."""
        self._exchange = None
        if exchange.paused:
            self._transport.resume_reading()
        if not self._keep_alive:
            self.close()
        elif self._transport.get_write_buffer_size():  # answered without reading all of the request
            self._transport.abort()
        else:
            self._reused = True
            self._owner.freed(self)
        exchange.finish()

    def _arm(self, seconds: float) -> None:
        """Have `_check_idle` run `seconds` from now or earlier.

        The timer is left running from one exchange to the next and looks for itself how late it is: arming and
        cancelling one for each request would cost more than the rest of `begin`.
        """
        when = self._loop.time() + seconds
        if self._timer is not None:
            if self._timer.when() <= when:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._check_idle)

    def _check_idle(self) -> None:
        self._timer = None
        exchange = self._exchange
        if exchange is None:
            return
        limit = exchange.request.idle_timeout_s
        left = limit if exchange.paused else self.heard_at + limit - monotonic()
        if left > 0:
            self._arm(left)
        else:
            self.fail("idle", f"nothing came from {self._name} for {limit:g} s")

    @property
    def _name(self) -> str:
        return self.destination.name

    def _ends_with_connection(self) -> bool:
        """Whether the answer has neither a length nor chunks, so that the end of the connection is its own."""
        fields = self._answer_fields
        if fields is None:
            return False
        return not any(
            name == b"content-length" or (name == b"transfer-encoding" and value.lower().endswith(b"chunked"))
            for name, value in fields
        )

    def _may_be_stale(self) -> bool:
        """Whether it was closed while it was kept. A retry goes to a fresh connection, so there is only one."""
        return self._reused and not self._answered and monotonic() - self.heard_at < STALE_WITHIN_S

    def _cut_where(self) -> str:
        if not self._answered:
            return f"{self._name} closed the connection without an answer"
        if self._answer_fields is None:
            return f"{self._name} closed the connection within the head of its answer"
        return f"{self._name} closed the connection before the end of its answer"

    def _cut_how(self, error: Exception) -> str:
        where = "in its answer" if self._answered else "before any answer"
        return f"{self._name} broke the connection {where}: {getattr(error, 'strerror', None) or error}"

    def _what_is_wrong(self, error: Exception) -> str:
        if self._complete:
            return f"{self._name} sent bytes after the end of its answer"
        if isinstance(error, HttpParserUpgrade):
            return f"{self._name} switched to another protocol, unasked"
        return f"{self._name} answered what is not HTTP: {error}"

    def _overlong(self) -> str:
        """What is wrong with a read that took the bytes since the last of the body beyond the limit, if anything."""
        if self._head is not None:
            size = sum(len(name) + len(value) + 4 for name, value in self._head[1])
            return f"{self._name} answered with a head of {size} bytes" if size > HEAD_LIMIT else ""
        if self._parts or self._complete:
            return ""
        what = "a head" if self._answer_fields is None else "chunk extensions or trailers"
        return f"{self._name} sent more than {HEAD_LIMIT} bytes of {what}"
