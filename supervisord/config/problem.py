"""What is wrong with a configuration file: each mistake with its path and its line."""

from collections.abc import Sequence
from dataclasses import dataclass

from supervisord.core.errors import ConfigurationError

Path = tuple[str | int, ...]

WHOLE_FILE: Path = ()
MOST_SHOWN = 50  # a file in the wrong format would fill the journal
_WIDEST = 96  # longer messages do not push the line numbers of the others to the right


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake. `line` counts from 1."""

    path: Path
    message: str
    line: int

    @property
    def where(self) -> str:
        return show_path(self.path)


class InvalidConfigurationError(ConfigurationError):
    """The configuration has mistakes; nothing was changed. The message is the table of all of them."""

    def __init__(self, file: str, problems: Sequence[Problem]) -> None:
        self.file = file
        self.problems = tuple(sorted(problems, key=lambda problem: (problem.line, problem.where)))
        super().__init__(render(file, self.problems))


def show_path(path: Path) -> str:
    """`("backends", "a", "gpus", 1)` as `backends.a.gpus[1]`. Names that are no words are quoted and cut."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{_word(step)}"
    return text.removeprefix(".") or "(file)"


def _word(name: str) -> str:
    if name.isascii() and name.isprintable() and " " not in name and 0 < len(name) <= 64:
        return name
    shown = name[:61].encode("unicode_escape").decode()
    return f'"{shown}"' if len(name) <= 61 else f'"{shown}…"'


def render(file: str, problems: Sequence[Problem]) -> str:
    """The table people read: a heading, then path, problem and line in columns."""
    count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
    shown = problems[:MOST_SHOWN]
    paths = max((len(problem.where) for problem in shown), default=0)
    messages = max((len(problem.message) for problem in shown if len(problem.message) <= _WIDEST), default=0)
    lines = [f"{count} in {file}, nothing was changed"]
    lines += [f"  {p.where:<{paths}}   {p.message:<{messages}}   line {p.line}" for p in shown]
    if len(problems) > len(shown):
        lines.append(f"  and {len(problems) - len(shown)} more")
    return "\n".join(lines)
