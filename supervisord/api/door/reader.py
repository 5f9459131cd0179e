"""From the bytes of a connection to whole requests, with bounds on everything."""

from collections import deque
from collections.abc import Callable

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from supervisord.api.door.application import Taking
from supervisord.api.door.body import Body, too_large
from supervisord.api.door.request import Request, build, without_upgrade
from supervisord.api.door.response import Response
from supervisord.core.errors import InvalidRequestError

HEAD_LIMIT = 32 * 1024  # bytes of a head; also of chunk extensions and trailers without any body between them
MOST_PIPELINED = 128  # requests taken from one read

Late = Callable[[Request], Response | Taking | None]  # as `Application.late`


class RequestReader:
    """`ready` are the requests that are whole, oldest first; `problem` is what is wrong with the bytes behind them.

    After a problem nothing more may be fed: where the next request would begin is not known any more.

    The parser's callbacks only gather; nothing is decided before the read that brought the bytes is parsed.
    """

    __slots__ = (
        "_begun",
        "_body",
        "_body_limit",
        "_fed",
        "_fields",
        "_head_is_whole",
        "_late",
        "_long_read",
        "_parser",
        "_parts",
        "_read",
        "_sink",
        "_target",
        "fate",
        "head",
        "on_body",
        "problem",
        "ready",
    )

    def __init__(self, body_limit: int, late: Late) -> None:
        self.ready: deque[Request] = deque()
        self.problem: InvalidRequestError | None = None
        self.head: Request | None = None  # of a request whose body is not whole yet; its own body is empty
        self.fate: Response | Taking | None = None  # of that request, see `Application.late`
        self._late = late
        self._body_limit = body_limit
        self._sink: Body | None = None  # gets the body of the present request in parts
        self._parts: list[bytes] = []
        self._body = bytearray()  # of earlier reads
        self._target = b""
        self._fields: list[tuple[bytes, bytes]] = []
        self._begun = False
        self._head_is_whole = False
        self._fed = 0  # bytes since the request began or its body last grew, but for those of that very read
        self._read = 0
        self._long_read = False  # the request began in a read that could hold a head beyond the limit
        self.on_body: Callable[[bytes], None] = self._parts.append  # no Python frame per chunk
        self._parser = HttpRequestParser(self)

    @property
    def begun(self) -> bool:
        """Whether a part of a request has come."""
        return self._begun

    def feed(self, data: bytes) -> None:
        """Take one read."""
        self._read = len(data)
        self._fed += self._read
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            self._ignore_upgrade(data[upgrade.args[0] :])
            return
        except HttpParserError:
            self._refuse(InvalidRequestError("The request is not the HTTP that is understood here."))
            return
        if self._begun:
            self._look_at_unfinished()
        else:
            self._fed = 0

    def hand_to(self, sink: Body) -> None:
        """Keep nothing more of the body whose head is `head`."""
        self._sink = sink
        if self._body:
            sink.put(bytes(self._body))
            self._body = bytearray()

    def close(self) -> None:
        """Nothing is read any more: let go of the parser, and of the body: they hold on to this."""
        del self._parser
        self._sink = None

    # --- what the parser calls ------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._begun = True
        self._long_read = self._read > HEAD_LIMIT
        self._head_is_whole = False
        self._target = b""
        self._fields = []

    def on_url(self, part: bytes) -> None:
        self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._head_is_whole:  # trailers are nobody's
            self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        self._head_is_whole = True
        if (self._long_read or self._fed > HEAD_LIMIT) and self._head_size() > HEAD_LIMIT:
            self._refuse(_overlong("head"))

    def on_message_complete(self) -> None:
        if self.problem is not None or self._parser.should_upgrade():
            return
        body = self._whole_body()
        if self._sink is not None:
            self._end_handing(body)
        elif len(self.ready) >= MOST_PIPELINED:
            self._refuse(
                InvalidRequestError(f"More than {MOST_PIPELINED} requests came before the first was answered.")
            )
        elif len(body) > self._body_limit and not self._is_upload():
            self._refuse(self._too_large())
        elif (request := self._built(body)) is not None:
            self.ready.append(request)
        self._begun = False
        self.head = None
        self._fed = 0

    # --- within -----------------------------------------------------------------------------------------------------

    def _whole_body(self) -> bytes:
        parts = self._parts
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        if self._body:
            body = bytes(self._body + body)
            self._body = bytearray()
        return body

    def _end_handing(self, rest: bytes) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            if rest:
                sink.put(rest)
            sink.end()

    def _is_upload(self) -> bool:
        """Whether somebody takes the body who has a limit of its own."""
        head = self._built(b"")
        return head is not None and isinstance(self._late(head), Taking)

    def _built(self, body: bytes) -> Request | None:
        parser = self._parser
        try:
            return build(
                parser.get_method().decode(), self._target, self._fields, body,
                version=parser.get_http_version(), keep_alive=parser.should_keep_alive(),
            )  # fmt: skip
        except InvalidRequestError as error:
            self._refuse(error)
            return None

    def _refuse(self, problem: InvalidRequestError) -> None:
        if self.problem is None:
            self.problem = problem

    def _head_size(self) -> int:
        return len(self._target) + sum(len(name) + len(value) + 4 for name, value in self._fields)

    def _look_at_unfinished(self) -> None:
        if self._head_is_whole and self.head is None:
            self._look_at_head()
        if self._parts:
            self._fed = 0
            part = b"".join(self._parts)
            self._parts.clear()
            if self._sink is not None:
                self._sink.put(part)
                return
            self._body += part
            if len(self._body) > self._body_limit and not isinstance(self.fate, Taking):
                self._refuse(self._too_large())
        elif self._fed > HEAD_LIMIT:
            self._refuse(_overlong("chunk extensions or trailers" if self._head_is_whole else "head"))

    def _look_at_head(self) -> None:
        """The body is late: what becomes of it, and whether it says itself that it will be too much."""
        head = self.head = self._built(b"")
        if head is None:
            return
        fate = self.fate = self._late(head)
        length = int(head.headers.get("content-length", 0))
        if isinstance(fate, Taking):
            if length > fate.upload.limit:
                self._refuse(too_large(fate.upload.limit, fate.upload.setting))
        elif length > self._body_limit:
            self._refuse(self._too_large())

    def _too_large(self) -> InvalidRequestError:
        return too_large(self._body_limit, "limits.body")

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Take a request as if it did not ask for another protocol: the parser would take its body for that one's."""
        method = self._parser.get_method()
        if method == b"CONNECT":
            self._refuse(InvalidRequestError("This is no proxy: it does not connect to other hosts."))
            return
        if self.problem is not None:
            return
        head = without_upgrade(method, self._target, self._parser.get_http_version(), self._fields)
        self._parser = HttpRequestParser(self)
        self._fed = 0
        self.feed(head + rest)


def _overlong(what: str) -> InvalidRequestError:
    return InvalidRequestError(f"The request has more than {HEAD_LIMIT} bytes of {what}.")
