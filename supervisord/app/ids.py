"""Ids of jobs: short, unique, and in the order of time, so that an index on them is an index on age."""

import secrets
import time

from supervisord.core.ids import ALPHABET

_PAIRS = tuple(first + second for first in ALPHABET for second in ALPHABET)


def _base32(value: int, length: int) -> str:
    """`value` in `length` digits, an even number of them; two at a time, since every request asks for an id."""
    return "".join([_PAIRS[value >> shift & 1023] for shift in range(5 * (length - 2), -1, -10)])


class JobIds:
    """Makes ids of the form that `core.ids` tells.

    Ids of one process strictly rise, also when the wall clock is set back.
    """

    def __init__(self) -> None:
        self._last = 0
        self._random = _base32(secrets.randbits(20), 4)

    def __call__(self) -> str:
        now = time.time_ns() // 1_000_000 * 32768
        self._last = max(self._last + 1, now)
        return _base32(self._last, 12) + self._random
