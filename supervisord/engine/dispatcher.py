"""The only consumer of the queue: matches the jobs that wait with the backends that have room."""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import assert_never

from supervisord.core import life
from supervisord.core.dispatch import Choice, Reject, Serve, Wait, Wake, choose
from supervisord.core.errors import JobCancelledError, ModelNotFoundError, SupervisorError
from supervisord.core.job import FailureReason, Job
from supervisord.core.queue import JobQueue
from supervisord.core.routing import Route, Routes
from supervisord.core.state import Phase
from supervisord.core.turns import Key
from supervisord.engine.backend import Backend
from supervisord.engine.expiry import Expiry, in_vain
from supervisord.engine.leases import Leases
from supervisord.engine.outlook import Outlook, Waker
from supervisord.engine.permits import Permits
from supervisord.engine.seats import Seats
from supervisord.engine.tickets import Lease, Ticket
from supervisord.ports import Clock

PACE_WEIGHT = 0.2  # of the newest job in the running mean of seconds per job


class Dispatcher:
    """Runs on the loop, never waits, and holds no lock: each call leaves the queue and the slots consistent."""

    def __init__(self, queue: JobQueue, clock: Clock, permits: Permits) -> None:
        self.queue = queue
        self._clock = clock
        self.outlook = Outlook(queue)
        self._tickets: dict[str, Ticket] = {}
        self.leases = Leases()
        self._seats = Seats(permits)
        self._expiry = Expiry(queue, clock, self._expire)
        self._pumping = False
        self._again = False
        self.held = ""  # why nothing is given to any backend; empty: jobs are
        self._refusal: SupervisorError | None = None  # what everybody is told: the daemon is going down
        self._seconds_per_job: float | None = None
        self._returned: Callable[[], None] = _ignore

    def serve_with(self, backends: Mapping[str, Backend], waker: Waker, returned: Callable[[], None]) -> None:
        """The backends there are, who starts them, and whom to tell of each lease that ends; called once, first."""
        self.outlook.over(backends, waker)
        self._returned = returned

    def route_by(self, routes: Routes) -> None:
        """From now on these are the models. Jobs that wait go with their names; without a model they are refused."""
        self.outlook.routes = routes
        for ticket in list(self._tickets.values()):
            try:
                placed = self._routed(ticket.job)
            except ModelNotFoundError:
                gone = f'The model "{ticket.job.model}" was removed by a reload of the configuration.'
                self._refuse(ticket, ModelNotFoundError(gone, param="model"))
                continue
            if placed is not ticket.job:  # its name leads elsewhere now: it waits there, at the place it had
                _, key = self.queue.take(placed.id)
                self.queue.put_back(placed, key)
                ticket.job = placed
        self.pump()

    # --- the way in --------------------------------------------------------------------------------------------------

    def submit(self, job: Job) -> Ticket:
        """Queue a new job. Raises QueueFullError, or what makes serving it impossible now."""
        if self._refusal is not None:  # it was on its way while everybody else was told
            raise self._refusal
        route = self.outlook.routes.named(job.model)
        job = _in_line(job, route)
        choice = choose(job, route, self.outlook.views(route, job))
        if isinstance(choice, Reject):
            raise choice.error
        if self.held:
            choice = Wait(self.held)
        self.queue.admit(job, seconds_per_job=self._seconds_per_job)
        ticket = self._issue(job)
        alone = len(self.queue) == 1  # mostly: nobody else waits, and nothing has changed since
        if alone and not self._seats.bars(job):
            self._follow(ticket, choice)
        else:
            self.pump()
        self._expiry.arm()
        return ticket

    def retry(self, lease: Lease, job: Job, *, failed: bool = True) -> Ticket:
        """End a lease whose attempt failed, and queue its job at the very place it had. `failed`: see `give_back`.

        Raises ModelNotFoundError when a reload has removed its model meanwhile.
        """
        try:
            placed = self._routed(job)
        except ModelNotFoundError:
            self.give_back(lease, served=False, failed=failed)
            raise
        self.queue.put_back(placed, lease.key)  # before the slot is free: nobody behind it may overtake
        ticket = self._issue(placed)
        self.give_back(lease, served=False, failed=failed)
        self._expiry.arm()
        return ticket

    def again(self, job: Job, key: Key) -> Ticket:
        """Queue a job once more whose lease has been given back, at the place it had.

        Raises ModelNotFoundError, or what `refuse_all` was given.
        """
        if self._refusal is not None:
            raise self._refusal
        placed = self._routed(job)
        self.queue.put_back(placed, key)
        ticket = self._issue(placed)
        self.pump()
        self._expiry.arm()
        return ticket

    def _routed(self, job: Job) -> Job:
        """The job in the line of the model as it is now: a reload may have come between. Raises ModelNotFoundError."""
        return _in_line(job, self.outlook.routes.named(job.model))

    def _issue(self, job: Job) -> Ticket:
        ticket = Ticket(job, asyncio.get_running_loop().create_future())
        self._tickets[job.id] = ticket
        return ticket

    def withdraw(self, job_id: str) -> None:
        """Forget a job that waits: its client left. Does nothing when it does not wait."""
        ticket = self._out(job_id)
        if ticket is None:
            return
        ticket.lease.cancel()
        self._expiry.arm()
        self._look_again()

    # --- the way out -------------------------------------------------------------------------------------------------

    def pump(self) -> None:
        """Give every free slot to the job that is due. Called after anything changed that could matter."""
        self._again = True
        if self._pumping or self.held or not len(self.queue):
            return
        self._pumping = True
        try:
            while self._again:
                self._again = False
                kept: set[str] = set()  # backends that somebody before in line needs more of than is free
                for job in self.queue.first_of_each_model(self._seats.barring):
                    self._place(job, kept)
        finally:
            self._pumping = False

    def _place(self, job: Job, kept: set[str]) -> None:
        ticket = self._tickets.get(job.id)
        if ticket is None or ticket.asked is not None:
            return
        if self._seats.bars(job):  # by one that went before it just now: whoever stands behind it may go
            self._again = True
            return
        try:
            route = self.outlook.routes.named(job.model)
        except ModelNotFoundError as gone:  # its model was removed while it ran, and its attempt failed
            self._refuse(ticket, gone)
            return
        views = self.outlook.views(route, job)
        if kept:
            views = [replace(view, room=False) if view.name in kept else view for view in views]
        choice = choose(job, route, views)
        if isinstance(choice, Wait):
            # Small requests of other models must not take, one by one, the tokens that a large one waits for.
            kept |= {view.name for view in views if view.phase is Phase.READY and not view.room}
        self._follow(ticket, choice)

    def _follow(self, ticket: Ticket, choice: Choice) -> None:
        match choice:
            case Serve(backend=name, wake=other):
                ticket.asked = name
                self._seats.take(ticket.job)
                self.outlook.backends[name].post(life.LeaseAsked(ticket.job.id, ticket.job.tokens))
                if other:
                    self._wake(other, ticket.job, modest=True)
            case Wake(backend=name, modest=modest):
                ticket.waits_for = f"{name} is being started"
                self._wake(name, ticket.job, modest=modest)
            case Wait(why=why):
                ticket.waits_for = why
            case Reject(error=error):
                self._refuse(ticket, error)
            case _ as never:
                assert_never(never)

    def _wake(self, name: str, job: Job, *, modest: bool) -> None:
        self.outlook.waker.wake(name, modest=modest, why=f"needed by job {job.id}")

    def granted(self, job_id: str, backend_name: str, generation: int) -> None:
        """A backend gave the slot that was asked for."""
        backend = self.outlook.backends[backend_name]
        ticket = self._tickets.pop(job_id, None)
        if ticket is None:
            # Its size is not known any more, and a slot without one is worth more than a budget that is exact.
            backend.post(life.LeaseEnded(generation, served=False, job_id=job_id))
            return
        job, key = self.queue.take(job_id, served=True)
        current = backend.generation
        if ticket.lease.done() or current is None:  # its client has left, and has not been told to us yet
            backend.post(life.LeaseEnded(generation, served=False, tokens=job.tokens, job_id=job_id))
            self._seats.leave(job)
            self.pump()
            return
        lease = Lease(job, backend, current, self._clock.monotonic(), key)
        self.leases.add(lease)
        ticket.lease.set_result(lease)
        self.pump()  # the next in line for this model may fit beside it

    def refused(self, job_id: str) -> None:
        """A backend had no slot after all: it changed between the look and the question, and will say so itself."""
        ticket = self._tickets.get(job_id)
        if ticket is not None:
            ticket.asked = None
            self._seats.leave(ticket.job)
            self.pump()  # another backend may have room

    def drop(self, job_id: str) -> None:
        """A fault of our own has ended this job: it neither waits nor holds a slot any more."""
        self.withdraw(job_id)
        lease = self.leases.of(job_id)
        if lease is not None:
            self.give_back(lease, served=False)

    def give_back(self, lease: Lease, *, served: bool, failed: bool = False) -> None:
        """End a lease; the slot is free for the next job. `failed`: the backend is to blame."""
        if not self.leases.remove(lease):
            return
        self._seats.leave(lease.job)
        if served:
            seconds = self._clock.monotonic() - lease.granted
            mean = self._seconds_per_job
            self._seconds_per_job = seconds if mean is None else mean + PACE_WEIGHT * (seconds - mean)
        ended = life.LeaseEnded(
            lease.generation.number,
            served=served,
            tokens=lease.job.tokens,
            failed=failed,
            job_id=lease.job.id,
            draw=random.random(),  # noqa: S311 - jitter, not a secret
        )
        lease.backend.post(ended)
        self._returned()
        self.pump()
        self.outlook.waker.touch_if_waiting()

    # --- time, and memory pressure -----------------------------------------------------------------------------------

    def pause(self, paused: Mapping[str, str]) -> None:
        """Dispatch nothing to these backends, for these reasons; replaces what was paused before."""
        self.outlook.paused = dict(paused)
        self.pump()

    def hold(self, why: str) -> None:
        """Give nothing to any backend until this is called with no reason; what runs goes on."""
        self.held = why
        for ticket in self._tickets.values():
            ticket.waits_for = why
        self.pump()

    def close(self, closed: Mapping[str, str]) -> None:
        """Dispatch nothing to these backends, which are to leave; replaces what was closed before."""
        if closed != self.outlook.closed:
            self.outlook.closed = dict(closed)
            self.pump()

    def _expire(self, jobs: Sequence[Job]) -> None:
        now = self._clock.monotonic()
        for job in jobs:
            self._refuse(self._tickets[job.id], in_vain(job, now, self.waits_for(job.id)))
        self._look_again()

    def _look_again(self) -> None:
        """Somebody left the queue: who stood behind may fit where that one did not, and a place may not be needed."""
        self.pump()
        self.outlook.waker.touch_if_waiting()

    def refuse_all(self, error: SupervisorError) -> None:
        """End every wait, now and from now on: the daemon is going down."""
        self._refusal = error
        for ticket in list(self._tickets.values()):
            self._refuse(ticket, error)

    def cancel(self, job_id: str) -> bool:
        """Cancel a job that waits or runs, for an operator; False when it does neither."""
        if (ticket := self._tickets.get(job_id)) is not None:
            self._refuse(ticket, JobCancelledError("The job was cancelled by an operator."))
            self._look_again()
            return True
        return self.leases.break_off(job_id, FailureReason.CANCELLED, "cancelled by an operator")

    def _refuse(self, ticket: Ticket, error: SupervisorError) -> None:
        if self._out(ticket.job.id) is None:
            return
        if not ticket.lease.done():
            ticket.lease.set_exception(error)
        self._again = True

    def _out(self, job_id: str) -> Ticket | None:
        """It waits no more, and has got nothing."""
        ticket = self._tickets.pop(job_id, None)
        if ticket is not None:
            self.queue.take(job_id)
            self._seats.leave(ticket.job)
        return ticket

    # --- looking -----------------------------------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        return len(self.leases)

    def position(self, job_id: str) -> int | None:
        """Its place in the queue, from 1; None when it does not wait."""
        return self.queue.position(job_id) if job_id in self.queue else None

    def waits_for(self, job_id: str) -> str:
        """What a job in the queue waits for, in words; empty when nobody has said, or it does not wait."""
        ticket = self._tickets.get(job_id)
        if ticket is None:
            return ""
        return self._seats.words(ticket.job) if self._seats.bars(ticket.job) else ticket.waits_for

    def paused_reason(self) -> str | None:
        """Why some backend gets no work; None when all do."""
        return self.held or next(iter(self.outlook.paused.values()), None)


def _ignore() -> None:
    return None


def _in_line(job: Job, route: Route) -> Job:
    return job if route.name == job.line else replace(job, route=route.name)
