"""The only consumer of the queue: matches the jobs that wait with the backends that have room."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from supervisord.core import life
from supervisord.core.dispatch import BackendView, Reject, Serve, Wait, Wake, choose
from supervisord.core.errors import (
    DeadlineExceededError,
    JobCancelledError,
    ModelNotFoundError,
    QueueTimeoutError,
    SupervisorError,
)
from supervisord.core.job import FailureReason, Job
from supervisord.core.queue import JobQueue, Key
from supervisord.engine.backend import Backend
from supervisord.engine.generation import Generation
from supervisord.ports import Clock, Timer

Failing = Callable[[FailureReason, str], None]

PACE_WEIGHT = 0.2  # of the newest job in the running mean of seconds per job


@dataclass(slots=True)
class Lease:
    """The right of one job to be in flight at one generation of a backend. Given back exactly once."""

    job: Job
    backend: Backend
    generation: Generation
    granted: float  # monotonic
    key: Key
    fail: Failing | None = None  # set while an attempt runs: ends it from outside


@dataclass(slots=True)
class Ticket:
    """A place in the queue. `lease` gets the lease, or the SupervisorError that ended the wait."""

    job: Job
    lease: asyncio.Future[Lease]
    asked: str | None = None  # the backend that is being asked for a slot
    waits_for: str = ""


class Dispatcher:
    """Runs on the loop, never waits, and holds no lock: each call leaves the queue and the slots consistent."""

    def __init__(self, queue: JobQueue, clock: Clock) -> None:
        self.queue = queue
        self._clock = clock
        self._backends: dict[str, Backend] = {}
        self._serving: dict[str, list[tuple[Backend, tuple[int, int]]]] = {}
        self._models: dict[str, frozenset[str]] = {}
        self._tickets: dict[str, Ticket] = {}
        self._leases: dict[str, Lease] = {}
        self._paused: Mapping[str, str] = {}
        self._held: Mapping[str, str] = {}
        self._pumping = False
        self._again = False
        self._timer: Timer | None = None
        self._timer_at: float | None = None
        self._seconds_per_job: float | None = None
        self._returned: Callable[[], None] = _ignore

    def serve_with(self, backends: Mapping[str, Backend], returned: Callable[[], None]) -> None:
        """The backends there are, and whom to tell of each lease that ends; called once, before anything else."""
        self._backends = dict(backends)
        self._returned = returned
        for place, backend in enumerate(backends.values()):
            self._models[backend.name] = frozenset(backend.spec.models)
            for model in backend.spec.models:
                # A higher priority goes before every place in the file.
                self._serving.setdefault(model, []).append((backend, (-backend.spec.priority, place)))

    # --- the way in --------------------------------------------------------------------------------------------------

    def require(self, model: str) -> None:
        """Raises ModelNotFoundError for a model that nobody serves."""
        if model not in self._serving:
            raise ModelNotFoundError(
                f'No backend serves the model "{model}". GET /v1/models lists those that are served.', param="model"
            )

    def submit(self, job: Job) -> Ticket:
        """Queue a new job. Raises QueueFullError, or what makes serving it impossible now."""
        choice = choose(job, self._views(job.model))
        if isinstance(choice, Reject):
            raise choice.error
        self.queue.admit(job, seconds_per_job=self._seconds_per_job)
        ticket = self._issue(job)
        self.pump()
        self._arm()
        return ticket

    def retry(self, lease: Lease, job: Job) -> Ticket:
        """End a lease whose attempt failed, and queue its job at the very place it had."""
        self.queue.put_back(job, lease.key)  # before the slot is free: nobody behind it may overtake
        ticket = self._issue(job)
        self.give_back(lease, served=False)
        self._arm()
        return ticket

    def _issue(self, job: Job) -> Ticket:
        ticket = Ticket(job, asyncio.get_running_loop().create_future())
        self._tickets[job.id] = ticket
        return ticket

    def withdraw(self, job_id: str) -> None:
        """Forget a job that waits: its client left. Does nothing when it does not wait."""
        ticket = self._tickets.pop(job_id, None)
        if ticket is None:
            return
        self.queue.take(job_id)
        ticket.lease.cancel()
        self._arm()
        self.pump()

    # --- the way out -------------------------------------------------------------------------------------------------

    def pump(self) -> None:
        """Give every free slot to the job that is due. Called after anything changed that could matter."""
        self._again = True
        if self._pumping or not len(self.queue):
            return
        self._pumping = True
        try:
            while self._again:
                self._again = False
                for job in self.queue.first_of_each_model():
                    self._place(job)
        finally:
            self._pumping = False

    def _place(self, job: Job) -> None:
        ticket = self._tickets.get(job.id)
        if ticket is None or ticket.asked is not None:
            return
        match choose(job, self._views(job.model)):
            case Serve(backend=name):
                ticket.asked = name
                self._backends[name].post(life.LeaseAsked(job.id))
            case Wake(backend=name):
                ticket.waits_for = f"{name} is being started"
                self._backends[name].post(life.WakeAsked(f"needed by job {job.id}"))
            case Wait(why=why):
                ticket.waits_for = why
            case Reject(error=error):
                self._refuse(ticket, error)

    def granted(self, job_id: str, backend_name: str, generation: int) -> None:
        """A backend gave the slot that was asked for."""
        backend = self._backends[backend_name]
        ticket = self._tickets.pop(job_id, None)
        if ticket is None:
            backend.post(life.LeaseEnded(generation, served=False))
            return
        job, key = self.queue.take(job_id)
        current = backend.generation
        if ticket.lease.done() or current is None:  # its client has left, and has not been told to us yet
            backend.post(life.LeaseEnded(generation, served=False))
            self.pump()
            return
        lease = Lease(job, backend, current, self._clock.monotonic(), key)
        self._leases[job_id] = lease
        ticket.lease.set_result(lease)
        self.pump()  # the next in line for this model may fit beside it

    def refused(self, job_id: str, backend_name: str) -> None:
        """A backend had no slot after all: it changed between the look and the question, and will say so itself."""
        del backend_name
        ticket = self._tickets.get(job_id)
        if ticket is not None:
            ticket.asked = None
            self.pump()  # another backend may have room

    def give_back(self, lease: Lease, *, served: bool) -> None:
        """End a lease; the slot is free for the next job."""
        if self._leases.pop(lease.job.id, None) is not lease:
            return
        if served:
            seconds = self._clock.monotonic() - lease.granted
            mean = self._seconds_per_job
            self._seconds_per_job = seconds if mean is None else mean + PACE_WEIGHT * (seconds - mean)
        lease.backend.post(life.LeaseEnded(lease.generation.number, served=served))
        self._returned()
        self.pump()

    def fail_leases(self, backend: str, generation: int, reason: FailureReason, detail: str) -> None:
        """End every attempt at a generation that will not answer any more."""
        for lease in list(self._leases.values()):
            if lease.backend.name == backend and lease.generation.number == generation and lease.fail is not None:
                lease.fail(reason, detail)

    # --- time, and memory pressure -----------------------------------------------------------------------------------

    def pause(self, paused: Mapping[str, str]) -> None:
        """Dispatch nothing to these backends, for these reasons; replaces what was paused before."""
        self._paused = dict(paused)
        self.pump()

    def hold(self, held: Mapping[str, str]) -> None:
        """Wake none of these backends, for these reasons; replaces what was held before."""
        self._held = dict(held)
        self.pump()

    def _expire(self) -> None:
        self._timer = self._timer_at = None
        now = self._clock.monotonic()
        for job in self.queue.expired(now):
            waited = now - job.arrived
            why = self._tickets[job.id].waits_for
            because = f" ({why})" if why else ""
            if job.expiry_reason is FailureReason.DEADLINE_EXCEEDED:
                error: SupervisorError = DeadlineExceededError(
                    f"The job waited {waited:.1f} s and was not started before its deadline{because}."
                )
            else:
                error = QueueTimeoutError(f"The job waited {waited:.1f} s in the queue and was not started{because}.")
            self._refuse(self._tickets[job.id], error)
        self._arm()

    def _arm(self) -> None:
        due = self.queue.next_expiry()
        if due is None or (self._timer_at is not None and self._timer_at <= due):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = due
        self._timer = self._clock.call_at(due, self._expire)

    def refuse_all(self, error: SupervisorError) -> None:
        """End every wait: the daemon is going down."""
        for ticket in list(self._tickets.values()):
            self._refuse(ticket, error)

    def cancel(self, job_id: str) -> bool:
        """Cancel a job that waits or runs, for an operator; False when it does neither."""
        if (ticket := self._tickets.get(job_id)) is not None:
            self._refuse(ticket, JobCancelledError("The job was cancelled by an operator."))
            return True
        lease = self._leases.get(job_id)
        if lease is None or lease.fail is None:
            return False
        lease.fail(FailureReason.CANCELLED, "cancelled by an operator")
        return True

    def _refuse(self, ticket: Ticket, error: SupervisorError) -> None:
        if self._tickets.pop(ticket.job.id, None) is None:
            return
        self.queue.take(ticket.job.id)
        if not ticket.lease.done():
            ticket.lease.set_exception(error)
        self._again = True

    # --- looking -----------------------------------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        return len(self._leases)

    def position(self, job_id: str) -> int | None:
        """Its place in the queue, from 1; None when it does not wait."""
        return self.queue.position(job_id) if job_id in self.queue else None

    def paused_reason(self) -> str | None:
        """Why some backend gets no work; None when all do."""
        return next(iter(self._paused.values()), None)

    def _views(self, model: str) -> list[BackendView]:
        return [self._view(backend, order) for backend, order in self._serving.get(model, ())]

    def _view(self, backend: Backend, order: tuple[int, int]) -> BackendView:
        state = backend.state
        return BackendView(
            name=backend.name,
            models=self._models[backend.name],
            phase=state.phase,
            want=state.want,
            reason=state.reason,
            slots=backend.spec.slots,
            in_flight=state.in_flight,
            order=order,
            paused=backend.name in self._paused,
            held=self._held.get(backend.name, ""),
        )


def _ignore() -> None:
    return None


def retried(job: Job, failed_on: str, expires: float) -> Job:
    """The job as it goes back into the queue after an attempt: started it was, so it may wait anew until `expires`."""
    return replace(
        job,
        attempts=job.attempts + 1,
        avoid=job.avoid | {failed_on},
        expires=max(job.expires, expires),
        expiry_reason=FailureReason.QUEUE_TIMEOUT,
    )
