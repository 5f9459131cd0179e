"""Those who wait for a commit, and how they are told of it."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from supervisord.adapters.store.trouble import Trouble
from supervisord.core.errors import StoreFullError, StoreUnavailableError


@dataclass(frozen=True, slots=True)
class Waiter:
    durable: bool
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[None]


def answer(waiters: Sequence[Waiter], trouble: Trouble | None) -> None:
    for waiter in waiters:
        with suppress(RuntimeError):  # its loop is closed, and nobody waits any more
            waiter.loop.call_soon_threadsafe(_resolve, waiter.done, trouble)


def _resolve(done: asyncio.Future[None], trouble: Trouble | None) -> None:
    if done.done():
        return
    if trouble is None:
        done.set_result(None)
    else:
        done.set_exception(as_error(trouble))


def as_error(trouble: Trouble) -> StoreUnavailableError:
    return StoreFullError(trouble.words) if trouble.full else StoreUnavailableError(trouble.words)
