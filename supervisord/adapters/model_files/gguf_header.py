"""The key-value section of a GGUF file, read within hard limits: a header is somebody else's bytes.

Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Little-endian files of version 2 and 3, which is what
llama.cpp itself reads on the machines this program runs on.
"""

import struct
from collections.abc import Callable, Mapping
from typing import BinaryIO, Final

Value = int | float | bool | str | tuple[int, ...]

_MAGIC: Final = b"GGUF"
_VERSIONS: Final = frozenset({2, 3})
_STRING, _ARRAY, _BOOL = 8, 9, 7
_FORMATS: Final = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<B", 10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
_WHOLE: Final = frozenset({0, 1, 2, 3, 4, 5, 7, 10, 11})

# Real headers: 33 to 60 keys, vocabularies of up to 262144 words and as many merges, 6 to 20 MiB, figures one a layer.
_MOST_KEYS: Final = 4096
_LONGEST_KEY: Final = 65535  # by the format
_LONGEST_TEXT: Final = 256  # of a value that is kept
_MOST_STRINGS: Final = 4_000_000  # in the whole header: half a second
_MOST_FIGURES: Final = 1024  # of an array that is kept
_LONGEST_HEADER: Final = 256 * 1024 * 1024
_BLOCK: Final = 1024 * 1024


class HeaderError(Exception):
    """Not a GGUF header, a damaged one, or one past the limits."""


class Header:
    """The keys and values asked for, and the lengths of all arrays."""

    def __init__(self, values: Mapping[str, Value], lengths: Mapping[str, int]) -> None:
        self.values = values
        self.lengths = lengths


def read_header(file: BinaryIO, wanted: Callable[[str], bool]) -> Header:
    """The header at the start of `file`, which is open for reading bytes; values of `wanted` keys only.

    Takes a few MiB of memory and, with a vocabulary of 262144 words, 60 ms. Raises HeaderError, and OSError.
    """
    cursor = _Cursor(file)
    if cursor.take(4) != _MAGIC:
        raise HeaderError("no GGUF file")
    if cursor.number("<I") not in _VERSIONS:
        raise HeaderError("a version of GGUF that is not known")
    cursor.number("<Q")  # of tensors
    keys = cursor.number("<Q")
    if keys > _MOST_KEYS:
        raise HeaderError("too many keys")
    values: dict[str, Value] = {}
    lengths: dict[str, int] = {}
    for _ in range(keys):
        key = cursor.text(_LONGEST_KEY)
        kind = cursor.number("<I")
        value: Value | None
        if kind == _ARRAY:
            lengths[key], value = _array(cursor, keep=wanted(key))
        else:
            value = _scalar(cursor, kind, keep=wanted(key))
        if value is not None:
            values[key] = value
    return Header(values, lengths)


def _scalar(cursor: "_Cursor", kind: int, *, keep: bool) -> Value | None:
    if kind == _STRING:
        if keep:
            return cursor.text(_LONGEST_TEXT)
        cursor.skip_strings(1)
        return None
    value = cursor.real(_format(kind))
    if not keep:
        return None
    return bool(value) if kind == _BOOL else int(value) if kind in _WHOLE else value


def _array(cursor: "_Cursor", *, keep: bool) -> tuple[int, tuple[int, ...] | None]:
    """Its length, and its figures if they are to be kept and whole numbers."""
    kind, count = cursor.number("<I"), cursor.number("<Q")
    if kind == _STRING:
        cursor.skip_strings(count)
        return count, None
    form = _format(kind)  # arrays of arrays are in the format, and in no file
    if not keep or kind not in _WHOLE or count > _MOST_FIGURES:
        cursor.skip(count * struct.calcsize(form))
        return count, None
    return count, tuple(int(cursor.number(form)) for _ in range(count))


def _format(kind: int) -> str:
    try:
        return _FORMATS[kind]
    except KeyError:
        raise HeaderError(f"a value of unknown type {kind}") from None


class _Cursor:
    """Reads on, a block at a time, and never past the longest header."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._block = b""
        self._at = 0  # within the block
        self._read = 0  # of the file, with the block
        self._strings = 0

    def take(self, size: int) -> bytes:
        """The next `size` bytes, at most a block of them."""
        self._fill(size)
        self._at += size
        return self._block[self._at - size : self._at]

    def number(self, form: str) -> int:
        """A whole number."""
        return int(self.real(form))

    def real(self, form: str) -> float:
        value: float = struct.unpack(form, self.take(struct.calcsize(form)))[0]
        return value

    def text(self, longest: int) -> str:
        size = self.number("<Q")
        if size > longest:
            raise HeaderError("a text that is too long")
        return self.take(size).decode("utf-8", "replace")

    def skip(self, size: int) -> None:
        """Leave out `size` bytes, without reading those past the block."""
        inside = min(size, len(self._block) - self._at)
        self._at += inside
        if size > inside:
            self._check(size - inside)
            self._file.seek(size - inside, 1)
            self._read += size - inside

    def skip_strings(self, count: int) -> None:
        """Leave out strings: by far the most of a header, so this loop is the one to be quick."""
        self._strings += count
        if self._strings > _MOST_STRINGS:
            raise HeaderError("too many strings")
        length_of = struct.Struct("<Q").unpack_from
        for _ in range(count):
            at = self._at + 8
            if at > len(self._block):
                self._fill(8)
                at = 8
            end = at + length_of(self._block, at - 8)[0]
            if end <= len(self._block):
                self._at = end
            else:
                self._at = at
                self.skip(end - at)

    def _fill(self, size: int) -> None:
        """Have at least `size` bytes in the block."""
        left = len(self._block) - self._at
        if left >= size:
            return
        self._check(size - left)
        more = self._file.read(_BLOCK)
        self._read += len(more)
        self._block = self._block[self._at :] + more
        self._at = 0
        if len(self._block) < size:
            raise HeaderError("the file ends within its header")

    def _check(self, size: int) -> None:
        if self._read + size > _LONGEST_HEADER:
            raise HeaderError("the header is too long")
