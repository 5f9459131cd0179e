"""Models and names that contradict each other, or that nobody serves."""

from collections.abc import Iterator, Sequence

from supervisord.config.fields import nearest
from supervisord.config.finding import Finding
from supervisord.config.problem import Path
from supervisord.config.schema import FileSettings
from supervisord.config.schema_models import ModelSettings
from supervisord.config.units import format_tokens, quote
from supervisord.core import request

LENGTHS = frozenset(request.ALL_LENGTHS)


def findings(settings: FileSettings) -> Iterator[Finding]:
    """Everything in `models` and `routing` that contradicts something else."""
    for name, model in settings.models.items():
        yield from _backends(name, model, list(settings.backends))
        yield from _parameters(name, model)
    yield from _names(settings)
    yield from _default(settings)


def _backends(name: str, model: ModelSettings, known: Sequence[str]) -> Iterator[Finding]:
    at: Path = ("models", name)
    if not model.backends:
        yield Finding(((*at, "backends"),), "names no backend; a model needs at least one")
    for key, chosen in (("backends", model.backends), ("last_resort", model.last_resort)):
        for index, backend in enumerate(chosen):
            path = (*at, key, index)
            if backend not in known:
                yield Finding((path, ("backends", backend)), unknown("backend", backend, known))
            elif backend in chosen[:index]:
                yield Finding((path,), f"{backend} is listed twice; remove one")
            elif chosen is model.last_resort and backend in model.backends:
                yield Finding(
                    (path, (*at, "backends")), f"{backend} is in backends already; remove it from one of them"
                )


def unknown(noun: str, written: str, known: Sequence[str]) -> str:
    """What is said of a name that nothing has."""
    meant = nearest(written, known)
    advice = f'did you mean "{meant}"?' if meant else f"add it to {noun}s, or leave it out"
    return f"there is no {noun} {quote(written)}; {advice}"


def _parameters(name: str, model: ModelSettings) -> Iterator[Finding]:
    at: Path = ("models", name)
    for member in model.default:
        if member in model.set_:
            message = "is in set too, which always wins; remove one"
            yield Finding(((*at, "default", member), (*at, "set", member)), message)
    for index, member in enumerate(model.strip):
        if member in model.set_:
            message = f"{member} is in set too, which puts it back; remove one"
            yield Finding(((*at, "strip", index), (*at, "set", member)), message)
    yield from _max_tokens(at, model)


def _max_tokens(at: Path, model: ModelSettings) -> Iterator[Finding]:
    default, limit = model.max_tokens.default, model.max_tokens.limit
    if default is None and limit is None:
        return
    for key, members in (("set", model.set_), ("default", model.default)):
        for member in members:
            if member in LENGTHS:
                message = "is decided by max_tokens of this model too; remove one of them"
                yield Finding(((*at, key, member), (*at, "max_tokens")), message)
    if default is not None and limit is not None and default > limit:
        paths = ((*at, "max_tokens", "default"), (*at, "max_tokens", "limit"))
        yield Finding(paths, f"default ({format_tokens(default)}) must not be above limit ({format_tokens(limit)})")


def _names(settings: FileSettings) -> Iterator[Finding]:
    owners: dict[str, str] = {}
    for name, model in settings.models.items():
        for index, alias in enumerate(model.aliases):
            path: Path = ("models", name, "aliases", index)
            if alias in settings.models and alias != name:
                yield Finding((path,), f"{quote(alias)} is a model of its own; remove one of them")
            elif owners.setdefault(alias, name) != name:
                message = f"{quote(alias)} is already an alias of models.{owners[alias]}; a name belongs to one model"
                yield Finding((path, ("models", owners[alias], "aliases")), message)


def known_names(settings: FileSettings) -> list[str]:
    """Every name that clients may ask for."""
    named = (settings.backends, settings.models)
    return [name for kind in named for key, one in kind.items() for name in (key, *one.aliases)]


def _default(settings: FileSettings) -> Iterator[Finding]:
    written = settings.routing.default
    named = (("backends", settings.backends), ("models", settings.models))
    known = known_names(settings)
    if written is None or written in known:
        return
    # What names there are is known only where the aliases could be read.
    around: tuple[Path, ...] = tuple((kind, name, "aliases") for kind, section in named for name in section)
    paths: tuple[Path, ...] = (("routing", "default"), ("backends", written), ("models", written))
    yield Finding((*paths, *around), unknown("model", written, known))
