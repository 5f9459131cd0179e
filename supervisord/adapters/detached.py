"""Work that may never come back: a thread that nobody has to wait for."""

import asyncio
import errno
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

_Result = TypeVar("_Result")


def detached(work: Callable[[], _Result], name: str) -> Future[_Result]:
    """`work`, begun in a daemon thread. A thread of an executor that is stuck in a read, as of a dead network folder,
    would keep the whole process from ending. Where no thread can be had, the result is OSError (EAGAIN).
    """
    done: Future[_Result] = Future()
    done.set_running_or_notify_cancel()  # who does not wait any more leaves it as it is

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001 - handed on to whoever waits
            done.set_exception(error)

    try:
        threading.Thread(target=run, name=name, daemon=True).start()
    except RuntimeError:  # "can't start new thread": pthread_create(3) fails with EAGAIN
        done.set_exception(OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)))
    return done


async def within(limit_s: float, work: Callable[[], _Result], name: str) -> _Result:
    """The result of `detached` work. Raises TimeoutError after `limit_s`, and what `work` raises.

    What comes of it later goes unheard, also where there is no loop any more.
    """
    done = detached(work, name)
    async with asyncio.timeout(limit_s):
        return await asyncio.wrap_future(done)
