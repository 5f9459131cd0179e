"""The life of a backend as a table, read off `core.backend.step` itself by walking through every state it can reach.

scripts/transitions.py                          print it
scripts/transitions.py --write ARCHITECTURE.md  put it between the markers
scripts/transitions.py --check ARCHITECTURE.md  status 1 when what stands there is not what the code does
"""

# ruff: noqa: INP001 - programs that are run from the tree are no package

import argparse
import re
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, without being installed

from supervisord.core import life
from supervisord.core.backend import step
from supervisord.core.exits import CauseKind, ExitCause
from supervisord.core.restart import RestartPolicy
from supervisord.core.state import BackendState, LifePolicy, Phase, Want

BEGIN, END = "<!-- transitions:begin -->", "<!-- transitions:end -->"

NOW = 1000.0
POLICY = LifePolicy(slots=2, rungs=1, climb_after_s=0.0, breaker=2, restart=RestartPolicy(max_failures=2))
GENERATION = 1

CRASH = ExitCause(CauseKind.CRASH, "crash")
OOM = ExitCause(CauseKind.GPU_OOM, "out of memory")
PERMANENT = ExitCause(CauseKind.CONFIGURATION, "cannot heal", permanent=True)

SERVING = frozenset({Phase.READY, Phase.SUSPECT})
JUDGED = frozenset({Phase.DRAINING, Phase.STOPPING, Phase.UNKILLABLE, Phase.PARKED})  # the others only tell of a cause

# Every event there is, in each of the forms that `step` tells apart.
EVENTS: Mapping[str, life.Event] = {
    "StartAsked": life.StartAsked("why"),
    "Readmitted": life.Readmitted("why"),
    "WakeAsked": life.WakeAsked("why"),
    "StopAsked (for good)": life.StopAsked("why", Want.DOWN),
    "StopAsked (until needed)": life.StopAsked("why", Want.ON_DEMAND),
    "RestartAsked": life.RestartAsked("why"),
    "ResetAsked": life.ResetAsked("why"),
    "ShrinkAsked": life.ShrinkAsked("why"),
    "ClimbAsked": life.ClimbAsked("why"),
    "Spawned": life.Spawned(GENERATION),
    "SpawnFailed": life.SpawnFailed(GENERATION, CRASH, 0.5),
    "SpawnFailed (cannot heal)": life.SpawnFailed(GENERATION, PERMANENT, 0.5),
    "Progressed": life.Progressed(GENERATION),
    "Computed": life.Computed(GENERATION),
    "Allowed": life.Allowed(GENERATION, 60.0),
    "CanaryMissed": life.CanaryMissed(GENERATION, 60.0),
    "Diagnosed (it moves)": life.Diagnosed(GENERATION, moved=True),
    "Diagnosed (it hangs)": life.Diagnosed(GENERATION, moved=False),
    "Answered": life.Answered(GENERATION),
    "ProbeMissed": life.ProbeMissed(GENERATION, "why"),
    "Exited": life.Exited(GENERATION, CRASH),
    "Exited (out of memory)": life.Exited(GENERATION, OOM),
    "Exited (cannot heal)": life.Exited(GENERATION, PERMANENT),
    "TreeGone": life.TreeGone(GENERATION),
    "Released": life.Released(GENERATION, 0.5),
    "Condemned": life.Condemned(GENERATION, OOM),
    "DeviceLost": life.DeviceLost("why"),
    "Measured": life.Measured(GENERATION, waiting=1.0, preempted=0.0),
    "DeadlineReached": life.DeadlineReached(),
    "LeaseAsked": life.LeaseAsked("job"),
    "LeaseEnded": life.LeaseEnded(GENERATION, served=True),
    "LeaseEnded (failed)": life.LeaseEnded(GENERATION, served=False, failed=True),
    "LeaseEnded (its client left)": life.LeaseEnded(GENERATION, served=False, job_id="job"),
}

Move = tuple[Phase, tuple[str, ...]]  # the next phase, and the names of the effects in order


