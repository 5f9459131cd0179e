"""How the backends look to the jobs that wait, and the jobs to the backends. It reads; it changes nothing."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from supervisord.core.dispatch import BackendView
from supervisord.core.errors import ModelNotFoundError
from supervisord.core.job import Job
from supervisord.core.leases import room
from supervisord.core.queue import JobQueue
from supervisord.core.routing import Route, Routes
from supervisord.core.state import Phase, Want
from supervisord.engine.backend import Backend

FEWEST_IN_A_ROW = 2  # the first, and one more: what fails twice on one backend is not bad luck
MOST_IN_A_ROW = 3  # however many backends there are: a request that breaks three is at fault itself


_OUT = frozenset({Phase.BACKOFF, Phase.PARKED, Phase.UNKILLABLE})


@dataclass(frozen=True, slots=True)
class Waiting:
    """The jobs that wait for a backend, as placement needs to know them."""

    queued: int = 0
    due: float | None = None  # when the first of them arrived (monotonic)
    rank: float | None = None  # the key by which the next of them is ordered
    rank_since: float | None = None  # when that one arrived (monotonic)
    others_serve: bool = False  # another backend of theirs is up, or coming


class Waker(Protocol):
    """Finds memory for backends, and starts them."""

    def wake(self, name: str, *, modest: bool, why: str) -> None:
        """A job needs this backend."""
        ...

    def touch_if_waiting(self) -> None:
        """A request ended, or a job left: somebody's place may be free now."""
        ...

    def start_of(self, name: str) -> tuple[bool, bool, str]:
        """Whether its start waits for a place, and only modestly; and why none is being made, if so."""
        ...


class _Nobody:
    """A `Waker` before there is one."""

    def wake(self, name: str, *, modest: bool, why: str) -> None:
        del name, modest, why

    def touch_if_waiting(self) -> None: ...

    def start_of(self, name: str) -> tuple[bool, bool, str]:
        del name
        return False, False, ""


class Outlook:
    """Owned by the dispatcher."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue
        self.backends: Mapping[str, Backend] = {}
        self.waker: Waker = _Nobody()
        self.routes = Routes(())
        self.paused: Mapping[str, str] = {}
        self.closed: Mapping[str, str] = {}

    def over(self, backends: Mapping[str, Backend], waker: Waker) -> None:
        """The backends there are, and who starts them."""
        self.backends = backends
        self.waker = waker

    def backends_of(self, route: Route) -> list[Backend]:
        """Those that may serve a route, the last resorts too."""
        return [self.backends[n] for n in (*route.backends, *route.last_resort) if n in self.backends]

    def all_tried(self, job: Job) -> bool:
        """Whether each backend that could serve a job has failed it; False when its model is gone."""
        try:
            route = self.routes.named(job.model)
        except ModelNotFoundError:
            return False
        return {backend.name for backend in self.backends_of(route)} <= job.avoid

    def attempts_for(self, job: Job) -> int:
        """How often a job may be tried before its failure is passed on: on each of its backends, within bounds."""
        route = self.routes.named(job.model)
        return min(MOST_IN_A_ROW, max(FEWEST_IN_A_ROW, len(route.backends) + len(route.last_resort)))

    def waiting_for(self, backend: str) -> Waiting:
        """The jobs that a backend could serve, and that wait."""
        queued, found = 0, Waiting()
        for route in self.routes.of_backend(backend):
            if (head := self._queue.head(route.name)) is None or not self._counts(backend, route):
                continue
            job, key = head
            queued += self._queue.waiting_for(route.name)
            others = found.others_serve if found.queued else True
            others = others and any(self._is_up(name) for name in route.backends if name != backend)
            oldest = self._queue.oldest_in(route.name) or job.arrived
            due = oldest if found.due is None else min(oldest, found.due)
            rank, since = (key[0], job.arrived)
            if found.rank is not None and found.rank <= rank:
                rank, since = found.rank, found.rank_since or job.arrived
            found = Waiting(queued, due, rank, since, others_serve=others)
        return found

    def _counts(self, backend: str, route: Route) -> bool:
        """Whether the jobs of a route are a backend's to serve: a last resort's only while nobody else could come."""
        if backend in route.backends:
            return True
        return all(self._is_out(name) for name in route.backends)

    def _is_out(self, name: str) -> bool:
        backend = self.backends.get(name)
        return backend is None or backend.state.phase in _OUT or backend.state.want is Want.DOWN

    def _is_up(self, name: str) -> bool:
        backend = self.backends.get(name)
        return backend is not None and backend.state.phase in {Phase.READY, Phase.LOADING}

    def views(self, route: Route, job: Job) -> list[BackendView]:
        names = (*route.backends, *route.last_resort) if route.last_resort else route.backends
        return [self._view(self.backends[name], job) for name in names if name in self.backends]

    def _view(self, backend: Backend, job: Job) -> BackendView:
        state, name = backend.state, backend.name
        waits, modest, held = self.waker.start_of(name)
        return BackendView(
            name=name,
            phase=state.phase,
            want=state.want,
            reason=state.reason,
            slots=backend.spec.slots,
            in_flight=state.in_flight,
            room=room(state, backend.policy, job.tokens),
            paused=name in self.paused,
            held=held,
            waits_for_place=waits,
            modest=modest,
            closed=self.closed.get(name, ""),
            failing=state.failed_in_row > 0 or state.on_trial,
            latency_s=backend.latency_s,
        )
