"""Which keys are in force: read with the configuration, and put into force everywhere at once."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from supervisord.api.door import Door
from supervisord.api.keys import public_door
from supervisord.api.public import PublicDoor
from supervisord.api.router import Table
from supervisord.config.fields_network import stays_here
from supervisord.config.model import Configuration, KeySpec
from supervisord.config.schema_keys import SHORTEST_SECRET
from supervisord.core.errors import ConfigurationError
from supervisord.core.keys import Key, digest_of
from supervisord.engine.permits import Permits

MOST_BYTES = 4096  # of a file with a secret


def read_keys(configuration: Configuration) -> tuple[Key, ...]:
    """The keys of a configuration, with the secrets that stand in files. Raises ConfigurationError."""
    owners: dict[bytes, str] = {}
    keys: list[Key] = []
    for spec in configuration.keys:
        digest = digest_of(spec.secret or _in_file(spec))
        if owners.setdefault(digest, spec.name) != spec.name:
            raise ConfigurationError(
                f"keys.{spec.name} has the same secret as keys.{owners[digest]}; each key needs its own"
            )
        keys.append(Key(spec.name, digest, spec.priority, spec.concurrency, spec.models))
    return tuple(keys)


def _in_file(spec: KeySpec) -> str:
    where = f"keys.{spec.name}.key_file: {spec.file}"
    try:
        with Path(spec.file).open("rb") as file:
            secret = file.read(MOST_BYTES + 1).strip().decode("ascii")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigurationError(f"cannot read {where}: {reason}; create it, readable for this user") from None
    except UnicodeDecodeError:
        secret = ""
    if not SHORTEST_SECRET <= len(secret) <= MOST_BYTES or not secret.isprintable() or " " in secret:
        raise ConfigurationError(
            f"{where} does not hold one word of {SHORTEST_SECRET} to {MOST_BYTES} printable characters; "
            f"openssl rand -hex 32 makes one"
        )
    return secret


class Access:
    """Who may do what on the public address. `host` is where it is bound for the life of the daemon."""

    def __init__(self, tables: Sequence[Table], configuration: Configuration, permits: Permits) -> None:
        self._tables = tables
        self._host = configuration.listen_host
        self._hosts = frozenset((*configuration.allowed_hosts, self._host))
        self._permits = permits
        self._under_way: Counter[str] = Counter()
        self._keys: Sequence[Key] = ()
        self.door: Door | None = None

    @property
    def secrets(self) -> frozenset[str]:
        """Those of our environment that are keys: no backend has any business with them."""
        digests = {key.digest for key in self._keys}
        return frozenset(value for value in os.environ.values() if digests and digest_of(value) in digests)

    def application(self, keys: Sequence[Key]) -> PublicDoor:
        """What the public address serves while these keys are in force."""
        self._keys = keys
        self._permits.models = {key.name: key.models for key in keys if key.models}
        self._permits.concurrency = {key.name: key.concurrency for key in keys if key.concurrency is not None}
        return public_door(self._tables, self._hosts, keys, self._under_way)

    def check(self, keys: Sequence[Key]) -> None:
        """Raises ConfigurationError where these keys cannot be put into force."""
        if not keys and not stays_here(self._host):
            raise ConfigurationError(
                f"there are no keys any more, and {self._host} is not loopback until the daemon is restarted: whoever "
                "reaches it could use the models; leave a key in, or change listen, restart, and take them out then"
            )

    def differs(self, keys: Sequence[Key]) -> bool:
        """Whether these are not the keys in force."""
        return tuple(keys) != tuple(self._keys)

    def enforce(self, keys: Sequence[Key]) -> None:
        """From now on only these keys are valid. Requests that are under way go on."""
        application = self.application(keys)
        if self.door is not None:
            self.door.application = application
