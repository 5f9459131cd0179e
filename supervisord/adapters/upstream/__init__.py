"""The relay's way to a backend: HTTP/1.1 on asyncio Protocols, pushing an answer as each read brings it.

aiohttp's client costs about a third of the CPU of a relayed request; this one little more than its system calls.
"""

from supervisord.adapters.upstream.pool import HttpUpstream

__all__ = ["HttpUpstream"]
