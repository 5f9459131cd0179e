"""Whose requests broke off at a backend just now.

A process that dies takes its connections with it, and they are told of before its exit is: by 2 to 60 ms as a rule. So
the jobs that were in flight are on their way to another attempt, or over, when the exit is looked into.
"""

from collections import deque
from dataclasses import dataclass

from supervisord.core.job import JobStatus
from supervisord.core.poison import DEADLY
from supervisord.core.record import AttemptRecord, EventKind, EventRecord, JobRecord, JobResult
from supervisord.ports import Clock

LATELY_S = 5.0  # on a machine that swaps an exit was told 2 s after its connections broke
MOST = 1024  # remembered; beyond that the oldest are forgotten


@dataclass(frozen=True, slots=True)
class Casualty:
    """A job whose attempt at this generation of a backend ended with it. `failed`: it was not tried again."""

    at: float  # monotonic
    backend: str
    generation: int
    job_id: str
    failed: bool


class Casualties:
    """Remembers them for as long as an exit may still be told of."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lately: deque[Casualty] = deque(maxlen=MOST)

    def of(self, backend: str, generation: int) -> tuple[Casualty, ...]:
        """Those of one generation, in the order in which they broke off; each job once."""
        since = self._clock.monotonic() - LATELY_S
        found = {
            each.job_id: each
            for each in self._lately
            if each.at >= since and (each.backend, each.generation) == (backend, generation)
        }
        return tuple(found.values())

    def heard(self, event: EventRecord) -> None:
        """A listener for the journal: a job that is tried again."""
        if event.kind is not EventKind.RETRY or event.data.get("reason") not in DEADLY:
            return
        if event.backend is not None and event.generation is not None and event.job_id is not None:
            self._note(event.backend, event.generation, event.job_id, failed=False)

    def finished(self, job: JobRecord, result: JobResult, attempt: AttemptRecord | None) -> None:
        """A listener for the journal: a job that is over, with its last attempt."""
        if attempt is not None and attempt.reason in DEADLY:
            self._note(attempt.backend, attempt.generation, job.id, failed=result.status is JobStatus.FAILED)

    def _note(self, backend: str, generation: int, job_id: str, *, failed: bool) -> None:
        self._lately.append(Casualty(self._clock.monotonic(), backend, generation, job_id, failed))
