"""What is agreed on with work besides the work itself, out of JSON of any length and width: it is bounded first."""

from collections.abc import Mapping

import msgspec

from supervisord.core.batch import metadata
from supervisord.core.errors import InvalidRequestError
from supervisord.core.output_check import PARAM, asked
from supervisord.core.terms import OutputCheck

LONGEST_METADATA = 128 * 1024  # bytes; what the longest that may be is with every character escaped
LONGEST_CHECK = 1024 * 1024  # bytes; it is mostly a schema


class _Check(msgspec.Struct, forbid_unknown_fields=True):
    schema: msgspec.Raw = msgspec.Raw()
    retries: msgspec.Raw = msgspec.Raw()


_METADATA = msgspec.json.Decoder(dict[str, str] | None)
_CHECK = msgspec.json.Decoder(_Check | bool | None)


def metadata_in(member: msgspec.Raw) -> Mapping[str, str]:
    """Of the member `metadata`; without a text there is none. Raises InvalidRequestError."""
    text = memoryview(member)
    if not text:
        return {}
    try:
        return metadata(_METADATA.decode(text) if len(text) <= LONGEST_METADATA else text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return metadata(text)  # which it is not


def check_in(member: msgspec.Raw) -> OutputCheck | None:
    """Of the member `validate_output`, which without a text is not there; None: it asks for nothing.

    The schema stays the text that it is: it is read where nobody waits. Raises InvalidRequestError.
    """
    text = memoryview(member)
    if not text:
        return None
    if len(text) > LONGEST_CHECK:
        raise InvalidRequestError(f'"{PARAM}" is longer than {LONGEST_CHECK} bytes.', param=PARAM)
    try:
        told = _CHECK.decode(text)
        if not isinstance(told, _Check):
            return asked() if told else None
        return asked(_text(told.schema), _text(told.retries))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidRequestError(
            f'"{PARAM}" must be true, or an object of "schema" and "retries".', param=PARAM
        ) from None


def _text(raw: msgspec.Raw) -> str:
    return bytes(raw).decode()
