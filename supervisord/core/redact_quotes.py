"""Lines of a log that were blanked, wherever else they are quoted: in a summary, a story, a verdict, an event."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from supervisord.core.redact_names import REMOVED

_KEY = 8  # characters by which a line is found; a shorter one only where it is all that is quoted
_PLAIN = 24  # shorter lines may be phrases that others write too: they count where a quotation begins
_CUT = 40  # characters of a line by which it is known even where the rest was cut off
_ALIKE = 16  # lines with the same beginning that are told apart: of more, whatever follows that beginning is theirs
_OPENING = (": ", '"', "'", "`", "(", "“")


@dataclass(frozen=True, slots=True)
class Quotable:
    """A line as it was, and `told` as what it became: with `removed` places blanked, by what was there."""

    line: str
    told: str
    removed: Mapping[str, int] = field(hash=False)


class Quotes:
    """What to look for in other texts. A text is read once, whatever the number of lines."""

    def __init__(self, lines: Iterable[Quotable] = ()) -> None:
        self._tiny: dict[str, Quotable] = {}
        self._short: dict[str, dict[str, Quotable]] = {}
        self._long: dict[str, list[Quotable]] = {}
        self._partly: dict[str, list[Quotable]] = {}  # long ones, of which only a part was blanked
        for each in dict.fromkeys(lines):
            line = _bare(each.line)
            for spelling in {line, line[:1].upper() + line[1:]}:  # a story begins its sentences with a capital
                self._keep(Quotable(spelling, _bare(each.told), each.removed))

    def _keep(self, each: Quotable) -> None:
        line = each.line
        if len(line) >= _CUT:
            (self._long if each.told == REMOVED else self._partly).setdefault(line[:_CUT], []).append(each)
        elif len(line) >= _KEY:
            self._short.setdefault(line[:_KEY], {})[line] = each
        elif line and each.told == REMOVED:
            self._tiny[line] = each

    def without(self, text: str, removed: Counter[str]) -> str:
        """The text without them. What was taken out is counted in `removed`."""
        told: list[str] = []
        done = at = 0
        last = len(text) - _KEY if self._short or self._long or self._partly else -1
        while at <= last:
            found = self._shorter(text, at) or self._longer(text, at)
            if found is None:
                at += 1
                continue
            each, end = found
            removed.update(each.removed)
            told += (text[done:at], each.told)
            done = at = end
        text = "".join((*told, text[done:]))
        return self._without_tiny(text, removed) if self._tiny else text

    def _shorter(self, text: str, at: int) -> tuple[Quotable, int] | None:
        known = self._short.get(text[at : at + _KEY])
        if known is None:
            return None
        fitting = [line for line in known if text.startswith(line, at) and _stands_alone(text, at, len(line))]
        if not fitting:
            return None
        line = max(fitting, key=len)
        return known[line], at + len(line)

    def _longer(self, text: str, at: int) -> tuple[Quotable, int] | None:
        begins = text[at : at + _CUT]
        blanked, altered = self._long.get(begins, []), self._partly.get(begins, [])
        if not blanked and not altered:
            return None
        if len(blanked) > _ALIKE:
            return blanked[0], len(text)
        ends = [(each, _end(each, text, at)) for each in (*blanked, *altered[:_ALIKE])]
        return max((found for found in ends if found[1] > at), key=lambda found: found[1], default=None)

    def _without_tiny(self, text: str, removed: Counter[str]) -> str:
        before, colon, last = text.rpartition(": ")
        each = self._tiny.get(_bare(last))
        if each is None:
            return text
        removed.update(each.removed)
        return f"{before}{colon}{each.told}"


def _bare(line: str) -> str:
    """As it is quoted: without the blanks around it, and without the full stop that a sentence has of its own."""
    return line.strip().rstrip(".")


def _stands_alone(text: str, at: int, length: int) -> bool:
    if text[at + length : at + length + 1].isalnum():
        return False
    return length >= _PLAIN or at == 0 or text.endswith(_OPENING, 0, at)


def _end(each: Quotable, text: str, at: int) -> int:
    """Where the quotation of a long line ends: at its end, or where it was cut off. `at`: it is not quoted.

    Of a line that is gone whatever is like it goes; one that stays but for a part is not taken for another like it.
    """
    end = at + _alike(each.line, text, at)
    was_cut = text[end : end + 1] in ("", "…")
    return end if end - at == len(each.line) or each.told == REMOVED or was_cut else at


def _alike(line: str, text: str, at: int) -> int:
    """How many characters of `line` stand at `at`, where the first _CUT of them do."""
    if text.startswith(line, at):
        return len(line)
    low, high = _CUT, len(line)  # the first `low` are the same, the first `high` are not
    while high - low > 1:
        middle = (low + high) // 2
        if text.startswith(line[:middle], at):
            low = middle
        else:
            high = middle
    return low
