"""From a path to who handles it. A template has names in braces, each for one segment: /v1/jobs/{id}/result."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from supervisord.api.door import Request, Response, Work

Handler = Callable[[Request], Response | Work]
Methods = Mapping[str, Handler]
Table = Mapping[str, Methods]  # path, or template -> method -> handler; {name...} at the end takes all that is left


@dataclass(frozen=True, slots=True)
class Found:
    """`params`: the segments that a template names."""

    methods: Methods
    params: Mapping[str, str]


class Router:
    """Exact paths come before templates; among templates the one with the most fixed segments."""

    def __init__(self, tables: Sequence[Table]) -> None:
        self._exact: dict[str, Found] = {}
        self._templates: list[tuple[tuple[str, ...], Methods]] = []
        for table in tables:
            for path, methods in table.items():
                self._add(path, methods)
        self._templates.sort(key=lambda entry: sum(1 for part in entry[0] if _name(part)))

    def _add(self, path: str, methods: Methods) -> None:
        parts = tuple(path.split("/"))
        if any(_name(part) for part in parts):
            self._templates.append((parts, methods))
        elif path in self._exact:
            raise ValueError(f"{path} has two handlers")
        else:
            self._exact[path] = Found(methods, {})

    @property
    def paths(self) -> Mapping[str, Sequence[str]]:
        """Every path and template, with its methods."""
        told = {path: tuple(found.methods) for path, found in self._exact.items()}
        return told | {"/".join(parts): tuple(methods) for parts, methods in self._templates}

    def find(self, path: str) -> Found | None:
        """Who handles a path; None: nobody does."""
        found = self._exact.get(path)
        if found is not None:
            return found
        segments = path.split("/")
        for parts, methods in self._templates:
            params = _matched(parts, segments)
            if params is not None:
                return Found(methods, params)
        return None


def _name(part: str) -> str:
    return part[1:-1] if part.startswith("{") and part.endswith("}") else ""


def _matched(parts: Sequence[str], segments: Sequence[str]) -> Mapping[str, str] | None:
    last = _name(parts[-1])
    if last.endswith("..."):
        count = len(parts) - 1
        head = _matched(parts[:-1], segments[:count]) if len(segments) > count else None
        rest = "/".join(segments[count:])
        return None if head is None or not rest else {**head, last[:-3]: rest}
    if len(parts) != len(segments):
        return None
    params = {}
    for part, segment in zip(parts, segments, strict=True):
        name = _name(part)
        if name and segment:
            params[name] = segment
        elif part != segment:
            return None
    return params
