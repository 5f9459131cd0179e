"""Random clients: streams and whole answers, those who leave, who read slowly, who are in a hurry; and bursts."""

import asyncio
import random
from collections.abc import Callable
from time import monotonic
from typing import Any

import aiohttp

from tests.fakes.clients import CHAT
from tests.soak.house import House
from tests.soak.ledger import Sight, View

LONGEST_S = 60.0  # of one request: twice as long as the queue lets it wait
MOODS = {"plain": 10, "leaves": 3, "slow": 1, "hurries": 1}
BURST = 20

See = Callable[[Sight], None]


class Load:
    """`run` returns once it is told to end, and all its clients have their answers."""

    def __init__(self, house: House, see: See) -> None:
        self._house = house
        self._see = see
        self.ends = False
        self.sent = 0

    async def run(self) -> None:
        # No connection is used twice: one that the daemon closes while it idles is no answer that was lost.
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        timeout = aiohttp.ClientTimeout(LONGEST_S)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as http,
            asyncio.TaskGroup() as group,
        ):
            for number in range(self._house.plan.clients):
                group.create_task(self._client(http, self._house.plan.dice(f"client {number}")))
            group.create_task(self._bursts(http, self._house.plan.dice("bursts")))

    async def _client(self, http: aiohttp.ClientSession, dice: random.Random) -> None:
        while not self.ends:
            await asyncio.sleep(dice.expovariate(3.0))
            await self._ask(http, dice)

    async def _bursts(self, http: aiohttp.ClientSession, dice: random.Random) -> None:
        while not self.ends:
            await asyncio.sleep(dice.uniform(4, 9))
            async with asyncio.TaskGroup() as group:
                for number in range(0 if self.ends else dice.randrange(BURST)):
                    group.create_task(self._ask(http, random.Random(f"{dice.random()}/{number}")))

    async def _ask(self, http: aiohttp.ClientSession, dice: random.Random) -> None:
        models = [*self._house.plan.backends, "mixed", "mixed"]
        model, mood = dice.choice(models), dice.choices(list(MOODS), list(MOODS.values()))[0]
        stream = dice.random() < 0.6
        body = {
            "model": model,
            "messages": [{"role": "user", "content": "word " * dice.randrange(1, 60)}],
            "stream": stream,
            "max_tokens": dice.choice([1, 8, 24]),
        }
        headers = {"X-Priority": dice.choice(["high", "normal", "normal", "batch"])}
        if mood == "hurries":
            headers["X-Deadline"] = str(dice.choice([1, 5]))
        leaves_after = dice.expovariate(3.0) if mood == "leaves" else None
        if not self._house.up:
            return
        self.sent += 1
        self._see(
            await Request(http, self._house.daemon.url, model, slow=mood == "slow").run(body, headers, leaves_after)
        )


class Request:
    """One request, and what its client comes to see of it."""

    def __init__(self, http: aiohttp.ClientSession, url: str, model: str, *, slow: bool) -> None:
        self._http = http
        self._url = url
        self._model = model
        self._slow = slow
        self._job = ""
        self._status = 0
        self._read = b""

    async def run(self, body: dict[str, Any], headers: dict[str, str], leaves_after: float | None) -> Sight:
        """Never raises for what becomes of the request."""
        try:
            async with asyncio.timeout(leaves_after):
                view = await self._answered(self._http.post(self._url + CHAT, json=body, headers=headers), body)
        except TimeoutError:
            view = View.LEFT if leaves_after is not None else View.GAVE_UP
        except (aiohttp.ClientError, OSError):
            view = View.CUT if self._status else View.LOST
        return Sight(view, monotonic(), self._job, self._status, _code(self._read), self._model)

    async def _answered(self, asked: Any, body: dict[str, Any]) -> View:
        async with asked as answer:
            self._status, self._job = answer.status, answer.headers.get("x-job-id", "")
            async for part in answer.content.iter_chunked(512 if self._slow else 65536):
                self._read += part
                if self._slow:
                    await asyncio.sleep(0.05)
        if self._status != 200:
            return View.ERROR
        if not body["stream"]:
            return View.WHOLE
        failed = b'data: {"error"' in self._read
        return View.WHOLE if b"data: [DONE]" in self._read and not failed else View.CUT


def _code(body: bytes) -> str:
    return body.rpartition(b'"code":"')[2].partition(b'"')[0].decode(errors="replace") if b'"code":"' in body else ""
