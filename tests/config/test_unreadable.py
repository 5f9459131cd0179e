"""Files that are no YAML, too much of it, or YAML that has no meaning here."""

from itertools import pairwise

import pytest

from supervisord.config.document import MAX_BYTES
from tests.fakes.config_problems import backend, problems

SYNTAX = "not valid YAML at column"


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        ("", 'the file has no settings; write at least "backends: {}"', 1),
        ("# nothing yet\n", 'the file has no settings; write at least "backends: {}"', 1),
        ("---\n", 'the file must be a mapping of settings, such as "backends: {}"', 1),
        ("\n- a\n- b\n", 'the file must be a mapping of settings, such as "backends: {}"', 2),
        ("just words\n", 'the file must be a mapping of settings, such as "backends: {}"', 1),
        ("log:\n\tlevel: info\n", f"{SYNTAX} 1: a tab cannot be used here; indent with spaces", 2),
        (
            "log: level: info\n",
            f'{SYNTAX} 11: a second ": " on one line; put the value in quotes, or indent the next line',
            1,
        ),
        (
            "log:\n  level: info\n keep: 3\n",
            f"{SYNTAX} 2: the indentation does not fit the lines above, or a bracket or quote is open",
            3,
        ),
        (
            "a: [1,\n",
            f"{SYNTAX} 1: a value is missing, or a bracket is open",
            1,
        ),
        (
            "env: {A: ${env:KEY}}\n",
            f"{SYNTAX} 11: a comma is missing, a bracket is open, or a value with {{ }} needs quotes",
            1,
        ),
        ("a: 'open\nb: 2\n", f"{SYNTAX} 1: a quote is open", 2),
        ("a: *b\n", f"{SYNTAX} 4: the name after * was not marked with & before", 1),
        ("a: 1\n---\nb: 2\n", f'{SYNTAX} 1: the file holds a second document; take out the line "---"', 2),
        (
            "listen\nlog: {}\n",
            f'{SYNTAX} 4: a second ": " on one line; put the value in quotes, or indent the next line',
            2,
        ),
        ("a: 1\nb\n", f'{SYNTAX} 1: a key needs ": " after it', 2),
        ("a: &\n", f"{SYNTAX} 5: expected alphabetic or numeric character, but found '\\n'", 1),
        ('a: 1\nb: "\\U00110000"\n', "not valid YAML: an escape or a number out of range", 2),
        ("a: 1\nb: \x01\n", "a control character; write it as an escape in double quotes", 2),
        (b"a: 1\nb: \xff\n", "the byte at offset 8 is not UTF-8; save the file as UTF-8", 2),
        ("a: " + "[" * 40, f"{SYNTAX} 27: nested deeper than 24 levels", 1),
        ("a:\n" + "- 1\n" * 21_000, f"{SYNTAX} 3: more than 20000 values", 19_999),
        ("a: &a [*a]\n", "the aliases (*name) expand to too many values, or to themselves; write them out", 1),
        (
            "a: &a [1,1,1,1,1,1,1,1]\n"
            + "".join(f"{new}: &{new} [{','.join(f'*{old}' for _ in range(8))}]\n" for old, new in pairwise("abcdefg")),
            "the aliases (*name) expand to too many values, or to themselves; write them out",
            1,
        ),
        (b"#" * (MAX_BYTES + 1), "the file is larger than 1024 KiB; is it the configuration?", 1),
    ],
)
def test_a_file_that_cannot_be_read(text: str | bytes, message: str, line: int) -> None:
    assert problems(text) == [("(file)", message, line)]


@pytest.mark.parametrize(
    ("text", "where", "message", "line"),
    [
        ("log: {}\nqueue: {}\nlog: {}\n", "log", "set twice, first on line 1; remove one", 3),
        (backend("port: 1\n    port: 2"), "backends.a.port", "set twice, first on line 4; remove one", 5),
        ("log:\n  ? [a]\n  : 1\n", "log.?", "a key must be plain text", 2),
        ("x: &x {level: info}\nlog:\n  <<: *x\n", "log.<<", "merge keys are not supported; write the settings out", 3),
        (
            "log: !python/object:os.system {}\n",
            "log",
            'the tag "!python/object:os.system" is not supported; leave it out',
            1,
        ),
        ("listen: !!binary aGk=\n", "listen", 'the tag "!!binary" is not supported; leave it out', 1),
        (
            'listen: "a\\0b"\n',
            "listen",
            '"a\\x00b" has a character that cannot be used (NUL, or half of a pair)',
            1,
        ),
        ('"a\\uD800": 1\n', '"a\\ud800"', 'the key "a\\ud800" has a character that cannot be used', 1),
    ],
)
def test_yaml_that_is_not_for_us(text: str, where: str, message: str, line: int) -> None:
    assert (where, message, line) in problems(text)
