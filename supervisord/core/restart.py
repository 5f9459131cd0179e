"""How long to wait before a start after a failure, and when to stop trying."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """All durations are seconds on the monotonic clock."""

    base_s: float = 1.0
    cap_s: float = 60.0
    max_failures: int = 5  # that many within `window_s` park the backend
    window_s: float = 600.0
    stable_after_s: float = 120.0  # ready that long, and a request served: the failures before are forgotten
    rearm_after_s: float = 900.0  # a parked backend whose cause can heal is tried once more after this


def delay(failures: int, draw: float, policy: RestartPolicy) -> float:
    """Full-jitter exponential backoff: uniform in [0, min(cap, base·2^(failures-1))].

    `failures` counts from 1; `draw` is uniform in [0, 1). Full jitter, because backends that died together for one
    reason (the card filled up) must not come back together. A tenth of the ceiling is the floor, so that a draw near
    zero does not turn the first retries into a loop without pause.
    """
    ceiling = min(policy.cap_s, policy.base_s * 2.0 ** min(max(failures, 1) - 1, 32))
    return float(ceiling * max(0.1, draw))


def within_window(failures: tuple[float, ...], now: float, policy: RestartPolicy) -> tuple[float, ...]:
    """The times of those failures that still count at `now`."""
    return tuple(at for at in failures if now - at < policy.window_s)


def exhausted(failures: tuple[float, ...], policy: RestartPolicy) -> bool:
    """Whether the budget of failures is spent."""
    return len(failures) >= policy.max_failures
