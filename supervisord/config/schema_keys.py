"""The settings of keys: who may use the public address, and how much of it."""

import re
from typing import Annotated

from supervisord.config import fields
from supervisord.config.fields import FilePath, ModelName, checked
from supervisord.config.fields_network import Key
from supervisord.config.settings import Settings, setting
from supervisord.config.units import quote
from supervisord.core.request import OPERATORS

SHORTEST_SECRET = 16  # characters; 16 hex digits are 64 random bits, and nobody guesses those over a network

_NAME = re.compile(rf"(?!{OPERATORS}$)[A-Za-z0-9][A-Za-z0-9._-]{{0,62}}")


def parse_key_name(value: object) -> str:
    """The name of a key: in records it is the client, so it is one that a header could hold."""
    if isinstance(value, str) and _NAME.fullmatch(value):
        return str(value)
    if value == OPERATORS:
        raise ValueError(f"{quote(value)} cannot name a key: that is the client of all that operators submit")
    raise ValueError(
        f"{quote(value)} cannot name a key; use at most 63 of A-Z a-z 0-9 . _ - and begin with a letter or a figure"
    )


KeyName = Annotated[str, *checked(parse_key_name, {"type": "string", "pattern": f"^{_NAME.pattern}$"})]


class KeySettings(Settings):
    key: Key | None = setting(
        None,
        "The secret that clients send: as a bearer token, or as x-api-key. From the environment only: ${env:NAME}.",
    )
    key_file: FilePath | None = setting(
        None, "File that holds the secret instead, alone, such as a credential that systemd passes."
    )
    priority: Annotated[str, *fields.one_of("high", "normal", "batch", noun="a priority")] | None = setting(
        None, "Highest priority of its requests, and theirs where they name none. Default: as each request asks."
    )
    concurrency: Annotated[int, *fields.whole(1, 65_536)] | None = setting(
        None,
        "Requests of it that are waited for at the same time, more are refused with 429; and jobs of it, lines of "
        "batches too, that run at the same time, more wait. Default: no limit.",
    )
    models: list[ModelName] = setting([], "Names of the models that it may use. Default: all.")
