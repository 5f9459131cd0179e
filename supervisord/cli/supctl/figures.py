"""Numbers as people read them. What is absent is a dash."""

import time

ABSENT = "–"  # noqa: RUF001 - the dash of the design; a hyphen reads as a minus sign

_THOUSANDS = "\N{NO-BREAK SPACE}"
_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_K = 1024


def count(value: int | None) -> str:
    """18 204, the thousands apart by a no-break space."""
    return ABSENT if value is None else f"{value:,}".replace(",", _THOUSANDS)


def span(seconds: float | None) -> str:
    """A duration in its two largest units: 3d 4h, 2h 10m, 12m, 41 s."""
    if seconds is None:
        return ABSENT
    whole = max(0, int(seconds))
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE}m"
    if whole < _DAY:
        return _two(whole // _HOUR, "h", whole % _HOUR // _MINUTE, "m")
    return _two(whole // _DAY, "d", whole % _DAY // _HOUR, "h")


def _two(large: int, large_unit: str, small: int, small_unit: str) -> str:
    return f"{large}{large_unit} {small}{small_unit}" if small else f"{large}{large_unit}"


def exact(seconds: float | None) -> str:
    """A duration that is compared with others: 0.82 s, 12.3 s, 1m 32s; from an hour on as `span`."""
    if seconds is None or seconds >= _HOUR:
        return span(seconds)
    if seconds >= 59.95:  # what would be rounded to 60.0 s
        whole = max(_MINUTE, int(seconds))
        return _two(whole // _MINUTE, "m", whole % _MINUTE, "s")
    return f"{max(0.0, seconds):.{2 if seconds < 9.995 else 1}f} s"


def gib(size: int | None) -> str:
    return ABSENT if size is None else f"{size / 2**30:.1f}"


def size(value: int | None) -> str:
    """With its unit: 40 KiB, 23 MiB, 1.2 GiB."""
    if value is None:
        return ABSENT
    if value < 2**20:
        return f"{value / 2**10:.0f} KiB"
    return f"{value / 2**20:.0f} MiB" if value < 2**30 else f"{value / 2**30:.1f} GiB"


def number(value: int | None, noun: str) -> str:
    """1 line, 2 lines."""
    return f"{count(value)} {noun}" if value == 1 else f"{count(value)} {noun}s"


def mib_rate(rate: float) -> str:
    return f"{rate / 2**20:.1f} MiB/s"


def tokens(value: int | None) -> str:
    """A context length: 12k is 12 288 tokens, as runtimes count it; a round decimal number stays one (100k)."""
    if value is None or value < 1000:
        return ABSENT if value is None else str(value)
    if value % (_K * _K) == 0:
        return f"{value // (_K * _K)}M"
    for base in (_K, 1000):
        if value % base == 0:
            return f"{value // base}k"
    return f"{value / _K:.1f}k"


def rate(per_second: float | None) -> str:
    """Tokens per second: 14.8, from 100 on without decimals."""
    if per_second is None:
        return ABSENT
    return f"{per_second:.1f}" if per_second < 99.95 else count(round(per_second))


def moment(at: float | None) -> str:
    """Seconds since the epoch as local time."""
    if at is None:
        return ABSENT
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
    except (OverflowError, OSError, ValueError):  # further away than the calendar of the C library
        return ABSENT
