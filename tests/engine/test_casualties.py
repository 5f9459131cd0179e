"""Whose requests broke off just now, and what became of them."""

from dataclasses import dataclass

from supervisord.core.job import JobStatus
from supervisord.core.record import EventKind, EventRecord, JobResult
from supervisord.engine.casualties import LATELY_S, Casualties
from tests.fakes.records import a_job, job_id


@dataclass(slots=True)
class Hand:
    """A clock that is set by hand."""

    now: float = 100.0

    def monotonic(self) -> float:
        return self.now


def told(number: int, kind: EventKind = EventKind.RETRY, backend: str = "a") -> EventRecord:
    return EventRecord(0.0, kind, "again", backend, 1, job_id(number), {})


def over(made: Casualties, number: int, status: JobStatus) -> None:
    made.finished(a_job(number), JobResult(job_id(number), status, 0.0, 0.0, 1), None)


def test_what_became_of_each() -> None:
    made = Casualties(Hand())  # type: ignore[arg-type]
    for number in (1, 2, 3, 4):
        made.broke_off("a", 1, job_id(number))
    made.broke_off("a", 0, job_id(5))
    made.broke_off("b", 1, job_id(6))
    made.heard(told(1))
    made.heard(told(2, EventKind.INCIDENT))
    made.heard(told(2, backend="b"))
    over(made, 3, JobStatus.FAILED)
    over(made, 4, JobStatus.DONE)
    found = [(each.job_id, each.retried, each.failed) for each in made.of("a", 1)]
    assert found == [
        (job_id(1), True, False),
        (job_id(2), False, False),
        (job_id(3), False, True),
        (job_id(4), False, False),
    ]


def test_they_are_forgotten_after_a_while() -> None:
    clock = Hand()
    made = Casualties(clock)  # type: ignore[arg-type]
    made.broke_off("a", 1, job_id(1))
    clock.now += LATELY_S - 1
    made.broke_off("a", 1, job_id(2))
    made.broke_off("a", 1, job_id(2))
    assert [each.job_id for each in made.of("a", 1)] == [job_id(1), job_id(2)]
    clock.now += 1.5
    assert [each.job_id for each in made.of("a", 1)] == [job_id(2)]
