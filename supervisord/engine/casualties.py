"""Whose requests broke off at a backend just now.

A process that dies takes its connections with it, and they are told of before its exit is: by 2 to 60 ms as a rule. So
the jobs that were in flight are on their way to another attempt, or over, when the exit is looked into.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from supervisord.core.job import JobStatus
from supervisord.core.record import AttemptRecord, EventKind, EventRecord, JobRecord, JobResult
from supervisord.ports import Clock

LATELY_S = 5.0  # on a machine that swaps an exit was told 2 s after its connections broke
MOST = 1024  # remembered; beyond that the oldest are forgotten


@dataclass(slots=True)
class Casualty:
    """A job whose attempt at this generation of a backend ended with it, and what became of the job since."""

    at: float  # monotonic
    backend: str
    generation: int
    job_id: str
    retried: bool = False
    failed: bool = False


class Casualties:
    """Remembers them for as long as an exit may still be told of."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: deque[Casualty] = deque(maxlen=MOST)

    def of(self, backend: str, generation: int) -> tuple[Casualty, ...]:
        """Those of one generation, in the order in which they broke off; each job once."""
        found = {
            each.job_id: each for each in self._lately() if (each.backend, each.generation) == (backend, generation)
        }
        return tuple(found.values())

    def broke_off(self, backend: str, generation: int, job_id: str) -> None:
        """An attempt ended because its backend went down, or could not go on."""
        self._known.append(Casualty(self._clock.monotonic(), backend, generation, job_id))

    def heard(self, event: EventRecord) -> None:
        """A listener for the journal: a job is tried again."""
        if event.kind is EventKind.RETRY:
            for each in self._lately():
                each.retried |= (each.backend, each.job_id) == (event.backend, event.job_id)

    def finished(self, job: JobRecord, result: JobResult, attempt: AttemptRecord | None) -> None:
        """A listener for the journal: a job is over, wherever it was tried last."""
        del attempt
        if result.status is JobStatus.FAILED:
            for each in self._lately():
                each.failed |= each.job_id == job.id

    def _lately(self) -> Iterator[Casualty]:
        since = self._clock.monotonic() - LATELY_S
        while self._known and self._known[0].at < since:
            self._known.popleft()
        return iter(self._known)
