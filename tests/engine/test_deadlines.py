"""Deadlines, whatever somebody sets the machine's clock to."""

from dataclasses import replace

import pytest

from supervisord.core.job import FailureReason
from supervisord.core.terms import Origin, Terms
from supervisord.engine.work.deadlines import Deadlines
from tests.engine.overnight import Night, night
from tests.fakes.clock import fake_time
from tests.fakes.records import a_job

HOUR = 3600.0
DAY = 24 * HOUR


def by(it: Night, seconds: float) -> Terms:
    return Terms(Origin.JOB, deadline_at=it.clock.wall() + seconds)


async def passes(it: Night, seconds: float) -> None:
    for _ in range(int(seconds)):
        await it.clock.advance(1)
        await it.socket()


@pytest.mark.parametrize("jump", [0.0, DAY, -DAY])
async def test_what_is_left_counts_down(jump: float) -> None:
    with fake_time() as clock:
        made = Deadlines(clock)
        job = replace(a_job(1, submitted_at=clock.wall()), terms=Terms(Origin.JOB, deadline_at=clock.wall() + HOUR))
        assert made.left(job) == pytest.approx(HOUR)
        await clock.advance(60)
        clock.jump_wall(jump)
        assert made.left(job) == pytest.approx(HOUR - 60 + max(0.0, -jump))
        assert made.is_clock_ahead == (jump > 0)
        later = replace(a_job(2, submitted_at=clock.wall()), terms=Terms(Origin.JOB, deadline_at=clock.wall() + 30))
        assert made.left(later) == pytest.approx(30)
        await clock.advance(20)
        assert made.left(later) == pytest.approx(10)
        assert made.age(later) == pytest.approx(20)
        assert made.age(job) == pytest.approx(max(0.0, 80 + min(0.0, jump)))
        assert made.left(a_job(3)) is None


async def test_row_15_a_clock_that_is_set_ahead_ends_no_job_that_waits() -> None:
    async with night() as it:
        it.it.supervisor.pause_queue()
        job = await it.accept(terms=by(it, 12 * HOUR))
        lines = [it.line(number) for number in (1, 2, 3)]
        lines = [
            replace(each, terms=replace(each.terms or Terms(Origin.BATCH), deadline_at=it.clock.wall() + DAY))
            for each in lines
        ]
        await it.durable.accept_many(lines)
        it.clock.jump_wall(DAY + HOUR)
        await passes(it, 20)
        assert it.durable.waiting == 4
        it.it.supervisor.resume_queue()
        ended = await it.ended(job.job_id, *(line.id for line in lines))
        assert [each.status for each in ended] == ["done"] * 4


async def test_what_is_accepted_after_the_clock_was_set_ahead_has_its_own_deadline() -> None:
    async with night() as it:
        it.services[0].hangs = True
        await it.accept()
        await it.arrived(1)
        it.clock.jump_wall(DAY)
        in_queue = await it.accept(terms=by(it, 30))
        stored = await it.passes_until_ended(in_queue.job_id, within_s=35)
        assert stored.result is not None
        assert stored.result.reason is FailureReason.DEADLINE_EXCEEDED
        it.it.supervisor.pause_queue()
        old = await it.accept(terms=by(it, 2 * DAY), client="b")
        in_store = await it.accept(terms=by(it, 30), client="c")
        stored = await it.passes_until_ended(in_store.job_id, within_s=40)
        assert stored.result is not None
        assert stored.result.reason is FailureReason.DEADLINE_EXCEEDED
        assert stored.result.queue_wait_s == pytest.approx(30, abs=6)
        assert (await it.job(old.job_id)).status == "queued"
