"""Keys: what they become, and mistakes in them; no message shows a secret."""

import pytest

from supervisord.config.model import KeySpec
from supervisord.config.parse import parse
from supervisord.config.places import Surroundings
from supervisord.config.problem import InvalidConfigurationError
from supervisord.core.job import Priority

LONG, OTHER = "0123456789abcdef", "fedcba9876543210"
AROUND = Surroundings(
    {"LONG": LONG, "OTHER": OTHER, "SAME": LONG, "SHORT": "hunter2", "LINES": "a\nb" * 9},
    "/home/ada",
    root=False,
    folder="/srv/conf",
)
BACKEND = "backends: {a: {model: m, aliases: [gpt]}, b: {model: m}}\nmodels: {big: {backends: [a], aliases: [large]}}\n"


def keys(text: str, more: str = "") -> tuple[KeySpec, ...]:
    return parse((more + BACKEND + "keys:\n" + text).encode(), file="f", around=AROUND, source="/f").keys


def problem(text: str, more: str = "") -> tuple[str, str]:
    with pytest.raises(InvalidConfigurationError) as raised:
        keys(text, more)
    assert LONG not in raised.value.message
    assert "hunter2" not in raised.value.message
    (found,) = raised.value.problems
    return found.where, found.message


def test_what_they_become() -> None:
    editor = "  ed: {key: '${env:LONG}', priority: high, concurrency: 3, models: [gpt, large, big]}\n"
    assert keys(editor + "  ci: {key_file: ci.key}\n") == (
        KeySpec("ed", LONG, "", Priority.HIGH, 3, frozenset({"a", "big"})),
        KeySpec("ci", "", "/srv/conf/ci.key", None, None, frozenset()),
    )  # fmt: skip
    assert LONG not in repr(keys("  ed: {key: '${env:LONG}'}\n"))


def test_with_keys_any_address_will_do() -> None:
    for address in ("0.0.0.0", "192.168.1.5", "'[::]'", "'[fd00::1]'"):
        written = address.replace("'", "") + ":8411"
        assert keys("  ed: {key: '${env:LONG}'}\n", f'listen: "{written}"\n')


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        ("ed: {}", "keys.ed", "has no secret; write either key: ${env:NAME} or key_file"),
        (
            "ed: {key: '${env:LONG}', key_file: x}",
            "keys.ed",
            "has two secrets; write either key: ${env:NAME} or key_file",
        ),
        (
            "ed: {key: '${env:SHORT}'}",
            "keys.ed.key",
            "has 7 characters, which can be guessed; make one of at least 16, such as openssl rand -hex 32 gives",
        ),
        (
            f"ed: {{key: {LONG}}}",
            "keys.ed.key",
            "a key does not belong in this file; write ${env:NAME}, and set that variable for the daemon",
        ),
        (
            "ed: {key: '${env:LONG}'}\n  ci: {key: '${env:SAME}'}",
            "keys.ci.key",
            "is the secret of keys.ed too; each key needs its own",
        ),
        (
            "ed: {key: '${env:LONG}', models: [a, bug]}",
            "keys.ed.models[1]",
            'there is no model "bug"; did you mean "big"?',
        ),
        (
            "ed: {key: '${env:LONG}', priority: higher}",
            "keys.ed.priority",
            '"higher" is not a priority; did you mean "high"?',
        ),
        ("ed: {key: '${env:LONG}', concurrency: 0}", "keys.ed.concurrency", '"0" is out of range; write 1 to 65536'),
        (
            "a b: {key: '${env:LONG}'}",
            'keys."a b"',
            '"a b" cannot name a key; use at most 63 of A-Z a-z 0-9 . _ - and begin with a letter or a figure',
        ),
        (
            "supctl: {key: '${env:LONG}'}",
            "keys.supctl",
            '"supctl" cannot name a key: that is the client of all that operators submit',
        ),
    ],
)
def test_a_mistake(text: str, where: str, message: str) -> None:
    assert problem(f"  {text}\n") == (where, message)
