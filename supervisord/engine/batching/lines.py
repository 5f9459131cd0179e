"""The lines of an uploaded file, read part by part: never more of it than a line and a part is in memory."""

import asyncio
from collections.abc import AsyncIterator

import msgspec

from supervisord.core.batch_input import LONGEST_LINE, Input, Line, Submitted
from supervisord.core.errors import InvalidJsonError, InvalidRequestError
from supervisord.core.output_check import PARAM
from supervisord.core.record import LineError
from supervisord.engine.agreed import check_in
from supervisord.engine.members import members_of, reader
from supervisord.ports import Clock, WorkStore

# Of the loop at a time: streams tick every few milliseconds. A thread would not spare them: it holds the interpreter
# for 5 ms (sys.getswitchinterval) before the loop gets its turn.
SLICE_S = 0.001

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_members = reader("custom_id", "method", "url", "body", PARAM, of="The line")
_TEXT = msgspec.json.Decoder(str)
_LONGEST_TEXT = 4096  # bytes of a text around a body that could be right


class Slices:
    """Work that is done on the loop in pieces which others do not notice."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ends = clock.monotonic() + SLICE_S

    async def rest(self) -> None:
        """Between two pieces: let the others run when it is their turn."""
        if self._clock.monotonic() >= self._ends:
            await asyncio.sleep(0)
            self._ends = self._clock.monotonic() + SLICE_S


class _Splitter:
    """Cuts a file into lines. One that is longer than `LONGEST_LINE` is not kept: its place is taken by None."""

    def __init__(self) -> None:
        self.number = 0
        self._kept = bytearray()
        self._too_long = False

    def lines(self, part: bytes) -> list[tuple[int, bytes | None]]:
        """The lines that end in this part, but for blank ones."""
        pieces = part.split(b"\n")
        found = []
        for piece in pieces[:-1]:
            found += self._ended(piece)
        self._keep(pieces[-1])
        return found

    def rest(self) -> list[tuple[int, bytes | None]]:
        """The last line, where nothing ended it."""
        return self._ended(b"") if self._kept or self._too_long else []

    def _keep(self, piece: bytes) -> None:
        self._too_long = self._too_long or len(self._kept) + len(piece) > LONGEST_LINE
        if self._too_long:
            self._kept.clear()
        else:
            self._kept += piece

    def _ended(self, piece: bytes) -> list[tuple[int, bytes | None]]:
        self._keep(piece)
        self.number += 1
        line = None if self._too_long else bytes(self._kept).strip(b" \t\r")
        if self.number == 1 and line is not None:
            line = line.removeprefix(_BYTE_ORDER_MARK)
        self._kept.clear()
        self._too_long = False
        return [] if line == b"" else [(self.number, line)]


async def lines_of(store: WorkStore, file_id: str, clock: Clock) -> AsyncIterator[tuple[int, bytes | None]]:
    """Each line of a file that is not blank, with its number from 1; None for one that is longer than is read."""
    splitter, slices, number = _Splitter(), Slices(clock), 0
    while (part := await store.file_part(file_id, number)) is not None:
        number += 1
        for line in splitter.lines(part):
            yield line
            await slices.rest()
    for line in splitter.rest():
        yield line


def submitted(wanted: Input, number: int, text: bytes | None) -> Submitted | None:
    """What a line submits; None: it is wrong, and `wanted` knows of it."""
    line = _decoded(number, text)
    if isinstance(line, LineError):
        wanted.refuse(line)
        return None
    return wanted.check(line)


def _decoded(number: int, text: bytes | None) -> Line | LineError:
    if text is None:
        return LineError("line_too_long", f"The line is longer than {LONGEST_LINE} bytes.", number)
    try:
        raw = _members(text)
        custom_id, method, url = (_text(raw.get(name)) for name in ("custom_id", "method", "url"))
    except InvalidJsonError as error:
        return LineError(error.code, error.message, number)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return LineError("invalid_json", f"The line is not a JSON object: {error}.", number)
    body = bytes(raw.get("body", b""))
    if not body.startswith(b"{"):
        return Line(number, custom_id, method, url, None, {})
    try:
        return Line(number, custom_id, method, url, body, members_of(body), check_in(raw.get(PARAM, msgspec.Raw())))
    except InvalidJsonError as error:
        return LineError(error.code, error.message, number, "body")
    except InvalidRequestError as error:
        return LineError(error.code, error.message, number, error.param)


def _text(raw: msgspec.Raw | None) -> str | None:
    text = b"" if raw is None else bytes(raw)
    return _TEXT.decode(text) if text.startswith(b'"') and len(text) <= _LONGEST_TEXT else None