def essence(state: BackendState) -> BackendState:
    """`state` without what does not decide where it can go: when, how often, in which words."""
    cause = state.cause if state.phase in JUDGED else None
    serves = state.phase in SERVING
    kept = None if cause is None else ExitCause(cause.kind, cause.kind, cause.permanent)
    return replace(
        state,
        since=NOW,
        deadline=None if state.deadline is None else NOW,
        # The breaker's pause ends first: else its end would never be seen while something is in flight.
        work_due=None if state.work_due is None else NOW + (state.open_until is not None),
        busy_due=None if state.busy_due is None else NOW + (state.open_until is not None),
        open_until=NOW if serves and state.open_until is not None else None,
        trial=state.trial if serves else "",
        generation=GENERATION,
        cause=kept,
        reason="",
        failures=(NOW,) * min(len(state.failures), POLICY.restart.max_failures),  # more than enough is enough
        streak=0,
        restarts=0,
        # Only one on a smaller rung goes by how long and how well it has served.
        ready_since=NOW if state.phase is Phase.READY and state.rung and state.ready_since is not None else None,
        served=int(state.phase is Phase.READY and state.rung > 0 and state.served > 0),
        rung_why="",
        climbing=False,
        climbs_failed=0,
        share=1.0,
        eased=NOW,
        stalled_s=POLICY.progress_s if serves and state.stalled_s else 0.0,
        toiled_s=POLICY.busy_s if serves and state.toiled_s else 0.0,
        allowance_s=0.0,
        failed_in_row=min(state.failed_in_row, POLICY.breaker) if serves else int(state.on_trial),
    )


def reachable() -> frozenset[BackendState]:
    """Every state, by its essence, that any order of events of the current generation leads to."""
    return _walked()[0]


def moves() -> Mapping[tuple[Phase, str], frozenset[Move]]:
    """What can follow in each phase on each event."""
    return _walked()[1]


@cache
def _walked() -> tuple[frozenset[BackendState], Mapping[tuple[Phase, str], frozenset[Move]]]:
    first = [essence(BackendState(want=want)) for want in (Want.ON_DEMAND, Want.UP)]
    found = set(first)
    todo = deque(first)
    seen: dict[tuple[Phase, str], set[Move]] = {}
    while todo:
        state = todo.popleft()
        for name, event in EVENTS.items():
            after, effects = step(state, event, POLICY, NOW)
            move = (after.phase, tuple(type(effect).__name__ for effect in effects))
            seen.setdefault((state.phase, name), set()).add(move)
            reached = essence(after)
            if reached not in found:
                found.add(reached)
                todo.append(reached)
    return frozenset(found), {key: frozenset(follows) for key, follows in seen.items()}


def table() -> str:
    """The Markdown that stands between the markers."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    yield "| in phase | on event | follows [effects] |"
    yield "|---|---|---|"
    for phase in Phase:
        for name in EVENTS:
            told = moves()[phase, name]
            if told != {(phase, ())}:
                yield f"| {phase} | {name} | {_told(phase, told)} |"
    yield ""
    yield (
        "What is not listed changes no phase and has no effect. Where more than one thing can follow, the rest of the "
        "state decides. News of an earlier generation never changes the state."
    )


def _told(phase: Phase, found: frozenset[Move]) -> str:
    words = []
    for after, effects in sorted(found, key=lambda move: (move[0] is not phase, list(Phase).index(move[0]), move[1])):
        target = "stays" if after is phase else f"**{after}**"
        words.append(target + (f" [{', '.join(effects)}]" if effects else ""))
    return ", or ".join(words)


def written_into(text: str) -> str:
    """`text` with the table between its markers. Raises ValueError when it has none."""
    marked = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    if len(marked.findall(text)) != 1:
        raise ValueError(f"it must hold {BEGIN} and, after it, {END}, once")
    return marked.sub(lambda _: f"{BEGIN}\n{table()}\n{END}", text)


def main(arguments: list[str] | None = None) -> int:
    """The exit status: 1 where --check finds an old table, 2 where the markers are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    wish = parser.add_mutually_exclusive_group()
    wish.add_argument("--write", type=Path, metavar="FILE")
    wish.add_argument("--check", type=Path, metavar="FILE")
    asked = parser.parse_args(arguments)
    path: Path | None = asked.write or asked.check
    if path is None:
        sys.stdout.write(table() + "\n")
        return 0
    text = path.read_text()
    try:
        wanted = written_into(text)
    except ValueError as error:
        sys.stderr.write(f"{path}: {error}.\n")
        return 2
    if asked.write:
        path.write_text(wanted)
    elif text != wanted:
        sys.stderr.write(f"{path} does not show what the code does. Run: scripts/transitions.py --write {path}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
