"""Many clients of one daemon, and what each of them saw."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

import aiohttp

from tests.fakes.daemon import Daemon

CHAT = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. `after` is how long its client thinks before it sends it, in seconds."""

    model: str
    after: float = 0.0
    text: str = "hello"
    more: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """What became of it. Times are monotonic seconds."""

    model: str
    asked_at: float
    took: float
    status: int
    headers: Mapping[str, str]
    body: str

    @property
    def ended_at(self) -> float:
        return self.asked_at + self.took


async def ask(
    http: aiohttp.ClientSession, daemon: Daemon, model: str = "stub", text: str = "hello", **more: Any
) -> Seen:
    """One chat completion, read to its end."""
    body = {"model": model, "messages": [{"role": "user", "content": text}], **more}
    asked_at = monotonic()
    async with http.post(daemon.url + CHAT, json=body) as answer:
        read = await answer.text()
        return Seen(model, asked_at, monotonic() - asked_at, answer.status, dict(answer.headers), read)


async def crowd(http: aiohttp.ClientSession, daemon: Daemon, clients: Sequence[Sequence[Ask]]) -> list[Seen]:
    """Every client asks one thing after the other, all of them at the same time; in the order of the answers."""
    seen: list[Seen] = []

    async def one(asks: Sequence[Ask]) -> None:
        for each in asks:
            await asyncio.sleep(each.after)
            seen.append(await ask(http, daemon, each.model, each.text, **(each.more or {})))

    async with asyncio.TaskGroup() as group:
        for asks in clients:
            group.create_task(one(asks))
    return seen


def failed(seen: Sequence[Seen]) -> list[str]:
    """Those that were not answered, in words that explain themselves in an assertion."""
    return [f"{one.model}: {one.status} after {one.took:.2f} s: {one.body[:300]}" for one in seen if one.status != 200]
