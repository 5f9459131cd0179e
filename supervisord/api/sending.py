"""Answers that are longer than should be in memory: part by part, as fast as the client takes them."""

import asyncio
from collections.abc import AsyncIterator, Sequence

from supervisord.api.door import HttpClient

# No cache, and no buffer of a proxy's, may hold events back.
EVENTS = (("content-type", "text/event-stream"), ("cache-control", "no-cache"), ("x-accel-buffering", "no"))


async def send(
    client: HttpClient, headers: Sequence[tuple[str, str]], parts: AsyncIterator[bytes], *, stall_s: float
) -> None:
    """Answer 200 with a body of `parts`. A client that takes nothing for `stall_s` seconds is cut off."""
    client.start(200, headers, length=None)
    if client.bodiless:  # its next request may be on its way already, and must not stand behind parts it never gets
        client.finish()
        return
    async for part in parts:
        if not client.write(part):
            try:
                async with asyncio.timeout(stall_s):
                    await client.drained()
            except TimeoutError:
                client.abort()
                return
    client.finish()
