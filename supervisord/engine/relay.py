"""One attempt: bytes from a backend to a client as they come, and what is worth knowing about them."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from supervisord.core.answer import (
    Refusal,
    StreamWatch,
    error_kind,
    error_message,
    is_engine_death,
    refusal,
    usage,
)
from supervisord.core.dialect import LAST_WORD, Dialect, error_event, in_shape
from supervisord.core.hang import prompt_tokens
from supervisord.core.job import FailureReason, JobStatus
from supervisord.engine.generation import Generation
from supervisord.engine.outcome import FAULTS, Answer, AttemptOutcome
from supervisord.ports import Client, Clock, Exchange, Upstream, UpstreamFault, UpstreamRequest

BODY_LIMIT = 16 * 1024 * 1024  # of an answer that is kept until it is whole; a longer one is relayed as it comes

# Hop-by-hop headers (RFC 9110, 7.6.1), those that the daemon writes itself, and cookies: those of one service would go
# out to every client, and come back to whichever backend serves next.
_NOT_RELAYED = frozenset(
    (
        b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade",
        b"content-length", b"server", b"date", b"access-control-allow-origin", b"set-cookie", b"set-cookie2",
    )
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class RelayPolicy:
    client_stall_s: float = 60.0
    keep_output: bool = False


class Attempt:
    """Takes what one backend answers to one request: a `ports.Receiver`.

    A plain answer is kept until it is whole, so that its loss can be made good by another attempt. A stream is handed
    on event by event, and commits the client to this attempt with its first event.
    """

    def __init__(
        self,
        client: Client,
        generation: Generation,
        clock: Clock,
        policy: RelayPolicy,
        *,
        stream: bool,
        dialect: Dialect = Dialect.CHAT,
        hide_usage: bool = False,
        elsewhere: bool = False,
        tokens: int = 0,
    ) -> None:
        """`elsewhere`: it goes to a service that is not ours, whose errors may be of our account with it.

        `tokens`: prompt and longest answer, where somebody counted.
        """
        self._client = client
        self._generation = generation
        self._clock = clock
        self._policy = policy
        self._stream = stream
        self._elsewhere = elsewhere
        self._counted = tokens
        self._dialect = dialect
        self._watch = StreamWatch(dialect, hide_usage=hide_usage)
        self._status: int | None = None
        self._headers: tuple[tuple[str, str], ...] = ()
        self._streaming = False
        self._parts: list[bytes] = []
        self._size = 0
        self._kept: list[bytes] = []
        self._kept_size = 0
        self._first_byte: float | None = None
        self._committed = False  # the client has the head: this attempt is its answer
        self._finished = False  # the client has been told that it has all of it
        self._sent = 0
        self._exchange: Exchange | None = None
        self._outcome: AttemptOutcome | None = None
        self._stalled = False
        self._wakeup: asyncio.Future[None] | None = None
        self._patience: asyncio.Timeout | None = None  # with a client that does not read
        self.extra_headers: tuple[tuple[str, str], ...] = ()

    async def run(self, upstream: Upstream, request: UpstreamRequest) -> AttemptOutcome:
        """Send the request and see it through. On cancellation the backend is cut off at once."""
        self._generation.unanswered[id(self)] = prompt_tokens(len(request.body), self._counted)
        try:
            exchange = await upstream.start(request, self)
            self._exchange = exchange
            if self._outcome is not None:
                exchange.abort()  # it was ended from outside while connecting
            while self._outcome is None:
                if self._stalled:
                    await self._wait_for_client()
                else:
                    self._wakeup = asyncio.get_running_loop().create_future()
                    await self._wakeup
        except asyncio.CancelledError:
            self._abort_exchange()
            raise
        finally:
            self._generation.unanswered.pop(id(self), None)
            self._exchange = None  # each holds the other, and the body: they would stay until garbage is collected
        return self._outcome

    async def _wait_for_client(self) -> None:
        self._generation.slow_clients += 1
        try:
            async with asyncio.timeout(self._policy.client_stall_s) as self._patience:
                await self._client.drained()
        except TimeoutError:
            if self._outcome is not None:
                return  # the attempt ended meanwhile, and woke us
            detail = f"the client took nothing for {self._policy.client_stall_s:g} s"
            self._abort_exchange()
            self._client.abort()
            self._end(self._failed(FailureReason.SLOW_CLIENT, detail))
            return
        finally:
            self._patience = None
            self._generation.slow_clients -= 1
        self._stalled = False
        if self._exchange is not None and self._outcome is None:
            self._exchange.resume()

    # --- what the backend sends --------------------------------------------------------------------------------------

    def on_head(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        self._status = status
        self._headers = tuple(
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in headers if name not in _NOT_RELAYED
        )
        kind = next((value for name, value in headers if name == b"content-type"), b"")
        self._streaming = self._stream and status < 400 and kind.startswith(b"text/event-stream")

    def on_data(self, data: bytes) -> None:
        if self._outcome is not None:
            return
        if self._streaming:
            self._on_events(self._watch.feed(data))
            return
        self._progressed()
        if self._committed:
            self._send(data)
            return
        self._parts.append(data)
        self._size += len(data)
        if self._size > BODY_LIMIT:
            self._outgrown()

    def _outgrown(self) -> None:
        if (self._status or 0) >= 400:
            self._abort_exchange()
            self._break(FailureReason.BACKEND_PROTOCOL, f"an error answer of more than {BODY_LIMIT} bytes")
            return
        self._commit(length=None)
        self._send(b"".join(self._parts))
        self._parts.clear()

    def _on_events(self, data: bytes) -> None:
        if not data:
            return
        if b"data:" in data:
            self._progressed()
        elif not self._committed:
            return  # a keep-alive comment is no progress, and no reason to give up another attempt
        if not self._committed:
            if self._watch.failed:  # an error before anything else: another attempt can still do better
                self._abort_exchange()
                self._end(self._failed(_blame(data), self._words_of(data), retriable=True))
                return
            self._commit(length=None)
        self._send(in_shape(self._dialect, data) if self._watch.failed else data)

    def _progressed(self) -> None:
        now = self._clock.monotonic()
        self._generation.last_bytes = now
        if self._first_byte is None:
            self._first_byte = now
            self._generation.unanswered.pop(id(self), None)

    def on_end(self) -> None:
        if self._outcome is not None:
            return
        if self._streaming:
            self._end_stream()
        else:
            self._end_plain()

    def _words_of(self, body: bytes) -> str:
        """What an error says. Servers quote the prompt in it, so its text is kept only where prompts are."""
        return error_message(body) if self._policy.keep_output else error_kind(body)

    def _end_plain(self) -> None:
        status = self._status or 0
        body = b"".join(self._parts)
        refused = refusal(status, body, elsewhere=self._elsewhere)
        if refused is not None:
            self._end(self._refused(refused, Answer(status, self._headers, body)))
            return
        if not self._committed:
            self._commit(length=len(body))
            self._send(body)
            if self._outcome is not None:  # it is more than the client can take
                return
        self._finish(body)

    def _refused(self, refused: Refusal, answer: Answer) -> AttemptOutcome:
        busy = refused.reason is FailureReason.BACKEND_BUSY
        return AttemptOutcome(
            JobStatus.FAILED,
            refused.reason,
            f"status {answer.status}: {self._words_of(answer.body)}",
            retriable=refused.retriable,
            http_status=answer.status,
            answer=answer,
            retry_after_s=answer.retry_after_s(self._clock.wall()) if busy else None,
        )

    def _end_stream(self) -> None:
        rest = self._watch.rest()
        if rest:
            self._on_events(rest)
        if self._outcome is not None:
            return
        if self._watch.failed:  # the error event itself has reached the client
            self._client.finish()
            self._end(self._failed_in_band())
        elif self._watch.done:
            self._finish(self._watch.evidence)
        else:
            self._break(FailureReason.STREAM_CUT, f"the stream ended without {LAST_WORD[self._dialect]}")

    def on_fault(self, fault: UpstreamFault) -> None:
        if self._outcome is not None:
            return
        if fault.kind == "internal":  # perhaps that of the client's side: it is asked for nothing more
            self._end(self._failed(FailureReason.INTERNAL, fault.detail))
            self._client.abort()
            return
        self._break(FAULTS.get(fault.kind, FailureReason.BACKEND_PROTOCOL), f"{fault.kind}: {fault.detail}")

    # --- what ends it from outside -----------------------------------------------------------------------------------

    def fail(self, reason: FailureReason, detail: str) -> None:
        """End the attempt: the backend is being killed, or the job was cancelled."""
        if self._outcome is None:
            self._abort_exchange()
            self._break(reason, detail)

    def _break(self, reason: FailureReason, detail: str) -> None:
        """It will not become whole. Before the first byte nobody has to know; after it the client is told in-band."""
        if self._committed and self._streaming and self._watch.done and not self._finished:
            # It is whole, whatever came after its end.
            self._finish(self._watch.evidence)
            return
        retriable = not self._committed and reason is not FailureReason.CANCELLED
        if self._committed and self._streaming:
            gap = b"" if self._watch.tail.endswith(b"\n") else b"\n\n"
            event = error_event(self._dialect, f"The answer was cut off: {detail}", "backend_error", reason.value)
            self._client.write(gap + event)
            self._client.finish()
        elif self._committed:
            self._client.abort()
        self._end(self._failed(reason, detail, retriable=retriable))

    # --- towards the client ------------------------------------------------------------------------------------------

    def _finish(self, evidence: bytes) -> None:
        """It came whole. A client that cannot take it for an answer ends the attempt by itself."""
        self._finished = True
        self._client.finish()
        if self._outcome is None:
            self._end(self._succeeded(evidence))

    def _commit(self, *, length: int | None) -> None:
        headers = (*self._headers, *self.extra_headers)
        if self._streaming:
            headers = (*(h for h in headers if h[0] != "cache-control"), *_STREAM_HEADERS)
        self._client.start(self._status or 200, headers, length=length)
        self._committed = True

    def _send(self, data: bytes) -> None:
        self._sent += len(data)
        if self._policy.keep_output and self._kept_size < BODY_LIMIT:
            self._kept.append(data)
            self._kept_size += len(data)
        if not self._client.write(data) and not self._stalled and self._outcome is None:
            self._stalled = True
            if self._exchange is not None:
                self._exchange.pause()
            self._wake()

    # --- outcomes ----------------------------------------------------------------------------------------------------

    def _succeeded(self, evidence: bytes) -> AttemptOutcome:
        return AttemptOutcome(
            JobStatus.DONE,
            reached_client=True,
            http_status=self._status,
            first_byte=self._first_byte,
            usage=usage(evidence),
            bytes_out=self._sent,
            output=self._output(),
        )

    def _failed(self, reason: FailureReason, detail: str, *, retriable: bool = False) -> AttemptOutcome:
        return AttemptOutcome(
            JobStatus.CANCELLED if reason is FailureReason.CANCELLED else JobStatus.FAILED,
            reason,
            detail,
            retriable=retriable,
            reached_client=self._committed,
            http_status=self._status,
            first_byte=self._first_byte,
            usage=usage(self._watch.evidence),
            bytes_out=self._sent,
            output=self._output(),
        )

    def _failed_in_band(self) -> AttemptOutcome:
        error = self._watch.tail
        return self._failed(_blame(error), self._words_of(error))

    def _output(self) -> bytes | None:
        return b"".join(self._kept) if self._kept else None

    def _end(self, outcome: AttemptOutcome) -> None:
        self._outcome = outcome
        if self._patience is not None and not self._patience.expired():
            self._patience.reschedule(asyncio.get_running_loop().time())
        self._wake()

    def _wake(self) -> None:
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)

    def _abort_exchange(self) -> None:
        if self._exchange is not None:
            self._exchange.abort()

    def gone(self) -> AttemptOutcome:
        """The client left: what is known of the attempt until then.

        SDKs close as soon as they have read [DONE], or an error: such an answer has come to its end.
        """
        if self._outcome is not None:
            return self._outcome
        self._abort_exchange()
        if self._streaming and self._watch.done:
            return self._succeeded(self._watch.evidence)
        if self._committed and self._watch.failed:
            return self._failed_in_band()
        left = self._failed(FailureReason.CLIENT_LEFT, "the client closed the connection")
        return replace(left, status=JobStatus.CANCELLED)


def _blame(error: bytes) -> FailureReason:
    """The reason behind an error event: a server that said that its engine is dead is not asked again."""
    return FailureReason.BACKEND_DIED if is_engine_death(error) else FailureReason.BACKEND_ERROR


_STREAM_HEADERS = (("cache-control", "no-cache"), ("x-accel-buffering", "no"))
