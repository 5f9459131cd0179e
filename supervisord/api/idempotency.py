"""The Idempotency-Key of a request."""

import asyncio
from collections.abc import Mapping
from hashlib import sha256

from supervisord.api.door import Request
from supervisord.core.errors import InvalidRequestError
from supervisord.engine.work.idempotency import Used

HEADER = "idempotency-key"
LONGEST_KEY = 255  # characters; as Stripe has it, whose header it was
_AT_ONCE = 1024 * 1024  # bytes: 2 ms; the digest of more is made on a thread, which does without the interpreter


def key_in(headers: Mapping[str, str]) -> str:
    """The key; empty where the request has none. Raises InvalidRequestError."""
    key = headers.get(HEADER)
    if key is None:
        return ""
    if not key or len(key) > LONGEST_KEY or not key.isprintable():
        raise InvalidRequestError(
            f"Idempotency-Key must have 1 to {LONGEST_KEY} printable characters.", param="Idempotency-Key"
        )
    return key


async def used_in(request: Request) -> Used | None:
    """The key with all that is asked with it; None where the request has none. Raises InvalidRequestError."""
    key = key_in(request.headers)
    if not key:
        return None
    if len(request.body) <= _AT_ONCE:
        return Used(key, _digest(request))
    return Used(key, await asyncio.to_thread(_digest, request))


def _digest(request: Request) -> str:
    told = sha256(request.path.encode() + b"\n")
    told.update(request.body)
    return told.hexdigest()
