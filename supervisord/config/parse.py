"""The text of a configuration file -> a Configuration, or every problem in it at once."""

from collections.abc import Mapping, Sequence

from pydantic import ValidationError

from supervisord.config import explain
from supervisord.config.build import EMBEDDED, Builder
from supervisord.config.document import Document, read_document
from supervisord.config.model import Configuration
from supervisord.config.places import Surroundings
from supervisord.config.problem import InvalidConfigurationError, Path, Problem
from supervisord.config.rules import Finding, findings
from supervisord.config.schema import FileSettings
from supervisord.runtimes.base import RuntimeKind
from supervisord.runtimes.registry import RUNTIMES

_LATER_RUNTIMES = frozenset(kind.value for kind in RuntimeKind if kind not in RUNTIMES)
_SUPPORTED = " or ".join(RUNTIMES)

_STAND_IN = EMBEDDED  # for a model that is missing, so that the rest of its backend can be checked

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
        builder = Builder(around)
        configuration = builder.configuration(settings, source)
        check.report([*findings(settings), *builder.findings])
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
        self._set_aside_unsupported()
        # The first round takes out what is wrong, the second stands in for what is missing, the third finds nothing.
        for _ in range(3):
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

    def _set_aside_unsupported(self) -> None:
        """A runtime of a later version has settings of its own: one problem, not one for each of them."""
        backends = self._values.get("backends")
        if not isinstance(backends, dict):
            return
        kept: Values = {}
        for name, backend in backends.items():
            runtime = backend.get("runtime") if isinstance(backend, dict) else None
            if isinstance(runtime, str) and runtime in _LATER_RUNTIMES:
                path: Path = ("backends", name, "runtime")
                self._note(path, f'runtime "{runtime}" is not supported by this version; use {_SUPPORTED}')
                self._broken.add(path[:-1])
            else:
                kept[name] = backend
        self._values["backends"] = kept

    def _take_out(self, error: ValidationError) -> None:
        for detail in error.errors(include_url=False):
            path = explain.location(detail)
            if not self._is_below_broken(path):
                self._note(path, explain.message(detail))
            self._broken.add(path)
            self._values = _replaced(self._values, path, _STAND_IN if detail["type"] == "missing" else None)

    def _is_below_broken(self, path: Path) -> bool:
        return any(path[: len(broken)] == broken for broken in self._broken)


def _replaced(values: Mapping[str, object], path: Path, value: object) -> Values:
    """A copy with another value at `path`, None for the default. A list goes as a whole: its items have no names."""
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
