"""What takes the place of a client where a response runs in the background: its answer as numbered events."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

from supervisord.core.answer import error_message
from supervisord.core.job import FailureReason
from supervisord.core.record import JobResult
from supervisord.core.response import Object, answered, as_it_is, event_of, is_response, partly
from supervisord.core.response_events import Event, Numbering, decoded, first_number, is_told_by_us, members, text_of
from supervisord.engine.background.feed import Feed
from supervisord.engine.background.pieces import EventPieces
from supervisord.engine.work.kept import LARGEST_ANSWER, GiveUp, Kept

JSON = "application/json"


class ResponseRecorder:
    """One try of one response: a `Recorder`.

    `shell`: the object as it was accepted. `put`: hands events to the store. What the tries before left behind has to
    be known first (`go_on`): until then what comes is kept.
    """

    def __init__(
        self,
        shell: Object,
        tried: int,
        *,
        feed: Feed,
        put: Callable[[int, Sequence[bytes]], None],
        give_up: GiveUp,
        wall: Callable[[], float],
    ) -> None:
        self._shell = shell
        self._tried = tried
        self._feed = feed
        self._put = put
        self._give_up = give_up
        self._wall = wall
        self._numbering = Numbering(first_number(tried))
        self._before: Sequence[Event] | None = () if not tried else None  # None: not known yet
        self._known = asyncio.Event()
        self._next: ResponseRecorder | None = None  # of a try that began before that was known
        self._early: list[Event] = []
        self._begun = False
        self._events = False  # it comes as events, and not in one piece
        self._pieces = EventPieces()
        self._parts: list[bytes] = []  # of an answer that comes in one piece
        self._size = 0
        self._whole: Object | None = None
        self._failed = False  # it was told that it has no end

    @property
    def may_run_again(self) -> bool:
        """See `Recorder`: the next try tells that it begins anew."""
        return True

    # --- ports.Client ------------------------------------------------------------------------------------------------

    def start(self, status: int, headers: Sequence[tuple[str, str]], *, length: int | None) -> None:
        """See `ports.Client`."""
        del status, length
        kind = next((value for name, value in headers if name == "content-type"), "")
        self._events = kind.startswith("text/event-stream")

    def write(self, data: bytes) -> bool:
        """See `ports.Client`."""
        self._size += len(data)
        if self._size > LARGEST_ANSWER:
            self._parts.clear()
            self._give_up(FailureReason.ANSWER_TOO_LARGE, f"the answer is longer than {LARGEST_ANSWER} bytes")
        elif self._events:
            for event in self._pieces.put(data):
                self._take(decoded(event))
        else:
            self._parts.append(data)
        return True

    async def drained(self) -> None:
        """See `ports.Client`: it is never full."""

    def finish(self) -> None:
        """See `ports.Client`."""
        if self._events:
            self._take(decoded(self._pieces.rest()))
        elif is_response(told := members(b"".join(self._parts))):  # it does not stream, or did not want to
            self._whole = self._answered(told)
        if self._whole is None and not self._failed:
            self._failed = True  # once: it is finished again with that
            self._give_up(FailureReason.BACKEND_PROTOCOL, "what it answered is not a Response")

    def abort(self) -> None:
        """See `ports.Client`."""

    # --- events ------------------------------------------------------------------------------------------------------

    def go_on(self, left: Sequence[Event], index: int) -> None:
        """What the tries before left behind: events that end their items, and the index of the next item."""
        self._before = left
        self._numbering = Numbering(first_number(self._tried), index)
        early, self._early = self._early, []
        for event in early:
            self._relay(event)
        self._known.set()
        if self._next is not None:
            self.then(self._next)

    def then(self, following: "ResponseRecorder") -> None:
        """The next try goes on behind this one, as soon as this one knows what was before it."""
        self.checkpoint()
        if self._before is None:
            self._next = following
        else:
            following.go_on(*self._left())

    def _left(self) -> tuple[Sequence[Event], int]:
        """What the next try begins behind: where nothing was told in this one, what it has found itself."""
        left = tuple(self._numbering.outline.closing()) if self._begun else self._before or ()
        return left, self._numbering.following

    async def ready(self) -> None:
        """See `Recorder`: once it is known what was before it, as the last event has its number behind that."""
        if self._before is None:
            await self._known.wait()

    def _take(self, event: Event) -> None:
        told = event.get("response")
        if event.get("type") in {"response.completed", "response.incomplete", "response.failed"}:
            self._whole = self._answered(told if isinstance(told, dict) else {})
        self._failed = self._failed or event.get("type") == "error"
        if self._before is None:
            self._early.append(event)
        else:
            self._relay(event)

    def _relay(self, event: Event) -> None:
        if not self._begun and event:
            self._begun = True
            for left in self._before or ():
                self._tell(str(left["type"]), left)
            self._tell("response.in_progress", {"response": {**self._shell, "status": "in_progress"}})
        if event and not is_told_by_us(event):
            number = self._numbering.number
            self._feed.put(number, self._numbering.relay(event))

    def _tell(self, kind: str, members: Event) -> None:
        number = self._numbering.number
        self._feed.put(number, self._numbering.tell(kind, members))

    def checkpoint(self) -> None:
        """Hand what is new to the store."""
        fresh = self._feed.unstored()
        if fresh:
            self._put(fresh[0][0], [event for _, event in fresh])

    # --- the answer --------------------------------------------------------------------------------------------------

    def _answered(self, told: Object) -> Object:
        whole = told if isinstance(told.get("output"), list) else {**told, "output": self._numbering.outline.output()}
        return answered(self._shell, whole, self._wall())

    def answer(self) -> Kept | None:
        """See `Recorder`: the object, as far as it came."""
        return Kept(200, JSON, text_of(self._object()))

    def _object(self) -> Object:
        return self._whole or partly(self._shell, self._numbering.outline.output())

    def ended(self, result: JobResult) -> JobResult:
        """See `Recorder`: the last event, and with it the object, are told of however it ended."""
        refused = result.output is not None and (result.http_status or 0) >= 400
        said = error_message(result.output or b"") if refused else ""
        made = as_it_is(self._object(), result.status, result, said)
        if self._before is None:
            self.go_on((), 0)  # it was not begun in this life of the daemon
        self.checkpoint()
        number = self._numbering.number
        self._put(number, [self._numbering.tell(event_of(made["status"]), {"response": made})])
        return replace(result, output=text_of(made), http_status=200, content_type=JSON)
