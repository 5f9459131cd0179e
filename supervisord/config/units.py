"""What people write for sizes, durations, token counts and shares, and back.

Every `parse_*` takes a value as YAML gives it (text or number), returns the plain figure, and raises ValueError with a
message that quotes the value and says what to write instead.
"""

import math
import re
from typing import Self

MAX_SIZE = 2**53  # 8 PiB: beyond it JSON readers lose bytes, and no workstation has it
MAX_DURATION_S = 10 * 366 * 86_400.0

_SIZE_UNITS = {"B": 1} | {
    f"{letter}{suffix}": base**power
    for power, letter in enumerate("KMGT", start=1)
    for suffix, base in (("B", 1000), ("iB", 1024))
}
_SIZE_FACTORS = {unit.lower(): factor for unit, factor in _SIZE_UNITS.items()}
_DURATION_UNITS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}  # milliseconds, largest first
_TOKEN_UNITS = {"": 1, "k": 1024, "m": 1024 * 1024}

_NUMBER = r"[0-9]{1,18}(?:\.[0-9]{1,9})?"
_PLAIN = re.compile(_NUMBER)
_SIZE = re.compile(rf"({_NUMBER}) ?([A-Za-z]{{1,3}})")
_SIZE_START = re.compile(rf"({_NUMBER}) ?([KMGT])i?(?:B|b|$)", re.IGNORECASE)
_DURATION = re.compile("".join(rf"(?:({_NUMBER}){unit})?" for unit in _DURATION_UNITS))
_TOKENS = re.compile(rf"({_NUMBER}) ?([kKmM]?)")
_PERCENT = re.compile(rf"({_NUMBER}) ?%")

SIZE_PATTERN = r"^[0-9]+(\.[0-9]+)? ?([KMGTkmgt]?[iI]?[bB])?$"
DURATION_PATTERN = r"^([0-9]+(\.[0-9]+)?|([0-9]+(\.[0-9]+)?(d|h|ms|m|s))+)$"
TOKENS_PATTERN = r"^[0-9]+(\.[0-9]+)? ?[kKmM]?$"
PERCENT_PATTERN = r"^([0-9]+(\.[0-9]+)? ?%|0(\.[0-9]+)?|1(\.0+)?)$"
DECREASE_PATTERN = r"^-([0-9]+(\.[0-9]+)? ?%|0?\.[0-9]+)$"


class EnvironmentText(str):
    """Text that came out of the environment. It may be a secret, so messages name its source and never show it.

    `whole`: nothing of it stands in the file, not even as a default.
    """

    __slots__ = ("source", "whole")
    source: str
    whole: bool

    def __new__(cls, value: str, source: str, *, whole: bool = False) -> Self:
        text = super().__new__(cls, value)
        text.source, text.whole = source, whole
        return text


def quote(value: object) -> str:
    """A value as a message may show it: on one line, at most 40 characters, nothing from the environment."""
    if isinstance(value, EnvironmentText):
        return f"the value of {value.source}"
    if value is None:
        return "an empty value"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(value)[:41])
    return f'"{shown}"' if len(shown) <= 40 else f'"{shown[:39]}…"'


def parse_size(value: object) -> int:
    """Bytes of "24GiB" (1024-based), "14GB" (1000-based), "512MiB", or a plain count of bytes."""
    number, factor = _size_parts(value)
    size = round(number * factor)
    if size > MAX_SIZE:
        raise ValueError(f"{quote(value)} is more than the largest size, 8192TiB")
    return size


def _size_parts(value: object) -> tuple[float, int]:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value, 1
    if isinstance(value, str):
        if value.isascii() and value.isdigit() and len(value) <= 18:
            return int(value), 1
        match = _SIZE.fullmatch(value)
        if match and match[2].lower() in _SIZE_FACTORS:
            return _figure(match[1]), _SIZE_FACTORS[match[2].lower()]
    raise ValueError(f"{quote(value)} is not a size; write {_suggested_size(value)}")


def _figure(text: str) -> float:
    # A whole figure stays an int: floats lose bytes above 2^53.
    return float(text) if "." in text else int(text)


