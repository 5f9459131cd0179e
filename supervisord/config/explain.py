"""What the validator found, in the words of the person who wrote the file."""

from collections.abc import Iterator
from typing import Any, get_args, get_origin

from pydantic import Discriminator
from pydantic_core import ErrorDetails

from supervisord.config.fields import listed, nearest
from supervisord.config.problem import Path, show_path
from supervisord.config.schema import RUNTIMES, FileSettings, runtime_problem
from supervisord.config.settings import Missing, Settings, names
from supervisord.config.units import quote

NO_RUNTIME = "union_tag_not_found"  # the kind of error where no settings are known for a backend's runtime


def location(error: ErrorDetails) -> Path:
    """The path of the setting an error is about."""
    path = tuple(error["loc"])
    if error["type"] == NO_RUNTIME:
        return (*path, "runtime")
    # Pydantic marks an error in a key of a mapping so; a setting of that name would be an unknown one.
    if path[-1:] == ("[key]",) and error["type"] != "extra_forbidden":
        path = path[:-1]
    return (*path[:2], *path[3:]) if _runtime(path) else path


def _runtime(path: Path) -> str:
    """The runtime whose settings a backend was checked against; pydantic puts it behind the backend's name."""
    return str(path[2]) if path[:1] == ("backends",) and len(path) > 2 else ""


def message(error: ErrorDetails) -> str:
    """What is wrong, and what to write instead."""
    match error["type"]:
        case "value_error":
            return str(error["ctx"]["error"])
        case "extra_forbidden":
            return _unknown(tuple(error["loc"]))
        case "missing":
            return missing(error).advice
        case "union_tag_not_found":
            return runtime_problem(error["input"]["runtime"])
        case "list_type":
            return f"{quote(error['input'])} is not a list; write [a, b], or one item a line after a dash"
        case "dict_type":
            return f"{quote(error['input'])} is not a mapping; write KEY: VALUE lines below it, indented"
        case _:  # none of the kinds of the schema; a reader is better served with the validator's words than with none
            return error["msg"]


def missing(error: ErrorDetails) -> Missing:
    """What there is to say of a required setting that is left out."""
    *around, key = error["loc"]
    kind = _section_at(tuple(around))
    assert kind is not None, "an error is always in a section of the schema"
    return next(mark for mark in kind.model_fields[str(key)].metadata if isinstance(mark, Missing))


# --- unknown settings ------------------------------------------------------------------------------------------------


def _unknown(path: Path) -> str:
    *around, last = path
    key = str(last)
    others = _runtimes_with(tuple(around), key)
    if others:
        return f"does not apply to runtime {_runtime(path)}; it is a setting of {listed(others, 'and')}"
    kind = _section_at(tuple(around))
    known = names(kind) if kind else []
    # A slip of the key is likelier than a wrong place, and a wrong place likelier than a name that only resembles.
    home = None if nearest(key, known, cutoff=0.8) else _home(key)
    if home is not None:
        return f"unknown setting here; it belongs in {show_path(home) if home else 'the top level'}"
    meant = nearest(key, known)
    return f'unknown setting; did you mean "{meant}"?' if meant else "unknown setting"


def _runtimes_with(around: Path, key: str) -> list[str]:
    """The runtimes that have this setting in the same place of a backend."""
    if not _runtime(around):
        return []
    places = {runtime: _section_at((*around[:2], runtime, *around[3:])) for runtime in RUNTIMES}
    return [runtime for runtime, kind in places.items() if kind and key in names(kind)]


def _home(key: str) -> Path | None:
    return next((path for path, kind in sections(FileSettings) if key in names(kind)), None)


def _section_at(path: Path) -> type[Settings] | None:
    """The kind of the section at `path`, which names the runtime behind the backend; None if there is none."""
    inner: Any = FileSettings
    for step in path:
        inner = _inside(inner, step)
    return inner if isinstance(inner, type) and issubclass(inner, Settings) else None


def _inside(kind: Any, step: str | int) -> Any:
    if isinstance(kind, type) and issubclass(kind, Settings):
        fields = kind.model_fields.items()
        return _plain(next((info.annotation for name, info in fields if step in {name, info.alias}), None))
    if kind is RUNTIMES:
        return RUNTIMES[str(step)]
    return _plain(get_args(kind)[-1]) if get_origin(kind) in {list, dict} else None


def _plain(annotation: Any) -> Any:
    """An annotation without `| None` and without validators; RUNTIMES for one that depends on the runtime."""
    while get_origin(annotation) not in {None, list, dict}:
        if any(isinstance(mark, Discriminator) for mark in getattr(annotation, "__metadata__", ())):
            return RUNTIMES
        annotation = get_args(annotation)[0]
    return annotation


def sections(kind: type[Settings], at: Path = ()) -> Iterator[tuple[Path, type[Settings]]]:
    """Every section below `kind` with its path; NAME stands for a name people choose, 0 for any item."""
    yield at, kind
    for name, info in kind.model_fields.items():
        path: Path = (*at, info.alias or name)
        inner = _plain(info.annotation)
        if get_origin(inner) in {list, dict}:
            path = (*path, 0 if get_origin(inner) is list else "NAME")
            inner = _plain(get_args(inner)[-1])
        for section in RUNTIMES.values() if inner is RUNTIMES else [inner]:
            if isinstance(section, type) and issubclass(section, Settings):
                yield from sections(section, path)
