"""How the values on llama-server's command line are read. Each reader raises ValueError, in words."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Member:
    """A member of one of the engine's enumerations, by name, because the engine is not loaded yet."""

    enumeration: str
    name: str


Value: TypeAlias = bool | int | float | str | Member | tuple[str, ...] | tuple[int, ...]

INT32_MAX = 2**31 - 1


def whole(least: int, most: int = INT32_MAX) -> Callable[[str], Value]:
    def convert(word: str) -> Value:
        try:
            number = int(word)
        except ValueError:
            raise ValueError(f'"{word}" is not a whole number') from None
        if not least <= number <= most:
            raise ValueError(f"{number} is not within {least} to {most}")
        return number

    return convert


def choice(choices: Mapping[str, Value]) -> Callable[[str], Value]:
    def convert(word: str) -> Value:
        if word not in choices:
            raise ValueError(f'"{word}" is none of {", ".join(choices)}')
        return choices[word]

    return convert


def text(word: str) -> Value:
    return word


def one(word: str) -> Value:
    return (word,)


_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}


def stop_sequence(word: str) -> Value:
    """One stop sequence, with llama-server's escapes: the two characters backslash and n are a line feed."""
    return (re.sub(r"\\(.)", lambda found: _ESCAPES.get(found[1], found[1]), word),)


def seed(word: str) -> Value:
    return int(str(whole(-1, 2**32 - 1)(word))) % 2**32  # -1 is llama.cpp's 0xFFFFFFFF: a random one


def listed(word: str) -> Value:
    return tuple(part for part in (piece.strip() for piece in word.split(",")) if part)


def file_text(path: str) -> Value:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"failed to open file '{path}': {error}") from None


def file_lines(path: str) -> Value:
    return tuple(line for line in str(file_text(path)).splitlines() if line.strip())


def gpu_layers(word: str) -> Value:
    named = {"auto": -1, "all": -2}  # llama.cpp's own numbers
    return named[word] if word in named else whole(0)(word)


def mebibytes_each(word: str) -> Value:
    amounts = tuple(whole(0)(part) for part in word.split(","))
    return tuple(amount * 1024 * 1024 for amount in amounts if isinstance(amount, int))


ON_OFF = choice({"on": True, "off": False})
FLASH_ATTENTION = choice(
    {
        "on": Member("llama_flash_attn_type", "LLAMA_FLASH_ATTN_TYPE_ENABLED"),
        "off": Member("llama_flash_attn_type", "LLAMA_FLASH_ATTN_TYPE_DISABLED"),
        "auto": Member("llama_flash_attn_type", "LLAMA_FLASH_ATTN_TYPE_AUTO"),
    }
)
CACHE_TYPE = choice(  # the types llama-server allows for the KV cache
    {
        name: Member("ggml_type", f"GGML_TYPE_{name.upper()}")
        for name in ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
    }
)
POOLING = choice(
    {
        name: Member("llama_pooling_type", f"LLAMA_POOLING_TYPE_{name.upper()}")
        for name in ("none", "mean", "cls", "last", "rank")
    }
)
REASONING_FORMAT = choice(
    {
        name: Member("common_reasoning_format", f"COMMON_REASONING_FORMAT_{name.upper().replace('-', '_')}")
        for name in ("none", "auto", "deepseek", "deepseek-legacy")
    }
)
