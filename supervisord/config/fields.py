"""The kinds of value a setting can have: each a type that checks, converts, and knows its JSON Schema.

Validators raise ValueError; its text is the whole message, in the words of the person who wrote the file. Addresses are
in fields_network.py, processors and GPUs in fields_hardware.py.
"""

import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Annotated, Any

from pydantic import PlainValidator, WithJsonSchema

from supervisord.config.units import (
    DURATION_PATTERN,
    PERCENT_PATTERN,
    SIZE_PATTERN,
    TOKENS_PATTERN,
    format_duration,
    format_percent,
    format_size,
    format_tokens,
    parse_duration,
    parse_percent,
    parse_rate,
    parse_size,
    parse_tokens,
    quote,
)

Check = Callable[[object], Any]

FORM = "$comment"  # where the JSON Schema of a kind says how it is written; joined to the setting's description

OFF = "off"

_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_TRUTH = {"true": True, "false": False}


def nearest(name: str, known: Sequence[str], cutoff: float = 0.6) -> str | None:
    """The known name that `name` was most likely meant to be; `cutoff` between 0 (anything) and 1 (the same)."""
    matches = get_close_matches(name.lower(), known, n=1, cutoff=cutoff)
    return matches[0] if matches else None


def checked(check: Check, schema: dict[str, Any]) -> tuple[PlainValidator, WithJsonSchema]:
    """The annotations of a kind: what checks and converts it, and its JSON Schema."""
    return PlainValidator(check), WithJsonSchema(schema)


def _bounded(parse: Check, show: Callable[[Any], str], low: float, high: float) -> Check:
    def check(value: object) -> Any:
        figure = parse(value)
        if not low <= figure <= high:
            raise ValueError(f"{quote(value)} is out of range; write {show(low)} to {show(high)}")
        return figure

    return check


def whole(low: int, high: int) -> tuple[PlainValidator, WithJsonSchema]:
    """A whole number within bounds."""
    check = _bounded(parse_whole, str, low, high)
    return checked(check, {"type": "integer", "minimum": low, "maximum": high, FORM: f"From {low} to {high}."})


