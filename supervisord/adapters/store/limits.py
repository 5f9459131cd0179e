"""How much may wait for the writer."""

from dataclasses import dataclass
from typing import Final

MOST_RECORDS: Final = 20_000
MOST_BODY_BYTES: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limit:
    """How much may wait for the writer when one more record comes."""

    records: int
    body_bytes: int
    in_trouble: bool  # taken also while nothing can be committed


# What is new is refused first, so that what was accepted before can still be told to its end.
NEW_JOB: Final = Limit(MOST_RECORDS * 3 // 4, MOST_BODY_BYTES * 3 // 4, in_trouble=False)
EVENT: Final = Limit(NEW_JOB.records, NEW_JOB.body_bytes, in_trouble=True)
OF_ACCEPTED: Final = Limit(MOST_RECORDS, MOST_BODY_BYTES, in_trouble=True)
