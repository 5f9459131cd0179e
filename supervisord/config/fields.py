"""The kinds of value a setting can have: each a type that checks, converts, and knows its JSON Schema.

Validators raise ValueError; its text is the whole message, in the words of the person who wrote the file.
"""

import ipaddress
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

_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_TRUTH = {"true": True, "false": False}


def nearest(name: str, known: Sequence[str], cutoff: float = 0.6) -> str | None:
    """The known name that `name` was most likely meant to be; `cutoff` between 0 (anything) and 1 (the same)."""
    matches = get_close_matches(name.lower(), known, n=1, cutoff=cutoff)
    return matches[0] if matches else None


def _field(check: Check, schema: dict[str, Any]) -> tuple[PlainValidator, WithJsonSchema]:
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
    return _field(check, {"type": "integer", "minimum": low, "maximum": high, FORM: f"From {low} to {high}."})


def parse_whole(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and _WHOLE.fullmatch(value) and value.isascii():
        return int(value)
    raise ValueError(f"{quote(value)} is not a whole number")


def number(low: float, high: float) -> tuple[PlainValidator, WithJsonSchema]:
    """A number within bounds."""
    check = _bounded(_parse_number, "{:g}".format, low, high)
    return _field(check, {"type": "number", "minimum": low, "maximum": high, FORM: f"From {low:g} to {high:g}."})


def _parse_number(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    raise ValueError(f"{quote(value)} is not a number")


def duration(low: str, high: str) -> tuple[PlainValidator, WithJsonSchema]:
    """Seconds, from a duration within bounds."""
    check = _bounded(parse_duration, format_duration, parse_duration(low), parse_duration(high))
    words = f"Duration from {low} to {high}."
    return _field(check, {"type": ["string", "number"], "pattern": DURATION_PATTERN, FORM: words})


def size(low: str, high: str) -> tuple[PlainValidator, WithJsonSchema]:
    """Bytes, from a size within bounds."""
    check = _bounded(parse_size, format_size, parse_size(low), parse_size(high))
    words = f"Size from {low} to {high}."
    return _field(check, {"type": ["string", "integer"], "pattern": SIZE_PATTERN, FORM: words})


def tokens(low: int, high: int) -> tuple[PlainValidator, WithJsonSchema]:
    """A count of tokens within bounds."""
    check = _bounded(parse_tokens, format_tokens, low, high)
    words = f"From {format_tokens(low)} to {format_tokens(high)}."
    kind = {"type": ["string", "integer"], "pattern": TOKENS_PATTERN, "minimum": low, "maximum": high}
    return _field(check, kind | {FORM: words})


def one_of(*choices: str, noun: str) -> tuple[PlainValidator, WithJsonSchema]:
    """One word of a closed list."""

    def check(value: object) -> str:
        if isinstance(value, str) and value in choices:
            return str(value)
        # A single choice is no guess.
        meant = nearest(value, choices) if isinstance(value, str) and len(choices) > 1 else None
        advice = f'did you mean "{meant}"?' if meant else f"write {_listed(choices)}"
        raise ValueError(f"{quote(value)} is not {noun}; {advice}")

    return _field(check, {"enum": list(choices)})


def _listed(words: Sequence[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last


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


_GPU = re.compile(r"[0-9]{1,3}|(?:GPU|MIG)-[0-9A-Za-z/-]{1,80}")


def parse_gpu(value: object) -> str:
    """The index or UUID of a GPU, as CUDA_VISIBLE_DEVICES takes them."""
    if isinstance(value, int | str) and not isinstance(value, bool) and _GPU.fullmatch(str(value)):
        return str(value)
    raise ValueError(f"{quote(value)} is not a GPU; write its index, or its UUID as nvidia-smi -L shows it")


# --- network ---------------------------------------------------------------------------------------------------------

_ADDRESS = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[^:\s\[\]]+)):(?P<port>[0-9]{1,5})", re.ASCII)
_HOST_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]{0,251}[a-z0-9_])?\.?")


def parse_address(value: object) -> tuple[str, int]:
    """Host and port of a loopback address. `localhost` is 127.0.0.1, so that one socket and one port belong to it."""
    match = _ADDRESS.fullmatch(value) if isinstance(value, str) else None
    if match is None or int(match["port"]) > 65535:
        raise ValueError(f"{quote(value)} is not an address; write host:port, such as 127.0.0.1:8411")
    host = match["v6"] or match["host"]
    if host.lower() == "localhost":
        return "127.0.0.1", int(match["port"])
    if not _is_loopback(host):
        raise ValueError(
            f"{quote(host)} is not loopback, and there are no passwords; "
            "use 127.0.0.1, with an authenticating proxy in front"
        )
    return host, int(match["port"])


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback if address.version == 4 else host == "::1"


def parse_host_name(value: object) -> str:
    """A name or address as browsers put it in the Host header, without a port, in small letters."""
    text = parse_text(value).lower()
    if "*" in text:
        raise ValueError(f"{quote(value)} would let any web page reach the models (DNS rebinding); name each host")
    if _HOST_NAME.fullmatch(text):
        return text.removesuffix(".")
    raise ValueError(f"{quote(value)} is not a host name; write the name alone, such as workstation.lan")


# --- the types -------------------------------------------------------------------------------------------------------

_TEXT = {"type": "string", "minLength": 1}
_NUMBER_OR_TEXT = {"type": ["string", "integer"]}

Text = Annotated[str, *_field(parse_text, _TEXT)]
FilePath = Annotated[str, *_field(parse_text, _TEXT | {FORM: "Path."})]
Word = Annotated[str, *_field(parse_word, _NUMBER_OR_TEXT)]
Truth = Annotated[bool, *_field(parse_truth, {"type": "boolean"})]
ModelName = Annotated[str, *_field(parse_model_name, _TEXT | {"maxLength": 200})]
# Checked by rules.py, so that a bad name does not keep the rest of its backend from being checked.
BackendName = Annotated[str, WithJsonSchema({"type": "string", "pattern": f"^{_BACKEND_NAME.pattern}$"})]
Variable = Annotated[str, *_field(parse_variable, {"type": "string", "pattern": f"^{_VARIABLE.pattern}$"})]
Gpu = Annotated[str, *_field(parse_gpu, _NUMBER_OR_TEXT)]
Address = Annotated[tuple[str, int], *_field(parse_address, _TEXT | {"pattern": r"^.+:[0-9]{1,5}$"})]
HostName = Annotated[str, *_field(parse_host_name, _TEXT)]
Percent = Annotated[
    float,
    *_field(parse_percent, {"type": ["string", "number"], "pattern": PERCENT_PATTERN, FORM: "Share, as 10% or 0.1."}),
]
Rate = Annotated[int, *_field(parse_rate, {"type": ["string", "integer"], FORM: "Size, as 10MB or 10MB/s."})]
