"""What the rules of a verdict are given and what they answer, and the words that they share."""

from collections.abc import Sequence
from dataclasses import dataclass

from supervisord.core.evidence import SIGNALS, ExitCause, ExitEvidence, describe_status
from supervisord.core.memory import GIB
from supervisord.core.signatures import CauseKind, Sighting, Signature, most_telling, sightings

DEADLY = frozenset({9, 15})  # what others send


@dataclass(frozen=True, slots=True)
class Known:
    found: ExitEvidence
    signatures: Sequence[Signature]

    def seen(self, kind: CauseKind) -> tuple[Sighting, ...]:
        return sightings(self.found.log, self.signatures, kind)

    def proof(self, kind: CauseKind) -> Sighting | None:
        return most_telling(self.seen(kind))

    @property
    def deadly_signal(self) -> int | None:
        """SIGKILL or SIGTERM that ended it, unless it says that it sent it to itself."""
        signal = self.found.signal
        if signal not in DEADLY:
            return None
        own = [s for s in self.signatures if s.ends_itself]
        return None if most_telling(sightings(self.found.log, own, CauseKind.CRASH)) else signal


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule makes of it. `cause` is None where it does not match."""

    because: str
    cause: ExitCause | None = None


def matched(kind: CauseKind, summary: str, because: str, *evidence: str, permanent: bool = False) -> Finding:
    return Finding(because, ExitCause(kind, summary, permanent, tuple(evidence)))


def nothing_in(what: str, seen: Sequence[Sighting]) -> str:
    if not seen:
        return f"no line of its log speaks of {what}"
    doubtful = seen[-1]
    return f'"{doubtful.line.strip()}" {doubtful.doubt}'


def host_room(found: ExitEvidence) -> str:
    if found.host_available is not None:
        return f"the host had {found.host_available / GIB:.1f} GiB available"
    if found.host_available_ratio is not None:
        return f"{found.host_available_ratio:.0%} of the host's memory was available"
    return "how much memory the host had is not known"


def how_it_ended(found: ExitEvidence) -> str:
    """The status in words, with the signal that a shell hides in it."""
    words = describe_status(found.status)
    hidden = found.status is not None and found.status > 0 and found.signal is not None
    return f"{words} ({SIGNALS[found.signal or 0]})" if hidden else words
