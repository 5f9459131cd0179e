"""A job's place in the queue, and its right to be in flight at a backend."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

from supervisord.core.job import FailureReason, Job
from supervisord.core.turns import Key
from supervisord.engine.backend import Backend
from supervisord.engine.generation import Generation

Failing = Callable[[FailureReason, str], None]


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


def retried(job: Job, failed_on: str, expires: float) -> Job:
    """The job as it goes back into the queue after an attempt: started it was, so it may wait anew until `expires`.

    A durable one is to be done by its deadline, started or not.
    """
    again = replace(job, attempts=job.attempts + 1, avoid=job.avoid | {failed_on})
    if job.durable:
        return again
    return replace(again, expires=max(job.expires, expires), expiry_reason=FailureReason.QUEUE_TIMEOUT)
