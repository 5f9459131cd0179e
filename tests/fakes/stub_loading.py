"""How the stub loads: the time it takes, the memory it finds, and what it says meanwhile."""

import asyncio
import os
import sys
from collections.abc import Callable
from time import monotonic

from tests.fakes.stub_engine import Engine
from tests.fakes.stub_memory import STEPS, Memory
from tests.fakes.stub_options import Faults, Serving


class Loading:
    def __init__(self, serving: Serving, faults: Faults, engine: Engine | None, strike: Callable[[], None]) -> None:
        self._serving = serving
        self._faults = faults
        self._engine = engine
        self._strike = strike
        self._memory = Memory(serving)  # for as long as this is alive

    async def load(self) -> bool:
        """Whether the model could be loaded."""
        enough = await self._load_by_engine() if self._engine else await self._load_here()
        above = self._faults.load_oom_above_ctx
        return enough and not (self._faults.load_exit_oom or (above and self._serving.ctx > above))

    async def _load_here(self) -> bool:
        if not self._memory.takes_any:
            await self._take_time()
            return True
        for enough in self._memory.steps():
            if not enough:
                return False
            await asyncio.sleep(self._serving.load_seconds / STEPS)
        return True

    async def _take_time(self) -> None:
        began = monotonic()
        every = self._serving.load_log_every
        while self._faults.load_stall or monotonic() - began < self._serving.load_seconds:
            if self._faults.load_stall:
                self._strike()
            left = 3600.0 if self._faults.load_stall else began + self._serving.load_seconds - monotonic()
            await asyncio.sleep(min(every or left, max(left, 0)))
            if every:
                say(f"load_tensors: {monotonic() - began:.2f} s")

    async def _load_by_engine(self) -> bool:
        assert self._engine is not None
        loop = asyncio.get_running_loop()
        told = asyncio.Event()
        loop.add_reader(self._engine.loaded, told.set)
        await told.wait()
        loop.remove_reader(self._engine.loaded)
        return bool(os.read(self._engine.loaded, 1))


def say(*lines: str) -> None:
    for line in lines:
        print(line, file=sys.stderr, flush=True)  # noqa: T201 - a server's log
