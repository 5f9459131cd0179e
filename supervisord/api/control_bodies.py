"""Bodies of the control door that are longer than its usual frames, either way: every wait for the peer has an end."""

import asyncio
from collections.abc import AsyncIterator

from aiohttp import web

from supervisord.core.errors import RequestTimeoutError, RequestTooLargeError

STALL_S = 60.0  # a peer on this machine that sends, or takes, nothing for so long has stopped


async def parts(request: web.Request, most: int) -> AsyncIterator[bytes]:
    """A body as it comes; the peer waits while nobody asks for more.

    Raises RequestTooLargeError beyond `most` bytes, and RequestTimeoutError.
    """
    if (request.content_length or 0) > most:
        raise _too_large(most)
    size = 0
    while True:
        try:
            async with asyncio.timeout(STALL_S):
                part = await request.content.readany()
        except TimeoutError:
            raise RequestTimeoutError(f"Nothing more of the body came for {STALL_S:g} s.") from None
        if not part:
            return
        size += len(part)
        if size > most:
            raise _too_large(most)
        yield part


async def whole_body(request: web.Request, most: int) -> bytes:
    """All of it. Raises as `parts` does."""
    return b"".join([part async for part in parts(request, most)])


async def sent(request: web.Request, response: web.StreamResponse, parts: AsyncIterator[bytes]) -> web.StreamResponse:
    """Answer with a body of `parts`. A peer that takes nothing of it for `STALL_S` is cut off."""
    await response.prepare(request)
    try:
        async for part in parts:
            async with asyncio.timeout(STALL_S):
                await response.write(part)
        async with asyncio.timeout(STALL_S):
            await response.write_eof()
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
    return response


def _too_large(most: int) -> RequestTooLargeError:
    return RequestTooLargeError(f"This takes at most {most} bytes.")
