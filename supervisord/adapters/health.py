"""Asking a server how it is."""

import asyncio
import os

import aiohttp

from supervisord.core.errors import ProbeError
from supervisord.runtimes.base import HttpAnswer

BODY_LIMIT = 1024 * 1024  # bytes; /metrics and /props of a real server are a few KiB
KEPT_FOR_S = 4.0  # less than the 5 s after which llama.cpp's and vLLM's servers close a kept connection


class HttpProbe:
    """A ports.HealthProbe with aiohttp. Redirects, proxies of the environment and cookies play no part."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def get(self, host: str, port: int, path: str, timeout: float) -> HttpAnswer:
        """One GET; every status is an answer. Raises ProbeError when there is none, says why, within `timeout` s."""
        name = f"GET http://{host}:{port}{path}"
        try:
            async with asyncio.timeout(timeout):
                return await self._get(host, port, path)
        except TimeoutError:
            raise ProbeError(f"{name}: no answer in {timeout:g} s") from None
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError) as error:
            raise ProbeError(f"{name}: the connection was closed before a whole answer") from error
        except aiohttp.ClientOSError as error:
            raise ProbeError(f"{name}: {_reason(error)}") from error
        except (aiohttp.ClientError, ValueError) as error:
            raise ProbeError(f"{name}: answered garbage: {error}") from error

    async def _get(self, host: str, port: int, path: str) -> HttpAnswer:
        async with self._opened().get(
            f"http://{f'[{host}]' if ':' in host else host}:{port}{path}", allow_redirects=False
        ) as response:
            body = bytearray()
            async for part in response.content.iter_any():
                body += part
                if len(body) > BODY_LIMIT:
                    raise ProbeError(f"GET {response.url}: answered with more than {BODY_LIMIT} bytes")
            return HttpAnswer(response.status, bytes(body))

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _opened(self) -> aiohttp.ClientSession:
        """The session, made on the loop that uses it."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(keepalive_timeout=KEPT_FOR_S, limit=0),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),
                headers={"Accept-Encoding": "identity"},
                auto_decompress=False,
                trust_env=False,
            )
        return self._session


def _reason(error: aiohttp.ClientOSError) -> str:
    """asyncio puts the address into `strerror`, resolvers a negative number into `errno`."""
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno).lower()
    return str(error.strerror or error)
