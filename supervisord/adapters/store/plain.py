"""Values in a form that JSON and SQLite can hold."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Final

import msgspec

from supervisord.adapters.store.statements import Row

_SMALLEST: Final = -(2**63)
_LARGEST: Final = 2**63 - 1


def clean_row(row: Row) -> Row:
    return tuple(clean(value) for value in row)


def clean(value: Any) -> Any:
    """A value as SQLite can hold it: lone surrogates are spelt out, integers past 64 bits become the last that fit."""
    if isinstance(value, str):
        return words(value)
    if isinstance(value, int):
        return min(max(value, _SMALLEST), _LARGEST)
    return value


def words(text: str) -> str:
    """Without lone surrogates, which UTF-8 cannot hold: they are spelt out."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def encoded(value: object) -> bytes:
    """As JSON, whatever it is: what JSON does not know is kept as words."""
    try:
        return msgspec.json.encode(value, enc_hook=_known)
    except (TypeError, ValueError, OverflowError, msgspec.MsgspecError):
        return msgspec.json.encode(_plain(value))


def text(value: object) -> str:
    """`encoded`, as text."""
    return encoded(value).decode()


def _known(value: object) -> object:
    return dict(value) if isinstance(value, Mapping) else repr(value)


def _plain(value: object) -> object:
    """For what the encoder refuses: lone surrogates, numbers beyond 64 bits, keys that are no text."""
    if isinstance(value, Mapping):
        return {words(str(key)): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int) and -(2**63) <= value < 2**64:
        return value
    if is_dataclass(value):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    return words(value if isinstance(value, str) else repr(value))
