"""Keys that an operator has given out: who holds one, and how much of the service that one may use."""

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from supervisord.core.errors import UnauthorizedError
from supervisord.core.job import Priority

BEARER = "bearer "


@dataclass(frozen=True, slots=True)
class Key:
    """One key. Its secret is not kept: `digest` is its SHA-256.

    `priority`: the highest of its requests, and theirs where they name none. `concurrency`: how many of them may be
    waited for at the same time, and how many durable jobs of it may run. None: no limit. `models`: the main names of
    those it may use; empty: all.
    """

    name: str
    digest: bytes = field(repr=False)
    priority: Priority | None = None
    concurrency: int | None = None
    models: frozenset[str] = frozenset()


def digest_of(secret: str) -> bytes:
    """What is kept of a secret, and compared."""
    return sha256(secret.encode()).digest()


class Keyring:
    """All keys that are valid now."""

    def __init__(self, keys: Sequence[Key]) -> None:
        self._keys = tuple(keys)

    def holder(self, headers: Mapping[str, str]) -> Key:
        """The key that a request carries. `headers` have lower-case names. Raises UnauthorizedError.

        It takes as long for a secret that is none as for one that is: each is compared to its end, and so are all.
        """
        presented = digest_of(_secret_in(headers))
        found: Key | None = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, presented):
                found = key
        if found is None:
            raise UnauthorizedError(
                "The request carries no key that is valid here: send yours as `Authorization: Bearer KEY`, or as "
                "`x-api-key`. The operator of this machine gives them out (keys in the configuration)."
            )
        return found


def _secret_in(headers: Mapping[str, str]) -> str:
    """As OpenAI's clients send it, or as Anthropic's do."""
    authorization = headers.get("authorization", "")
    if authorization[: len(BEARER)].lower() == BEARER:
        return authorization[len(BEARER) :].strip()
    return headers.get("x-api-key", "")


def held_to(key: Key, headers: Mapping[str, str]) -> Mapping[str, str]:
    """The headers of a request as those of its key: without the secret, under its name, within its priority."""
    told = {name: value for name, value in headers.items() if name not in {"authorization", "x-api-key"}}
    told["x-client"] = key.name
    asked = told.get("x-priority", "").strip().upper()
    if key.priority is None or (asked and asked not in Priority.__members__):
        return told  # what is no priority is refused in its place
    told["x-priority"] = max(key.priority, Priority[asked] if asked else key.priority).label
    return told
