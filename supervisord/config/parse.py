"""The text of a configuration file -> a Configuration, or every problem in it at once."""

from collections.abc import Mapping, Sequence

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from supervisord.config import explain
from supervisord.config.build import build
from supervisord.config.document import Document, read_document
from supervisord.config.finding import Finding
from supervisord.config.model import Configuration
from supervisord.config.places import Surroundings
from supervisord.config.problem import InvalidConfigurationError, Path, Problem
from supervisord.config.resolver import Resolver
from supervisord.config.rules import findings
from supervisord.config.schema import FileSettings, runtime_meant
from supervisord.config.schema_backend import BackendSettings
from supervisord.config.settings import names
from supervisord.runtimes.base import RuntimeKind

# The first finds the runtimes that are none, the second takes out what is wrong, the third stands in for what is
# missing then, and the fourth finds nothing.
_ROUNDS = 4

Values = dict[str, object]


def parse(data: bytes, *, file: str, around: Surroundings, source: str = "") -> Configuration:
    """Check and convert a whole file.

    `file` is the name used in messages, `source` becomes that of the Configuration; relative paths start in
    `around.folder`. Raises InvalidConfigurationError with all problems, each with its path and its line.
    """
    document = read_document(data, around.environment)
    check = _Check(document)
    settings = check.settings()
    configuration = None
    if settings is not None:
        resolver = Resolver(around)
        configuration = build(settings, resolver, source)
        check.report([*findings(settings), *resolver.findings])
    if check.problems or configuration is None:
        raise InvalidConfigurationError(file, check.problems)
    return configuration


class _Check:
    """Gathers the problems. What is broken is taken out, so that the rest can still be checked for contradictions."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._values: Values = dict(document.values)
        self.problems = list(document.problems)
        self._broken = {problem.path for problem in document.problems}

    def settings(self) -> FileSettings | None:
        """The settings that are sound; None when nothing can be made of the file."""
        if () in self._broken:
            return None
        for _ in range(_ROUNDS):
            try:
                return FileSettings.model_validate(self._values)
            except ValidationError as error:
                self._take_out(error)
        return None

    def report(self, found: Sequence[Finding]) -> None:
        """Note contradictions, unless a broken setting takes part: what it was meant to be is not known."""
        for finding in found:
            if not any(self._touches_broken(path) for path in finding.paths):
                given = [path for path in finding.paths if path in self._document.lines]
                self._note((given or list(finding.paths))[0], finding.message)

    def _note(self, path: Path, message: str) -> None:
        self.problems.append(Problem(path, message, self._document.line(path)))

    def _touches_broken(self, path: Path) -> bool:
        return any(path[: len(broken)] == broken or broken[: len(path)] == path for broken in self._broken)

    def _take_out(self, error: ValidationError) -> None:
        lists: set[Path] = set()
        for detail in error.errors(include_url=False):
            path = explain.location(detail)
            if not self._is_below_broken(path):
                self._note(path, explain.message(detail))
            self._broken.add(path)
            lists.add(_named(path))
            self._put_in_place(path, detail)
        # Only now: each broken item of a list is told of.
        self._broken |= lists

    def _put_in_place(self, path: Path, error: ErrorDetails) -> None:
        match error["type"]:
            case explain.NO_RUNTIME:
                self._values = _replaced(self._values, path[:-1], _as_meant(error["input"]))
            case "missing" if path == _named(path):
                self._values = _replaced(self._values, path, explain.missing(error).stand_in)
            case _:
                self._values = _replaced(self._values, _named(path), None)

    def _is_below_broken(self, path: Path) -> bool:
        return any(path[: len(broken)] == broken for broken in self._broken)


def _as_meant(backend: Mapping[str, object]) -> Values:
    """A backend whose runtime is none: of the runtime that was most likely meant, or with what all of them have."""
    meant = runtime_meant(backend["runtime"])
    if meant is not None:
        return {**backend, "runtime": meant}
    common = {key: value for key, value in backend.items() if key in names(BackendSettings)}
    return {**common, "runtime": RuntimeKind.COMMAND.value, "command": ["${port}"]}


def _named(path: Path) -> Path:
    """What goes when the setting at `path` does: a list as a whole, because its items have no names."""
    return path[: next((index for index, step in enumerate(path) if isinstance(step, int)), len(path))]


def _replaced(values: Mapping[str, object], path: Path, value: object) -> Values:
    """A copy with another value at `path`, None for the default."""
    key, *rest = path
    kept = dict(values)
    inner = kept.get(str(key))
    if rest and isinstance(inner, dict | None):
        kept[str(key)] = _replaced(inner or {}, tuple(rest), value)
    elif value is None:
        kept.pop(str(key), None)
    else:
        kept[str(key)] = value
    return kept
