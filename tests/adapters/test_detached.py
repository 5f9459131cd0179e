"""Work on a thread that nobody has to wait for."""

import asyncio
import gc
import logging
import threading

import pytest

from supervisord.adapters.detached import detached, within


async def test_the_result_and_what_was_raised_come_back() -> None:
    assert await within(5.0, lambda: 7, "a test") == 7
    with pytest.raises(ZeroDivisionError):
        await within(5.0, lambda: 1 // 0, "a test")


@pytest.mark.parametrize("fails", [False, True])
async def test_what_comes_too_late_goes_unheard(caplog: pytest.LogCaptureFixture, *, fails: bool) -> None:
    """A disk that failed after a while was told in the log as a fault that nobody had looked at."""
    go_on, threads = threading.Event(), []

    def work() -> int:
        threads.append(threading.current_thread())
        go_on.wait(10)
        return 1 // (0 if fails else 1)

    with caplog.at_level(logging.DEBUG):
        with pytest.raises(TimeoutError):
            await within(0.05, work, "a test")
        go_on.set()
        await asyncio.to_thread(threads[0].join, 10)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        gc.collect()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_what_comes_after_the_end_of_the_loop_goes_unheard(caplog: pytest.LogCaptureFixture) -> None:
    go_on, threads = threading.Event(), []

    def work() -> None:
        threads.append(threading.current_thread())
        go_on.wait(10)

    async def gives_up() -> None:
        with pytest.raises(TimeoutError):
            await within(0.05, work, "a test")

    asyncio.run(gives_up())
    go_on.set()
    threads[0].join(10)
    assert caplog.records == []


def test_no_thread_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(OSError, match="temporarily unavailable"):
        detached(lambda: 1, "a test").result(5)
