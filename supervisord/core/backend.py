"""The life of a backend."""

from dataclasses import dataclass, field

from supervisord.core.restart import RestartPolicy


@dataclass(frozen=True, slots=True)
class LifePolicy:
    """Bounds on the life of one backend. Durations in seconds."""

    slots: int = 1
    load_stall_s: float = 300.0
    probe_hang_s: float = 30.0
    progress_s: float = 120.0
    drain_s: float = 30.0
    term_s: float = 10.0
    kill_s: float = 5.0
    restart: RestartPolicy = field(default_factory=RestartPolicy)
