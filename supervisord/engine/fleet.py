"""All backends there are: how one comes, how one goes, and waiting for what becomes of them."""

import asyncio
from collections.abc import Callable, Collection

from supervisord.core import life
from supervisord.core.errors import NotFoundError
from supervisord.core.state import DOWN, Phase, Want
from supervisord.engine.backend import Backend
from supervisord.engine.stopping import RELEASE_LIMIT_S
from supervisord.engine.world import Hooks, World
from supervisord.ports import Clock
from supervisord.runtimes.base import BackendSpec


class Fleet:
    """Owned by the supervisor, who tells it of every change."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.backends: dict[str, Backend] = {}
        self._changed = asyncio.Event()
        self._equipment: tuple[World, Hooks] | None = None

    def equip(self, world: World, hooks: Hooks) -> None:
        """What each of them needs; called once, before the first is added."""
        self._equipment = world, hooks

    def named(self, name: str) -> Backend:
        """Raises NotFoundError."""
        if name not in self.backends:
            known = ", ".join(self.backends) or "none is configured"
            raise NotFoundError(f'There is no backend "{name}"; there are: {known}.', param="name")
        return self.backends[name]

    def add(self, spec: BackendSpec) -> Backend:
        """A new backend; or one that was removed and has not ended yet, to come back as described now."""
        leaving = self.backends.get(spec.name)
        if leaving is not None:
            leaving.reconfigure(spec, restart=True)
            leaving.post(life.Readmitted("it is back in the configuration"))
            return leaving
        assert self._equipment is not None, "the daemon is open before it has backends"
        made = self.backends[spec.name] = Backend(spec, *self._equipment)
        return made

    async def forget(self, backend: Backend, configured: Callable[[], Collection[str]]) -> None:
        """Let a backend that is no longer configured finish, then drop it. One that was added again is another."""
        limit = self._clock.monotonic() + self.longest_stop_s + RELEASE_LIMIT_S
        while backend.state.phase not in DOWN and self._clock.monotonic() < limit:
            await self.change(limit)
        if backend.state.phase not in DOWN:
            return  # it cannot be killed: it goes on being shown for what it is
        if self.backends.get(backend.name) is backend and backend.name not in configured():
            del self.backends[backend.name]
            backend.close()

    async def stop(self) -> None:
        """Stop every backend and wait until nothing of them is left."""
        for backend in self.backends.values():
            backend.post(life.StopAsked("the daemon is going down", Want.DOWN))
        limit = self._clock.monotonic() + self.longest_stop_s
        while any(not _is_down(b) for b in self.backends.values()) and self._clock.monotonic() < limit:
            await self.change(limit)

    def close(self) -> None:
        """End what watches over them."""
        for backend in self.backends.values():
            backend.close()

    @property
    def longest_stop_s(self) -> float:
        """Until the slowest of them is down, at most."""
        lives = (backend.spec.life for backend in self.backends.values())
        return max((life.drain_s + life.term_s + life.kill_s + 5.0 for life in lives), default=0.0)

    # --- waiting -----------------------------------------------------------------------------------------------------

    def has_changed(self) -> None:
        """Something has, that somebody may wait for: a backend, a lease, a wish to hurry."""
        self._changed.set()

    async def change(self, limit: float) -> None:
        """Returns after the next change, after a second at most, and at `limit` (monotonic)."""
        self._changed.clear()
        try:
            async with asyncio.timeout(max(0.0, min(1.0, limit - self._clock.monotonic()))):
                await self._changed.wait()
        except TimeoutError:
            return

    async def reached(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Whether a condition came true within `timeout_s` seconds."""
        limit = self._clock.monotonic() + timeout_s
        while not condition():
            if self._clock.monotonic() >= limit:
                return False
            await self.change(limit)
        return True


def _is_down(backend: Backend) -> bool:
    return backend.state.phase in DOWN or backend.state.phase is Phase.UNKILLABLE
