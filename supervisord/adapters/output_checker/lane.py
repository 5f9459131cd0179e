"""One checking process, begun when there is something to check, and ended when there has been nothing."""

import asyncio
from dataclasses import dataclass

from supervisord.adapters.output_checker.child import Child, GoneError
from supervisord.adapters.output_checker.frames import Question, Reply, packed
from supervisord.adapters.output_checker.shares import Shares, Who


@dataclass(slots=True, eq=False)
class _Asked:
    question: Question
    reply: asyncio.Future[Reply | None]


class Lane:
    """Looks one at a time, each for at most `limit_s` seconds; who waits has a fair share of them.

    A look goes on though whoever asked has left: they would otherwise have others wait for a process that is begun
    anew. `idle_s`: seconds after which the process is given up.
    """

    def __init__(self, limit_s: float, idle_s: float) -> None:
        self._limit_s = limit_s
        self._idle_s = idle_s
        self._waiting: Shares[_Asked] = Shares()
        self._serving: asyncio.Task[None] | None = None
        self._child: Child | None = None
        self._idle: asyncio.TimerHandle | None = None

    @property
    def pid(self) -> int | None:
        """Of the process, while there is one."""
        return None if self._child is None else self._child.pid

    async def ask(self, who: Who, question: Question) -> Reply | None:
        """None: that took too long."""
        loop = asyncio.get_running_loop()
        asked = _Asked(question, loop.create_future())
        self._waiting.add(who, asked)
        if self._serving is None:
            self._serving = loop.create_task(self._serve(), name="output checks")  # awaited by close()
        try:
            return await asked.reply
        finally:
            self._waiting.remove(who, asked)

    async def close(self) -> None:
        """End the process. Who still waits is told that there is none."""
        serving = self._serving
        if serving is not None:
            serving.cancel()
            await asyncio.wait((serving,))
        await self._end()

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        self._stay()
        try:
            while self._waiting:
                who, asked = self._waiting.take()
                began = loop.time()
                try:
                    await self._look(asked)
                finally:
                    _tell(asked, Reply("failed", "the checking process was ended"))
                    self._waiting.spent(who, loop.time() - began)
                await asyncio.sleep(0)  # who asks one thing after the other asks again now, and has not had its share
            self._idle = loop.call_later(self._idle_s, self._give_up)
        finally:
            self._serving = None
            while self._waiting:
                _tell(self._waiting.take()[1], Reply("failed", "the checking process was ended"))

    async def _look(self, asked: _Asked) -> None:
        reply = await self._reply(packed(asked.question))
        _tell(asked, reply)
        if reply is None and self._waiting:  # within the time of whoever had it killed
            await self._begun_again()

    async def _reply(self, frame: bytes) -> Reply | None:
        try:
            return await self._answer(frame)
        except GoneError:  # possibly long before: nobody looked
            pass
        try:
            return await self._answer(frame)
        except GoneError as error:
            return Reply("failed", str(error))

    async def _answer(self, frame: bytes) -> Reply | None:
        """Raises GoneError."""
        whole = False
        try:
            if self._child is None:
                await self._begin()
            assert self._child is not None
            async with asyncio.timeout(self._limit_s):
                reply = await self._child.ask(frame)
            whole = True
        except TimeoutError:
            return None
        finally:
            if not whole:  # the reply to this question must not meet the next one
                await self._end()
        return reply

    async def _begun_again(self) -> None:
        try:
            await self._begin()
        except GoneError:
            await self._end()  # the next finds out for itself, and says so

    async def _begin(self) -> None:
        """Raises GoneError."""
        self._child = Child()
        await self._child.begin()

    def _stay(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _give_up(self) -> None:
        """It has been idle; one that is asked just now is not, for its timer was cancelled."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    async def _end(self) -> None:
        self._stay()
        child, self._child = self._child, None
        if child is not None:
            await child.end()


def _tell(asked: _Asked, reply: Reply | None) -> None:
    if not asked.reply.done():
        asked.reply.set_result(reply)
