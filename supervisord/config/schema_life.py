"""The settings of how a backend lives: restarts after a failure, and how long each step may take."""

from typing import Annotated

from supervisord.config import fields
from supervisord.config.settings import Settings, section, setting


class Backoff(Settings):
    base: Annotated[float, *fields.duration("10ms", "1h")] = setting(
        "1s", "Longest first wait; each failure doubles it."
    )
    cap: Annotated[float, *fields.duration("10ms", "1d")] = setting("60s", "Longest wait of all.")


class Restart(Settings):
    max_failures: Annotated[int, *fields.whole(1, 100)] = setting(
        5, "Failures that park the backend when they fall within the next setting."
    )
    within: Annotated[float, *fields.duration("1s", "7d")] = setting("10m", "Time within which failures are counted.")
    backoff: Backoff = section(Backoff, "Waits before a start after a failure: exponential, with full jitter.")
    stable_after: Annotated[float, *fields.duration("1s", "7d")] = setting(
        "2m", "Ready this long with a request served: earlier failures are forgotten."
    )
    rearm_after: Annotated[float, *fields.duration("1s", "30d")] = setting(
        "15m", "A parked backend that can heal is tried once more after this."
    )
    climb_after: Annotated[float, *fields.duration("1s", "30d")] = setting(
        "30m", "Served this long on a smaller rung: the next larger one is tried. Each failure doubles the wait."
    )


class Canary(Settings):
    every: Annotated[float | None, *fields.duration_or_off("10s", "7d")] = setting(
        "10m", "Idle this long, and for as long again each time, it is asked whether it still answers."
    )
    token: bool | None = setting(
        None,
        "Asked for one token, or only for its counters. Unset: not on llama_cpp, where it displaces a cached prompt.",
    )


class Timeouts(Settings):
    load_stall: Annotated[float, *fields.duration("1s", "1d")] = setting(
        "5m", "Longest time of loading without any sign of progress; loading itself has no limit."
    )
    probe: Annotated[float, *fields.duration("10ms", "1m")] = setting(
        "2s", "Longest wait for the answer to one health probe."
    )
    probe_hang: Annotated[float, *fields.duration("100ms", "1h")] = setting(
        "30s", "No probe answered and no token sent: hung."
    )
    progress: Annotated[float, *fields.duration("1s", "1d")] = setting(
        "2m", "Work in flight, nothing moves and nothing is computed: hung. Prompt processing counts as progress."
    )
    busy: Annotated[float, *fields.duration("1s", "7d")] = setting(
        "15m", "Work in flight and nothing moves, although its processors or GPUs are busy: hung."
    )
    first_token: Annotated[float, *fields.duration("0s", "1d")] = setting(
        "200s",
        "More of busy (a quarter: of progress) for each 1000 tokens of a prompt whose answer has not begun.",
    )
    drain: Annotated[float, *fields.duration("0s", "1d")] = setting(
        "30s", "Time running requests have to finish before a stop."
    )
    term: Annotated[float, *fields.duration("0s", "10m")] = setting("10s", "Time between SIGTERM and SIGKILL.")
    kill: Annotated[float, *fields.duration("100ms", "10m")] = setting(
        "5s", "Time after SIGKILL until the backend counts as unkillable."
    )
