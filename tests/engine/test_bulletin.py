"""Who waits for news of a job."""

import pytest

from supervisord.core.errors import TooManyConnectionsError
from supervisord.core.job import JobStatus
from supervisord.engine.work import bulletin as module
from supervisord.engine.work.bulletin import KEPT_NEWS, Bulletin, News, NewsKind
from tests.engine.rig import beside
from tests.fakes.clock import fake_time


def news(job_id: str = "a", attempt: int = 1) -> News:
    return News(job_id, NewsKind.STARTED, 0.0, JobStatus.RUNNING, attempt)


async def test_everybody_who_follows_a_job_is_told_and_nobody_else() -> None:
    board = Bulletin()
    with board.follow("a") as first, board.follow("a") as second, board.follow("b") as other:
        board.tell(news())
        assert await first.next(0.0) == await second.next(0.0) == news()
        assert await other.next(0.0) is None
    assert not board.is_followed("a")
    board.tell(news())


async def test_who_waits_is_woken_and_who_waits_for_too_long_is_told_nothing() -> None:
    with fake_time() as clock:
        board = Bulletin()
        with board.follow("a") as follower:
            async with beside(follower.next(10.0)) as waiting:
                await clock.advance(9)
                board.tell(news())
                await clock.rest()
                assert waiting.result() == news()
            async with beside(follower.next(10.0)) as waiting:
                await clock.advance(11)
                assert waiting.result() is None


async def test_who_does_not_look_loses_the_oldest() -> None:
    board = Bulletin()
    with board.follow("a") as follower:
        for number in range(KEPT_NEWS + 5):
            board.tell(news(attempt=number))
        first = await follower.next(0.0)
        assert first is not None
        assert first.attempt == 5


async def test_there_is_a_bound_on_followers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_FOLLOWERS", 1)
    board = Bulletin()
    with board.follow("a"), pytest.raises(TooManyConnectionsError), board.follow("b"):
        pass
    with board.follow("b"):
        assert board.followed() == ("b",)


async def test_closing_ends_every_wait_now_and_later_and_keeps_what_was_told() -> None:
    with fake_time() as clock:
        board = Bulletin()
        with board.follow("a") as follower:
            async with beside(follower.next(3600.0)) as waiting:
                await clock.rest()
                board.close()
                await clock.rest()
                assert waiting.result() is None
            board.tell(news())
            assert await follower.next(3600.0) == news()
            assert await follower.next(3600.0) is None
        with board.follow("a") as late:
            assert await late.next(3600.0) is None