def parse_whole(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and _WHOLE.fullmatch(value) and value.isascii():
        return int(value)
    raise ValueError(f"{quote(value)} is not a whole number")


def number(low: float, high: float) -> tuple[PlainValidator, WithJsonSchema]:
    """A number within bounds."""
    check = _bounded(_parse_number, "{:g}".format, low, high)
    return checked(check, {"type": "number", "minimum": low, "maximum": high, FORM: f"From {low:g} to {high:g}."})


def _parse_number(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    raise ValueError(f"{quote(value)} is not a number")


def duration(low: str, high: str) -> tuple[PlainValidator, WithJsonSchema]:
    """Seconds, from a duration within bounds."""
    check = _bounded(parse_duration, format_duration, parse_duration(low), parse_duration(high))
    words = f"Duration from {low} to {high}."
    return checked(check, {"type": ["string", "number"], "pattern": DURATION_PATTERN, FORM: words})


def duration_or_off(low: str, high: str) -> tuple[PlainValidator, WithJsonSchema]:
    """Seconds, from a duration within bounds; None for off."""
    within = _bounded(parse_duration, format_duration, parse_duration(low), parse_duration(high))
    pattern = f"(?:{DURATION_PATTERN})|^{OFF}$"
    words = f"Duration from {low} to {high}, or {OFF}."
    kind = {"type": ["string", "number"], "pattern": pattern, FORM: words}
    # YAML reads the word as a truth.
    return checked(lambda value: None if value is False or value == OFF else within(value), kind)


def size(low: str, high: str) -> tuple[PlainValidator, WithJsonSchema]:
    """Bytes, from a size within bounds."""
    check = _bounded(parse_size, format_size, parse_size(low), parse_size(high))
    words = f"Size from {low} to {high}."
    return checked(check, {"type": ["string", "integer"], "pattern": SIZE_PATTERN, FORM: words})


def tokens(low: int, high: int) -> tuple[PlainValidator, WithJsonSchema]:
    """A count of tokens within bounds."""
    check = _bounded(parse_tokens, format_tokens, low, high)
    words = f"From {format_tokens(low)} to {format_tokens(high)}."
    kind = {"type": ["string", "integer"], "pattern": TOKENS_PATTERN, "minimum": low, "maximum": high}
    return checked(check, kind | {FORM: words})


def share(low: str, high: str) -> tuple[PlainValidator, WithJsonSchema]:
    """A share within bounds, as a figure between 0 and 1."""
    check = _bounded(parse_percent, format_percent, parse_percent(low), parse_percent(high))
    words = f"Share from {low} to {high}."
    return checked(check, {"type": ["string", "number"], "pattern": PERCENT_PATTERN, FORM: words})


def one_of(*choices: str, noun: str) -> tuple[PlainValidator, WithJsonSchema]:
    """One word of a closed list."""

    def check(value: object) -> str:
        problem = choice_problem(value, choices, noun)
        if problem:
            raise ValueError(problem)
        return str(value)

    return checked(check, {"enum": list(choices)})


def choice_problem(value: object, choices: Sequence[str], noun: str, cutoff: float = 0.6) -> str:
    """Why a value is none of the words of a closed list; empty if it is one. `cutoff` as `nearest` takes it."""
    if isinstance(value, str) and value in choices:
        return ""
    # A single choice is no guess.
    meant = nearest(value, choices, cutoff) if isinstance(value, str) and len(choices) > 1 else None
    advice = f'did you mean "{meant}"?' if meant else f"write {listed(choices)}"
    return f"{quote(value)} is not {noun}; {advice}"


def listed(words: Sequence[str], conjunction: str = "or") -> str:
    """`a, b or c`."""
    *most, last = words
    return f"{', '.join(most)} {conjunction} {last}" if most else last


# --- text ------------------------------------------------------------------------------------------------------------


def parse_text(value: object) -> str:
    """Text that says something."""
    if isinstance(value, str):
        if value.strip():
            return str(value)
        raise ValueError("is empty; give it a value or take the setting out")
    raise ValueError(_not_text(value))


def _not_text(value: object) -> str:
    if isinstance(value, bool | int | float):
        return f"{quote(value)} is not text; put it in quotes"
    return f"{quote(value)} is not text"


def parse_word(value: object) -> str:
    """Text as it goes on a command line or into the environment; it may be empty."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise ValueError(_not_text(value))


def parse_truth(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _TRUTH:
        return _TRUTH[value.lower()]
    raise ValueError(f"{quote(value)} is neither true nor false")


def parse_model_name(value: object) -> str:
    name = parse_text(value)
    if len(name) > 200 or not name.isprintable() or name != name.strip():
        raise ValueError(f"{quote(value)} is not a model name; use at most 200 printable characters")
    return name


_BACKEND_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


def name_problem(name: str) -> str:
    """Why a backend cannot have this name; empty if it can."""
    if _BACKEND_NAME.fullmatch(name):
        return ""
    return f"{quote(name)} cannot name a backend; use at most 63 of a-z 0-9 . _ - and begin with a-z or 0-9"


_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def parse_variable(value: object) -> str:
    if isinstance(value, str) and _VARIABLE.fullmatch(value):
        return str(value)
    raise ValueError(f"{quote(value)} is not the name of an environment variable")


# --- the types -------------------------------------------------------------------------------------------------------

TEXT = {"type": "string", "minLength": 1}
NUMBER_OR_TEXT = {"type": ["string", "integer"]}

Text = Annotated[str, *checked(parse_text, TEXT)]
FilePath = Annotated[str, *checked(parse_text, TEXT | {FORM: "Path."})]
Word = Annotated[str, *checked(parse_word, NUMBER_OR_TEXT)]
Truth = Annotated[bool, *checked(parse_truth, {"type": "boolean"})]
ModelName = Annotated[str, *checked(parse_model_name, TEXT | {"maxLength": 200})]
# Checked by rules.py, so that a bad name does not keep the rest of its backend from being checked.
BackendName = Annotated[str, WithJsonSchema({"type": "string", "pattern": f"^{_BACKEND_NAME.pattern}$"})]
Variable = Annotated[str, *checked(parse_variable, {"type": "string", "pattern": f"^{_VARIABLE.pattern}$"})]
Percent = Annotated[
    float,
    *checked(parse_percent, {"type": ["string", "number"], "pattern": PERCENT_PATTERN, FORM: "Share, as 10% or 0.1."}),
]
Rate = Annotated[int, *checked(parse_rate, {"type": ["string", "integer"], FORM: "Size, as 10MB or 10MB/s."})]
