"""How many durable jobs of a client run at the same time, where the operator has set a limit for its key."""

from collections.abc import Callable
from math import inf

from supervisord.core.job import Job
from supervisord.engine.permits import Permits


class Seats:
    """A durable job takes a seat when a slot is asked for, and leaves it with the slot. Requests that a client waits
    for take none: they are counted where they come in, and would wait behind its own batches here.
    """

    def __init__(self, permits: Permits) -> None:
        self._permits = permits
        self._taken: dict[str, set[str]] = {}  # ids of jobs, by client

    def take(self, job: Job) -> None:
        if job.durable:
            self._taken.setdefault(job.submission.client, set()).add(job.id)

    def leave(self, job: Job) -> None:
        """Nothing happens where it has none."""
        client = job.submission.client
        taken = self._taken.get(client)
        if taken is not None:
            taken.discard(job.id)
            if not taken:
                del self._taken[client]

    def bars(self, job: Job) -> bool:
        """Whether a job has to wait until another of its client leaves."""
        client = job.submission.client
        most = self._permits.concurrency.get(client) if job.durable else None
        taken = self._taken.get(client)
        return most is not None and taken is not None and len(taken) >= most and job.id not in taken

    @property
    def barring(self) -> Callable[[Job], bool] | None:
        """`bars`; None while it is true of no job, which is mostly."""
        limits = self._permits.concurrency
        full = limits and any(len(taken) >= limits.get(client, inf) for client, taken in self._taken.items())
        return self.bars if full else None

    def words(self, job: Job) -> str:
        """What a job that is barred waits for."""
        client = job.submission.client
        return f"as many jobs of the key {client} run as it may have (keys.{client}.concurrency)"
