"""What goes between the daemon and its checking process: length, then MessagePack."""

import struct

import msgspec

from supervisord.core.terms import OutputCheck

LENGTH = struct.Struct(">I")


class Question(msgspec.Struct, frozen=True, array_like=True):
    """`answer` None: whether answers to `request` could be checked at all."""

    check: OutputCheck
    endpoint: str
    request: bytes
    answer: bytes | None


class Reply(msgspec.Struct, frozen=True, array_like=True):
    """`kind`: fits, wrong, truncated; or refused, with the member of the request that is to blame."""

    kind: str
    message: str = ""
    param: str | None = None


def packed(frame: Question | Reply) -> bytes:
    """A frame with its length before it."""
    data = msgspec.msgpack.encode(frame)
    return LENGTH.pack(len(data)) + data
