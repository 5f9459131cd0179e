"""What can become of a job."""

import itertools
from dataclasses import replace

import pytest

from supervisord.core.job import TERMINAL, FailureReason, Job, JobEvent, JobStatus, Priority, Submission, advance

MOVES = {
    (JobStatus.QUEUED, JobEvent.STARTED): JobStatus.RUNNING,
    (JobStatus.QUEUED, JobEvent.FAILED): JobStatus.FAILED,
    (JobStatus.QUEUED, JobEvent.CANCELLED): JobStatus.CANCELLED,
    (JobStatus.QUEUED, JobEvent.ABANDONED): JobStatus.ABANDONED,
    (JobStatus.RUNNING, JobEvent.REQUEUED): JobStatus.QUEUED,
    (JobStatus.RUNNING, JobEvent.SUCCEEDED): JobStatus.DONE,
    (JobStatus.RUNNING, JobEvent.FAILED): JobStatus.FAILED,
    (JobStatus.RUNNING, JobEvent.CANCELLED): JobStatus.CANCELLED,
    (JobStatus.RUNNING, JobEvent.ABANDONED): JobStatus.ABANDONED,
}


@pytest.mark.parametrize(("status", "event"), list(itertools.product(JobStatus, JobEvent)))
def test_every_move(status: JobStatus, event: JobEvent) -> None:
    if (status, event) in MOVES:
        assert advance(status, event) is MOVES[status, event]
    else:
        with pytest.raises(ValueError, match=f"a job that is {status} cannot be {event}"):
            advance(status, event)


def test_a_finished_job_never_runs_again_nor_ends_twice() -> None:
    assert not {status for status, _ in MOVES} & TERMINAL
    assert {*MOVES.values()} == {JobStatus.QUEUED, JobStatus.RUNNING, *TERMINAL}


def test_priorities_are_in_order_and_have_names() -> None:
    assert [p.label for p in sorted(Priority)] == ["high", "normal", "batch"]


def test_a_job_shows_what_it_asks_for() -> None:
    job = Job("j", Submission("/v1/completions", "small", b"{}", priority=Priority.BATCH), 1.0, 2.0, 3.0)

    assert (job.model, job.priority) == ("small", Priority.BATCH)


def test_a_job_waits_in_the_line_of_its_route() -> None:
    job = Job("j", Submission("/v1/completions", "alias", b"{}"), 1.0, 2.0, 3.0)

    assert (job.line, replace(job, route="main").line, replace(job, route="main").model) == ("alias", "main", "alias")


def test_reasons_are_words_that_a_metric_can_carry() -> None:
    assert all(reason.value.replace("_", "").isalpha() and reason.value.islower() for reason in FailureReason)