def _suggested_size(value: object) -> str:
    start = _SIZE_START.match(value) if isinstance(value, str) else None
    if start is None or isinstance(value, EnvironmentText):
        return "24GiB, 14GB or 512MiB"
    number, letter = start[1], start[2].upper()
    return f"{number}{letter}B or {number}{letter}iB"


def parse_rate(value: object) -> int:
    """Bytes per second: a size, with "/s" after it or not."""
    if isinstance(value, str) and value.endswith("/s") and not isinstance(value, EnvironmentText):
        return parse_size(value.removesuffix("/s"))
    return parse_size(value)


def format_size(size: int) -> str:
    """The shortest exact text of a size in bytes, of which `parse_size` makes the same again."""
    for unit, factor in sorted(_SIZE_UNITS.items(), key=lambda item: item[1], reverse=True):
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return "0B"


def parse_duration(value: object) -> float:
    """Seconds of "90s", "10m", "1h30m", "250ms", "30d", or a plain number of seconds."""
    seconds = _seconds(value)
    if seconds is None:
        raise ValueError(f"{quote(value)} is not a duration; write 90s, 10m, 1h30m or 250ms")
    if seconds > MAX_DURATION_S:
        raise ValueError(f"{quote(value)} is more than the longest duration, 3660d")
    return seconds


def _seconds(value: object) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return _finite(value)
    if not isinstance(value, str) or not value:
        return None
    if _PLAIN.fullmatch(value):
        return float(value)
    match = _DURATION.fullmatch(value)
    if match is None:
        return None
    parts = zip(match.groups(), _DURATION_UNITS.values(), strict=True)
    return sum(_figure(text) * factor for text, factor in parts if text) / 1000


def _finite(value: float) -> float | None:
    try:
        number = float(value)
    except OverflowError:
        return MAX_DURATION_S * 2
    return number if math.isfinite(number) and number >= 0 else None


def format_duration(seconds: float) -> str:
    """The text of a duration, exact to the millisecond, of which `parse_duration` makes the same again."""
    left = round(seconds * 1000)
    text = ""
    for unit, factor in _DURATION_UNITS.items():
        count, left = divmod(left, factor)
        if count:
            text += f"{count}{unit}"
    return text or "0s"


def parse_tokens(value: object) -> int:
    """Tokens of "16k" (16384), "1M" (1048576), or a plain count."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = _TOKENS.fullmatch(value) if isinstance(value, str) else None
    tokens = _figure(match[1]) * _TOKEN_UNITS[match[2].lower()] if match else None
    if tokens is None or tokens != int(tokens):
        raise ValueError(f"{quote(value)} is not a count of tokens; write 16k or 16384")
    return int(tokens)


def format_tokens(tokens: int) -> str:
    """The shortest exact text of a count of tokens."""
    for unit, factor in (("M", 1024 * 1024), ("k", 1024)):
        if tokens and tokens % factor == 0:
            return f"{tokens // factor}{unit}"
    return str(tokens)


def parse_percent(value: object) -> float:
    """A share between 0 and 1 of "10%", or of a number between 0 and 1."""
    ratio = _ratio(value)
    if ratio is None or not 0 <= ratio <= 1:
        raise ValueError(f"{quote(value)} is not a share; write 10% or 0.1 (from 0% to 100%)")
    return ratio


def _ratio(value: object) -> float | None:
    if isinstance(value, str):
        match = _PERCENT.fullmatch(value)
        if match:
            return float(match[1]) / 100
        return float(value) if _PLAIN.fullmatch(value) else None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    return None


def parse_decrease(value: object) -> float:
    """The share between 0 and 1 that "-5%" or -0.05 takes away."""
    ratio = None
    if isinstance(value, str) and value.startswith("-"):
        ratio = _ratio(value[1:])
    elif isinstance(value, int | float):
        ratio = _ratio(-value)
    if ratio is None or not 0 < ratio < 1:
        raise ValueError(f"{quote(value)} is not a decrease; write -5% or -0.05")
    return ratio


def format_percent(ratio: float) -> str:
    """The text of a share, to nine digits behind the point of the percentage."""
    return f"{round(ratio * 100, 9):.9f}".rstrip("0").rstrip(".") + "%"
