"""YAML text -> plain values, each with the line it stands on.

Composing nodes rather than loading values is what gives every setting its line, shows duplicate keys, and keeps tags
from building objects. Depth, count of values and expansion of aliases are bounded, so that no file can hang the daemon.
"""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field

import yaml

from supervisord.config.environment import substitute
from supervisord.config.problem import WHOLE_FILE, Path, Problem
from supervisord.config.units import quote

MAX_BYTES = 1024 * 1024
MAX_DEPTH = 24  # the deepest setting is on the fifth level
MAX_VALUES = 20_000  # a workstation's file has hundreds; PyYAML reads as many in 2 s

_TAG = "tag:yaml.org,2002:"
# A date or a "=" has no meaning here: it is a name somebody wrote without quotes.
_TEXT_TAGS = frozenset({f"{_TAG}str", f"{_TAG}timestamp", f"{_TAG}value", f"{_TAG}merge"})
_TRUE = frozenset({"yes", "true", "on"})

_HINTS = (
    ("'\\t'", "a tab cannot be used here; indent with spaces"),
    ("mapping values are not allowed", 'a second ": " on one line; put the value in quotes, or indent the next line'),
    ("expected <block end>", "the indentation does not fit the lines above, or a bracket or quote is open"),
    ("expected ',' or", "a comma is missing, a bracket is open, or a value with { } needs quotes"),
    ("expected the node content", "a value is missing, or a bracket is open"),
    ("could not find expected ':'", 'a key needs ": " after it'),
    ("unexpected end of stream", "a quote is open"),
    ("undefined alias", "the name after * was not marked with & before"),
    ("but found another document", 'the file holds a second document; take out the line "---"'),
)


