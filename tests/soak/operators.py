"""What operators do meanwhile: verbs, reloads of good and of broken files, and putting right what has given up."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

import aiohttp

from tests.fakes.daemon import Json
from tests.soak.house import House

Violated = Callable[[str], None]


class Operator:
    """`act` does something, drawn with these weights."""

    def __init__(self, house: House, dice: random.Random, violated: Violated) -> None:
        self._house = house
        self._dice = dice
        self._violated = violated
        self._acts: Mapping[Callable[[], Awaitable[None]], int] = {
            self.verb: 6,
            self.cancel: 4,
            self.reload: 2,
            self.reload_broken: 1,
            self.put_right: 8,
        }

    async def act(self) -> None:
        with suppress(aiohttp.ClientError, OSError, ValueError):  # the daemon may be killed at any moment
            await self._dice.choices(list(self._acts), list(self._acts.values()))[0]()

    async def verb(self) -> None:
        verb = self._dice.choice(["restart", "restart", "stop", "load", "unload", "reset"])
        await self._told(self._dice.choice(self._house.plan.backends), verb)

    async def _told(self, name: str, verb: str) -> None:
        await self._house.daemon.control("POST", f"/v1/backends/{name}/{verb}", {"wait_s": 0})
        self._house.count(f"operator: {verb}")

    async def cancel(self) -> None:
        """Some job that waits or runs."""
        for status in ("running", "queued"):
            jobs = (await self._house.daemon.control("GET", f"/v1/jobs?status={status}&limit=20")).get("jobs", [])
            if jobs:
                await self._house.daemon.control("POST", f"/v1/jobs/{self._dice.choice(jobs)['id']}/cancel", {})
                self._house.count("operator: cancel")
                return

    async def reload(self) -> None:
        limit = self._dice.randrange(20, 80)
        answer = await self._house.daemon.reload(queue={"limit": limit, "timeout": "30s"})
        self._house.count("reload")
        if "error" in answer:
            self._violated(f"a good configuration was not taken: {answer}")

    async def reload_broken(self) -> None:
        """Refused, and nothing of it is taken; the good file is put back."""
        config = self._house.daemon.config
        good = config.read_text()
        config.write_text(good.replace("queue:", "queu:"))
        try:
            answer = await self._house.daemon.control("POST", "/v1/reload", {})
        finally:
            config.write_text(good)
        self._house.count("reload of a broken file")
        if "error" not in answer:
            self._violated(f"a broken configuration was taken: {answer}")

    async def put_right(self) -> None:
        """Start what was stopped, and reset what gave up."""
        for backend in (await self._house.daemon.status())["backends"]:
            await self._righted(backend)

    async def _righted(self, backend: Json) -> None:
        if backend["want"] == "down":
            await self._told(backend["name"], "start")
        elif backend["phase"] == "parked":
            await self._told(backend["name"], "reset")

    async def all_serve(self, ask: Callable[[str], Awaitable[bool]], within_s: float) -> None:
        """At the end, with nothing wrong any more: every backend must serve again."""
        for name in self._house.plan.backends:
            try:
                async with asyncio.timeout(within_s):
                    while not await ask(name):
                        await self.put_right()
                        await asyncio.sleep(0.5)
            except TimeoutError:
                backend = await self._house.daemon.backend(name)
                note = f"{backend['phase']}: {backend['note']}"
                self._violated(f"{name} serves nobody {within_s:g} s after the last fault ({note})")
