"""One client's connection: its requests are answered in order, and every wait for it has a limit."""

import asyncio
from enum import Enum, auto
from typing import Protocol, cast

from typing_extensions import override

from supervisord.api.door.alarm import Alarm
from supervisord.api.door.application import Application, DoorLimits, Work
from supervisord.api.door.client import HttpClient
from supervisord.api.door.reader import RequestReader
from supervisord.api.door.request import Request
from supervisord.api.door.response import Response
from supervisord.core.errors import RequestTimeoutError, SupervisorError, TooManyConnectionsError
from supervisord.ports import Clock

AHEAD_LIMIT = 64 * 1024  # bytes held unread of a client that sends its next request before it has its answer
LINGER_S = 1.0  # for a client to read its answer that still sends: closing earlier would reset the connection under it
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Owner(Protocol):
    """Who keeps the connections."""

    application: Application
    limits: DoorLimits
    clock: Clock
    closing: bool

    def opened(self, connection: "Connection") -> bool:
        """Whether there is room for it."""
        ...

    def lost(self, connection: "Connection", work: asyncio.Task[None] | None) -> None:
        """`work` is being cancelled: it was to answer a client that left."""
        ...


class _Awaited(Enum):
    """What the connection's deadline is for."""

    NOTHING = auto()  # a request is being answered: that has limits of its own
    REQUEST = auto()
    HEAD = auto()
    BODY = auto()
    ROOM = auto()  # in the buffer towards the client
    END = auto()


