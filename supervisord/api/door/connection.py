"""One client's connection: its requests are answered in order, and every wait for it has a limit."""

import asyncio
from typing import cast

from typing_extensions import override

from supervisord.api.door.alarm import Alarm, Awaited
from supervisord.api.door.application import Taking, Work
from supervisord.api.door.client import HttpClient
from supervisord.api.door.failures import report, tell
from supervisord.api.door.intake import Intake
from supervisord.api.door.owner import Owner
from supervisord.api.door.reader import RequestReader
from supervisord.api.door.request import Request
from supervisord.api.door.response import Response
from supervisord.core.errors import RequestTimeoutError, SupervisorError, TooManyConnectionsError

AHEAD_LIMIT = 64 * 1024  # bytes held unread of a client that sends its next request before it has its answer
LINGER_S = 1.0  # for a client to read its answer that still sends: closing earlier would reset the connection under it
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Connection(asyncio.Protocol):
    """Carries requests and their answers.

    The end of a client's stream means that the client left, also while it could still read: SDKs that give up close,
    and that looks the same as shutdown(SHUT_WR). nginx and llama.cpp's server see it so, too. A request that can be
    answered at once has been by then.
    """

    __slots__ = (
        "_ahead",
        "_alarm",
        "_client",
        "_closing",
        "_held",
        "_intake",
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
        self._reader = RequestReader(owner.limits.body_bytes, owner.late)
        self._client: HttpClient | None = None  # of the request that is being answered
        self._task: asyncio.Task[None] | None = None
        self._intake: Intake | None = None  # the request that is being answered takes its body in parts
        self._ahead = bytearray()  # came while a request was being answered
        self._held = False  # reading is paused
        self._closing = False
        self._room: asyncio.Future[None] | None = None
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
        if self._intake is not None and not self._intake.body.whole:
            self._intake.feed(data)
            return
        self._ahead += data
        if len(self._ahead) > AHEAD_LIMIT:
            self.hold()

    @override
    def eof_received(self) -> None:
        closing, self._closing = self._closing, True
        if self._client is not None:
            self.transport.abort()
        elif not closing:  # what has been written still goes out, for as long as is granted for that
            self._alarm.set(Awaited.END, self._owner.limits.client_stall_s)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        task, self._task, self._client, self._intake = self._task, None, None, None
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
                self._alarm.set(Awaited.ROOM, self._owner.limits.client_stall_s)
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
        self.release()
        self._reader.feed(data)

    def _begin(self, request: Request) -> None:
        self._alarm.off()
        client = HttpClient(self, request, self._owner.clock)
        try:
            answer = self._owner.application.answer(request)
        except Exception as error:  # noqa: BLE001 - a bug is the loop's to report, and costs this request only
            report(error, request, client, self._owner.application)
            self._close()
            return
        if isinstance(answer, Response):
            client.answer(answer)
            self._answered(client)
        else:
            self._client = client
            self._task = self._loop.create_task(self._work(answer, client, request))

    async def _work(self, work: Work, client: HttpClient, request: Request) -> None:
        """The one task of a request that has to wait; owned by the connection, cancelled when that is lost."""
        try:
            answer = await work(client)
            if answer is not None:
                client.answer(answer)
        except SupervisorError as error:
            tell(error, request, client, self._owner.application)
        except Exception as error:  # noqa: BLE001 - as in _begin
            report(error, request, client, self._owner.application)
        self._client = self._task = self._intake = None
        self._answered(client)
        self._go_on()

    def _answered(self, client: HttpClient) -> None:
        if self._owner.closing or not client.keep_alive:
            self._close()

    def _await_more(self) -> None:
        """Nothing to do before more has come: of the body, of the head, or a request at all."""
        limits, head, awaited = self._owner.limits, self._reader.head, self._alarm.awaited
        if head is not None:
            if awaited is not Awaited.BODY:
                self._await_body(head)
        elif self._reader.begun:
            if awaited is not Awaited.HEAD:
                self._alarm.set(Awaited.HEAD, limits.header_timeout_s)
        elif awaited is not Awaited.REQUEST:
            self._alarm.set(Awaited.REQUEST, limits.idle_timeout_s)

    def _await_body(self, head: Request) -> None:
        fate = self._reader.fate
        if isinstance(fate, Response):
            self._turn_away(fate)
        elif fate is not None:
            self._begin_upload(fate)
        else:
            self.say_continue(head)
            self._alarm.set(Awaited.BODY, self._owner.limits.body_timeout_s)

    def _begin_upload(self, taking: Taking) -> None:
        self.rest()
        client = HttpClient(self, taking.head, self._owner.clock)
        intake = Intake(self, self._reader, client, taking)
        try:
            work = taking.upload.begin(taking.head, intake.body)
        except SupervisorError as error:
            self._refuse(error)
            return
        except Exception as error:  # noqa: BLE001 - as in _begin
            report(error, taking.head, client, self._owner.application)
            self._close()
            return
        self._client, self._intake = client, intake
        self._task = self._loop.create_task(self._work(work, client, taking.head))
        intake.begin()

    # --- intake.Line --------------------------------------------------------------------------------------------------

    def hold(self) -> None:
        self._held = True
        self.transport.pause_reading()

    def release(self) -> None:
        if self._held:
            self._held = False
            self.transport.resume_reading()

    def await_part(self) -> None:
        self._alarm.set(Awaited.PART, self._owner.limits.body_timeout_s)

    def rest(self) -> None:
        self._alarm.off()

    def say_continue(self, head: Request) -> None:
        if head.http_1_1 and head.headers.get("expect", "").lower() == "100-continue":
            self.transport.write(CONTINUE)

    # --- ends -------------------------------------------------------------------------------------------------------

    def _refuse(self, error: SupervisorError) -> None:
        self._turn_away(self._owner.application.told(error, self._reader.head))

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
            self.release()
            self.transport.write_eof()
            self._alarm.set(Awaited.END, LINGER_S)
        else:
            self.transport.close()
            self._alarm.set(Awaited.END, self._owner.limits.client_stall_s)

    # --- time -------------------------------------------------------------------------------------------------------

    def _is_late(self) -> None:
        match self._alarm.awaited:
            case Awaited.BODY:
                limit = self._owner.limits.body_timeout_s
                self._refuse(RequestTimeoutError(f"The body did not arrive within {limit:g} s (limits.body_timeout)."))
            case Awaited.PART if self._intake is not None:
                self.rest()
                self._intake.late(self._owner.limits.body_timeout_s)
            case Awaited.REQUEST | Awaited.HEAD:  # nothing was asked yet, so nothing is answered
                self._closing = True
                self.transport.close()
                self._alarm.set(Awaited.END, LINGER_S)
            case _:
                self.transport.abort()


_UNREADABLE = Request("", "", "", "", {}, b"", http_1_1=True, keep_alive=False)
