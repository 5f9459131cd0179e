"""Keys that nobody could use, or that tell nobody apart; and addresses that want keys."""

from collections.abc import Iterator

from supervisord.config.fields_network import stays_here
from supervisord.config.finding import Finding
from supervisord.config.problem import Path
from supervisord.config.rules_models import known_names, unknown
from supervisord.config.schema import FileSettings
from supervisord.config.schema_keys import SHORTEST_SECRET, KeySettings
from supervisord.config.units import quote


def findings(settings: FileSettings) -> Iterator[Finding]:
    """Everything in `keys` that contradicts something else, and what `listen` wants of them."""
    host = settings.listen[0]
    if not stays_here(host) and not settings.keys:
        message = f"{quote(host)} is not loopback, and there are no keys: whoever reaches it could use the models"
        yield Finding((("listen",), ("keys",)), f"{message}; use 127.0.0.1, or name who may in keys")
    owners: dict[str, str] = {}
    for name, key in settings.keys.items():
        at: Path = ("keys", name)
        yield from _secret(at, key, owners)
        yield from _models(at, key, settings)


def _secret(at: Path, key: KeySettings, owners: dict[str, str]) -> Iterator[Finding]:
    name = str(at[-1])
    if (key.key is None) == (key.key_file is None):
        which = "has no secret" if key.key is None else "has two secrets"
        yield Finding((at, (*at, "key"), (*at, "key_file")), f"{which}; write either key: ${{env:NAME}} or key_file")
    elif key.key is not None and len(key.key) < SHORTEST_SECRET:
        yield Finding(
            ((*at, "key"),),
            f"has {len(key.key)} characters, which can be guessed; make one of at least {SHORTEST_SECRET}, "
            "such as openssl rand -hex 32 gives",
        )
    elif key.key is not None and owners.setdefault(key.key, name) != name:
        message = f"is the secret of keys.{owners[key.key]} too; each key needs its own"
        yield Finding(((*at, "key"), ("keys", owners[key.key], "key")), message)


def _models(at: Path, key: KeySettings, settings: FileSettings) -> Iterator[Finding]:
    known = known_names(settings)
    # What names there are is known only where the aliases could be read.
    around: tuple[Path, ...] = tuple(
        (kind, name, "aliases")
        for kind, section in (("backends", settings.backends), ("models", settings.models))
        for name in section
    )
    for index, model in enumerate(key.models):
        if model not in known:
            yield Finding(((*at, "models", index), *around), unknown("model", model, known))
