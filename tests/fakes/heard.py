"""Waiting for what a thread says in the log."""

import asyncio
import logging


class Heard(logging.Handler):
    """`async with Heard("words"):` ends once a record of the store's log with these words was written within.

    Raises TimeoutError after 10 s.
    """

    def __init__(self, words: str) -> None:
        super().__init__()
        self._words = words
        self._heard = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._logger = logging.getLogger("supervisord.adapters.store")

    def emit(self, record: logging.LogRecord) -> None:
        if self._words in record.getMessage():
            self._loop.call_soon_threadsafe(self._heard.set)

    async def __aenter__(self) -> None:
        self._logger.addHandler(self)

    async def __aexit__(self, *_: object) -> None:
        try:
            async with asyncio.timeout(10):
                await self._heard.wait()
        finally:
            self._logger.removeHandler(self)
