"""Asking a server how it is."""

import asyncio
import io
import os
import re
import ssl

import aiohttp

from supervisord.core.errors import ProbeError
from supervisord.runtimes.base import Address, HttpAnswer

GET_LIMIT = 1024 * 1024  # bytes; /metrics and /props of a real server are a few KiB
POST_LIMIT = 16 * 1024 * 1024  # a tokenized prompt comes back as a list of numbers, five times as long as its text
KEPT_FOR_S = 4.0  # less than the 5 s after which llama.cpp's and vLLM's servers close a kept connection

_HOST = re.compile(r"[\w.:%-]+")  # in any letters


class HttpProbe:
    """A ports.HealthProbe with aiohttp. Redirects, proxies of the environment and cookies play no part.

    Certificates are verified against the system's authorities, or those in $SSL_CERT_FILE, as read at the first probe
    that needs them. Messages never hold a header: the address's headers are its credentials.
    """

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._tls: ssl.SSLContext | None = None

    async def get(self, address: Address, path: str, timeout: float) -> HttpAnswer:
        """One GET; every status is an answer. Raises ProbeError when there is none, says why, within `timeout` s."""
        return await self._ask("GET", address, path, None, timeout)

    async def post(self, address: Address, path: str, body: bytes, timeout: float) -> HttpAnswer:
        """One POST of a JSON body; otherwise as `get`, with an answer of at most 16 MiB."""
        return await self._ask("POST", address, path, body, timeout)

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _ask(self, method: str, address: Address, path: str, body: bytes | None, timeout: float) -> HttpAnswer:
        if not _can_be(address):
            raise ProbeError(f"{address.host!r} port {address.port}: no such address can exist; correct it")
        url = _url(address, path)
        name = f"{method} {url}"
        # `from None`: aiohttp's exceptions carry the request, and with it the credentials.
        try:
            async with asyncio.timeout(timeout):
                return await self._exchange(method, url, address, body)
        except TimeoutError:
            raise ProbeError(f"{name}: no answer in {timeout:g} s") from None
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError):
            raise ProbeError(f"{name}: the connection was closed before a whole answer") from None
        except aiohttp.ClientOSError as error:
            raise ProbeError(f"{name}: {_reason(error)}") from None
        except aiohttp.ClientResponseError as error:
            raise ProbeError(f"{name}: answered garbage: {error.message}") from None
        except (aiohttp.ClientError, ValueError) as error:
            raise ProbeError(f"{name}: cannot be asked: {error}") from None

    async def _exchange(self, method: str, url: str, address: Address, body: bytes | None) -> HttpAnswer:
        headers = [*address.headers, *([] if body is None else [("content-type", "application/json")])]
        tls = await self._tls_context() if address.tls else True
        async with self._opened().request(
            method,
            url,
            data=None if body is None else io.BytesIO(body),
            headers=headers,
            allow_redirects=False,
            ssl=tls,
        ) as response:
            return HttpAnswer(response.status, await _read(response, GET_LIMIT if body is None else POST_LIMIT))

    async def _tls_context(self) -> ssl.SSLContext:
        if self._tls is None:
            # In a thread: to read some 150 authorities takes tens of milliseconds, in which no stream would move.
            self._tls = await asyncio.to_thread(ssl.create_default_context)
        return self._tls

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


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """Raises ProbeError for a body of more than `limit` bytes."""
    body = bytearray()
    async for part in response.content.iter_any():
        body += part
        if len(body) > limit:
            raise ProbeError(f"{response.method} {response.url}: answered with more than {limit} bytes")
    return bytes(body)


def _can_be(address: Address) -> bool:
    return bool(_HOST.fullmatch(address.host)) and 0 < address.port < 65536


def _url(address: Address, path: str) -> str:
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{'https' if address.tls else 'http'}://{host}:{address.port}{address.prefix}{path}"


def _reason(error: aiohttp.ClientOSError) -> str:
    """asyncio puts the address into `strerror`, resolvers a negative number into `errno`."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        refusal = error.certificate_error
        message = getattr(refusal, "verify_message", str(refusal)).rstrip(".")
        return f"its certificate is refused: {message}; if an authority of your own signed it, set SSL_CERT_FILE"
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return f"no TLS with it: {error.strerror}"
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno).lower()
    return str(error.strerror or error)
