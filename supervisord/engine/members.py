"""The top-level members of a JSON object, read as far as somebody looks: nothing else of it is built.

Whoever builds all of it lets clients choose how long the loop stands still: 64 MiB of short members take 5 s.
"""

from collections.abc import Callable, Mapping

import msgspec

from supervisord.core.errors import InvalidJsonError, InvalidRequestError
from supervisord.core.output_check import PARAM
from supervisord.core.request import ENDPOINTS, SCALARS, JsonKind, Value

LONGEST_VALUE = 256 * 1024  # bytes of JSON that are built at once: 5 ms, were it all empty lists

# Of a request's body, those that are looked at aside. Where members are put in or taken out all of them are built, at
# 0.5 us each. No client is known that sends more than some dozens.
MOST_MEMBERS = 100_000
_SHORTEST_MEMBER = 5  # bytes: "a":1 and what parts it from the next

_SCALAR = msgspec.json.Decoder()
_SHORT = 4096  # bytes of a scalar that validation could care for: a model's name with room to spare
_KINDS = {ord("{"): JsonKind.OBJECT, ord("["): JsonKind.ARRAY, ord('"'): JsonKind.STRING}
_NESTED = frozenset(b"{[")

_BY_VALUE = frozenset((*SCALARS, PARAM))

Texts = Mapping[str, msgspec.Raw]  # members, each as its JSON text


def reader(*names: str, of: str = "The body") -> Callable[[bytes], Texts]:
    """What reads the members of these names; those that are missing are left out.

    The whole object is checked to be JSON: 1 MB takes 0.4 ms, 2 ms where it is all brackets. Of members of one name the
    last counts. The reader raises InvalidJsonError, in which the object is called `of`.
    """
    missing = msgspec.Raw()
    form = msgspec.defstruct("Members", [(name, msgspec.Raw, missing) for name in names], gc=False)
    decode = msgspec.json.Decoder(form).decode

    def read(body: bytes) -> Texts:
        try:
            found = msgspec.structs.astuple(decode(body))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidJsonError(f"{of} is not a JSON object: {error}.") from None
        except RecursionError:
            raise InvalidJsonError(f"{of} is nested too deeply.") from None
        return {name: raw for name, raw in zip(names, found, strict=True) if raw is not missing}

    return read


_read = reader(*_BY_VALUE, *{endpoint.payload for endpoint in ENDPOINTS.values()})


def members_of(body: bytes) -> Mapping[str, Value]:
    """The members that validation looks at: scalars by value, all others by kind. Raises InvalidRequestError."""
    members = _read(body)
    _check_width(body, members)
    try:
        return {name: _value(name, raw) for name, raw in members.items()}
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidJsonError(f"The body is not a JSON object: {error}.") from None


def values_of(members: Texts) -> Mapping[str, object]:
    """Those that are texts, or short enough to be built; without those that cannot be read."""
    return {name: value for name, raw in members.items() if (value := _built(bytes(raw))) is not msgspec.UNSET}


def _check_width(body: bytes, known: Texts) -> None:
    """Each member has a colon. Raises InvalidRequestError."""
    room = MOST_MEMBERS * _SHORTEST_MEMBER
    if len(body) <= room or len(body) - sum(len(memoryview(raw)) for raw in known.values()) <= room:
        return
    if body.count(b":") - sum(bytes(raw).count(b":") for raw in known.values()) > MOST_MEMBERS:
        raise InvalidRequestError(
            f"The body has more than {MOST_MEMBERS} members, or as much within those unknown here."
        )


def _value(name: str, raw: msgspec.Raw) -> Value:
    text = memoryview(raw)
    first = text[0]
    if name not in _BY_VALUE or first in _NESTED or len(text) > _SHORT:
        return _KINDS.get(first, JsonKind.STRING)  # a figure of thousands of digits is no figure that could be checked
    value = _SCALAR.decode(text)
    return value if isinstance(value, (str, int, float)) else None


def _built(text: bytes) -> object:
    """UNSET: it is not."""
    if len(text) > LONGEST_VALUE and not text.startswith(b'"'):
        return msgspec.UNSET
    try:
        return _SCALAR.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return msgspec.UNSET
