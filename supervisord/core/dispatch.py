"""Which backend takes a job: choose(job, route, views) -> Serve | Wake | Wait | Reject."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from supervisord.core.errors import BackendParkedError, BackendStoppedError, ModelNotFoundError, SupervisorError
from supervisord.core.job import Job
from supervisord.core.routing import Route, Strategy
from supervisord.core.state import Phase, Want


class Outlook(IntEnum):
    """When a backend may serve a job, the soonest first."""

    ROOM = 0  # now
    BUSY = 1  # when one of its requests ends
    COMING = 2  # when it has loaded
    ASLEEP = 3  # when it has been woken
    HELD = 4  # when there is memory for it
    UNSETTLED = 5  # when it answers its probe again, or has stopped and may start again
    FAILING = 6  # by itself, later, if it does better then
    GONE = 7  # when somebody has seen to it


@dataclass(frozen=True, slots=True)
class BackendView:
    """What the choice needs to know of one backend, as it is at this moment."""

    name: str
    phase: Phase
    want: Want
    reason: str
    slots: int
    in_flight: int
    room: bool  # it would grant a lease for this very job: `core.backend.room`
    paused: bool = False  # memory pressure holds its dispatch
    held: str = ""  # why it does not start now: there is no memory for it, and none is being made; empty: it may
    waits_for_place: bool = False  # its start was asked for, and placement has not let it begin
    modest: bool = False  # that start was asked for only to help out: nobody makes room for it
    closed: str = ""  # why it takes no new work: it makes room for another; empty: it does take some
    failing: bool = False  # its last request failed, or its breaker lets single requests through to try it
    latency_s: float | None = None  # the time to the first byte that it showed of late; None: nothing was measured

    @property
    def has_room(self) -> bool:
        return self.room and self.phase is Phase.READY and not self.paused and not self.closed

    @property
    def outlook(self) -> Outlook:
        """When it may serve."""
        match self.phase:
            case Phase.READY:
                return self._outlook_when_ready()
            case Phase.STARTING if self.waits_for_place and (self.held or self.modest):
                return Outlook.HELD
            case Phase.STOPPED | Phase.DRAINING | Phase.STOPPING if self.want is Want.DOWN:
                return Outlook.GONE
            case Phase.STOPPED if self.held or self.paused:
                return Outlook.HELD
            case _:
                return _BY_PHASE[self.phase]

    def _outlook_when_ready(self) -> Outlook:
        if self.paused or self.closed:
            return Outlook.HELD
        if self.room:
            return Outlook.ROOM
        return Outlook.FAILING if self.failing else Outlook.BUSY

    @property
    def wakes(self) -> bool:
        """Whether asking it to start in earnest changes anything."""
        helps_out = self.phase is Phase.STARTING and self.waits_for_place and self.modest
        return helps_out or self.outlook is Outlook.ASLEEP


_BY_PHASE = {
    Phase.STOPPED: Outlook.ASLEEP,
    Phase.STARTING: Outlook.COMING,
    Phase.LOADING: Outlook.COMING,
    Phase.SUSPECT: Outlook.UNSETTLED,
    Phase.DRAINING: Outlook.UNSETTLED,
    Phase.STOPPING: Outlook.UNSETTLED,
    Phase.BACKOFF: Outlook.FAILING,
    Phase.PARKED: Outlook.GONE,
    Phase.UNKILLABLE: Outlook.GONE,
}


@dataclass(frozen=True, slots=True)
class Serve:
    """`wake`: a preferred backend that sleeps, to be woken modestly besides, so that it is there for later jobs."""

    backend: str
    wake: str = ""


@dataclass(frozen=True, slots=True)
class Wake:
    """`modest`: only where it fits without anybody having to leave. In earnest it is asked again of a modest one."""

    backend: str
    modest: bool = False


@dataclass(frozen=True, slots=True)
class Wait:
    why: str


@dataclass(frozen=True, slots=True)
class Reject:
    error: SupervisorError


Choice = Serve | Wake | Wait | Reject


def choose(job: Job, route: Route, views: Sequence[BackendView]) -> Choice:
    """What to do with the first job in the line of a route; `views` show the backends of the route at least.

    A job waits as long as some backend may serve it again by itself (loading, busy, in backoff, held for memory),
    and is rejected only when every backend needs somebody's hand first.
    """
    known = {view.name: view for view in views}
    main = [known[name] for name in route.backends if name in known]
    if len(main) == 1 and main[0].has_room and not job.avoid:  # mostly: one backend for a model
        return Serve(main[0].name)
    spare = [known[name] for name in route.last_resort if name in known]
    for group in _groups(job, main, spare):
        choice = _BY_STRATEGY[route.strategy](job, group)
        if choice is not None:
            return choice
    return _no_choice(job, [*main, *spare])


def _groups(job: Job, main: list[BackendView], spare: list[BackendView]) -> list[list[BackendView]]:
    """Which backends to choose among, one group after the other until one of them gives a choice.

    A backend that failed this job already comes after a last resort that did not, yet before giving up.
    """
    fresh, fresh_spare = (_not_avoided(job, group) for group in (main, spare))
    if any(view.outlook < Outlook.FAILING for view in fresh):
        return [main]
    return [fresh_spare, main, spare]


def _not_avoided(job: Job, views: Sequence[BackendView]) -> list[BackendView]:
    return [view for view in views if view.name not in job.avoid]


def _in_order(job: Job, views: Sequence[BackendView]) -> Choice | None:
    """Strict failover: what comes later is there for when what comes earlier does not work, not for when it is busy."""
    fresh = _not_avoided(job, views)
    avoided = [view for view in views if view.name in job.avoid]
    return _first_that_works(fresh) or _first_that_works(avoided)


def _first_that_works(views: Sequence[BackendView]) -> Choice | None:
    asleep = coming = busy = None
    for view in views:
        if view.has_room:
            return Serve(view.name, wake="" if asleep is None or coming is not None else asleep.name)
        outlook = view.outlook
        if outlook is Outlook.BUSY:
            busy = view
            break
        if outlook is Outlook.COMING:
            coming = coming or view
        elif view.wakes:
            asleep = asleep or view
    if coming is None and asleep is not None:
        return Wake(asleep.name)
    expected = coming or busy
    return None if expected is None else Wait(_why_waiting(expected))


def _least_busy(job: Job, views: Sequence[BackendView]) -> Choice | None:
    return _spread(job, views, _load)


def _fastest(job: Job, views: Sequence[BackendView]) -> Choice | None:
    return _spread(job, views, _latency)


def _load(view: BackendView) -> float:
    return view.in_flight / view.slots


def _latency(view: BackendView) -> float:
    if view.latency_s is not None:
        return view.latency_s
    return float("inf") if view.in_flight else -1.0  # who was never measured gets one request to be measured by


def _spread(job: Job, views: Sequence[BackendView], rank: Callable[[BackendView], float]) -> Choice | None:
    """The best that has room; where none has, one more is woken: in earnest only if none is there or on its way."""
    with_room = [view for view in views if view.has_room]
    if with_room:
        # What fails fast must not look like what serves fast.
        return Serve(min(with_room, key=lambda v: (v.name in job.avoid, v.failing, rank(v), _load(v))).name)
    hopes = [view for view in _not_avoided(job, views) if view.outlook < Outlook.FAILING] or views
    coming = next((view for view in hopes if view.outlook is Outlook.COMING), None)
    if coming is not None:
        return Wait(_why_waiting(coming))
    busy = next((view for view in hopes if view.outlook is Outlook.BUSY), None)
    for view in sorted(views, key=lambda v: v.name in job.avoid):
        if view.outlook is Outlook.ASLEEP or (busy is None and view.wakes):
            return Wake(view.name, modest=busy is not None)
    return None if busy is None else Wait(_why_waiting(busy))


_BY_STRATEGY: dict[Strategy, Callable[[Job, Sequence[BackendView]], Choice | None]] = {
    Strategy.PRIORITY: _in_order,
    Strategy.LEAST_BUSY: _least_busy,
    Strategy.LATENCY: _fastest,
}


# --- in words --------------------------------------------------------------------------------------------------------


def _no_choice(job: Job, serving: Sequence[BackendView]) -> Wait | Reject:
    if not serving:
        return Reject(ModelNotFoundError(f'No backend serves the model "{job.model}".', param="model"))
    soonest = min(serving, key=lambda v: (v.outlook is Outlook.GONE, v.name in job.avoid, v.outlook))
    if soonest.outlook is not Outlook.GONE:
        return Wait(_why_waiting(soonest))
    return Reject(_why_never(job.model, serving))


def _why_waiting(backend: BackendView) -> str:
    name = backend.name
    if backend.paused:
        return f"{name} is held back by memory pressure"
    match backend.phase:
        case Phase.READY if backend.closed:
            return f"{name} takes no new work: {backend.closed}"
        case Phase.READY:  # one whose breaker is open says so
            return f"{name}: {backend.reason}" if backend.reason else f"{name} is busy"
        case Phase.STOPPED if backend.held:
            return f"{name} is not started: {backend.held}"
        case Phase.STARTING if backend.waits_for_place:
            return f"{name} waits for its place" + (f": {backend.held}" if backend.held else "")
        case _:
            return f"{name} is {backend.phase}" + (f": {backend.reason}" if backend.reason else "")


def _why_never(model: str, serving: Sequence[BackendView]) -> SupervisorError:
    told = "; ".join(f"{b.name} is {b.phase}" + (f" ({b.reason})" if b.reason else "") for b in serving)
    first = serving[0].name
    message = f'No backend can serve model "{model}" right now: {told}. '
    if all(b.phase is Phase.STOPPED or b.want is Want.DOWN for b in serving):
        return BackendStoppedError(message + f"Start it with: supctl start {first}", param="model")
    parked = next(b for b in serving if b.want is not Want.DOWN and b.phase is not Phase.STOPPED)
    hint = f"See: supctl logs {parked.name}; try again with: supctl reset {parked.name}"
    return BackendParkedError(message + hint, param="model")