class Connection(asyncio.Protocol):
    """Carries requests and their answers.

    The end of a client's stream means that the client left, also while it could still read: SDKs that give up close,
    and that looks the same as shutdown(SHUT_WR). nginx and llama.cpp's server see it so, too. A request that can be
    answered at once has been by then.
    """

    __slots__ = (
        "_ahead",
        "_alarm",
        "_awaited",
        "_client",
        "_closing",
        "_held",
        "_loop",
        "_owner",
        "_reader",
        "_room",
        "_task",
        "choked",
        "transport",
    )

    def __init__(self, owner: Owner, loop: asyncio.AbstractEventLoop) -> None:
        self.transport: asyncio.Transport
        self.choked = False
        self._owner = owner
        self._loop = loop
        self._reader = RequestReader(owner.limits.body_bytes)
        self._client: HttpClient | None = None  # of the request that is being answered
        self._task: asyncio.Task[None] | None = None
        self._ahead = bytearray()  # came while a request was being answered
        self._held = False  # reading is paused
        self._closing = False
        self._room: asyncio.Future[None] | None = None
        self._awaited = _Awaited.NOTHING
        self._alarm = Alarm(loop, self._is_late)

    def wind_down(self) -> None:
        """Take no more requests: close now, or behind the answer that is being made."""
        if self._client is None and not self._closing:
            self._close()

    def abort(self) -> None:
        self.transport.abort()

    async def drained(self) -> None:
        """Returns once the client has taken most of what was written."""
        if self.choked:
            self._room = self._loop.create_future()
            await self._room

    # --- asyncio.Protocol -----------------------------------------------------------------------------------------

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        if self._owner.opened(self):
            self._await_more()
            return
        limit = self._owner.limits.connections
        full = f"{limit} connections are open already: the limit (limits.connections)."
        self._refuse(TooManyConnectionsError(full, retry_after_s=1))

    @override
    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        if self._client is None and not self.choked:
            self._reader.feed(data)
            self._go_on()
            return
        self._ahead += data
        if len(self._ahead) > AHEAD_LIMIT:
            self._held = True
            self.transport.pause_reading()

    @override
    def eof_received(self) -> None:
        closing, self._closing = self._closing, True
        if self._client is not None:
            self.transport.abort()
        elif not closing:  # what has been written still goes out, for as long as is granted for that
            self._await(_Awaited.END, self._owner.limits.client_stall_s)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        task, self._task, self._client = self._task, None, None
        if task is not None:
            task.cancel()
        # Both hold on to this: what was read would else stay in memory until the garbage collector comes by.
        self._alarm.close()
        self._reader.close()
        self._owner.lost(self, task)

    @override
    def pause_writing(self) -> None:
        self.choked = True

    @override
    def resume_writing(self) -> None:
        self.choked = False
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        if self._client is None:
            self._go_on()

    # --- requests ---------------------------------------------------------------------------------------------------

    def _go_on(self) -> None:
        """Answer what has come, in order, until something has to be waited for."""
        reader = self._reader
        while self._client is None and not self._closing:
            if self.choked:
                self._await(_Awaited.ROOM, self._owner.limits.client_stall_s)
                return
            if reader.ready:
                self._begin(reader.ready.popleft())
            elif reader.problem is not None:
                self._refuse(reader.problem)
            elif self._ahead:
                self._read_on()
            else:
                self._await_more()
                return

    def _read_on(self) -> None:
        data = bytes(self._ahead)
        self._ahead.clear()
        if self._held:
            self._held = False
            self.transport.resume_reading()
        self._reader.feed(data)

    def _begin(self, request: Request) -> None:
        self._awaited = _Awaited.NOTHING
        self._alarm.off()
        client = HttpClient(self, request, self._owner.clock)
        try:
            answer = self._owner.application.answer(request)
        except Exception as error:  # noqa: BLE001 - a bug is the loop's to report, and costs this request only
            self._report(error, client)
            self._close()
            return
        if isinstance(answer, Response):
            client.answer(answer)
            self._answered(client)
        else:
            self._client = client
            self._task = self._loop.create_task(self._work(answer, client))

    async def _work(self, work: Work, client: HttpClient) -> None:
        """The one task of a request that has to wait; owned by the connection, cancelled when that is lost."""
        try:
            answer = await work(client)
            if answer is not None:
                client.answer(answer)
        except Exception as error:  # noqa: BLE001 - as in _begin
            self._report(error, client)
        self._client = self._task = None
        self._answered(client)
        self._go_on()

    def _answered(self, client: HttpClient) -> None:
        if self._owner.closing or not client.keep_alive:
            self._close()

    def _report(self, error: Exception, client: HttpClient) -> None:
        """Hand a bug to the loop's handler, and the client what is left to say."""
        context = {"message": "answering a request failed by a bug", "exception": error}
        self._loop.call_exception_handler(context)
        if client.started:
            client.abort()
        else:
            client.keep_alive = False
            client.answer(self._owner.application.told(SupervisorError("The daemon failed; its log says how.")))

    def _await_more(self) -> None:
        """Nothing to do before more has come: of the body, of the head, or a request at all."""
        limits, head = self._owner.limits, self._reader.head
        if head is not None:
            if self._awaited is not _Awaited.BODY:
                self._await_body(head)
        elif self._reader.begun:
            if self._awaited is not _Awaited.HEAD:
                self._await(_Awaited.HEAD, limits.header_timeout_s)
        elif self._awaited is not _Awaited.REQUEST:
            self._await(_Awaited.REQUEST, limits.idle_timeout_s)

    def _await_body(self, head: Request) -> None:
        refusal = self._owner.application.refusal(head)
        if refusal is not None:
            self._turn_away(refusal)
            return
        if head.http_1_1 and head.headers.get("expect", "").lower() == "100-continue":
            self.transport.write(CONTINUE)
        self._await(_Awaited.BODY, self._owner.limits.body_timeout_s)

    # --- ends -------------------------------------------------------------------------------------------------------

    def _refuse(self, error: SupervisorError) -> None:
        self._turn_away(self._owner.application.told(error))

    def _turn_away(self, response: Response) -> None:
        """Answer what is no whole request. Where the next would begin is not known: the connection ends here."""
        HttpClient(self, _UNREADABLE, self._owner.clock).answer(response)
        self._close(unread=True)

    def _close(self, *, unread: bool = False) -> None:
        """`unread`: the client may still be sending; so it is where it sent more than was answered."""
        self._closing = True
        if self.transport.is_closing():
            return
        if unread or self._ahead or self._reader.begun or self._reader.problem is not None:
            if self._held:
                self.transport.resume_reading()
            self.transport.write_eof()
            self._await(_Awaited.END, LINGER_S)
        else:
            self.transport.close()
            self._await(_Awaited.END, self._owner.limits.client_stall_s)

    # --- time -------------------------------------------------------------------------------------------------------

    def _await(self, what: _Awaited, seconds: float) -> None:
        """Have `_is_late` run when `what` has not come after so long."""
        self._awaited = what
        self._alarm.set(seconds)

    def _is_late(self) -> None:
        match self._awaited:
            case _Awaited.BODY:
                limit = self._owner.limits.body_timeout_s
                self._refuse(RequestTimeoutError(f"The body did not arrive within {limit:g} s (limits.body_timeout)."))
            case _Awaited.REQUEST | _Awaited.HEAD:  # nothing was asked yet, so nothing is answered
                self._closing = True
                self.transport.close()
                self._await(_Awaited.END, LINGER_S)
            case _:
                self.transport.abort()


_UNREADABLE = Request("", "", "", "", {}, b"", http_1_1=True, keep_alive=False)
