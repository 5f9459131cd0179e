"""What must not leave the machine, taken out of JSON values before they do: secrets, prompts, names in home folders.

Rather too much than too little: a value is judged by its name first, then by its shape. What stays is to be read.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from supervisord.core.redact_log_lines import message_of
from supervisord.core.redact_names import (
    HOME,
    PROMPT,
    REMOVED,
    SECRET,
    flag_of_secret,
    holds_secret,
    is_no_secret,
    is_prompt_of,
    is_user_of,
    may_be_number,
)
from supervisord.core.redact_prompts import owners_of
from supervisord.core.redact_quotes import Quotable, Quotes
from supervisord.core.redact_text import text_of

# Members that hold what a client sent, or what a model answered: of requests, of llama.cpp's /slots, of vLLM's logs.
_OF_CLIENTS = frozenset(
    {
        "prompt", "prompts", "messages", "content", "input", "inputs", "input_text", "query", "text", "generated",
        "generated_text", "completion", "response", "output", "output_text", "suffix", "documents", "tools", "grammar",
        "json_schema", "system", "system_prompt", "reasoning", "reasoning_content", "arguments", "image", "images",
        "prompt_tokens", "prompt_token_ids", "token_ids", "body",
    }
)  # fmt: skip
_DEEPEST = 40  # levels: deeper than anything that is written down here; what is below is left out


@dataclass(frozen=True, slots=True)
class Redacted:
    """`removed`: how many places were blanked, by what was there: "secrets", "prompts", "home folders"."""

    value: object
    removed: Mapping[str, int]


@dataclass(slots=True)
class _Blanker:
    """One walk over a value, and what it took out.

    `quotes`: lines that a walk before took out of a log. `altered`: those that this one did. `judged`: texts that were
    looked at before, with what became of them.
    """

    quotes: Quotes = field(default_factory=Quotes)
    removed: Counter[str] = field(default_factory=Counter)
    altered: list[Quotable] = field(default_factory=list)
    judged: dict[str, tuple[str, Mapping[str, int]]] = field(default_factory=dict)

    def value(self, value: object, depth: int = 0) -> object:
        if depth > _DEEPEST:
            return self._blank(value, PROMPT)
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.text(str(key)): self._member(str(key), each, depth) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return self._items(value, depth)
        return value

    def text(self, text: str) -> str:
        text = self.quotes.without(text, self.removed)
        if text not in self.judged:
            counted = Counter[str]()
            self.judged[text] = text_of(text, counted), counted
        told, counted_once = self.judged[text]
        self.removed.update(counted_once)
        return told

    def _member(self, key: str, value: object, depth: int) -> object:
        if holds_secret(key) and not _is_harmless(key, value):
            return self._blank(value, SECRET, numbers=may_be_number(key))
        if key.lower() in _OF_CLIENTS:
            return self._blank(value, PROMPT)
        return self.value(value, depth + 1)

    def _items(self, items: Sequence[object], depth: int) -> list[object]:
        if all(isinstance(item, str) for item in items):
            return self._strings([str(item) for item in items])
        return [self.value(item, depth + 1) for item in items]

    def _strings(self, items: Sequence[str]) -> list[object]:
        """An argv, or the lines of a log: a secret follows its flag, the rest of a prompt its first line."""
        argv = _Argv()
        told: list[object] = []
        for item, owner in zip(items, owners_of(items), strict=True):
            what = argv.belongs_to(item)
            told.append(self._blank(item, what) if what else self._line(item, owner))
        return told

    def _line(self, line: str, owner: str) -> str:
        if owner:
            self.altered.append(_blanked(line, owner))
            self.removed[owner] += line != REMOVED
            return REMOVED
        before = self.removed.copy()
        told = self.text(line)
        if REMOVED in told and told != line:
            self.altered.append(Quotable(line, told, self.removed - before))
        return told

    def _blank(self, value: object, what: str, *, numbers: bool = False) -> object:
        """Figures and absences stay where they can be no secret: a number of tokens, a key that is not set."""
        if value is None or isinstance(value, bool) or value in ("", [], {}, REMOVED):
            return value
        if isinstance(value, int | float) and not numbers:
            return value
        self.removed[what] += 1
        return REMOVED


@dataclass(slots=True)
class _Argv:
    """Where in a command line we are, argument by argument."""

    flag: str = ""  # the one before, or the one of a secret that the ones before belong to
    secrets: int = 0  # that were taken for values of `flag`

    def belongs_to(self, argument: str) -> str:
        """SECRET or PROMPT, where `argument` is one for the flag before it; else nothing."""
        if self._is_secret(argument):
            self.secrets += 1
            return "" if is_no_secret(self.flag, argument) else SECRET
        before, self.flag, self.secrets = self.flag, argument, 0
        if argument.startswith("--"):
            return ""
        if is_prompt_of(before, argument):
            return PROMPT
        return SECRET if is_user_of(before, argument) else ""

    def _is_secret(self, argument: str) -> bool:
        """The first value may begin with a dash: with two of them it is the next flag, after one that takes none."""
        if not flag_of_secret(self.flag):
            return False
        return not argument.startswith("-" if self.secrets else "--")


def _blanked(line: str, owner: str) -> Quotable:
    return Quotable(message_of(line), REMOVED, {owner: 1})


def _is_harmless(key: str, value: object) -> bool:
    """`key` is what a pool of memory is called by: the host, or the UUID of a GPU. $PWD holds a path."""
    if not isinstance(value, str):
        return False
    if key == "key" and (value == "host" or value.startswith(("GPU-", "MIG-"))):
        return True
    return key == "PWD" and is_no_secret(key, value)


def redact(value: object, *, logs: Sequence[Sequence[str]] = ()) -> Redacted:
    """A JSON value without what must not leave the machine. Lists of texts are taken for an argv or a log.

    What is blanked in a list of texts is blanked wherever it is quoted in `value`; so is what would be in `logs`, which
    are no part of it.
    """
    seeking = _Blanker()
    for log in logs:
        seeking.altered += [_blanked(line, owner) for line, owner in zip(log, owners_of(log), strict=True) if owner]
    first = _walked(seeking, value)
    if not seeking.altered:
        return first
    return _walked(_Blanker(Quotes(seeking.altered), judged=seeking.judged), value)


def redact_text(text: str) -> Redacted:
    """The same of one text."""
    return _walked(_Blanker(), text)


def _walked(blanker: _Blanker, value: object) -> Redacted:
    told = blanker.value(value)
    return Redacted(told, dict(sorted(blanker.removed.items())))


__all__ = ["HOME", "PROMPT", "REMOVED", "SECRET", "Redacted", "redact", "redact_text"]