@dataclass(frozen=True, slots=True)
class Document:
    """The settings as written. `lines` has the line of each."""

    values: Mapping[str, object] = field(default_factory=dict)
    lines: Mapping[Path, int] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()

    def line(self, path: Path) -> int:
        """The line of the setting, or of the nearest thing around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def read_document(data: bytes, environment: Mapping[str, str]) -> Document:
    """Never raises: what cannot be read is a problem of the document."""
    if len(data) > MAX_BYTES:
        return _unreadable(f"the file is larger than {MAX_BYTES // 1024} KiB; is it the configuration?", 1)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return _unreadable(f"the byte at offset {error.start} is not UTF-8; save the file as UTF-8", line)
    return _read_text(text, environment)


def _read_text(text: str, environment: Mapping[str, str]) -> Document:
    lines = _Lines(text)
    stray = yaml.reader.Reader.NON_PRINTABLE.search(text)
    if stray:
        return _unreadable("a control character; write it as an escape in double quotes", lines.at(stray.start()))
    loader = yaml.SafeLoader(text)
    try:
        _check_bounds(loader)
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or loader.get_mark()
        return _unreadable(_syntax_message(error.problem or "syntax error", mark.column), lines.at(mark.index))
    except (ValueError, OverflowError):  # "\U00110000": PyYAML hands the escape to chr(), and a version to int()
        return _unreadable("not valid YAML: an escape or a number out of range", lines.at(loader.get_mark().index))
    if root is None:
        return _unreadable('the file has no settings; write at least "backends: {}"', 1)
    if not isinstance(root, yaml.MappingNode):
        line = lines.at(root.start_mark.index)
        return _unreadable('the file must be a mapping of settings, such as "backends: {}"', line)
    return _Reader(lines, environment).document(root)


def _check_bounds(loader: yaml.SafeLoader) -> None:
    """Raises MarkedYAMLError for what is nested too deep or too much to compose: PyYAML composes by recursion."""
    depth = count = 0
    while loader.check_event():
        event = loader.get_event()  # type: ignore[no-untyped-call]  # untyped in its stubs
        count += isinstance(event, yaml.NodeEvent)
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem=f"nested deeper than {MAX_DEPTH} levels", problem_mark=event.start_mark)
        if count > MAX_VALUES:
            raise yaml.MarkedYAMLError(problem=f"more than {MAX_VALUES} values", problem_mark=event.start_mark)


def _unreadable(message: str, line: int) -> Document:
    return Document(problems=(Problem(WHOLE_FILE, message, line),))


def _syntax_message(problem: str, column: int) -> str:
    hint = next((hint for words, hint in _HINTS if words in problem), problem)
    return f"not valid YAML at column {column + 1}: {hint}"


class _Lines:
    """Line numbers as editors count them; PyYAML also counts U+2028 and the like."""

    def __init__(self, text: str) -> None:
        self._ends = [index for index, char in enumerate(text) if char == "\n"]
        self._length = len(text)

    def at(self, index: int) -> int:
        # The end of a file that ends in a newline is on its last line, not after it.
        last = max(0, self._length - 1)
        return bisect_left(self._ends, min(index, last)) + 1


class _TooMuchError(Exception):
    """Aliases expand to more than a configuration can hold."""


class _Reader:
    """Turns nodes into values, and notes lines and problems on the way."""

    def __init__(self, lines: _Lines, environment: Mapping[str, str]) -> None:
        self._at = lines
        self._environment = environment
        self._lines: dict[Path, int] = {}
        self._problems: list[Problem] = []
        self._count = 0

    def document(self, root: yaml.MappingNode) -> Document:
        try:
            values = self._mapping(root, WHOLE_FILE)
        except _TooMuchError:
            return _unreadable("the aliases (*name) expand to too many values, or to themselves; write them out", 1)
        return Document(values, self._lines, tuple(self._problems))

    def _problem(self, path: Path, message: str, node: yaml.Node) -> None:
        self._problems.append(Problem(path, message, self._at.at(node.start_mark.index)))

    def _value(self, node: yaml.Node, path: Path) -> object:
        self._count += 1
        if self._count > MAX_VALUES or len(path) > MAX_DEPTH:
            raise _TooMuchError
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
            return [self._item(item, (*path, index)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        self._problem(path, f"the tag {quote(_short_tag(node.tag))} is not supported; leave it out", node)
        return None

    def _item(self, node: yaml.Node, path: Path) -> object:
        self._lines[path] = self._at.at(node.start_mark.index)
        return self._value(node, path)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, object]:
        values: dict[str, object] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node, path)
            if key is None:
                continue
            inner = (*path, key)
            if key in values:
                message = f"set twice, first on line {self._lines[inner]}; remove one"
                self._problem(inner, message, key_node)
                continue
            scalar = isinstance(value_node, yaml.ScalarNode) and value_node.value != ""
            self._lines[inner] = self._at.at((value_node if scalar else key_node).start_mark.index)
            values[key] = self._value(value_node, inner)
        return values

    def _key(self, node: yaml.Node, path: Path) -> str | None:
        if not isinstance(node, yaml.ScalarNode):
            self._problem((*path, "?"), "a key must be plain text", node)
            return None
        if node.tag == f"{_TAG}merge":
            self._problem((*path, "<<"), "merge keys are not supported; write the settings out", node)
            return None
        if _unstorable(node.value):
            message = f"the key {quote(node.value)} has a character that cannot be used"
            self._problem((*path, str(node.value)), message, node)
            return None
        return str(node.value)

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> object:
        text = str(node.value)
        if node.tag in _TEXT_TAGS:
            return self._text(text, path, node)
        if node.tag == f"{_TAG}null":
            return None
        if node.tag == f"{_TAG}bool":
            return text.lower() in _TRUE
        if node.tag in {f"{_TAG}int", f"{_TAG}float"}:
            return _number(text, node.tag)
        self._problem(path, f"the tag {quote(_short_tag(node.tag))} is not supported; leave it out", node)
        return None

    def _text(self, text: str, path: Path, node: yaml.ScalarNode) -> object:
        try:
            value = substitute(text, self._environment)
        except ValueError as error:
            self._problem(path, str(error), node)
            return None
        if _unstorable(value):
            self._problem(path, f"{quote(value)} has a character that cannot be used (NUL, or half of a pair)", node)
            return None
        return value


def _unstorable(text: str) -> bool:
    """Neither a command line nor a file name can hold NUL; no UTF-8 text can hold half of a surrogate pair."""
    return "\0" in text or any("\ud800" <= char <= "\udfff" for char in text)


def _short_tag(tag: str) -> str:
    return tag.replace(_TAG, "!!")


def _number(text: str, tag: str) -> object:
    """A figure; text where YAML 1.1 sees a figure and people do not (1:30 is 90 there, 0o and 017 are octal)."""
    plain = text.replace("_", "")
    try:
        if tag.endswith(":int"):
            return int(plain, 0) if len(plain) <= 40 else text
        return float(plain.lower().replace(".inf", "inf").replace(".nan", "nan"))
    except ValueError:
        return text
