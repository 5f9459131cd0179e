"""Which backend takes a job: choose(job, backends) -> Serve | Wake | Wait | Reject."""

from collections.abc import Sequence
from dataclasses import dataclass

from supervisord.core.errors import BackendParkedError, BackendStoppedError, ModelNotFoundError, SupervisorError
from supervisord.core.job import Job
from supervisord.core.life import Phase, Want


@dataclass(frozen=True, slots=True)
class BackendView:
    """What the choice needs to know of one backend, as it is at this moment."""

    name: str
    models: frozenset[str]
    phase: Phase
    want: Want
    reason: str
    slots: int
    in_flight: int
    order: tuple[int, int]  # by priority, then as configured: the smaller is preferred
    paused: bool = False  # memory pressure holds its dispatch
    held: str = ""  # why it is not woken now: there is too little memory to load it; empty: it may be

    @property
    def has_room(self) -> bool:
        return self.phase is Phase.READY and self.in_flight < self.slots and not self.paused


@dataclass(frozen=True, slots=True)
class Serve:
    backend: str


@dataclass(frozen=True, slots=True)
class Wake:
    backend: str


@dataclass(frozen=True, slots=True)
class Wait:
    why: str


@dataclass(frozen=True, slots=True)
class Reject:
    error: SupervisorError


Choice = Serve | Wake | Wait | Reject


def choose(job: Job, backends: Sequence[BackendView]) -> Choice:
    """What to do with the first job in line for its model.

    A job waits as long as some backend may serve it again by itself (loading, busy, in backoff, held by memory
    pressure), and is rejected only when every backend needs an operator first.
    """
    serving = [b for b in backends if job.model in b.models]
    if not serving:
        return Reject(ModelNotFoundError(f'No backend serves the model "{job.model}".', param="model"))
    if len(serving) == 1 and serving[0].has_room:  # mostly: one backend for a model
        return Serve(serving[0].name)
    # A backend that failed this job already is the last resort, yet better than failing it.
    preferred = sorted(serving, key=lambda b: (b.name in job.avoid, b.in_flight, b.order))
    for backend in preferred:
        if backend.has_room:
            return Serve(backend.name)
    for backend in sorted(serving, key=lambda b: (b.name in job.avoid, b.order)):
        asleep = backend.phase is Phase.STOPPED and backend.want is not Want.DOWN
        if asleep and not backend.paused and not backend.held:
            return Wake(backend.name)
    waiting = [b for b in preferred if _may_serve_again(b)]
    if waiting:
        return Wait(_why_waiting(waiting[0]))
    return Reject(_why_never(job.model, sorted(serving, key=lambda b: b.order)))


def _may_serve_again(backend: BackendView) -> bool:
    match backend.phase:
        case Phase.STOPPED | Phase.DRAINING | Phase.STOPPING:
            return backend.want is not Want.DOWN
        case Phase.PARKED:
            return False
        case Phase.UNKILLABLE:
            return False
        case _:
            return True


def _why_waiting(backend: BackendView) -> str:
    if backend.paused:
        return f"{backend.name} is held back by memory pressure"
    if backend.phase is Phase.READY:
        return f"{backend.name} is busy"
    if backend.phase is Phase.STOPPED and backend.held:
        return f"{backend.name} is not started: {backend.held}"
    return f"{backend.name} is {backend.phase}" + (f": {backend.reason}" if backend.reason else "")


def _why_never(model: str, serving: Sequence[BackendView]) -> SupervisorError:
    told = "; ".join(f"{b.name} is {b.phase}" + (f" ({b.reason})" if b.reason else "") for b in serving)
    first = serving[0].name
    message = f'No backend can serve model "{model}" right now: {told}. '
    if all(b.phase is Phase.STOPPED or b.want is Want.DOWN for b in serving):
        return BackendStoppedError(message + f"Start it with: supctl start {first}", param="model")
    parked = next(b for b in serving if b.want is not Want.DOWN and b.phase is not Phase.STOPPED)
    hint = f"See: supctl logs {parked.name}; try again with: supctl reset {parked.name}"
    return BackendParkedError(message + hint, param="model")
