"""What the validator found, in the words of the person who wrote the file."""

from collections.abc import Iterator
from typing import Any, get_args, get_origin

from pydantic_core import ErrorDetails

from supervisord.config.fields import nearest
from supervisord.config.problem import Path, show_path
from supervisord.config.schema import FileSettings
from supervisord.config.settings import Settings, names
from supervisord.config.units import quote


def location(error: ErrorDetails) -> Path:
    """The path of the setting an error is about."""
    path = tuple(error["loc"])
    # Pydantic marks an error in a key of a mapping so; a setting of that name would be an unknown one.
    return path[:-1] if path[-1:] == ("[key]",) and error["type"] != "extra_forbidden" else path


def message(error: ErrorDetails) -> str:
    """What is wrong, and what to write instead."""
    match error["type"]:
        case "value_error":
            return str(error["ctx"]["error"])
        case "extra_forbidden":
            return _unknown(location(error))
        case "missing":
            return "missing; give the path of a model file, or embedded for the small bundled one"
        case "list_type":
            return f"{quote(error['input'])} is not a list; write [a, b], or one item a line after a dash"
        case "dict_type":
            return f"{quote(error['input'])} is not a mapping; write KEY: VALUE lines below it, indented"
        case _:  # none of the kinds of the schema; a reader is better served with the validator's words than with none
            return error["msg"]


def _unknown(path: Path) -> str:
    key = str(path[-1])
    known = names(section_at(path[:-1]))
    # A slip of the key is likelier than a wrong place, and a wrong place likelier than a name that only resembles.
    home = None if nearest(key, known, cutoff=0.8) else _home(key)
    if home is not None:
        return f"unknown setting here; it belongs in {show_path(home) if home else 'the top level'}"
    meant = nearest(key, known)
    return f'unknown setting; did you mean "{meant}"?' if meant else "unknown setting"


def _home(key: str) -> Path | None:
    return next((path for path, kind in sections(FileSettings) if key in names(kind)), None)


def section_at(path: Path) -> type[Settings]:
    """The kind of the section at `path`."""
    inner: Any = FileSettings
    for step in path:
        inner = _inside(inner, step)
    kind: type[Settings] = inner
    return kind


def _inside(kind: Any, step: str | int) -> Any:
    if isinstance(kind, type) and issubclass(kind, Settings):
        return _plain(next(info for name, info in kind.model_fields.items() if step in {name, info.alias}).annotation)
    return _plain(get_args(kind)[-1])


def _plain(annotation: Any) -> Any:
    """An annotation without `| None` and without validators."""
    while get_origin(annotation) not in {None, list, dict}:
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
        if isinstance(inner, type) and issubclass(inner, Settings):
            yield from sections(inner, path)
