"""Server-sent events out of reads of any size."""

from collections.abc import Iterator


class EventPieces:
    """Cuts a stream where its events end. Each byte is looked at once, however long an event is."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []  # of the event that is not whole
        self._tail = b""  # its last byte, where that may be half of what ends it
        self._half = False  # of a line's end: \r, and \n may follow

    def put(self, data: bytes) -> Iterator[bytes]:
        """The events that end here, without their blank lines; lines end with \n."""
        if self._half:
            data = b"\r" + data
        self._half = data.endswith(b"\r")
        data = (data[:-1] if self._half else data).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *ends, rest = (self._tail + data).split(b"\n\n")
        for end in ends:
            yield b"".join((*self._parts, end))
            self._parts.clear()
        cut = len(rest) - rest.endswith(b"\n")
        self._parts.append(rest[:cut])
        self._tail = rest[cut:]

    def rest(self) -> bytes:
        """What came behind the last blank line."""
        parts, self._parts = self._parts, []
        return b"".join(parts) + self._tail
