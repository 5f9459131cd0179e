"""scripts/soak: reads what is asked for, runs it, and tells what came of it."""

import asyncio
import sys
from collections import Counter
from collections.abc import Iterator, Sequence

from tests.soak.ledger import Cost, low
from tests.soak.plan import read
from tests.soak.run import Verdict, soak

SHOWN = 12  # violations


def main(arguments: Sequence[str]) -> int:
    """The exit status: 0, 1 if something was violated, 130 if it was interrupted and nothing was."""
    plan = read(arguments)
    say(f"soak: {plan.minutes:g} min, seed {plan.seed}, backends {', '.join(plan.backends)}")
    verdict = Verdict(plan)
    try:
        asyncio.run(soak(plan, verdict))
    except KeyboardInterrupt:
        verdict.interrupted = True
    for line in table(verdict):
        say(line)
    if verdict.violations:
        return 1
    return 130 if verdict.interrupted else 0


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def table(verdict: Verdict) -> Iterator[str]:
    """The verdict for people."""
    house, watch = verdict.house, verdict.watch
    yield f"seconds           {verdict.seconds:.0f}" + (" (interrupted)" if verdict.interrupted else "")
    yield f"requests          {len(verdict.sights)}: {_counts(sight.view.value for sight in verdict.sights)}"
    yield f"records           {len(verdict.records)}: {_counts(one['status'] for one in verdict.records.values())}"
    reasons = (one["reason"] for one in verdict.records.values() if one["reason"])
    yield f"reasons           {_counts(reasons)}"
    if house is not None:
        yield f"faults and verbs  {sum(house.done.values())}: {_told(house.done)}"
    if watch is not None and watch.answers:
        taken = sorted(watch.answers)
        half, most, worst = (1e3 * taken[int((len(taken) - 1) * share)] for share in (0.5, 0.99, 1.0))
        yield f"status            {half:.0f} ms median, {most:.0f} ms at 99 %, {worst:.0f} ms at most"
        yield from _costs(watch.costs)
    yield f"violations        {len(verdict.violations)}"
    for violation in verdict.violations[:SHOWN]:
        yield f"  - {violation}"
    if verdict.violations:
        yield f"again: scripts/soak --minutes {verdict.plan.minutes:g} --seed {verdict.plan.seed}"


def _costs(costs: Sequence[Cost]) -> Iterator[str]:
    if not costs:
        return
    third = max(1, len(costs) // 3)
    early, late = costs[:third], costs[-third:]
    names = {"descriptors": 1, "threads": 1, "rss": 2**20}
    words = (f"{name} {low(early, name) / unit:.0f} -> {low(late, name) / unit:.0f}" for name, unit in names.items())
    yield f"the daemon        {', '.join(words)} (MiB; first and last third of {costs[-1].at - costs[0].at:.0f} s)"


def _counts(words: Iterator[str]) -> str:
    return _told(Counter(words))


def _told(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda pair: -pair[1]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
