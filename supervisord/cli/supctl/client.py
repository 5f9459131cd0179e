"""The daemon's control door: HTTP/1.1 over a Unix socket, with every wait and every frame bounded."""

import json
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from supervisord.cli.supctl.exchange import Exchange, ProtocolError
from supervisord.cli.supctl.failure import Denied, Failure, NotFound, NotRunning, TimedOut, Unavailable
from supervisord.cli.supctl.sockets import Places, connect, stuck
from supervisord.cli.supctl.wire import Doc

ANSWER_LIMIT = 16 * 1024 * 1024  # bytes; a thousand jobs with their attempts are 2 MB
LINE_LIMIT = 1024 * 1024  # bytes; a longer line arrives in pieces

_FAILURES: Mapping[str, type[Failure]] = {
    "not_found": NotFound,
    "forbidden_peer": Denied,
    "store_unavailable": Unavailable,
}

SEND_S = 120.0  # for a file of 200 MB to be stored; on a disk of this century it takes 2 s
PART_S = 60.0  # between two parts of a long answer: the daemon reads them from its disk

Query = Mapping[str, str | int | float | None]
Headers = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: the bytes as they came, and the object in them."""

    body: bytes
    doc: Doc


@dataclass(frozen=True, slots=True)
class Control:
    """One daemon, found through `places`. `timeout`: seconds to the first byte of an answer, and to its end.

    Every method raises Failure: NotRunning, Denied, NotFound, TimedOut, or the refusal in the daemon's own words.
    """

    places: Places
    timeout: float

    def get(self, path: str, query: Query | None = None, *, wait: float = 0.0) -> Answer:
        """`wait`: as with `post`."""
        return self._whole("GET", _target(path, query), None, self.timeout + wait)

    def post(self, path: str, body: Mapping[str, object], *, wait: float = 0.0) -> Answer:
        """`wait`: seconds the daemon was asked to take before it answers, on top of the usual ones."""
        return self._whole("POST", path, json.dumps(body).encode(), self.timeout + wait)

    def send(
        self, path: str, body: bytes | Iterable[bytes], query: Query | None = None, headers: Headers | None = None
    ) -> Answer:
        """A body as it is, or in parts as they come; to store it may take `SEND_S` more."""
        return self._whole("POST", _target(path, query), body, self.timeout + SEND_S, headers)

    @contextmanager
    def lines(self, path: str, query: Query, *, follow: bool) -> Iterator[Iterator[bytes]]:
        """The lines of an answer as they come, without their ends.

        A followed answer may be silent for hours, so only its head is bounded in time: on a Unix socket the end of
        the daemon is always told. Its end means that the daemon went away, and raises NotRunning.
        """
        with self._exchange("GET", _target(path, query), None, self.timeout) as (peer, answer):
            if follow:
                peer.settimeout(None)
            yield _lines(answer, follow=follow, timeout=self.timeout)

    @contextmanager
    def parts(self, method: str, path: str, *, wait: float = 0.0) -> Iterator[Iterator[bytes]]:
        """A long answer in the parts in which it comes: `wait` s more to its first, then as usual between two."""
        body = b"{}" if method == "POST" else None
        with self._exchange(method, path, body, self.timeout + wait) as (peer, answer):
            peer.settimeout(max(self.timeout, PART_S))
            yield _parts(answer, self.timeout)

    def _whole(
        self,
        method: str,
        target: str,
        body: bytes | Iterable[bytes] | None,
        timeout: float,
        headers: Headers | None = None,
    ) -> Answer:
        give_up = time.monotonic() + timeout
        with self._exchange(method, target, body, timeout, headers) as (peer, answer), _translated(timeout):
            raw = _bounded(peer, answer, give_up)
        return Answer(raw, _object(raw))

    @contextmanager
    def _exchange(
        self,
        method: str,
        target: str,
        body: bytes | Iterable[bytes] | None,
        timeout: float,
        headers: Headers | None = None,
    ) -> Iterator[tuple[socket.socket, Exchange]]:
        with _translated(timeout):
            peer = connect(self.places, self.timeout)
        with closing(peer):
            exchange = Exchange(peer)
            with _translated(timeout):
                peer.settimeout(timeout)
                exchange.ask(method, target, body, headers)
                if exchange.status >= 400:
                    raise _refusal(exchange.status, _bounded(peer, exchange, time.monotonic() + timeout))
            yield peer, exchange  # what the reader of the lines does with them is not translated


def _target(path: str, query: Query | None) -> str:
    given = {key: value for key, value in (query or {}).items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path


def segment(name: str) -> str:
    """A name as one segment of a path. Raises NotFound: nothing has no name."""
    if not name:
        raise NotFound("an empty name is nobody's")
    return quote(name, safe="")


@contextmanager
def _translated(timeout: float) -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise TimedOut(f"the daemon does not answer: {stuck(timeout)}") from None
    except ConnectionError:
        raise NotRunning("the daemon closed the connection: it is stopping, or has just ended") from None
    except ProtocolError as error:
        raise _foreign(str(error)) from None


def _foreign(detail: str) -> Failure:
    return Failure(
        f"the answer is not one of llm-supervisord ({detail}). "
        "Is this its control socket, and is supctl of the same version? See: supctl version"
    )


def _bounded(peer: socket.socket, answer: Exchange, give_up: float) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        peer.settimeout(max(0.001, give_up - time.monotonic()))
        part = answer.read()
        if not part:
            return b"".join(parts)
        parts.append(part)
        size += len(part)
        if size > ANSWER_LIMIT:
            raise _foreign(f"it is longer than {ANSWER_LIMIT // 2**20} MiB")


def _object(raw: bytes) -> Doc:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        raise _foreign("it is not JSON") from None
    if not isinstance(value, dict):
        raise _foreign("it is not a JSON object")
    return Doc(value)


def _refusal(status: int, raw: bytes) -> Failure:
    try:
        error = _object(raw).child("error")
    except Failure:
        return _foreign(f"HTTP status {status} without a reason")
    kind = _FAILURES.get(error.text("code"), Failure)
    return kind(error.lines("message") or f"the daemon refused with HTTP status {status} and gave no reason")


def _lines(answer: Exchange, *, follow: bool, timeout: float) -> Iterator[bytes]:
    rest = b""
    while part := _part(answer, timeout):
        *whole, rest = (rest + part).split(b"\n")
        yield from whole
        if len(rest) >= LINE_LIMIT:
            yield rest
            rest = b""
    if rest:
        yield rest
    if follow:
        raise _gone()


def _part(answer: Exchange, timeout: float) -> bytes:
    try:
        with _translated(timeout):
            return answer.read()
    except NotRunning:
        raise _gone() from None


def _parts(answer: Exchange, timeout: float) -> Iterator[bytes]:
    while part := _part(answer, timeout):
        yield part


def _gone() -> NotRunning:
    return NotRunning("the daemon went away: it stopped, or restarts")
