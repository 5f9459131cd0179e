"""How far something is that goes on in the daemon: one line that is written over and over, or a line now and then."""

import sys
from collections import deque
from dataclasses import dataclass, field

from supervisord.cli.supctl.figures import count, exact, span
from supervisord.cli.supctl.screen import columns, shortened
from supervisord.cli.supctl.wire_work import Batch

RATE_S = 60.0  # the rate is that of the last minute: a model that has just been loaded counts as it is now
RATE_LEAST_S = 2.0
SAY_EVERY_S = 15.0  # where there is no terminal: in a log of a job that takes hours
_BAR = 24  # columns
_SHORTEST = 4  # a bar of fewer says nothing


@dataclass(slots=True)
class Rate:
    """Of lines that end, over the last minute."""

    seen: deque[tuple[float, int]] = field(default_factory=deque)  # monotonic seconds, ended by then

    def note(self, now: float, ended: int) -> None:
        self.seen.append((now, ended))
        while now - self.seen[0][0] > RATE_S:
            self.seen.popleft()

    @property
    def per_second(self) -> float | None:
        """None: too early to say, or nothing moves."""
        (began, before), (now, ended) = self.seen[0], self.seen[-1]
        if now - began < RATE_LEAST_S or ended <= before:
            return None
        return (ended - before) / (now - began)


def told(batch: Batch, rate: float | None) -> str:
    """412/2 000  20 %  3.2/s  8m left  3 failed"""
    counts = batch.counts
    if not batch.total:
        return batch.status
    parts = [f"{count(counts.ended)}/{count(batch.total)}", f"{100 * counts.ended // batch.total} %"]
    if rate is not None and not batch.is_over:
        parts += [_rate(rate), f"{span((batch.total - counts.ended) / rate)} left"]
    if batch.bad:
        parts.append(f"{count(batch.bad)} failed")
    if batch.status != "in_progress":
        parts.append(batch.status)
    return "  ".join(parts)


def _rate(per_second: float) -> str:
    return f"{per_second:.1f}/s" if per_second >= 0.1 else f"one in {exact(1 / per_second)}"


def bar(batch: Batch, rate: float | None, width: int) -> str:
    """What `told` says, behind a bar as far as there is room for one, in one line of the screen."""
    words = told(batch, rate)
    length = min(_BAR, width - 1 - columns(words) - len("[]  "))
    if length < _SHORTEST:
        return shortened(words, width - 1)
    done = length * batch.counts.ended // batch.total if batch.total else 0
    return f"[{'#' * done}{'-' * (length - done)}]  {words}"


class Progress:
    """Shows it on stderr, so that the output stays free."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._terminal = sys.stderr.isatty()
        self._rate = Rate()
        self._said_at = float("-inf")
        self._said = ""
        self._drawn = 0

    def show(self, batch: Batch, now: float) -> None:
        """`now`: monotonic seconds."""
        self._rate.note(now, batch.counts.ended)
        rate = self._rate.per_second
        if self._terminal:
            line = bar(batch, rate, self._width)
            self._draw(line)
        elif now - self._said_at >= SAY_EVERY_S or batch.status != self._said:
            self._said_at, self._said = now, batch.status
            sys.stderr.write(f"{batch.id}  {told(batch, rate)}\n")
            sys.stderr.flush()

    def _draw(self, line: str) -> None:
        sys.stderr.write("\r" + line + " " * max(0, self._drawn - columns(line)))
        sys.stderr.flush()
        self._drawn = columns(line)

    def end(self) -> None:
        """What follows begins on a line of its own."""
        if self._drawn:
            sys.stderr.write("\n")
            sys.stderr.flush()
            self._drawn = 0
