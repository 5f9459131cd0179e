"""One request and its answer, apart from the connection that carries it: a late `abort` must never hit the next one."""

import asyncio
from typing import Protocol

from supervisord.adapters.upstream.destination import Destination
from supervisord.ports import Receiver, UpstreamFault, UpstreamRequest


class Line(Protocol):
    """The connection that carries an exchange."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def abort(self) -> None: ...


class RelayExchange:
    """A ports.Exchange. `line` is None before it is connected, and once it is over."""

    __slots__ = ("line", "over", "paused", "receiver", "request")

    def __init__(self, request: UpstreamRequest, receiver: Receiver) -> None:
        self.request = request
        self.receiver = receiver
        self.line: Line | None = None
        self.over = False
        self.paused = False

    def pause(self) -> None:
        if not self.paused:
            self.paused = True
            if self.line is not None:
                self.line.pause()

    def resume(self) -> None:
        if self.paused:
            self.paused = False
            if self.line is not None:
                self.line.resume()

    def abort(self) -> None:
        line = self._close()
        if line is not None:
            line.abort()

    def finish(self) -> None:
        """Tell that the answer is whole."""
        self._close()
        try:
            self.receiver.on_end()
        except Exception as error:  # noqa: BLE001 - a receiver's bug is the loop's to report, and hurts no one else
            self.report(error)

    def fail(self, fault: UpstreamFault) -> None:
        """Tell that the answer will not become whole; nothing once the exchange is over."""
        if self.over:
            return
        self._close()
        try:
            self.receiver.on_fault(fault)
        except Exception as error:  # noqa: BLE001 - as in finish()
            self.report(error)

    def report(self, error: Exception) -> None:
        """End the exchange over an exception its receiver raised: hand that to the loop's handler, and tell of it."""
        self.abort()
        context = {"message": "a receiver of an upstream answer raised; the exchange was aborted", "exception": error}
        asyncio.get_running_loop().call_exception_handler(context)
        words = f"the daemon failed to take the answer: {type(error).__name__}"
        self.receiver.on_fault(UpstreamFault("internal", words))

    def _close(self) -> Line | None:
        line, self.line = self.line, None
        self.over = True
        return line


def encode_head(request: UpstreamRequest, destination: Destination) -> bytes:
    """The head of a request, with Host, the address's headers and Content-Length added to the caller's headers.

    Raises ValueError where method, path or a header would break out of its line, or has no Latin-1 form.
    """
    line = f"{request.method} {destination.prefix}{request.path} HTTP/1.1"
    fields = "".join([f"{name}: {value}\r\n" for name, value in request.headers])
    head = f"{line}\r\n{destination.fields}{fields}content-length: {len(request.body)}\r\n\r\n"
    lines = destination.lines + len(request.headers) + 3
    if head.count("\n") != lines or head.count("\r") != lines or line.count(" ") != 2:
        raise ValueError(f"request to {destination.name}: a line break or blank inside its head: {line!r}")
    return head.encode("latin-1")
